"""HTTP/1.1 requests out of bytes, strictly: what two readers could understand in two ways is refused. No I/O.

The only thing worse than a slow parser is one that sees two requests where the proxy before it saw one. So a head must
match one regular expression that allows no bare CR or LF, no folded line, no control character, no space before a
colon; then llhttp (httptools) parses it, and only what both accept is a request. Bodies are cut out here, since
httptools neither tells where a message ends nor bounds chunk extensions and trailers (RFC 9112 sections 2 to 7).

Whatever the chunking of the received bytes, the requests and the error are the same: a rule broken within the limits
is found before a limit that is exceeded behind it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import httptools

from daemon.config.settings import Http
from daemon.errors import BadRequest, HeadersTooLarge, RequestTooLarge
from daemon.http.messages import Headers

__all__ = ["Head", "RequestParser"]

CHUNK_LINE_BYTES_MAX = 1024
"""Longest line with a chunk's size and extensions. Nobody uses extensions."""
CHUNK_EXCESS_BYTES_MAX = 16 * 2**10
"""Framing bytes of a chunked body beyond 16 per chunk plus twice its data: a guard against one-byte chunks with long
extensions. Go's net/http has the same rule (CVE-2023-39326)."""
TRAILER_BYTES_MAX = 8 * 2**10
"""Largest trailer section; trailers are checked and dropped."""

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_FIELD = _TOKEN + rb"+:[\t -~\x80-\xff]*\r\n"
_TARGET = rb"/[!\"$-~]*"  # origin-form, printable ASCII, no fragment
_REQUEST_LINE = rb"([A-Z]+) (" + _TARGET + rb") HTTP/1\.([01])\r\n"
_VERSION_START = rb"(?:H(?:T(?:T(?:P(?:/(?:1(?:\.(?:[01]\r?)?)?)?)?)?)?)?)?"
_QUOTED = rb"\"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*\""

_whole_head = re.compile(_REQUEST_LINE + rb"(?:" + _FIELD + rb")*\r\n").match
_request_line = re.compile(_REQUEST_LINE).match
_request_line_start = re.compile(rb"[A-Z]*|[A-Z]+ (?:" + _TARGET + rb"(?: " + _VERSION_START + rb")?)?").fullmatch
_fields = re.compile(rb"(?:" + _FIELD + rb")*").match
_field_start = re.compile(rb"\r?|" + _TOKEN + rb"+|" + _TOKEN + rb"+:[\t -~\x80-\xff]*\r?").fullmatch
_chunk_line = re.compile(
    rb"([0-9A-Fa-f]{1,16})(?:;" + _TOKEN + rb"+(?:=(?:" + _TOKEN + rb"+|" + _QUOTED + rb"))?)*\r\n"
).match
_chunk_line_start = re.compile(rb"(?:[0-9A-Fa-f]{1,16}(?:(?:;[\t -~\x80-\xff]*)?\r?)?)?").fullmatch
_framing_field = re.compile(
    rb"(?:^|\n)(?:content-length|transfer-encoding|host|connection|upgrade|te|trailer):", re.IGNORECASE
).search
_host = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+;=%-]+)(?::[0-9]{0,5})?").fullmatch
_length = re.compile(r"[0-9]{1,18}").fullmatch

_SIZE, _DATA_END, _TRAILERS = 0, -1, -2
"""What a chunked body continues with; a positive number: that many bytes of data."""


@dataclass(slots=True)
class Head:
    """A request line and its headers, checked."""

    method: str
    target: bytes
    headers: Headers
    """Names in lower case, values stripped. Not to be changed: the next equal head may be the same object."""
    http_1_0: bool = False
    closes: bool = False
    """Connection: close was said; nothing takes that back."""
    keep_alive: bool = True
    host: str | None = None
    length: int | None = None
    """Content-Length, if there is one."""
    chunked: bool = False
    expects_continue: bool = False
    origin: str | None = None
    fetch_site: str | None = None


