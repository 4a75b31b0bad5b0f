"""The recordings of the real Fn server, replayed over HTTP against a running daemon, calls of functions included."""

from __future__ import annotations

import http.client
import json
import re
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daemon.config.settings import Limits
from daemon.sandbox.walls import Sandbox
from tests.golden import differences
from tests.golden.replay import Answer, Exchange, Mismatch, Session, replay
from tests.golden.test_replay import FILES, RECORDINGS, needs_recordings
from tests.system.daemon import PATIENCE_S, Daemon, bundle, run_daemon

pytestmark = [pytest.mark.processes]

HELLO = """
import io, json, logging
from fdk import response

def handler(ctx, data: io.BytesIO = None):
    name = "World"
    try:
        body = json.loads(data.getvalue())
        name = body.get("name")
    except (Exception, ValueError) as ex:
        logging.getLogger().info('error parsing json payload: ' + str(ex))
    return response.Response(ctx, response_data=json.dumps({"message": "Hello {0}".format(name)}),
                             headers={"Content-Type": "application/json"})
"""
"""Answers as `fn init --runtime python`'s function does (recording 08)."""

PROCESS = ("argv", "config", "cwd", "env", "pid", "uid", "gid", "app_name", "fn_name", "deadline", "call_id")
"""What the recorded echo function says about its process and the moment: other here, and checked by `said`."""
EXCHANGES, CALLS = 654, 91

ELIDED = {
    # (file, connection) -> why the recording does not hold the whole answer, and what is known of it
    ("10-invoke-contract.txt", 355): "binary in the request is written as an escape",
    ("10-invoke-contract.txt", 370): "binary in the answer is written as an escape",
    ("10-invoke-contract.txt", 373): "an answer of 200 kB is cut",
    ("10-invoke-contract.txt", 382): "the interim 100 Continue is recorded, not the answer",
}


class Calls:
    """The differences of calls as a rule; remembers which were needed."""

    def __init__(self) -> None:
        self.used: set[str] = set()

    def __call__(self, exchange: Exchange, expected: Answer) -> Answer:
        expected = replace(expected, body=said(expected.body, config=False))
        for difference in differences.CALLS:
            assert difference.change is not None
            changed = difference.change(exchange, expected, {})
            if changed is not expected:
                self.used.add(difference.name)
            expected = changed
        return expected


def said(body: bytes, *, config: bool = True) -> bytes:
    """An answer of the echo function, checked where it speaks of its process, and without that."""
    if body.startswith(b"{'/tmp/x': 'ok', ") and not Sandbox.probed(Limits()).has_root:
        return b"WRITES"  # only a root file system of its own is read-only as Fn's is
    try:
        told = json.loads(body)
    except ValueError:
        return body
    if not isinstance(told, dict) or "argv" not in told:
        return body
    headers = told["headers"]
    assert re.fullmatch("[0-9A-HJKMNP-TV-Z]{26}", told["call_id"])
    assert headers.pop("fn-call-id") == told["call_id"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", told["deadline"])
    assert headers.pop("fn-deadline") == told["deadline"]
    if config:  # ours
        assert told["config"] == told["env"]
        assert told["config"]["FN_APP_NAME"] == told["app_name"]
        assert told["config"]["FN_FN_NAME"] == told["fn_name"]
        assert told["config"]["FN_FN_ID"] == told["fn_id"]
        assert (told["config"]["FN_FORMAT"], told["config"]["FN_TYPE"]) == ("http-stream", "sync")
    kept = {key: value for key, value in told.items() if key not in PROCESS}
    kept["own config"] = {k: v for k, v in told["config"].items() if k in ("A", "B", "y", "FN_MEMORY")}
    return json.dumps(kept).encode()


def send_to(daemon: Daemon) -> Any:
    async def send(method: str, target: str, headers: list[tuple[str, str]], body: bytes) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE_S)
        try:
            connection.putrequest(method, target, skip_accept_encoding=True)
            chunked = any(n.lower() == "transfer-encoding" for n, _ in headers)
            for name, value in headers:
                if name.lower() != "expect":
                    connection.putheader(name, value)
            if not chunked and (body or method in ("POST", "PUT")):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders()
            if chunked:
                body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
            if body:
                connection.send(body)
            response = connection.getresponse()
            text = response.read()
            got = {n.lower(): v for n, v in response.getheaders()}
            return Answer(response.status, got.get("content-type"), said(text), got)
        finally:
            connection.close()

    return send


@needs_recordings
async def test_a_running_daemon_answers_every_recorded_exchange_as_fn_did(tmp_path: Path) -> None:
    with run_daemon(tmp_path / "data") as daemon:
        for image in ("tst/hello:0.0.1", "tst/pyf:0.0.4"):
            daemon.push(bundle(HELLO), image)
        daemon.push(bundle((RECORDINGS / "functions" / "echo" / "func.py").read_text()), "tst/echo:0.0.1")
        calls = Calls()
        session = Session(host=f"127.0.0.1:{daemon.port}", rules=[differences.Rules(), calls])
        mismatches: list[Mismatch] = []
        invoked = 0

        def skip(exchange: Exchange) -> bool:
            nonlocal invoked
            invoked += exchange.invokes
            return False

        for name in FILES:  # in the order in which they were recorded, on one server
            mismatches += await replay(RECORDINGS / name, send_to(daemon), session=session, skip=skip)
    assert [str(m) for m in mismatches if m.exchange.key not in ELIDED] == []
    assert {m.exchange.key for m in mismatches} == set(ELIDED)
    assert (session.replayed, invoked) == (EXCHANGES, CALLS)
    assert calls.used == {d.name for d in differences.CALLS}, "a listed difference that nothing shows"


@needs_recordings
async def test_what_the_recording_elides_is_answered_whole(shared_daemon: Daemon) -> None:
    echo = (RECORDINGS / "functions" / "echo" / "func.py").read_text()
    function = shared_daemon.deploy("echo", echo)
    assert shared_daemon.invoke(function, b"\x00\x01\xfe").json["body"] == "\x00\x01\xfe"
    assert shared_daemon.invoke(function, b'{"mode": "bytes"}').body == b"\x00\x01\xff"
    assert shared_daemon.invoke(function, b'{"mode": "big", "n": 200000}').body == b"x" * 200_000
    with socket.create_connection(("127.0.0.1", shared_daemon.port), timeout=PATIENCE_S) as client:
        client.sendall(
            f"POST /invoke/{function} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n"
            "Expect: 100-continue\r\nConnection: close\r\n\r\n".encode()
        )
        assert client.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"{}")
        assert client.makefile("rb").read().startswith(b"HTTP/1.1 200 ")
