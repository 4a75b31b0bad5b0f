"""Functions written for other platforms, deployed to a real daemon, beside the other project's own client."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import pytest

from daemon.model import ADAPTERS
from fdk import adapters
from tests.adapters.conftest import Oracle
from tests.system.daemon import Daemon, Reply, eventually

pytestmark = pytest.mark.processes

Bundled = Callable[..., bytes]
NOT_COMPARED = {"date", "content-length", "fn-call-id", "fn-fdk-version", "fn-fdk-runtime", "connection", "server"}


class Deployed:
    """A function behind triggers, and the same file run natively."""

    def __init__(self, daemon: Daemon, oracle: Oracle, bundled: Bundled, adapter: str, file: str, handler: str) -> None:
        self.daemon, self._oracle = daemon, oracle
        self._native = {"lambda": "aws", "google-http": "google", "google-event": "google"}.get(adapter, adapter)
        self.file, self.handler, self.adapter = file, handler, adapter
        self.app = f"a-{adapter}-{handler}".replace("_", "-")
        self.app_id = daemon.app(self.app)
        archive = bundled(file, handler, adapter, needs_packages=adapter != "lambda")
        daemon.push(archive, f"{self.app}:1")
        body = {"app_id": self.app_id, "name": "f", "image": f"{self.app}:1", "memory": 256}
        self.id = daemon.api("POST", "/v2/fns", body)["id"]
        self._sources: set[str] = set()

    def open(self, method: str, target: str, body: bytes = b"", headers: list[tuple[str, str]] | None = None) -> Reply:
        """Through a trigger made for the path."""
        source = unquote(target.partition("?")[0])
        if source not in self._sources:
            self._sources.add(source)
            trigger = {"app_id": self.app_id, "fn_id": self.id, "name": f"t{len(self._sources)}", "type": "http"}
            self.daemon.api("POST", "/v2/triggers", {**trigger, "source": source})
        return self.daemon.request(method, f"/t/{self.app}{target}", body, dict(headers or []))

    def natively(self, requests: list[tuple[str, str, bytes, list[tuple[str, str]]]]) -> list[dict[str, Any]]:
        documents = [
            {"method": m, "path": t, "body": base64.b64encode(b).decode(), "headers": [list(pair) for pair in h],
             "base": f"{self.daemon.url}/t/{self.app}"}
            for m, t, b, h in requests
        ]  # fmt: skip
        found: list[dict[str, Any]] = self._oracle(self._native, self.file, self.handler, documents)
        return found


@pytest.fixture(scope="module")
def deploy(shared_daemon: Daemon, oracle: Oracle, bundled: Bundled) -> Callable[..., Deployed]:
    known: dict[tuple[str, ...], Deployed] = {}

    def run(*args: str) -> Deployed:
        if args not in known:
            known[args] = Deployed(shared_daemon, oracle, bundled, *args)
        return known[args]

    return run


REQUESTS: list[tuple[str, str, bytes, list[tuple[str, str]]]] = [
    ("GET", "/items/book?a=1&a=2&b=%C3%A4", b"", [("X-One", "1"), ("Cookie", "k=v; l=w")]),
    ("POST", "/items/book", '{"ä": 1}'.encode(), [("Content-Type", "application/json"), ("X-Two", "2")]),
    ("PUT", "/items/b%20k", b"text", [("Content-Type", "text/plain; charset=utf-8")]),
    ("DELETE", "/items/book", b"", []),
    ("PATCH", "/items/book", b"\x00\x01", [("Content-Type", "application/x-own")]),
    ("GET", "/cookies", b"", []),
    ("GET", "/away", b"", []),
    ("GET", "/stream", b"", []),
    ("GET", "/binary", b"", []),
    ("GET", "/nothing", b"", []),
    ("GET", "/no/such/page", b"", []),
    ("POST", "/cookies", b"", []),
]


def same(ours: Reply, native: dict[str, Any], raw_cookies: list[str]) -> list[str]:
    """What differs between our reply and the native one."""
    wrong = []
    if ours.status != native["status"]:
        wrong.append(f"status {ours.status}, natively {native['status']}")
    if ours.body != base64.b64decode(native["body"]):
        wrong.append(f"body {ours.body!r}, natively {base64.b64decode(native['body'])!r}")
    headers = {name: value for name, value in native["headers"] if name not in NOT_COMPARED and name != "set-cookie"}
    mine = {name: value for name, value in ours.headers.items() if name not in NOT_COMPARED and name != "set-cookie"}
    if not ours.body:  # a reply without a body says no type natively
        mine.pop("content-type", None)
        headers.pop("content-type", None)
    for shown in (mine, headers):
        if "allow" in shown:  # in no order
            shown["allow"] = ", ".join(sorted(shown["allow"].split(", ")))
    if mine != headers:
        wrong.append(f"headers {mine}, natively {headers}")
    cookies = [value for name, value in native["headers"] if name == "set-cookie"]
    if cookies and raw_cookies != cookies:
        wrong.append(f"cookies {raw_cookies}, natively {cookies}")
    return wrong


@pytest.mark.parametrize(
    ("adapter", "file", "more"),
    [
        ("wsgi", "flask_app.py", [("GET", "/breaks", b"", [])]),
        ("asgi", "starlette_app.py", [("GET", "/breaks", b"", [])]),
    ],
)
def test_a_web_application_answers_as_under_its_own_client(
    deploy: Callable[..., Deployed], adapter: str, file: str, more: list[Any]
) -> None:
    function = deploy(adapter, file, "app")
    requests = [*REQUESTS, *more]
    wrong = []
    for request, native in zip(requests, function.natively(requests), strict=True):
        ours = function.open(*request)
        cookies = set_cookies(function, request) if request[1] == "/cookies" else []
        wrong += [f"{request[0]} {request[1]}: {what}" for what in same(ours, native, cookies)]
    assert wrong == []


def set_cookies(function: Deployed, request: tuple[str, str, bytes, list[tuple[str, str]]]) -> list[str]:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", function.daemon.port, timeout=30)
    connection.request(request[0], f"/t/{function.app}{request[1]}")
    response = connection.getresponse()
    found = [value for name, value in response.getheaders() if name.lower() == "set-cookie"]
    connection.close()
    return found


def test_a_form_with_a_file(deploy: Callable[..., Deployed]) -> None:
    function = deploy("wsgi", "flask_app.py", "app")
    body = (
        b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.txt"\r\n\r\nhello\r\n--b--\r\n'
    )
    reply = function.open("POST", "/form", body, [("Content-Type", "multipart/form-data; boundary=b")])
    assert reply.json == {"form": {"a": "1"}, "file": "hello"}


def test_bare_wsgi(deploy: Callable[..., Deployed], shared_daemon: Daemon) -> None:
    function = deploy("wsgi", "flask_app.py", "bare")
    reply = function.open("POST", "/x", b"body")
    assert (reply.status, reply.body) == (418, b"written body returned")
    assert function.open("GET", "/raise").status == 502
    assert function.open("GET", "/silent").status == 502
    direct = shared_daemon.invoke(function.id, b"direct", {"X-A": "in"})
    assert (direct.status, direct.headers["fn-http-status"], direct.body) == (200, "418", b"written direct returned")
    assert text_sent_back(function) == TEXT


def test_bare_asgi(deploy: Callable[..., Deployed], shared_daemon: Daemon) -> None:
    function = deploy("asgi", "starlette_app.py", "bare")
    reply = function.open("POST", "/x", b"body")
    assert (reply.status, reply.body) == (418, b"body more")
    assert [function.open("GET", path).status for path in ("/raise", "/silent", "/half")] == [502, 502, 502]
    assert shared_daemon.invoke(function.id, b"direct").body == b"direct more"
    late = function.open("GET", "/late")
    assert (late.status, late.body) == (418, b" more"), "what was answered in full counts, as in other servers"
    assert text_sent_back(function) == TEXT


TEXT = "żółć und Käse".encode()


def text_sent_back(function: Deployed) -> bytes:
    """The bytes of a header that the application answers as it got it."""
    reply = function.daemon.request("POST", f"/t/{function.app}/x", b"body", {"X-Text": TEXT})  # type: ignore[dict-item]
    return reply.headers["x-text"].encode("latin-1")


def test_background_tasks_have_run_before_the_next_call(deploy: Callable[..., Deployed]) -> None:
    function = deploy("asgi", "starlette_app.py", "app")
    seen = [len(function.open("GET", "/background").json) for _ in range(4)]
    assert max(seen) >= 1, "the same instance answered, and its task had run"


def test_a_start_up_that_fails_fails_the_deploy(shared_daemon: Daemon, bundled: Bundled) -> None:
    shared_daemon.push(bundled("starlette_app.py", "app", "asgi"), "startup:1")
    body = {"app_id": shared_daemon.app("startup"), "name": "f", "image": "startup:1", "memory": 256}
    reply = shared_daemon.request("POST", "/v2/fns", json.dumps({**body, "config": {"BREAK_STARTUP": "1"}}))
    assert reply.status == 422
    assert "no database" in reply.json["detail"]


def test_a_root_of_ones_own(shared_daemon: Daemon, deploy: Callable[..., Deployed]) -> None:
    deploy("wsgi", "flask_app.py", "app")
    body = {"name": "rooted", "app_id": shared_daemon.app("a-wsgi-app"), "image": "a-wsgi-app:1", "memory": 256}
    made = shared_daemon.api("POST", "/v2/fns", {**body, "config": {"STOKER_ROOT_PATH": "/t/a-wsgi-app/shop"}})
    trigger = {"app_id": body["app_id"], "fn_id": made["id"], "name": "rooted", "type": "http"}
    shared_daemon.api("POST", "/v2/triggers", {**trigger, "source": "/shop/items/pen"})
    found = shared_daemon.request("GET", "/t/a-wsgi-app/shop/items/pen").json
    assert (found["path"], found["root"]) == ("/items/pen", "/t/a-wsgi-app/shop")


def test_a_whole_application_behind_one_trigger(shared_daemon: Daemon, deploy: Callable[..., Deployed]) -> None:
    deploy("wsgi", "flask_app.py", "app")
    body = {"name": "whole", "app_id": shared_daemon.app("a-wsgi-app"), "image": "a-wsgi-app:1", "memory": 256}
    settings = {"config": {"STOKER_ROOT_PATH": "/whole"}, "annotations": {"stoker.dev/match": "prefix"}}
    made = shared_daemon.api("POST", "/v2/fns", {**body, **settings})
    trigger = {"app_id": body["app_id"], "fn_id": made["id"], "name": "whole", "type": "http", "source": "/whole"}
    shared_daemon.api("POST", "/v2/triggers", trigger)
    found = shared_daemon.request("GET", "/t/a-wsgi-app/whole/items/a%20pen?x=1").json
    assert (found["path"], found["root"]) == ("/items/a pen", "/t/a-wsgi-app/whole")
    assert found["here"] == "/t/a-wsgi-app/whole/items/a%20pen", "links that it makes are right"
    assert shared_daemon.request("GET", "/t/a-wsgi-app/whole/nothing").status == 204
    assert shared_daemon.request("GET", "/t/a-wsgi-app/whole/no/such").status == 404
    assert shared_daemon.request("GET", "/t/a-wsgi-app/wholesale").json["message"] != "Not Found", "not ours"


def test_google_http(deploy: Callable[..., Deployed]) -> None:
    function = deploy("google-http", "google_main.py", "hello")
    requests = [
        ("GET", "/hello", b"", []),
        ("PUT", "/hello?x=1", b'{"k": [1]}', [("Content-Type", "application/json")]),
        ("GET", "/hello?break=1", b"", []),
    ]
    wrong = []
    for request, native in zip(requests, function.natively(requests), strict=True):
        wrong += same(function.open(*request), native, [])
    assert wrong == []
    plain = deploy("google-http", "google_main.py", "plain")
    assert function.daemon.invoke(plain.id, b"direct").body == b"plain direct"


def test_google_cloud_events(deploy: Callable[..., Deployed], shared_daemon: Daemon) -> None:
    function = deploy("google-event", "google_main.py", "hello_cloud_event")
    binary = [
        ("Ce-Id", "42"), ("Ce-Specversion", "1.0"), ("Ce-Type", "t"), ("Ce-Source", "//s"),
        ("Content-Type", "application/json"),
    ]  # fmt: skip
    structured = json.dumps({"specversion": "1.0", "id": "43", "type": "t", "source": "//s", "data": {"a": 2}}).encode()
    requests = [
        ("POST", "/event", b'{"a": 1}', binary),
        ("POST", "/event", structured, [("Content-Type", "application/cloudevents+json")]),
        ("POST", "/event", b"{}", [("Content-Type", "application/json")]),
    ]
    for request, native in zip(requests, function.natively(requests), strict=True):
        ours = function.open(*request)
        assert ours.status == native["status"]
        if ours.status == 200:  # else the page quotes the request's headers, which differ by the client's own
            assert ours.body == base64.b64decode(native["body"])
    assert (
        shared_daemon.invoke(function.id, b'{"a": 3}', dict(binary) | {"Ce-Id": "44"}).headers["fn-http-status"]
        == "200"
    )

    def logged() -> str:
        return shared_daemon.request("GET", f"/stoker/v1/functions/{function.id}/logs").body.decode()

    for text in ("42 and data {'a': 1}", "43 and data {'a': 2}", "44 and data {'a': 3}"):
        eventually(lambda text=text: f"Received event with ID: {text}" in logged(), what=text)


EVENTS: list[Any] = [{"kind": kind} for kind in ("decimal", "text", "none", "bytes", "unserialisable", "raise", "")]


def test_lambda_as_its_own_runtime_runs_it(deploy: Callable[..., Deployed], shared_daemon: Daemon) -> None:
    function = deploy("lambda", "lambda_function.py", "results")
    bodies = [json.dumps(event).encode() for event in EVENTS] + [b"not json"]
    for body, native in zip(bodies, function.natively([("POST", "/", b, []) for b in bodies]), strict=True):
        ours = shared_daemon.invoke(function.id, body)
        if "error" in native:
            assert ours.status == 502, body
            continue
        assert ours.status == 200
        assert (ours.headers["content-type"], ours.body) == (native["type"], base64.b64decode(native["body"])), body


def test_what_a_lambda_knows_of_its_call(deploy: Callable[..., Deployed], shared_daemon: Daemon) -> None:
    function = deploy("lambda", "lambda_function.py", "results")
    assert shared_daemon.invoke(function.id, b'{"kind": "context"}').json == {
        "name": "f", "version": "$LATEST", "memory": "256", "in_time": True, "client": None,
        "handler": "lambda_function.results", "identity": True, "id_is_text": True,
    }  # fmt: skip


def test_a_lambda_behind_a_trigger(deploy: Callable[..., Deployed]) -> None:
    function = deploy("lambda", "lambda_function.py", "web")
    event = function.open("POST", "/show/me?a=1&a=2&b=", b"{}", [("Content-Type", "application/json")]).json
    assert (event["version"], event["rawPath"], event["rawQueryString"]) == ("2.0", "/show/me", "a=1&a=2&b=")
    assert event["queryStringParameters"] == {"a": "1,2", "b": ""}
    assert (event["body"], event["isBase64Encoded"]) == ("{}", False)
    assert event["requestContext"]["http"]["method"] == "POST"
    assert event["headers"]["content-type"] == "application/json"
    binary = function.open("PUT", "/show/me", b"\xff\x00", [("Content-Type", "image/png"), ("Cookie", "x=1; y=2")]).json
    assert (binary["body"], binary["isBase64Encoded"], binary["cookies"]) == ("/wA=", True, ["x=1", "y=2"])
    made = function.open("GET", "/cookies")
    assert (made.status, made.body, made.headers["x-own"]) == (201, b"made", "yes")
    assert set_cookies(function, ("GET", "/cookies", b"", [])) == ["a=1", "b=2"]
    assert function.open("GET", "/binary").body == b"\x00\x01\xff"
    inferred = function.open("GET", "/inferred")
    assert (inferred.headers["content-type"], inferred.json) == ("application/json", {"message": "Hello, world!"})
    assert function.open("GET", "/text").body == b'"Hello, world!"'
    assert function.open("GET", "/wrong").status == 502


def test_functions_with_adapters_are_forked_like_others(deploy: Callable[..., Deployed], shared_daemon: Daemon) -> None:
    for adapter, file, handler in (
        ("wsgi", "flask_app.py", "app"), ("asgi", "starlette_app.py", "app"), ("lambda", "lambda_function.py", "web"),
        ("google-http", "google_main.py", "hello"),
    ):  # fmt: skip
        function = deploy(adapter, file, handler)
        status = shared_daemon.api("GET", f"/stoker/v1/functions/{function.id}")
        assert status["start"]["forkable"] is not False, status["start"]


def test_the_annotation_of_the_function_wins(shared_daemon: Daemon) -> None:
    source = "def handler(ctx, data=None):\n    return f'fdk {data is not None}'\n"
    function_id = shared_daemon.deploy("annotated", source)
    assert shared_daemon.invoke(function_id).body == b"fdk True"
    path = f"/v2/fns/{function_id}"
    shared_daemon.api("PUT", path, {"annotations": {"stoker.dev/adapter": "lambda"}})
    assert shared_daemon.invoke(function_id, b"{}").body == b'"fdk True"'
    refused = shared_daemon.request("PUT", path, json.dumps({"annotations": {"stoker.dev/adapter": "cgi"}}))
    assert refused.status == 400
    assert "lambda, google-http, google-event, wsgi, asgi" in refused.json["message"]
    shared_daemon.api("PUT", path, {"annotations": {"stoker.dev/adapter": ""}})
    assert shared_daemon.invoke(function_id).body == b"fdk True"


def test_a_missing_framework_is_named(shared_daemon: Daemon, bundled: Bundled) -> None:
    shared_daemon.push(bundled("google_main.py", "hello", "google-http", needs_packages=False), "bare-google:1")
    body = {"app_id": shared_daemon.app("bare"), "name": "g", "image": "bare-google:1"}
    reply = shared_daemon.request("POST", "/v2/fns", json.dumps(body))
    assert reply.status == 422
    assert "add the line 'functions-framework' to requirements.txt" in reply.json["detail"]


MISBEHAVING = """
import os, sys

