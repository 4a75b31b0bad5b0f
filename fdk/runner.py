"""One call from request to answer: the semantics of the Fn contract, in one place.

Three callers share it: Stoker's worker (`Runner.call`), the HTTP entry point (`Runner.answer`), and `fixtures`
(`handle_request`). None of it imports asyncio for a handler that does not: such a call never suspends, so its
coroutine is driven by hand.
"""

from __future__ import annotations

import re
import sys
import traceback
from contextvars import copy_context
from io import BytesIO
from os import environ
from types import CoroutineType

from fdk import constants, event_handler, log
from fdk.context import context_from_format, context_from_headers
from fdk.errors import DispatchException
from fdk.response import Response

TYPE_CHECKING = False  # the real one costs an import of typing in every worker
if TYPE_CHECKING:
    import asyncio
    import types
    from collections.abc import Callable, Coroutine, Iterable, Sequence
    from typing import Any

    from fdk.context import InvokeContext

    Handler = Callable[..., Any]

__all__ = ["CALLER_LEFT", "FAILURE_CHARS_MAX", "Failure", "Outcome", "Runner", "handle_request", "prepare"]

FAILURE_CHARS_MAX = 64 * 1024
"""Longest message and longest traceback that a `Failure` carries; the end of it is kept. The answer is not cut."""
CALLER_LEFT = "the caller left"
"""The message of a task's cancellation that is no failure of its handler."""
WARM_UP_CALLS = 16
"""Calls that `prepare` makes to a handler of its own: CPython 3.11 specialises code from its eighth run on.

Measured: the first call after a fork takes 225 µs instead of 300; most of the rest is copying pages on write."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_BREAKS_A_HEADER = re.compile(r"[\r\n\0]").search
_FRAMING = frozenset({"content-length", "transfer-encoding"})
_CO_COROUTINE = 0x80  # inspect.CO_COROUTINE; importing inspect costs 5 ms
_BROKEN = b"An error occurred while handling an error"


class Failure:
    """Why a handler gave no answer of its own."""

    __slots__ = ("kind", "message", "traceback")

    def __init__(self, kind: str, message: str, traceback: str) -> None:
        """``kind``: "exception", "timeout" or "invalid-response". The texts are at most `FAILURE_CHARS_MAX` long."""
        self.kind = kind
        self.message = message
        self.traceback = traceback

    def __repr__(self) -> str:
        return f"Failure(kind={self.kind!r}, message={self.message!r})"


class Outcome:
    """An answer, ready to be sent. Its framing (``content-length``) is up to the sender."""

    __slots__ = ("body", "failure", "headers", "status")

    def __init__(
        self, status: int, headers: list[tuple[str, str]], body: bytes, failure: Failure | None = None
    ) -> None:
        """``status``: 200, 502 or 504. ``headers``: names in lower case, each once, legal in HTTP."""
        self.status = status
        self.headers = headers
        self.body = body
        self.failure = failure

    def __repr__(self) -> str:
        return f"Outcome({self.status}, {self.headers!r}, {len(self.body)} bytes, {self.failure!r})"


class Runner:
    """Calls one handler, one call at a time."""

    __slots__ = ("_find", "_frame_header", "_frame_name", "_loop", "_uses_loop")

    def __init__(self, module: types.ModuleType, handler_name: str) -> None:
        """The handler is looked up by its name at each call; a missing one is a failed call."""

        def find() -> Handler:
            found: Handler = getattr(module, handler_name)
            return found

        self._set_up(find)

    @classmethod
    def of(cls, code: Any) -> Runner:
        """A runner of what gives its handler by ``handler()``: `customer_code.Function`, `fixtures.code`."""
        runner = cls.__new__(cls)
        runner._set_up(code.handler)
        return runner

    def _set_up(self, find: Callable[[], Handler]) -> None:
        self._find = find
        self._loop: asyncio.AbstractEventLoop | None = None
        self._uses_loop: bool | None = None
        # Read here, not at import: a template may import this before it has the function's environment.
        name, header = environ.get(constants.FN_LOGFRAME_NAME), environ.get(constants.FN_LOGFRAME_HDR)
        self._frame_name = name if header else None
        self._frame_header = (header or "").lower()

    def begin(self) -> None:
        """Once in each instance, before its first call: nothing to do for a handler of the FDK."""

    def call(self, *, call_id: str, deadline: str, headers: Iterable[Sequence[str]], body: bytes) -> Outcome:
        """Run the handler to its end. ``headers`` are pairs, as the Fn server sends them to a function.

        ``call_id`` and ``deadline`` (RFC 3339) stand for the headers of these names; an empty one is not set. Of a
        repeated header the last one counts. Whatever the handler raises is in the outcome, but for SystemExit and
        KeyboardInterrupt, which pass through and are to end the process.
        """
        fields: dict[str, Any] = {name.casefold(): value for name, value in headers}
        if call_id:
            fields[constants.FN_CALL_ID] = call_id
        if deadline:
            fields[constants.FN_DEADLINE] = deadline
        if self._frame_name is not None:
            event_handler.print_frame(self._frame_name, fields.get(self._frame_header))
        if self._uses_loop is None:
            self._uses_loop = _needs_loop(self._find)
        if self._uses_loop:
            outcome: Outcome = self._in_loop(_answer(self._find, fields, body, None))
            return outcome
        # A context of its own for each call, as if it were a task: what a handler sets does not reach the next call.
        return copy_context().run(_drive, _answer(self._find, fields, body, self._in_loop))

    async def answer(self, fields: dict[str, Any], body: bytes) -> Outcome:
        """The same for a caller that has an event loop running. ``fields``: names in lower case."""
        return await _answer(self._find, fields, body, None)

    def _in_loop(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        self._uses_loop = True
        if self._loop is None:
            self._loop = _open_loop()
        return self._loop.run_until_complete(coroutine)


def prepare(module: types.ModuleType, handler_name: str) -> None:
    """Do in a template, once, what its instances would otherwise do at their first call.

    Imports asyncio when the handler will need it (its loop is only made after the fork: it holds descriptors), and
    runs the code of a call a few times. A missing handler is no error here.
    """
    if _needs_loop(lambda: getattr(module, handler_name)):
        import asyncio  # noqa: F401
    runner = Runner.of(_Idle)
    runner._uses_loop, runner._frame_name = False, None
    for _ in range(WARM_UP_CALLS):
        runner.call(call_id="warm-up", deadline="", headers=[("Content-Type", "text/plain")], body=b"")


class _Idle:
    @staticmethod
    def handler() -> Handler:
        return lambda ctx, data: Response(ctx, "", headers={"Content-Type": "text/plain"})


async def handle_request(handler_code: Any, format_def: str, **kwargs: Any) -> Response:
    """The handler's `Response` for ``headers`` and ``data`` given as they are: what `fixtures` is made of."""
    ctx, data = context_from_format(format_def, **kwargs)
    return (await _respond(handler_code.handler, ctx, data, None))[0]


