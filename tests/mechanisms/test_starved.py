"""What runs by itself in the daemon goes on when the machine gives it no thread, or the database refuses for long."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog
import trio
import trio.testing
from structlog.testing import capture_logs

from daemon import janitor as janitor_module
from daemon.bundles.store import BundleStore
from daemon.config.settings import Bundles, Logs, Records
from daemon.errors import InternalError
from daemon.janitor import Janitor
from daemon.logs.book import LogBook
from daemon.store.database import Database
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.recorder import Recorder

PATIENCE_S = 60.0
STACK_BYTES = 2**45
"""A stack that no machine has room for: a thread cannot be started, as where a limit of processes is reached."""


@asynccontextmanager
async def no_thread_to_be_had() -> AsyncIterator[None]:
    """Trio keeps idle threads: take all of them, and let no further one start."""
    release = threading.Event()
    full = trio.Event()

    async def take() -> None:
        try:
            await trio.to_thread.run_sync(release.wait, limiter=trio.CapacityLimiter(1))
        except RuntimeError:
            full.set()

    async with trio.open_nursery() as nursery:
        before = threading.stack_size(STACK_BYTES)
        try:
            while not full.is_set():
                nursery.start_soon(take)
                await trio.testing.wait_all_tasks_blocked()
            yield
        finally:
            threading.stack_size(before)
            release.set()


async def test_records_and_logs_are_lost_and_the_daemon_is_not(tmp_path: Path) -> None:
    log = structlog.get_logger()
    recorder = Recorder(Records(), log=log)
    with capture_logs() as told:
        async with recorder.opened(tmp_path / "records.db"), LogBook(tmp_path / "logs", Logs(), log=log) as book:
            async with no_thread_to_be_had():
                recorder.wrote("C", 1.0)
                await recorder.flush()
                book.open("F1").write("stdout", "lost")
                await book.flush()
                assert book.dropped_bytes == len("lost")
                with pytest.raises(InternalError):
                    await recorder.counted()
            book.open("F1").write("stdout", "kept")
            await book.flush()
            assert [line["line"] async for line in book.tail("F1")] == ["kept"]
            assert (await recorder.counted())["calls"] == 0
    assert {"call records cannot be written", "cannot write logs of functions: their output is lost, and counted"} == {
        line["event"] for line in told
    }


async def test_a_database_that_refuses_for_long_does_not_end_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor_module, "SWEEP_S", 0.01)
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "stoker.db"
    database = await Database.open(path)
    bundles = BundleStore(tmp_path / "bundles", Bundles(), run_dir=tmp_path / "run")
    log = structlog.get_logger()
    with capture_logs() as told:
        async with LogBook(tmp_path / "logs", Logs()) as book, trio.open_nursery() as nursery:
            path.rename(tmp_path / "moved")
            janitor = Janitor(database, bundles, book, Metrics(), run_dir=tmp_path / "run", log=log)
            await nursery.start(janitor.run)
            with trio.fail_after(PATIENCE_S):
                while len(told) < 3:  # noqa: ASYNC110 - it goes on, sweep after sweep
                    await trio.sleep(0.005)
            nursery.cancel_scope.cancel()
    await database.close()
    assert {line["event"] for line in told} == {"cannot clear away"}
    assert "was moved or deleted" in told[0]["error"]
