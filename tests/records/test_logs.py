"""Searching and following logs of a real daemon."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.logs.files import form
from daemon.logs.lines import level_of, rfc5424
from daemon.logs.search import LogQuery, search
from tests.system.daemon import PATIENCE_S, Daemon, eventually, run_daemon

pytestmark = pytest.mark.processes

PRINTER = """
import sys
def handler(ctx, data=None):
    for line in data.getvalue().decode().splitlines():
        print(line, file=sys.stderr if line.startswith("!") else sys.stdout, flush=True)
"""


def search_logs(daemon: Daemon, query: str) -> list[dict[str, Any]]:
    found = daemon.api("GET", f"/stoker/v1/logs?{query}")
    assert found["complete"] is True
    items: list[dict[str, Any]] = found["items"]
    return items


def texts(items: list[dict[str, Any]]) -> list[str]:
    return [item["line"] for item in items]


class Events:
    """A client of server-sent events."""

    def __init__(self, daemon: Daemon, path: str, more: str = "") -> None:
        self.sock = socket.create_connection(("127.0.0.1", daemon.port), timeout=PATIENCE_S)
        self.sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n".encode())
        self.file = self.sock.makefile("rb")
        self.head = b""
        while (line := self.file.readline()) != b"\r\n":
            self.head += line.lower()

    def next(self) -> dict[str, Any]:
        """The next line of the log."""
        while line := self.file.readline():
            if line.startswith(b"data: "):
                value: dict[str, Any] = json.loads(line[6:])
                return value
        raise AssertionError("the stream ended")

    def close(self) -> None:
        self.file.close()
        self.sock.close()


@contextmanager
def events(daemon: Daemon, path: str) -> Iterator[Events]:
    client = Events(daemon, path)
    try:
        yield client
    finally:
        client.close()


def test_lines_are_found_by_app_function_call_level_text_and_time(shared_daemon: Daemon) -> None:
    one, two = (shared_daemon.deploy(name, PRINTER, app="finder") for name in ("one", "two"))
    first = shared_daemon.invoke(one, 'ERROR no "stock" left\nall fine\n! WARNING slow').headers["fn-call-id"]
    second = shared_daemon.invoke(two, 'INFO Stock counted\n{"level": "error", "msg": "lost \\u00e9"}').headers[
        "fn-call-id"
    ]
    assert texts(search_logs(shared_daemon, "app=finder&text=all%20fine")) == ["all fine"]
    assert texts(search_logs(shared_daemon, 'app=finder&text=no%20"stock"')) == ['ERROR no "stock" left']
    assert len(search_logs(shared_daemon, "app=finder&text=stock")) == 1
    assert len(search_logs(shared_daemon, "app=finder&text=stock&ignore_case=true")) == 2
    assert len(search_logs(shared_daemon, "app=finder&function=two")) == 2
    assert {item["call_id"] for item in search_logs(shared_daemon, f"call={first}")} == {first}
    assert len(search_logs(shared_daemon, f"call={second}&text=lost")) == 1
    levels = [item["level"] for item in search_logs(shared_daemon, "app=finder&level=warning")]
    assert sorted(levels) == ["error", "error", "warning"]
    assert texts(search_logs(shared_daemon, "app=finder&stream=stderr")) == ["! WARNING slow"]
    assert search_logs(shared_daemon, "app=finder&until=1h") == []
    assert len(search_logs(shared_daemon, "app=finder&since=1h")) == 5
    times = [item["at"] for item in search_logs(shared_daemon, "app=finder")]
    assert times == sorted(times)
    newest = search_logs(shared_daemon, "app=finder&limit=1")[0]
    assert (newest["function"], newest["app"]) == ("two", "finder")
    own = shared_daemon.api("GET", f"/stoker/v1/functions/{one}/logs/search?text=e")["items"]
    assert {item["function"] for item in own} == {"one"}


def test_json_lines_are_objects_where_the_app_wants_it(shared_daemon: Daemon) -> None:
    function = shared_daemon.deploy("json", PRINTER, app="objects")
    shared_daemon.invoke(function, '{"level": "warn", "n": [1, 2]}\n{broken')
    assert ["object" in item for item in search_logs(shared_daemon, "app=objects")] == [False, False]
    annotation = {"annotations": {"stoker.dev/log-format": "JSON"}}
    shared_daemon.api("PUT", f"/v2/apps/{shared_daemon.app('objects')}", annotation)
    items = search_logs(shared_daemon, "app=objects")
    assert items[0]["object"] == {"level": "warn", "n": [1, 2]}
    assert items[0]["level"] == "warning"
    assert "object" not in items[1]


def test_following_two_functions_at_once(shared_daemon: Daemon) -> None:
    one, two = (shared_daemon.deploy(name, PRINTER, app="followed") for name in ("one", "two"))
    shared_daemon.invoke(one, "before 1\nbefore 2\nbefore 3")
    with events(shared_daemon, "/stoker/v1/logs/stream?app=followed&tail=2") as client:
        assert b"content-type: text/event-stream" in client.head
        assert [client.next()["line"] for _ in range(2)] == ["before 2", "before 3"]
        shared_daemon.invoke(two, "after, of two")
        shared_daemon.invoke(one, "after, of one")
        got = [client.next() for _ in range(2)]
        assert [(line["function"], line["line"]) for line in got] == [
            ("two", "after, of two"),
            ("one", "after, of one"),
        ]
    with events(shared_daemon, f"/stoker/v1/functions/{one}/logs/stream?tail=0&level=error") as client:
        shared_daemon.invoke(two, "ERROR of two")
        shared_daemon.invoke(one, "fine")
        shared_daemon.invoke(one, "ERROR of one")
        assert client.next()["line"] == "ERROR of one"


def test_a_follower_that_stops_reading_does_not_hurt(data: Path) -> None:
    config = "logs:\n  rate_bytes_s: 1000000000\n  burst_bytes: 1000000000\n"
    with run_daemon(data, config=config) as daemon:
        function = daemon.deploy("flood", PRINTER, app="flooded")
        with events(daemon, "/stoker/v1/logs/stream?app=flooded&tail=0") as stuck:
            body = "\n".join(f"line {i} {'x' * 500}" for i in range(2000))
            for _ in range(24):  # 24 MB: more than its socket and its queue hold
                assert daemon.invoke(function, body).status == 200
                assert search_logs(daemon, "app=flooded&limit=1"), "it is on the disk"
            with events(daemon, "/stoker/v1/logs/stream?app=flooded&tail=1") as other:
                assert other.next()["line"].startswith("line 1999")
                daemon.invoke(function, "the last word")
                assert other.next()["line"] == "the last word"
            seen = 0
            while "left out" not in (line := stuck.next())["line"]:
                seen += 1
            assert seen > 1000, "what fitted came first"
            assert line["stream"] == "platform"
        assert daemon.invoke(function, "x").status == 200


def test_a_follower_comes_back_after_a_restart_without_a_gap(data: Path) -> None:
    def place(client: Events) -> str:
        while not (line := client.file.readline()).startswith(b"id: "):
            assert line
        return line[4:].decode().strip()

    with run_daemon(data) as daemon:
        function = daemon.deploy("restarted", PRINTER)
        path = f"/stoker/v1/functions/{function}/logs/stream"
        with events(daemon, f"{path}?tail=0&text=line") as client:
            never_saw_a_line = place(client)
            daemon.invoke(function, "\n".join(f"line {n}" for n in range(20)))  # many in one millisecond
            assert [client.next()["line"] for _ in range(7)] == [f"line {n}" for n in range(7)]
            seen_seven = place(client)
        daemon.invoke(function, "line 20")
    with run_daemon(data) as daemon:
        daemon.invoke(function, "line 21\nanother")
        for after, first in ((seen_seven, 7), (never_saw_a_line, 0)):
            with events(daemon, f"{path}?tail=3&text=line&after={after}") as client:
                assert [client.next()["line"] for _ in range(first, 22)] == [f"line {n}" for n in range(first, 22)]
                last = place(client)
        client = Events(daemon, f"{path}?text=line&after={seen_seven}", f"Last-Event-ID: {last}\r\n")  # it is newer
        daemon.invoke(function, "line 22")
        assert client.next()["line"] == "line 22"
        daemon.api("DELETE", f"/v2/fns/{function}")
        while (line := client.file.readline()) != b"0\r\n":  # the last chunk: the function is gone, so is its stream
            assert line
            assert not line.startswith(b"data:")
        client.close()
        assert daemon.request("GET", "/stoker/v1/logs/stream?after=now").status == 400


def test_followers_end_when_the_daemon_drains(data: Path) -> None:
    with run_daemon(data) as daemon:
        daemon.deploy("quiet", PRINTER)
        client = Events(daemon, "/stoker/v1/logs/stream")
        daemon.process.terminate()
        assert b"data:" not in client.file.read()
        client.close()


def test_what_is_asked_wrongly_is_named(shared_daemon: Daemon) -> None:
    for query, text in (("level=loud", "level: must be one of debug"), ("stream=in", "stream:"), ("since=x", "since:")):
        reply = shared_daemon.request("GET", f"/stoker/v1/logs?{query}")
        assert (reply.status, text in reply.json["message"]) == (400, True)


def test_output_after_the_answer_is_nobodys(shared_daemon: Daemon) -> None:
    source = """
