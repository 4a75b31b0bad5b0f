"""A world outside for functions: a network namespace of the test's own, with a real Redis in it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from daemon.sandbox import netlink
from daemon.sandbox.netlink import Netlink
from tests.limits.support import until

HOST, REDIS = "198.51.100.1", "198.51.100.2"  # RFC 5737: for documentation, so nobody's
PORT = 6379


@dataclass(frozen=True)
class Outside:
    """Where the Redis is, as functions see it."""

    address: str = REDIS
    port: int = PORT


def need_root() -> None:
    """A counted skip where virtual cables cannot be made."""
    if os.geteuid() != 0:
        pytest.skip("making network devices needs root")


@contextmanager
def outside() -> Iterator[Outside]:
    """Redis in its namespace, at the other end of a virtual cable; all gone at the end."""
    need_root()
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("redis-server is not installed (apt install redis-server)")
    device = f"tst{os.getpid() % 10**6}"
    command = ["unshare", "--net", "sh", "-c", 'read go; exec "$@"', "sh", server]
    options = ["--bind", "0.0.0.0", "--port", str(PORT), "--save", "", "--protected-mode", "no", "--daemonize", "no"]
    process = subprocess.Popen([*command, *options], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd="/")
    assert process.stdin is not None
    try:
        present = os.stat("/proc/self/ns/net").st_ino
        until(lambda: os.stat(f"/proc/{process.pid}/ns/net").st_ino != present, "the namespace is there")
        namespace = os.open(f"/proc/{process.pid}/ns/net", os.O_RDONLY)
        try:
            with Netlink() as host:
                host.add_veth(device, "eth0", namespace)
                host.add_address(host.up(device), HOST, bits=24)
            netlink.inside(namespace, _inner)
        finally:
            os.close(namespace)
        process.stdin.write(b"go\n")
        process.stdin.close()
        until(lambda: redis(REDIS, PORT, "PING") == b"+PONG", "Redis answers")
        yield Outside()
    finally:
        process.kill()
        process.wait()
        with Netlink() as host:
            host.remove(device)


def _inner() -> None:
    with Netlink() as own:
        own.up("lo")
        index = own.up("eth0")
        own.add_address(index, REDIS, bits=24)
        own.add_route(index, gateway=HOST)


def redis(address: str, port: int, *words: str) -> bytes:
    """One command in Redis's protocol; the first line of the answer, or why there is none."""
    request = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
    try:
        with socket.create_connection((address, port), timeout=3) as sock:
            sock.sendall(request.encode())
            return sock.recv(4096).partition(b"\r\n")[0]
    except OSError as exc:
        return f"{type(exc).__name__}: {exc}".encode()


def reach(address: str, port: int) -> str:
    """``reached``, or the error of a TCP connection."""
    try:
        with socket.create_connection((address, port), timeout=3):
            return "reached"
    except OSError as exc:
        return type(exc).__name__
