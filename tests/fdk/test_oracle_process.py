"""Whole processes under the official FDK and under ours: start, exit, environment, HTTP, log frames, fixtures."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fdk import oracle
from tests.fdk.functions import values

pytestmark = [pytest.mark.slow, pytest.mark.processes]

VALUES = Path(values.__file__)
HELLO = "def handler(ctx, data=None):\n    return 'hello'\n"
Both = tuple[list[str], list[str]]


@pytest.fixture
def both(official_fdk: list[str]) -> Both:
    return official_fdk, oracle.ours()


def answers(
    fdks: Sequence[list[str]], tmp_path: Path, source: str, *requests: bytes, **options: object
) -> list[list[oracle.Answer]]:
    """What each FDK answers to each request, with a process of its own each."""
    file = tmp_path / "func.py"
    file.write_text(source)
    found = []
    for number, fdk in enumerate(fdks):
        with oracle.serve(fdk, file, entrypoint=None, directory=tmp_path / str(number), **options) as function:  # type: ignore[arg-type]
            found.append([function.send(request) for request in requests])
    return found


CALL = oracle.request([])


@pytest.mark.parametrize(
    ("source", "body"),
    [
        ("x = 1\n", b"module 'func' has no attribute 'handler'"),
        ("handler = None\n", b"'NoneType' object is not callable"),
        ("def handler(ctx):\n    return 'x'\n", b"handler() got an unexpected keyword argument 'data'"),
        ("def handler(:\n", b"(func.py, line 1)"),
        ("import no_such_module\n", b"No module named 'no_such_module'"),
        ("n = len(open('count', 'a').write('x') * 'x') // 0\n", b"division"),
        ("from fdk import nothing_like_it\n", b"cannot import name 'nothing_like_it' from 'fdk'"),
        ("def handler(*args, **more):\n    return repr(sorted(more)) + str(len(args))\n", b"['data']1"),
        ("class H:\n    def __call__(self, ctx, data):\n        return 'called'\nhandler = H()\n", b"called"),
        ("import functools\ndef f(a, ctx, data):\n    return a\nhandler = functools.partial(f, 'p')\n", b"p"),
    ],
)
def test_a_module_with_a_flaw_fails_its_calls_and_not_its_start(
    both: Both, tmp_path: Path, source: str, body: bytes
) -> None:
    official, http = answers(both, tmp_path, source, CALL, CALL)
    official, http = ([_without_paths(answer) for answer in found] for found in (official, http))
    assert official == http
    assert body in http[0].body


def _without_paths(answer: oracle.Answer) -> oracle.Answer:
    body = re.sub(rb"\(/[^)]*/fdk/__init__\.py\)", b"(...)", answer.body)
    headers = tuple(pair for pair in answer.headers if pair[0] != "content-length")
    return oracle.Answer(answer.status, headers, body)


def test_a_module_is_imported_inside_the_loop_by_the_entry_point_only(both: Both, tmp_path: Path) -> None:
    """early-import: a worker's template has no loop, and a flaw of the module is a flaw of its start."""
    source = "import asyncio\nloop = asyncio.get_running_loop()\n" + HELLO
    official, http = answers(both, tmp_path, source, CALL)
    assert official == http
    assert http[0].status == 200
    with oracle.run(tmp_path / "func.py", entrypoint="handler", directory=tmp_path / "runner") as runner:
        assert runner.call([]) == oracle.NO_ANSWER
        assert "RuntimeError: no running event loop" in runner.logged()


def test_uvloop_is_not_imported_unasked(both: Both, tmp_path: Path) -> None:
    """uvloop: the official one imports it when it is there."""
    (tmp_path / "uvloop.py").write_text("import asyncio\nEventLoopPolicy = asyncio.DefaultEventLoopPolicy\n")
    source = "import sys\ndef handler(ctx, data=None):\n    return str('uvloop' in sys.modules)\n"
    official, http = answers(both, tmp_path, source, CALL, modules=tmp_path)
    assert (official[0].body, http[0].body) == (b"True", b"False")


