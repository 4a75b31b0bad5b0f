"""A program under the Fn contract: the bytes that it gets, what it may answer, and what is made of it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import psutil
import pytest

from tests.exec.conftest import ANY_FLOOR, deploy, floor, try_deploy
from tests.exec.programs import FRAME, RECORDER, bundle
from tests.golden.replay import parse
from tests.golden.test_replay import RECORDINGS, needs_recordings
from tests.system.daemon import PATIENCE_S, Daemon, all_gone, eventually, run_daemon

pytestmark = pytest.mark.processes


def small(answer: str) -> bytes:
    """A program that answers as the lines say."""
    return bundle(["./func"], {"func": FRAME + answer})


# -- the bytes ---------------------------------------------------------------------------------------------------------


def whole(request: bytes) -> bytes:
    """A recorded request with its call's own values blanked and the chunks of its body as one."""
    head, _, rest = request.replace(b"\r\n", b"\n").partition(b"\n\n")
    head = re.sub(rb"(?m)^(Fn-Call-Id|Fn-Deadline): .*$", rb"\1: -", head)
    body = b""
    if b"Transfer-Encoding: chunked" in head:
        while rest and (size := int(rest.partition(b"\n")[0], 16)):
            rest = rest.partition(b"\n")[2]
            body, rest = body + rest[:size], rest[size + 1 :]
    return head.strip() + b"\n\n" + body


@needs_recordings
def test_programs_get_the_bytes_that_fn_sends(shared_daemon: Daemon) -> None:
    function = deploy(shared_daemon, "recorder", bundle(["./func"], {"func": RECORDER}))
    body = {"app_id": shared_daemon.app("programs"), "fn_id": function, "name": "t", "type": "http", "source": "/t1"}
    shared_daemon.api("POST", "/v2/triggers", body)
    exchanges = parse(RECORDINGS / "11-server-to-container-wire.txt")
    assert len(exchanges) >= 6
    for exchange in exchanges:
        path = re.sub(r"^/invoke/\w+", f"/invoke/{function}", exchange.target).replace("/t/raw1/", "/t/programs/")
        recorded = exchange.reply_body.partition(b"\n")[2]
        # The recording has one line end where there were two characters; what is compared has none of either.
        sent = b"x" * 40_000 if b"\n...[" in exchange.body else exchange.body
        got = raw(shared_daemon, exchange.method, path, exchange.headers, sent)
        url = f"http://127.0.0.1:{shared_daemon.port}/t/programs/".encode()
        mine = whole(got.partition(b"\n")[2]).replace(url, b"http://127.0.0.1:18091/t/raw1/")
        wanted = whole(recorded)
        if (end := wanted.find(b"\n...[")) > 0:  # of a long body the recording has the beginning only
            mine, wanted = mine[:end], wanted[:end]
        assert mine == wanted, exchange.case


def raw(daemon: Daemon, method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> bytes:
    """The body of the reply to just these headers."""
    import socket

    sent = "".join(f"{k}: {v}\r\n" for k, v in headers if k.lower() not in ("host", "content-length", "connection"))
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{daemon.port}\r\nConnection: close\r\n{sent}"
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=PATIENCE_S) as sock:
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        sock.sendall(f"{head}{length}\r\n".encode() + body)
        got = b""
        while data := sock.recv(65536):
            got += data
    return got.partition(b"\r\n\r\n")[2]


def numbers(reply: bytes) -> tuple[int, ...]:
    return tuple(map(int, re.findall(rb"\d+", reply.partition(b"\n")[0])))


def test_a_connection_serves_one_call_after_the_other_and_is_closed_when_idle(shared_daemon: Daemon) -> None:
    function = deploy(shared_daemon, "keeps", bundle(["./func"], {"func": RECORDER}), provisioned_concurrency=floor(1))
    assert [numbers(shared_daemon.invoke(function).body) for _ in range(3)] == [(1, 1), (1, 2), (1, 3)]
    pid = eventually(lambda: shared_daemon.instances(function), what="the instance")[0]["pid"]
    sockets = [child.net_connections("unix") for child in psutil.Process(pid).children()]
    assert len(sockets) == 1
    accepted = len(sockets[0])
    eventually(
        lambda: len(psutil.Process(pid).children()[0].net_connections("unix")) < accepted, what="the connection closed"
    )
    assert numbers(shared_daemon.invoke(function).body) == (2, 1)


