"""Raw requests that two readers could understand in two ways, and what the front door makes of each.

A row is: what it tries, the bytes, the statuses of the replies in order, and what becomes of the connection: ``open``
(the next request on it is answered), ``closed`` (by the door, whatever was sent behind), ``waiting`` (for more bytes).
Every 200 is one request that the endpoint was given; there must be no other.
"""

from __future__ import annotations

import pytest
import trio

from daemon.config.settings import Http
from tests.http.support import ASK, open_door

P = b"POST /invoke/f HTTP/1.1\r\nHost: localhost\r\n"
G = b"GET /t/a HTTP/1.1\r\nHost: localhost\r\n"
EVIL = b"GET /t/evil HTTP/1.1\r\nHost: localhost\r\n\r\n"
C = P + b"Transfer-Encoding: chunked\r\n\r\n"
LIMITS = Http()

BAD: list[tuple[str, bytes]] = [
    # Content-Length against Transfer-Encoding
    ("CL.TE", P + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + EVIL),
    ("TE.CL", P + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + EVIL),
    ("CL 0 and TE", P + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + EVIL),
    ("TE twice", P + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("TE identity first", P + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("TE list", P + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    ("TE chunked not last", P + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    ("TE chunked twice in a list", P + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    ("TE identity", P + b"Transfer-Encoding: identity\r\n\r\n"),
    ("TE xchunked", P + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("TE chunkedx", P + b"Transfer-Encoding: chunkedx\r\n\r\n0\r\n\r\n"),
    ("TE quoted", P + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n'),
    ("TE with parameter", P + b"Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n"),
    ("TE empty", P + b"Transfer-Encoding:\r\n\r\n" + EVIL),
    ("TE with vertical tab", P + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    ("TE with NUL", P + b"Transfer-Encoding: chunked\x00\r\n\r\n0\r\n\r\n"),
    ("TE space before colon", P + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + EVIL),
    ("TE tab before colon", P + b"Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n"),
    ("TE name with leading space", P + b" Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("TE folded", P + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    ("TE hidden behind bare LF", P + b"X: a\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"),
    ("TE hidden behind bare CR", P + b"X: a\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("TE in HTTP/1.0", b"POST /t/a HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    # Content-Length
    ("CL twice, different", P + b"Content-Length: 2\r\nContent-Length: 40\r\n\r\nhi" + EVIL),
    ("CL twice, equal", P + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi"),
    ("CL list", P + b"Content-Length: 2, 2\r\n\r\nhi"),
    ("CL plus", P + b"Content-Length: +2\r\n\r\nhi"),
    ("CL minus", P + b"Content-Length: -2\r\n\r\nhi"),
    ("CL minus zero", P + b"Content-Length: -0\r\n\r\n"),
    ("CL hexadecimal", P + b"Content-Length: 0x2\r\n\r\nhi"),
    ("CL underscore", P + b"Content-Length: 1_0\r\n\r\n0123456789"),
    ("CL float", P + b"Content-Length: 2.0\r\n\r\nhi"),
    ("CL exponent", P + b"Content-Length: 2e0\r\n\r\nhi"),
    ("CL inner space", P + b"Content-Length: 1 0\r\n\r\n0123456789"),
    ("CL empty", P + b"Content-Length:\r\n\r\n"),
    ("CL blank", P + b"Content-Length:  \r\n\r\n"),
    ("CL word", P + b"Content-Length: two\r\n\r\nhi"),
    ("CL 64-bit overflow", P + b"Content-Length: 18446744073709551618\r\n\r\nhi"),
    ("CL superscript digit", P + b"Content-Length: \xb2\r\n\r\nhi"),
    ("CL Arabic digit in UTF-8", P + b"Content-Length: \xd9\xa2\r\n\r\nhi"),
    ("CL with semicolon", P + b"Content-Length: 2;\r\n\r\nhi"),
    ("CL space before colon", P + b"Content-Length : 2\r\n\r\nhi"),
    ("CL folded", P + b"Content-Length: 2\r\n 0\r\n\r\nhi"),
    # lines
    ("bare LF everywhere", b"GET /t/a HTTP/1.1\nHost: localhost\n\n"),
    ("bare LF after the request line", b"GET /t/a HTTP/1.1\nHost: localhost\r\n\r\n"),
    ("bare LF after a header", G + b"X: y\n\r\n"),
    ("bare LF as the empty line", G + b"X: y\r\n\n" + EVIL),
    ("bare CR as the empty line", G + b"\rX" + EVIL),
    ("bare CR in a value", G + b"X: a\rb\r\n\r\n"),
    ("CR CR LF", G + b"X: a\r\r\n\r\n"),
    ("folded header", G + b"X: a\r\n b\r\n\r\n"),
    ("folded with tab", G + b"X: a\r\n\tb\r\n\r\n"),
    ("fold before the first header", b"GET /t/a HTTP/1.1\r\n X: y\r\nHost: localhost\r\n\r\n"),
    ("two empty lines first", b"\r\n\r\n" + G + b"\r\n"),
    ("LF first", b"\n" + G + b"\r\n"),
    ("CR first", b"\rX" + G + b"\r\n"),
    ("space first", b" " + G + b"\r\n"),
    # header names and values
    ("no colon", G + b"Xy\r\n\r\n"),
    ("empty name", G + b": y\r\n\r\n"),
    ("space in name", G + b"X Y: z\r\n\r\n"),
    ("name in parentheses", G + b"(X): y\r\n\r\n"),
    ("name with byte above 127", G + b"X\xe9: y\r\n\r\n"),
    ("NUL in name", G + b"X\x00: y\r\n\r\n"),
    ("NUL in value", G + b"X: a\x00b\r\n\r\n"),
    ("control character in value", G + b"X: a\x01b\r\n\r\n"),
    ("escape in value", G + b"X: \x1b[31m\r\n\r\n"),
    ("DEL in value", G + b"X: a\x7fb\r\n\r\n"),
    # Host
    ("no Host", b"GET /t/a HTTP/1.1\r\n\r\n"),
    ("Host twice", G + b"Host: localhost\r\n\r\n"),
    ("Host twice, different", G + b"host: evil.example\r\n\r\n"),
    ("Host empty", b"GET /t/a HTTP/1.1\r\nHost:\r\n\r\n"),
    ("Host with user", b"GET /t/a HTTP/1.1\r\nHost: a@localhost\r\n\r\n"),
    ("Host with path", b"GET /t/a HTTP/1.1\r\nHost: localhost/x\r\n\r\n"),
    ("Host list", b"GET /t/a HTTP/1.1\r\nHost: localhost, evil\r\n\r\n"),
    ("Host with odd port", b"GET /t/a HTTP/1.1\r\nHost: localhost:80x\r\n\r\n"),
    ("Host with space before colon", b"GET /t/a HTTP/1.1\r\nHost : localhost\r\n\r\n"),
    # request line
    ("absolute form", b"GET http://localhost/t/a HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("authority form", b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("CONNECT with a path", b"CONNECT /t/a HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("asterisk form", b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("no target", b"GET  HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("relative target", b"GET t/a HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("fragment", b"GET /t/a#x HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("space in target", b"GET /t/a b HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("two spaces", b"GET  /t/a HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("tab between", b"GET\t/t/a HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("space at the end", b"GET /t/a HTTP/1.1 \r\nHost: localhost\r\n\r\n"),
    ("byte above 127 in target", b"GET /t/\xe9 HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("NUL in target", b"GET /t/\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("LF in target", b"GET /t/a\nX HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("lower-case method", b"get /t/a HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("unknown method", b"FOO /t/a HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("method with odd character", b"G@T /t/a HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("method twice", b"GET POST /t/a HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("HTTP/0.9", b"GET /t/a\r\n"),
    ("HTTP/0.9 with version", b"GET /t/a HTTP/0.9\r\n\r\n"),
    ("HTTP/1.2", b"GET /t/a HTTP/1.2\r\nHost: localhost\r\n\r\n"),
    ("HTTP/2.0", b"GET /t/a HTTP/2.0\r\nHost: localhost\r\n\r\n"),
    ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"),
    ("http in lower case", b"GET /t/a http/1.1\r\nHost: localhost\r\n\r\n"),
    ("version with zeros", b"GET /t/a HTTP/01.1\r\nHost: localhost\r\n\r\n"),
    ("TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    ("binary", bytes(range(256))),
    # chunks
    ("chunk size missing", C + b"\r\nhi\r\n0\r\n\r\n"),
    ("chunk size not hexadecimal", C + b"g\r\nhi\r\n0\r\n\r\n"),
    ("chunk size 0x", C + b"0x2\r\nhi\r\n0\r\n\r\n"),
    ("chunk size minus", C + b"-2\r\nhi\r\n0\r\n\r\n"),
    ("chunk size plus", C + b"+2\r\nhi\r\n0\r\n\r\n"),
    ("chunk size underscore", C + b"0_2\r\nhi\r\n0\r\n\r\n"),
    ("chunk size space before", C + b" 2\r\nhi\r\n0\r\n\r\n"),
    ("chunk size space behind", C + b"2 \r\nhi\r\n0\r\n\r\n"),
    ("chunk size 2**64 + 2", C + b"10000000000000002\r\nhi\r\n0\r\n\r\n"),
    ("chunk size ended by LF", C + b"2\nhi\r\n0\r\n\r\n"),
    ("chunk size ended by CR", C + b"2\rhi\r\n0\r\n\r\n"),
    ("chunk size with NUL", C + b"2\x00\r\nhi\r\n0\r\n\r\n"),
    ("chunk longer than its size", C + b"2\r\nhix\r\n0\r\n\r\n"),
    ("chunk data ended by LF", C + b"2\r\nhi\n0\r\n\r\n"),
    ("chunk data ended by CR CR", C + b"2\r\nhi\r\r0\r\n\r\n"),
    ("chunk data not ended", C + b"2\r\nhi0\r\n\r\n" + EVIL),
    ("last chunk ended by LF", C + b"0\n\n" + EVIL),
    ("chunk extension with LF", C + b"2;a=b\nhi\r\n0\r\n\r\n"),
    ("chunk extension with NUL", C + b"2;a\x00\r\nhi\r\n0\r\n\r\n"),
    ("chunk extension with space", C + b"2 ;a=b\r\nhi\r\n0\r\n\r\n"),
    ("chunk extension with open quote", C + b'2;a="\r\nhi\r\n0\r\n\r\n'),
    ("chunk extension too long", C + b"2;" + b"a" * 2000 + b"\r\nhi\r\n0\r\n\r\n"),
    ("chunk extensions too many", C + (b"1;" + b"a" * 900 + b"\r\nx\r\n") * 30 + b"0\r\n\r\n"),
    ("trailer with space before colon", C + b"0\r\nX : y\r\n\r\n"),
    ("trailer folded", C + b"0\r\nX: y\r\n z\r\n\r\n"),
    ("trailer with bare LF", C + b"0\r\nX: y\n\r\n"),
    ("trailer Content-Length", C + b"2\r\nhi\r\n0\r\nX: y\r\nContent-Length: 9\r\n\r\n"),
    ("trailer transfer-encoding", C + b"2\r\nhi\r\n0\r\ntransfer-encoding: chunked\r\n\r\n"),
    ("trailer Host", C + b"2\r\nhi\r\n0\r\nHost: evil.example\r\n\r\n"),
    ("trailer without colon", C + b"0\r\nGET /t/evil HTTP/1.1\r\n\r\n"),
    # what the guard looks at must be there once
    ("Origin twice", G + b"Origin: http://localhost\r\nOrigin: http://evil.example\r\n\r\n"),
    ("Sec-Fetch-Site twice", G + b"Sec-Fetch-Site: none\r\nSec-Fetch-Site: cross-site\r\n\r\n"),
]

OTHER: list[tuple[str, bytes, list[int], str]] = [
    # refused, but not as 400
    ("foreign Host", b"GET /t/a HTTP/1.1\r\nHost: evil.example\r\n\r\n", [403], "closed"),
    ("foreign Origin", P + b"Origin: http://evil.example\r\nContent-Length: 2\r\n\r\nhi", [403], "closed"),
    ("foreign page", P + b"Sec-Fetch-Site: cross-site\r\nContent-Length: 2\r\n\r\nhi", [403], "closed"),
    ("line too long", b"GET /t/" + b"a" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", [431], "closed"),
    ("line without end", b"GET /t/" + b"a" * 9000, [431], "closed"),
    ("headers too large", G + b"X: " + b"a" * LIMITS.header_bytes_max + b"\r\n\r\n", [431], "closed"),
    ("headers without end", G + b"X: y\r\n" * (LIMITS.header_bytes_max // 6), [431], "closed"),
    ("one header without end", G + b"X: " + b"a" * LIMITS.header_bytes_max, [431], "closed"),
    ("too many headers", G + b"X: y\r\n" * LIMITS.headers_max + b"\r\n", [431], "closed"),
    ("trailers too large", C + b"0\r\nX: " + b"a" * 9000 + b"\r\n\r\n", [431], "closed"),
    ("too many trailers", C + b"0\r\n" + b"X: y\r\n" * 3000 + b"\r\n", [431], "closed"),
    ("CL over the limit", P + b"Content-Length: 6291457\r\n\r\n", [413], "closed"),
    ("CL far over the limit", P + b"Content-Length: 999999999999999999\r\n\r\n", [413], "closed"),
    ("chunk over the limit", C + b"600001\r\n", [413], "closed"),
    ("chunk far over the limit", C + b"ffffffffffffffff\r\n", [413], "closed"),
    ("sum of chunks over the limit", C + b"2\r\nhi\r\n5fffff\r\n", [413], "closed"),
    # a good request, then a bad one
    ("good, then bad", ASK + b"GET / HTTP/1.1\r\n\r\n" + EVIL, [200, 400], "closed"),
    ("bytes behind a body", ASK + b"x" + EVIL, [200, 400], "closed"),
    ("bytes behind the last chunk", C + b"0\r\n\r\nx" + EVIL, [200, 400], "closed"),
    ("request in the body of another", P + b"Content-Length: 45\r\n\r\n" + EVIL, [], "waiting"),
    ("body on GET is body", G + b"Content-Length: %d\r\n\r\n" % len(EVIL) + EVIL, [200], "open"),
    ("body on DELETE is body", b"DELETE" + G[3:] + b"Content-Length: %d\r\n\r\n" % len(EVIL) + EVIL, [200], "open"),
    ("close, then more", G + b"Connection: close\r\n\r\n" + EVIL, [200], "closed"),
    ("close in a list", G + b"Connection: x, Close\r\n\r\n" + EVIL, [200], "closed"),
    ("HTTP/1.0, then more", b"GET /t/a HTTP/1.0\r\n\r\n" + EVIL, [200], "closed"),
    # unusual, and good
    ("one empty line first", b"\r\n" + ASK, [200], "open"),
    ("empty line between", ASK + b"\r\n" + ASK, [200, 200], "open"),
    ("empty header value", G + b"X:\r\nY: \r\n\r\n", [200], "open"),
    ("no space behind the colon", G + b"X:y\r\n\r\n", [200], "open"),
    ("tab behind the colon", G + b"X:\ty\t\r\n\r\n", [200], "open"),
    ("bytes above 127 in a value", G + b"X: \xe9\xff\r\n\r\n", [200], "open"),
    ("CL with zeros in front", P + b"Content-Length: 0002\r\n\r\nhi", [200], "open"),
    ("CL 0", P + b"Content-Length: 0\r\n\r\n", [200], "open"),
    ("TE in capitals", P + b"TRANSFER-ENCODING: CHUNKED\r\n\r\n2\r\nhi\r\n0\r\n\r\n", [200], "open"),
    ("chunk extension", C + b'2;a=b;c;d="e;\\"f"\r\nhi\r\n0;x\r\n\r\n', [200], "open"),
    ("chunk size with zeros", C + b"0000000000000002\r\nhi\r\n000\r\n\r\n", [200], "open"),
    ("trailers", C + b"2\r\nhi\r\n0\r\nX-Content-Length: 9\r\nX: y\r\n\r\n", [200], "open"),
    ("upgrade is ignored", G + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n", [200], "open"),
    ("upgrade with a body", P + b"Connection: Upgrade\r\nUpgrade: x\r\n" + ASK[42:] + ASK, [200, 200], "open"),
    ("HTTP/1.0 keep-alive", b"GET /t/a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", [200], "open"),
    ("IPv6 Host", b"GET /t/a HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", [200], "open"),
    ("query with odd characters", b'GET /t/a?"<>\\^`{|}%zz HTTP/1.1\r\nHost: localhost\r\n\r\n', [200], "open"),
    ("TRACE is a method like others", b"TRACE" + G[3:] + b"\r\n", [200], "open"),
    # not complete
    ("half a head", G + b"X: y", [], "waiting"),
    ("half a request line", b"GET /t/a HT", [], "waiting"),
    ("half a body", P + b"Content-Length: 3\r\n\r\nhi", [], "waiting"),
    ("half a chunk", C + b"3\r\nhi", [], "waiting"),
    ("chunk without its end", C + b"2\r\nhi\r", [], "waiting"),
    ("no last chunk", C + b"2\r\nhi\r\n", [], "waiting"),
    ("half the last chunk", C + b"0\r\n", [], "waiting"),
    ("half a trailer", C + b"0\r\nX: y\r\n", [], "waiting"),
    ("nothing", b"", [], "waiting"),
]  # fmt: skip

TABLE = [(name, raw, [400], "closed") for name, raw in BAD] + OTHER


def test_the_table_is_long_and_its_names_are_unique() -> None:
    assert len(TABLE) >= 80
    assert len({row[0] for row in TABLE}) == len(TABLE)


@pytest.mark.parametrize(("raw", "statuses", "after"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
async def test_a_request_has_one_meaning_or_none(raw: bytes, statuses: list[int], after: str) -> None:
    async with open_door() as door, await door.connect() as client:
        with trio.fail_after(10):
            await client.send(raw)
            got = [(await client.answer()).status for _ in statuses]
            if after == "open":
                assert (await client.ask()).status == 200
                got.append(200)
                statuses = [*statuses, 200]
            elif after == "waiting":
                await client.stream.send_eof()
            assert got == statuses
            if after != "open":
                assert await client.closed(), f"more came: {client.buffer!r}"
        assert len(door.seen) == statuses.count(200)
        assert not any(request.target == b"/t/evil" for request in door.seen)
        assert door.log.lines == []


@pytest.mark.parametrize("name", ["TE.CL", "bare LF everywhere", "chunk longer than its size", "TLS hello"])
async def test_the_outcome_is_the_same_byte_by_byte(name: str) -> None:
    raw = dict(BAD)[name]
    async with open_door() as door, await door.connect() as client:
        with trio.fail_after(10):
            try:
                for at in range(len(raw)):
                    await client.send(raw[at : at + 1])
                    await trio.lowlevel.checkpoint()
            except trio.BrokenResourceError:
                pass  # it was refused before the end
            assert (await client.answer()).status == 400
            assert await client.closed()
        assert door.seen == []
