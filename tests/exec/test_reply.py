"""The parser of programs' replies and the maker of their requests, without a process."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon import errors
from daemon.config.settings import Limits
from daemon.deployer import fitted
from daemon.workers.http_channel import CHUNK_BYTES, Request
from daemon.workers.http_reply import HEAD_BYTES_MAX, HEADS_MAX, Replies

LIMITS = Limits(response_bytes_max=2000, response_header_bytes_max=1024, response_headers_max=20)
REFUSALS = (errors.InvalidResponse, errors.ResponseTooLarge, errors.ResponseHeadersTooLarge)


@dataclass(frozen=True, slots=True)
class Reply:
    """What is to come out, and the bytes that say so."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    wire: bytes
    until_end: bool
    """The end of the connection ends it."""


TOKEN = st.text("!#$%&'*+-.^_`|~0123456789abcdefXYZ", min_size=1, max_size=12)
VALUE = st.text(st.characters(codec="latin-1", exclude_categories=("Cc",)), max_size=30).map(str.strip)
FRAMING = {"content-length", "transfer-encoding", "connection", "upgrade", "proxy-connection", "trailer"}


@st.composite
def replies(draw: st.DrawFn) -> Reply:
    status = draw(st.sampled_from([200, 502, 504]))
    pairs = draw(st.lists(st.tuples(TOKEN, VALUE).filter(lambda pair: pair[0].lower() not in FRAMING), max_size=6))
    body = draw(st.binary(max_size=200))
    kind = draw(st.sampled_from(["length", "chunks", "end"]))
    lines = [f"{name}: {value}" for name, value in pairs]
    headers = [(name.lower(), value) for name, value in pairs]
    payload = body
    if kind == "length":
        lines.append(f"Content-Length: {len(body)}")
        headers.append(("content-length", str(len(body))))
    elif kind == "chunks":
        lines.append("Transfer-Encoding: chunked")
        headers.append(("transfer-encoding", "chunked"))
        cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=4)))
        pieces = [body[a:b] for a, b in itertools.pairwise([0, *cuts, len(body)]) if a != b]
        trailer = draw(st.sampled_from(["", "X-T: 1\r\n"]))
        payload = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + f"0\r\n{trailer}\r\n".encode()
    before = b"HTTP/1.1 100 Continue\r\n\r\n" * draw(st.integers(0, 2))
    head = "\r\n".join([f"HTTP/1.1 {status} Whatever", *lines, "", ""]).encode("latin-1")
    return Reply(status, tuple(headers), body, before + head + payload, kind == "end")


def pieces_of(data: st.DataObject, wire: bytes) -> list[bytes]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    return [wire[a:b] for a, b in itertools.pairwise([0, *cuts, len(wire)]) if a != b]


def taken(parser: Replies, pieces: list[bytes]) -> tuple[int, tuple[tuple[str, str], ...], bytes]:
    """As `HttpChannel.call` takes an answer."""
    if pieces and (known := parser.known(pieces[0])) is not None:
        assert len(pieces) == 1
        head, body = known
        return head.status, head.headers, body
    parser.begin()
    for piece in pieces:
        assert not parser.complete
        parser.feed(piece)
    if not parser.complete:
        assert parser.end()
    return parser.status, tuple(parser.headers), parser.body


@given(st.lists(replies(), min_size=1, max_size=4), st.data())
def test_any_cut_of_a_reply_gives_the_same(some: list[Reply], data: st.DataObject) -> None:
    """One connection, one reply after the other, each in pieces of any size, and some of them again."""
    parser = Replies(LIMITS)
    for reply in [*some, *some]:
        pieces = data.draw(st.sampled_from([[reply.wire], None])) or pieces_of(data, reply.wire)
        assert taken(parser, pieces) == (reply.status, reply.headers, reply.body)
        if reply.until_end:
            assert not parser.keeps_open
            parser = Replies(LIMITS)


@given(replies(), st.data())
def test_a_reply_that_is_cut_short_is_not_complete(reply: Reply, data: st.DataObject) -> None:
    parser = Replies(LIMITS)
    end = data.draw(st.integers(0, len(reply.wire) - 1))
    if reply.until_end:
        end = min(end, reply.wire.index(b" Whatever"))
    parser.begin()
    if end:
        parser.feed(reply.wire[:end])
    assert not parser.complete
    assert not parser.end()


@given(
    replies().filter(lambda reply: not reply.until_end), st.binary(min_size=1, max_size=50).filter(lambda b: b.strip())
)
def test_bytes_after_a_reply_are_never_part_of_it(reply: Reply, more: bytes) -> None:
    for known in (False, True):
        parser = Replies(LIMITS)
        if known:
            taken(parser, [reply.wire])
        with pytest.raises(REFUSALS):
            taken(parser, [reply.wire + more])


HEAD_LINES = [
    b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK", b"HTTP/1.1 100 C", b"HTTP/1.1 300 M", b"", b"Content-Length: 5",
    b"Content-Length: 0", b"Content-Length: -1", b"Content-Length: 99999999999999999999", b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: identity", b"Connection: close", b"Upgrade: x", b"Connection: upgrade", b"X: y", b" folded",
    b": no name", b"X y: z", b"5\r\nabcde", b"0\r\n", b"ffffffffffffffff1", b"5;ext=1\r\nabcde",
]  # fmt: skip
GRAMMAR = st.lists(
    st.sampled_from([line + b"\r\n" for line in HEAD_LINES])
    | st.sampled_from([b"\n", b"\r", b"\0", b"abcde", b"x" * 700])
    | st.binary(max_size=20),
    max_size=14,
)


