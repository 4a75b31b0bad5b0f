"""The examples on a real daemon, deployed and called with the real command, as their READMEs say."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.server
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT, Stoker
from tests.system.daemon import Daemon, run_daemon

pytestmark = pytest.mark.processes
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with run_daemon(tmp_path_factory.mktemp("node") / "data") as daemon:
        yield daemon


@pytest.fixture
def real(bare_stoker: Stoker, node: Daemon) -> Stoker:
    def run(*arguments: str, **more: object) -> object:
        return bare_stoker(*arguments, STOKER_URL=node.url, **more)

    return run


def deploy(real: Stoker, name: str, *arguments: str) -> None:
    result = real("deploy", "--app", "demo", "--create-app", str(EXAMPLES / name), *arguments)
    assert (result.code, result.err) == (0, "")
    assert f"\n{name} is live (" in result.out


def call(real: Stoker, name: str, body: str = "", *arguments: str) -> str:
    result = real("invoke", "demo", name, *arguments, stdin=body.encode())
    assert (result.code, result.err) == (0, "")
    return str(result.out)


def test_hello(real: Stoker, node: Daemon) -> None:
    deploy(real, "hello")
    assert json.loads(call(real, "hello", '{"name": "Ada"}')) == {"message": "Hello Ada"}
    assert json.loads(call(real, "hello")) == {"message": "Hello World"}
    assert node.request("GET", "/t/demo/hello").json == {"message": "Hello World"}
    deploy(real, "hello")  # again: nothing to send
    result = real("versions", "demo", "hello", "--output", "json")
    assert [version["state"] for version in json.loads(result.out)] == ["ready"]


def test_gateway(real: Stoker, node: Daemon) -> None:
    deploy(real, "gateway")
    asked = node.request("GET", "/t/demo/gateway?color=red", headers={"User-Agent": "test"})
    assert (asked.status, asked.headers["cache-control"]) == (200, "no-store")
    assert asked.json == {"method": "GET", "query": {"color": "red"}, "agent": "test"}
    made = node.request("POST", "/t/demo/gateway", "lamp")
    assert (made.status, made.headers["location"]) == (201, "/things/lamp")
    refused = node.request("DELETE", "/t/demo/gateway")
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD, POST")


def test_config(real: Stoker) -> None:
    result = real("deploy", "--app", "demo", "--create-app", str(EXAMPLES / "config"))
    assert result.code == 1
    assert "required configuration is missing: GREETING" in result.err
    deploy(real, "config", "--config", "GREETING=Hello")
    assert call(real, "config", "Ada") == "Hello Ada!\n"
    assert real("config", "set", "function", "demo", "config", "GREETING", "Hi").code == 0
    assert call(real, "config", "Ada") == "Hi Ada!\n"
    assert real("rollback", "demo", "config").code == 0
    assert call(real, "config", "Ada") == "Hello Ada!\n"


def test_slow_within_its_timeout_and_over_it(real: Stoker) -> None:
    deploy(real, "slow")
    assert call(real, "slow", "0.01") == "slept 0.01 s\n"
    assert real("update", "function", "demo", "slow", "--timeout", "1").code == 0
    result = real("invoke", "demo", "slow", "-d", "60")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("Error: cannot invoke demo/slow: Timed out (status 504, function-timeout)\n")


def test_event_router_and_its_log(real: Stoker) -> None:
    deploy(real, "event-router")
    event = EXAMPLES / "event-router" / "event.json"
    result = real("invoke", "demo", "event-router", "-d", f"@{event}", "--display-call-id")
    assert result.code == 0
    assert json.loads(result.out)["action"] == "import"
    call_id = result.err.removeprefix("Call ID: ").strip()
    # The line and the answer come by two pipes: the answer may be first.
    end_s = time.monotonic() + 30
    while "import incoming/orders.csv" not in (log := real("logs", "demo", "event-router", "--call", call_id)).out:
        assert time.monotonic() < end_s, log
    failed = real("invoke", "demo", "event-router", "-d", "{}")
    assert failed.code == 1
    assert "function failed (status 502, function-failed)" in failed.err


def test_csv_to_json(real: Stoker) -> None:
    deploy(real, "csv-to-json")
    answer = call(real, "csv-to-json", "id,name\n1,Ada\n2,Grace\n", "--content-type", "text/csv")
    assert json.loads(answer) == [{"id": "1", "name": "Ada"}, {"id": "2", "name": "Grace"}]
    assert "has not as many fields" in call(real, "csv-to-json", "id,name\n1\n")


def token(claims: dict[str, object], secret: bytes) -> str:
    def encoded(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    payload = encoded(json.dumps(claims).encode())
    return f"Bearer {payload}.{encoded(hmac.new(secret, payload.encode(), hashlib.sha256).digest())}"


def test_token_authorizer(real: Stoker) -> None:
    deploy(real, "token-authorizer", "--config", "TOKEN_SECRET=s3cret")
    good = {"sub": "ada", "scope": ["read"], "exp": int(time.time()) + 3600}
    for given, active in (
        (token(good, b"s3cret"), True),
        (token(good, b"other"), False),
        (token({**good, "exp": 1}, b"s3cret"), False),
        ("Bearer nonsense", False),
    ):
        answer = json.loads(call(real, "token-authorizer", json.dumps({"type": "TOKEN", "token": given})))
        assert answer["active"] is active
        assert answer.get("principal") == ("ada" if active else None)


def test_a_function_that_does_not_import(real: Stoker, function: Path) -> None:
    (function / "func.py").write_text("import nosuchmodule\n")
    result = real("deploy", "--app", "demo", "--create-app", str(function), "--output", "json")
    found = json.loads(result.out)
    assert (result.code, found["ok"], found["error"]["code"]) == (1, False, "deploy-failed")
    assert "ModuleNotFoundError: No module named 'nosuchmodule'" in found["error"]["detail"]


def test_push_before_and_after_create(real: Stoker, function: Path) -> None:
    assert real("create", "app", "other").code == 0
    assert real("create", "function", "other", "hi", "hi:1").code == 0
    assert real("invoke", "other", "hi").code == 1  # no bundle yet
    assert real("push", str(function), "hi:1").code == 0
    assert real("invoke", "other", "hi").out == "hi"
    listed = json.loads(real("bundles", "hi", "--output", "json").out)
    assert [item["image"] for item in listed] == ["hi:1"]
    assert real("delete", "app", "other", "-r").code == 0


def test_what_runs_is_shown(real: Stoker) -> None:
    deploy(real, "hello", "--provisioned-concurrency", '{"strategy": "CONSTANT", "count": 40}')
    status = json.loads(real("inspect", "function", "demo", "hello", "--status", "pool.pcu").out)
    assert status["requested"] == 40
    deploy(real, "hello", "--provisioned-concurrency", "none")
    assert "demo/hello" in real("ps", "demo", "hello").out
    assert "calls.ok" in real("stats").out
    assert "python3." in real("runtimes").out
    wrong = real("update", "function", "demo", "hello", "--provisioned-concurrency", "constant:41")
    assert wrong.code == 1
    assert "40" in wrong.err


@pytest.fixture
def page() -> Iterator[str]:
    """A page on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["numpy-sum", "async-http"])
def test_examples_with_dependencies(real: Stoker, node: Daemon, page: str, name: str) -> None:
    ours = {name: value for name, value in os.environ.items() if name.startswith(("HOME", "PIP_", "UV_", "SSL_"))}
    result = real("deploy", "--app", "demo", "--create-app", str(EXAMPLES / name), **ours)
    if result.code and "cannot be reached" in result.err:
        pytest.skip("no package index can be reached")
    assert result.code == 0, result.err
    if name == "numpy-sum":
        assert json.loads(call(real, name, "[1, 2, 3]"))["sum"] == 6
        return
    asked = json.dumps({"urls": [page, "nonsense"]})
    assert "error" in json.loads(call(real, name, asked))["pages"][0], "by default nothing of this machine is reached"
    assert real("update", "app", "demo", "--annotation", 'stoker.dev/network="host"').code == 0
    pages = json.loads(call(real, name, asked))["pages"]
    assert real("update", "app", "demo", "--annotation", 'stoker.dev/network=""').code == 0
    assert pages[0]["status"] == 200, pages
    assert "error" in pages[1]
