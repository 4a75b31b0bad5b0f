"""Answers functions' name queries where the machine's own name server listens on its loopback only.

Carries each datagram, and each connection, to the machine's server and back, unread.
"""

from __future__ import annotations

import socket
from pathlib import Path

import trio

QUERIES_MAX = 256
"""Most queries under way; further ones are dropped, and asked again by whoever asked."""
QUERY_S = 5.0
"""How long the server may take."""
MESSAGE_BYTES_MAX = 65535
PORT = 53
_IP_FREEBIND = 15  # linux/in.h; the address comes with the first cable


def loopback_servers(path: Path = Path("/etc/resolv.conf")) -> list[str]:
    """The machine's name servers on its loopback."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    found = [fields[1] for line in lines if len(fields := line.split()) > 1 and fields[0] == "nameserver"]
    return [address for address in found if address.startswith("127.")]


async def serve(
    address: str, upstream: str, *, port: int = PORT, upstream_port: int = PORT,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:  # fmt: skip
    """Relay UDP and TCP from ``address`` to ``upstream`` until cancelled; starts with the port it listens on.

    Raises:
      OSError: the port is taken.
    """
    limiter = trio.CapacityLimiter(QUERIES_MAX)
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, trio.socket.socket() as tcp:
        for sock in (udp, tcp):
            sock.setsockopt(socket.SOL_IP, _IP_FREEBIND, 1)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        await udp.bind((address, port))
        bound: int = udp.getsockname()[1]
        await tcp.bind((address, bound))
        tcp.listen()
        listener = trio.SocketListener(tcp)

        async def ask(query: bytes, asker: tuple[str, int]) -> None:
            async with limiter:
                with trio.move_on_after(QUERY_S), trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    try:
                        await sock.connect((upstream, upstream_port))
                        await sock.send(query)
                        await udp.sendto(await sock.recv(MESSAGE_BYTES_MAX), asker)
                    except OSError:
                        pass  # no answer: the asker tries again

        async def carry(client: trio.SocketStream) -> None:
            with trio.move_on_after(QUERY_S):
                async with client, limiter:
                    try:
                        server = await trio.open_tcp_stream(upstream, upstream_port)
                        async with server, trio.open_nursery() as nursery:
                            nursery.start_soon(_copy, client, server)
                            await _copy(server, client)
                            nursery.cancel_scope.cancel()
                    except (OSError, trio.BrokenResourceError):
                        pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, carry, [listener])
            task_status.started(bound)
            while True:
                query, asker = await udp.recvfrom(MESSAGE_BYTES_MAX)
                if limiter.available_tokens > 0:
                    nursery.start_soon(ask, query, asker)


async def _copy(source: trio.SocketStream, target: trio.SocketStream) -> None:
    try:
        async for data in source:
            await target.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
