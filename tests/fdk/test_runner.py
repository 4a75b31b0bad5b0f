"""`fdk.runner`, without the official FDK beside it."""

from __future__ import annotations

import ast
import asyncio
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fdk import context, fixtures, response, runner
from tests.fdk import oracle

FDK = oracle.REPOSITORY / "fdk"


@pytest.fixture(autouse=True)
def loop() -> Iterator[None]:
    """pytest has asyncio imported, so a runner in this process takes the current loop: one that is closed again."""
    made = asyncio.new_event_loop()
    asyncio.set_event_loop(made)
    yield
    asyncio.set_event_loop(None)
    made.close()


def made(source: str, name: str = "func") -> types.ModuleType:
    module = types.ModuleType(name)
    exec(compile(source, "/app/func.py", "exec"), module.__dict__)
    return module


def call(handler: Any, **options: Any) -> runner.Outcome:
    module = types.ModuleType("func")
    module.handler = handler  # type: ignore[attr-defined]
    given: dict[str, Any] = {"call_id": "01A", "deadline": "2030-01-02T03:04:05Z", "headers": [], "body": b""}
    return runner.Runner(module, "handler").call(**{**given, **options})


def alone(code: str) -> str:
    """What ``code`` prints in a Python of its own, which has not imported half of the world as this one has."""
    env = {"PYTHONPATH": os.fspath(oracle.REPOSITORY), "PATH": os.environ["PATH"]}
    ended = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_an_answer_has_status_headers_and_body() -> None:
    def handler(ctx: context.InvokeContext, data: Any = None) -> response.Response:
        return response.Response(ctx, data.read() + b"!", headers={"X-One": "1"}, status_code=201)

    outcome = call(handler, body=b"hello")
    assert (outcome.status, outcome.body, outcome.failure) == (200, b"hello!", None)
    assert outcome.headers[0] == ("x-one", "1")
    assert outcome.headers[-1] == ("content-type", "text/plain")
    assert "content-length" not in dict(outcome.headers)


def test_the_handler_is_looked_up_by_name_at_each_call() -> None:
    module = made("def handler(ctx, data=None):\n    return 'one'\n")
    run = runner.Runner(module, "handler")
    one = run.call(call_id="a", deadline="", headers=[], body=b"")
    module.handler = lambda ctx, data: "two"  # type: ignore[attr-defined]
    two = run.call(call_id="b", deadline="", headers=[], body=b"")
    del module.handler
    none = run.call(call_id="c", deadline="", headers=[], body=b"")
    assert (one.body, two.body) == (b"one", b"two")
    assert (none.status, none.body) == (502, b"module 'func' has no attribute 'handler'")


def test_call_id_and_deadline_stand_for_their_headers_and_the_last_of_a_repeated_header_counts() -> None:
    def handler(ctx: context.InvokeContext, data: Any = None) -> str:
        return f"{ctx.CallID()} {ctx.Deadline()} {ctx.Headers()}"

    outcome = call(handler, headers=[["Fn-Call-Id", "forged"], ["X-A", "1"], ["x-a", "2"]])
    assert outcome.body.decode() == (
        "01A 2030-01-02T03:04:05Z {'fn-call-id': '01A', 'x-a': '2', 'fn-deadline': '2030-01-02T03:04:05Z'}"
    )


def test_a_failure_has_the_authors_part_of_the_traceback() -> None:
    module = made("def deeper():\n    raise ValueError('bang')\ndef handler(ctx, data=None):\n    deeper()\n")
    failure = runner.Runner(module, "handler").call(call_id="a", deadline="", headers=[], body=b"").failure
    assert failure is not None
    assert (failure.kind, failure.message) == ("exception", "bang")
    lines = failure.traceback.splitlines()
    assert [line for line in lines if line.startswith("  File")] == [
        '  File "/app/func.py", line 4, in handler',
        '  File "/app/func.py", line 2, in deeper',
    ]
    assert lines[-1] == "ValueError: bang"


def test_a_timeout_is_told_from_other_failures() -> None:
    def handler(ctx: Any, data: Any = None) -> None:
        raise TimeoutError("slow")

    outcome = call(handler)
    assert outcome.status == 504
    assert outcome.failure is not None
    assert outcome.failure.kind == "timeout"


