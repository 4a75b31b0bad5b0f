"""Quart-Trio on Hypercorn: ``/`` answers by itself, ``/hop`` through one pipe hop to a subprocess, as Stoker does."""

import os
import struct
import sys
from pathlib import Path
from typing import Any

import trio
from quart import Response, request
from quart_trio import QuartTrio

LENGTH = struct.Struct(">I")
WORKERS = 8
"""Subprocesses; a call beyond them waits for one."""
READ_BYTES = 2**18

app = QuartTrio(__name__)
send_idle, receive_idle = trio.open_memory_channel[Any](WORKERS)


@app.before_serving
async def start() -> None:
    worker = Path(__file__).with_name("pipe_worker.py")
    for _ in range(WORKERS):
        down_read, down_write = os.pipe()
        up_read, up_write = os.pipe()
        # The worker ends when its pipe does, so nothing is left behind when this server goes.
        pid = os.posix_spawn(  # noqa: ASYNC221  # once, before serving
            sys.executable,
            [sys.executable, "-I", str(worker)],
            dict(os.environ),
            file_actions=[(os.POSIX_SPAWN_DUP2, down_read, 0), (os.POSIX_SPAWN_DUP2, up_write, 1)],
        )
        os.close(down_read)
        os.close(up_write)
        os.set_blocking(up_read, False)
        await send_idle.send((pid, down_write, up_read))


@app.post("/")
async def hello() -> dict[str, str]:
    return {"hello": (await request.get_json())["name"]}


@app.post("/hop")
async def hop() -> Response:
    body: bytes = await request.get_data(as_text=False)
    worker = await receive_idle.receive()
    _, down, up = worker
    # A handler is cancelled when its client leaves; the worker must be given back, and in step, all the same.
    with trio.CancelScope(shield=True):
        os.write(down, LENGTH.pack(len(body)) + body)
        await trio.lowlevel.wait_readable(up)
        frame = os.read(up, READ_BYTES)
        await send_idle.send(worker)
    return Response(frame[LENGTH.size :], content_type="application/json")