# -- what it sees ------------------------------------------------------------------------------------------------------

SEES = """
import json
def answer(c, head, body):
    status = dict(l.split(":\\t") for l in open("/proc/self/status").read().splitlines() if ":\\t" in l)
    wrong = {}
    for path in ("/x", "/function/x", "/etc/x"):
        try: open(path, "w")
        except OSError as exc: wrong[path] = exc.strerror
    def can(call):
        try: call()
        except OSError as exc: return exc.strerror
        return "done"
    c.sendall(reply(json.dumps({
        "environment": dict(os.environ), "cwd": START, "uid": os.getuid(), "wrong": wrong,
        "pids": sorted(int(p) for p in os.listdir("/proc") if p.isdigit()), "me": os.getpid(),
        "locks": [status[name].strip() for name in ("CapEff", "Seccomp", "NoNewPrivs")],
        "fds": sorted(os.listdir("/proc/self/fd")), "root": sorted(os.listdir("/")), "argv": sys.argv,
        "shadow": can(lambda: open("/etc/shadow")), "tmp": can(lambda: open("/tmp/x", "w").close()),
        "kill": can(lambda: os.kill(1, 9)),
    }).encode()))
serve(answer)
"""


def test_what_a_program_sees(shared_daemon: Daemon) -> None:
    program = FRAME.replace("os.chdir", "START = os.getcwd()\nos.chdir") + SEES
    archive = bundle(["./func", "a b", "$HOME"], {"func": program}, environment={"FROM_IMAGE": "1", "A": "image"})
    function = deploy(shared_daemon, "sees", archive, config={"A": "config", "FN_TYPE": "forged"})
    seen = shared_daemon.invoke(function).json
    app = shared_daemon.app("programs")
    environment = seen["environment"]
    expected = {
        "FN_APP_ID": app, "FN_APP_NAME": "programs", "FN_FN_ID": function, "FN_FN_NAME": "sees", "FN_MEMORY": "128",
        "FN_TYPE": "sync", "FN_FORMAT": "http-stream", "FROM_IMAGE": "1", "A": "config", "HOME": "/tmp",
    }  # fmt: skip
    assert {name: environment.get(name) for name in expected} == expected
    assert seen["argv"] == ["./func", "a b", "$HOME"], "no shell has read them"
    if seen["cwd"] != "/function":
        pytest.skip("this machine gives no root file systems: tests of level C")
    assert environment["FN_LISTENER"] == "unix:/tmp/iofs/lsnr.sock"
    assert seen["uid"] == 1000
    assert seen["wrong"] == dict.fromkeys(("/x", "/function/x", "/etc/x"), "Read-only file system")
    assert seen["pids"] == [seen["me"]], "itself; its init is hidden from it"
    assert seen["locks"] == ["0000000000000000", "2", "1"]
    assert (seen["shadow"], seen["tmp"]) == ("No such file or directory", "done")
    assert len(seen["fds"]) <= 6, "the three usual ones, its socket, the call's connection, the listing"
    assert not {"boot", "mnt", "srv"} & set(seen["root"]), "of the host's only what leads to the interpreter"
    assert shared_daemon.invoke(function).status == 200, "killing its init had no effect"


def test_output_is_logged_with_its_call(shared_daemon: Daemon) -> None:
    answer = (
        "def answer(c, head, body):\n    print('said', flush=True)\n    print('moaned', file=sys.stderr, flush=True)\n"
    )
    function = deploy(
        shared_daemon, "talks", small(answer + "    c.sendall(reply())\nprint('starting')\nserve(answer)\n")
    )
    call = shared_daemon.invoke(function).headers["fn-call-id"]

    def lines() -> object:
        found = shared_daemon.request("GET", f"/stoker/v1/functions/{function}/logs?call={call}").body
        return b"said" in found and b"moaned" in found

    eventually(lines, what="both lines")


