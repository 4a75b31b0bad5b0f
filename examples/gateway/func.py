import io
import json
from urllib.parse import parse_qsl, urlsplit

from fdk import response


def handler(ctx, data: io.BytesIO = None):
    """A small web resource: its answer's status and headers reach the client of the trigger.

    GET tells what was asked; POST "creates" a thing (201 and its Location); anything else is 405.
    """
    method = ctx.Method()
    if method is None:  # invoked without a trigger: there is no HTTP request to speak of
        return response.Response(ctx, response_data="call me through my trigger\n")
    if method in ("GET", "HEAD"):
        asked = {
            "method": method,
            "query": dict(parse_qsl(urlsplit(ctx.RequestURL()).query)),
            "agent": ctx.HTTPHeaders().get("user-agent"),
        }
        return answer(ctx, 200, asked, {"Cache-Control": "no-store"})
    if method == "POST":
        name = data.getvalue().decode("utf-8", "replace").strip() or "thing"
        return answer(ctx, 201, {"created": name}, {"Location": f"/things/{name}"})
    return answer(ctx, 405, {"error": f"{method} is not allowed"}, {"Allow": "GET, HEAD, POST"})


def answer(ctx, status, body, headers):
    return response.Response(
        ctx,
        response_data=json.dumps(body),
        headers={"Content-Type": "application/json", **headers},
        status_code=status,
    )
