"""What functions did, told to the test over TCP: it outlives every daemon, and no sandbox hides it like a file."""

from __future__ import annotations

import contextlib
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.system.daemon import Daemon

TELL = """
import socket
SOCKET = None
def tell(text):
    global SOCKET
    if SOCKET is None:
        SOCKET = socket.create_connection(("127.0.0.1", {port}), 30)
    SOCKET.sendall(text.encode() + b"\\n")
    assert SOCKET.recv(1) == b"k"
"""
"""Source of `tell`: it returns when the test has the line."""


class Effects:
    """The lines that functions told, in the order in which they came."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.port = 0

    @property
    def source(self) -> str:
        """What a function's source begins with."""
        return TELL.replace("{port}", str(self.port))


@contextlib.contextmanager
def collecting() -> Iterator[Effects]:
    """Listen until the block ends."""
    effects = Effects()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                while line := self.rfile.readline():
                    if line.endswith(b"\n"):
                        effects.told.append(line.decode().rstrip("\n"))
                        self.wfile.write(b"k")

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads, request_queue_size = True, 128

    with Server(("127.0.0.1", 0), Handler) as server:
        effects.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield effects
        finally:
            server.shutdown()
            thread.join()


def lines(source: Effects | Path) -> list[str]:
    """What was told, or what a file has."""
    if isinstance(source, Effects):
        return list(source.told)
    return source.read_text().splitlines() if source.exists() else []


def ready(daemon: Daemon) -> Daemon:
    """With an app whose functions may reach the test."""
    daemon.app("app", annotations={"stoker.dev/network": "host"})
    return daemon