# -- what it may answer ------------------------------------------------------------------------------------------------


def test_the_three_statuses(shared_daemon: Daemon) -> None:
    answer = """
def answer(c, head, body):
    c.sendall(reply(b"why: " + ME, body or b"200 OK", b"X-A: b\\r\\nConnection: Keep-Alive\\r\\n"))
serve(answer)
"""
    function = deploy(shared_daemon, "statuses", small(answer), provisioned_concurrency=floor(1))
    first = shared_daemon.invoke(function)
    assert first.status == 200
    assert first.headers["x-a"] == "b"
    assert "connection" not in first.headers
    failed = shared_daemon.invoke(function, "502 Bad Gateway")
    assert (failed.status, failed.json["message"], failed.json["code"]) == (502, "function failed", "function-failed")
    assert failed.json["detail"] == first.body.decode(), "the program's text"
    late = shared_daemon.invoke(function, "504 Gateway Timeout")
    assert (late.status, late.json["message"], late.json["code"]) == (504, "Timed out", "handler-timeout")
    assert shared_daemon.invoke(function).body == first.body, "the same process all the time"
    other = shared_daemon.invoke(function, "300 Multiple Choices")
    assert (other.status, other.json["message"]) == (502, "invalid function response")
    assert "status 300; 200, 502 and 504 are allowed" in other.json["detail"]
    again = shared_daemon.invoke(function)
    assert again.status == 200
    assert again.body != first.body, "the one that broke the contract is gone"


SHAPES = {
    "chunked": "c.sendall(CHUNKED + b'2\\r\\nab\\r\\n1\\r\\nc\\r\\n0\\r\\n\\r\\n')",
    "trailers": "c.sendall(CHUNKED + b'3\\r\\nabc\\r\\n0\\r\\nX-T: 1\\r\\n\\r\\n')",
    "until the end": "c.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\nabc'); return False",
    "closes by itself": "c.sendall(reply(b'abc', headers=b'Connection: close\\r\\n')); return False",
    "continues first": "c.sendall(b'HTTP/1.1 100 Continue\\r\\n\\r\\n' + reply(b'abc'))",
    "byte by byte": "[c.sendall(bytes([b])) for b in reply(b'abc')]",
}


def test_shapes_of_answers(shared_daemon: Daemon) -> None:
    cases = "".join(f"    if body == {name.encode()!r}:\n        {code}\n" for name, code in SHAPES.items())
    function = deploy(shared_daemon, "shapes", small(f"def answer(c, head, body):\n{cases}serve(answer)\n"))
    for _ in range(2):
        for name in SHAPES:
            reply = shared_daemon.invoke(function, name)
            assert (reply.status, reply.body) == (200, b"abc"), name
    assert b"x-t" not in b"".join(k.encode() for k in shared_daemon.invoke(function, "trailers").headers)


def test_bodies_of_every_size(shared_daemon: Daemon) -> None:
    answer = "def answer(c, head, body):\n    c.sendall(reply(body))\nserve(answer)\n"
    function = deploy(shared_daemon, "sizes", small(answer))
    for size in (0, 1, 32 * 1024 - 1, 32 * 1024, 32 * 1024 + 1, 1_000_003, 6 * 2**20):
        body = os.urandom(size)
        assert shared_daemon.invoke(function, body).body == body, size


# -- and what it may not -----------------------------------------------------------------------------------------------

