"""Connections that go to the control plane: Hypercorn's server on our stream, with a small Quart-Trio app behind it.

All that `daemon.http.handover` relies on in hypercorn and quart-trio, whose parts it uses are not documented API.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from quart import Response, request
from quart_trio import QuartTrio

from daemon.http.frontdoor import PATROL_S
from daemon.http.handover import PEER_KEY
from tests.http.support import ASK, open_door


class App(QuartTrio):
    """A control plane with one of everything."""

    def __init__(self) -> None:
        super().__init__("control")
        self.stuck = trio.Event()
        self.left = trio.Event()
        self.life: list[str] = []
        self.before_serving(self.started)
        self.after_serving(self.stopped)
        self.add_url_rule("/hello", view_func=self.hello, methods=["GET", "POST", "PUT"])
        self.add_url_rule("/count", view_func=self.count, methods=["POST"])
        self.add_url_rule("/peer", view_func=self.peer)
        self.add_url_rule("/slow", view_func=self.slow)
        self.add_url_rule("/large", view_func=self.large)
        self.add_url_rule("/stream", view_func=self.stream)
        self.add_url_rule("/broken", view_func=self.broken)

    async def started(self) -> None:
        self.life.append("started")

    async def stopped(self) -> None:
        self.life.append("stopped")

    async def hello(self) -> str:
        return f"{request.method} {await request.get_data(as_text=True)}"

    async def count(self) -> dict[str, int]:
        size = 0
        async for part in request.body:
            size += len(part)
        return {"size": size}

    async def peer(self) -> dict[str, Any]:
        peer = request.scope[PEER_KEY]
        return {"unix": peer.unix, "uid": peer.uid, "address": peer.address}

    async def slow(self) -> str:
        self.stuck.set()
        try:
            await trio.sleep_forever()
        finally:
            self.left.set()
        return "never"

    async def large(self) -> bytes:
        return bytes(20 * 2**20)

    async def stream(self) -> Response:
        async def lines() -> AsyncIterator[bytes]:
            for number in range(3):
                yield b"%d\n" % number
                await trio.sleep(1)

        return Response(lines(), mimetype="text/plain")

    async def broken(self) -> str:
        raise ZeroDivisionError


HELLO = b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def test_the_first_request_is_handed_over_with_its_first_byte() -> None:
    async with open_door(control=App()) as door, await door.connect() as client:
        assert (await client.ask(HELLO)).body == b"GET "
        assert (await client.ask(HELLO)).body == b"GET "  # kept alive
        assert (door.front.stats.handed_over, door.front.stats.requests) == (1, 0)


async def test_a_connection_may_change_planes_after_any_number_of_calls() -> None:
    async with open_door(control=App()) as door, await door.connect() as client:
        for _ in range(3):
            assert (await client.ask()).status == 200
        post = b"POST /hello HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody"
        assert (await client.ask(post)).body == b"POST body"
        assert (await client.ask(post)).body == b"POST body"


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_a_handed_over_request_may_come_in_pieces(size: int) -> None:
    raw = ASK + b"PUT /hello HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"
    async with open_door(control=App()) as door, await door.connect() as client:
        for at in range(0, len(raw), size):
            await client.send(raw[at : at + size])
            await trio.lowlevel.checkpoint()
        assert (await client.answer()).status == 200
        assert (await client.answer()).body == b"PUT body"


async def test_pipelined_requests_of_both_planes_are_answered_in_order() -> None:
    async with open_door(control=App()) as door, await door.connect() as client:
        await client.send(ASK + ASK + HELLO + HELLO)
        assert [(await client.answer()).body[:4] for _ in range(4)] == [b"POST", b"POST", b"GET ", b"GET "]


async def test_a_large_upload_goes_through_whole() -> None:
    """Larger than the data plane would take: the limit is the app's."""
    async with open_door(control=App()) as door, await door.connect() as client:
        size = 7 * 2**20
        await client.send(b"POST /count HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(7):
            await client.send(os.urandom(2**20))
        assert json.loads((await client.answer()).body) == {"size": size}


async def test_continue_is_said_by_the_control_plane() -> None:
    async with open_door(control=App()) as door, await door.connect() as client:
        head = b"POST /hello HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        assert (await client.ask(head)).status == 100
        assert (await client.ask(b"hi")).body == b"POST hi"


async def test_connection_close_closes() -> None:
    """Without the whole sends of handover.py this hangs: quart-trio cancels the last one."""
    async with open_door(control=App()) as door, await door.connect() as client:
        with trio.fail_after(10):
            answer = await client.ask(HELLO[:-2] + b"Connection: close\r\n\r\n")
            assert answer.headers["connection"] == "close"
            assert await client.closed()
        await gone(door)


async def test_an_idle_connection_is_closed_in_its_time(autojump_clock: trio.testing.MockClock) -> None:
    async with open_door(control=App(), keep_alive_s=30.0) as door, await door.connect() as client:
        assert (await client.ask(HELLO)).status == 200
        began_s = trio.current_time()
        assert await client.closed()
        assert 30 <= trio.current_time() - began_s <= 30 + 3 * PATROL_S
        await gone(door)


async def test_a_client_that_closes_leaves_nothing_behind(autojump_clock: trio.testing.MockClock) -> None:
    async with open_door(control=App(), keep_alive_s=1000.0) as door:
        for raw in (HELLO, HELLO[:-3], HELLO + HELLO[:-3]):
            async with await door.connect() as client:
                await client.send(HELLO)
                assert (await client.answer()).status == 200
                await client.send(raw[len(HELLO) :] or raw)
        await gone(door)
        assert trio.current_time() < 10


async def test_a_slow_header_on_a_handed_over_connection_is_cut(autojump_clock: trio.testing.MockClock) -> None:
    async with open_door(control=App(), keep_alive_s=30.0) as door, await door.connect() as client:
        assert (await client.ask(HELLO)).status == 200
        await client.send(HELLO[:-4])
        assert await client.closed()
        assert trio.current_time() < 100
        await gone(door)


async def test_the_handler_is_cancelled_when_the_client_leaves() -> None:
    app = App()
    async with open_door(control=app) as door:
        async with await door.connect() as client:
            await client.send(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await app.stuck.wait()
        await app.left.wait()
        await gone(door)
        assert door.log.lines == []


async def test_a_client_that_never_reads_is_cut(autojump_clock: trio.testing.MockClock) -> None:
    async with open_door(control=App(), write_s=5.0) as door, await door.connect() as client:
        await client.send(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await trio.sleep(60)
        assert door.front.stats.connections == 0


async def test_a_stream_comes_piece_by_piece(autojump_clock: trio.testing.MockClock) -> None:
    async with open_door(control=App()) as door, await door.connect() as client:
        await client.send(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while b"0\n" not in client.buffer:
            assert await client.more()
        assert b"1\n" not in client.buffer.partition(b"0\n")[2]
        while b"0\r\n\r\n" not in client.buffer:
            assert await client.more()


async def test_a_bug_in_the_app_is_its_own_affair() -> None:
    async with open_door(control=App()) as door, await door.connect() as client:
        assert (await client.ask(b"GET /broken HTTP/1.1\r\nHost: localhost\r\n\r\n")).status == 500
        assert (await client.ask(HELLO)).status == 200


@pytest.mark.parametrize(
    ("path", "line"),
    [(b"/hello", b"200 OK"), (b"/no", b"404 Not Found"), (b"/broken", b"500 Internal Server Error")],
)
async def test_status_lines_have_a_reason(path: bytes, line: bytes) -> None:
    """As the data plane's do, and Fn's: ``oci raw-request`` shows it, and scripts compare with ``200 OK``."""
    async with open_door(control=App()) as door, await door.connect() as client:
        await client.send(b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path)
        while b"\r\n" not in client.buffer:
            assert await client.more()
        assert client.buffer.partition(b"\r\n")[0] == b"HTTP/1.1 " + line


async def test_a_raw_app_that_raises_is_logged_and_only_its_connection_ends() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError

    async with open_door(control=app) as door:
        before = len(door.log.lines)
        async with await door.connect() as client:
            assert (await client.ask(HELLO)).status == 500
        async with await door.connect() as other:
            assert (await other.ask()).status == 200
        assert any(level == "exception" for level, _, _ in door.log.lines[before:])


# -- every request is checked, not only the first ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (HELLO.replace(b"localhost", b"evil.example"), 403),
        (HELLO[:-2] + b"Origin: http://evil.example\r\n\r\n", 403),
        (HELLO[:-2] + b"Origin: null\r\n\r\n", 403),
        (HELLO[:-2] + b"Sec-Fetch-Site: cross-site\r\n\r\n", 403),
        (HELLO[:-2] + b"Origin: http://localhost:3000\r\nSec-Fetch-Site: cross-site\r\n\r\n", 200),
        (HELLO[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                      b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", 403),
    ],
    ids=["host", "origin", "null origin", "cross-site", "own origin", "websocket"],
)  # fmt: skip
@pytest.mark.parametrize("first", [True, False])
async def test_the_guard_looks_at_every_request(raw: bytes, status: int, first: bool) -> None:
    if first and b"websocket" in raw:
        status = 403
    async with open_door(control=App()) as door, await door.connect() as client:
        if not first:
            assert (await client.ask(HELLO)).status == 200
        answer = await client.ask(raw)
        assert answer.status == status
        if status == 403 and b"websocket" not in raw:
            assert json.loads(answer.body)["code"] == "forbidden"
            assert await client.closed()


@pytest.mark.parametrize("first", [True, False])
async def test_http_2_is_not_spoken(first: bool) -> None:
    """Neither by its preface nor by an upgrade."""
    async with open_door(control=App()) as door:
        for raw in (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
            HELLO[:-2] + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
        ):
            async with await door.connect() as client:
                if not first:
                    assert (await client.ask(HELLO)).status == 200
                await client.send(raw)
                with trio.fail_after(10):
                    while await client.more():
                        if client.buffer.endswith(b"GET "):
                            break
                assert b" 101 " not in client.buffer
                assert b"\x00\x00" not in client.buffer


@pytest.mark.parametrize(
    "bad", [b"GET /hello HTTP/1.1\n\n", HELLO[:-2] + b"X : y\r\n\r\n", b"GET /hello HTTP/1.1\r\n\r\n"]
)
async def test_a_bad_first_request_never_reaches_the_app(bad: bytes) -> None:
    async with open_door(control=App()) as door, await door.connect() as client:
        assert (await client.ask(bad)).status == 400
        assert door.front.stats.handed_over == 0


# -- unix socket, lifespan, drain --------------------------------------------------------------------------------------


async def test_the_app_knows_who_called(tmp_path: Path) -> None:
    raw = b"GET /peer HTTP/1.1\r\nHost: any\r\n\r\n"
    async with open_door(control=App(), unix=tmp_path / "s") as door:
        async with await door.connect(unix=True) as client:
            for _ in range(2):
                assert json.loads((await client.ask(raw)).body) == {"unix": True, "uid": os.getuid(), "address": ""}
        async with await door.connect() as client:
            answer = await client.ask(raw.replace(b"any", b"localhost"))
            assert json.loads(answer.body) == {"unix": False, "uid": None, "address": "127.0.0.1"}


async def test_the_app_is_told_of_start_and_end() -> None:
    app = App()
    async with open_door(control=app):
        assert app.life == ["started"]
    assert app.life == ["started", "stopped"]


async def test_drain_closes_idle_ones_and_lets_the_others_finish(autojump_clock: trio.testing.MockClock) -> None:
    async with open_door(control=App()) as door, await door.connect() as idle, await door.connect() as busy:
        assert (await idle.ask(HELLO)).status == 200
        await busy.send(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while b"0\n" not in busy.buffer:
            assert await busy.more()
        door.front.drain()
        assert await idle.closed()
        assert trio.current_time() < 5
        while b"0\r\n\r\n" not in busy.buffer:
            assert await busy.more()
        busy.buffer = b""
        assert await busy.closed()
        async with await door.connect() as late:
            assert (await late.ask(HELLO)).status == 503
        await door.front.drained()


async def test_while_handing_over_a_last_request_is_served(autojump_clock: trio.testing.MockClock) -> None:
    async with open_door(control=App()) as door, await door.connect() as fresh:
        assert (await fresh.ask()).status == 200
        door.front.drain(hand_over=True)
        assert (await fresh.ask(HELLO)).status == 200
        assert await fresh.closed()
        await door.front.drained()
        assert trio.current_time() < 10


async def gone(door: Any) -> None:
    """Until the front door has no connection; fails by the clock."""
    with trio.fail_after(10):
        while door.front.stats.connections:
            await trio.lowlevel.checkpoint()
