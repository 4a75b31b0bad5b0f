"""One client connection of the data plane: requests in, replies out, in order."""

from __future__ import annotations

import enum
import socket
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import trio

from daemon.errors import Draining, InternalError, QueueFull, RequestTimeout, StokerError
from daemon.http import oci_replies
from daemon.http.messages import Endpoint, Peer, Reply, Request, error_reply
from daemon.http.parser import Head, RequestParser

if TYPE_CHECKING:
    from daemon.http.frontdoor import FrontDoor

__all__ = ["Connection", "Phase"]

RECV_BYTES = 64 * 2**10
"""Most bytes taken from the socket at once."""
BODY_RECV_BYTES = 256 * 2**10
"""The same while a body is coming."""
JOIN_BYTES_MAX = 64 * 2**10
"""Bodies up to this are copied behind their head to be sent in one piece; above, the copy costs more."""
DRAIN_IDLE_S = 1.0
"""How long an idle connection stays open while draining, where its next request would still be answered."""
BODIES_BYTES_MAX = 512 * 2**20
"""Most bytes of request bodies that all connections together may hold, arriving or being run; then 429."""
LINGER_S = 2.0
"""How long a client that is still sending may do so after an early reply. Closing at once would make the kernel send a
reset, and the client would lose the reply (RFC 9112 section 9.6)."""
LINGER_BYTES_MAX = 64 * 2**20
"""Most bytes thrown away in that time."""


class Phase(enum.Enum):
    """What a connection is waiting for; `Connection.deadline_s` is until when."""

    IDLE = "idle"  # the first byte of a request
    HEAD = "head"  # the rest of its head
    BODY = "body"  # its body
    RUNNING = "running"  # the endpoint; at the deadline the patrol begins to watch the client
    WRITING = "writing"  # the client to take the reply
    LINGERING = "lingering"  # the client to close after an early reply
    HANDED_OVER = "handed over"  # nothing: the control plane looks after it


