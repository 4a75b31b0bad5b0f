"""The channel against a far end that says anything at all: the right answer, a StokerError, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon import errors
from daemon.config.settings import Limits
from daemon.model import Answer
from daemon.workers.channel import Channel
from runtime import wire

HEADERS = [("content-type", "text/plain")]


class FarEnd:
    """The worker's ends of a channel's pipes."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.calls, calls_w = os.pipe()
        answers_r, self.answers = os.pipe()
        for fd in (calls_w, answers_r, self.calls, self.answers):
            os.set_blocking(fd, False)
        self.channel = Channel(calls_w, answers_r, limits or Limits())
        self._decoder = wire.Decoder(wire.TO_WORKER)

    async def next_call(self) -> dict[str, Any]:
        while True:
            await trio.lowlevel.wait_readable(self.calls)
            if frames := self._decoder.feed(os.read(self.calls, 65536)):
                return frames[0]

    async def say(self, data: bytes) -> None:
        while data:
            await trio.lowlevel.wait_writable(self.answers)
            data = data[os.write(self.answers, data) :]

    def hang_up(self) -> None:
        for fd in (self.calls, self.answers):
            if fd >= 0:
                trio.lowlevel.notify_closing(fd)
                os.close(fd)
        self.calls = self.answers = -1

    def __enter__(self) -> FarEnd:
        return self

    def __exit__(self, *args: object) -> None:
        self.hang_up()
        self.channel.close()


def answer(call: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The right answer to a call, changed."""
    return {
        "type": "answer",
        "id": call["id"],
        "nonce": call["nonce"],
        "status": 200,
        "headers": [["a", "b"]],
        "body": b"right",
        "cpu_us": 1,
        **changes,
    }


async def ask(far: FarEnd, reply: Callable[[dict[str, Any]], bytes], *, chunk: int = 65536) -> Answer:
    """One call that is answered with ``reply``'s bytes, after which the far end is closed."""
    result: list[Answer] = []

    async def worker() -> None:
        data = reply(await far.next_call())
        for start in range(0, len(data), chunk):
            await far.say(data[start : start + chunk])
        far.hang_up()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker)
        try:
            result.append(await far.channel.call(call_id="c", deadline="d", headers=HEADERS, body=b"q"))
        except errors.StokerError as exc:
            failure = exc
    if not result:
        raise failure
    return result[0]


def run(reply: Callable[[dict[str, Any]], bytes], *, chunk: int = 65536, limits: Limits | None = None) -> Answer | str:
    """The answer, or the code of the error."""

    async def main() -> Answer | str:
        with FarEnd(limits) as far:
            got: Answer | str
            try:
                got, may_go_on = await ask(far, reply, chunk=chunk), True
            except errors.StokerError as exc:
                got, may_go_on = exc.code, exc.instance_survives
            assert may_go_on or not far.channel.usable
            return got

    return trio.run(main)


changes = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["answer", "failed", "ready", "call", "x"]),
        "id": st.sampled_from(["c", "d", ""]),
        "nonce": st.integers(0, 2**63),
        "status": st.sampled_from([200, 502, 504, 201, 0, -1, 10**9]),
        "headers": st.lists(st.lists(st.text(max_size=3), min_size=2, max_size=2), max_size=3),
        "body": st.one_of(st.binary(max_size=9), st.text(max_size=3)),
        "kind": st.just("exception"),
    },
)


@settings(max_examples=200, deadline=None)
@given(changes)
def test_a_changed_answer_is_accepted_only_if_it_is_a_legal_answer_to_this_call(change: dict[str, Any]) -> None:
    got = run(lambda call: wire.encode(answer(call, **change)))
    if isinstance(got, str):
        assert got in ("invalid-response", "response-headers-too-large")
        assert change
    else:
        assert got.status in (200, 502, 504)
        assert set(change) <= {"status", "headers", "body", "id", "type"}
        assert change.get("id", "c") == "c"
        assert change.get("type", "answer") == "answer"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.booleans())