async def _answer(
    find: Callable[[], Handler], fields: dict[str, Any], body: bytes, run: Callable[[Any], Any] | None
) -> Outcome:
    try:
        ctx = context_from_headers(fields)
        response, failure = await _respond(find, ctx, BytesIO(body), run)
        return _outcome(response, failure)
    except Exception as exc:
        # Not the handler's own exception but one of making its context, of its text, or of encoding its answer.
        return Outcome(502, [("content-type", "text/plain")], _BROKEN, _failure("exception", exc))


async def _respond(
    find: Callable[[], Handler], ctx: InvokeContext, data: Any, run: Callable[[Any], Any] | None
) -> tuple[Response, Failure | None]:
    """``run`` runs the coroutine of an async handler; None: await it in the loop that is running."""
    log.set_request_id(ctx.CallID())
    awaiting = False
    try:
        result = find()(ctx, data=data)
        if isinstance(result, CoroutineType):
            awaiting = run is None
            result = await result if run is None else run(result)
        if isinstance(result, Response):
            return result, None
        return Response(ctx, result, headers=ctx.GetResponseHeaders(), status_code=200), None
    except (SystemExit, KeyboardInterrupt):
        raise
    except StopIteration as exc:  # one may not leave a coroutine, and every handler runs as if in one
        converted = RuntimeError("coroutine raised StopIteration")
        converted.__cause__ = exc
        return _failed(ctx, converted.with_traceback(exc.__traceback__))
    except BaseException as exc:
        if awaiting and _ended_from_outside(exc):
            raise
        return _failed(ctx, exc)