INVALID, CRASHED = (502, "invalid-response"), (502, "function-crashed")
HOSTILE = {
    # name: (answer to a body "bad", status, code)
    "status 300": ("c.sendall(reply(status=b'300 Many'))", *INVALID),
    "status 500": ("c.sendall(reply(status=b'500 No'))", *INVALID),
    "two answers": ("c.sendall(reply() + reply(b'forged'))", *INVALID),
    "garbage": ("c.sendall(os.urandom(4000))", *INVALID),
    "no http": ("c.sendall(b'hello\\r\\n\\r\\n')", *INVALID),
    "two lengths": ("c.sendall(reply(headers=b'Content-Length: 1\\r\\n'))", *INVALID),
    "length and chunks": ("c.sendall(reply(headers=b'Transfer-Encoding: chunked\\r\\n'))", *INVALID),
    "bad chunk": ("c.sendall(CHUNKED + b'zz\\r\\n')", *INVALID),
    "upgrade": ("c.sendall(b'HTTP/1.1 101 S\\r\\nUpgrade: x\\r\\nConnection: upgrade\\r\\n\\r\\nxx')", *INVALID),
    "for ever 100": ("c.sendall(b'HTTP/1.1 100 C\\r\\n\\r\\n' * 50)", *INVALID),
    "huge header": ("c.sendall(b'HTTP/1.1 200 OK\\r\\nX: ' + b'x' * 9_000_000)", 502, "response-headers-too-large"),
    "many headers": ("c.sendall(reply(headers=b''.join(b'X-%d: 1\\r\\n' % i for i in range(3000))))",
                     502, "response-headers-too-large"),
    "huge body": ("c.sendall(reply(b'x' * (7 << 20)))", 502, "response-too-large"),
    "huge chunks": ("c.sendall(CHUNKED);"
                    "[c.sendall(b'100000\\r\\n' + b'x' * 2**20 + b'\\r\\n') for _ in range(9)]",
                    502, "response-too-large"),
    "chunk extensions": ("c.sendall(CHUNKED + b'1;');"
                         "[c.sendall(b'x' * 2**20) for _ in range(99)]", *INVALID),
    "cut short": ("c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 9\\r\\n\\r\\nabc'); return False", *CRASHED),
    "no answer": ("return False", *CRASHED),
    "exit": ("os._exit(0)", *CRASHED),
    "kills itself": ("os.kill(os.getpid(), 9)", *CRASHED),
    "stops reading": ("c.shutdown(socket.SHUT_RD); c.close(); s.close(); os._exit(3)", *CRASHED),
    "hangs": ("time.sleep(99)", 504, "function-timeout"),
    "drips": ("c.sendall(b'HTTP/1.1 200 OK\\r\\nX: ');[(time.sleep(.1), c.sendall(b'x')) for _ in range(999)]",
              504, "function-timeout"),
    "memory": ("x = [b'x' * (100 << 20)] + [(time.sleep(.004), b'x' * 2**20) for _ in range(200)]; c.sendall(reply())",
               502, "function-out-of-memory"),
    "forks away": ("pid = os.fork()\n        if pid: os._exit(1)\n        os.setsid(); time.sleep(99)", *CRASHED),
}  # fmt: skip


@pytest.fixture(scope="module")
def hostile(shared_daemon: Daemon) -> dict[bool, str]:
    """By whether it is to run into its timeout: what ends by itself has time, however busy the machine is."""
    cases = "".join(f"    if body == {name.encode()!r}:\n        {code[0]}\n" for name, code in HOSTILE.items())
    text = f"def answer(c, head, body):\n{cases}    if body == b'good': c.sendall(reply(b'fine'))\nserve(answer)\n"
    return {late: deploy(shared_daemon, f"hostile-{late}".lower(), small(text), timeout=1 if late else 60)
            for late in (True, False)}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_answer(shared_daemon: Daemon, hostile: dict[bool, str], name: str) -> None:
    _, status, code = HOSTILE[name]
    function = hostile[status == 504]
    reply = shared_daemon.invoke(function, name)
    assert (reply.status, reply.json["code"]) == (status, code), reply.body
    assert b"forged" not in reply.body
    good = shared_daemon.invoke(function, "good")
    assert (good.status, good.body) == (200, b"fine"), "the next call works"


def test_bytes_after_the_answer_reach_no_other_call(shared_daemon: Daemon) -> None:
    """A second answer that comes when the first has been taken is seen before the next call, whose answer it is not."""
    answer = """
def answer(c, head, body):
    c.sendall(reply(ME))
    if body == b"bad":
        time.sleep(.2)
        c.sendall(reply(b"forged"))
serve(answer)
"""
    function = deploy(shared_daemon, "late", small(answer), provisioned_concurrency=floor(1))
    first = shared_daemon.invoke(function, "bad").body
    took = {item["id"] for item in shared_daemon.instances(function) if item["calls"]}  # none, if that was slow
    eventually(lambda: not took & {i["id"] for i in shared_daemon.instances(function)}, what="its instance is gone")
    assert shared_daemon.invoke(function).body not in (first, b"forged")