import threading, time
def later():
    time.sleep(0.3)
    print("from the background", flush=True)
def handler(ctx, data=None):
    threading.Thread(target=later).start()
    print("from the call", flush=True)
"""
    function = shared_daemon.deploy("background", source)
    call = shared_daemon.invoke(function).headers["fn-call-id"]
    found = eventually(lambda: search_logs(shared_daemon, f"function={function}&text=from%20the%20background"))
    assert found[0]["call_id"] == ""
    assert texts(search_logs(shared_daemon, f"call={call}")) == ["from the call"]


# -- without a daemon

LINES = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.text(alphabet='abAB"\\é\n\u2028 ', max_size=6), st.integers(0, 30)),
    max_size=30,
)


@given(
    lines=LINES, text=st.text(alphabet='abAB"\\é', max_size=2), call=st.sampled_from(["", "a"]), ignore=st.booleans(),
    since=st.integers(0, 30), limit=st.integers(1, 40),
)  # fmt: skip
def test_a_search_finds_what_a_plain_loop_finds(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, str, int]], text: str, call: str, ignore: bool,
    since: int, limit: int,
) -> None:  # fmt: skip
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    entries = [form((float(at), who, "1", "stdout", line)) for who, line, at in sorted(lines, key=lambda line: line[2])]
    path.write_bytes(b"".join(json.dumps(entry, ensure_ascii=False).encode() + b"\n" for entry in entries))
    query = LogQuery(call_id=call, text=text, ignore_case=ignore, since=form((float(since), "", "", "", ""))["at"])
    found, complete = search([("F", [path, path.with_name("gone")])], query, limit=limit)

    def lower(value: str) -> str:
        return "".join(c.lower() if c.isascii() else c for c in value) if ignore else value

    wanted = [
        e for e in entries if lower(text) in lower(e["line"]) and call in ("", e["call_id"]) and e["at"] >= query.since
    ]
    assert complete
    assert [{k: v for k, v in line.items() if k != "function_id"} for line in reversed(found)] == wanted[-limit:]


@pytest.mark.parametrize(
    ("stream", "line", "level"),
    [
        ("stdout", "hello", ""),
        ("stdout", "2026-11-21 06:00:00,000 - root - WARNING - low", "warning"),
        ("stderr", "Traceback (most recent call last):", "error"),
        ("stdout", 'time=1 level=debug msg="x"', "debug"),
        ("stdout", '{"severity": "CRITICAL", "m": 1}', "error"),
        ("stdout", '{"level": 30}', ""),
        ("stdout", "[error] no", "error"),
        ("stdout", "INFORMATION", ""),
        ("platform", "Served function invocation request in 0.1 seconds with error code 502 - X", "error"),
        ("platform", "Received function invocation request", "info"),
    ],
)
def test_levels(stream: str, line: str, level: str) -> None:
    assert level_of(stream, line) == level


@given(st.text(max_size=50), st.text(max_size=50))
def test_syslog_messages_have_one_line_and_a_plain_head(name: str, line: str) -> None:
    message = rfc5424(
        at=0.0, host=name, app=name, function=name, call_id=name, instance=name, stream="stdout", line=line
    )
    assert b"\n" not in message
    assert message.startswith((b"<14>1 1970-01-01T00:00:00.000Z ", b"<11>", b"<12>", b"<15>"))
    assert message.split(b"[", 1)[0].isascii()