def _failed(ctx: InvokeContext, exc: BaseException) -> tuple[Response, Failure]:
    status, kind = (504, "timeout") if isinstance(exc, TimeoutError) else (502, "exception")
    message = str(exc)
    frames = "".join(traceback.format_tb(_authors_part(exc))).replace("\n", "\\n")
    log.get_request_log().error("%s:%s", message, frames)
    return DispatchException(ctx, status, message).response(), _failure(kind, exc)


def _failure(kind: str, exc: BaseException) -> Failure:
    try:
        message = str(exc)
    except Exception:
        message = f"<{type(exc).__name__} whose text cannot be had>"
    text = "".join(traceback.format_exception(type(exc), exc, _authors_part(exc)))
    return Failure(kind, message[-FAILURE_CHARS_MAX:], text[-FAILURE_CHARS_MAX:])


def _authors_part(exc: BaseException) -> types.TracebackType | None:
    found = exc.__traceback__
    while found is not None and found.tb_frame.f_code.co_filename == __file__:
        found = found.tb_next
    return found


def _outcome(response: Response, failure: Failure | None) -> Outcome:
    fields = response.context().GetResponseHeaders()
    status = response.status()
    if status not in constants.FN_ENFORCED_RESPONSE_CODES:
        status = constants.FN_DEFAULT_RESPONSE_CODE
    body: Any = response.body_bytes()
    try:
        return Outcome(int(status), _header_list(fields), body if type(body) is bytes else b"%b" % body, failure)
    except Exception as exc:  # str() of a header's value is the author's code too
        text = f"Error: Writing response failed, connection closed {exc!r}".encode(errors="replace")
        return Outcome(502, [("content-type", "text/plain; charset=utf-8")], text, _failure("invalid-response", exc))


def _header_list(fields: dict[str, Any]) -> list[tuple[str, str]]:
    """Raises ValueError for what would break the answer's framing or another header."""
    headers = []
    typed = False
    for name, value in fields.items():
        if type(name) is not str or name != name.lower():
            return _header_list(_lowered(fields))
        if type(value) is not str:
            value = str(value)
        if not _TOKEN(name):
            raise ValueError(f"response header name {name!r} is not a token")
        if _BREAKS_A_HEADER(value):
            raise ValueError(f"response header {name!r} has a line break or NUL in its value {value!r:.200}")
        if not value.isascii():
            value.encode()  # raises for a lone surrogate
        if name not in _FRAMING:
            typed = typed or name == constants.CONTENT_TYPE
            headers.append((name, value))
    if not typed:
        headers.append((constants.CONTENT_TYPE, "text/plain"))
    return headers


def _lowered(fields: dict[Any, Any]) -> dict[str, Any]:
    """For authors who write into `GetResponseHeaders` themselves. Of names that differ in case only the last counts.

    A name in lower case gives way to any other, as it does in the official FDK.
    """
    found: dict[str, Any] = {}
    for name, value in sorted(fields.items(), key=lambda item: str(item[0]) != str(item[0]).lower()):
        found[str(name).lower()] = value
    return found


def _drive(coroutine: Coroutine[Any, Any, Outcome]) -> Outcome:
    """Run to its end a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        outcome: Outcome = done.value
        return outcome
    raise RuntimeError("a call without an event loop suspended")


def _needs_loop(find: Callable[[], Handler]) -> bool:
    """Async handlers run in a loop, and so do all handlers of a module that has imported asyncio.

    The latter because the official FDK runs every handler inside its loop: ``asyncio.create_task`` in a plain
    ``def`` works there.
    """
    if "asyncio" in sys.modules:
        return True
    try:
        flags = find().__code__.co_flags
    except Exception:  # no such handler, or a callable without code
        return False
    return bool(flags & _CO_COROUTINE)


def _open_loop() -> asyncio.AbstractEventLoop:
    """The loop that the author's module has made at its import, or else a new one, as the current loop."""
    import asyncio
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and 3.13 warn before they make one
        try:
            loop = asyncio.get_event_loop()
        except RuntimeError:  # the module ran a loop of its own, or this is 3.14, or not the main thread
            loop = None
    if loop is None or loop.is_closed():
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
    return loop


def _ended_from_outside(exc: BaseException) -> bool:
    """Whether it was not the handler that raised this but its task that is being ended."""
    if isinstance(exc, GeneratorExit):
        return True
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and isinstance(exc, asyncio.CancelledError) and exc.args == (CALLER_LEFT,)
