"""What bodies of management requests may cost: memory, places that others wait for, time."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from daemon.errors import QueueFull
from daemon.http.app import LARGE_BODIES_AT_ONCE
from daemon.http.flow import AHEAD_BYTES_MAX, BODIES_BYTES_MAX, Flow, Held
from tests.iam.node import Node, run_node
from tests.system.daemon import PATIENCE_S

CHUNKED = b"POST /20181201/functions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"


def begun(node: Node) -> socket.socket:
    """A connection that has sent the begin of a request that may be large."""
    sock = socket.create_connection(("127.0.0.1", node.port), timeout=PATIENCE_S)
    sock.sendall(CHUNKED)
    return sock


@pytest.mark.processes
def test_strangers_take_no_place_that_deployers_wait_for(tmp_path: Path) -> None:
    with run_node(tmp_path / "data") as node:
        strangers = [begun(node) for _ in range(2 * LARGE_BODIES_AT_ONCE)]
        try:
            for sock in strangers:  # told without the rest of the body
                assert sock.recv(65536).startswith(b"HTTP/1.1 401 ")
            body = json.dumps({"displayName": "x" * 2**20, "applicationId": "none"}).encode()
            reply = node.send("POST", "/20181201/functions", body, {"content-type": "application/json"}, local=True)
            assert reply.status == 400, "its handler was reached"
        finally:
            for sock in strangers:
                sock.close()


@pytest.mark.processes
def test_a_body_that_drips_is_cut(tmp_path: Path) -> None:
    with run_node(tmp_path / "data", config="http: {body_s: 1}") as node, begun(node) as sock:
        sock.settimeout(0.1)
        reply = b""
        for _ in range(int(PATIENCE_S / 0.1)):
            try:
                sock.sendall(b"1\r\n \r\n")
                reply = sock.recv(65536)
                break
            except TimeoutError:
                continue
        assert reply.startswith(b"HTTP/1.1 408 ")


async def test_a_body_comes_no_faster_than_it_is_taken() -> None:
    flow, given = Flow(), 0

    async def receive() -> Any:
        nonlocal given
        await trio.lowlevel.checkpoint()
        given += 1
        return {"type": "http.request", "body": b"x" * (AHEAD_BYTES_MAX // 2), "more_body": True}

    paced = flow.pace(receive)

    async def read() -> None:
        for _ in range(10):
            await paced()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        assert given == 3, "the one that went beyond, and no further one"
        flow.taken(AHEAD_BYTES_MAX // 2)
        await trio.testing.wait_all_tasks_blocked()
        assert given == 4
        flow.taken(10 * AHEAD_BYTES_MAX)


def test_all_bodies_together_are_bounded() -> None:
    held = Held()
    with held.by_one() as first:
        first(BODIES_BYTES_MAX)
        with held.by_one() as second, pytest.raises(QueueFull):
            second(1)
        assert held.bytes == BODIES_BYTES_MAX
    assert held.bytes == 0