class RequestParser:
    """The requests of one connection, one after the other: `receive` bytes, ask for `head`, then for `body`."""

    __slots__ = (
        "_blank", "_buffer", "_chunk", "_chunks", "_excess", "_head", "_http", "_last", "_last_raw", "_line", "_parts",
        "_pos", "_seen", "_start", "_total", "_trailer",
    )  # fmt: skip

    def __init__(self, http: Http) -> None:
        self._http = http
        self._last_raw = b""
        """The bytes of the head given last, if it was whole and good. A client that keeps its connection says the same
        again and again, and then it need not be checked and parsed again."""
        self._last: Head | None = None
        self._buffer = b""
        self._pos = 0
        """Where the bytes begin that were not given out."""
        self._start = 0
        """Where the request begins whose head was given last."""
        self._blank = False
        """The one empty line that may come before a request was there."""
        self._line = 0
        """Length of the request line of an unfinished head, once it is complete and checked."""
        self._seen = 0
        """Bytes of complete lines of an unfinished head: they are good and not looked at again."""
        self._head: Head | None = None
        self._parts: list[bytes] = []
        """The pieces of a body with a length."""
        self._chunks = bytearray()
        """A chunked body so far. Not a list: six million one-byte pieces would take 250 MB."""
        self._total = 0
        self._chunk = _SIZE
        self._excess = 0
        self._trailer = 0

    @property
    def begun(self) -> bool:
        """Whether there are bytes that were not given out yet, or a head was and its body was not."""
        return self._head is not None or self._pos < len(self._buffer)

    def receive(self, data: bytes) -> None:
        """Add what was received."""
        if self._pos < len(self._buffer):
            self._buffer = self._buffer[self._pos :] + data
        else:
            self._buffer = data
        self._pos = 0

    def unread(self) -> bytes:
        """All bytes from the start of the request whose head was given last; only before its body was asked for."""
        return self._buffer[self._start :]

    def head(self) -> Head | None:
        """The next request's head, or None: more bytes are needed.

        Raises:
          BadRequest, HeadersTooLarge: not an acceptable request. The connection cannot be used any further.
        """
        buffer, pos = self._buffer, self._pos
        if (last := self._last) is not None and not self._seen and buffer.startswith(self._last_raw, pos):
            self._start, self._pos = pos, pos + len(self._last_raw)
            self._blank, self._line = False, 0
            self._head = last
            return last
        if buffer[pos : pos + 1] == b"\r" and not self._blank:
            # RFC 9112 section 2.2: one empty line before a request line is ignored, some old clients end a POST so.
            if len(buffer) - pos < 2:
                return None
            self._blank = True
            if buffer[pos + 1] == 10:
                self._pos = pos = pos + 2
        # Not again over everything at every byte of a slow client: only when the end of the head has come.
        waiting = self._seen and buffer.find(b"\r\n\r\n", pos + self._seen - 2) < 0
        match = None if waiting else _whole_head(buffer, pos)
        if match is None:
            self._check_unfinished(buffer, pos)
            return None
        end, line_end = match.end(), match.end(3) + 2
        if line_end - 2 - pos > self._http.request_line_bytes_max:
            raise _line_too_long(self._http)
        if end - line_end > self._http.header_bytes_max:
            raise _headers_too_large(self._http)
        raw = buffer[pos:end]
        head = _parse(raw, match, self._http.headers_max)
        self._start, self._pos = pos, end
        self._blank, self._line, self._seen = False, 0, 0
        self._head = self._last = head
        self._last_raw = raw
        return head

    def body(self) -> bytes | None:
        """The body of the request whose head was given last, or None: more bytes are needed.

        Raises:
          BadRequest, HeadersTooLarge, RequestTooLarge: the connection cannot be used any further.
        """
        head = self._head
        assert head is not None, "head() comes first"
        if head.chunked:
            return self._chunked_body()
        length = head.length
        if not length:
            self._head = None
            return b""
        if length > self._http.body_bytes_max:
            raise _body_too_large(self._http)
        part = self._buffer[self._pos : self._pos + length - self._total]
        self._pos += len(part)
        self._total += len(part)
        if self._total == length and not self._parts:
            self._head, self._total = None, 0
            return part
        if part:
            self._parts.append(part)
        if self._total < length:
            return None
        body = b"".join(self._parts)
        self._parts, self._total, self._head = [], 0, None
        return body

    def _check_unfinished(self, buffer: bytes, pos: int) -> None:
        """Refuse a head that cannot become a good one; remember how far it is good."""
        if not self._line:
            window = buffer[pos : pos + self._http.request_line_bytes_max + 2]
            if b"\n" not in window:
                if not _request_line_start(window):
                    raise BadRequest("malformed request line", detail=_why_not(window))
                if len(window) == self._http.request_line_bytes_max + 2:
                    raise _line_too_long(self._http)
                return
            match = _request_line(window)
            if match is None:
                raise BadRequest("malformed request line", detail=_why_not(window))
            self._line = self._seen = match.end()
        limit = pos + self._line + self._http.header_bytes_max
        fields = _fields(buffer, pos + self._seen, limit)
        assert fields is not None, "an empty match is a match"
        self._seen = fields.end() - pos
        if not _field_start(buffer, fields.end(), limit):
            line = buffer.count(b"\n", pos, fields.end())
            raise BadRequest("malformed header", detail=f"line {line + 1} of the request")
        if len(buffer) > limit:
            raise _headers_too_large(self._http)

    def _chunked_body(self) -> bytes | None:
        while True:
            buffer, pos = self._buffer, self._pos
            if self._chunk > 0:
                part = buffer[pos : pos + self._chunk]
                self._chunks += part
                self._pos += len(part)
                self._chunk -= len(part)
                if self._chunk:
                    return None
                self._chunk = _DATA_END
            elif self._chunk == _DATA_END:
                ending = buffer[pos : pos + 2]
                if ending != b"\r\n":
                    if ending in (b"", b"\r"):
                        return None
                    raise BadRequest("malformed chunk", detail="its data is longer than its size")
                self._pos += 2
                self._chunk = _SIZE
            elif self._chunk == _SIZE:
                if not self._chunk_begins(buffer, pos):
                    return None
            else:
                if not self._trailers_end(buffer, pos):
                    return None
                body = bytes(self._chunks)
                self._chunks, self._total, self._head = bytearray(), 0, None
                self._chunk, self._excess, self._trailer = _SIZE, 0, 0
                return body

    def _chunk_begins(self, buffer: bytes, pos: int) -> bool:
        """Read the line with a chunk's size; False: it is not complete."""
        match = _chunk_line(buffer, pos, pos + CHUNK_LINE_BYTES_MAX)
        if match is None:
            window = buffer[pos : pos + CHUNK_LINE_BYTES_MAX]
            if len(window) == CHUNK_LINE_BYTES_MAX or not _chunk_line_start(window):
                raise BadRequest("malformed chunk", detail="its first line must be a hexadecimal size")
            return False
        size = int(match[1], 16)
        line = match.end() - pos
        self._excess = max(0, self._excess + line - 16 - 2 * size)
        if self._excess > CHUNK_EXCESS_BYTES_MAX:
            raise BadRequest("malformed chunk", detail="too much framing for too little data")
        self._total += size
        if self._total > self._http.body_bytes_max:
            raise _body_too_large(self._http)
        self._pos += line
        self._chunk = size or _TRAILERS
        return True

    def _trailers_end(self, buffer: bytes, pos: int) -> bool:
        """Skip trailers; False: they are not complete."""
        limit = pos + TRAILER_BYTES_MAX - self._trailer
        fields = _fields(buffer, pos, limit)
        assert fields is not None, "an empty match is a match"
        end = fields.end()
        if _framing_field(buffer[pos:end]):  # RFC 9110 section 6.5.1
            raise BadRequest("malformed trailer", detail="framing and routing do not belong there")
        self._trailer += end - pos
        self._pos = end
        if buffer[end : min(end + 2, limit)] == b"\r\n":
            self._pos += 2
            return True
        if not _field_start(buffer, end, limit):
            raise BadRequest("malformed trailer")
        if len(buffer) >= limit:
            raise HeadersTooLarge("trailers too large", detail=f"{TRAILER_BYTES_MAX} bytes allowed")
        return False


