"""HTTP/1.1 as far as the process contract of Fn needs it: requests in, answers out. Pure: no I/O."""

from __future__ import annotations

import re
from http import HTTPStatus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["BODY_BYTES_MAX", "HEAD_BYTES_MAX", "BadRequest", "Parser", "Request", "render"]

HEAD_BYTES_MAX = 1024 * 1024
"""Longest request line and headers together; the server in front has a limit of its own, and a lower one."""
BODY_BYTES_MAX = 100_000_000
"""Longest body; the official FDK's limit."""
_CHUNK_LINE_BYTES_MAX = 1024

_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([!-~]+) HTTP/1\.([01])").fullmatch
_HEADER_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*((?:[^\x00\r\n]*[^\x00\r\n \t])?)[ \t]*").fullmatch
_DIGITS = re.compile(rb"[0-9]{1,18}").fullmatch
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\x00\r\n]*)?").fullmatch


class BadRequest(Exception):
    """What came is not a request that can be answered. The connection is of no use any more."""

    def __init__(self, status: int, message: str) -> None:
        """``status``: 400 or 413."""
        super().__init__(message)
        self.status = status


class Request:
    """One whole request."""

    __slots__ = ("body", "expects_continue", "headers", "keep_alive", "method", "minor", "target")

    def __init__(self, method: str, target: str, minor: int, headers: dict[str, str]) -> None:
        """``headers``: names in lower case, of repeated ones the last; ``minor``: 0 or 1, of HTTP/1.x."""
        self.method = method
        self.target = target
        self.minor = minor
        self.headers = headers
        self.body = b""
        options = {option.strip().lower() for option in headers.get("connection", "").split(",")}
        self.keep_alive = "close" not in options and (minor == 1 or "keep-alive" in options)
        self.expects_continue = minor == 1 and headers.get("expect", "").lower() == "100-continue"


class Parser:
    """Makes requests of received bytes, one at a time, whatever the chunking."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._request: Request | None = None
        self._length: int | None = None
        self._chunks: bytearray | None = None
        self._told_to_continue = False

    @property
    def pending_bytes(self) -> int:
        """Received bytes that do not make a request yet."""
        return len(self._buffer) + len(self._chunks or b"")

    @property
    def started(self) -> bool:
        """Whether a part of a request is there."""
        return self._request is not None or bool(self._buffer)

    def feed(self, data: bytes) -> None:
        """Add received bytes."""
        self._buffer += data

    def wants_continue(self) -> bool:
        """True once for a request whose client waits for ``100 Continue`` before it sends the body."""
        request = self._request
        if request is None or not request.expects_continue or self._told_to_continue or self._buffer:
            return False
        self._told_to_continue = True
        return True

    def next(self) -> Request | None:
        """The oldest whole request, or None when more bytes are needed.

        Raises:
          BadRequest: no legal request, or one over a limit.
        """
        if self._request is None and not self._read_head():
            return None
        request = self._request
        assert request is not None
        if self._chunks is not None:
            if not self._read_chunks(self._chunks):
                return None
            request.body = bytes(self._chunks)
        elif self._length:
            if len(self._buffer) < self._length:
                return None
            request.body = bytes(memoryview(self._buffer)[: self._length])
            del self._buffer[: self._length]
        self._request = self._length = self._chunks = None
        self._told_to_continue = False
        return request

    def _read_head(self) -> bool:
        while self._buffer.startswith(b"\r\n"):  # RFC 9112 2.2: empty lines before a request are skipped
            del self._buffer[:2]
        end = self._buffer.find(b"\r\n\r\n", 0, HEAD_BYTES_MAX)
        if end < 0:
            if len(self._buffer) >= HEAD_BYTES_MAX:
                raise BadRequest(400, "Bad Request")
            return False
        first, *lines = bytes(memoryview(self._buffer)[:end]).split(b"\r\n")
        del self._buffer[: end + 4]
        match = _REQUEST_LINE(first)
        if match is None:
            raise BadRequest(400, "Bad Request")
        headers: dict[str, str] = {}
        lengths = []
        for line in lines:
            found = _HEADER_LINE(line)
            if found is None:
                raise BadRequest(400, "Bad Request")
            name, value = found[1].decode().lower(), found[2]
            if name == "content-length":
                lengths.append(value)
            try:
                headers[name] = value.decode()
            except UnicodeDecodeError:
                headers[name] = value.decode("latin_1")
        self._request = Request(match[1].decode(), match[2].decode(), int(match[3]), headers)
        self._frame(lengths, headers.get("transfer-encoding"))
        return True

    def _frame(self, lengths: list[bytes], coding: str | None) -> None:
        if coding is not None:
            if lengths or coding.lower() != "chunked":  # RFC 9112 6.3: two framings are a smuggling attempt
                raise BadRequest(400, "Bad Request")
            self._chunks = bytearray()
        elif lengths:
            if len(lengths) > 1 or not _DIGITS(lengths[0]):
                raise BadRequest(400, "Bad Request")
            self._length = int(lengths[0])
            if self._length > BODY_BYTES_MAX:
                raise BadRequest(413, "Payload Too Large")

    def _read_chunks(self, body: bytearray) -> bool:
        buffer = self._buffer
        while True:
            end = buffer.find(b"\r\n", 0, _CHUNK_LINE_BYTES_MAX)
            if end < 0:
                if len(buffer) >= _CHUNK_LINE_BYTES_MAX:
                    raise BadRequest(400, "Bad Request")
                return False
            match = _CHUNK_SIZE(bytes(memoryview(buffer)[:end]))
            if match is None:
                raise BadRequest(400, "Bad Request")
            size = int(match[1], 16)
            if len(body) + size > BODY_BYTES_MAX:
                raise BadRequest(413, "Payload Too Large")
            if size == 0:
                return self._read_trailers(end + 2)
            if len(buffer) < end + 2 + size + 2:
                return False
            if buffer[end + 2 + size : end + 4 + size] != b"\r\n":
                raise BadRequest(400, "Bad Request")
            body += memoryview(buffer)[end + 2 : end + 2 + size]
            del buffer[: end + 4 + size]

    def _read_trailers(self, start: int) -> bool:
        buffer = self._buffer
        if buffer.startswith(b"\r\n", start):
            del buffer[: start + 2]
            return True
        end = buffer.find(b"\r\n\r\n", start, start + HEAD_BYTES_MAX)
        if end < 0:
            if len(buffer) >= start + HEAD_BYTES_MAX:
                raise BadRequest(400, "Bad Request")
            return False
        del buffer[: end + 4]
        return True


def render(
    status: int, headers: Iterable[tuple[str, str]], body: bytes, *, minor: int, keep_alive_s: int | None
) -> bytes:
    """An answer as bytes, framed by its length. ``keep_alive_s``: None closes the connection after it."""
    head = [f"HTTP/1.{minor} {status} {HTTPStatus(status).phrase}"]
    if keep_alive_s is None:
        head.append("Connection: close")
    else:
        head += ["Connection: keep-alive", f"Keep-Alive: {keep_alive_s}"]
    head += [f"{name}: {value}" for name, value in headers]
    head.append(f"content-length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode() + body
