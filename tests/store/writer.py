"""A process that writes through `Database` until it is killed: each acknowledged change is told on standard output.

Run as a server that forks a writer for each line ``PATH ROUND`` on standard input: imports are paid once. The first
line of a writer's output is its pid; then one line ``APP COUNT`` per acknowledged write.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path

import trio

from daemon.model import App, Function, Version
from daemon.store import records
from daemon.store.database import Database

TASKS = 6


async def keep_writing(db: Database, app_id: str) -> None:
    """One app with one function: they are made together, then both counted up together."""
    count = 0
    while True:
        app = App(id=app_id, name=app_id, config={"count": str(count)})
        live = Version(function_id=f"f{app_id}", number=count + 1, image="i", digest="")
        function = Function(id=f"f{app_id}", app_id=app_id, name="f", live=live)

        def store(conn: sqlite3.Connection, app: App = app, function: Function = function, count: int = count) -> None:
            if count:
                records.update_app(conn, app)
            else:
                records.insert_app(conn, app)
            records.save_function(conn, replace(function, pcu_count=count))

        await db.write(store)
        os.write(1, f"{app_id} {count}\n".encode())
        count += 1


async def write_until_killed(path: Path, round_: str) -> None:
    db = await Database.open(path)
    async with trio.open_nursery() as nursery:
        for number in range(TASKS):
            nursery.start_soon(keep_writing, db, f"{round_}-{number}")


def main() -> None:
    for line in sys.stdin:
        path, round_ = line.rsplit(None, 1)
        pid = os.fork()
        if pid == 0:
            os.write(1, f"{os.getpid()}\n".encode())
            trio.run(write_until_killed, Path(path), round_)
        os.waitpid(pid, 0)
        os.write(1, b"gone\n")


if __name__ == "__main__":
    main()
