import io
import json

from fdk import response


def handler(ctx, data: io.BytesIO = None):
    """Greet the one who is named in the body, a JSON object such as {"name": "Ada"}."""
    name = "World"
    try:
        name = json.loads(data.getvalue()).get("name", name)
    except (ValueError, AttributeError):
        pass  # no body, or not a JSON object: the world is greeted
    return response.Response(
        ctx,
        response_data=json.dumps({"message": f"Hello {name}"}),
        headers={"Content-Type": "application/json"},
    )
