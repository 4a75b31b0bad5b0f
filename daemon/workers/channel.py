"""The daemon's ends of one instance's two pipes: one call at a time, and not a byte from the worker is trusted.

The worker holds one answer to one call, known by a random number that it must echo. Anything else that it sends, at any
time, is a breach of the protocol, told to the caller as `InvalidResponse`, and the instance is killed: a late, forged
or malformed frame never reaches another call.
"""

from __future__ import annotations

import os
import re
import select
from typing import Any, NoReturn

import trio

from daemon import errors
from daemon.config.settings import Limits
from daemon.errors import StokerError
from daemon.model import Answer, RandomPool
from runtime import wire

READ_BYTES = 65536
"""What a pipe holds; a read never gives more."""
STATUSES = frozenset({200, 502, 504})
"""All that the Fn contract allows (fn agent.go:712)."""

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BREAKS_A_HEADER = re.compile(r"[\r\n\0]")
_random = RandomPool()
_STOP = wire.encode({"type": "stop"})
_FAILURES: dict[str, type[StokerError]] = {
    "exception": errors.FunctionFailed,
    "timeout": errors.HandlerTimeout,
    "response-too-large": errors.ResponseTooLarge,
    "invalid-response": errors.InvalidResponse,
    "init": errors.InvalidResponse,  # only legal before ready
}


