"""The control plane's connections: Hypercorn's per-connection server on a stream that first gives what was read.

`hypercorn.trio.tcp_server.TCPServer` is not documented API: the version range is pinned and tests/http/test_handover.py
exercises all that is used of it. It wants a stream with ``receive_some``, ``send_all``, ``send_eof``, ``aclose`` and
``socket``; `trio.SocketStream` cannot be subclassed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, cast

import h11
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from daemon.config.settings import Http
from daemon.errors import BadRequest, StokerError
from daemon.http.guard import Guard
from daemon.http.messages import Peer, error_reply

__all__ = ["PEER_KEY", "ControlPlane"]

PEER_KEY = "stoker.peer"
"""Member of the ASGI scope that holds the `Peer`."""

LIFESPAN_S = 10.0
"""How long the app may take to start, and to stop."""

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]


class ControlPlane:
    """Serves an ASGI app on connections that come with some bytes already read."""

    def __init__(self, app: AsgiApp, http: Http, guard: Guard, log: Any) -> None:
        self._app = app
        self._http = http
        self._guard = guard
        self._state: dict[str, Any] = {}
        self._contexts: set[WorkerContext] = set()
        self._draining = False
        config = HypercornConfig()
        config.accesslog = None
        config.logger_class = lambda _: _Log(log)  # type: ignore[assignment, return-value]
        config.keep_alive_timeout = http.keep_alive_s
        config.h11_max_incomplete_size = http.request_line_bytes_max + http.header_bytes_max
        config.include_server_header = False
        config.startup_timeout = config.shutdown_timeout = LIFESPAN_S
        self._config = config

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the app's lifespan open until cancelled, as an ASGI server does."""
        lifespan = Lifespan(ASGIWrapper(self._app), self._config, self._state)
        # Shielded, so that the app is told of the end instead of being cancelled with us.
        alive = trio.CancelScope(shield=True)

        async def hold() -> None:
            with alive:
                await lifespan.handle_lifespan()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold)
            try:
                await lifespan.wait_for_startup()
                task_status.started()
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await lifespan.wait_for_shutdown()
                alive.cancel()

    async def serve(self, connected: Any, peer: Peer, received: bytes) -> None:
        """Serve one connection until it ends; ``received`` was read from it already. Takes over the stream, which is a
        `trio.SocketStream` or a `daemon.http.tls_connection.TlsStream`."""
        context = WorkerContext(None)
        stream = _Replay(
            connected,
            received,
            write_s=self._http.write_s,
            # Hypercorn's timer would hold the connection of a client that has gone until its keep-alive time is over.
            ended=context.terminated.set,
        )
        app = ASGIWrapper(self._wrapped(peer, context))
        state = ConnectionState(dict(self._state))
        try:
            await _Http1Server(app, self._config, context, state, cast(Any, stream))
        finally:
            self._contexts.discard(context)

    async def drain(self) -> None:
        """Close idle connections, and the others after their reply."""
        self._draining = True
        for context in list(self._contexts):
            await context.terminated.set()

    def _wrapped(self, peer: Peer, context: WorkerContext) -> AsgiApp:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            async def whole_send(message: Any) -> None:
                # quart-trio is told of the disconnect while it is still inside the last send, and cancels that; the
                # connection would then never be closed (hypercorn 0.18, quart-trio 0.12). The deadline is a second
                # one: a client that does not read is cut by the stream's own.
                with trio.move_on_after(2 * self._http.write_s, shield=True):
                    await send(message)

            if self._draining:  # the last request of this connection
                await context.terminated.set()
            self._contexts.add(context)  # not earlier: drain would close it as idle, its first request unread
            try:
                self._check(scope, peer)
            except StokerError as error:
                await _refuse(scope, whole_send, error)
                return
            await self._app({**scope, PEER_KEY: peer}, receive, whole_send)

        return app

    def _check(self, scope: Scope, peer: Peer) -> None:
        """Every request on a connection must pass, not only the first.

        Raises:
          BadRequest, Forbidden: it does not.
        """
        if scope["type"] != "http" or scope["http_version"] not in ("1.0", "1.1"):
            raise BadRequest("only HTTP/1.1 is spoken here")
        named = {name: value.decode("latin-1") for name, value in scope["headers"]}
        self._guard.check(
            host=named.get(b"host"),
            origin=named.get(b"origin"),
            fetch_site=named.get(b"sec-fetch-site"),
            unix=peer.unix,
        )


