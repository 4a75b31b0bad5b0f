"""The daemon's side of an instance that is a program of its own: the Fn contract, HTTP/1.1 over its unix socket.

Has the shape of `channel.Channel`. The program's socket is in a directory that the instance alone can write; the
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
from bisect import bisect_left
from collections.abc import Callable
from functools import lru_cache

import trio

from daemon import errors
from daemon.config.settings import Limits
from daemon.errors import StokerError
from daemon.model import Answer
from daemon.workers.http_reply import Replies
from daemon.workers.parents import Child

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
_of_the_call = frozenset({"fn-call-id", "fn-deadline"})
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
        self._life = os.dup(child.pidfd)
        self._ended = select.poll()
        self._ended.register(self._life, select.POLLIN)
        self._fd = os.dup(self._life)
        self._connected = False
        """``_fd`` is the connection, else the process, readable when it has ended: one number to watch, whichever."""
        self._replies = Replies(limits)
        self._request = Request()
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
        while not self._found():
            if self._error is not None:
                raise self._error
            if self._ended.poll(0):
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
        if not self._connected:
            await self._connect()
        replies = self._replies
        await self._send(self._request.bytes(call_id, deadline, headers, body))
        data = await self._receive()
        if (known := replies.known(data)) is not None:
            head, answer_body = known
            status, answer_headers, keeps_open = head.status, head.headers, True
        else:
            replies.begin()
            while True:
                if data:
                    replies.feed(data)
                elif not replies.end():
                    done = "in the middle of its answer" if replies.started else "without an answer"
                    raise errors.FunctionCrashed(detail=f"the program closed the connection {done}")
                if replies.complete:
                    break
                data = await self._receive()
            status, answer_headers, answer_body = replies.status, tuple(replies.headers), replies.body
            keeps_open = replies.keeps_open
        if keeps_open:
            self._idle_since_s = trio.current_time()
        else:
            self._disconnect()
        self._busy = False
        self._changed.set()
        self.usable = True
        if status != 200:
            text = answer_body[: 4 * DETAIL_CHARS_MAX].decode("utf-8", "replace")[:DETAIL_CHARS_MAX]
            raise errors.FunctionFailed(detail=text) if status == 502 else errors.HandlerTimeout(detail=text)
        return Answer(status=200, headers=answer_headers, body=answer_body, call_id=call_id)

    async def _connect(self) -> None:
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
            if self._closed:
                raise self._reason()
            os.dup2(connection.fileno(), self._fd, inheritable=False)
        finally:
            connection.close()
        self._connected = True
        self._replies = Replies(self._limits)

    async def _send(self, data: bytes) -> None:
        view: bytes | memoryview = data
        while True:
            if self._error is not None:
                raise self._error
            try:
                sent = os.write(self._fd, view)  # Python ignores SIGPIPE
            except BlockingIOError:
                sent = 0
            except OSError as exc:
                raise errors.FunctionCrashed(detail=f"the program takes no call: {exc.strerror}") from None
            if sent == len(view):
                return
            view = memoryview(view)[sent:]
            try:
                await trio.lowlevel.wait_writable(self._fd)
            except trio.ClosedResourceError:
                raise self._reason() from None

    async def _receive(self) -> bytes:
        while True:
            if self._error is None:
                try:
                    await trio.lowlevel.wait_readable(self._fd)
                except trio.ClosedResourceError:
                    pass  # aborted: see below why
            # A program that ended by itself may have answered before: what has arrived counts.
            if self._error is not None and (self._closed or type(self._error) is not errors.FunctionCrashed):
                raise self._error
            try:
                return os.read(self._fd, READ_BYTES)
            except BlockingIOError:
                if self._error is not None:
                    raise self._error from None
            except OSError as exc:
                raise errors.FunctionCrashed(detail=f"the connection broke: {exc.strerror}") from None

    def stray_bytes(self) -> bool:
        """Whether the program has sent something while no call was outstanding, or has ended.

        Closing a connection is its right.
        """
        if self._connected:
            try:
                if os.read(self._fd, 1):  # it is not used again, whatever follows
                    return True
            except BlockingIOError:
                return False
            except OSError:
                pass
            self._disconnect()
        return bool(self._ended.poll(0))

    @property
    def answers_fd(self) -> int:
        """A descriptor that is readable when something comes on the connection, or that or the program ends."""
        return self._fd

    # -- end ----------------------------------------------------------------------------------------------------

    async def close_idle(self) -> None:
        """Close the connection whenever it has been without a call for `IDLE_CONNECTION_S`, until `close`."""
        while not self._closed:
            if self._busy or not self._connected:
                self._changed = trio.Event()
                await self._changed.wait()
                continue
            await trio.sleep_until(self._idle_since_s + IDLE_CONNECTION_S)
            idle = self._connected and not self._busy
            if idle and trio.current_time() >= self._idle_since_s + IDLE_CONNECTION_S and not self.stray_bytes():
                self._disconnect()

    def _disconnect(self) -> None:
        if self._connected:
            self._connected = False
            os.dup2(self._life, self._fd, inheritable=False)

    def abort(self, error: StokerError) -> None:
        """Have a waiting `call` or `ready`, and every later one, raise ``error``. The first error given counts."""
        if self._error is None:
            self._error = error
            self.usable = False
            if not self._closed:
                trio.lowlevel.notify_closing(self._handshake)
                trio.lowlevel.notify_closing(self._fd)

    def give(self, _frame: bytes) -> bool:
        """Nothing is sent to a program but calls: it has no resource principal. True: do not try again."""
        return True

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
        self._connected = False
        self._handshake.close()
        for fd in (self._directory, self._listener, self._fd, self._life):
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


class Request:
    """Makes the bytes of calls, those of Go's client: names in its spelling and order, the body chunked."""

    def __init__(self) -> None:
        self._headers: list[tuple[str, str]] | None = None
        self._chunked = False
        self._parts = (b"", b"", b"")

    def bytes(self, call_id: str, deadline: str, headers: list[tuple[str, str]], body: bytes) -> bytes:
        """``headers`` are `daemon.http.gateway`'s, names in lower case; the call's id and deadline replace theirs."""
        others = [pair for pair in headers if pair[0] not in _of_the_call]
        if others != self._headers or self._chunked != bool(body):  # a client mostly sends the same as before
            self._parts = _around(others, chunked=bool(body))
            self._headers, self._chunked = others, bool(body)
        before, between, after = self._parts
        head = b"%bFn-Call-Id: %b\r\n%bFn-Deadline: %b\r\n%b" % (
            before, call_id.encode(), between, deadline.encode(), after,
        )  # fmt: skip
        if not body:
            return head
        if len(body) <= CHUNK_BYTES:
            return b"%b%x\r\n%b\r\n0\r\n\r\n" % (head, len(body), body)
        parts = [head]
        for at in range(0, len(body), CHUNK_BYTES):
            chunk = body[at : at + CHUNK_BYTES]
            parts += (b"%x\r\n" % len(chunk), chunk, b"\r\n")
        parts.append(b"0\r\n\r\n")
        return b"".join(parts)


def _around(headers: list[tuple[str, str]], *, chunked: bool) -> tuple[bytes, bytes, bytes]:
    """What comes before the call's id, between that and its deadline, and after them."""
    agent, last = "Go-http-client/1.1", ""
    lines = []
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
    call_id, deadline = (bisect_left(lines, name, key=_name) for name in ("Fn-Call-Id", "Fn-Deadline"))
    length = "Transfer-Encoding: chunked" if chunked else "Content-Length: 0"
    start = f"POST /call HTTP/1.1\r\nHost: localhost\r\nUser-Agent: {agent}\r\n{length}\r\n"
    texts = "".join([start, *lines[:call_id]]), "".join(lines[call_id:deadline]), "".join([*lines[deadline:], last])
    return _encoded(texts[0]), _encoded(texts[1]), _encoded(f"{texts[2]}\r\n")


def _encoded(text: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def _name(line: str) -> str:
    return line.partition(":")[0]


@lru_cache(maxsize=1024)
def canonical(name: str) -> str:
    """``fn-http-h-x`` as Go spells it: ``Fn-Http-H-X``."""
    return "-".join(part[:1].upper() + part[1:].lower() for part in name.split("-"))