def app(environ, start_response):
    what = environ["PATH_INFO"].rpartition("/")[2]
    headers = [("Content-Type", "text/plain")]
    if what == "injected":
        headers.append(("X-A", "1\\r\\nSet-Cookie: stolen=1"))
    if what == "name":
        headers.append(("X A", "1"))
    if what == "framing":
        headers += [("Content-Length", "5"), ("Transfer-Encoding", "chunked"), ("Connection", "close")]
    if what == "exit":
        sys.exit(3)
    if what == "timeout":
        raise TimeoutError("too slow")
    start_response({"status": "99 x", "words": "fine"}.get(what, "200 OK"), headers)
    if what == "large":
        return [b"x" * 2**20] * 7
    if what == "midway":
        return (int(part) for part in ("1", "x"))
    if what == "modules":
        return [repr(sorted(m for m in sys.modules if m.startswith("fdk.adapters"))).encode()]
    return [b"fine"]
"""


def test_what_an_application_may_do_wrong_stays_its_own(shared_daemon: Daemon) -> None:
    settings = {"annotations": {"stoker.dev/adapter": "wsgi", "stoker.dev/match": "prefix"}}
    source = MISBEHAVING.replace("def app", "def handler")
    function_id = shared_daemon.deploy("wrong", source, app="wrong", **settings)
    trigger = {"app_id": shared_daemon.app("wrong"), "fn_id": function_id, "name": "t", "type": "http", "source": "/w"}
    shared_daemon.api("POST", "/v2/triggers", trigger)
    codes = {}
    for what in ("injected", "name", "framing", "exit", "timeout", "status", "words", "large", "midway"):
        reply = shared_daemon.request("GET", f"/t/wrong/w/{what}")
        codes[what] = reply.status, reply.json["code"] if reply.status >= 400 else reply.body
        assert "set-cookie" not in reply.headers
        again = shared_daemon.request("GET", "/t/wrong/w/fine")
        assert (again.status, again.body) == (200, b"fine"), f"after {what}"
    assert codes == {
        "injected": (502, "invalid-response"), "name": (502, "invalid-response"), "framing": (200, b"fine"),
        "exit": (502, "function-crashed"), "timeout": (504, "handler-timeout"), "status": (502, "invalid-response"),
        "words": (502, "function-failed"), "large": (502, "response-too-large"), "midway": (502, "function-failed"),
    }  # fmt: skip


def test_an_ordinary_function_never_imports_an_adapter(shared_daemon: Daemon) -> None:
    source = "import sys\ndef handler(ctx, data=None):\n    return repr([m for m in sys.modules if 'adapters' in m])\n"
    assert shared_daemon.invoke(shared_daemon.deploy("plain", source)).body == b"[]"


def test_the_daemon_knows_the_adapters() -> None:
    assert tuple(adapters.ADAPTERS) == ADAPTERS
