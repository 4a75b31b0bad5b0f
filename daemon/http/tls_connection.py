"""A connection that speaks TLS: as `Connection`, with a handshake before and a flush after."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, Any, cast

import trio

from daemon.http.connection import Connection, Phase
from daemon.http.messages import Peer, Reply
from daemon.tls import TlsSocket

if TYPE_CHECKING:
    from daemon.http.frontdoor import FrontDoor

__all__ = ["TlsConnection", "TlsStream"]

SPEAKS_TLS = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 34\r\nConnection: close\r\n\r\n"
    b"This port speaks HTTPS, not HTTP.\n"
)
"""For a client that says http:// to an https port."""


class TlsConnection(Connection):
    """One client connection of the TLS listener."""

    __slots__ = ("_shaken", "_tls")

    def __init__(self, door: FrontDoor, sock: socket.socket, peer: Peer, context: ssl.SSLContext) -> None:
        self._tls = TlsSocket(sock, context)
        super().__init__(door, cast(Any, self._tls), peer)
        self._shaken = False

    async def _serve(self) -> None:
        if not self._shaken:
            await self._shake_hands()
            self._shaken = True
        await super()._serve()

    async def _shake_hands(self) -> None:
        self._enter(Phase.HEAD, self._door.http.header_s)
        tls = self._tls
        try:
            while True:
                try:
                    if tls.handshake():
                        break
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(self.fd)
        except ssl.SSLError as exc:
            if exc.reason == "HTTP_REQUEST":
                tls.plain.send(SPEAKS_TLS)
            raise
        await self._flushed()
        if data := tls.received():  # it came with the last of the handshake: the kernel will not tell again
            self._parser.receive(data)

    def _bytes_came(self) -> bool:
        return False  # the kernel's bytes may be TLS's own

    async def _timed_out(self) -> None:
        if self._shaken:
            await super()._timed_out()

    async def _send(self, reply: Reply, *, head_only: bool, keep_alive: bool, http_1_0: bool) -> None:
        await super()._send(reply, head_only=head_only, keep_alive=keep_alive, http_1_0=http_1_0)
        await self._flushed()

    async def _write(self, data: memoryview) -> None:
        await super()._write(data)
        await self._flushed()

    async def _flushed(self) -> None:
        """Wait until the kernel has taken all that is encrypted."""
        if self._tls.flush():
            return
        self._enter(Phase.WRITING, self._door.http.write_s)
        while not self._tls.flush():
            await trio.lowlevel.wait_writable(self.fd)

    def _stream(self) -> Any:
        return TlsStream(self._tls)


class TlsStream:
    """A stream for Hypercorn over a connection whose handshake is done."""

    def __init__(self, tls: TlsSocket) -> None:
        self._tls = tls
        self._closed = False

    @property
    def socket(self) -> socket.socket:
        """For its addresses."""
        return self._tls.plain

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What comes next; b"" at the end."""
        await trio.lowlevel.checkpoint()
        try:
            while not self._closed:
                try:
                    return self._tls.recv(max_bytes or 65536)
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(self._tls.fileno())
        except OSError as exc:
            raise trio.BrokenResourceError(str(exc)) from exc
        raise trio.ClosedResourceError

    async def send_all(self, data: bytes) -> None:
        """Send all of it."""
        rest = memoryview(data)
        try:
            while rest or not self._tls.flush():
                if self._closed:
                    raise trio.ClosedResourceError
                try:
                    rest = rest[self._tls.send(rest) :] if rest else rest
                    if self._tls.flush():
                        continue
                except BlockingIOError:
                    pass
                await trio.lowlevel.wait_writable(self._tls.fileno())
        except OSError as exc:
            raise trio.BrokenResourceError(str(exc)) from exc
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        """Say that nothing more comes."""
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise trio.ClosedResourceError
        try:
            self._tls.shutdown(socket.SHUT_WR)
        except OSError as exc:
            raise trio.BrokenResourceError(str(exc)) from exc

    async def aclose(self) -> None:
        """Close the connection. May be called again."""
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._tls.fileno())
            self._tls.close()
        await trio.lowlevel.checkpoint()
