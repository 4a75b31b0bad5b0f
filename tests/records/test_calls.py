"""Call records of a real daemon: what is in them, what is found, what survives, what is set aside."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sqlite3
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.telemetry.calls import _last_of, start_phases, told_s
from tests.system.daemon import HELLO, Daemon, eventually, run_daemon

pytestmark = pytest.mark.processes

MOODY = """
import io, os, time
def handler(ctx, data: io.BytesIO = None):
    text = data.getvalue().decode()
    print("asked for", text, flush=True)
    if text == "raise":
        raise ValueError("no such mood")
    if text == "exit":
        os._exit(3)
    if text.startswith("sleep"):
        time.sleep(float(text[5:]))
    if text.startswith("burn"):
        end = time.process_time() + float(text[4:])
        while time.process_time() < end:
            pass
    return "fine"
"""


def calls(daemon: Daemon, query: str = "") -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = daemon.api("GET", f"/stoker/v1/calls{query}")["items"]
    return items


@pytest.fixture(scope="module")
def function(shared_daemon: Daemon) -> str:
    return shared_daemon.deploy("moody", MOODY, timeout=2)


def one(daemon: Daemon, function: str, body: str, **headers: str) -> dict[str, Any]:
    reply = daemon.invoke(function, body, headers)
    found: dict[str, Any] = daemon.api("GET", f"/stoker/v1/calls/{reply.headers['fn-call-id']}")
    return found


def test_a_good_call(shared_daemon: Daemon, function: str) -> None:
    shared_daemon.invoke(function, "once")
    call = one(shared_daemon, function, "hello")
    assert (call["app"], call["function"], call["version"], call["kind"]) == ("app", "moody", 1, "sync")
    assert (call["status"], call["error"], call["fault"], call["start_kind"]) == (200, None, "none", "reuse")
    assert (call["bytes_in"], call["bytes_out"]) == (5, 4)
    assert call["instance"] > 0
    assert call["caller"] == "127.0.0.1"
    assert [phase["name"] for phase in call["phases"]] == ["handler"]
    assert call["handler_s"] == call["total_s"] > 0
    assert call["advice"] == []
    assert call["replayable"] is False


def test_a_cold_call_has_the_parts_of_its_start(shared_daemon: Daemon) -> None:
    function = shared_daemon.deploy("cold", HELLO)
    eventually(lambda: shared_daemon.api("POST", f"/stoker/v1/functions/{function}/restart") and True)
    eventually(lambda: not shared_daemon.instances(function), what="no instance is left")
    call = one(shared_daemon, function, "")
    assert call["start_kind"] in ("fork", "boot")
    names = [phase["name"] for phase in call["phases"]]
    assert names[-1] == "handler"
    assert {"fork", "init"} <= set(names)
    assert call["total_s"] == pytest.approx(sum(phase["length_s"] for phase in call["phases"]), abs=1e-4)
    assert call["queue_s"] >= call["start_s"] > 0


SLOW_IMPORT = "import time\ntime.sleep(0.2)\n" + HELLO


@pytest.mark.parametrize(
    ("start", "order"),
    [("fork", ["template", "import", "fork", "init", "handler"]), ("exec", ["fork", "import", "init", "handler"])],
)
def test_the_import_is_apart_from_the_rest_of_the_start(shared_daemon: Daemon, start: str, order: list[str]) -> None:
    function = shared_daemon.deploy(f"import-{start}", SLOW_IMPORT, annotations={"stoker.dev/start": start})
    _leave_nothing_running(shared_daemon, function)
    call = one(shared_daemon, function, "")
    assert call["start_kind"] == ("boot" if start == "fork" else "exec")
    lengths = {phase["name"]: phase["length_s"] for phase in call["phases"]}
    assert [name for name in lengths if name != "queue"] == order
    assert lengths["import"] >= 0.2
    assert sum(lengths.values()) == pytest.approx(call["total_s"], abs=1e-4)


def _leave_nothing_running(daemon: Daemon, function: str) -> None:
    """Neither instances nor the template."""
    if daemon.instances(function):
        daemon.api("POST", f"/stoker/v1/functions/{function}/restart")
    eventually(lambda: not daemon.instances(function), what="no instance is left")
    for process in daemon.workers():
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name() == "stoker-template":
                process.kill()
                eventually(lambda pid=process.pid: not psutil.pid_exists(pid), what="the template is gone")


@given(st.floats(0, 5), st.floats(0, 5), st.floats(0, 5), st.floats(0, 20), st.floats(0.001, 20))
def test_the_parts_of_a_start_add_up_whatever_the_worker_says(
    template_s: float, fork_s: float, rest_s: float, import_s: float, start_s: float
) -> None:
    total_s = template_s + fork_s + rest_s
    parts = start_phases(total_s, template_s=template_s, fork_s=fork_s, import_s=import_s)
    assert all(length_s >= 0 for length_s in parts)
    assert sum(parts) == pytest.approx(total_s)
    last = _last_of(parts, start_s)
    assert all(length_s >= 0 for length_s in last)
    assert sum(last) == pytest.approx(min(start_s, total_s), abs=1e-9)


@pytest.mark.parametrize("told", [None, "7", -1, 10**15, 1.5])
def test_a_worker_may_say_anything_about_its_import(told: object) -> None:
    assert told_s(told) == 0.0


@pytest.mark.parametrize(
    ("body", "status", "error", "word"),
    [
        ("raise", 502, "function-failed", "traceback"),
        ("exit", 502, "function-crashed", "ended"),
        ("sleep5", 504, "function-timeout", "--timeout"),
    ],
)
def test_a_bad_call_says_whose_fault_and_what_next(
    shared_daemon: Daemon, function: str, body: str, status: int, error: str, word: str
) -> None:
    call = one(shared_daemon, function, body)
    assert (call["status"], call["error"], call["fault"]) == (status, error, "function")
    assert call["instance"] > 0
    assert word in " ".join(call["advice"])
    if body == "raise":
        assert "no such mood" in call["detail"]


def test_a_function_without_a_bundle(shared_daemon: Daemon) -> None:
    app = shared_daemon.app()
    body = {"app_id": app, "name": "empty", "image": "nothing:1"}
    function = shared_daemon.api("POST", "/v2/fns", body)["id"]
    call = one(shared_daemon, function, "")
    assert (call["status"], call["error"], call["instance"]) == (502, "bundle-missing", None)


def test_processor_time(shared_daemon: Daemon, function: str) -> None:
    assert one(shared_daemon, function, "burn0.05")["cpu_s"] >= 0.05
    assert one(shared_daemon, function, "sleep0.2")["cpu_s"] < 0.15


def test_lists_are_filtered(shared_daemon: Daemon) -> None:
    function = shared_daemon.deploy("listed", MOODY)
    ids = [shared_daemon.invoke(function, body).headers["fn-call-id"] for body in ("a", "raise", "sleep0.3", "b")]
    everything = calls(shared_daemon, "?app=app&function=listed")
    assert [call["id"] for call in everything] == ids[::-1]
    assert [call["id"] for call in calls(shared_daemon, "?app=app&function=listed&failed=true")] == [ids[1]]
    assert [call["id"] for call in calls(shared_daemon, f"?function={function}&longer_s=0.3")] == [ids[2]]
    assert [call["id"] for call in calls(shared_daemon, f"?function={function}&slow=true")] == [ids[2]]
    assert [call["id"] for call in calls(shared_daemon, f"?function={function}&error=function-failed")] == [ids[1]]
    assert calls(shared_daemon, f"?function={function}&kind=trigger") == []
    assert calls(shared_daemon, f"?function={function}&until=1h") == []
    assert len(calls(shared_daemon, f"?function={function}&since=1h")) == 4
    page = shared_daemon.api("GET", f"/stoker/v1/functions/{function}/calls?limit=3")
    assert page["next_cursor"] == ids[1]
    rest = shared_daemon.api("GET", f"/stoker/v1/functions/{function}/calls?limit=3&cursor={ids[1]}")
    assert ([call["id"] for call in rest["items"]], "next_cursor" in rest) == ([ids[0]], False)


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("?since=yesterday", "since: must be"),
        ("?limit=0", "limit: must be a number from 1"),
        ("?kind=odd", "kind: must be one of sync, detached, trigger"),
        ("?failed=maybe", "failed: must be true or false"),
        ("?function=listed", "needs its app"),
        ("?longer_s=x", "longer_s: must be seconds"),
    ],
)
def test_what_is_asked_wrongly_is_named(shared_daemon: Daemon, query: str, text: str) -> None:
    reply = shared_daemon.request("GET", f"/stoker/v1/calls{query}")
    assert reply.status == 400
    assert text in reply.json["message"]


def test_unknown_calls_and_functions(shared_daemon: Daemon, function: str) -> None:
    assert shared_daemon.request("GET", "/stoker/v1/calls/nonsense").status == 404
    assert shared_daemon.request("GET", "/stoker/v1/calls?app=none").status == 404
    call = shared_daemon.invoke(function, "x").headers["fn-call-id"]
    other = shared_daemon.deploy("other", HELLO)
    assert shared_daemon.request("GET", f"/stoker/v1/functions/{other}/calls/{call}").status == 404
    assert shared_daemon.request("GET", f"/stoker/v1/functions/{function}/calls/{call}").status == 200


def test_triggers_and_detached_calls_are_told_apart(shared_daemon: Daemon, function: str) -> None:
    app = shared_daemon.app()
    shared_daemon.api(
        "POST", "/v2/triggers", {"name": "t", "app_id": app, "fn_id": function, "type": "http", "source": "/moody"}
    )
    assert shared_daemon.request("POST", "/t/app/moody", "x").status == 200
    assert len(calls(shared_daemon, f"?function={function}&kind=trigger")) == 1
    shared_daemon.invoke(function, "later", {"Fn-Invoke-Type": "detached"})
    eventually(lambda: calls(shared_daemon, f"?function={function}&kind=detached"), what="the detached call")


def test_replay_repeats_a_recorded_request(shared_daemon: Daemon) -> None:
    function = shared_daemon.deploy("replayed", HELLO, annotations={"stoker.dev/record-bodies": True})
    first = shared_daemon.invoke(function, "Ada \u00e9\u0000".encode())
    call_id = first.headers["fn-call-id"]
    assert shared_daemon.api("GET", f"/stoker/v1/calls/{call_id}")["replayable"] is True
    again = shared_daemon.request("POST", f"/stoker/v1/functions/{function}/calls/{call_id}/replay")
    assert (again.status, again.body) == (200, first.body)
    assert again.headers["content-type"] == "application/json"
    assert again.headers["stoker-replay-of"] == call_id
    assert again.headers["fn-call-id"] != call_id
    plain = shared_daemon.deploy("forgetful", HELLO)
    call_id = shared_daemon.invoke(plain, "x").headers["fn-call-id"]
    refused = shared_daemon.request("POST", f"/stoker/v1/functions/{plain}/calls/{call_id}/replay")
    assert refused.status == 404
    assert "record-bodies" in refused.json["detail"]


def test_the_two_lines_of_oci(shared_daemon: Daemon) -> None:
    function = shared_daemon.deploy("talking", MOODY, annotations={"stoker.dev/log-calls": True})
    for body in ("x", "raise"):
        call_id = shared_daemon.invoke(function, body).headers["fn-call-id"]
        raw = shared_daemon.request("GET", f"/stoker/v1/functions/{function}/logs?call={call_id}").body.decode()
        lines = [json.loads(line) for line in raw.splitlines()]
        told = [line["line"] for line in lines if line["stream"] == "platform"]
        assert told[0] == "Received function invocation request"
        assert told[-1].startswith("Served function invocation request in 0.")
        assert (" with error code 502 - FunctionInvokeExecutionFailed (502)" in told[-1]) is (body == "raise")
        assert "asked for" in "".join(line["line"] for line in lines[1:-1])


def test_flushed_records_survive_a_kill(data: Path) -> None:
    with run_daemon(data) as daemon:
        function = daemon.deploy("hello", HELLO)
        ids = [daemon.invoke(function, str(i)).headers["fn-call-id"] for i in range(50)]
        assert len(calls(daemon, "?app=app")) == 50  # asking flushes
        for i in range(20):  # some of these are being written when it dies
            daemon.invoke(function, str(i))
        daemon.process.send_signal(signal.SIGKILL)
        daemon.process.wait()
    with sqlite3.connect(data / "records.db") as conn:
        assert conn.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    conn.close()
    with run_daemon(data) as daemon:
        kept = [call["id"] for call in calls(daemon, "?app=app&limit=100")]
        assert kept[-50:] == ids[::-1]


@pytest.mark.parametrize("damage", ["garbage", "half"])
def test_a_damaged_file_is_set_aside(data: Path, damage: str) -> None:
    with run_daemon(data) as daemon:
        function = daemon.deploy("hello", HELLO)
        for i in range(300):
            daemon.invoke(function, str(i))
    path = data / "records.db"
    content = path.read_bytes()
    assert len(content) > 20_000
    path.write_bytes(
        b"not a database " * 100 if damage == "garbage" else content[:4096] + b"\xff" * (len(content) - 4096)
    )
    with run_daemon(data) as daemon:
        assert calls(daemon) == []
        assert daemon.invoke(function, "x").status == 200
        assert len(calls(daemon)) == 1
        assert "set aside, and begun anew" in daemon.stderr()
    assert len(list(data.glob("records.db.damaged-*"))) == 1


def test_recording_can_be_switched_off(data: Path) -> None:
    with run_daemon(data, config="records:\n  enabled: false\n") as daemon:
        function = daemon.deploy("hello", HELLO)
        assert daemon.invoke(function, "x").status == 200
        reply = daemon.request("GET", "/stoker/v1/calls")
        assert reply.status == 409
        assert "records.enabled" in reply.json["detail"]
    assert not (data / "records.db").exists()


def test_a_client_that_reads_slowly_shows_in_the_phases(shared_daemon: Daemon) -> None:
    source = "def handler(ctx, data=None):\n    return 'x' * 5_000_000\n"
    function = shared_daemon.deploy("large", source, memory=256)
    with socket.create_connection(("127.0.0.1", shared_daemon.port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**17)
        client.sendall(f"POST /invoke/{function} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        [call] = eventually(lambda: calls(shared_daemon, f"?function={function}"))
        assert call["write_s"] == 0, "it is not over yet"
        time.sleep(0.2)
        left = 5_000_000
        while left > 0:
            left -= len(client.recv(2**20))
        found = eventually(lambda: calls(shared_daemon, f"?function={function}&longer_s=0.2"), what="write_s is known")
    assert found[0]["write_s"] >= 0.2
    phases = shared_daemon.api("GET", f"/stoker/v1/calls/{call['id']}")["phases"]
    assert phases[-1]["name"] == "write"
