"""The data plane's HTTP server: connections on bare sockets, one task each, nothing more on the warm path.

A warm request costs its connection's task one wait for bytes, one recv, one parse, one call of the endpoint and one
send. No timer is armed and no scope is made for it: every connection notes until when it may stay in its phase, and one
patrol looks over all of them a few times a second. A request for the control plane takes its connection along, with
every byte from its start (`daemon.http.handover`).
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from email.utils import formatdate
from typing import Any, NoReturn

import trio

from daemon.config.settings import Http
from daemon.http.connection import Connection, Phase
from daemon.http.guard import Guard
from daemon.http.handover import AsgiApp, ControlPlane
from daemon.http.messages import Endpoint, Peer, Reply, Request, Route
from daemon.http.tls_connection import TlsConnection
from daemon.tls import TlsFiles

__all__ = ["Endpoint", "FrontDoor", "Peer", "Reply", "Request", "Route", "Stats"]

PATROL_S = 0.25
"""How often the patrol looks; every time limit of a connection is kept to within twice this."""
ACCEPT_RETRY_S = 0.1
"""Pause after a failed accept: no descriptors or no memory. Closing connections may mend it."""
ACCEPT_BATCH = 64
"""Connections accepted in a row before other tasks run."""
SO_PEERGROUPS = 59  # asm-generic/socket.h; Python has no name for it
PEER_GROUPS_MAX = 256
"""Most groups of a local client that are looked at; one with more counts as in its primary group only. A socket option
is at most 1,024 bytes long for Python."""
NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(slots=True)
class Stats:
    """What the front door has done. Counters grow for ever."""

    connections: int = 0
    """Open now, those handed to the control plane included."""
    accepted: int = 0
    requests: int = 0
    """Requests of the data plane that were answered, errors included."""
    handed_over: int = 0
    refused: int = 0
    """Requests that broke a rule of HTTP, a limit, or the guard."""
    timed_out: int = 0
    """Connections cut because the client was too slow to send or to read."""
    clients_left: int = 0
    """Calls cancelled because the client had gone."""
    accept_failures: int = 0


class FrontDoor:
    """One HTTP server for both planes; see `serve`."""

    def __init__(
        self,
        http: Http,
        *,
        route: Route,
        control: AsgiApp,
        client_watch_s: float,
        log: Any,
        tls: TlsFiles | None = None,
    ) -> None:
        """``client_watch_s``: seconds after which the client of a running call is watched. ``tls``: for TCP."""
        self.tls = tls
        self.http = http
        self.route = route
        self.client_watch_s = client_watch_s
        self.log = log
        self.guard = Guard(http)
        self.control = ControlPlane(control, http, self.guard, log)
        self.stats = Stats()
        self.now_s = 0.0
        """The patrol's clock, at most `PATROL_S` behind: good enough for limits of seconds, and free."""
        self.date = ""
        """The Date header of replies, line end included; kept by the patrol."""
        self.on_slow_reply: Callable[[str, float], None] = lambda call_id, seconds: None
        """Called with a call's id and how long its client took for the reply, unless the kernel took it at once."""
        self.held_bytes = 0
        """Bytes of request bodies that connections hold; they keep count."""
        self.draining = False
        self.refusing = False
        self._connections: set[Connection] = set()
        self._came = trio.Event()
        self._left = trio.lowlevel.ParkingLot()
        self._drain = trio.Event()
        self._acceptors = trio.CancelScope()

    async def serve(
        self,
        listeners: Sequence[socket.socket],
        *,
        task_status: trio.TaskStatus[FrontDoor] = trio.TASK_STATUS_IGNORED,
    ) -> NoReturn:
        """Serve on listening TCP and unix sockets until cancelled; then every connection is closed.

        Resource handling: the listeners stay the caller's, they are only made non-blocking. After `drain` nothing is
        accepted any more if the listeners are handed over, else what comes is told 503.
        """
        self._tick()
        async with trio.open_nursery() as nursery:
            await nursery.start(self.control.run)
            nursery.start_soon(self._patrol)
            nursery.start_soon(self._accept_all, listeners, nursery)
            task_status.started(self)
            await self._drain.wait()
            await self.control.drain()
            await trio.sleep_forever()
        raise AssertionError("unreachable")

    def drain(self, *, hand_over: bool = False) -> None:
        """Begin to stop. Idle connections are closed; a running call gets its answer, and its connection is closed.

        New requests get 503 and ``Connection: close``. With ``hand_over`` the listening sockets live on in another
        process: what is in their backlog is left to it, and requests on open connections are still answered.
        """
        self.draining = True
        self.refusing = not hand_over
        if hand_over:
            self._acceptors.cancel(reason="listeners handed over")
        for connection in list(self._connections):
            connection.drain()
        self._drain.set()

    async def drained(self) -> None:
        """Wait until no connection is open. Only after `drain`."""
        while self._connections:
            await self._left.park()

    async def _accept_all(self, listeners: Sequence[socket.socket], nursery: trio.Nursery) -> None:
        with self._acceptors:
            async with trio.open_nursery() as acceptors:
                for listener in listeners:
                    acceptors.start_soon(self._accept, listener, nursery)

    async def _accept(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        listener.setblocking(False)
        if listener.family != socket.AF_UNIX:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what is accepted inherits it
        failing = False
        while True:
            while self.stats.connections >= self.http.connections_max:  # the rest waits in the kernel's backlog
                await self._left.park()
            await trio.lowlevel.wait_readable(listener.fileno())
            for _ in range(min(ACCEPT_BATCH, self.http.connections_max - self.stats.connections)):
                try:
                    sock, address = listener.accept()
                except BlockingIOError:
                    break
                except OSError as exc:
                    if exc.errno not in NO_ROOM:
                        continue  # the client has gone already (accept(2))
                    if not failing:  # told once, not ten times a second
                        self.log.warning("cannot accept", error=str(exc), connections=self.stats.connections)
                    failing = True
                    self.stats.accept_failures += 1
                    self._make_room()
                    await trio.sleep(ACCEPT_RETRY_S)
                    break
                failing = False
                sock.setblocking(False)
                peer = _peer(sock, address)
                if self.tls is None or peer.unix:
                    connection = Connection(self, sock, peer)
                else:
                    connection = TlsConnection(self, sock, replace(peer, tls=True), self.tls.context)
                self.stats.connections += 1
                self.stats.accepted += 1
                if not self._connections:  # the patrol was asleep and its clock stood still
                    self._tick()
                    self._came.set()
                self._connections.add(connection)
                nursery.start_soon(self._live, connection)

    def _make_room(self) -> None:
        # POLICY: who has been idle for longest goes first; a running call is never cut for a new one.
        idle = [connection for connection in self._connections if connection.phase is Phase.IDLE]
        for connection in sorted(idle, key=lambda connection: connection.deadline_s)[:ACCEPT_BATCH]:
            connection.overdue()

    async def _live(self, connection: Connection) -> None:
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            self.stats.connections -= 1
            self._left.unpark_all()

    async def _patrol(self) -> NoReturn:
        """Look after every limit of time: one task for all connections, asleep when there are none."""
        while True:
            if not self._connections:
                self._came = trio.Event()
                await self._came.wait()
            await trio.sleep(PATROL_S)
            now_s = self._tick()
            running = []
            for connection in self._connections:
                if connection.deadline_s <= now_s:
                    if connection.phase is Phase.RUNNING:
                        running.append(connection)
                    else:
                        connection.overdue()
            if running:
                self._watch(running)

    def _tick(self) -> float:
        self.date = f"Date: {formatdate(usegmt=True)}\r\n"
        self.now_s = trio.current_time()
        return self.now_s

    def _watch(self, running: list[Connection]) -> None:
        """Cancel the calls whose clients have gone. A half-closed connection counts as gone, as for Go's server."""
        poll = select.poll()
        watched = {connection.fd: connection for connection in running}
        for fd in watched:
            poll.register(fd, select.POLLRDHUP)
        for fd, _ in poll.poll(0):
            self.stats.clients_left += 1
            watched[fd].client_left()


def _peer(sock: socket.socket, address: Any) -> Peer:
    if sock.family == socket.AF_UNIX:
        _, uid, gid = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        try:
            raw = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 4 * PEER_GROUPS_MAX)
        except OSError:  # more groups than that, or a kernel before 4.13
            raw = b""
        return Peer(unix=True, uid=uid, groups=(gid, *struct.unpack(f"{len(raw) // 4}I", raw)))
    return Peer(unix=False, address=str(address[0]))
