"""The daemon's side of an instance that is a program of its own: the Fn contract, HTTP/1.1 over its unix socket.

Has the shape of `daemon.channel.Channel`. The program's socket is in a directory that the instance alone can write; the
daemon has a descriptor of that directory from before the program was started, and opens the socket itself, not what a
name in there leads to: a link can point to nothing of the host. One call at a time; whatever comes unasked condemns.
Rules: reference fn-contract 3.2 and 3.3.
"""

from __future__ import annotations

import array
import errno
import os
import re
import select
import socket
import stat
from collections.abc import Callable
from functools import lru_cache

import trio

from daemon import errors
from daemon.config import Limits
from daemon.errors import StokerError
from daemon.http_reply import Replies
from daemon.model import Answer
from daemon.parents import Child

LISTENER = "lsnr.sock"
LISTEN_POLL_S = 0.004
"""How often it is looked for the socket of a program that starts."""
CONNECT_S = 1.0
"""How long a socket that is there may refuse connections: some programs bind it before they listen."""
IDLE_CONNECTION_S = 1.0
"""A connection without a call is closed after this long, as Fn does: the Python FDK spins on one left open for 75 s."""
CHUNK_BYTES = 32 * 2**10
"""Of a request's body; what Go's client sends."""
READ_BYTES = 256 * 2**10
DETAIL_CHARS_MAX = 2000
"""How much of the text of a 502 or 504 is told to the caller."""

_own = frozenset(
    {"host", "user-agent", "transfer-encoding", "content-length", "fn-call-id", "fn-deadline", "connection"}
)
_breaks_a_header = re.compile(r"[\r\n\0]").search


