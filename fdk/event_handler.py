"""One request as the process contract of Fn has it: log frame, call, answer. For tests of authors, and log framing."""

from __future__ import annotations

import os
import sys

from fdk import constants

TYPE_CHECKING = False  # the real one costs an import of typing in every worker
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from typing import Any

fn_logframe_name = os.environ.get(constants.FN_LOGFRAME_NAME)
fn_logframe_hdr = os.environ.get(constants.FN_LOGFRAME_HDR)


class HTTPResponse:
    """What goes back over the socket."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """``status`` is 200, 502 or 504; ``headers`` in lower case."""
        self.status = status
        self.headers = headers
        self.body = body


def event_handle(handle_code: Any) -> Callable[[Any], Awaitable[HTTPResponse]]:
    """A coroutine function that answers a request, which has ``headers`` and ``body``, with a function's handler."""
    from fdk.runner import Runner

    runner = Runner.of(handle_code)

    async def pure_handler(request: Any) -> HTTPResponse:
        headers = dict(request.headers)
        log_frame_header(headers)
        outcome = await runner.answer(headers, request.body)
        return HTTPResponse(outcome.status, dict(outcome.headers), outcome.body)

    return pure_handler


def log_frame_header(headers: Mapping[str, Any]) -> None:
    """Mark the start of a call on stdout and stderr, when FN_LOGFRAME_NAME and FN_LOGFRAME_HDR say how."""
    if fn_logframe_name and fn_logframe_hdr:
        print_frame(fn_logframe_name, headers.get(fn_logframe_hdr.lower()))


def print_frame(name: str, value: object) -> None:
    """A line ``name=value`` with an empty one on either side, on both streams; nothing without a value."""
    if value is None:
        return
    for stream in (sys.stderr, sys.stdout):
        print(f"\n{name}={value}\n", file=stream, flush=True)
