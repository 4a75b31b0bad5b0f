"""What the bench uses to start servers, talk to them, and leave nothing behind."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from bench import processes
from bench.http1 import Address, Client, ReplyReader, burst, request_bytes
from bench.processes import BenchError, Server, cpu_s, descendants, free_port, pss_bytes, with_mark

SERVER = """
import socketserver, sys
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        while line := self.rfile.readline():
            length = 0
            while (header := self.rfile.readline()).strip():
                if header.lower().startswith(b"content-length:"):
                    length = int(header.split(b":")[1])
            self.rfile.read(length)
            self.wfile.write(b'HTTP/1.1 200 OK\\r\\nContent-Length: 18\\r\\n\\r\\n{"hello": "bench"}')
class Threads(socketserver.ThreadingTCPServer):
    daemon_threads = allow_reuse_address = True
Threads(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.mark.processes
def test_a_server_is_started_called_and_ended(tmp_path: Path) -> None:
    port = free_port()
    server = Server([sys.executable, "-I", "-c", SERVER, str(port)], log=tmp_path / "log")
    try:
        server.wait_for_port(port)
        request = request_bytes("POST", "/", b"{}")
        with Client(Address(port)) as client:
            assert client.send(request).json == {"hello": "bench"}
            assert client.send(request).status == 200
        times = burst(Address(port), [request] * 5)
        assert len(times) == 5
        assert times == sorted(times)
        assert pss_bytes(server.pid) > 100_000
    finally:
        server.stop()
    assert server.process.returncode is not None


def test_the_time_that_a_process_has_used_grows() -> None:
    before_s = cpu_s(os.getpid())
    for _ in range(10_000):  # a clock tick is 10 ms; this is many of them
        if cpu_s(os.getpid()) > before_s:
            break
        sum(range(10_000))
    assert cpu_s(os.getpid()) > before_s


@pytest.mark.processes
def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    server = Server([sys.executable, "-c", "raise SystemExit('no such thing')"], log=tmp_path / "log")
    with pytest.raises(BenchError, match="no such thing"):
        server.wait_for_port(free_port())
    server.stop()


@pytest.mark.processes
def test_what_a_server_started_ends_with_it(tmp_path: Path) -> None:
    mark = f"mark-{tmp_path.name}-{free_port()}"
    child = "import time; time.sleep(600)"
    code = (
        f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}, {mark!r}]); time.sleep(600)"
    )
    server = Server([sys.executable, "-c", code], log=tmp_path / "log")
    try:
        server._wait(lambda: descendants(server.pid) and len(with_mark(mark)) == 2, "child")
        child_pid = descendants(server.pid)[0]
    finally:
        server.stop()
    assert not processes._alive(child_pid)


def test_replies_are_read_whatever_the_chunking() -> None:
    fixed = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n"
    for raw in (fixed, chunked):
        reader = ReplyReader()
        replies = [reader.feed(raw[place : place + 1]) for place in range(len(raw))]
        assert replies[-1] is not None
        assert replies[-1].body == b"ok"
        assert replies[:-1] == [None] * (len(raw) - 1)


def test_a_closed_connection_is_an_error() -> None:
    with pytest.raises(BenchError, match="closed the connection"):
        ReplyReader().feed(b"")
