"""A Starlette application that shows what it got."""

import contextlib
import os

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

done = []


@contextlib.asynccontextmanager
async def lifespan(app):
    if os.environ.get("BREAK_STARTUP"):
        raise RuntimeError("no database")
    app.state.opened = "opened"
    yield {"shared": "from lifespan"}


async def item(request):
    return JSONResponse(
        {
            "method": request.method,
            "name": request.path_params["name"],
            "path": request.url.path,
            "root": request.scope["root_path"],
            "query": request.url.query,
            "headers": {k: v for k, v in request.headers.items() if k.startswith("x-")},
            "body": (await request.body()).decode(),
            "type": request.headers.get("content-type"),
            "state": [request.app.state.opened, request.state.shared],
            "url": str(request.url),
            "here": str(request.url_for("item", name="n")),
            "cookies": request.cookies,
        }
    )


async def cookies(request):
    answer = PlainTextResponse("two", 201)
    answer.set_cookie("a", "1")
    answer.set_cookie("b", "2")
    return answer


async def away(request):
    return RedirectResponse(request.url_for("item", name="x"))


async def stream(request):
    async def parts():
        for number in range(3):
            yield f"part {number}\n"

    return StreamingResponse(parts(), media_type="text/plain")


async def binary(request):
    return Response(bytes(range(256)), media_type="application/octet-stream")


async def background(request):
    return JSONResponse(done, background=BackgroundTask(done.append, "ran"))


async def breaks(request):
    raise ArithmeticError("of the application")


async def nothing(request):
    return Response(status_code=204)


app = Starlette(
    routes=[
        Route("/items/{name}", item, name="item", methods=["GET", "POST", "PUT", "DELETE", "PATCH"]),
        Route("/cookies", cookies),
        Route("/away", away),
        Route("/stream", stream),
        Route("/binary", binary),
        Route("/background", background),
        Route("/nothing", nothing),
        Route("/breaks", breaks),
    ],
    lifespan=lifespan,
)


async def bare(scope, receive, send):
    assert scope["type"] == "http", scope["type"]
    path = scope["path"].removeprefix(scope["root_path"])
    if path == "/raise":
        raise LookupError("nothing here")
    if path == "/silent":
        return
    message = await receive()
    headers = [(b"x-a", b"1"), (b"x-a", b"2"), (b"x-text", dict(scope["headers"]).get(b"x-text", b""))]
    await send({"type": "http.response.start", "status": 418, "headers": headers})
    await send({"type": "http.response.body", "body": message["body"], "more_body": True})
    if path == "/half":
        return
    await send({"type": "http.response.body", "body": b" more"})
    if path == "/late":
        raise LookupError("after the answer")
