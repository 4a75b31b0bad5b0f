"""The front door on real sockets: order, keep-alive, limits of time and number, drain, clients that leave."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
from pathlib import Path

import pytest
import trio
import trio.testing

from daemon.errors import FunctionTimeout, QueueFull
from daemon.http import connection as connection_module
from daemon.http.frontdoor import PATROL_S
from daemon.http.messages import Reply, Request
from tests.http.support import ASK, echo, open_door

GET = b"GET /t/a HTTP/1.1\r\nHost: localhost\r\n"


class Gate:
    """An endpoint that answers when it is told to, and knows whether it was cancelled."""

    def __init__(self) -> None:
        self.open = trio.Event()
        self.began = trio.Event()
        self.cancelled = trio.Event()

    async def __call__(self, request: Request) -> Reply:
        self.began.set()
        try:
            await self.open.wait()
        except trio.Cancelled:
            self.cancelled.set()
            raise
        return Reply(200, [], b"through")


# -- one request after the other ---------------------------------------------------------------------------------------


async def test_a_request_is_answered_and_the_connection_stays() -> None:
    async with open_door() as door, await door.connect() as client:
        for number in range(3):
            answer = await client.ask(
                b"POST /invoke/f%d HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi" % number
            )
            assert (answer.status, answer.body) == (200, f"POST /invoke/f{number} hi".encode())
            assert answer.headers["content-type"] == "text/plain"
            assert "connection" not in answer.headers
            assert answer.headers["date"].endswith(" GMT")
        assert (door.front.stats.accepted, door.front.stats.requests) == (1, 3)
        assert door.seen[0].peer.address == "127.0.0.1"
        assert door.seen[0].headers == [("host", "localhost"), ("content-length", "2")]


async def test_pipelined_requests_are_answered_in_order_one_at_a_time() -> None:
    running, most = 0, 0

    async def slower_first(request: Request) -> Reply:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(10 - int(request.target[-1:])):
            await trio.lowlevel.checkpoint()
        running -= 1
        return Reply(200, [], request.target)

    async with open_door(slower_first) as door, await door.connect() as client:
        await client.send(b"".join(b"GET /t/%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % number for number in range(10)))
        assert [(await client.answer()).body for _ in range(10)] == [b"/t/%d" % number for number in range(10)]
        assert most == 1


async def test_other_connections_get_their_turn_between_pipelined_requests() -> None:
    order: list[bytes] = []

    async def at_once(request: Request) -> Reply:
        order.append(request.target)
        return Reply(200, [])

    async with open_door(at_once) as door, await door.connect() as greedy, await door.connect() as modest:
        await greedy.send((GET + b"\r\n") * 50)
        await modest.send(b"GET /t/modest HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await modest.answer()).status == 200
        for _ in range(50):
            await greedy.answer()
        assert order.index(b"/t/modest") < 49


async def test_head_runs_the_endpoint_and_drops_the_body() -> None:
    async with open_door() as door, await door.connect() as client:
        answer = await client.ask(b"HEAD /t/a HTTP/1.1\r\nHost: localhost\r\n\r\n", head=True)
        assert (answer.status, answer.headers["content-length"]) == (200, str(len(b"HEAD /t/a ")))
        assert (await client.ask()).status == 200  # nothing of the body came in between


@pytest.mark.parametrize("status", [204, 304])
async def test_statuses_without_body_have_none(status: int) -> None:
    async def bodiless(request: Request) -> Reply:
        return Reply(status, [], b"must not be sent")

    async with open_door(bodiless) as door, await door.connect() as client:
        for _ in range(2):
            answer = await client.ask()
            assert answer.status == status
            assert ("content-length" in answer.headers) is (status == 304)


async def test_a_status_without_a_name_is_sent_all_the_same() -> None:
    async def odd(request: Request) -> Reply:
        return Reply(299, [("X-Latin", "é"), ("X-More", "→")], b"x")

    async with open_door(odd) as door, await door.connect() as client:
        assert (await client.ask()).status == 299


@pytest.mark.parametrize(
    ("version", "connection", "stays"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: keep-alive\r\n", True),
        (b"1.1", b"Connection: keep-alive, close\r\n", False),
        (b"1.1", b"Connection: close\r\nConnection: keep-alive\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: keep-alive\r\n", True),
        (b"1.0", b"Connection: Keep-Alive, x\r\n", True),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
        (b"1.0", b"Connection: close\r\nConnection: keep-alive\r\n", False),
    ],
)
async def test_who_wants_the_connection_kept(version: bytes, connection: bytes, stays: bool) -> None:
    async with open_door() as door, await door.connect() as client:
        answer = await client.ask(b"GET /t/a HTTP/" + version + b"\r\nHost: localhost\r\n" + connection + b"\r\n")
        said = answer.headers.get("connection")
        if stays:
            assert said == ("keep-alive" if version == b"1.0" else None)
            assert (await client.ask()).status == 200
        else:
            assert said == "close"
            assert await client.closed()


# -- bodies ------------------------------------------------------------------------------------------------------------


async def test_continue_is_said_when_the_client_waits_for_it() -> None:
    async with open_door() as door, await door.connect() as client:
        head = b"POST /invoke/f HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        assert (await client.ask(head)).status == 100
        assert (await client.ask(b"hi")).body == b"POST /invoke/f hi"
        # Not when the body came along, and never to HTTP/1.0.
        assert (await client.ask(head + b"hi")).status == 200
        await client.send(head.replace(b"1.1", b"1.0"))
        await trio.testing.wait_all_tasks_blocked()
        assert (await client.ask(b"hi")).status == 200


async def test_a_body_that_is_too_large_is_refused_before_it_is_sent() -> None:
    async with open_door(body_bytes_max=10) as door, await door.connect() as client:
        head = b"POST /invoke/f HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 11\r\n\r\n"
        answer = await client.ask(head)
        assert (answer.status, json.loads(answer.body)["code"]) == (413, "request-too-large")
        assert await client.closed()


async def test_a_client_that_sends_too_much_can_read_why() -> None:
    """It sends its seven megabytes first and reads then; a reset would have destroyed the reply."""
    async with open_door() as door, await door.connect() as client:
        body = bytes(7 * 2**20)
        await client.send(
            b"POST /invoke/f HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert await client.closed()
        assert door.seen == []


@pytest.mark.parametrize("chunked", [False, True])
async def test_six_megabytes_go_in_and_out(chunked: bool) -> None:
    body = os.urandom(2**10) * 6 * 2**10

    async def give_back(request: Request) -> Reply:
        return Reply(200, [], request.body)

    async with open_door(give_back) as door, await door.connect() as client:
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
        await client.send(b"POST /invoke/f HTTP/1.1\r\nHost: localhost\r\n" + framing + b"\r\n\r\n")
        for at in range(0, len(body), 100_000):
            part = body[at : at + 100_000]
            await client.send(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
        if chunked:
            await client.send(b"0\r\n\r\n")
        assert (await client.answer()).body == body
        assert door.front.held_bytes == 0
        assert (await client.ask()).body == b"hi"


async def test_bodies_of_all_connections_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "BODIES_BYTES_MAX", 2000)
    head = b"POST /invoke/f HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1500\r\n\r\n"
    async with open_door() as door, await door.connect() as first:
        await first.send(head)
        await trio.testing.wait_all_tasks_blocked()
        await first.send(b"x" * 1499)
        async with await door.connect() as second:
            await second.send(head)
            await trio.testing.wait_all_tasks_blocked()
            await second.send(b"x" * 1400)
            answer = await second.answer()
            assert (answer.status, json.loads(answer.body)["code"]) == (429, "queue-full")
        assert (await first.ask(b"x")).status == 200
        assert (await first.ask()).status == 200
        await trio.testing.wait_all_tasks_blocked()
        assert door.front.held_bytes == 0


# -- errors ------------------------------------------------------------------------------------------------------------


async def test_an_error_is_told_as_fn_tells_it_and_the_connection_stays() -> None:
    async def full(request: Request) -> Reply:
        raise QueueFull(detail="64 of 64 places taken", call_id="C1")

    async with open_door(full) as door, await door.connect() as client:
        for _ in range(2):
            answer = await client.ask()
            assert answer.status == 429
            assert answer.headers["content-type"] == "application/json; charset=utf-8"
            assert (answer.headers["retry-after"], answer.headers["fn-call-id"]) == ("15", "C1")
            assert answer.body.endswith(b"}\n")
            assert json.loads(answer.body) == {
                "message": "too many requests", "code": "queue-full", "detail": "64 of 64 places taken", "call_id": "C1"
            }  # fmt: skip


async def test_an_error_without_hint_has_no_retry_after() -> None:
    async def late(request: Request) -> Reply:
        raise FunctionTimeout

    async with open_door(late) as door, await door.connect() as client:
        answer = await client.ask()
        assert (answer.status, "retry-after" in answer.headers) == (504, False)


async def test_a_bug_is_logged_once_told_as_500_and_ends_the_connection() -> None:
    async def broken(request: Request) -> Reply:
        raise ZeroDivisionError

    async with open_door(broken) as door, await door.connect() as client:
        answer = await client.ask()
        assert (answer.status, json.loads(answer.body)["code"]) == (500, "internal-error")
        assert answer.headers["connection"] == "close"
        assert await client.closed()
        assert door.log.events("exception") == ["endpoint failed"]


async def test_an_early_end_does_not_destroy_the_reply() -> None:
    """What the client had sent behind its request is read away first: a reset would cost it the reply."""

    async def broken(request: Request) -> Reply:
        raise ZeroDivisionError

    async with open_door(broken) as door, await door.connect() as client:
        await client.send(ASK + bytes(2**20))
        assert (await client.answer()).status == 500
        assert await client.stream.receive_some() == b""


async def test_a_refused_head_request_gets_no_body() -> None:
    async with open_door() as door, await door.connect() as client:
        answer = await client.ask(b"HEAD /t/a HTTP/1.1\r\nHost: evil.example\r\n\r\n", head=True)
        assert answer.status == 403
        assert await client.closed()


# -- slow clients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "limit"),
    [(GET, "header_s"), (ASK.replace(b"2\r\n\r\nhi", b"1000\r\n\r\n"), "body_s")],
    ids=["header", "body"],
)
async def test_a_slow_loris_is_cut(first: bytes, limit: str, autojump_clock: trio.testing.MockClock) -> None:
    async with open_door(**{limit: 5.0}) as door, await door.connect() as client, trio.open_nursery() as nursery:

        async def drip() -> None:
            with contextlib.suppress(trio.BrokenResourceError):
                while True:
                    await client.send(b"a")
                    await trio.sleep(0.5)

        began_s = trio.current_time()
        await client.send(first)
        nursery.start_soon(drip)
        answer = await client.answer()
        assert 5 <= trio.current_time() - began_s <= 5 + 3 * PATROL_S
        assert (answer.status, json.loads(answer.body)["code"]) == (408, "request-timeout")
        assert answer.headers["connection"] == "close"
        assert await client.closed()
        assert door.seen == []
        nursery.cancel_scope.cancel()
    assert door.front.stats.timed_out >= 1


async def test_a_body_must_come_in_its_time(autojump_clock: trio.testing.MockClock) -> None:
    async with open_door(body_s=5.0) as door, await door.connect() as client:
        began_s = trio.current_time()
        answer = await client.ask(ASK[:-1])
        assert answer.status == 408
        assert 5 <= trio.current_time() - began_s <= 5 + 3 * PATROL_S
        assert await client.closed()


async def test_an_idle_connection_is_closed_silently(autojump_clock: trio.testing.MockClock) -> None:
    async with open_door(keep_alive_s=30.0) as door, await door.connect() as fresh, await door.connect() as used:
        began_s = trio.current_time()
        await trio.sleep(20)
        assert (await used.ask()).status == 200
        assert await fresh.closed()
        assert 30 <= trio.current_time() - began_s <= 30 + 3 * PATROL_S
        assert await used.closed()
        assert 50 <= trio.current_time() - began_s <= 50 + 3 * PATROL_S
        assert door.front.stats.timed_out == 0


async def test_a_pipelined_half_request_has_the_time_of_a_header(autojump_clock: trio.testing.MockClock) -> None:
    async with open_door(header_s=5.0, keep_alive_s=1000.0) as door, await door.connect() as client:
        began_s = trio.current_time()
        assert (await client.ask(ASK + b"GET /t/a HT")).status == 200
        assert (await client.answer()).status == 408
        assert trio.current_time() - began_s <= 5 + 3 * PATROL_S
        assert await client.closed()


@pytest.mark.parametrize("size", [1000, 2**20, 6 * 2**20])
async def test_a_client_that_never_reads_is_cut(size: int, autojump_clock: trio.testing.MockClock) -> None:
    async def large(request: Request) -> Reply:
        return Reply(200, [], bytes(size))

    async with open_door(large, write_s=5.0) as door:
        async with await door.connect() as client:
            client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            with contextlib.suppress(trio.BrokenResourceError):  # cut while it still sends
                await client.send(ASK * 5000)  # never reads
            await trio.sleep(30)
            assert door.front.stats.connections == 0
        assert door.front.stats.timed_out == 1
        async with await door.connect() as other:
            assert (await other.ask()).status == 200


async def test_a_client_that_reads_late_gets_all() -> None:
    body = os.urandom(6 * 2**20)

    async def large(request: Request) -> Reply:
        return Reply(200, [], body)

    async with open_door(large) as door, await door.connect() as client:
        await client.send(ASK * 5)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert door.front.stats.requests == 0, "the kernel took all of it: the test does not test"
        for _ in range(5):
            answer = await client.answer()
            assert answer.body == body
        assert (await client.ask()).status == 200


async def test_a_head_larger_than_the_kernel_takes_is_sent_whole() -> None:
    headers = [(f"X-{number}", "a" * 10_000) for number in range(800)]
    body = os.urandom(10 * 2**20)  # larger than the head, or a wrong offset in it would not show

    async def large(request: Request) -> Reply:
        return Reply(200, headers, body)

    async with open_door(large) as door, await door.connect() as client:
        await client.send(ASK)
        await trio.testing.wait_all_tasks_blocked(0.01)
        answer = await client.answer()
        assert answer.body == body
        assert len(answer.headers) == 802
        assert (await client.ask()).status == 200


# -- clients that leave ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "half-close", "reset", "pipeline, then close"])
async def test_a_call_is_cancelled_when_its_client_leaves(how: str, autojump_clock: trio.testing.MockClock) -> None:
    gate = Gate()
    async with open_door(gate, client_watch_s=0.25) as door:
        client = await door.connect()
        await client.send(ASK * 3 if how.startswith("pipeline") else ASK)
        await gate.began.wait()
        if how == "half-close":
            await client.stream.send_eof()
        else:
            if how == "reset":
                client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            await trio.aclose_forcefully(client.stream)
        await gate.cancelled.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert (door.front.stats.clients_left, door.front.stats.connections) == (1, 0)
        assert len(door.seen) == 1
        assert door.log.lines == []
        await trio.aclose_forcefully(client.stream)


async def test_a_call_goes_on_while_its_client_waits(autojump_clock: trio.testing.MockClock) -> None:
    gate = Gate()
    async with open_door(gate) as door, await door.connect() as client:
        await client.send(ASK)
        await trio.sleep(1000)
        assert not gate.cancelled.is_set()
        gate.open.set()
        assert (await client.answer()).body == b"through"
        assert (await client.ask()).status == 200


async def test_a_call_goes_on_while_more_requests_wait_behind_it(autojump_clock: trio.testing.MockClock) -> None:
    gate = Gate()
    async with open_door(gate) as door, await door.connect() as client:
        await client.send(ASK * 2)
        await gate.began.wait()
        await client.send(ASK)
        await trio.sleep(10)
        assert not gate.cancelled.is_set()
        gate.open.set()
        assert [(await client.answer()).status for _ in range(3)] == [200, 200, 200]


async def test_many_running_calls_are_watched_each_for_itself(autojump_clock: trio.testing.MockClock) -> None:
    gates = {b"/t/%d" % number: Gate() for number in range(20)}

    async def run(request: Request) -> Reply:
        return await gates[request.target](request)

    async with open_door(run) as door:
        clients = []
        for target, gate in gates.items():
            clients.append(await door.connect())
            await clients[-1].send(b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await gate.began.wait()
        for client in clients[::2]:
            await trio.aclose_forcefully(client.stream)
        await trio.sleep(2)
        assert [gate.cancelled.is_set() for gate in gates.values()] == [True, False] * 10
        for gate in gates.values():
            gate.open.set()
        for client in clients[1::2]:
            assert (await client.answer()).status == 200
            await trio.aclose_forcefully(client.stream)


# -- limits of number --------------------------------------------------------------------------------------------------


async def test_connections_over_the_limit_wait_in_the_backlog() -> None:
    async with open_door(connections_max=2) as door:
        first, second, third = [await door.connect() for _ in range(3)]
        await third.send(ASK)
        assert (await first.ask()).status == 200
        assert (await second.ask()).status == 200
        with trio.fail_after(10):
            await trio.testing.wait_all_tasks_blocked()  # it does not spin
        assert (door.front.stats.connections, len(door.seen)) == (2, 2)
        await trio.aclose_forcefully(first.stream)
        assert (await third.answer()).status == 200
        for client in (second, third):
            await trio.aclose_forcefully(client.stream)


async def test_when_descriptors_run_out_idle_connections_make_room(autojump_clock: trio.testing.MockClock) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    gate = Gate()

    async def run(request: Request) -> Reply:
        return await gate(request) if request.target == b"/t/gate" else await echo(request)

    async with open_door(run) as door, await door.connect() as busy, await door.connect() as idle:
        await busy.send(b"GET /t/gate HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await gate.began.wait()
        assert (await idle.ask()).status == 200
        waiting = [trio.socket.socket() for _ in range(2)]
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
        filler: list[int] = []
        try:
            with pytest.raises(OSError, match="Too many open files"):
                filler.extend(os.dup(0) for _ in range(highest + 10))
            for sock in waiting:
                await sock.connect(door.address)
                await sock.send(ASK)
            assert (await waiting[0].recv(12)) == b"HTTP/1.1 200"  # in the idle one's place
            assert await idle.closed()
            assert trio.current_time() < 5
            await trio.sleep(1)
            gate.open.set()
            assert (await busy.answer()).body == b"through"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in filler:
                os.close(fd)
        assert (await waiting[1].recv(12)) == b"HTTP/1.1 200"
        assert door.front.stats.accept_failures > 1
        assert door.front.stats.timed_out == 0
        assert "cannot accept" in door.log.events("warning")
        for sock in waiting:
            sock.close()


# -- the unix socket ---------------------------------------------------------------------------------------------------


async def test_the_unix_socket_serves_any_host_and_knows_who_called(tmp_path: Path) -> None:
    async with open_door(unix=tmp_path / "s") as door, await door.connect(unix=True) as client:
        assert (await client.ask(ASK.replace(b"localhost", b"stoker"))).status == 200
        peer = door.seen[0].peer
        assert (peer.unix, peer.uid, peer.address) == (True, os.getuid(), "")
        answer = await client.ask(ASK.replace(b"\r\n\r\n", b"\r\nOrigin: http://evil.example\r\n\r\n"))
        assert answer.status == 403


# -- drain -------------------------------------------------------------------------------------------------------------


async def test_drain_lets_the_running_call_finish_and_refuses_the_next() -> None:
    gate = Gate()
    async with open_door(gate) as door, await door.connect() as busy, await door.connect() as idle:
        async with await door.connect() as halfway:
            await halfway.send(ASK[:20])
            await busy.send(ASK + ASK)
            await gate.began.wait()
            await trio.testing.wait_all_tasks_blocked()
            door.front.drain()
            assert await idle.closed()
            refused = await halfway.ask(ASK[20:])
            assert (refused.status, refused.headers["connection"]) == (503, "close")
            assert json.loads(refused.body)["code"] == "draining"
            assert refused.headers["retry-after"] == "15"
        async with await door.connect() as late:
            assert (await late.ask()).status == 503
            assert await late.closed()
        gate.open.set()
        answer = await busy.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await busy.closed()
        await trio.aclose_forcefully(busy.stream)
        await door.front.drained()
        assert (door.front.stats.connections, len(door.seen)) == (0, 1)


async def test_handing_over_leaves_the_backlog_and_serves_who_is_in(autojump_clock: trio.testing.MockClock) -> None:
    gate = Gate()

    async def run(request: Request) -> Reply:
        return await gate(request) if request.target == b"/invoke/f" else await echo(request)

    async with open_door(run) as door, await door.connect() as busy, await door.connect() as active:
        assert (await active.ask(GET + b"\r\n")).status == 200
        async with await door.connect() as idle:
            assert (await idle.ask(GET + b"\r\n")).status == 200
            await busy.send(ASK)
            await gate.began.wait()
            door.front.drain(hand_over=True)
            late = trio.socket.socket()
            await late.connect(door.address)  # the kernel takes it for whoever accepts next
            await late.send(GET + b"\r\n")
            served = await active.ask(GET + b"\r\n")
            assert (served.status, served.headers["connection"]) == (200, "close")
            assert await active.closed()
            assert await idle.closed()  # a second later
        gate.open.set()
        assert (await busy.answer()).headers["connection"] == "close"
        for client in (busy, active):
            await trio.aclose_forcefully(client.stream)
        await door.front.drained()
        assert door.front.stats.accepted == 3
        late.close()


async def test_a_request_that_comes_just_when_its_connection_is_closed_is_answered() -> None:
    async with open_door() as door, await door.connect() as client:
        assert (await client.ask()).status == 200
        await trio.testing.wait_all_tasks_blocked()
        # The request arrives, and before the door's task runs its connection is found overdue.
        os.write(client.stream.socket.fileno(), ASK)
        for each in list(door.front._connections):
            each.overdue()
        assert (await client.answer()).status == 200


async def test_cancelling_the_door_closes_every_connection() -> None:
    gate = Gate()
    with socket.socket() as client:
        async with open_door(gate) as door:
            client.connect(door.address)
            client.sendall(ASK)
            await gate.began.wait()
        assert gate.cancelled.is_set()
        assert client.recv(1) == b""