class Channel:
    """Calls one instance. Not for two tasks at once, but for `abort`, which is for any."""

    __slots__ = (
        "_answers",
        "_calls",
        "_checked_headers",
        "_decoder",
        "_error",
        "_limits",
        "_raw_headers",
        "_sending",
        "_watch",
        "usable",
    )

    def __init__(self, calls_fd: int, answers_fd: int, limits: Limits) -> None:
        """Take over the pipe that calls are written to and the one that answers come from; both non-blocking."""
        self._calls = calls_fd
        self._answers = answers_fd
        self._limits = limits
        self._watch = select.poll()
        self._watch.register(answers_fd, select.POLLIN)  # a closed end shows as well, by POLLHUP
        self._decoder = wire.Decoder(wire.TO_DAEMON)
        self._error: StokerError | None = None
        self._sending = False
        """A call frame has been written in part: nothing else may come between."""
        self._raw_headers: list[list[str]] | None = None
        """Those of the last answer, as they came; equal ones need not be checked again."""
        self._checked_headers: tuple[tuple[str, str], ...] = ()
        self.usable = True
        """Whether the next call may use it: the worker is in step."""

    async def ready(self) -> dict[str, str | int]:
        """Wait until the worker can take calls; what it says about itself.

        Raises:
          InitFailed: it cannot; ``detail`` has the traceback, or says that the worker ended.
          InvalidResponse: it broke the protocol.
          StokerError: what `abort` was given.
        """
        self.usable = False
        try:
            frame = await self._receive()
        except errors.FunctionCrashed as exc:
            raise errors.InitFailed(detail=exc.detail) from None
        if frame["type"] == "ready":
            self.usable = True
            return frame["info"]  # type: ignore[no-any-return]  # checked by the decoder
        if frame["type"] == "failed" and frame["kind"] == "init" and not frame["id"]:
            raise errors.InitFailed(detail=frame["traceback"] or frame["message"])
        raise errors.InvalidResponse(detail=f"{frame['type']} frame before ready")

    async def call(self, *, call_id: str, deadline: str, headers: list[tuple[str, str]], body: bytes) -> Answer:
        """Run one call and return its answer. There is no timeout in here: whoever times the call uses `abort`.

        If the caller is cancelled, the channel is not usable any more.

        Raises:
          FunctionFailed, HandlerTimeout, ResponseTooLarge: the handler's doing; the instance goes on.
          FunctionCrashed: the worker closed its end.
          InvalidResponse, ResponseHeadersTooLarge: the worker broke the protocol or a limit.
          StokerError: what `abort` was given.
        """
        nonce = _random.number(7)
        self.usable = False
        call = {
            "type": "call",
            "id": call_id,
            "nonce": nonce,
            "deadline": deadline,
            "headers": headers,
            "body": body,
        }
        try:
            data = wire.encode(call)
        except wire.ProtocolError as exc:
            self.usable = True
            raise errors.RequestTooLarge(detail=str(exc)) from exc
        await self._send(data)
        frame = await self._receive()
        if frame["type"] == "ready" or frame["nonce"] != nonce or frame["id"] != call_id:
            raise errors.InvalidResponse(detail=f"{frame['type']} frame that answers no call, or another")
        if frame["type"] == "failed":
            self._raise_failure(frame)
        return Answer(
            status=frame["status"],
            headers=self._checked(frame),
            body=frame["body"],
            call_id=call_id,
            cpu_us=frame["cpu_us"],
        )

    def abort(self, error: StokerError) -> None:
        """Have a waiting `call` or `ready`, and every later one, raise ``error``. The first error given counts."""
        if self._error is None:
            self._error = error
            self.usable = False
            for fd in (self._calls, self._answers):
                if fd >= 0:
                    trio.lowlevel.notify_closing(fd)

    def give(self, frame: bytes) -> bool:
        """Send a frame that asks for no answer, if the pipe takes it now. It is small against what a pipe holds.

        False: try again later.
        """
        if self._sending or self._calls < 0 or self._error is not None:
            return False
        try:
            written = os.write(self._calls, frame)
        except OSError:
            return False
        if written != len(frame):  # a worker that has not read for hours
            self.abort(errors.InvalidResponse(detail="the worker does not read"))
        return written == len(frame)

    def stop(self) -> None:
        """Ask the worker to leave. Never blocks; a worker that cannot be told will be killed in time."""
        self.usable = False
        try:
            os.write(self._calls, _STOP)
        except OSError:
            pass

    def close(self) -> None:
        """Close both pipes; a waiting call raises FunctionCrashed. May be called again."""
        if self._calls >= 0:
            self.abort(errors.FunctionCrashed(detail="the instance was closed"))
            calls, answers, self._calls, self._answers = self._calls, self._answers, -1, -1
            os.close(calls)
            os.close(answers)

    @property
    def answers_fd(self) -> int:
        """The descriptor that answers come from, to be watched for what comes unasked."""
        return self._answers

    def stray_bytes(self) -> bool:
        """Whether the worker has sent something, or closed its end, while no call is outstanding."""
        return self._answers >= 0 and (bool(self._watch.poll(0)) or self._decoder.pending_bytes > 0)

    async def _send(self, data: bytes) -> None:
        view: bytes | memoryview = data
        while True:
            if self._error is not None:
                raise self._error
            try:
                written = os.write(self._calls, view)
            except BlockingIOError:
                written = 0
            except OSError as exc:
                raise errors.FunctionCrashed(detail=f"the worker takes no calls: {exc.strerror}") from None
            if written == len(view):
                return
            view = memoryview(view)[written:]
            self._sending = True  # until it is through, or for good: this channel is not used again then
            try:
                await trio.lowlevel.wait_writable(self._calls)
            except trio.ClosedResourceError:
                raise self._reason() from None
            self._sending = False

    async def _receive(self) -> dict[str, Any]:
        """The one frame that is due; every byte beyond it is a breach."""
        while True:
            if self._error is None:
                try:
                    await trio.lowlevel.wait_readable(self._answers)
                except trio.ClosedResourceError:
                    pass  # aborted: see below why
            # A worker that ended by itself may have answered before: what is in the pipe counts.
            if self._error is not None and (self._answers < 0 or type(self._error) is not errors.FunctionCrashed):
                raise self._error
            try:
                data = os.read(self._answers, READ_BYTES)
            except BlockingIOError:
                if self._error is not None:
                    raise self._error from None
                continue
            if not data:
                cut = " in the middle of a frame" if self._decoder.pending_bytes else ""
                raise errors.FunctionCrashed(detail=f"the worker closed its pipe{cut}")
            try:
                frames = self._decoder.feed(data)
            except wire.ProtocolError as exc:
                raise errors.InvalidResponse(detail=str(exc)) from exc
            if frames:
                if len(frames) > 1 or self._decoder.pending_bytes:
                    raise errors.InvalidResponse(detail="bytes after the frame that was due")
                return frames[0]

    def _reason(self) -> StokerError:
        return self._error or errors.FunctionCrashed(detail="the instance was closed")

    def _raise_failure(self, frame: dict[str, Any]) -> NoReturn:
        kind, message, traceback = frame["kind"], frame["message"], frame["traceback"].rstrip()
        error = _FAILURES.get(kind)
        if error is None:
            raise errors.InvalidResponse(detail=f"failed frame of kind {kind!r:.80}")
        self.usable = error.instance_survives
        if traceback:
            message = f"{traceback.rpartition(chr(10))[2]}\n{traceback}"
        raise error(detail=message)

    def _checked(self, frame: dict[str, Any]) -> tuple[tuple[str, str], ...]:
        limits = self._limits
        if frame["status"] not in STATUSES:
            raise errors.InvalidResponse(detail=f"status {frame['status']}; 200, 502 and 504 are allowed")
        if frame["headers"] != self._raw_headers:
            self._checked_headers = self._headers(frame)
            self._raw_headers = frame["headers"]
        self.usable = True  # in step, whatever the size of the body
        if len(frame["body"]) > limits.response_bytes_max:
            raise errors.ResponseTooLarge(detail=f"{len(frame['body'])} bytes, {limits.response_bytes_max} allowed")
        return self._checked_headers

    def _headers(self, frame: dict[str, Any]) -> tuple[tuple[str, str], ...]:
        limits = self._limits
        if len(frame["headers"]) > limits.response_headers_max:
            raise errors.ResponseHeadersTooLarge(
                detail=f"{len(frame['headers'])} headers, {limits.response_headers_max} allowed"
            )
        headers, size = [], 0
        for name, value in frame["headers"]:
            size += len(name) + len(value)
            if _NAME.fullmatch(name) is None:
                raise errors.InvalidResponse(detail=f"header name {name!r:.80}")
            if _BREAKS_A_HEADER.search(value) is not None:
                raise errors.InvalidResponse(detail=f"value of header {name[:80]} has a line break or NUL")
            headers.append((name, value))
        if size > limits.response_header_bytes_max:
            raise errors.ResponseHeadersTooLarge(detail=f"{size} bytes, {limits.response_header_bytes_max} allowed")
        return tuple(headers)
