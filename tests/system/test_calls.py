"""Calls on a real daemon: answers, and every way a function can fail its caller without disturbing others."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import os
import signal
import socket
from pathlib import Path

import psutil
import pytest

from tests.system.daemon import HELLO, Daemon, eventually

pytestmark = pytest.mark.processes

WILD = """
import ctypes, io, json, os, signal, subprocess, sys, threading, time, uuid
from fdk import response
me = None

def handler(ctx, data: io.BytesIO = None):
    global me
    me = me or str(uuid.uuid4())
    mode, _, arg = data.getvalue().decode().partition(" ")
    if mode == "raise": raise ValueError("boom from function")
    if mode == "exit": sys.exit(int(arg))
    if mode == "_exit": os._exit(int(arg))
    if mode == "segfault": ctypes.string_at(0)
    if mode == "signal": os.kill(os.getpid(), int(arg)); time.sleep(60)
    if mode == "hang": time.sleep(600)
    if mode == "spin":
        for s in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGHUP): signal.signal(s, signal.SIG_IGN)
        while True: pass
    if mode == "tree":
        # a grandchild that detached itself twice and ignores everything polite
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(600)
            os._exit(0)
        time.sleep(600)
    if mode == "big": return b"x" * int(arg)
    if mode == "flood":
        for i in range(int(arg)): print("flood " * 200)
        return "flooded"
    if mode == "garbage": os.write(4, os.urandom(4096)); time.sleep(60)
    if mode == "forge":
        os.write(4, b"\\x00\\x00\\x00\\x05hello"); return "never seen"
    if mode == "closepipe": os.close(4); os.close(3); return "never seen"
    if mode == "memory":
        hoard = []
        while True: hoard.append(bytearray(1 << 20)); time.sleep(0.0005)
    if mode == "child-memory":
        code = "import time\\nh=[]\\nwhile True:\\n h.append(bytearray(1<<20)); time.sleep(0.0005)"
        subprocess.run([sys.executable, "-I", "-S", "-c", code])
        return "never seen"
    if mode == "headers":
        return response.Response(ctx, response_data="x", headers={"x-h%d" % i: "v" * 1000 for i in range(int(arg))})
    if mode == "who": return me
    return json.dumps({"hello": mode})
"""


@pytest.fixture(scope="module")
def wild(shared_daemon: Daemon) -> str:
    return shared_daemon.deploy("wild", WILD, app="wild", memory=64, timeout=2)


@pytest.fixture(scope="module")
def patient(shared_daemon: Daemon) -> str:
    """The same, with time for what ends by itself, however busy the machine is."""
    return shared_daemon.deploy("patient", WILD, app="wild", memory=64, timeout=60)


@pytest.fixture(scope="module")
def neighbour(shared_daemon: Daemon) -> str:
    return shared_daemon.deploy("neighbour", HELLO, app="neighbour")


FAILURES = {
    "raises": ("raise", 502, "function-failed", "function failed"),
    "exits": ("exit 3", 502, "function-crashed", "error receiving function response"),
    "exits at once": ("_exit 0", 502, "function-crashed", "error receiving function response"),
    "segfaults": (
        "segfault",
        502,
        "function-crashed",
        "error receiving function response",
    ),
    "stops itself": (f"signal {int(signal.SIGSTOP)}", 504, "function-timeout", "Timed out"),
    "hangs": ("hang", 504, "function-timeout", "Timed out"),
    "spins and ignores signals": ("spin", 504, "function-timeout", "Timed out"),
    "leaves a grandchild": ("tree", 504, "function-timeout", "Timed out"),
    "answers 7 MB": ("big 7000000", 502, "response-too-large", "function response body too large"),
    "writes garbage into its pipe": ("garbage", 502, "invalid-response", "invalid function response"),
    "forges a frame": ("forge", 502, "invalid-response", "invalid function response"),
    "closes its pipes": ("closepipe", 502, "function-crashed", "error receiving function response"),
    "eats memory": ("memory", 502, "function-out-of-memory", "function out of memory"),
    "has a child that eats memory": ("child-memory", 502, "function-out-of-memory", "function out of memory"),
    "answers huge headers": (
        "headers 100",
        502,
        "response-headers-too-large",
        "function response header too large",
    ),
}


@pytest.mark.parametrize("what", FAILURES)
def test_a_failing_call_gets_its_documented_error_and_the_next_call_works(
    shared_daemon: Daemon, wild: str, patient: str, neighbour: str, what: str
) -> None:
    body, status, code, message = FAILURES[what]
    function = wild if code == "function-timeout" else patient
    reply = shared_daemon.invoke(function, body)
    assert (reply.status, reply.json["code"], reply.json["message"]) == (status, code, message), reply.body
    assert reply.headers["fn-call-id"] == reply.json["call_id"]
    assert shared_daemon.invoke(neighbour, "there").json == {"hello": "there"}
    assert shared_daemon.invoke(function, "again").json == {"hello": "again"}


def test_out_of_memory_names_limit_and_peak(shared_daemon: Daemon, patient: str) -> None:
    detail = shared_daemon.invoke(patient, "memory").json["detail"]
    assert "limit 64 MiB" in detail
    assert "peak" in detail


def test_a_crash_says_how_the_worker_ended(shared_daemon: Daemon, wild: str) -> None:
    assert "exit code 3" in shared_daemon.invoke(wild, "exit 3").json["detail"]
    assert "SIGSEGV" in shared_daemon.invoke(wild, "segfault").json["detail"]


def test_a_killed_call_leaves_no_process_behind(shared_daemon: Daemon, wild: str) -> None:
    marker = f"stoker-grandchild-{os.getpid()}"
    source = f"""
