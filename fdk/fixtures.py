"""Helpers for authors' unit tests: call a handler as the FDK calls it, with no server.

::

    async def test_hello():
        call = await fixtures.setup_fn_call(func.handler, content=io.BytesIO(b'{"name": "Ann"}'))
        content, status, headers = await call
"""

from __future__ import annotations

import datetime as dt

from fdk import constants, runner
from fdk import headers as hs

TYPE_CHECKING = False  # the real one costs an import of typing in every worker
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from typing import Any

    from fdk.response import Response

    Answer = tuple[Any, int, dict[str, Any]]


async def process_response(fn_call_coro: Awaitable[Response]) -> Answer:
    """Await a `Response` and take it apart: body, status, headers."""
    resp = await fn_call_coro
    return resp.body(), resp.status(), resp.context().GetResponseHeaders()


class fake_request:
    """An empty request, for `event_handler.event_handle`."""

    def __init__(self, gateway: bool = False) -> None:
        """``gateway``: as if it came through an HTTP trigger."""
        self.headers = setup_headers(gateway=gateway)
        self.body = b""


class code:
    """A handler in the form in which the FDK wants one."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        """``fn``: the handler."""
        self.fn = fn

    def handler(self) -> Callable[..., Any]:
        """The handler."""
        return self.fn


def setup_headers(
    deadline: str | None = None,
    headers: dict[str, Any] | None = None,
    request_url: str = "/",
    method: str = "POST",
    gateway: bool = False,
) -> dict[str, Any]:
    """Request headers as a function gets them. The deadline is RFC 3339, 30 s from now by default."""
    found: dict[str, Any] = {}
    if gateway:
        found = hs.encap_headers(headers)
        found[constants.FN_INTENT] = constants.INTENT_HTTP_REQUEST
    elif headers is not None:
        found.update(headers)
    found[constants.FN_HTTP_REQUEST_URL] = request_url
    found[constants.FN_HTTP_METHOD] = method
    if deadline is None:
        now = dt.datetime.now(dt.timezone.utc).astimezone()  # noqa: UP017
        deadline = (now + dt.timedelta(seconds=constants.DEFAULT_DEADLINE)).isoformat()
    found[constants.FN_DEADLINE] = deadline
    return found


async def setup_fn_call(
    handle_func: Callable[..., Any],
    request_url: str = "/",
    method: str = "POST",
    headers: dict[str, Any] | None = None,
    content: Any = None,
    deadline: str | None = None,
    gateway: bool = False,
) -> Coroutine[Any, Any, Answer]:
    """A call of ``handle_func``, to be awaited for its body, status and headers.

    ``content`` becomes the handler's ``data`` as it is: give it an ``io.BytesIO`` to have what a real call has.
    """
    found = setup_headers(deadline=deadline, headers=headers, method=method, request_url=request_url, gateway=gateway)
    return await setup_fn_call_raw(handle_func, content, found)


async def setup_fn_call_raw(
    handle_func: Callable[..., Any], content: Any = None, headers: dict[str, Any] | None = None
) -> Coroutine[Any, Any, Answer]:
    """The same with the request headers given whole, prefixed for gateway mode where they are to be."""
    return process_response(
        runner.handle_request(
            code(handle_func), constants.HTTPSTREAM, headers={} if headers is None else headers, data=content
        )
    )
