"""What was acknowledged survives kill -9, and nothing is half done."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from daemon.store import records
from daemon.store.database import Database
from tests.store.writer import TASKS

KILLS = 50
ROOT = Path(__file__).parents[2]


def killed_round(server: subprocess.Popen[bytes], path: Path, number: int, wait_s: float) -> dict[str, int]:
    """One writer, killed ``wait_s`` after its first acknowledged write: app -> last count that it acknowledged."""
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(f"{path} {number}\n".encode())
    server.stdin.flush()
    pid = int(server.stdout.readline())
    lines = [server.stdout.readline()]
    time.sleep(wait_s)  # a random moment, not a wait for something
    os.kill(pid, signal.SIGKILL)
    acknowledged: dict[str, int] = {}
    while lines[-1] != b"gone\n":
        lines.append(server.stdout.readline())
    for line in lines[:-1]:
        app, count = line.decode().split()
        acknowledged[app] = int(count)
    return acknowledged


@pytest.fixture
def server() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.store.writer"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    yield process
    process.kill()
    process.communicate()


async def test_acknowledged_writes_survive_fifty_kills(tmp_path: Path, server: subprocess.Popen[bytes]) -> None:
    path = tmp_path / "stoker.db"
    dice = random.Random(20261121)
    acknowledged: dict[str, int] = {}
    for number in range(KILLS):
        wait_s = dice.uniform(0, 0.03)
        acknowledged |= await trio.to_thread.run_sync(killed_round, server, path, number, wait_s)
        # No writer is left, so the file may be looked at as the next one will find it.
        await check(path, acknowledged)
    assert len(acknowledged) > KILLS
    assert sum(acknowledged.values()) > 10 * KILLS, "the writers were killed before they did anything"


async def check(path: Path, acknowledged: dict[str, int]) -> None:
    db = await Database.open(path)
    try:
        apps = {app.id: app for app in await db.read(records.apps)}
        functions = {function.app_id: function for function in await db.read(records.functions)}
        damage = await db.read(lambda conn: conn.execute("PRAGMA integrity_check").fetchall()[0][0])
        dangling = await db.read(lambda conn: conn.execute("PRAGMA foreign_key_check").fetchall())
    finally:
        await db.close()
    assert (damage, dangling) == ("ok", [])
    for app_id, count in acknowledged.items():
        assert int(apps[app_id].config["count"]) >= count
    for app_id, app in apps.items():
        stored = int(app.config["count"])
        # The last write of each of the writer's tasks may be there without having been acknowledged, never more.
        assert stored - acknowledged.get(app_id, -1) <= 1
        # Both halves of each write.
        assert (functions[app_id].pcu_count, functions[app_id].live.number) == (stored, stored + 1)
    assert apps.keys() == functions.keys()
    assert len(apps) <= TASKS * KILLS


async def test_any_program_that_opens_the_dead_writers_file_sees_whole_writes(
    tmp_path: Path, server: subprocess.Popen[bytes]
) -> None:
    """The log that a killed writer leaves is replayed by whoever opens the file next, not only by us."""
    path = tmp_path / "stoker.db"
    acknowledged = await trio.to_thread.run_sync(killed_round, server, path, 0, 0.05)
    assert path.with_name("stoker.db-wal").stat().st_size > 0
    conn = sqlite3.connect(path)
    try:
        rows = dict(conn.execute("SELECT id, json_extract(config, '$.count') FROM apps").fetchall())
    finally:
        conn.close()
    assert all(int(rows[app]) >= count for app, count in acknowledged.items())