class HttpChannel:
    """Calls one program. Not for two tasks at once, but for `abort`, which is for any."""

    def __init__(self, handshake_fd: int, child: Child, limits: Limits, kill: Callable[[], None]) -> None:
        """``handshake_fd``: what `runtime.program` says comes from here; taken over, non-blocking.

        ``kill``: ends the process at once; the contract knows no other way to ask a program to leave.
        """
        self._handshake = socket.socket(fileno=handshake_fd)
        self._child = child
        self._limits = limits
        self._kill = kill
        self._directory = self._listener = -1
        self._connection: socket.socket | None = None
        self._replies = Replies(limits)
        self._watch = select.epoll()  # one descriptor to watch, whichever connection there is
        self._error: StokerError | None = None
        self._idle_since_s = 0.0
        self._busy = False
        self._closed = False
        self._changed = trio.Event()
        self.usable = False
        """Whether the next call may use it."""

    # -- start --------------------------------------------------------------------------------------------------

    async def ready(self) -> dict[str, str | int]:
        """Wait until the program was started and its socket is there.

        Raises:
          InitFailed: it cannot be started, ended, or what it made is no socket or a link that leads elsewhere.
          StokerError: what `abort` was given.
        """
        await self._started()
        ended = select.poll()
        ended.register(self._child.pidfd, select.POLLIN)
        while not self._found():
            if self._error is not None:
                raise self._error
            if ended.poll(0):
                status = await self._child.exited()
                raise errors.InitFailed(detail=f"the program ended before it listened on FN_LISTENER: {status}")
            await trio.sleep(LISTEN_POLL_S)
        self.usable = True
        return {}

    async def _started(self) -> None:
        """The directory comes, then the end of the socket: the program has taken the process's place."""
        while True:
            try:
                await trio.lowlevel.wait_readable(self._handshake)
                data, ancillary, _, _ = self._handshake.recvmsg(4096, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                continue
            except trio.ClosedResourceError:
                raise self._reason() from None
            except OSError as exc:
                raise errors.InitFailed(detail=f"the process cannot be heard: {exc.strerror}") from None
            for _, _, rights in ancillary:
                self._directory = array.array("i", rights)[0]
            if not data:
                break
            if not ancillary:
                raise errors.InitFailed(detail=data.decode("utf-8", "replace"))
        if self._directory < 0:
            status = await self._child.exited()
            raise errors.InitFailed(detail=f"the process ended before the program was started: {status}")

    def _found(self) -> bool:
        """Whether the socket is there; if so, it is held from now on.

        Raises:
          InitFailed: there is something else.
        """
        try:
            target = LISTENER
            if stat.S_ISLNK(os.stat(LISTENER, dir_fd=self._directory, follow_symlinks=False).st_mode):
                target = os.readlink(LISTENER, dir_fd=self._directory)
                if "/" in target or not target:
                    raise errors.InitFailed(
                        detail=f"{LISTENER} is a link to {target[:200]!r}; it must be the bare name of a socket "
                        "beside it"
                    )
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise errors.InitFailed(detail=f"{LISTENER}: {exc.strerror}") from None
        try:
            fd = os.open(target, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory)
        except OSError as exc:
            raise errors.InitFailed(detail=f"{LISTENER} leads to {target[:200]!r}: {exc.strerror}") from None
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            os.close(fd)
            raise errors.InitFailed(detail=f"{LISTENER} is not a socket")
        self._listener = fd
        return True

    # -- calls --------------------------------------------------------------------------------------------------

    async def call(self, *, call_id: str, deadline: str, headers: list[tuple[str, str]], body: bytes) -> Answer:
        """Run one call and return its answer. There is no timeout in here: whoever times the call uses `abort`.

        If the caller is cancelled, the channel is not usable any more.

        Raises:
          FunctionFailed, HandlerTimeout: the program answered 502 or 504, with its text; the instance goes on.
          FunctionCrashed: it ended, or closed the connection without a whole answer.
          InvalidResponse, ResponseTooLarge, ResponseHeadersTooLarge: it broke the contract or a limit.
          StokerError: what `abort` was given.
        """
        self.usable = False
        self._busy = True
        connection = self._connection
        if connection is None:
            connection = await self._connect()
        replies = self._replies
        replies.begin()
        await self._send(connection, request(call_id, deadline, headers, body))
        while not replies.complete:
            data = await self._receive(connection)
            if data:
                replies.feed(data)
            elif not replies.end():
                done = "in the middle of its answer" if replies.started else "without an answer"
                raise errors.FunctionCrashed(detail=f"the program closed the connection {done}")
        answer_headers, answer_body = tuple(replies.headers), replies.body
        if replies.keeps_open:
            self._idle_since_s = trio.current_time()
        else:
            self._disconnect()
        self._busy = False
        self._changed.set()
        self.usable = True
        if replies.status != 200:
            text = answer_body[: 4 * DETAIL_CHARS_MAX].decode("utf-8", "replace")[:DETAIL_CHARS_MAX]
            raise errors.FunctionFailed(detail=text) if replies.status == 502 else errors.HandlerTimeout(detail=text)
        return Answer(status=200, headers=answer_headers, body=answer_body, call_id=call_id)

    async def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        until_s = trio.current_time() + CONNECT_S
        try:
            while True:
                if self._error is not None:
                    raise self._error
                try:
                    # Through the descriptor: this very socket, whatever the name leads to by now.
                    connection.connect(f"/proc/self/fd/{self._listener}")
                    break
                except OSError as exc:
                    if exc.errno not in (errno.ECONNREFUSED, errno.EAGAIN) or trio.current_time() > until_s:
                        raise errors.FunctionCrashed(
                            detail=f"the program takes no connection: {exc.strerror}"
                        ) from None
                await trio.sleep(LISTEN_POLL_S)
            self._watch.register(connection, select.EPOLLIN)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._replies = Replies(self._limits)
        return connection

    async def _send(self, connection: socket.socket, data: bytes) -> None:
        view: bytes | memoryview = data
        while True:
            if self._error is not None:
                raise self._error
            try:
                sent = connection.send(view, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                sent = 0
            except OSError as exc:
                raise errors.FunctionCrashed(detail=f"the program takes no call: {exc.strerror}") from None
            if sent == len(view):
                return
            view = memoryview(view)[sent:]
            try:
                await trio.lowlevel.wait_writable(connection)
            except trio.ClosedResourceError:
                raise self._reason() from None

    async def _receive(self, connection: socket.socket) -> bytes:
        while True:
            if self._error is None:
                try:
                    await trio.lowlevel.wait_readable(connection)
                except trio.ClosedResourceError:
                    pass  # aborted: see below why
            # A program that ended by itself may have answered before: what has arrived counts.
            if self._error is not None and (self._closed or type(self._error) is not errors.FunctionCrashed):
                raise self._error
            try:
                return connection.recv(READ_BYTES)
            except BlockingIOError:
                if self._error is not None:
                    raise self._error from None
            except OSError as exc:
                raise errors.FunctionCrashed(detail=f"the connection broke: {exc.strerror}") from None

    def stray_bytes(self) -> bool:
        """Whether the program has sent something while no call was outstanding. Closing a connection is its right."""
        if self._connection is None:
            return False
        try:
            if self._connection.recv(1, socket.MSG_PEEK):
                return True
        except BlockingIOError:
            return False
        except OSError:
            pass
        self._disconnect()
        return False

    @property
    def answers_fd(self) -> int:
        """A descriptor that is readable when something comes on the connection, or that ends."""
        return self._watch.fileno()

    # -- end ----------------------------------------------------------------------------------------------------

    async def close_idle(self) -> None:
        """Close the connection whenever it has been without a call for `IDLE_CONNECTION_S`, until `close`."""
        while not self._closed:
            if self._busy or self._connection is None:
                self._changed = trio.Event()
                await self._changed.wait()
                continue
            await trio.sleep_until(self._idle_since_s + IDLE_CONNECTION_S)
            idle = self._connection is not None and not self._busy
            if idle and trio.current_time() >= self._idle_since_s + IDLE_CONNECTION_S and not self.stray_bytes():
                self._disconnect()

    def _disconnect(self) -> None:
        if (connection := self._connection) is not None:
            self._connection = None
            connection.close()  # and is watched no more

    def abort(self, error: StokerError) -> None:
        """Have a waiting `call` or `ready`, and every later one, raise ``error``. The first error given counts."""
        if self._error is None:
            self._error = error
            self.usable = False
            for sock in (self._handshake, self._connection):
                if sock is not None and sock.fileno() >= 0:
                    trio.lowlevel.notify_closing(sock)

    def stop(self) -> None:
        """End the program, which must be idle."""
        self.usable = False
        self._kill()

    def close(self) -> None:
        """Close all there is; a waiting call raises FunctionCrashed. May be called again."""
        if self._closed:
            return
        self.abort(errors.FunctionCrashed(detail="the instance was closed"))
        self._closed = True
        self._disconnect()
        self._handshake.close()
        self._watch.close()
        for fd in (self._directory, self._listener):
            if fd >= 0:
                os.close(fd)
        self._changed.set()

    def _reason(self) -> StokerError:
        return self._error or errors.FunctionCrashed(detail="the instance was closed")


def open_pipes(*, program: bool) -> list[int]:
    """Four pairs of descriptors, reading and writing end: calls, answers, stdout, stderr.

    For a program the answers' is a pair of sockets, since a descriptor comes through it.

    Raises:
      OSError: no descriptors left; none stays open.
    """
    opened: list[int] = []
    try:
        for i in range(4):
            if program and i == 1:
                opened += [end.detach() for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)]
            else:
                opened += os.pipe2(os.O_CLOEXEC)
    except OSError:
        for fd in opened:
            os.close(fd)
        raise
    return opened


def request(call_id: str, deadline: str, headers: list[tuple[str, str]], body: bytes) -> bytes:
    """The bytes of a call, those of Go's client: names in its spelling and order, the body chunked.

    ``headers`` are `daemon.http.gateway`'s, names in lower case; the call's id and deadline replace theirs.
    """
    agent, last = "Go-http-client/1.1", ""
    lines = [f"Fn-Call-Id: {call_id}\r\n", f"Fn-Deadline: {deadline}\r\n"]
    end = len(headers) - 1
    for i, (name, value) in enumerate(headers):
        if name in _own:
            if name == "user-agent":
                agent = value
        elif name == "accept-encoding" and i == end:
            last = f"Accept-Encoding: {value}\r\n"  # the gateway's, which Go's client adds after the others
        elif _breaks_a_header(value) is None:
            lines.append(f"{canonical(name)}: {value}\r\n")
    lines.sort(key=_name)
    length = "Transfer-Encoding: chunked" if body else "Content-Length: 0"
    head = f"POST /call HTTP/1.1\r\nHost: localhost\r\nUser-Agent: {agent}\r\n{length}\r\n{''.join(lines)}{last}\r\n"
    try:
        data = head.encode("latin-1")
    except UnicodeEncodeError:
        data = head.encode("utf-8", "replace")
    if not body:
        return data
    if len(body) <= CHUNK_BYTES:
        return b"%b%x\r\n%b\r\n0\r\n\r\n" % (data, len(body), body)
    parts = [data]
    for at in range(0, len(body), CHUNK_BYTES):
        chunk = body[at : at + CHUNK_BYTES]
        parts += (b"%x\r\n" % len(chunk), chunk, b"\r\n")
    parts.append(b"0\r\n\r\n")
    return b"".join(parts)


def _name(line: str) -> str:
    return line.partition(":")[0]


@lru_cache(maxsize=1024)
def canonical(name: str) -> str:
    """``fn-http-h-x`` as Go spells it: ``Fn-Http-H-X``."""
    return "-".join(part[:1].upper() + part[1:].lower() for part in name.split("-"))
