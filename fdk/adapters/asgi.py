"""ASGI 3 applications: Starlette, FastAPI, Quart, Django, or a plain coroutine function. HTTP and lifespan only."""

from __future__ import annotations

import traceback

from fdk.adapters.base import AdapterRunner, Reply, Request, import_handler
from fdk.runner import _open_loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable
    from typing import Any

SHUTDOWN_S = 2.0
"""Longest time for the application's ``lifespan.shutdown`` when an instance is told to stop."""


def make(name: str, path: str, handler_name: str) -> AdapterRunner:
    """Runner of the application ``handler_name`` of the file at ``path``."""
    import asyncio  # noqa: F401  # in the template, once: its loop is made after the fork

    module, application = import_handler(path, handler_name)
    return AdapterRunner(AsgiApp(application), module)


class AsgiApp:
    """One ASGI application and, in an instance, its event loop."""

    def __init__(self, application: Callable[..., Awaitable[None]]) -> None:
        self._application = application
        self._loop: asyncio.AbstractEventLoop | None = None
        self._state: dict[str, Any] = {}
        self._lifespan: _Lifespan | None = None

    def begin(self) -> None:
        """Open the loop and run the application's start-up, if it has one.

        Raises:
          RuntimeError: the application says that its start-up failed.
        """
        import atexit

        self._loop = _open_loop()
        lifespan = _Lifespan(self._application, self._state)
        if self._loop.run_until_complete(lifespan.start()):
            self._lifespan = lifespan
            atexit.register(self._end)

    def _end(self) -> None:
        if self._loop is not None and self._lifespan is not None and not self._loop.is_running():
            self._loop.run_until_complete(self._lifespan.stop())

    def answer(self, request: Request) -> Reply:
        """Run the application for one request, to its end: background tasks that it awaits included."""
        if self._loop is None:
            self._loop = _open_loop()
        return self._loop.run_until_complete(self._answer(request))

    async def _answer(self, request: Request) -> Reply:
        import asyncio

        over = asyncio.Event()
        waiting = [{"type": "http.request", "body": request.body, "more_body": False}]
        started: dict[str, Any] = {}
        body: list[bytes] = []

        async def receive() -> dict[str, Any]:
            if waiting:
                return waiting.pop()
            await over.wait()  # the client cannot leave: its connection is the daemon's to watch
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            kind = message["type"]
            if kind == "http.response.start" and not started:
                started.update(message)
            elif kind == "http.response.body" and started and not over.is_set():
                body.append(bytes(message.get("body", b"")))
                if not message.get("more_body", False):
                    over.set()
            else:
                raise RuntimeError(f"the ASGI application sent {kind!r} out of turn")

        try:
            await self._application(scope(request, self._state), receive, send)
        except Exception:
            if not over.is_set():
                raise
            # The answer is whole, a framework's own page for its 500 or one before a background task: it counts.
            traceback.print_exc()
        if not over.is_set():
            what = "ended before its response was complete" if started else "ended without a response"
            raise RuntimeError(f"the ASGI application {what}")
        headers = [(_text(name), _text(value)) for name, value in started.get("headers", ())]
        return Reply(started["status"], headers, b"".join(body))


class _Lifespan:
    """The lifespan protocol (ASGI spec, lifespan 2.0). An application that raises at it does not support it."""

    def __init__(self, application: Callable[..., Awaitable[None]], state: dict[str, Any]) -> None:
        self._application = application
        self._state = state
        self._said: dict[str, Any] = {}

    async def start(self) -> bool:
        """Whether the application takes part."""
        import asyncio

        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._heard = asyncio.Event()
        self._task = asyncio.ensure_future(self._run())
        return await self._tell("startup")

    async def stop(self) -> None:
        import asyncio

        try:
            await asyncio.wait_for(self._tell("shutdown"), SHUTDOWN_S)
            await asyncio.wait_for(self._task, SHUTDOWN_S)
        except (TimeoutError, RuntimeError) as exc:
            print(f"lifespan.shutdown: {exc!r}")

    async def _run(self) -> None:
        spec = {"version": "3.0", "spec_version": "2.0"}
        await self._application(
            {"type": "lifespan", "asgi": spec, "state": self._state}, self._messages.get, self._send
        )

    async def _send(self, message: dict[str, Any]) -> None:
        self._said = message
        self._heard.set()

    async def _tell(self, what: str) -> bool:
        import asyncio

        self._heard.clear()
        await self._messages.put({"type": f"lifespan.{what}"})
        heard = asyncio.ensure_future(self._heard.wait())
        await asyncio.wait({heard, self._task}, return_when=asyncio.FIRST_COMPLETED)
        heard.cancel()
        if self._heard.is_set():
            if self._said.get("type") == f"lifespan.{what}.failed":
                raise RuntimeError(f"the application's {what} failed: {self._said.get('message', '')}")
            return True
        self._task.exception()  # looked at: raising at the lifespan scope means that it is not supported
        return False


def scope(request: Request, state: dict[str, Any]) -> dict[str, Any]:
    """The request as the ASGI HTTP specification has it: ``path`` includes ``root_path``."""
    host, _, port = request.host.rpartition(":") if ":" in request.host.rpartition("]")[2] else (request.host, "", "")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": request.scheme,
        "path": request.path,
        "raw_path": request.raw_path.encode("latin-1", "replace"),
        "query_string": request.query.encode("latin-1", "replace"),
        "root_path": request.root,
        "headers": [(name.encode("latin-1"), value.encode("utf-8")) for name, value in request.headers],
        "client": None,
        "server": (host.strip("[]") or "localhost", int(port) if port.isdigit() else 80),
        "state": dict(state),
        "extensions": {},
        "stoker.call_id": request.call_id,
        "stoker.deadline": request.deadline,
    }


def _text(data: bytes) -> str:
    try:
        return bytes(data).decode("utf-8")
    except UnicodeDecodeError:
        return bytes(data).decode("latin-1")
