"""Log lines to the outside: syslog of the applications that name one, and the journal of systemd.

Each destination has one task and one bounded queue. Nothing ever waits for a destination: what does not fit into its
queue is dropped, counted, and told in the log of the function and in the metrics.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import struct
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn, Protocol
from urllib.parse import unquote, urlsplit

import trio

from daemon.catalog import Catalog
from daemon.config.settings import Logs
from daemon.logs.book import LogBook
from daemon.logs.files import Record
from daemon.logs.lines import level_of, rfc5424, severity
from daemon.outward import Inward, addresses, open_stream

QUEUE_LINES_MAX = 10_000
"""Most lines that wait for one destination."""
QUEUE_BYTES_MAX = 8 * 2**20
"""Most bytes of them."""
DESTINATIONS_MAX = 64
"""Most destinations; lines for further ones are dropped and counted."""
CONNECT_S = 5.0
"""Longest time for a connection."""
SEND_S = 10.0
"""Longest time in which a destination takes nothing; then the connection is given up."""
RETRY_S, RETRY_S_MAX = 0.5, 30.0
"""Pause before the next attempt to connect: doubled each time."""
TELL_S = 5.0
"""How often drops are told."""
IDLE_S = 600.0
"""A destination without lines for this long is let go."""
LAST_WORDS_S = 1.0
"""How long the daemon waits at its end for what is still queued."""
BATCH_LINES = 200
"""Lines sent in one piece."""
DATAGRAM_BYTES_MAX = 60_000
"""Longest datagram; a line is cut to it."""
JOURNAL_SOCKET = "/run/systemd/journal/socket"


class Transport(Protocol):
    """A connection to a destination."""

    async def send(self, messages: Sequence[bytes]) -> None:
        """Send all of them. Raises OSError or a trio resource error."""
        ...

    async def aclose(self) -> None:
        """Let go of it."""
        ...


class Destination:
    """One destination: a queue and the task that empties it. ``url`` is a syslog URL, or ``journal:``."""

    def __init__(self, url: str, *, ca_file: str, outward: bool = False, log: Any) -> None:
        self.url = url
        self.sent = 0
        self.dropped = 0
        self.error = ""
        """Why it cannot be reached at present; empty when it can."""
        self.used_s = trio.current_time()
        self.function_id = ""
        """The function that used it last."""
        self.told = 0
        """Drops that were told."""
        self._ca_file = ca_file
        self._outward = outward
        self._log = log
        self._queue: deque[bytes] = deque()
        self._bytes = 0
        self._wake = trio.Event()
        self._busy = False

    @property
    def queued(self) -> int:
        """Lines that wait."""
        return len(self._queue)

    @property
    def quiet(self) -> bool:
        """Nothing waits, and nothing is being sent."""
        return not self._queue and not self._busy

    def offer(self, message: bytes) -> bool:
        """Queue a message; False: it was dropped."""
        self.used_s = trio.current_time()
        if len(self._queue) >= QUEUE_LINES_MAX or self._bytes + len(message) > QUEUE_BYTES_MAX:
            self.dropped += 1
            return False
        self._queue.append(message)
        self._bytes += len(message)
        self._wake.set()
        return True

    async def run(self) -> NoReturn:
        """Send what is queued until cancelled."""
        pause_s = RETRY_S
        while True:
            if not self._queue:
                self._wake = trio.Event()
                await self._wake.wait()
            try:
                with trio.fail_after(CONNECT_S):
                    transport = await connect(self.url, ca_file=self._ca_file, outward=self._outward)
            except (OSError, ValueError, trio.TooSlowError, trio.BrokenResourceError) as exc:
                self._complain(exc)
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_S_MAX)
                continue
            try:
                await self._pump(transport)
            except (OSError, trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                self._complain(exc)
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_S_MAX)
            else:  # the other side closed an idle connection
                pause_s = RETRY_S
            finally:
                self._busy = False
                with trio.move_on_after(1, shield=True):
                    await transport.aclose()

    async def _pump(self, transport: Transport) -> None:
        if self.error:
            self._log.info("syslog destination is reached again", url=shown(self.url))
            self.error = ""
        while True:
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(BATCH_LINES, len(self._queue)))]
                self._bytes -= sum(map(len, batch))
                self._busy = True
                try:
                    with trio.fail_after(SEND_S):
                        await transport.send(batch)
                except BaseException:
                    self.dropped += len(batch)  # how many of them arrived cannot be known: none is sent twice
                    raise
                finally:
                    self._busy = False
                self.sent += len(batch)
            self._wake = trio.Event()
            await self._wake.wait()

    def _complain(self, exc: BaseException) -> None:
        text = str(exc) or str(exc.__cause__ or "") or type(exc).__name__
        if text != self.error:
            self.error = text
            self._log.warning("cannot send log lines to a destination", url=shown(self.url), error=text)


class LogSinks:
    """All destinations of a node. Use `run`; it hooks itself into the log book."""

    def __init__(self, catalog: Catalog, log_book: LogBook, settings: Logs, *, outward: bool = False, log: Any) -> None:
        """``outward``: applications may not name unix sockets and addresses of this machine."""
        self._outward = outward
        self._catalog = catalog
        self._book = log_book
        self._settings = settings
        self._log = log
        self._host = socket.gethostname()
        self._nursery: trio.Nursery | None = None
        self._scopes: dict[str, trio.CancelScope] = {}
        self._gone_sent = self._gone_dropped = 0
        self.destinations: dict[str, Destination] = {}
        self.dropped_full = 0
        """Lines for destinations beyond `DESTINATIONS_MAX`."""
        wish = settings.journald
        self.journal = wish == "on" or (wish == "auto" and bool(os.environ.get("JOURNAL_STREAM")))

    @property
    def sent(self) -> int:
        """Lines sent since the start."""
        return self._gone_sent + sum(d.sent for d in self.destinations.values())

    @property
    def dropped(self) -> int:
        """Lines that were to be sent and were not, since the start."""
        return self.dropped_full + self._gone_dropped + sum(d.dropped for d in self.destinations.values())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Send lines until cancelled; then what is queued has a moment to leave."""
        async with trio.open_nursery() as outer:
            self._nursery = outer
            self._book.sinks.append(self.take)
            task_status.started()
            try:
                while True:
                    await trio.sleep(TELL_S)
                    self._tell()
                    self._let_go()
            finally:
                self._book.sinks.remove(self.take)
        raise AssertionError("unreachable")

    async def flush(self, wait_s: float) -> None:
        """Give what is queued some time to leave."""
        with trio.move_on_after(wait_s):
            while not all(d.quiet for d in self.destinations.values()):  # noqa: ASYNC110 - an end, not a path
                await trio.sleep(0.01)

    def take(self, function_id: str, records: Sequence[Record]) -> None:
        """New lines of a function."""
        function = self._catalog.function(function_id)
        app = self._catalog.app(function.app_id) if function else None
        if app is None or function is None or not (app.syslog_url or self.journal):
            return
        syslog = self._destination(app.syslog_url) if app.syslog_url else None
        journal = self._destination("journal:") if self.journal else None
        if syslog is not None:
            syslog.function_id = function_id
        for at, call_id, instance, stream, line in records:
            if app.syslog_url:
                message = rfc5424(
                    at=at, host=self._host, app=app.name, function=function.name, call_id=call_id, instance=instance,
                    stream=stream, line=line,
                )  # fmt: skip
                if syslog is None:
                    self.dropped_full += 1
                else:
                    syslog.offer(message)
            if journal is not None:
                journal.offer(
                    journal_message(
                        MESSAGE=line,
                        PRIORITY=str(severity(level_of(stream, line))),
                        SYSLOG_IDENTIFIER="stoker",
                        STOKER_APP=app.name,
                        STOKER_FUNCTION=function.name,
                        STOKER_CALL_ID=call_id,
                        STOKER_INSTANCE=instance,
                        STOKER_STREAM=stream,
                    )
                )

    def _destination(self, url: str) -> Destination | None:
        found = self.destinations.get(url)
        if found is None and len(self.destinations) < DESTINATIONS_MAX and self._nursery is not None:
            found = self.destinations[url] = Destination(
                url,
                ca_file=self._settings.syslog_ca_file,
                outward=self._outward and url != "journal:",
                log=self._log,
            )
            self._nursery.start_soon(self._live, found)
        return found

    async def _live(self, destination: Destination) -> None:
        with trio.CancelScope() as scope:
            self._scopes[destination.url] = scope
            await destination.run()

    def _tell(self) -> None:
        """Say in the logs that lines were dropped: of each destination in the log of the function that used it last."""
        for destination in self.destinations.values():
            new = destination.dropped - destination.told
            if new <= 0 or destination.function_id not in self._catalog.functions:
                continue
            destination.told = destination.dropped + 1  # the line that says so may be dropped as well
            why = destination.error or "it is too slow"
            self._book.open(destination.function_id).platform(
                f"{new} lines were dropped on the way to {shown(destination.url)}: {why}"
            )

    def _let_go(self) -> None:
        for url, destination in list(self.destinations.items()):
            if destination.quiet and trio.current_time() - destination.used_s > IDLE_S:
                self._gone_sent += destination.sent
                self._gone_dropped += destination.dropped
                del self.destinations[url]
                self._scopes.pop(url).cancel(reason="idle")

    def states(self) -> list[dict[str, Any]]:
        """What people may know of the destinations."""
        return [
            {"url": shown(d.url), "sent": d.sent, "dropped": d.dropped, "queued": d.queued, "error": d.error or None}
            for d in self.destinations.values()
        ]


