"""One HTTP/1.1 reply of a function that is a program of its own, parsed as bytes come; not one of them is trusted.

llhttp (httptools) finds the framing; the limits are ours. The parser of one connection is used for one reply after the
other, so what follows a reply unasked is seen.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import httptools

from daemon import errors
from daemon.config.settings import Limits

STATUSES = frozenset({200, 502, 504})
"""All that the Fn contract allows (fn agent.go:712)."""
INFORMATIONAL_MAX = 5
"""Most 1xx replies before the one that counts; Go's client has the same limit."""
OVERHEAD_FACTOR = 8
"""Most bytes of a chunked body on the wire for each byte that a body may have: one chunk of one byte takes six."""
NAME_BYTES_MAX = 256
HEADS_MAX = 8
"""Heads of replies that a connection remembers, each of `HEAD_BYTES_MAX` at most."""
HEAD_BYTES_MAX = 2048

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BREAKS_A_HEADER = re.compile(rb"[\r\n\0]")


@dataclass(frozen=True, slots=True)
class Head:
    """What the head of a reply says that can be followed by another on the same connection."""

    status: int
    headers: tuple[tuple[str, str], ...]
    length: int


class Replies:
    """The replies of one connection, one at a time."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._parser = httptools.HttpResponseParser(self)
        self._error: errors.StokerError | None = None
        self.complete = False
        """Whether the reply that `begin` was called for is here."""
        self.started = False
        """Whether a byte of it is."""
        self.keeps_open = False
        """Whether the connection can be used once more after it."""
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        """Of the complete reply, trailers left out."""
        self._body: list[bytes] = []
        self._heads: dict[bytes, Head] = {}
        self._reset()
        self._expected = False

    def _reset(self) -> None:
        self._headers_complete = self._framed = False
        self._header_bytes = self._header_count = self._body_bytes = 0
        self.headers = []
        self._body = []

    def begin(self) -> None:
        """A request was sent: one reply may come."""
        self._reset()
        self._expected, self.complete, self.started, self.keeps_open = True, False, False, False
        self._wire_bytes = self._informational = 0

    @property
    def body(self) -> bytes:
        """Of the complete reply."""
        return self._body[0] if len(self._body) == 1 else b"".join(self._body)

    def known(self, data: bytes) -> tuple[Head, bytes] | None:
        """A whole reply in one piece whose head has come before, byte for byte, and its body; else None: see `feed`.

        Programs say the same again and again. The parser is between two replies then, as it was when it took this head
        first, so what it would say is known.
        """
        end = data.find(b"\r\n\r\n") + 4
        head = self._heads.get(data[:end])
        return (head, data[end:]) if head is not None and len(data) == end + head.length else None

    def _remember(self, data: bytes) -> None:
        end = data.find(b"\r\n\r\n") + 4
        # Of the right length only if the first empty line is that of the head and nothing was chunked.
        if len(data) == end + self._body_bytes and end <= HEAD_BYTES_MAX:
            if len(self._heads) >= HEADS_MAX:
                self._heads.clear()
            self._heads[data[:end]] = Head(self.status, tuple(self.headers), self._body_bytes)

    def feed(self, data: bytes) -> None:
        """Take what came.

        Raises:
          InvalidResponse: it is not one reply with a status of the contract.
          ResponseTooLarge, ResponseHeadersTooLarge: it is over a limit.
        """
        self.started = True
        self._wire_bytes += len(data)
        limits = self._limits
        most = limits.response_header_bytes_max + len(data)  # lines that are not complete yet
        if not self._headers_complete and self._wire_bytes > most:
            self._fail(errors.ResponseHeadersTooLarge(detail=f"more than {limits.response_header_bytes_max} bytes"))
        elif self._wire_bytes > limits.response_header_bytes_max + OVERHEAD_FACTOR * limits.response_bytes_max + len(
            data
        ):
            self._fail(errors.InvalidResponse(detail=f"a body of {self._wire_bytes} bytes on the wire"))
        else:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade:
                self._fail(errors.InvalidResponse(detail="it changes the protocol"))
            except httptools.HttpParserError as exc:
                cause = exc.__context__
                self._fail(errors.InvalidResponse(detail=f"not HTTP/1.1: {cause or exc}"[:300]))
        if self._error is not None:
            raise self._error
        if self.complete and self.keeps_open and self._wire_bytes == len(data) and not self._informational:
            self._remember(data)

    def end(self) -> bool:
        """The connection was closed by the function; whether that completes a reply without a length."""
        if self._headers_complete and not self._framed and not self.complete and self._error is None:
            self.complete = True
        return self.complete

    # -- what llhttp calls; an exception in here would come back wrapped ----------------------------------------

    def on_message_begin(self) -> None:
        if not self._expected:
            self._fail(errors.InvalidResponse(detail="bytes after the answer that was due"))

    def on_header(self, name: bytes, value: bytes) -> None:
        limits = self._limits
        self._header_count += 1
        self._header_bytes += len(name) + len(value)
        if self._header_count > limits.response_headers_max:
            self._fail(errors.ResponseHeadersTooLarge(detail=f"more than {limits.response_headers_max} headers"))
        elif self._header_bytes > limits.response_header_bytes_max:
            self._fail(errors.ResponseHeadersTooLarge(detail=f"more than {limits.response_header_bytes_max} bytes"))
        elif len(name) > NAME_BYTES_MAX or _NAME.fullmatch(name) is None:
            self._fail(errors.InvalidResponse(detail=f"header name {name[:80]!r}"))
        elif _BREAKS_A_HEADER.search(value) is not None:
            self._fail(errors.InvalidResponse(detail=f"value of header {name[:80]!r} has a line break or NUL"))
        elif not self._headers_complete:
            lower = name.lower()
            if lower in (b"content-length", b"transfer-encoding"):
                self._framed = True
            self.headers.append((lower.decode("ascii"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self._headers_complete = True
        self.status = self._parser.get_status_code()
        if self.status >= 200 and self.status not in STATUSES:
            self._fail(errors.InvalidResponse(detail=f"status {self.status}; 200, 502 and 504 are allowed"))

    def on_body(self, data: bytes) -> None:
        self._body_bytes += len(data)
        if self._body_bytes > self._limits.response_bytes_max:
            self._fail(errors.ResponseTooLarge(detail=f"{self._limits.response_bytes_max} bytes are allowed"))
        elif self._error is None:
            self._body.append(data)

    def on_message_complete(self) -> None:
        if self.status < 200:
            self._informational += 1
            if self._informational > INFORMATIONAL_MAX:
                self._fail(errors.InvalidResponse(detail=f"more than {INFORMATIONAL_MAX} replies of status 1xx"))
            self._reset()
            return
        self.keeps_open = self._parser.should_keep_alive()
        self.complete, self._expected = True, False

    def _fail(self, error: errors.StokerError) -> None:
        self._error = self._error or error
