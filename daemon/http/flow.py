"""What request bodies of the control plane take of the memory: how far ahead one comes, and all of them together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import trio

from daemon.errors import QueueFull

__all__ = ["FLOW_KEY", "Flow", "Held", "paced"]

FLOW_KEY = "stoker.flow"
"""Member of the ASGI scope that holds the `Flow`."""
AHEAD_BYTES_MAX = 256 * 2**10
"""Most bytes of a request's body that are given to Quart before a handler has taken them: it keeps all that comes,
however long the handler waits for something else first."""
BODIES_BYTES_MAX = 512 * 2**20
"""Most bytes of request bodies that are held at once; then 429. The front door has the same for what it answers."""

Receive = Callable[[], Awaitable[Any]]
AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]


def paced(app: AsgiApp) -> AsgiApp:
    """The app, each of its requests with a `Flow` in its scope, by which what reads the body must say so."""

    async def with_flow(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            flow = Flow()
            scope, receive = {**scope, FLOW_KEY: flow}, flow.pace(receive)
        await app(scope, receive, send)

    return with_flow


class Flow:
    """Keeps the body of one request from coming faster than it is taken."""

    __slots__ = ("_ahead", "_taken")

    def __init__(self) -> None:
        self._ahead = 0
        self._taken = trio.Event()

    def taken(self, size: int) -> None:
        """A handler has these bytes now."""
        self._ahead -= size
        self._taken.set()

    def pace(self, receive: Receive) -> Receive:
        """``receive`` of ASGI, which waits while too much has come that was not taken."""

        async def paced_receive() -> Any:
            while self._ahead > AHEAD_BYTES_MAX:
                self._taken = trio.Event()
                await self._taken.wait()
            message = await receive()
            self._ahead += len(message.get("body", b""))
            return message

        return paced_receive


class Held:
    """Counts the bytes of request bodies that are held."""

    def __init__(self) -> None:
        self.bytes = 0

    @contextmanager
    def by_one(self) -> Iterator[Callable[[int], None]]:
        """For one request: what counts its bytes, until the block ends. It raises QueueFull when they are too many."""
        mine = 0

        def hold(size: int) -> None:
            nonlocal mine
            mine += size
            self.bytes += size
            if self.bytes > BODIES_BYTES_MAX:
                raise QueueFull(detail=f"{BODIES_BYTES_MAX} bytes of request bodies are being held")

        try:
            yield hold
        finally:
            self.bytes -= mine