def test_a_link_that_is_missing_beside_its_socket_does_not_stop_the_start(both: Both, tmp_path: Path) -> None:
    """stale-sockets: the official one fails to bind."""
    (tmp_path / "func.py").write_text(HELLO)
    for number, fdk in enumerate(both):
        home = tmp_path / str(number)
        home.mkdir()
        (home / "phonylsnr.sock").touch()
        with ExitStack() as stack:
            if fdk != both[1]:
                stack.enter_context(pytest.raises(AssertionError, match="Address already in use"))
            function = stack.enter_context(oracle.serve(fdk, tmp_path / "func.py", entrypoint=None, directory=home))
            assert function.send(CALL).body == b"hello"


@pytest.mark.parametrize(
    "statement",
    [
        "import fdk.async_http.app",
        "import fdk.scripts.fdk",
        "from fdk.runner import with_deadline",
        "from fdk.customer_code import Python37DelayedImport",
        "from fdk import context; context.context_from_format('json')",
    ],
)
def test_what_is_inside_the_official_one_is_not_in_ours(both: Both, tmp_path: Path, statement: str) -> None:
    """internals"""
    python = Path(both[0][0]).parent / "python"
    codes = []
    for command, path in ((os.fspath(python), ""), (sys.executable, os.fspath(oracle.REPOSITORY))):
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": path}
        ended = subprocess.run([command, "-c", statement], env=env, cwd=tmp_path, capture_output=True, timeout=60)
        codes.append(ended.returncode)
    assert codes == [0, 1]


def test_a_connection_is_kept_by_the_official_one_that_was_to_be_closed(both: Both, tmp_path: Path) -> None:
    """connection-close"""
    request = CALL.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    (tmp_path / "func.py").write_text(HELLO)
    kept = []
    for number, fdk in enumerate(both):
        with (
            oracle.serve(fdk, tmp_path / "func.py", entrypoint=None, directory=tmp_path / str(number)) as function,
            function.connect() as sock,
        ):
            sock.sendall(request)
            assert oracle.parse(oracle.read_one(sock)).body == b"hello"
            try:
                sock.sendall(CALL)
                kept.append(oracle.parse(oracle.read_one(sock)).body == b"hello")
            except BrokenPipeError:
                kept.append(False)
    assert kept == [True, False]


def test_tasks_go_on_between_the_calls_of_the_entry_point(both: Both, tmp_path: Path) -> None:
    """background-tasks: in a worker they wait for the next call (test_runner.py)."""
    source = (
        "import asyncio\nasync def task():\n    for _ in range(10):\n        await asyncio.sleep(0)\n"
        "    print('the task has ended')\n"
        "async def handler(ctx, data=None):\n    handler.task = asyncio.create_task(task())\n"
    )
    (tmp_path / "func.py").write_text(source)
    for number, fdk in enumerate(both):
        with oracle.serve(fdk, tmp_path / "func.py", entrypoint=None, directory=tmp_path / str(number)) as function:
            function.send(CALL)
            until = time.monotonic() + oracle.WAIT_S
            while "the task has ended" not in function.logged():
                assert time.monotonic() < until
                time.sleep(0.01)


def test_a_failed_import_is_tried_again(both: Both, tmp_path: Path) -> None:
    source = (
        "import os\nif not os.path.exists('second'):\n    open('second', 'w')\n    raise ValueError('first')\n" + HELLO
    )
    official, http = answers(both, tmp_path, source, CALL, CALL)
    assert official == http
    assert [answer.status for answer in http] == [502, 200]


EXITING = pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="on Python 3.12 and later the official FDK hangs when a handler leaves"
)