STARTS = {
    # name: (program, part of the detail)
    "a link out of the directory": ("os.symlink('/etc/hostname', name)", "must be the bare name of a socket"),
    "a link up": ("s = listen(link=False); os.symlink('../iofs/own.sock', name)", "must be the bare name of a socket"),
    "a link to nothing": ("os.symlink('none', name)", "No such file or directory"),
    "a link to a link": ("os.symlink('b', 'a'); os.symlink('a', name)", "is not a socket"),
    "a file": ("open(name, 'w')", "is not a socket"),
    "a directory": ("os.mkdir(name)", "is not a socket"),
    "ends": ("raise SystemExit(7)", "exit code 7"),
    "is killed": ("os.kill(os.getpid(), 15)", "the program ended before it listened"),
}


@pytest.mark.parametrize("name", STARTS)
def test_a_program_that_cannot_be_called(shared_daemon: Daemon, name: str) -> None:
    program, says = STARTS[name]
    reply = try_deploy(shared_daemon, name.replace(" ", "-"), small(f"{program}\ntime.sleep(99)\n"))
    assert reply.status == 422, reply.body
    assert says in reply.json["detail"], reply.body
    assert "Container failed to initialize" in reply.json["message"]


def test_a_program_that_binds_and_never_listens(shared_daemon: Daemon) -> None:
    """As in Fn the socket is all that is looked for; its calls say what is wrong with it."""
    program = "s = socket.socket(socket.AF_UNIX)\ns.bind('own.sock')\nos.symlink('own.sock', name)\ntime.sleep(99)\n"
    function = deploy(shared_daemon, "deaf", small(program))
    reply = shared_daemon.invoke(function)
    assert (reply.status, reply.json["code"]) == (502, "function-crashed"), reply.body
    assert "the program takes no connection: Connection refused" in reply.json["detail"]


def test_a_program_that_listens_late_is_waited_for(shared_daemon: Daemon) -> None:
    program = """
s = socket.socket(socket.AF_UNIX)
s.bind("own.sock")
os.symlink("own.sock", name)
time.sleep(.4)
s.listen()
serve(lambda c, head, body: c.sendall(reply(b"late")), s)
"""
    function = deploy(shared_daemon, "late-listener", small(program), idle_timeout=60)
    shared_daemon.api("POST", f"/stoker/v1/functions/{function}/restart", {})
    assert shared_daemon.invoke(function).body == b"late"


def test_a_client_that_leaves_ends_the_call_and_its_instance(shared_daemon: Daemon) -> None:
    import socket

    answer = "def answer(c, head, body):\n    time.sleep(99)\nserve(answer)\n"
    function = deploy(shared_daemon, "left", small(answer), provisioned_concurrency=floor(1), timeout=60)
    before = {item["id"] for item in shared_daemon.instances(function)}
    with socket.create_connection(("127.0.0.1", shared_daemon.port), timeout=PATIENCE_S) as sock:
        sock.sendall(f"POST /invoke/{function} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode())
        busy = eventually(
            lambda: {i["id"] for i in shared_daemon.instances(function) if i["state"] == "busy"},
            what="the call running",
        )
    assert busy <= before
    eventually(lambda: not busy & {i["id"] for i in shared_daemon.instances(function)}, what="its instance gone")


def test_a_socket_that_comes_too_late(data: Path) -> None:
    with run_daemon(data, config="limits: {start_s: 1}\n") as daemon:
        reply = try_deploy(daemon, "never", small("time.sleep(99)\n"))
        assert reply.status == 422
        assert "Container initialization timed out" in reply.json["message"]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["nosuchprogram"], "cannot start nosuchprogram: No such file or directory"),
        (["./none"], "cannot start ./none: No such file or directory"),
        (["./text"], "cannot start ./text: Exec format error"),
        (["/function"], "cannot start /function: Permission denied"),
    ],
)
def test_a_program_that_cannot_be_started(shared_daemon: Daemon, command: list[str], says: str) -> None:
    reply = try_deploy(shared_daemon, f"no-{len(shared_daemon.deployed)}", bundle(command, {"text": "\0no program"}))
    assert reply.status == 422
    assert says in reply.json["detail"]


