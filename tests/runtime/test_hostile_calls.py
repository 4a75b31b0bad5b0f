"""Whatever a worker does with a call, its caller gets the right error and the next instance works."""

from __future__ import annotations

import pytest
import trio

from daemon import errors
from runtime import wire
from tests.contracts.kit import Kit, alive, call, first_call, frame

pytestmark = pytest.mark.processes

CRASHES = {
    "sys.exit(0)": ("import sys; sys.exit(0)", "exit code 0"),
    "sys.exit(3)": ("import sys; sys.exit(3)", "exit code 3"),
    "sys.exit(text)": ("import sys; sys.exit('bye')", "exit code 1"),
    "exit()": ("exit()", "exit code 0"),
    "quit(300)": ("quit(300)", "exit code 44"),
    "raise SystemExit": ("raise SystemExit", "exit code 0"),
    "KeyboardInterrupt": ("raise KeyboardInterrupt", "exit code 1"),
    "os._exit(7)": ("os._exit(7)", "exit code 7"),
    # The first process of a PID namespace ignores what it sends itself; abort() then takes an illegal instruction.
    "os.abort()": ("os.abort()", "killed by SIG"),
    "a signal of its own": ("import signal; os.kill(os.getpid(), signal.SIGKILL); os._exit(8)", "exit code 8"),
    "segmentation fault": ("import ctypes; ctypes.string_at(0)", "killed by SIGSEGV"),
    "exec of another program": ("os.execv('/bin/sh', ['sh', '-c', 'exit 9'])", "exit code 9"),
    "closing the calls' pipe": ("os.close(3)\n        return answer(ctx, data)", "exit code 1"),
    "closing the answers' pipe": ("os.close(4)", "exit code 1"),
    "closing both": ("os.closerange(3, 5)", "exit code 1"),
    "an at-exit hook that raises": ("import atexit; atexit.register(int, 'x'); import sys; sys.exit(2)", "exit code 2"),
}


@pytest.mark.parametrize("way", CRASHES)
async def test_ways_to_end(kit: Kit, way: str) -> None:
    code, status = CRASHES[way]
    async with kit.ready(way, source=first_call(code)) as worker:
        if way == "closing the calls' pipe":  # the answer is out before that is noticed
            assert (await call(worker)).body == b"hi"
        with pytest.raises(errors.FunctionCrashed):
            await call(worker)
        assert not worker.channel.usable
        assert str(await worker.exited()).startswith(status)
    async with kit.ready("echo") as worker:
        assert (await call(worker)).body == b"hi"


ANSWER = {"type": "answer", "id": "c", "nonce": 1, "status": 200, "headers": [], "body": b"", "cpu_us": 1}
FAILED = {"type": "failed", "id": "c", "nonce": 1, "kind": "exception", "message": "", "traceback": ""}
BREACHES = {
    "garbage": "os.write(4, b'\\x00\\x00\\x00\\x03abc')",
    "a header of 512 MiB": "os.write(4, (512 << 20).to_bytes(4, 'big') + b'x' * 1000)",
    "a header of 4 GiB less one": "os.write(4, b'\\xff' * 4)",
    "an empty frame": "os.write(4, bytes(4))",
    "a second ready": frame(type="ready", info={}),
    "a forged answer": frame(**ANSWER),
    "a forged failure": frame(**FAILED),
    "an answer for a later call": frame(**{**ANSWER, "id": "d"}),
    "a call to the daemon": f"os.write(4, {wire.encode({'type': 'stop'})!r})",
    "an extension type": "os.write(4, b'\\x00\\x00\\x00\\x04\\xc7\\x01\\x05\\x00')",
    "nesting": "os.write(4, b'\\x00\\x00\\x10\\x00' + b'\\x91' * 4096)",
    "a byte before the answer": "os.write(4, b'\\x00')",
}


@pytest.mark.parametrize("breach", BREACHES)
async def test_ways_to_break_the_protocol(kit: Kit, breach: str) -> None:
    async with kit.ready(breach, source=first_call(BREACHES[breach])) as worker:
        with pytest.raises(errors.InvalidResponse):
            await call(worker)
        assert not worker.channel.usable
        worker.kill()
        await worker.exited()
    async with kit.ready("echo") as worker:
        assert (await call(worker)).body == b"hi"


async def test_a_forged_frame_after_the_answer_never_reaches_a_later_call(kit: Kit) -> None:
    code = f"import threading; threading.Timer(0.05, lambda: {frame(**ANSWER)}).start()"
    async with kit.ready("late", source=first_call(code + "\n        return answer(ctx, data)")) as worker:
        assert (await call(worker)).body == b"hi"
        with trio.fail_after(30):
            await trio.lowlevel.wait_readable(worker.channel._answers)
        assert worker.channel.stray_bytes()
        with pytest.raises(errors.InvalidResponse):
            await call(worker)


