"""The HTTP/1.1 parser of the entry point: any chunking, any garbage."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdk import http1

TOKENS = st.text("abcdefgXYZ0123456789-_", min_size=1, max_size=12)
VALUES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x2FF, exclude_characters="\x7f"), max_size=20)
RESERVED = {"content-length", "transfer-encoding", "connection", "expect"}


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, dict[str, str], bytes]:
    headers = draw(st.dictionaries(TOKENS.filter(lambda name: name.lower() not in RESERVED), VALUES, max_size=5))
    body = draw(st.binary(max_size=300))
    lines = [f"{name}: {value}".encode() for name, value in headers.items()]
    if draw(st.booleans()):
        sizes = draw(st.lists(st.integers(1, 50), max_size=8))
        lines.append(b"Transfer-Encoding: chunked")
        parts, rest = [], body
        for size in [*sizes, len(body) or 1]:
            part, rest = rest[:size], rest[size:]
            if part:
                parts.append(b"%x\r\n%b\r\n" % (len(part), part))
        payload = b"".join(parts) + b"0\r\n" + draw(st.sampled_from([b"", b"T: x\r\n"])) + b"\r\n"
    else:
        lines.append(b"Content-Length: %d" % len(body))
        payload = body
    raw = b"\r\n".join([b"POST /call HTTP/1.1", *lines, b"", b""]) + payload
    return raw, {name.lower(): value for name, value in headers.items()}, body


@given(st.lists(requests(), min_size=1, max_size=4), st.lists(st.integers(1, 40), min_size=1))
def test_requests_survive_any_chunking(sent: list[tuple[bytes, dict[str, str], bytes]], steps: list[int]) -> None:
    raw = b"".join(request for request, _, _ in sent)
    parser, got, at, turn = http1.Parser(), [], 0, 0
    while at < len(raw):
        step = steps[turn % len(steps)]
        parser.feed(raw[at : at + step])
        at, turn = at + step, turn + 1
        while (request := parser.next()) is not None:
            got.append(request)
    assert [request.body for request in got] == [body for _, _, body in sent]
    for request, (_, headers, _) in zip(got, sent, strict=True):
        assert {name: request.headers[name] for name in headers} == headers
    assert not parser.started


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_garbage_is_refused_or_waited_for_and_nothing_else(garbage: bytes, more: bytes) -> None:
    parser = http1.Parser()
    with contextlib.suppress(http1.BadRequest):
        for part in (garbage, b"\r\n\r\n", more, b"\r\n\r\n"):
            parser.feed(part)
            while parser.next() is not None:
                pass


HEAD = b"POST /call HTTP/1.1\r\n"


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (HEAD + b"Content-Length: 1, 1\r\n\r\n", 400),
        (HEAD + b"Content-Length: +1\r\n\r\n", 400),
        (HEAD + b"Content-Length:\r\n\r\n", 400),
        (HEAD + b"Content-Length: 1_0\r\n\r\n", 400),
        (HEAD + b"Content-Length: 100000001\r\n\r\n", 413),
        (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5f5e101\r\n", 413),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 1024, 400),
        (HEAD + b"A : b\r\n\r\n", 400),
        (HEAD + b" folded\r\n\r\n", 400),
        (HEAD + b"A: b\r\n c\r\n\r\n", 400),
        (HEAD + b"A: b\nB: c\r\n\r\n", 400),
        (HEAD + b"A: \0\r\n\r\n", 400),
        (b"POST  /call HTTP/1.1\r\n\r\n", 400),
        (b"POST /call HTTP/2.0\r\n\r\n", 400),
        (b"POST /call\r\n\r\n", 400),
        (b"x" * http1.HEAD_BYTES_MAX, 400),
    ],
)
def test_what_is_no_request_is_refused(raw: bytes, status: int) -> None:
    parser = http1.Parser()
    parser.feed(raw)
    with pytest.raises(http1.BadRequest) as caught:
        parser.next()
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("minor", "connection", "kept"),
    [(1, "", True), (1, "close", False), (1, "x, Close", False), (0, "", False), (0, "Keep-Alive", True)],
)
def test_keep_alive(minor: int, connection: str, kept: bool) -> None:
    parser = http1.Parser()
    parser.feed(b"POST /call HTTP/1.%d\r\nConnection: %b\r\n\r\n" % (minor, connection.encode()))
    request = parser.next()
    assert request is not None
    assert request.keep_alive is kept


def test_a_header_in_utf_8_and_one_in_latin_1_are_both_read() -> None:
    parser = http1.Parser()
    parser.feed(HEAD + "A: ż\r\n".encode() + "B: caf\xe9\r\n\r\n".encode("latin-1"))
    request = parser.next()
    assert request is not None
    assert request.headers == {"a": "ż", "b": "caf\xe9"}
