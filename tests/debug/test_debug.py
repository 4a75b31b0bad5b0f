"""Debugging with real debugpy and a real conversation: breakpoint, variable, continue, an answer after the timeout."""

from __future__ import annotations

import http.client
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from daemon.errors import Conflict
from daemon.workers.debugging import find_debugpy
from tests.debug.dap import Editor
from tests.iam.node import run_node
from tests.system.daemon import Daemon, Reply, bundle, eventually

pytestmark = pytest.mark.processes

SOURCE = """
import io, os

def handler(ctx, data: io.BytesIO = None):
    name = data.getvalue().decode()
    greeting = f"hello {name}"
    return greeting + f" {os.getppid()}"
"""
STOP_LINE = 7
"""Where ``greeting`` is known."""


class Events:
    """The events of a debugging session, read for as long as the block lasts."""

    def __init__(self, daemon: Daemon, function: str, port: int = 0) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=30)
        self._connection.request("POST", f"/stoker/v1/functions/{function}/debug?port={port}")
        self._reply = self._connection.getresponse()
        assert self._reply.status == 200, self._reply.read()

    def wait(self, name: str) -> dict[str, Any]:
        while line := self._reply.readline():
            event: dict[str, Any] = json.loads(line)
            if event["event"] == name:
                return event
        raise AssertionError(f"the session ended before {name}")

    def close(self) -> None:
        self._reply.close()
        self._connection.close()


@contextmanager
def debugged(daemon: Daemon, function: str, port: int = 0) -> Iterator[Events]:
    events = Events(daemon, function, port)
    try:
        yield events
    finally:
        events.close()
        # The reader's end is noticed when the next event is sent to him.
        eventually(lambda: not _is_debugged(daemon, function), what="the session is over")