class Connection:
    """A socket, its parser, and the task in `run`."""

    __slots__ = ("_door", "_held", "_parser", "_peer", "_scope", "_sock", "deadline_s", "fd", "phase")

    def __init__(self, door: FrontDoor, sock: socket.socket, peer: Peer) -> None:
        self._door = door
        self._sock = sock
        self._peer = peer
        self._parser = RequestParser(door.http)
        self._scope = trio.CancelScope()
        self._held = 0
        self.fd = sock.fileno()
        self.phase = Phase.IDLE
        self.deadline_s = door.now_s + (DRAIN_IDLE_S if door.draining else door.http.keep_alive_s)

    async def run(self) -> None:
        """Serve until the connection ends; the socket is closed then."""
        try:
            with self._scope:
                while True:
                    try:
                        await self._serve()
                        break
                    except trio.ClosedResourceError:  # the patrol, or drain, woke the wait
                        if self.phase is not Phase.IDLE or not self._bytes_came():
                            await self._timed_out()
                            break
        except (OSError, trio.ClosedResourceError):
            pass  # reset by the client, or it took too long over our last words: nobody is left to be told
        except Exception:
            self._door.log.exception("connection failed", phase=self.phase.value)
        finally:
            self._door.held_bytes -= self._held
            self._sock.close()

    def overdue(self) -> None:
        """Called by the patrol: the deadline of a phase other than RUNNING has passed."""
        if self.phase is not Phase.IDLE:
            self._door.stats.timed_out += 1
        self._wake()

    def client_left(self) -> None:
        """Called by the patrol: nobody waits for the answer of the running call."""
        self._scope.cancel(reason="the client has gone")

    def drain(self) -> None:
        """Close the connection if it is idle, at once or a little later; else it is closed after its reply."""
        if self.phase is Phase.IDLE:
            if self._door.refusing:
                self._wake()
            else:
                self._enter(Phase.IDLE, DRAIN_IDLE_S)

    def _wake(self) -> None:
        trio.lowlevel.notify_closing(self.fd)

    def _bytes_came(self) -> bool:
        """A request came in the moment in which the connection was to be closed."""
        try:
            return bool(self._sock.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return False

    async def _serve(self) -> None:
        """Read, answer, repeat."""
        door, parser, sock, fd = self._door, self._parser, self._sock, self.fd
        wait_readable = trio.lowlevel.wait_readable
        keep_alive_s = door.http.keep_alive_s
        while True:
            head = None
            try:
                if parser.begun:
                    head = parser.head()
                while head is None:
                    await wait_readable(fd)
                    try:
                        data = sock.recv(RECV_BYTES)
                    except (BlockingIOError, InterruptedError):
                        continue
                    if not data:
                        return
                    parser.receive(data)
                    head = parser.head()
                    if head is None and self.phase is Phase.IDLE and parser.begun:
                        self._enter(Phase.HEAD, door.http.header_s)
                door.guard.check(host=head.host, origin=head.origin, fetch_site=head.fetch_site, unix=self._peer.unix)
                if door.refusing:
                    raise Draining
                endpoint = door.route(head.method, head.target)
                if endpoint is None:
                    await self._hand_over()
                    return
                body = parser.body()
                if body is None:
                    body = await self._rest_of_body(head)
            except StokerError as error:
                door.stats.refused += 1
                await self._refuse(error, head)
                return
            keep_alive = await self._answer(head, body, endpoint)
            door.stats.requests += 1
            if self._held:
                door.held_bytes -= self._held
                self._held = 0
            if not keep_alive:
                if head.keep_alive or parser.begun:  # else the client said itself that nothing follows
                    await self._linger()
                return
            if parser.begun:  # pipelined: others first
                self._enter(Phase.HEAD, door.http.header_s)
                await trio.lowlevel.checkpoint()
            else:
                self.phase = Phase.IDLE
                self.deadline_s = door.now_s + keep_alive_s

    async def _answer(self, head: Head, body: bytes, endpoint: Endpoint) -> bool:
        """Run the endpoint and send its reply; False: the connection must be closed."""
        door = self._door
        self.phase = Phase.RUNNING
        self.deadline_s = door.now_s + door.client_watch_s
        keep_alive = head.keep_alive
        try:
            reply = await endpoint(Request(head.method, head.target, head.headers, body, head.host or "", self._peer))
        except StokerError as error:
            reply = _refusal(error, head)
        except Exception:
            door.log.exception("endpoint failed", method=head.method, target=head.target.decode("ascii"))
            reply, keep_alive = _refusal(InternalError(), head), False
        keep_alive = keep_alive and not door.draining
        await self._send(reply, head_only=head.method == "HEAD", keep_alive=keep_alive, http_1_0=head.http_1_0)
        return keep_alive

    async def _send(self, reply: Reply, *, head_only: bool, keep_alive: bool, http_1_0: bool) -> None:
        """Send a reply: at once if the kernel takes it whole, as it nearly always does."""
        body = b"" if head_only or reply.status in BODILESS else reply.body
        head = _encode_head(reply, self._door.date, keep_alive=keep_alive, http_1_0=http_1_0)
        try:
            if len(body) <= JOIN_BYTES_MAX:
                data = head + body
                sent = self._sock.send(data)
                if sent < len(data):
                    await self._send_rest(reply, memoryview(data)[sent:])
                return
            sent = self._sock.sendmsg((head, body))
        except (BlockingIOError, InterruptedError):
            sent = 0
        if sent < len(head):
            await self._write(memoryview(head)[sent:])
            sent = len(head)
        if sent < len(head) + len(body):
            await self._send_rest(reply, memoryview(body)[sent - len(head) :])

    async def _send_rest(self, reply: Reply, data: memoryview) -> None:
        """Send what the kernel did not take at once, and tell how long the client took for it."""
        began_s = trio.current_time()
        try:
            await self._write(data)
        finally:
            for name, value in reply.headers:
                if name == "Fn-Call-Id":
                    self._door.on_slow_reply(value, trio.current_time() - began_s)
                    break

    async def _rest_of_body(self, head: Head) -> bytes:
        self._enter(Phase.BODY, self._door.http.body_s)
        parser, sock = self._parser, self._sock
        if head.expects_continue:
            await self._write(memoryview(b"HTTP/1.1 100 Continue\r\n\r\n"))
            self._enter(Phase.BODY, self._door.http.body_s)
        while True:
            await trio.lowlevel.wait_readable(self.fd)
            try:
                data = sock.recv(BODY_RECV_BYTES)
            except (BlockingIOError, InterruptedError):
                continue
            if not data:
                raise ConnectionResetError
            self._hold(len(data))
            parser.receive(data)
            body = parser.body()
            if body is not None:
                return body

    def _hold(self, size: int) -> None:
        """Count bytes of a body that came in more than one piece, until its request is answered.

        Raises:
          QueueFull: all connections together hold `BODIES_BYTES_MAX`.
        """
        self._held += size
        self._door.held_bytes += size
        if self._door.held_bytes > BODIES_BYTES_MAX:
            raise QueueFull(detail=f"{BODIES_BYTES_MAX} bytes of request bodies are being held")

    async def _refuse(self, error: StokerError, head: Head | None = None) -> None:
        """Answer a request that cannot be served, or not be understood; what comes behind it is not looked at."""
        self._enter(Phase.WRITING, self._door.http.write_s)
        head_only = head is not None and head.method == "HEAD"
        await self._send(_refusal(error, head), head_only=head_only, keep_alive=False, http_1_0=False)
        await self._linger()

    async def _timed_out(self) -> None:
        if self.phase in (Phase.HEAD, Phase.BODY):
            await self._refuse(RequestTimeout())

    async def _write(self, data: memoryview) -> None:
        """Send all, waiting for the client as long as ``http.write_s`` allows."""
        self._enter(Phase.WRITING, self._door.http.write_s)
        while data:
            try:
                data = data[self._sock.send(data) :]
                continue
            except (BlockingIOError, InterruptedError):
                pass
            await trio.lowlevel.wait_writable(self.fd)

    async def _linger(self) -> None:
        """Close our side, then read what still comes, for a while."""
        self._enter(Phase.LINGERING, LINGER_S)
        self._sock.shutdown(socket.SHUT_WR)
        left = LINGER_BYTES_MAX
        while left > 0:
            await trio.lowlevel.wait_readable(self.fd)
            try:
                data = self._sock.recv(BODY_RECV_BYTES)
            except (BlockingIOError, InterruptedError):
                continue
            if not data:
                return
            left -= len(data)

    async def _hand_over(self) -> None:
        door = self._door
        door.stats.handed_over += 1
        self.phase, self.deadline_s = Phase.HANDED_OVER, float("inf")
        await door.control.serve(self._stream(), self._peer, self._parser.unread())

    def _stream(self) -> Any:
        return trio.SocketStream(trio.socket.from_stdlib_socket(self._sock))

    def _enter(self, phase: Phase, limit_s: float) -> None:
        self.phase, self.deadline_s = phase, self._door.now_s + limit_s


def _refusal(error: StokerError, head: Head | None) -> Reply:
    """An error in the words of the API that was asked."""
    if head is None or not oci_replies.is_oci(head.target):
        return error_reply(error)
    return oci_replies.refusal(error, dict(head.headers).get(oci_replies.REQUEST_ID, ""))


BODILESS = frozenset({204, 304})
"""Statuses whose replies never have a body (RFC 9110 section 6.4.1)."""
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}


def _encode_head(reply: Reply, date: str, *, keep_alive: bool, http_1_0: bool) -> bytes:
    """Status line and headers, framing included."""
    status = reply.status
    lines = [_STATUS_LINES.get(status) or f"HTTP/1.1 {status} Unknown\r\n"]
    lines += [f"{name}: {value}\r\n" for name, value in reply.headers]
    lines.append(date)
    if status != 204:  # RFC 9110 section 8.6
        lines.append(f"Content-Length: {len(reply.body)}\r\n")
    if not keep_alive:
        lines.append("Connection: close\r\n")
    elif http_1_0:
        lines.append("Connection: keep-alive\r\n")
    lines.append("\r\n")
    text = "".join(lines)
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()
