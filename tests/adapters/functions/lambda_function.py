"""Lambda handlers."""

import os
from decimal import Decimal


def lambda_handler(event, context):
    return {"message": "Hello from Lambda", "event": event}


def results(event, context):
    """Whatever the event asks for."""
    kind = event.get("kind")
    if kind == "decimal":
        return {"a": Decimal("1.10"), "b": [Decimal("7"), {"c": Decimal("1E+3")}], "d": 1.5}
    if kind == "text":
        return "späße \u2028"
    if kind == "none":
        return None
    if kind == "bytes":
        return b"\x00\xff"
    if kind == "unserialisable":
        return {"a": {1, 2}}
    if kind == "raise":
        raise KeyError("nothing")
    if kind == "context":
        left = context.get_remaining_time_in_millis()
        return {
            "name": context.function_name,
            "version": context.function_version,
            "memory": context.memory_limit_in_mb,
            "in_time": 0 < left <= 31_000,
            "handler": os.environ["_HANDLER"],
            "identity": context.identity is not None,
            "client": context.client_context,
            "id_is_text": isinstance(context.aws_request_id, str),
        }
    return list(event)


def web(event, context):
    """What a trigger gives, and what may be answered."""
    what = event["rawPath"].rpartition("/")[2]
    if what == "cookies":
        return {"statusCode": 201, "headers": {"X-Own": "yes"}, "cookies": ["a=1", "b=2"], "body": "made"}
    if what == "binary":
        return {"statusCode": 200, "isBase64Encoded": True, "body": "AAH/", "headers": {"content-type": "image/x"}}
    if what == "inferred":
        return {"message": "Hello, world!"}
    if what == "text":
        return "Hello, world!"
    if what == "wrong":
        return {"statusCode": "teapot"}
    return {"statusCode": 200, "body": __import__("json").dumps(event)}