def test_the_texts_of_a_failure_are_bounded_and_the_answer_is_not() -> None:
    def handler(ctx: Any, data: Any = None) -> None:
        raise ValueError("x" * 1_000_000 + "end")

    outcome = call(handler)
    assert outcome.failure is not None
    assert len(outcome.failure.message) == len(outcome.failure.traceback) == runner.FAILURE_CHARS_MAX
    assert outcome.failure.message.endswith("end")
    assert len(outcome.body) == 1_000_003


@pytest.mark.parametrize(
    "headers", [{"X-A": "1\r\nX-B: 2"}, {"X-A": "1\n"}, {"X-A": "a\0b"}, {"X A": "1"}, {"": "1"}, {"X-A": "\ud800"}]
)
def test_a_header_that_cannot_be_sent_is_an_invalid_response(headers: dict[str, str]) -> None:
    outcome = call(lambda ctx, data: response.Response(ctx, "x", headers=headers))
    assert outcome.status == 502
    assert outcome.failure is not None
    assert outcome.failure.kind == "invalid-response"
    for name, value in outcome.headers:
        assert not set(name + value) & set("\r\n\0")


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("is_async", [False, True])
def test_what_ends_a_process_passes_through(kind: type[BaseException], is_async: bool) -> None:
    keyword = "async def" if is_async else "def"
    module = made(f"{keyword} handler(ctx, data=None):\n    raise {kind.__name__}(3)\n")
    with pytest.raises(kind):
        runner.Runner(module, "handler").call(call_id="a", deadline="", headers=[], body=b"")


def test_importing_the_fdk_is_cheap() -> None:
    heavy = "asyncio http ssl socket selectors typing inspect dataclasses random datetime email json concurrent ast"
    code = f"""
import sys
from fdk import response, context, headers, constants, errors, log, runner, customer_code
import fdk
print(sorted(set({heavy.split()!r}) & set(sys.modules)))
"""
    assert alone(code) == "[]"


def test_the_fdk_imports_nothing_but_the_standard_library() -> None:
    found = set()
    for file in FDK.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                found.add((node.module or "").partition(".")[0])
    assert found - sys.stdlib_module_names == {"fdk"}


PLAIN = """
import sys, types
from fdk import runner
module = types.ModuleType("func")
exec({source!r}, module.__dict__)
runner.prepare(module, "handler")
run = runner.Runner(module, "handler")
print("asyncio" in sys.modules)
for number in range(2):
    print(run.call(call_id=str(number), deadline="", headers=[], body=b"").body.decode())
    print("asyncio" in sys.modules)
"""


def answers(source: str) -> list[str]:
    """asyncio imported?, and then the answer and the same question for each of two calls; no asyncio around it."""
    return alone(PLAIN.format(source=source)).splitlines()


def test_a_plain_handler_never_imports_asyncio() -> None:
    assert answers("def handler(ctx, data=None): return ctx.CallID()") == ["False", "0", "False", "1", "False"]


def test_prepare_imports_asyncio_for_an_async_handler() -> None:
    assert answers("async def handler(ctx, data=None): return ctx.CallID()") == ["True", "0", "True", "1", "True"]


def test_a_plain_handler_that_returns_a_coroutine_gets_a_loop() -> None:
    source = "async def work(ctx): return ctx.CallID()\ndef handler(ctx, data=None): return work(ctx)"
    assert answers(source) == ["False", "0", "True", "1", "True"]


def test_a_plain_handler_that_imports_asyncio_late_may_run_a_loop_each_time() -> None:
    """asyncio-on-demand: under the official FDK asyncio.run() raises here."""
    source = (
        "def handler(ctx, data=None):\n    import asyncio\n    async def work(): return ctx.CallID()\n"
        "    return asyncio.run(work())"
    )
    assert answers(source) == ["False", "0", "True", "1", "True"]


def test_a_plain_handler_of_a_module_with_asyncio_runs_inside_the_loop() -> None:
    source = "import asyncio\ndef handler(ctx, data=None): return str(asyncio.get_running_loop().is_running())"
    assert answers(source) == ["True", "True", "True", "True", "True"]