def test_garbage_instead_of_or_after_an_answer(garbage: bytes, after: bool) -> None:
    got = run(lambda call: (wire.encode(answer(call)) if after else b"") + garbage)
    if after and not garbage:
        assert isinstance(got, Answer)
    else:
        assert got in ("invalid-response", "function-crashed")


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_an_answer_with_bytes_changed_or_cut_off(data: st.DataObject) -> None:
    at, value, cut = data.draw(st.integers(0, 90)), data.draw(st.integers(0, 255)), data.draw(st.integers(0, 90))

    def reply(call: dict[str, Any]) -> bytes:
        stream = bytearray(wire.encode(answer(call)))
        stream[at % len(stream)] = value
        return bytes(stream[: len(stream) - cut])

    got = run(reply)
    if isinstance(got, Answer):
        assert cut == 0
        assert got.call_id == "c"
    else:
        assert got in ("invalid-response", "function-crashed", "response-headers-too-large")


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_an_answer_in_small_pieces(chunk: int) -> None:
    got = run(lambda call: wire.encode(answer(call)), chunk=chunk)
    assert isinstance(got, Answer)
    assert (got.body, list(got.headers)) == (b"right", [("a", "b")])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"headers": [["", "x"]]}, "invalid-response"),
        ({"headers": [["a b", "x"]]}, "invalid-response"),
        ({"headers": [["a:", "x"]]}, "invalid-response"),
        ({"headers": [["ä", "x"]]}, "invalid-response"),
        ({"headers": [["a", "x\r\nb: c"]]}, "invalid-response"),
        ({"headers": [["a", "x\n"]]}, "invalid-response"),
        ({"headers": [["a\n", "x"]]}, "invalid-response"),
        ({"headers": [["a", "x\0"]]}, "invalid-response"),
        ({"headers": [["a", "x" * 100]]}, "response-headers-too-large"),
        ({"headers": [["a", "b"]] * 5}, "response-headers-too-large"),
        ({"body": b"x" * 101}, "response-too-large"),
        ({"status": 201}, "invalid-response"),
        ({"type": "ready"}, "invalid-response"),
    ],
    ids=repr,
)
def test_limits_and_rules_of_an_answer(change: dict[str, Any], code: str) -> None:
    limits = Limits(response_bytes_max=100, response_header_bytes_max=100, response_headers_max=4)
    assert run(lambda call: wire.encode(answer(call, **change)), limits=limits) == code
    assert isinstance(run(lambda call: wire.encode(answer(call, body=b"x" * 100)), limits=limits), Answer)


@pytest.mark.parametrize(
    ("kind", "error", "usable"),
    [
        ("exception", errors.FunctionFailed, True),
        ("timeout", errors.HandlerTimeout, True),
        ("response-too-large", errors.ResponseTooLarge, True),
        ("invalid-response", errors.InvalidResponse, False),
        ("init", errors.InvalidResponse, False),
        ("made up", errors.InvalidResponse, False),
    ],
)
async def test_kinds_of_failure(kind: str, error: type[errors.StokerError], usable: bool) -> None:
    def reply(call: dict[str, Any]) -> bytes:
        frame = {"type": "failed", "id": "c", "nonce": call["nonce"], "kind": kind, "message": "m"}
        return wire.encode({**frame, "traceback": "Traceback:\n  x\nValueError: m\n"})

    with FarEnd() as far:
        with pytest.raises(error) as caught:
            await ask(far, reply)
        assert far.channel.usable == usable
        if kind in ("exception", "timeout"):
            assert caught.value.detail == "ValueError: m\nTraceback:\n  x\nValueError: m"


