"""Clears away what nobody needs any more.

Logs, series and compiled modules of deleted functions, bundles that nothing points at.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, NoReturn

import trio

from daemon.bundles.store import BundleStore
from daemon.errors import StokerError
from daemon.logs.book import LogBook
from daemon.store import records
from daemon.store.database import Database
from daemon.telemetry.metrics import Metrics
from daemon.workers import tmpdirs

SWEEP_S = 600.0
"""How often bundles are looked over. Old versions lose theirs when they are pruned; nothing waits for it."""


async def collect_bundles(database: Database, bundles: BundleStore) -> list[str]:
    """Remove every bundle that no name and no kept version points at; the digests removed from the disk."""

    def forget(conn: sqlite3.Connection) -> set[str]:
        keep = records.digests_in_use(conn)
        records.forget_bundles(conn, keep)
        return keep

    keep = await database.write(forget)
    return await trio.to_thread.run_sync(bundles.sweep, keep)


class Janitor:
    """One task that clears away, at its own pace; see `run`."""

    def __init__(
        self, database: Database, bundles: BundleStore, log_book: LogBook, metrics: Metrics, *, run_dir: Path, log: Any
    ) -> None:
        self._database = database
        self._bundles = bundles
        self._log_book = log_book
        self._metrics = metrics
        self._run_dir = run_dir
        self._log = log
        self._forgotten: set[str] = set()
        self._wake = trio.Event()

    def forget(self, function_id: str) -> None:
        """The function was deleted: its series end now, its logs go soon."""
        self._metrics.forget(function_id)
        self._forgotten.add(function_id)
        self._wake.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Clear away until cancelled. Trouble with the disk is logged and tried again at the next sweep."""
        task_status.started()
        due_s = trio.current_time() + SWEEP_S
        while True:
            with trio.move_on_at(due_s):
                await self._wake.wait()
            self._wake = trio.Event()
            try:
                while self._forgotten:
                    function_id = self._forgotten.pop()
                    await self._log_book.remove(function_id)
                    await trio.to_thread.run_sync(tmpdirs.forget_function, self._run_dir, function_id)
                if trio.current_time() >= due_s:
                    due_s = trio.current_time() + SWEEP_S
                    if gone := await collect_bundles(self._database, self._bundles):
                        self._log.info("removed unused bundles", count=len(gone))
            # StokerError: the database refuses; RuntimeError: no thread to be had. Neither is worth the daemon.
            except (OSError, RuntimeError, StokerError) as exc:
                detail = exc.detail if isinstance(exc, StokerError) else ""
                self._log.error("cannot clear away", error=detail or str(exc))
