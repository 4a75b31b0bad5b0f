"""The call loop of an instance: frames in on descriptor 3, answers out on descriptor 4, one call at a time."""

from __future__ import annotations

import atexit
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from fdk.runner import Outcome, Runner
from runtime import identity, wire
from runtime.confine import ANSWERS, CALLS
from runtime.forker import flush
from runtime.loader import describe

TYPE_CHECKING = False  # the real one costs an import of typing in every worker
if TYPE_CHECKING:
    from runtime.loader import AnyRunner

READ_BYTES = 65536
"""What a pipe holds; a read never gives more."""


def renew(tmp: str) -> None:
    """Give a freshly forked process random numbers and temporary files of its own.

    `os.urandom`, `secrets` and `uuid.uuid4` need nothing. `random` renews itself after a fork, OpenSSL only when the
    pid differs from the parent's; both are done here again, because what depends on a rule elsewhere is not a rule.
    Generator objects that a function makes at import are copied as they are: `os.register_at_fork` is for those.
    """
    os.environ["TMPDIR"] = tmp
    modules = sys.modules
    _try(modules, "random", lambda module: module.seed())
    _try(modules, "_ssl", lambda module: (module.RAND_add(os.urandom(32), 32.0), module.RAND_bytes(1)))
    _try(modules, "numpy.random", lambda module: module.seed())
    if (tempfile := modules.get("tempfile")) is not None:
        tempfile._name_sequence = None  # type: ignore[attr-defined]
        tempfile.tempdir = None  # type: ignore[attr-defined]


REHEARSALS = 20
"""Enough for CPython to have specialised the code of a call and for its free lists to be filled."""


def rehearse() -> None:
    """Do in a template what its instances will do: what is done once before the fork they need not do each.

    Code that CPython specialises when it has run a few times is written to, so each instance would copy its pages; the
    first draw from OpenSSL takes milliseconds; an event loop's code is long.
    """
    runner = Runner.of(_Idle)
    runner._uses_loop = False  # a loop has descriptors, and those must not be there before the fork
    frame = {"type": "call", "id": "-", "nonce": 1, "deadline": "", "headers": [["content-type", "-"]], "body": b"-"}
    for _ in range(REHEARSALS):
        decoder = wire.Decoder(wire.TO_WORKER)
        _answer(runner, decoder.feed(wire.encode(frame))[0], 1)
    renew(os.environ.get("TMPDIR", ""))
    _try(sys.modules, "asyncio", lambda module: module.new_event_loop().close())


class _Idle:
    @staticmethod
    def handler() -> Callable[..., str]:
        return lambda ctx, data=None: ""


def _try(modules: dict[str, Any], name: str, renewal: Callable[[Any], object]) -> None:
    if (module := modules.get(name)) is not None:
        try:
            renewal(module)
        except Exception:
            traceback.print_exc()  # a bundle's own module of that name, most likely


def run(runner: AnyRunner, *, response_bytes_max: int, info: dict[str, str | int]) -> NoReturn:
    """Say ready, then answer calls until told to stop or the daemon is gone. Ends the process."""
    code = 1
    try:
        runner.begin()
    except BaseException as exc:
        fail(describe(exc))
    try:
        _write(wire.encode({"type": "ready", "info": info}))
        code = _serve(runner, response_bytes_max)
    except SystemExit as exc:
        code = _exit_code(exc)
    except BaseException:
        traceback.print_exc()
    finally:
        leave(code)


def fail(text: str) -> NoReturn:
    """Say that there is nothing to be called, and why. Ends the process."""
    try:
        _write(_failed("", 0, "init", text.strip().rpartition("\n")[2], text))
    finally:
        leave(1)


def _serve(runner: AnyRunner, response_bytes_max: int) -> int:
    decoder = wire.Decoder(wire.TO_WORKER)
    while data := os.read(CALLS, READ_BYTES):
        frames = decoder.feed(data)
        while frames:
            if frames[0]["type"] == "stop":
                return 0
            if frames[0]["type"] == "identity":
                identity.take(frames.pop(0))
                continue
            _write(_answer(runner, frames.pop(0), response_bytes_max))  # an idle instance keeps no body
        del data
    return 0


def _answer(runner: AnyRunner, frame: dict[str, Any], response_bytes_max: int) -> bytes:
    call_id, nonce = frame["id"], frame["nonce"]
    began_ns = time.process_time_ns()
    outcome: Outcome = runner.call(
        call_id=call_id, deadline=frame["deadline"], headers=_read(frame["headers"]), body=frame["body"]
    )
    flush()  # before the answer: the output of a call belongs to it
    if (failure := outcome.failure) is not None:
        return _failed(call_id, nonce, failure.kind, failure.message, failure.traceback)
    if len(outcome.body) > response_bytes_max:
        text = f"{len(outcome.body)} bytes, {response_bytes_max} allowed"
        return _failed(call_id, nonce, "response-too-large", text, "")
    try:
        return wire.encode(
            {
                "type": "answer",
                "id": call_id,
                "nonce": nonce,
                "status": outcome.status,
                "headers": _written(outcome.headers),
                "body": outcome.body,
                "cpu_us": (time.process_time_ns() - began_ns) // 1000,
            }
        )
    except wire.ProtocolError as exc:
        return _failed(call_id, nonce, "invalid-response", str(exc), "")


def _read(headers: list[list[str]]) -> list[list[str]]:
    """Values as text. The daemon hands on their bytes as latin-1; what they mean is UTF-8, or else latin-1."""
    for _, value in headers:
        if not value.isascii():
            return [[name, _decoded(value)] for name, value in headers]
    return headers


def _decoded(value: str) -> str:
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value


def _written(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The bytes of values, which are UTF-8 as from the official FDK, in the daemon's form: as latin-1."""
    for _, value in headers:
        if not value.isascii():
            return [(name, value.encode("utf-8", "replace").decode("latin-1")) for name, value in headers]
    return headers


TEXT_CHARS_MAX = 100_000
"""Longest message or traceback that is sent: a recursion's traceback is long, an exception's text may be anything."""


def _failed(call_id: str, nonce: int, kind: str, message: str, text: str) -> bytes:
    return wire.encode(
        {
            "type": "failed",
            "id": call_id,
            "nonce": nonce,
            "kind": kind if kind in wire.FAILURE_KINDS else "exception",
            "message": _sendable(message[:TEXT_CHARS_MAX]),
            "traceback": _sendable(text[-TEXT_CHARS_MAX:]),
        }
    )


def _sendable(text: str) -> str:
    """``text`` without lone surrogates, which UTF-8 cannot hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _write(data: bytes) -> None:
    written = os.write(ANSWERS, data)
    while written < len(data):  # more than the pipe holds
        data = data[written:] if written else data
        written = os.write(ANSWERS, data[: 2**20])


def _exit_code(exc: SystemExit) -> int:
    if exc.code is None or isinstance(exc.code, int):
        return (exc.code or 0) & 0xFF
    print(exc.code, file=sys.stderr)
    return 1


def leave(code: int) -> NoReturn:
    """End the process as Python would, but without unwinding the frames of the template that it was forked from."""
    try:
        atexit._run_exitfuncs()
    except BaseException:
        pass  # already printed
    finally:
        flush()
        os._exit(code)
