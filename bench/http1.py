"""A small HTTP/1.1 client over TCP or a unix socket, for latencies of single calls and for bursts.

``wrk`` drives the throughput; this drives what wrk cannot: unix sockets, one call exactly, a hundred at once. It costs
about 25 µs of Python per call, the same for everybody.
"""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.processes import BenchError

PATIENCE_S = 60.0
"""Longest wait for an answer."""
READ_BYTES = 2**18
HELLO_BODY = b'{"name": "bench"}'
HELLO_ANSWER = {"hello": "bench"}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens: a port of 127.0.0.1, or a unix socket."""

    port: int = 0
    path: Path | None = None

    def connect(self) -> socket.socket:
        if self.path is not None:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(PATIENCE_S)
            sock.connect(str(self.path))
            return sock
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def request_bytes(method: str, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """A whole request, ready to be sent again and again."""
    fields = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": str(len(body))}
    fields.update(headers or {})
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


class ReplyReader:
    """Collects one reply from received bytes. Framed by Content-Length or chunks; what this bench's servers send."""

    __slots__ = ("_buffer", "_head_end", "_headers", "_length", "_status")

    def __init__(self) -> None:
        self._buffer = b""
        self._head_end = -1
        self._status = 0
        self._length = -1
        self._headers: dict[str, str] = {}

    def feed(self, data: bytes) -> Reply | None:
        """Add bytes; the reply when it is whole.

        Raises:
          BenchError: the connection was closed, or the reply is framed in another way.
        """
        if not data:
            raise BenchError(f"the server closed the connection after {self._buffer[:200]!r}")
        self._buffer += data
        if self._head_end < 0:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return None
            self._read_head(end)
        if self._length >= 0:
            if len(self._buffer) < self._head_end + self._length:
                return None
            return Reply(self._status, self._headers, self._buffer[self._head_end : self._head_end + self._length])
        body = _unchunk(self._buffer[self._head_end :])
        return None if body is None else Reply(self._status, self._headers, body)

    def _read_head(self, end: int) -> None:
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        self._status = int(lines[0].split(" ", 2)[1])
        self._headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        self._head_end = end + 4
        if self._status in (204, 304):
            self._length = 0
        elif "content-length" in self._headers:
            self._length = int(self._headers["content-length"])
        elif "chunked" not in self._headers.get("transfer-encoding", ""):
            raise BenchError(f"reply without length: {lines}")


def _unchunk(data: bytes) -> bytes | None:
    body = b""
    while True:
        size, found, rest = data.partition(b"\r\n")
        if not found:
            return None
        length = int(size.split(b";")[0], 16)
        if len(rest) < length + 2:
            return None
        if length == 0:
            return body
        body += rest[:length]
        data = rest[length + 2 :]


class Client:
    """One keep-alive connection, one request at a time. Opened again when the server closed it while idle."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._sock: socket.socket | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def send(self, request: bytes) -> Reply:
        """One exchange of prepared bytes.

        Raises:
          BenchError, OSError: no whole reply.
        """
        if self._sock is None or self._stale():
            self.close()
            self._sock = self.address.connect()
        self._sock.sendall(request)
        reader = ReplyReader()
        while (reply := reader.feed(self._sock.recv(READ_BYTES))) is None:
            pass
        if reply.headers.get("connection", "").lower() == "close":
            self.close()
        return reply

    def _stale(self) -> bool:
        assert self._sock is not None
        return bool(select.select([self._sock], [], [], 0)[0])

    def call(self, method: str, path: str, body: bytes | Any = b"", headers: Mapping[str, str] | None = None) -> Reply:
        """One request; a body that is not bytes is sent as JSON."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send(request_bytes(method, path, raw, headers))


def check_hello(reply: Reply) -> None:
    """Raises BenchError if this is not the right answer: a fast wrong answer is no measurement."""
    if reply.status != 200 or json.loads(reply.body) != HELLO_ANSWER:
        raise BenchError(f"wrong answer: {reply.status} {reply.body[:500]!r}")


def timed_calls(address: Address, request: bytes, *, for_s: float, calls_max: int) -> list[float]:
    """Seconds of each call on one connection, one after another, until either limit."""
    times: list[float] = []
    clock = time.perf_counter
    with Client(address) as client:
        check_hello(client.send(request))
        end_s = clock() + for_s
        while len(times) < calls_max:
            began_s = clock()
            if began_s > end_s:
                break
            reply = client.send(request)
            times.append(clock() - began_s)
            if reply.status != 200:
                check_hello(reply)
    return times


def burst(address: Address, requests: Sequence[bytes]) -> list[float]:
    """Send all requests at once, each on a connection that is open already; seconds until each answer, in order of
    arrival.

    Raises:
      BenchError: a wrong answer, or not all within PATIENCE_S.
    """
    socks = [address.connect() for _ in requests]
    poller = select.epoll()
    readers = {sock.fileno(): (sock, ReplyReader()) for sock in socks}
    times: list[float] = []
    try:
        for sock in socks:
            poller.register(sock, select.EPOLLIN)
        began_s = time.perf_counter()
        for sock, request in zip(socks, requests, strict=True):
            sock.sendall(request)
        while readers:
            left_s = began_s + PATIENCE_S - time.perf_counter()
            if left_s <= 0:
                raise BenchError(f"{len(readers)} of {len(requests)} calls unanswered after {PATIENCE_S:g} s")
            for fd, _ in poller.poll(left_s):
                sock, reader = readers[fd]
                if reply := reader.feed(sock.recv(READ_BYTES)):
                    times.append(time.perf_counter() - began_s)
                    check_hello(reply)
                    poller.unregister(fd)
                    del readers[fd]
    finally:
        poller.close()
        for sock in socks:
            sock.close()
    return times