@pytest.mark.parametrize("which", [pytest.param(0, marks=EXITING, id="official"), pytest.param(1, id="ours")])
@pytest.mark.parametrize(
    ("statement", "code"),
    [("sys.exit(3)", 3), ("sys.exit()", 0), ("sys.exit('text')", 1), ("os._exit(4)", 4), ("raise SystemExit(5)", 5)],
)
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_leaving_in_a_handler_ends_the_process(
    both: Both, tmp_path: Path, kind: str, statement: str, code: int, which: int
) -> None:
    """sys-exit"""
    file = tmp_path / "func.py"
    file.write_text(f"import os, sys\n{kind} handler(ctx, data=None):\n    {statement}\n")
    with oracle.serve(both[which], file, entrypoint=None, directory=tmp_path / "run") as function:
        assert function.send(CALL) == oracle.NO_ANSWER
        assert function.process.wait(oracle.WAIT_S) == code


@pytest.mark.parametrize("which", [pytest.param(0, marks=EXITING, id="official"), pytest.param(1, id="ours")])
def test_leaving_at_import_ends_the_process(both: Both, tmp_path: Path, which: int) -> None:
    assert answers((both[which],), tmp_path, "raise SystemExit(5)\n", CALL) == [[oracle.NO_ANSWER]]


B3 = [("X-B3-TraceId", "80f198ee56343ba8"), ("X-B3-SpanId", "e457b5a2e4d86bd1"), ("X-B3-Flags", "1")]


@pytest.mark.parametrize(
    ("env", "headers"),
    [
        ({"OCI_TRACING_ENABLED": "1", "OCI_TRACE_COLLECTOR_URL": "http://collector/x"}, [*B3, ("X-B3-Sampled", "1")]),
        ({"OCI_TRACING_ENABLED": "1"}, [*B3, ("X-B3-Sampled", "0"), ("X-B3-ParentSpanId", "05e3ac9a4f6e3b90")]),
        ({"OCI_TRACING_ENABLED": "1"}, [*B3, ("X-B3-Sampled", "True")]),
        ({"OCI_TRACING_ENABLED": "0", "OCI_TRACE_COLLECTOR_URL": "http://collector/x"}, B3),
        ({"OCI_TRACING_ENABLED": "yes"}, B3),
        ({"FN_APP_NAME": "", "FN_FN_NAME": "UPPER"}, B3),
    ],
)
def test_tracing_is_told_to_the_handler(
    both: Both, tmp_path: Path, env: dict[str, str], headers: list[tuple[str, str]]
) -> None:
    headers = [("X-Case", "calls_every_method_of_its_context"), *headers]
    found = []
    for number, fdk in enumerate(both):
        with oracle.serve(fdk, VALUES, entrypoint=None, directory=tmp_path / str(number), env=env) as function:
            found.append(function.call(headers))
    with oracle.run(VALUES, entrypoint="handler", directory=tmp_path / "runner", env=env) as runner:
        env_of_http = found[1].body.replace(b'"FN_FORMAT": "http-stream", ', b"")
        assert runner.call(headers).body.replace(b'"FN_FORMAT": "http-stream", ', b"") == env_of_http
    assert found[0] == found[1]


def test_ids_are_made_when_the_caller_sends_none(both: Both, tmp_path: Path) -> None:
    source = (
        "def handler(ctx, data=None):\n    t = ctx.TracingContext()\n"
        "    return repr([len(i) for i in (t.trace_id(), t.span_id(), t.zipkin_attrs().span_id)]"
        " + [t.parent_span_id(), t.is_sampled(), t.zipkin_attrs().parent_span_id == t.span_id()])\n"
    )
    official, http = answers(both, tmp_path, source, CALL, env={"OCI_TRACING_ENABLED": "1"})
    assert official == http
    assert http[0].body == b"[16, 16, 16, None, True, True]"