def _parse(raw: bytes, match: re.Match[bytes], headers_max: int) -> Head:
    """A head that llhttp and the rules between headers accept.

    Raises:
      BadRequest, HeadersTooLarge: they do not.
    """
    fields: list[tuple[bytes, bytes]] = []
    parser = httptools.HttpRequestParser(_Sink(fields))
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # an Upgrade may be ignored (RFC 9110 section 7.8); the request is answered as it is
    except httptools.HttpParserError as exc:
        raise BadRequest("malformed request", detail=str(exc)) from None
    if len(fields) != raw.count(b"\r\n") - 2:
        raise BadRequest("malformed request", detail="headers cannot be told apart")
    if len(fields) > headers_max:
        raise HeadersTooLarge(detail=f"{len(fields)} headers, {headers_max} allowed")
    head = Head(match[1].decode("ascii"), match[2], [], http_1_0=match[3] == b"0")
    if head.method == "CONNECT":
        raise BadRequest("this is not a proxy", detail="method CONNECT")
    head.keep_alive = not head.http_1_0
    headers = head.headers
    for raw_name, raw_value in fields:
        name, value = raw_name.decode("ascii").lower(), raw_value.decode("latin-1").strip(" \t")
        headers.append((name, value))
        if name in _READERS:
            _READERS[name](head, value)
    if head.host is None and not head.http_1_0:
        raise BadRequest("missing Host header")
    if head.chunked and (head.length is not None or head.http_1_0):
        raise BadRequest("Transfer-Encoding with Content-Length or in HTTP/1.0")
    return head


