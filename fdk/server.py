"""The process contract of Fn: ``POST /call`` over HTTP/1.1 on a unix socket, answered by a `Runner`.

Only ``fdk func.py handler`` comes here; Stoker's own workers talk over pipes and never import this.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

from fdk import event_handler, http1, log
from fdk.runner import CALLER_LEFT, Runner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from fdk.customer_code import Function

__all__ = ["serve_tcp", "serve_unix"]

KEEP_ALIVE_S = 75
"""Longest time that a connection may be idle. The Fn server itself drops it after one second."""
REQUEST_S = 60
"""Longest time from a request's first byte to its last."""
BACKLOG = 100
READ_AHEAD_BYTES_MAX = 64 * 1024
"""What may wait unread behind a request that is being answered."""
_TEXT = ("content-type", "text/plain; charset=utf-8")


class Connection(asyncio.Protocol):
    """One connection: its requests are answered one after the other, in order."""

    def __init__(self, runner: Runner, *, keep_alive_s: float = KEEP_ALIVE_S, request_s: float = REQUEST_S) -> None:
        """Times in seconds."""
        self._runner = runner
        self._keep_alive_s = keep_alive_s
        self._request_s = request_s
        self._parser = http1.Parser()
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to wait for a request."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._set_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """The caller left: what is being done for it is cancelled."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel(CALLER_LEFT)

    def data_received(self, data: bytes) -> None:
        """Take bytes in, and answer when they complete a request."""
        fresh = not self._parser.started
        self._parser.feed(data)
        if self._task is not None:
            if self._parser.pending_bytes > READ_AHEAD_BYTES_MAX:
                self._transport.pause_reading()
        else:
            self._advance(fresh=fresh)

    def _advance(self, *, fresh: bool) -> None:
        try:
            request = self._parser.next()
        except http1.BadRequest as exc:
            self._send(exc.status, [_TEXT], f"Error: {exc}".encode(), minor=1, keep_alive=False)
            return
        if request is not None:
            if self._timer is not None:
                self._timer.cancel()
            self._task = asyncio.get_running_loop().create_task(self._respond(request))
            return
        if fresh:
            self._set_timer()
        if self._parser.wants_continue():
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def _respond(self, request: http1.Request) -> None:
        path = request.target.partition("?")[0]
        headers = [_TEXT]
        keep_alive = request.keep_alive
        if path != "/call":
            status, body = 404, f"Error: Route was not registered: {path}".encode()
        elif request.method != "POST":
            status, body = 405, f"Error: Method {request.method} for path {path} not allowed".encode()
            headers.append(("allow", "POST"))
        else:
            event_handler.log_frame_header(request.headers)
            outcome = await self._runner.answer(request.headers, request.body)
            status, headers, body = outcome.status, outcome.headers, outcome.body
            if outcome.failure is not None and outcome.failure.kind == "invalid-response":
                # Fn contract: a status that is not 200, 502 or 504 makes the server end this process.
                status, keep_alive = 500, False
        self._task = None
        if request.method == "HEAD":
            keep_alive, body = False, b""
        self._send(status, headers, body, minor=request.minor, keep_alive=keep_alive)
        if not self._transport.is_closing():
            self._transport.resume_reading()
            self._set_timer()
            self._advance(fresh=False)

    def _send(self, status: int, headers: list[tuple[str, str]], body: bytes, *, minor: int, keep_alive: bool) -> None:
        answer = http1.render(status, headers, body, minor=minor, keep_alive_s=KEEP_ALIVE_S if keep_alive else None)
        self._transport.write(answer)
        if not keep_alive:
            self._transport.close()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay_s = self._request_s if self._parser.started else self._keep_alive_s
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._expire)

    def _expire(self) -> None:
        if self._parser.started:
            self._send(408, [_TEXT], b"Error: Request Timeout", minor=1, keep_alive=False)
        else:
            self._transport.close()


def serve_unix(function: Function, listener: str, *, loop: asyncio.AbstractEventLoop | None = None) -> None:
    """Serve on ``unix:/path`` until SIGTERM or SIGINT.

    The socket is made beside it as ``phony...`` and gets its name, by a relative symbolic link, when it is being
    listened on: the server takes the name for the sign that the function is ready.
    """
    path = Path(os.path.normpath(listener.removeprefix("unix:")))
    if not path.name:
        sys.exit(f"malformed FN_LISTENER env var value: {listener}")
    phony = path.with_name("phony" + path.name)
    for old in (path, phony):
        with contextlib.suppress(FileNotFoundError):
            old.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(os.fspath(phony))
        phony.chmod(0o666)  # the server runs as another user
        sock.listen(BACKLOG)
        path.symlink_to(phony.name)
        _run(_serve(function, sock), loop)
    finally:
        sock.close()


def serve_tcp(function: Function, port: int) -> None:
    """Serve on 127.0.0.1, to try a function out with curl, until SIGTERM or SIGINT. Port 0 takes a free one."""
    with socket.create_server(("127.0.0.1", port), backlog=BACKLOG) as sock:
        print(f"listening on http://127.0.0.1:{sock.getsockname()[1]}/call", file=sys.stderr, flush=True)
        _run(_serve(function, sock), None)


def _run(main: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop | None) -> None:
    if loop is None:
        asyncio.run(main)
    else:
        loop.run_until_complete(main)


async def _serve(function: Function, sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    runner = Runner.of(function)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    sock.setblocking(False)
    server = await loop.create_server(lambda: Connection(runner), sock=sock, backlog=BACKLOG)
    log.log(f"serving on {sock.getsockname()}")
    try:
        await stopped.wait()
    finally:
        server.close()