def test_without_its_environment_the_process_does_not_start(both: Both, tmp_path: Path) -> None:
    file = tmp_path / "func.py"
    file.write_text(HELLO)
    right = {"FN_FORMAT": "http-stream", "FN_LISTENER": f"unix:{tmp_path}/s"}
    for wrong in ({"FN_LISTENER": None}, {"FN_FORMAT": None}, {"FN_FORMAT": "json"}, {"FN_LISTENER": "unix:/"}):
        found = []
        for fdk in both:
            env = {k: v for k, v in {**right, **wrong}.items() if v is not None}
            env |= {"PYTHONPATH": os.fspath(oracle.REPOSITORY)} if fdk == both[1] else {}
            ended = subprocess.run([*fdk, file], env=env, capture_output=True, text=True, timeout=oracle.WAIT_S)
            found.append((ended.returncode, ended.stdout, ended.stderr.strip()[:20]))
        assert found[0] == found[1], wrong
        assert found[0][0] == 1


def http(method: str, target: str, *lines: str, body: bytes = b"") -> bytes:
    head = "\r\n".join([f"{method} {target} HTTP/1.1", "Host: localhost", *lines, f"Content-Length: {len(body)}"])
    return f"{head}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    "request_bytes",
    [
        http("POST", "/call?a=b&c"),
        http("POST", "/other"),
        http("POST", "/call/"),
        http("GET", "/call"),
        http("OPTIONS", "/call"),
        http("POST", "/call", body=b"x" * 70_000),
        http("POST", "/call", "Expect: 200-ok"),
        b"POST /call HTTP/1.0\r\n\r\n",
        b"POST /call HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n0\r\nTrailer: t\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"POST /call HTTP/1.1\r\nBad Name: x\r\n\r\n",
        b"POST /call HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST /call HTTP/1.1\r\nContent-Length: 100000001\r\n\r\n",
        b"POST /call HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        b"POST /call HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /call HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_http_is_answered_alike(both: Both, tmp_path: Path, request_bytes: bytes) -> None:
    official, ours = answers(both, tmp_path, "def handler(ctx, data=None):\n    return data.read()\n", request_bytes)
    assert official == ours


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_a_wrong_method_is_answered_with_a_true_length(both: Both, tmp_path: Path, method: str) -> None:
    """method-not-allowed: the official answer says Content-Length 0 and has a body."""
    official, ours = answers(both, tmp_path, HELLO, http(method, "/call"))
    assert (official[0].status, official[0].body) == (ours[0].status, ours[0].body)
    assert dict(official[0].headers)["content-length"] == "0"
    assert dict(ours[0].headers)["content-length"] == str(len(ours[0].body))


def test_several_requests_share_a_connection(both: Both, tmp_path: Path) -> None:
    file = tmp_path / "func.py"
    file.write_text("n = 0\ndef handler(ctx, data=None):\n    global n\n    n += 1\n    return f'{n} {ctx.CallID()}'\n")
    found = []
    for number, fdk in enumerate(both):
        with (
            oracle.serve(fdk, file, entrypoint=None, directory=tmp_path / str(number)) as function,
            function.connect() as sock,
        ):
            got = []
            for call in range(3):
                sock.sendall(oracle.request([], b"x" * call, call_id=f"01C{call}"))
                got.append(oracle.parse(oracle.read_one(sock)))
            found.append(got)
    assert found[0] == found[1]
    assert [answer.body for answer in found[1]] == [b"1 01C0", b"2 01C1", b"3 01C2"]


def test_async_calls_overlap(both: Both, tmp_path: Path) -> None:
    file = tmp_path / "func.py"
    file.write_text(
        "import asyncio\nevent = asyncio.Event()\nasync def handler(ctx, data=None):\n"
        "    if ctx.CallID() == 'second':\n        event.set()\n    await event.wait()\n    return ctx.CallID()\n"
    )
    for number, fdk in enumerate(both):
        with (
            oracle.serve(fdk, file, entrypoint=None, directory=tmp_path / str(number)) as function,
            function.connect() as sock,
        ):
            sock.sendall(oracle.request([], call_id="first"))
            assert function.call([], call_id="second").body == b"second"
            assert oracle.parse(oracle.read_one(sock)).body == b"first"


@pytest.mark.parametrize("header", ["Fn-Call-Id", "X-Frame", "X-Missing"])
def test_log_frames(both: Both, tmp_path: Path, header: str) -> None:
    file = tmp_path / "func.py"
    file.write_text("import logging\ndef handler(ctx, data=None):\n    print('printed')\n    logging.info('logged')\n")
    env = {"FN_LOGFRAME_NAME": "frame", "FN_LOGFRAME_HDR": header}
    sent = [("X-Frame", "one")]
    logs = []
    for number, fdk in enumerate(both):
        with oracle.serve(fdk, file, entrypoint=None, directory=tmp_path / str(number), env=env) as function:
            function.call(sent)
            logs.append(function.logged())
    with oracle.run(file, entrypoint="handler", directory=tmp_path / "runner", env=env) as runner:
        runner.call(sent)
        logs.append(runner.logged())
    assert logs[0] == logs[1] == logs[2]
    assert ("frame=" in logs[0]) == (header != "X-Missing")


def test_a_process_that_is_told_to_stop_does(both: Both, tmp_path: Path) -> None:
    file = tmp_path / "func.py"
    file.write_text(HELLO)
    codes = []
    for number, fdk in enumerate(both):
        with oracle.serve(fdk, file, entrypoint=None, directory=tmp_path / str(number)) as function:
            function.send(CALL)
            function.process.send_signal(signal.SIGTERM)
            codes.append(function.process.wait(oracle.WAIT_S))
            assert "Traceback" not in function.logged()
    assert codes == [0, 0]


FIXTURES = Path(__file__).parent / "functions" / "uses_fixtures.py"


def test_fixtures_give_what_the_official_ones_give(both: Both) -> None:
    python = Path(both[0][0]).parent / "python"
    outputs = []
    for command, path in ((os.fspath(python), ""), (sys.executable, os.fspath(oracle.REPOSITORY))):
        env = {**oracle.ENVIRONMENT, "PATH": os.environ["PATH"], "PYTHONPATH": path}
        ended = subprocess.run([command, FIXTURES], env=env, capture_output=True, text=True, timeout=oracle.WAIT_S)
        assert ended.returncode == 0, ended.stderr
        outputs.append(ended.stdout)
    assert outputs[0] == outputs[1]
    assert outputs[0].count("\n") > 15


CONFTEST = """
import sys, types
import fdk
assert fdk.__file__.startswith({repository!r}), fdk.__file__
tests = types.ModuleType("fdk.tests")
tests.__path__ = [{here!r}]
sys.modules["fdk.tests"] = fdk.tests = tests
"""
INTERNALS = {"test_protocol.py", "test_py352plus", "test_py37"}
"""Their server's and their loader's insides, which ours does not have (internals)."""


def test_the_official_fdk_passes_its_own_tests_with_ours_in_its_place(both: Both, tmp_path: Path) -> None:
    """Their test files stay where they are installed but for a copy of the moment."""
    python = Path(both[0][0]).parent / "python"
    (theirs,) = (python.parent.parent / "lib").glob("python3*/site-packages/fdk/tests")
    for file in theirs.glob("*.py"):
        if file.name not in {*INTERNALS, "__init__.py", "tcp_debug.py"}:
            (tmp_path / file.name).write_text(file.read_text())
    repository, here = os.fspath(oracle.REPOSITORY), os.fspath(tmp_path)
    (tmp_path / "conftest.py").write_text(CONFTEST.format(repository=repository, here=here))
    ended = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": repository, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    failed = set(re.findall(r"^FAILED \S+::(\w+)", ended.stdout, re.MULTILINE))
    assert failed <= INTERNALS, ended.stdout
    passed = re.search(r"(\d+) passed", ended.stdout)
    assert passed, ended.stdout + ended.stderr
    assert int(passed[1]) >= 25