@pytest.mark.parametrize(
    ("data", "error", "detail"),
    [
        (wire.encode({"type": "ready", "info": {"python": "3.11"}}), None, ""),
        (b"", errors.InitFailed, "the worker closed its pipe"),
        (b"\0\0", errors.InitFailed, "in the middle of a frame"),
        (b"\0\0\0\1x", errors.InvalidResponse, ""),
        (wire.encode({"type": "ready", "info": {}}) * 2, errors.InvalidResponse, "bytes after"),
        (wire.encode({"type": "ready", "info": {}}) + b"x", errors.InvalidResponse, "bytes after"),
        (wire.encode(answer({"id": "c", "nonce": 1})), errors.InvalidResponse, "before ready"),
        (
            wire.encode(
                {"type": "failed", "id": "", "nonce": 0, "kind": "init", "message": "m", "traceback": "Traceback"}
            ),
            errors.InitFailed,
            "Traceback",
        ),
        (
            wire.encode({"type": "failed", "id": "", "nonce": 0, "kind": "exception", "message": "", "traceback": ""}),
            errors.InvalidResponse,
            "before ready",
        ),
    ],
)
async def test_ready(data: bytes, error: type[errors.StokerError] | None, detail: str) -> None:
    with FarEnd() as far:
        await far.say(data)
        far.hang_up()
        if error is None:
            assert await far.channel.ready() == {"python": "3.11"}
            assert far.channel.usable
        else:
            with pytest.raises(error) as caught:
                await far.channel.ready()
            assert detail in caught.value.detail
            assert not far.channel.usable


async def test_a_call_larger_than_the_pipe_waits_for_a_slow_reader_and_can_be_aborted() -> None:
    with FarEnd() as far:

        async def caller() -> None:
            with pytest.raises(errors.FunctionTimeout):
                await far.channel.call(call_id="c", deadline="d", headers=[], body=bytes(2**20))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller)
            await trio.testing.wait_all_tasks_blocked()
            far.channel.abort(errors.FunctionTimeout())


async def test_a_call_to_a_worker_that_is_gone() -> None:
    with FarEnd() as far:
        far.hang_up()
        with pytest.raises(errors.FunctionCrashed):
            await far.channel.call(call_id="c", deadline="d", headers=[], body=b"")
        far.channel.stop()  # nobody is there; it does not matter
        assert not far.channel.usable


async def test_stop_never_blocks_on_a_full_pipe() -> None:
    with FarEnd() as far:
        with trio.move_on_after(0.01):
            await far.channel.call(call_id="c", deadline="d", headers=[], body=bytes(2**20))
        far.channel.stop()


async def test_stray_bytes_are_seen_without_being_read() -> None:
    with FarEnd() as far:
        assert not far.channel.stray_bytes()
        await far.say(b"x")
        assert far.channel.stray_bytes()
        assert far.channel.stray_bytes()
        far.channel.close()
        assert not far.channel.stray_bytes()


async def test_close_wakes_a_caller_and_may_come_twice() -> None:
    with FarEnd() as far:

        async def caller() -> None:
            with pytest.raises(errors.FunctionCrashed):
                await far.channel.call(call_id="c", deadline="d", headers=[], body=b"")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller)
            await trio.testing.wait_all_tasks_blocked()
            far.channel.close()
            far.channel.close()


async def test_an_answer_and_an_abort_in_the_same_moment_are_one_outcome() -> None:
    for order in ("answer first", "abort first"):
        with FarEnd() as far:
            outcomes: list[str] = []

            async def caller(far: FarEnd = far, outcomes: list[str] = outcomes) -> None:
                try:
                    await far.channel.call(call_id="c", deadline="d", headers=[], body=b"")
                    outcomes.append("answer")
                except errors.FunctionTimeout:
                    outcomes.append("timeout")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(caller)
                call = await far.next_call()
                await trio.testing.wait_all_tasks_blocked()
                if order == "abort first":
                    far.channel.abort(errors.FunctionTimeout())
                os.write(far.answers, wire.encode(answer(call)))
                if order == "answer first":
                    far.channel.abort(errors.FunctionTimeout())
            assert outcomes == ["timeout"]