async def test_a_frame_that_is_cut_off(kit: Kit) -> None:
    async with kit.ready("cut", source=first_call("os.write(4, bytes([0, 0, 1, 0]) + b'x'); os._exit(0)")) as worker:
        with pytest.raises(errors.FunctionCrashed) as caught:
            await call(worker)
        assert "in the middle of a frame" in caught.value.detail


HUGE = "from fdk import response\ndef handler(ctx, data=None):\n    n = int(data.getvalue())\n    return "


async def test_an_answer_that_is_too_large_fails_the_call_and_the_instance_goes_on(kit: Kit) -> None:
    async with kit.ready("huge", source=HUGE + "response.Response(ctx, b'x' * n)\n") as worker:
        limit = kit.limits.response_bytes_max
        for size in (limit + 1, 16 * 2**20, 64 * 2**20):
            with pytest.raises(errors.ResponseTooLarge) as caught:
                await call(worker, str(size).encode())
            assert f"{size} bytes, {limit} allowed" in caught.value.detail
            assert worker.channel.usable
        assert len((await call(worker, str(limit).encode())).body) == limit


async def test_answers_with_too_many_or_too_large_headers(kit: Kit) -> None:
    source = HUGE + "response.Response(ctx, b'', headers={f'x-{i}': 'y' * (n // 100) for i in range(n)})\n"
    for size in (300, 2600):
        async with kit.ready("headers", source=source) as worker:
            assert len((await call(worker, b"3")).headers) >= 3
            with pytest.raises(errors.ResponseHeadersTooLarge):
                await call(worker, str(size).encode())


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [("x y", "v", 200), ("x", "a\r\nset-cookie: b", 200), ("x", "a\0", 200), ("", "v", 200), ("x", "v", 999)],
)
async def test_an_answer_that_would_split_or_lie_is_refused(kit: Kit, name: str, value: str, status: int) -> None:
    # What the FDK would not let out is sent past it: the number of the call is found in the frames of the stack.
    source = """
import sys, os, struct
def handler(ctx, data=None):
    frame = sys._getframe()
    while "nonce" not in frame.f_locals:
        frame = frame.f_back
    answer = {"type": "answer", "id": frame.f_locals["call_id"], "nonce": frame.f_locals["nonce"],
              "status": %d, "headers": [[%r, %r]], "body": b"", "cpu_us": 1}
    os.write(4, frame.f_globals["wire"].encode(answer))
    import time; time.sleep(1000)
"""
    async with kit.ready("splits", source=source % (status, name, value)) as worker:
        with pytest.raises(errors.InvalidResponse):
            await call(worker)
        assert not worker.channel.usable


async def test_a_handler_that_ignores_signals_and_spins_is_killed(kit: Kit) -> None:
    code = """import signal
        for s in set(signal.Signals) - {9, 19}:
            signal.signal(s, signal.SIG_IGN)
        while True:
            pass"""
    async with kit.ready("spins", source=first_call(code)) as worker:
        with trio.move_on_after(0.2):
            await call(worker)
        worker.kill()
        assert str(await worker.exited()) == "killed by SIGKILL"
    assert not alive(worker.pid)


async def test_recursion_and_odd_exceptions_are_failures_like_any_other(kit: Kit) -> None:
    ways = [
        "handler(ctx, data)",
        "raise ExceptionGroup('g', [ValueError('a')])",
        "raise ValueError('\\ud800' * 3)",
        "raise ValueError('x' * 10_000_000)",
        "raise type('Odd', (BaseException,), {})()",
        "raise type('E', (Exception,), {'__str__': lambda self: 1})()",
    ]
    for number, code in enumerate(ways):
        source = f"def handler(ctx, data=None):\n    if data.getvalue() == b'ok': return 'fine'\n    {code}\n"
        async with kit.ready(f"odd {number}", source=source) as worker:
            with pytest.raises(errors.FunctionFailed):
                await call(worker)
            assert (await call(worker, b"ok")).body == b"fine"


async def test_a_request_that_fits_no_frame_is_refused_before_the_worker_sees_it(kit: Kit) -> None:
    async with kit.ready("echo") as worker:
        with pytest.raises(errors.RequestTooLarge):
            await call(worker, bytes(wire.FRAME_BYTES_MAX))
        assert worker.channel.usable
        assert (await call(worker)).body == b"hi"
