"""Run with the other project's packages alone: requests on standard input, its own replies on standard output."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import sys
import time


def main() -> None:
    kind, path, handler = sys.argv[1:]
    requests = json.load(sys.stdin)
    replies = KINDS[kind](path, handler, requests)
    print("\n=====\n" + json.dumps(replies))


def load(path, handler):
    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return getattr(module, handler)


def shown(status, headers, body):
    return {"status": status, "headers": [[k.lower(), v] for k, v in headers], "body": base64.b64encode(body).decode()}


def wsgi(path, handler, requests):
    from werkzeug.test import Client

    return through_werkzeug(Client(load(path, handler), use_cookies=False), requests)


def google(path, handler, requests):
    import functions_framework

    return through_werkzeug(
        functions_framework.create_app(handler, path, "http").test_client(use_cookies=False), requests
    )


def through_werkzeug(client, requests):
    found = []
    for request in requests:
        answer = client.open(
            request["path"],
            method=request["method"],
            data=base64.b64decode(request["body"]),
            headers=[tuple(pair) for pair in request["headers"]],
            base_url=request["base"],
        )
        found.append(shown(answer.status_code, list(answer.headers), answer.get_data()))
    return found


def asgi(path, handler, requests):
    from urllib.parse import urlsplit

    from starlette.testclient import TestClient

    root = urlsplit(requests[0]["base"]).path
    found = []
    base = requests[0]["base"].removesuffix(root)
    with TestClient(load(path, handler), base_url=base, root_path=root, raise_server_exceptions=False) as client:
        for request in requests:
            answer = client.request(
                request["method"],
                root + request["path"],
                content=base64.b64decode(request["body"]),
                headers=[tuple(pair) for pair in request["headers"]],
                follow_redirects=False,
            )
            client.cookies.clear()
            found.append(shown(answer.status_code, answer.headers.multi_items(), answer.content))
    return found


def aws(path, handler, requests):
    from awslambdaric import bootstrap
    from awslambdaric.lambda_runtime_marshaller import LambdaMarshaller

    class Client:
        marshaller = LambdaMarshaller()

        def post_invocation_result(self, invoke_id, result, content_type, *more):
            data = result if isinstance(result, bytes) else result.encode()
            found.append({"type": content_type, "body": base64.b64encode(data).decode()})

        def post_invocation_error(self, invoke_id, error, fault, *more):
            found.append({"error": json.loads(error)})

    found = []
    function = load(path, handler)
    for request in requests:
        with bootstrap.create_log_sink() as sink:
            bootstrap.handle_event_request(
                Client(),
                function,
                "call-1",
                base64.b64decode(request["body"]),
                "application/json",
                None,
                None,
                "arn",
                int(time.time() * 1000) + 30_000,
                None,
                sink,
            )
    return found


KINDS = {"wsgi": wsgi, "asgi": asgi, "google": google, "aws": aws}

if __name__ == "__main__":
    main()
