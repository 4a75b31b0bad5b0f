"""AWS Lambda handlers: ``handler(event, context)``.

A direct invoke is Lambda's Invoke: the body is the event's JSON, the answer is the result's. Through a trigger the
event has the form of API Gateway's HTTP payload 2.0 (as function URLs have it), and the result becomes the HTTP
reply (AWS Lambda Developer Guide, "Invoking Lambda function URLs").
"""

from __future__ import annotations

import base64
import json
import os
import time

from fdk import constants
from fdk.adapters.base import AdapterRunner, Reply, Request, import_handler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_TEXT_TYPES = (
    "text/", "application/json", "application/xml", "application/javascript", "application/x-www-form-urlencoded",
)  # fmt: skip


def make(name: str, path: str, handler_name: str) -> AdapterRunner:
    """Runner of the handler ``handler_name`` of the file at ``path``; sets the variables that a Lambda runtime sets."""
    environ = os.environ
    function = environ.get(constants.FN_NAME, "function")
    stem = os.path.splitext(os.path.basename(path))[0]
    for variable, value in (
        ("AWS_LAMBDA_FUNCTION_NAME", function),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", environ.get("FN_MEMORY", "128")),
        ("AWS_LAMBDA_LOG_GROUP_NAME", f"/aws/lambda/{function}"),
        ("AWS_LAMBDA_LOG_STREAM_NAME", environ.get(constants.FN_ID, "stoker")),
        ("LAMBDA_TASK_ROOT", os.path.dirname(path)),
        ("_HANDLER", f"{stem}.{handler_name}"),
    ):
        environ.setdefault(variable, value)
    module, handler = import_handler(path, handler_name)
    return AdapterRunner(LambdaApp(handler), module)


class LambdaApp:
    """One Lambda handler."""

    def __init__(self, handler: Callable[[Any, LambdaContext], Any]) -> None:
        self._handler = handler

    def begin(self) -> None:
        """Nothing to do."""

    def answer(self, request: Request) -> Reply:
        """Call the handler.

        Raises:
          ValueError: the body is no JSON (direct invoke), or the result cannot be an HTTP reply (trigger).
          TypeError: the result is nothing that JSON can say.
        """
        context = LambdaContext(request)
        if request.gateway:
            return http_reply(self._handler(http_event(request), context))
        event: Any = {}
        if request.body:
            try:
                event = json.loads(request.body)
            except ValueError as exc:
                raise ValueError(f"Unable to unmarshal input: {exc}") from None
        result = self._handler(event, context)
        if isinstance(result, (bytes, bytearray)):
            return Reply(200, [("content-type", "application/unknown")], bytes(result))
        return Reply(200, [("content-type", "application/json")], to_json(result))


class _Identity:
    cognito_identity_id: str | None = None
    cognito_identity_pool_id: str | None = None