@given(GRAMMAR, st.data())
def test_garbage_is_an_answer_or_a_refusal_and_nothing_else(parts: list[bytes], data: st.DataObject) -> None:
    """And whether it comes in one piece or in many makes no difference to what is accepted."""
    wire = b"".join(parts)
    results: list[Any] = []
    for pieces in ([wire] if wire else [], pieces_of(data, wire), [wire[i : i + 1] for i in range(len(wire))]):
        parser = Replies(LIMITS)
        parser.begin()
        try:
            for piece in pieces:
                if parser.complete:
                    raise errors.InvalidResponse  # the channel looks for what comes unasked
                parser.feed(piece)
            parser.end()
            if parser.complete:
                assert parser.status in (200, 502, 504)
                assert len(parser.body) <= LIMITS.response_bytes_max
                results.append((parser.status, tuple(parser.headers), parser.body))
            else:
                results.append("cut short")
        except REFUSALS:
            results.append("refused")
    whole, *rest = results
    for other in rest:
        # A limit may be seen earlier or later when an invalid reply is in pieces; a valid one is the same.
        if whole not in ("refused", "cut short") or other not in ("refused", "cut short"):
            assert other == whole, (wire, results)


def test_the_heads_that_are_remembered_are_few_and_small() -> None:
    parser = Replies(Limits())

    def reply(name: int, size: int = 1) -> bytes:
        return b"HTTP/1.1 200 OK\r\nX-%d: %b\r\nContent-Length: 2\r\n\r\nok" % (name, b"x" * size)

    for i in range(3 * HEADS_MAX):
        taken(parser, [reply(i)])
        assert parser.known(reply(i)) is not None
        assert len(parser._heads) <= HEADS_MAX
    taken(parser, [reply(0, HEAD_BYTES_MAX)])
    assert parser.known(reply(0, HEAD_BYTES_MAX)) is None


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
)
def test_what_ends_a_connection_or_has_no_length_is_parsed_each_time(wire: bytes) -> None:
    parser = Replies(LIMITS)
    taken(parser, [wire])
    assert parser.known(wire) is None


# -- requests ----------------------------------------------------------------------------------------------------------


def test_the_id_and_deadline_are_where_go_sorts_them() -> None:
    made = Request()
    headers = [("host", "localhost"), ("fn-config", "x"), ("fn-call-id", "forged"), ("a", "1"), ("z", "2"),
               ("fn-deadline", "forged"), ("user-agent", "me"), ("accept-encoding", "gzip")]  # fmt: skip
    want = (
        "POST /call HTTP/1.1\r\nHost: localhost\r\nUser-Agent: me\r\nContent-Length: 0\r\nA: 1\r\nFn-Call-Id: {}\r\n"
        "Fn-Config: x\r\nFn-Deadline: {}\r\nZ: 2\r\nAccept-Encoding: gzip\r\n\r\n"
    )
    for call_id, deadline in (("C1", "D1"), ("C2", "D2")):
        assert made.bytes(call_id, deadline, headers, b"") == want.format(call_id, deadline).encode()


HEADERS = st.lists(
    st.tuples(st.sampled_from(["accept", "cookie", "fn-h", "x-a", "accept-encoding", "user-agent"]), VALUE), max_size=5
)


@given(st.lists(st.tuples(HEADERS, st.sampled_from([b"", b"a", b"\r\n\r\n", b"x" * (CHUNK_BYTES + 1)])), max_size=4))
def test_what_is_remembered_of_requests_changes_none(calls: list[tuple[list[tuple[str, str]], bytes]]) -> None:
    kept = Request()
    for number, (headers, body) in enumerate([*calls, *calls]):
        args = f"C{number}", f"D{number}", headers, body
        assert kept.bytes(*args) == Request().bytes(*args)


def test_a_header_cannot_be_broken_in_two() -> None:
    made = Request().bytes("C", "D", [("x", "1\r\nX-Forged: 2"), ("y", "%b %s 3")], b"")
    assert b"Forged" not in made
    assert b"Y: %b %s 3\r\n" in made


# -- commands ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "environment", "started"),
    [
        ("", {}, ""),
        ("./func -Xmx", {}, "./func -Xmx"),
        ("java -jar f.jar", {}, "java -XX:MaxRAM=256m -jar f.jar"),
        ("/usr/bin/java -Xmx64m -jar f.jar", {}, "/usr/bin/java -Xmx64m -jar f.jar"),
        ("java -XX:MaxRAMPercentage=80 -jar f", {}, "java -XX:MaxRAMPercentage=80 -jar f"),
        ("java -jar f", {"JDK_JAVA_OPTIONS": "-ea -Xmx9m"}, "java -jar f"),
        ("node func.js", {}, "node --max-old-space-size=128 func.js"),
        ("node --max-old-space-size=9 func.js", {}, "node --max-old-space-size=9 func.js"),
        ("node func.js", {"NODE_OPTIONS": "--max-old-space-size=9"}, "node func.js"),
    ],
)
def test_a_jvm_and_a_node_are_told_their_memory(command: str, environment: dict[str, str], started: str) -> None:
    assert fitted(tuple(command.split()), 256, environment) == tuple(started.split())