# -- transports


async def connect(url: str, *, ca_file: str = "", outward: bool = False) -> Transport:
    """A connection to ``tcp://host:port``, ``tcp+tls://...``, ``udp://...``, ``unix:///path`` or ``journal:``.

    ``outward``: not to this machine or its link (`daemon.outward`).

    Raises:
      OSError, ValueError, trio.BrokenResourceError: it cannot be had.
    """
    parts = urlsplit(url)
    if parts.scheme == "journal":
        return await _datagrams(socket.AF_UNIX, parts.path or JOURNAL_SOCKET)
    if parts.scheme in ("unix", "unixgram"):
        if outward:
            raise Inward(url)
        return await _unix(unquote(parts.path or parts.netloc), stream=parts.scheme == "unix")
    host, port = parts.hostname or "", parts.port or (6514 if parts.scheme == "tcp+tls" else 514)
    if parts.scheme == "udp":
        if outward:
            host = (await addresses(host, port, socket.SOCK_DGRAM))[0][1]
        [(family, _, _, _, address), *_] = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        return await _datagrams(family, address)
    stream: trio.abc.Stream = await (open_stream if outward else trio.open_tcp_stream)(host, port)
    if parts.scheme == "tcp+tls":
        try:
            context = ssl.create_default_context(cafile=ca_file or None)
            secure = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
            await secure.do_handshake()
            stream = secure
        except BaseException:
            with trio.move_on_after(1, shield=True):
                await trio.aclose_forcefully(stream)
            raise
    return _StreamTransport(stream)


