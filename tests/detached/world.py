"""The service of detached calls over fakes of the same shape; time is the autojump clock's."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import trio
from trio.testing import MockClock

from daemon.catalog import Catalog
from daemon.config.detached import Detached as Settings
from daemon.config.settings import Limits
from daemon.detached.service import Detached
from daemon.errors import InternalError, StokerError
from daemon.model import Answer, App, Function, Ids, Version
from daemon.store import records
from daemon.store.database import migrate
from tests.services.world import SilentLog


class FakeDatabase:
    """The store in memory: writes take a moment, are ordered, and can be made to fail."""

    def __init__(self) -> None:
        self.conn = sqlite3.connect(":memory:", isolation_level=None)
        self.conn.row_factory = sqlite3.Row
        self.conn.execute("PRAGMA foreign_keys=ON")
        migrate(self.conn)
        self.broken = False
        self.writes = 0
        self._turn = trio.Lock()

    async def write(
        self, fn: Callable[[sqlite3.Connection], Any], *, apply: Callable[[Any], None] | None = None
    ) -> Any:
        async with self._turn:
            await trio.sleep(0.001)
            if self.broken:
                raise InternalError(detail="disk full")
            self.writes += 1
            self.conn.execute("BEGIN")
            try:
                result = fn(self.conn)
            except BaseException:
                self.conn.execute("ROLLBACK")
                raise
            self.conn.execute("COMMIT")
            if apply is not None:
                apply(result)
            return result

    async def read(self, fn: Callable[[sqlite3.Connection], Any]) -> Any:
        await trio.sleep(0.001)
        if self.broken:
            raise InternalError(detail="disk full")
        return fn(self.conn)

    def states(self) -> dict[str, str]:
        return {row[0]: row[1] for row in self.conn.execute("SELECT id, state FROM detached_calls")}


@dataclass
class FakeInvoker:
    """Runs a call for ``run_s`` and ends it as ``outcomes`` says, in turn; the last one for ever."""

    run_s: float = 0.1
    outcomes: list[StokerError | int] = field(default_factory=lambda: [200])
    started: list[tuple[float, str, str]] = field(default_factory=list)
    """When, which call, which attempt."""
    timeouts: list[int | None] = field(default_factory=list)
    running: int = 0
    peak: int = 0

    async def invoke(
        self, function_id: str, *, call_id: str, headers: list[tuple[str, str]], body: bytes,
        timeout_s: int | None = None, kind: str = "sync", caller: str = "",
    ) -> Answer:  # fmt: skip
        assert kind == "detached"
        self.started.append((trio.current_time(), call_id, dict(headers)["stoker-attempt"]))
        self.timeouts.append(timeout_s)
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            await trio.sleep(self.run_s)
        finally:
            self.running -= 1
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, StokerError):
            raise type(outcome)(outcome.message, detail=outcome.detail)
        return Answer(status=outcome, headers=[], body=b"done")


@dataclass
class FakeScheduler:
    """How many calls that somebody waits for are queueing, by function."""

    queues: dict[str, int] = field(default_factory=dict)

    def pool(self, function_id: str) -> Any:
        return SimpleNamespace(queue=self.queues.get(function_id, 0))

    def node(self) -> Any:
        return SimpleNamespace(waiting=sum(self.queues.values()))


@dataclass
class World:
    database: FakeDatabase
    catalog: Catalog
    invoker: FakeInvoker
    scheduler: FakeScheduler
    detached: Detached
    log: SilentLog
    number: int = 0

    def function(self, name: str = "f", *, memory_mib: int = 128, **annotations: Any) -> None:
        live = Version(function_id=name, number=1, image="i:1", digest="sha256:x", memory_mib=memory_mib)
        made = Function(
            id=name, app_id="app", name=name, live=live,
            annotations={f"stoker.dev/{key.replace('_', '-')}": value for key, value in annotations.items()},
        )  # fmt: skip
        records.save_function(self.database.conn, made)
        self.catalog.put_function(made)

    async def accept(self, function: str = "f", body: bytes = b"") -> str:
        self.number += 1
        call_id = f"call{self.number:04}"
        await self.detached.accept(function, call_id=call_id, headers=[("x", "y")], body=body)
        return call_id

    def attempts(self, call_id: str = "call0001") -> list[float]:
        return [round(at, 2) for at, which, _ in self.invoker.started if which == call_id]

    def error(self, call_id: str) -> str:
        row = self.database.conn.execute("SELECT error FROM detached_calls WHERE id = ?", (call_id,)).fetchone()
        return str(row[0])


@asynccontextmanager
async def world(
    *, database: FakeDatabase | None = None, outbox: Any = None, memory_mib: int = 4096, **settings: Any
) -> AsyncIterator[World]:
    """The service, running. With a ``database`` of an earlier world: what a restart finds."""
    assert isinstance(trio.lowlevel.current_clock(), MockClock), "ask for autojump_clock in the test itself"
    catalog, log, invoker, scheduler = Catalog(), SilentLog(), FakeInvoker(), FakeScheduler()
    if database is None:
        database = FakeDatabase()
        records.insert_app(database.conn, App(id="app", name="app"))
    records.fill_catalog(database.conn, catalog)
    detached = Detached(
        database, catalog, invoker, scheduler,  # type: ignore[arg-type]  # fakes of the same shape
        settings=Settings(**settings), limits=Limits(memory_mib=memory_mib), outbox=outbox, ids=Ids(),
        jitter=lambda: 1.0, log=log,
    )  # fmt: skip
    made = World(database, catalog, invoker, scheduler, detached, log)
    async with trio.open_nursery() as nursery:
        await nursery.start(detached.run)
        yield made
        nursery.cancel_scope.cancel()