class LambdaContext:
    """What a Lambda handler gets as its second argument."""

    def __init__(self, request: Request) -> None:
        get = os.environ.get
        self.aws_request_id = request.call_id
        self.function_name = get("AWS_LAMBDA_FUNCTION_NAME")
        self.function_version = get("AWS_LAMBDA_FUNCTION_VERSION")
        self.memory_limit_in_mb = get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
        self.log_group_name = get("AWS_LAMBDA_LOG_GROUP_NAME")
        self.log_stream_name = get("AWS_LAMBDA_LOG_STREAM_NAME")
        self.invoked_function_arn = (
            f"arn:aws:lambda:{get('AWS_REGION', 'local')}:000000000000:function:{self.function_name}"
        )
        self.client_context: Any = None
        self.identity = _Identity()
        self.tenant_id: str | None = None
        self._deadline_s = _seconds(request.deadline)

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the call is ended; the deadline has whole seconds."""
        return max(0, int((self._deadline_s - time.time()) * 1000))

    def log(self, message: object) -> None:
        """Write to standard output, as it is."""
        print(message, end="", flush=True)


def http_event(request: Request) -> dict[str, Any]:
    """The request as a payload of version 2.0. Names of headers are in lower case, repeated ones joined by commas."""
    headers: dict[str, str] = {}
    cookies: list[str] = []
    for name, value in request.headers:
        if name == "cookie":
            cookies += [part.strip() for part in value.split(";") if part.strip()]
        else:
            headers[name] = f"{headers[name]},{value}" if name in headers else value
    now_s = time.time()
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": request.path[len(request.root) :] or "/",
        "rawQueryString": request.query,
        "headers": headers,
        "requestContext": {
            "accountId": "anonymous",
            "apiId": os.environ.get(constants.FN_ID, ""),
            "domainName": request.host,
            "domainPrefix": request.host.partition(".")[0],
            "http": {
                "method": request.method,
                "path": request.path[len(request.root) :] or "/",
                "protocol": "HTTP/1.1",
                "sourceIp": headers.get("x-forwarded-for", "").partition(",")[0].strip() or "127.0.0.1",
                "userAgent": headers.get("user-agent", ""),
            },
            "requestId": request.call_id,
            "routeKey": "$default",
            "stage": "$default",
            "time": time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(now_s)),
            "timeEpoch": int(now_s * 1000),
        },
        "isBase64Encoded": False,
    }
    if cookies:
        event["cookies"] = cookies
    if request.query:
        event["queryStringParameters"] = _query(request.query)
    if request.body:
        event["body"], event["isBase64Encoded"] = _body(request)
    return event


def _query(query: str) -> dict[str, str]:
    from urllib.parse import parse_qsl

    found: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        found[name] = f"{found[name]},{value}" if name in found else value
    return found


def _body(request: Request) -> tuple[str, bool]:
    kind = request.header("content-type").lower()
    if not kind or kind.startswith(_TEXT_TYPES) or kind.partition(";")[0].endswith(("+json", "+xml")):
        try:
            return request.body.decode(), False
        except UnicodeDecodeError:
            pass
    return base64.b64encode(request.body).decode(), True


def http_reply(result: Any) -> Reply:
    """The handler's result as an HTTP reply; one without ``statusCode`` is the JSON body of a 200.

    Raises:
      ValueError: members of the wrong kind.
    """
    if not isinstance(result, dict) or "statusCode" not in result:
        return Reply(200, [("content-type", "application/json")], to_json(result))
    headers = [(str(name), str(value)) for name, value in (result.get("headers") or {}).items()]
    named = {name.lower() for name, _ in headers}
    for name, values in (result.get("multiValueHeaders") or {}).items():
        if name.lower() not in named:
            headers += [(str(name), str(value)) for value in values]
    headers += [("set-cookie", str(cookie)) for cookie in result.get("cookies") or ()]
    body = result.get("body")
    if body is None:
        data = b""
    elif result.get("isBase64Encoded"):
        data = base64.b64decode(body)
    else:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
    if data and "content-type" not in {name.lower() for name, _ in headers}:
        headers.append(("content-type", "application/json"))
    return Reply(int(result["statusCode"]), headers, data)


def to_json(value: Any) -> bytes:
    """As Lambda's own runtime encodes: decimals as numbers, text in ASCII, NaN allowed."""
    from decimal import Decimal

    if not _holds_decimal(value, Decimal):
        return json.dumps(value).encode()
    numbers: list[str] = []
    mark = f"\0{os.urandom(8).hex()}:"

    def default(found: object) -> object:
        if not isinstance(found, Decimal):
            raise TypeError(f"Object of type {type(found).__name__} is not JSON serializable")
        if found.is_nan():
            return float("nan")
        numbers.append(str(found))
        return f"{mark}{len(numbers) - 1}\0"

    text = json.dumps(value, default=default)
    for index, number in enumerate(numbers):
        text = text.replace(json.dumps(f"{mark}{index}\0"), number)
    return text.encode()


def _holds_decimal(value: Any, decimal: type) -> bool:
    if isinstance(value, dict):
        return any(_holds_decimal(part, decimal) for part in value.values())
    if isinstance(value, (list, tuple)):
        return any(_holds_decimal(part, decimal) for part in value)
    return isinstance(value, decimal)


def _seconds(deadline: str) -> float:
    from datetime import datetime

    try:
        return datetime.fromisoformat(deadline.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return time.time() + constants.DEFAULT_DEADLINE