def test_a_swapped_socket_does_not_lead_the_daemon_elsewhere(shared_daemon: Daemon) -> None:
    """After it was found ready it replaces socket and link by links to sockets of the host: the first one counts."""
    answer = """
def answer(c, head, body):
    c.sendall(reply(b"mine", headers=b"Connection: close\\r\\n"))
    for path in (name, "own.sock"):
        os.unlink(path) if os.path.lexists(path) else None
        os.symlink("%s", path)
    return False
serve(answer)
"""
    import socket
    import tempfile

    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as trap:
        trap.bind(f"{directory}/trap")
        trap.listen()
        trap.settimeout(0.2)
        function = deploy(shared_daemon, "swaps", small(answer % f"{directory}/trap"), provisioned_concurrency=floor(1))
        for _ in range(3):
            assert shared_daemon.invoke(function).body == b"mine"
        with pytest.raises(TimeoutError):
            trap.accept()


# -- the life of its instances -----------------------------------------------------------------------------------------

GRANDCHILD = """
import subprocess
subprocess.Popen(["sleep", "99"], start_new_session=True)
def answer(c, head, body):
    c.sendall(reply(ME))
serve(answer)
"""


def test_the_floor_is_kept_and_the_rest_idles_out(data: Path) -> None:
    with run_daemon(data, config=ANY_FLOOR) as daemon:
        function = deploy(daemon, "floor", small(GRANDCHILD), provisioned_concurrency=floor(2), idle_timeout=1)
        eventually(lambda: len(daemon.instances(function)) == 2, what="two provisioned instances")
        pids = {item["pid"] for item in daemon.instances(function)}
        victim = next(iter(pids))
        psutil.Process(victim).kill()
        eventually(
            lambda: (
                len(daemon.instances(function)) == 2 and victim not in {i["pid"] for i in daemon.instances(function)}
            ),
            what="a new one in place of the killed one",
        )
        assert daemon.invoke(function).status == 200
        demand = deploy(daemon, "demand", small(GRANDCHILD), idle_timeout=1)
        assert daemon.invoke(demand).status == 200
        tree = [
            p
            for item in daemon.instances(demand)
            if item["pid"]
            for p in psutil.Process(item["pid"]).children(recursive=True)
        ]
        assert tree
        eventually(lambda: not daemon.instances(demand), what="idled out")
        assert all_gone(tree) == []
        run = data / "run" / "tmp"
        assert [p for p in run.rglob("*") if demand in str(p)] == []


def test_a_killed_daemon_leaves_nothing(data: Path) -> None:
    with run_daemon(data, config=ANY_FLOOR) as daemon:
        function = deploy(daemon, "f", small(GRANDCHILD), provisioned_concurrency=floor(2))
        assert daemon.invoke(function).status == 200
        tree = daemon.workers()
        assert any(p.name() == "sleep" for p in tree)
        daemon.process.kill()
        assert all_gone(tree) == []
    with run_daemon(data, config=ANY_FLOOR) as daemon:
        assert daemon.invoke(function).status == 200, "it runs again after the restart"


def test_many_calls_at_once_and_each_gets_its_own_answer(shared_daemon: Daemon) -> None:
    from concurrent.futures import ThreadPoolExecutor

    answer = "def answer(c, head, body):\n    c.sendall(reply(body))\nserve(answer)\n"
    function = deploy(shared_daemon, "crowd", small(answer), memory=64)
    with ThreadPoolExecutor(8) as pool:
        bodies = [b"%d" % i for i in range(200)]
        assert [r.body for r in pool.map(lambda b: shared_daemon.invoke(function, b), bodies)] == bodies