def _is_debugged(daemon: Daemon, function: str) -> bool:
    """Whether a second session is refused because of the first, or only because of its port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        reply = daemon.request("POST", f"/stoker/v1/functions/{function}/debug?port={taken.getsockname()[1]}")
    assert reply.status == 409
    return "debugged already" in reply.json["message"]


class Calling(threading.Thread):
    """A call in a thread of its own."""

    def __init__(self, daemon: Daemon, function: str, body: bytes, headers: dict[str, str]) -> None:
        super().__init__(daemon=True)
        self._daemon, self._function, self._body, self._headers = daemon, function, body, headers
        self.reply: Reply | None = None
        self.start()

    def run(self) -> None:
        self.reply = self._daemon.request("POST", f"/invoke/{self._function}", self._body, self._headers)

    def answer(self) -> Reply:
        self.join(30)
        assert self.reply is not None
        return self.reply


def test_a_breakpoint_holds_a_call_beyond_its_timeout_and_others_go_on(shared_daemon: Daemon) -> None:
    function = shared_daemon.deploy("debugged", SOURCE, timeout=1)
    with debugged(shared_daemon, function) as events:
        starting = events.wait("starting")
        events.wait("ready")
        with Editor(starting["port"]) as editor:
            editor.attach("/home/me/fn", starting["remote_root"], file="/home/me/fn/func.py", lines=[STOP_LINE])
            began_s = time.monotonic()
            call = Calling(shared_daemon, function, b"Ada", {"Stoker-Debug": "1"})
            thread, frames = editor.stopped()
            assert (frames[0]["name"], frames[0]["line"]) == ("handler", STOP_LINE)
            assert frames[0]["source"]["path"] == "/home/me/fn/func.py"
            assert editor.value(frames[0], "greeting") == "'hello Ada'"
            # Meanwhile calls without the header, or with it switched off, go to normal instances.
            for headers in ({}, {"Stoker-Debug": "0"}):
                reply = shared_daemon.request("POST", f"/invoke/{function}", b"Bob", headers)
                assert (reply.status, reply.body[:9]) == (200, b"hello Bob")
            while time.monotonic() - began_s < 1.5:  # longer than the timeout of 1 s
                assert call.is_alive()
                time.sleep(0.05)
            editor.ask("continue", threadId=thread)
            reply = call.answer()
            assert (reply.status, reply.body[:9]) == (200, b"hello Ada")
        (record,) = [
            item
            for item in shared_daemon.api("GET", f"/stoker/v1/functions/{function}/calls")["items"]
            if item["start_kind"] == "debug"
        ]
        assert record["error"] is None
        assert record["handler_s"] >= 1.5
    # Without a session the header means nothing.
    assert shared_daemon.request("POST", f"/invoke/{function}", b"x", {"Stoker-Debug": "1"}).status == 200


def test_new_code_takes_over_and_the_editor_attaches_again(shared_daemon: Daemon) -> None:
    function = shared_daemon.deploy("changed", SOURCE)
    with debugged(shared_daemon, function) as events:
        port = events.wait("starting")["port"]
        events.wait("ready")
        shared_daemon.deploy("changed", SOURCE.replace("hello", "good day,"))
        starting = events.wait("starting")
        assert starting["port"] == port
        events.wait("ready")
        with Editor(port) as editor:
            editor.attach("/src", starting["remote_root"], file="/src/func.py", lines=[STOP_LINE])
            call = Calling(shared_daemon, function, b"Eve", {"Stoker-Debug": "1"})
            thread, frames = editor.stopped()
            assert editor.value(frames[0], "greeting") == "'good day, Eve'"
            editor.ask("continue", threadId=thread)
            assert call.answer().status == 200


def test_a_caller_who_leaves_at_a_breakpoint_costs_only_that_instance(shared_daemon: Daemon) -> None:
    function = shared_daemon.deploy("left", SOURCE)
    with debugged(shared_daemon, function) as events:
        starting = events.wait("starting")
        first = events.wait("ready")
        with Editor(starting["port"]) as editor:
            editor.attach("/src", starting["remote_root"], file="/src/func.py", lines=[STOP_LINE])
            connection = http.client.HTTPConnection("127.0.0.1", shared_daemon.port, timeout=30)
            connection.request("POST", f"/invoke/{function}", b"Zoe", {"Stoker-Debug": "1"})
            editor.stopped()
            connection.close()
            assert events.wait("ready")["instance"] != first["instance"]
        reply = shared_daemon.request("POST", f"/invoke/{function}", b"Zoe", {"Stoker-Debug": "1"})
        assert (reply.status, reply.body[:9]) == (200, b"hello Zoe")


def test_one_session_a_function_and_a_port_that_is_free(shared_daemon: Daemon) -> None:
    function = shared_daemon.deploy("single", SOURCE)
    with debugged(shared_daemon, function) as events:
        port = events.wait("starting")["port"]
        again = shared_daemon.request("POST", f"/stoker/v1/functions/{function}/debug")
        assert (again.status, again.json["message"]) == (409, "the function is debugged already")
        other = shared_daemon.deploy("other", SOURCE)
        taken = shared_daemon.request("POST", f"/stoker/v1/functions/{other}/debug?port={port}")
        assert taken.status == 409
        assert f"127.0.0.1:{port}" in taken.json["message"]
    assert shared_daemon.request("POST", "/stoker/v1/functions/nothing/debug").status == 404


@pytest.mark.parametrize(("setting", "status"), [("", 403), (", debugging: true", 200)])
def test_in_mode_iam_it_is_refused_unless_permitted(tmp_path: Path, setting: str, status: int) -> None:
    with run_node(tmp_path / "data", config=f"auth: {{mode: iam{setting}}}\n") as node:
        app = node.local("POST", "/v2/apps", {"name": "shop"})["id"]
        node.local("PUT", "/stoker/v1/bundles/hello:1", bundle(SOURCE))
        function = node.local("POST", "/v2/fns", {"app_id": app, "name": "hello", "image": "hello:1"})["id"]
        assert node.send("POST", f"/stoker/v1/functions/{function}/debug").status == 401
        connection = node.connect(local=True)
        connection.request("POST", f"/stoker/v1/functions/{function}/debug")
        reply = connection.getresponse()
        first = reply.readline()
        connection.close()
        assert reply.status == status
        assert (b"auth.debugging" if status == 403 else b"starting") in first


def test_without_debugpy_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Path(find_debugpy(), "__init__.py").is_file()
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(Conflict, match="debugpy is not installed") as caught:
        find_debugpy()
    assert f"{sys.executable} -m pip install 'debugpy" in caught.value.detail
