"""The parser alone: any chunking gives the same requests, garbage gives our errors, two other parsers agree."""

from __future__ import annotations

from dataclasses import dataclass

import h11
import httptools
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from daemon.config.settings import Http
from daemon.errors import BadRequest, HeadersTooLarge, RequestTooLarge
from daemon.http.parser import RequestParser
from tests.http.test_smuggling import TABLE

SMALL = Http(request_line_bytes_max=64, header_bytes_max=256, headers_max=8, body_bytes_max=64)


@dataclass
class Outcome:
    requests: list[tuple[str, bytes, bytes]]
    """Method, target, body."""
    error: int
    """Status, 0 for none."""
    begun: bool
    """Whether an unfinished request was left."""


def parse(pieces: list[bytes], http: Http = SMALL) -> Outcome:
    """All requests in ``pieces``, received one after the other; anything but our errors is a failure."""
    parser = RequestParser(http)
    requests = []
    head = None
    try:
        for piece in pieces:
            if not piece:
                continue
            parser.receive(piece)
            while True:
                if head is None and (not parser.begun or (head := parser.head()) is None):
                    break
                body = parser.body()
                if body is None:
                    break
                requests.append((head.method, head.target, body))
                head = None
    except (BadRequest, HeadersTooLarge, RequestTooLarge) as error:
        return Outcome(requests, error.status, False)
    return Outcome(requests, 0, parser.begun)


def cut(raw: bytes, steps: list[int]) -> list[bytes]:
    pieces, at, turn = [], 0, 0
    while at < len(raw):
        pieces.append(raw[at : at + steps[turn % len(steps)]])
        at += steps[turn % len(steps)]
        turn += 1
    return pieces


def llhttp(raw: bytes) -> tuple[list[tuple[str, bytes, bytes]], bool]:
    """The requests llhttp finds in ``raw``, and whether it refused something."""
    found: list[tuple[str, bytes, bytes]] = []

    class Sink:
        url, body = b"", b""

        def on_message_begin(self) -> None:
            self.url = self.body = b""

        def on_url(self, url: bytes) -> None:
            self.url += url

        def on_body(self, body: bytes) -> None:
            self.body += body

        def on_message_complete(self) -> None:
            found.append((parser.get_method().decode(), self.url, self.body))

    parser = httptools.HttpRequestParser(Sink())
    try:
        parser.feed_data(raw)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return found, True
    return found, False


def h11_requests(raw: bytes) -> tuple[list[tuple[str, bytes, bytes]], bool]:
    """The same by h11."""
    found = []
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=2**20)
    connection.receive_data(raw)
    request, body = None, b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                request, body = event, b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert request is not None
                found.append((request.method.decode(), request.target, body))
                if request.method == b"CONNECT":
                    return found, True  # it waits for us to become a tunnel
                connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                    return found, True
                connection.start_next_cycle()
            else:
                return found, False
    except h11.RemoteProtocolError:
        return found, True


# -- what hypothesis makes requests of ---------------------------------------------------------------------------------

tokens = st.text("abcXYZ-_019", min_size=1, max_size=8).map(str.encode)
values = st.text("aZ09 ,;=\t\"'()é", max_size=12).map(lambda text: text.strip().encode("latin-1"))
bodies = st.binary(max_size=40)
HEADERS = ("Host", "Content-Length", "Transfer-Encoding", "Connection", "Expect", "Upgrade")
others = st.lists(
    st.tuples(tokens.filter(lambda t: t.decode().title() not in HEADERS), values).map(
        lambda pair: b"%b: %b\r\n" % pair
    ),
    max_size=3,
).map(b"".join)