async def _refuse(scope: Scope, send: Send, error: StokerError) -> None:
    if scope["type"] != "http":
        await send({"type": "websocket.close", "code": 1008})
        return
    reply = error_reply(error)
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in reply.headers]
    headers += [(b"content-length", str(len(reply.body)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body, "more_body": False})


class _Http1Server(TCPServer):
    """Hypercorn's server of one connection, without its way to HTTP/2.

    It would follow an ``Upgrade: h2c`` to a protocol whose rules we do not check; to ignore one is allowed (RFC 9110
    section 7.8), and a client that only offers it is served. Its preface, behind an HTTP/1.1 request, becomes a request
    of version 2.0, which is refused.
    """

    @property
    def protocol(self) -> Any:
        """What `run` makes."""
        return self._protocol

    @protocol.setter
    def protocol(self, wrapper: Any) -> None:
        wrapper.protocol._check_protocol = _follow_no_upgrade
        wrapper.protocol._send_h11_event = _say_why(wrapper.protocol._send_h11_event)
        self._protocol = wrapper


async def _follow_no_upgrade(_request: Any) -> None:
    """In place of H11Protocol._check_protocol."""


def _say_why(send: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    """Around H11Protocol._send_h11_event: status lines have a reason, as Fn's and OCI's do; scripts look at it."""

    async def send_with_reason(event: Any) -> None:
        if isinstance(event, h11.Response) and not event.reason:
            reason = REASONS.get(event.status_code, b"Unknown")
            event = h11.Response(status_code=event.status_code, headers=event.headers, reason=reason)
        await send(event)

    return send_with_reason


REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


class _Log:
    """Hypercorn's logger, writing to ours."""

    def __init__(self, log: Any) -> None:
        self._log = log

    async def access(self, *_: Any) -> None:
        """No access log: the front door counts, and the app knows better what to log."""

    async def exception(self, message: str, *args: Any, **_: Any) -> None:
        self._log.exception("control plane", message=message % args if args else message)

    async def error(self, message: str, *args: Any, **_: Any) -> None:
        self._log.error("control plane", message=message % args if args else message)

    critical = error

    async def warning(self, message: str, *args: Any, **_: Any) -> None:
        self._log.warning("control plane", message=message % args if args else message)

    async def info(self, message: str, *args: Any, **_: Any) -> None:
        self._log.info("control plane", message=message % args if args else message)

    debug = info


class _Replay:
    """A socket stream that first gives bytes that were read before, and cuts a client that does not read."""

    def __init__(self, stream: Any, received: bytes, *, write_s: float, ended: Callable[[], Awaitable[None]]) -> None:
        """``ended`` is awaited when nothing more will come from the client."""
        self._stream = stream
        self._received = received
        self._write_s = write_s
        self._ended = ended

    @property
    def socket(self) -> Any:
        return self._stream.socket

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._received:
            await trio.lowlevel.checkpoint()
            cut = len(self._received) if max_bytes is None else max_bytes
            part, self._received = self._received[:cut], self._received[cut:]
            return part
        data = b""
        try:
            data = bytes(await self._stream.receive_some(max_bytes))
        finally:
            if not data:
                await self._ended()
        return data

    async def send_all(self, data: bytes) -> None:
        # Hypercorn shields this call, so the limit must be in here.
        with trio.move_on_after(self._write_s) as limit:
            await self._stream.send_all(data)
        if limit.cancelled_caught:
            await trio.aclose_forcefully(self._stream)
            raise trio.BrokenResourceError("the client does not read")

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()