async def _unix(path: str, *, stream: bool) -> Transport:
    if stream:
        try:
            return _StreamTransport(await trio.open_unix_socket(path))
        except OSError as exc:
            if exc.errno != errno.EPROTOTYPE:
                raise
    return await _datagrams(socket.AF_UNIX, path)  # such as /dev/log


async def _datagrams(family: int, address: Any) -> Transport:
    sock = trio.socket.socket(family, socket.SOCK_DGRAM)
    try:
        await sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return _DatagramTransport(sock)


class _StreamTransport:
    """Messages one after another, each with its length before it (RFC 6587 section 3.4.1, RFC 5425)."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def send(self, messages: Sequence[bytes]) -> None:
        await self._stream.send_all(b"".join(b"%d %b" % (len(message), message) for message in messages))

    async def aclose(self) -> None:
        await self._stream.aclose()


class _DatagramTransport:
    """One datagram per message (RFC 5426)."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self._sock = sock

    async def send(self, messages: Sequence[bytes]) -> None:
        for message in messages:
            with suppress(ConnectionRefusedError):  # of the datagram before: UDP tells late, and loses anyway
                await self._sock.send(message[:DATAGRAM_BYTES_MAX])

    async def aclose(self) -> None:
        self._sock.close()


def journal_message(**fields: str) -> bytes:
    """One entry in the journal's native protocol (systemd: Native Journal Protocol)."""
    parts = []
    for name, value in fields.items():
        data = value.encode("utf-8", "replace")
        if b"\n" in data:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n")
        elif data:
            parts.append(name.encode() + b"=" + data + b"\n")
    return b"".join(parts)


def shown(url: str) -> str:
    """A URL without what may be secret in it."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}" if parts.scheme else url