@st.composite
def chunked(draw: st.DrawFn) -> bytes:
    raw = b""
    for data in draw(st.lists(st.binary(min_size=1, max_size=20), max_size=4)):
        extension = draw(st.sampled_from([b"", b";a", b";a=b", b';a="b c"']))
        raw += b"%x%b\r\n%b\r\n" % (len(data), extension, data)
    return raw + b"0\r\n" + draw(st.sampled_from([b"", b"X-T: 1\r\n"])) + b"\r\n"


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A good request, as some client might write it."""
    method = draw(st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"PATCH"]))
    target = b"/" + draw(st.text("abc/%?=&.~", max_size=20)).encode()
    head = method + b" " + target + b" HTTP/1.1\r\nHost: localhost\r\n" + draw(others)
    kind = draw(st.sampled_from(["none", "length", "chunked"]))
    if kind == "length":
        body = draw(bodies)
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    if kind == "chunked":
        return head + b"Transfer-Encoding: chunked\r\n\r\n" + draw(chunked())
    return head + b"\r\n"


streams = st.lists(requests(), min_size=1, max_size=4).map(b"".join)


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """Good requests with a few bytes changed, taken out, put in, or doubled."""
    raw = bytearray(draw(streams))
    odd = st.sampled_from(
        [b"\r", b"\n", b"\r\n", b" ", b"\t", b"\x00", b":", b",", b"0", b"1", b"f", b";", b"\xff", b"\x0b",
         b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: x\r\n", b"\r\n\r\n",
         b"GET / HTTP/1.1\r\n"]
    )  # fmt: skip
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(raw)))
        match draw(st.sampled_from(["put", "take", "change", "double"])):
            case "put":
                raw[at:at] = draw(odd)
            case "take":
                del raw[at : at + draw(st.integers(1, 4))]
            case "change":
                raw[at : at + 1] = draw(odd)
            case _:
                raw[at:at] = raw[at : at + draw(st.integers(1, 30))]
    return bytes(raw)


steps = st.lists(st.integers(1, 40), min_size=1, max_size=6)
anything = st.one_of(
    streams, mutants(), st.binary(max_size=200), st.sampled_from([row[1] for row in TABLE if len(row[1]) < 1000])
)


# -- properties --------------------------------------------------------------------------------------------------------


@settings(max_examples=400, deadline=None)
@given(streams)
def test_good_requests_are_accepted_and_everybody_agrees(raw: bytes) -> None:
    outcome = parse([raw], Http())
    assert outcome.requests
    assert (outcome.error, outcome.begun) == (0, False)
    assert llhttp(raw) == (outcome.requests, False)
    found, refused = h11_requests(raw)
    assert found == outcome.requests or refused


@settings(max_examples=800, deadline=None)
@given(anything, steps)
@example(b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", [1])
@example(b"\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", [2])
@example(b"GET /" + b"a" * 60 + b" HTTP/1.1\r\n", [1, 64, 2])
@example(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 240 + b"\x00\r\n\r\n", [7])
@example(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 300 + b"\x00\r\n\r\n", [7])
def test_any_chunking_gives_the_same_result(raw: bytes, sizes: list[int]) -> None:
    whole = parse([raw])
    assert parse(cut(raw, sizes)) == whole
    assert parse(cut(raw, [1])) == whole


@settings(max_examples=1500, deadline=None)
@given(anything)
def test_no_request_is_seen_that_llhttp_does_not_see(raw: bytes) -> None:
    """We may stop earlier than llhttp; as far as we go, we see the same requests, and never more.

    An upgrade is left out: httptools then takes the body for the new protocol's bytes, we ignore the upgrade.
    """
    assume(b"upgrade" not in raw.lower())
    ours, (theirs, _) = parse([raw], Http()).requests, llhttp(raw)
    assert ours[: len(theirs)] == theirs[: len(ours)]
    if len(ours) > len(theirs):  # it stops where the connection ends; the parser leaves that to the connection
        assert b"connection" in raw.lower() or b"http/1.0" in raw.lower()


@settings(max_examples=1500, deadline=None)
@given(anything)
def test_what_we_and_h11_accept_is_the_same(raw: bytes) -> None:
    ours = parse([raw], Http()).requests
    theirs, _ = h11_requests(raw)
    for mine, other in zip(ours, theirs, strict=False):
        assert mine == other


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=2000))
def test_garbage_is_refused_or_waited_for_and_nothing_else(raw: bytes) -> None:
    assert parse([raw]).requests == []


# -- examples ----------------------------------------------------------------------------------------------------------


def test_a_body_in_many_pieces_is_joined_once() -> None:
    body = bytes(range(256)) * 24576  # 6 MiB
    raw = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    assert parse(cut(raw, [65536]), Http()).requests == [("POST", b"/", body)]


def test_one_byte_chunks_are_within_the_rules() -> None:
    count = 20_000
    raw = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * count + b"0\r\n\r\n"
    assert parse(cut(raw, [65536]), Http()).requests == [("POST", b"/", b"x" * count)]


@pytest.mark.parametrize(
    ("name", "size", "status"),
    [
        ("line", 64, 0),
        ("line", 65, 431),
        ("headers", 256, 0),
        ("headers", 257, 431),
        ("body", 64, 0),
        ("body", 65, 413),
        ("chunks", 64, 0),
        ("chunks", 65, 413),
        ("count", 8, 0),
        ("count", 9, 431),
    ],
)
def test_a_limit_is_the_last_size_that_passes(name: str, size: int, status: int) -> None:
    line, host = b"POST / HTTP/1.1\r\n", b"Host: x\r\n"
    raw = {
        "line": b"GET /" + b"a" * (size - 14) + b" HTTP/1.1\r\n" + host + b"\r\n",
        "headers": line + host + b"X: " + b"a" * (size - len(host) - 7) + b"\r\n\r\n",
        "body": line + host + b"Content-Length: %d\r\n\r\n" % size + b"a" * size,
        "chunks": line + host + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % size + b"a" * size + b"\r\n0\r\n\r\n",
        "count": line + host + b"X: y\r\n" * (size - 1) + b"\r\n",
    }[name]
    for pieces in ([raw], cut(raw, [1]), cut(raw, [50])):
        outcome = parse(pieces)
        assert (outcome.error, len(outcome.requests)) == (status, 0 if status else 1)


@pytest.mark.parametrize(("size", "status"), [(256, 0), (257, 431)])
def test_an_unfinished_head_is_refused_as_soon_as_it_is_too_large(size: int, status: int) -> None:
    raw = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * (size - 12)
    for pieces in ([raw], cut(raw, [1]), cut(raw, [50])):
        assert parse(pieces) == Outcome([], status, begun=not status)


def test_trailers_in_many_pieces_are_added_up() -> None:
    raw = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 1360
    assert parse(cut(raw + b"\r\n", [6]), Http()).error == 0
    assert parse(cut(raw + b"X: y\r\n" * 6 + b"\r\n", [6]), Http()).error == 431


def test_unread_gives_everything_from_the_request_on() -> None:
    parser = RequestParser(Http())
    first = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1"
    second = b"PUT /b HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf"
    parser.receive(first + second[:10])
    assert parser.head() is not None
    assert parser.body() == b"1"
    assert parser.head() is None
    parser.receive(second[10:])
    head = parser.head()
    assert head is not None
    assert head.target == b"/b"
    assert parser.unread() == second


def test_a_target_beyond_ascii_is_refused_with_the_way_to_write_it() -> None:
    """What ``curl 'http://.../hello?name=José'`` sends."""
    parser = RequestParser(Http())
    parser.receive("GET /t/app/hello?name=José HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    with pytest.raises(BadRequest) as refused:
        parser.head()
    assert "percent-encoded" in (refused.value.detail or "")