import os, signal, subprocess, sys, time
def handler(ctx, data=None):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)", {marker!r}])
        os._exit(0)
    time.sleep(600)
"""
    function = shared_daemon.deploy("leaver", source, app="wild", timeout=1)

    def grandchildren() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if marker in process.cmdline():
                    found.append(process)
            except psutil.Error:
                continue
        return found

    assert shared_daemon.invoke(function).status == 504
    eventually(lambda: not grandchildren(), what="the grandchild is gone")


def test_a_flood_of_output_is_bounded_and_does_not_slow_the_answer_to_death(
    shared_daemon: Daemon, patient: str
) -> None:
    reply = shared_daemon.invoke(patient, "flood 1000")
    assert reply.body == b"flooded"


def test_concurrent_calls_run_in_instances_of_their_own(shared_daemon: Daemon, wild: str) -> None:
    source = """
import time, uuid
me = None
def handler(ctx, data=None):
    global me
    me = me or uuid.uuid4()
    time.sleep(float(data.getvalue()))
    return str(me)
"""
    function = shared_daemon.deploy("sleeper", source, app="wild", timeout=60)
    for sleep_s in ("0.5", "4", "20"):  # a busy machine takes longer to start them all
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = {reply.body for reply in pool.map(lambda s: shared_daemon.invoke(function, s), [sleep_s] * 8)}
        if len(found) == 8:
            break
    assert len(found) == 8


def test_a_warm_instance_is_used_again(shared_daemon: Daemon, wild: str) -> None:
    first = shared_daemon.invoke(wild, "who").body
    assert [shared_daemon.invoke(wild, "who").body for _ in range(10)] == [first] * 10


def test_a_client_that_leaves_takes_its_call_with_it(shared_daemon: Daemon, wild: str) -> None:
    with socket.create_connection(("127.0.0.1", shared_daemon.port)) as client:
        client.sendall(f"POST /invoke/{wild} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4\r\n\r\nhang".encode())
        busy = eventually(lambda: [i for i in shared_daemon.instances(wild) if i["state"] == "busy"], what="busy")
        pid = busy[0]["pid"]
    eventually(lambda: pid not in {i["pid"] for i in shared_daemon.instances(wild)}, what="its instance is gone")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v2/apps?" + "&".join(f"a{i}=1" for i in range(100)), None, 400),
        ("POST", "/v2/apps", b"{" * 5000, 400),
        ("POST", "/v2/apps", b"x" * (2 * 2**20), 413),
        ("GET", "/stoker/v1/functions/nobody", None, 404),
        ("GET", "/stoker/v1/functions/nobody/logs?tail=-1", None, 404),
        ("PUT", "/stoker/v1/bundles/bad", b"zip", 400),
        ("PUT", "/stoker/v1/bundles/bad:1", b"not a zip", 400),
        ("DELETE", "/stoker/v1/bundles/nobody:1", None, 404),
        ("GET", "/nowhere", None, 404),
        ("PATCH", "/v2/apps", None, 405),
    ],
)
def test_the_control_plane_refuses_nonsense_with_a_message(
    shared_daemon: Daemon, method: str, path: str, body: bytes | None, status: int
) -> None:
    reply = shared_daemon.request(method, path, body)
    assert reply.status == status, reply.body
    assert reply.json["message"]
    assert "cannot answer" not in shared_daemon.stderr()


def test_a_call_on_a_management_connection_is_answered_too(shared_daemon: Daemon, neighbour: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", shared_daemon.port)
    connection.request("GET", "/v2/apps")
    assert connection.getresponse().read().startswith(b'{"')
    connection.request("POST", f"/invoke/{neighbour}", body=b"there")
    response = connection.getresponse()
    assert (response.status, response.read()) == (200, b'{"hello": "there"}')
    assert response.headers["Fn-Call-Id"]
    connection.close()


def test_logs_are_tagged_with_their_call(shared_daemon: Daemon) -> None:
    source = (
        "import sys\ndef handler(ctx, data=None):\n    print('out', ctx.CallID())\n    print('err', file=sys.stderr)\n"
    )
    function = shared_daemon.deploy("talker", source, app="wild")
    calls = [shared_daemon.invoke(function).headers["fn-call-id"] for _ in range(3)]

    def lines(call: str) -> list[tuple[str, str]]:
        reply = shared_daemon.request("GET", f"/stoker/v1/functions/{function}/logs?call={call}")
        found = [json.loads(line) for line in reply.body.splitlines()]
        return sorted((line["stream"], line["line"]) for line in found)

    for call in calls:
        assert eventually(lambda call=call: lines(call)) == [("stderr", "err"), ("stdout", f"out {call}")]


def test_functions_die_before_the_daemon_when_the_machine_has_no_memory_left(shared_daemon: Daemon) -> None:
    function = shared_daemon.deploy("score", "import os\ndef handler(ctx, data=None):\n    return str(os.getpid())\n")
    shared_daemon.invoke(function)
    (pid, *_) = [i["pid"] for i in shared_daemon.instances(function) if i["pid"]]
    scores = [int(Path(f"/proc/{p}/oom_score_adj").read_text()) for p in (pid, shared_daemon.process.pid)]
    assert scores == [500, int(Path("/proc/self/oom_score_adj").read_text())]