class _Sink:
    """Takes what llhttp finds; it appends straight to the list."""

    __slots__ = ("_append",)

    def __init__(self, fields: list[tuple[bytes, bytes]]) -> None:
        self._append = fields.append

    def on_header(self, name: bytes, value: bytes) -> None:
        self._append((name, value))


def _read_host(head: Head, value: str) -> None:
    if head.host is not None:
        raise BadRequest("more than one Host header")
    if not _host(value):
        raise BadRequest("malformed Host header")
    head.host = value


def _read_length(head: Head, value: str) -> None:
    if head.length is not None:
        raise BadRequest("more than one Content-Length header")
    if not _length(value):
        raise BadRequest("malformed Content-Length header")
    head.length = int(value)


def _read_transfer_encoding(head: Head, value: str) -> None:
    if head.chunked:
        raise BadRequest("more than one Transfer-Encoding header")
    if value.lower() != "chunked":
        raise BadRequest("unsupported Transfer-Encoding", detail="only chunked is understood")
    head.chunked = True


def _read_connection(head: Head, value: str) -> None:
    options = [option.strip(" \t") for option in value.lower().split(",")]
    if "close" in options:
        head.closes = True
    if head.closes or (head.http_1_0 and "keep-alive" in options):
        head.keep_alive = not head.closes


def _read_expect(head: Head, value: str) -> None:
    head.expects_continue = value.lower() == "100-continue" and not head.http_1_0


def _read_origin(head: Head, value: str) -> None:
    if head.origin is not None:
        raise BadRequest("more than one Origin header")
    head.origin = value


def _read_fetch_site(head: Head, value: str) -> None:
    if head.fetch_site is not None:
        raise BadRequest("more than one Sec-Fetch-Site header")
    head.fetch_site = value


_READERS = {
    "host": _read_host,
    "content-length": _read_length,
    "transfer-encoding": _read_transfer_encoding,
    "connection": _read_connection,
    "expect": _read_expect,
    "origin": _read_origin,
    "sec-fetch-site": _read_fetch_site,
}


def _why_not(window: bytes) -> str:
    """What is wrong with a request line, for people."""
    line = window.partition(b"\n")[0].rstrip(b"\r")
    words = line.split(b" ")
    if line.startswith((b"\x16\x03", b"\x80")):
        return "this port speaks HTTP, not TLS"
    if not re.fullmatch(rb"[A-Z]+", words[0]):
        return "the method must be capital letters"
    if len(words) > 1 and not words[1].startswith(b"/"):
        return "the target must begin with a slash"
    if len(words) == 3 and not re.fullmatch(rb"HTTP/1\.[01]", words[2]):
        return "the version must be HTTP/1.1 or HTTP/1.0"
    if len(words) > 1 and not words[1].isascii():
        return "what is not ASCII must be percent-encoded in the target, as UTF-8: é is %C3%A9"
    return "it must be METHOD TARGET HTTP/1.1, one space between, ended by CR LF"


def _line_too_long(http: Http) -> HeadersTooLarge:
    return HeadersTooLarge("request line too long", detail=f"{http.request_line_bytes_max} bytes allowed")


def _headers_too_large(http: Http) -> HeadersTooLarge:
    return HeadersTooLarge(detail=f"{http.header_bytes_max} bytes allowed")


def _body_too_large(http: Http) -> RequestTooLarge:
    return RequestTooLarge(detail=f"{http.body_bytes_max} bytes allowed")