def test_a_loop_made_at_import_is_the_one_that_handlers_run_in() -> None:
    source = (
        "import asyncio\nloop = asyncio.new_event_loop()\nasyncio.set_event_loop(loop)\n"
        "async def handler(ctx, data=None): return str(asyncio.get_running_loop() is loop)"
    )
    assert answers(source)[1::2] == ["True", "True"]


@pytest.mark.parametrize("before", ["asyncio.run(asyncio.sleep(0))", "asyncio.new_event_loop().close()"])
def test_a_loop_that_was_closed_at_import_is_not_used(before: str) -> None:
    source = (
        f"import asyncio\nloop = asyncio.new_event_loop()\nasyncio.set_event_loop(loop)\nloop.close()\n{before}\n"
        "async def handler(ctx, data=None): return ctx.CallID()"
    )
    assert answers(source)[1::2] == ["0", "1"]


def test_a_task_goes_on_when_the_next_call_runs() -> None:
    """background-tasks: under the official FDK the loop turns between calls too."""
    source = (
        "import asyncio\nsteps = []\nasync def task():\n    while True:\n        steps.append(1)\n"
        "        await asyncio.sleep(0)\n"
        "async def handler(ctx, data=None):\n    before = len(steps)\n    if not before:\n"
        "        handler.task = asyncio.create_task(task())\n    await asyncio.sleep(0)\n    return str(bool(before))"
    )
    assert answers(source)[1::2] == ["False", "True"]


def test_a_missing_handler_is_no_error_of_prepare() -> None:
    assert answers("")[1::2] == ["module 'func' has no attribute 'handler'"] * 2


FORKED = """
import os, types
from fdk import runner
module = types.ModuleType("func")
exec('''
import asyncio, os
async def handler(ctx, data=None):
    reader, writer = os.pipe()
    asyncio.get_running_loop().call_soon(os.write, writer, b"x")
    await asyncio.to_thread(os.read, reader, 1)
    return ctx.CallID()
''', module.__dict__)
before = sorted(os.listdir("/proc/self/fd"))
runner.prepare(module, "handler")
run = runner.Runner(module, "handler")
assert sorted(os.listdir("/proc/self/fd")) == before, "a template must not hold a loop's descriptors"
for child in range(3):
    pid = os.fork()
    if not pid:
        outcome = [run.call(call_id=f"{child}.{n}", deadline="", headers=[], body=b"").body for n in range(2)]
        os._exit(0 if outcome == [f"{child}.{n}".encode() for n in range(2)] else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_instances_forked_after_prepare_have_loops_of_their_own() -> None:
    assert alone(FORKED).split() == ["0", "0", "0"]


def test_a_call_that_is_dropped_while_it_waits_ends_quietly(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(ctx: Any, data: Any = None) -> None:
        await types.coroutine(lambda: (yield))()  # type: ignore[arg-type, var-annotated]

    coroutine = runner.Runner.of(fixtures.code(handler)).answer({}, b"")
    coroutine.send(None)
    coroutine.close()
    assert [record for record in caplog.records if record.name == "fn"] == []


def test_a_call_leaves_no_trace_in_the_next_one() -> None:
    source = """
import contextvars
seen = contextvars.ContextVar("seen", default="unset")
def handler(ctx, data=None):
    before = seen.get()
    seen.set(ctx.CallID())
    ctx.Headers()["x"] = "y"
    ctx.SetResponseHeaders({"x-left": ctx.CallID()}, 200)
    return before
"""
    module = made(source)
    run = runner.Runner(module, "handler")
    one, two = (run.call(call_id=i, deadline="", headers=[("A", "b")], body=b"") for i in "12")
    assert one.body == two.body == b"unset"
    assert ("x-left", "2") in two.headers


def test_a_runner_file_is_found_wherever_it_is(tmp_path: Path) -> None:
    """The traceback is cut at the FDK's own file, also when Python was started in its directory."""
    file = tmp_path / "func.py"
    file.write_text("def handler(ctx, data=None):\n    raise ValueError('bang')\n")
    with oracle.run(file, entrypoint="handler", directory=tmp_path / "run") as function:
        function.call([])
        assert function.failure is not None
        assert function.failure[2].count("  File") == 1
