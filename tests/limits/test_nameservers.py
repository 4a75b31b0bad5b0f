"""The relay of name queries, against a server of the test's own."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trio

from daemon.sandbox.nameservers import loopback_servers, serve


async def same_port() -> tuple[trio.socket.SocketType, trio.SocketListener]:
    """A UDP and a TCP socket on one free port."""
    for _ in range(100):
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        udp = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            await udp.bind(listener.socket.getsockname())
        except OSError:  # somebody has that one for UDP
            udp.close()
            await listener.aclose()
        else:
            return udp, listener
    raise AssertionError("no port is free for both")


async def test_queries_and_answers_pass_over_udp_and_tcp() -> None:
    async with trio.open_nursery() as nursery:
        udp, listener = await same_port()
        port = udp.getsockname()[1]
        with udp:

            async def answer() -> None:
                while True:
                    query, asker = await udp.recvfrom(1000)
                    await udp.sendto(b"answer to " + query, asker)

            async def echo(stream: trio.SocketStream) -> None:
                async for data in stream:
                    await stream.send_all(b"answer to " + data)

            nursery.start_soon(answer)
            nursery.start_soon(trio.serve_listeners, echo, [listener])

            async def relay(task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
                await serve("127.0.0.2", "127.0.0.1", port=0, upstream_port=port, task_status=task_status)

            bound = await nursery.start(relay)
            with trio.fail_after(5), trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
                for number in range(3):
                    await asking.sendto(b"q%d" % number, ("127.0.0.2", bound))
                    assert await asking.recv(1000) == b"answer to q%d" % number
                async with await trio.open_tcp_stream("127.0.0.2", bound) as stream:
                    await stream.send_all(b"long")
                    assert await stream.receive_some(1000) == b"answer to long"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("text", "found"),
    [("nameserver 127.0.0.53\noptions edns0\n", ["127.0.0.53"]), ("nameserver 192.0.2.1\n", []), ("", [])],
)
def test_loopback_servers_are_found(tmp_path: Path, text: str, found: list[str]) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(text)
    assert loopback_servers(path) == found
    assert loopback_servers(tmp_path / "absent") == []
