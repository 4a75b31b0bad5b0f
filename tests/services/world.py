"""Supervisor and invoker over the fake launcher: everything real but the processes. Time is the autojump clock's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio
from trio.testing import MockClock

from daemon.catalog import Catalog
from daemon.config.settings import Limits, Logs
from daemon.core.scheduler import PoolSpec, Scheduler
from daemon.errors import StokerError
from daemon.invoker import Invoker
from daemon.logs.book import LogBook
from daemon.model import Answer, App, Function, LaunchPlan, Version
from daemon.supervisor import Supervisor
from daemon.telemetry.metrics import Metrics
from tests.contracts.fake_launcher import Behaviour, FakeLauncher


class SilentLog:
    """The daemon's log, kept: tests look at what must not be there."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Any:
        return lambda event, **values: self.lines.append((level, event, values))


@dataclass
class World:
    limits: Limits
    catalog: Catalog
    launcher: FakeLauncher
    supervisor: Supervisor
    invoker: Invoker
    log: SilentLog
    numbers: dict[str, int] = field(default_factory=dict)

    def plan(self, function: Function) -> tuple[LaunchPlan, PoolSpec]:
        live = function.live
        revision = f"{function.id}.{live.number}"
        plan = LaunchPlan(
            revision=revision, function_id=function.id, function_name=function.name, app_id="app", app_name="app",
            bundle_dir="/", handler_file="func.py", handler_name="handler", interpreter="", environment={},
            memory_mib=live.memory_mib, timeout_s=live.timeout_s, start=live.start,
        )  # fmt: skip
        spec = PoolSpec(
            function_id=function.id, revision=revision, memory_mib=live.memory_mib, timeout_s=live.timeout_s,
            idle_timeout_s=live.idle_timeout_s, floor=function.pcu_count,
        )  # fmt: skip
        return plan, spec

    def function(self, name: str, *, pcu: int = 0, **settings: Any) -> Function:
        """A function as the deployer leaves it, configured without a canary."""
        self.numbers[name] = self.numbers.get(name, 0) + 1
        live = Version(
            function_id=name, number=self.numbers[name], image=f"{name}:1", digest="sha256:x", state="ready", **settings
        )
        function = Function(id=name, app_id="app", name=name, live=live, pcu_count=pcu)
        self.catalog.put_function(function)
        self.supervisor.configure(*self.plan(function))
        return function

    async def call(self, function_id: str, body: bytes = b"", *, call_id: str = "") -> Answer:
        self.numbers["calls"] = self.numbers.get("calls", 0) + 1
        return await self.invoker.invoke(
            function_id, call_id=call_id or f"call-{self.numbers['calls']}", headers=[], body=body
        )

    async def outcome(self, function_id: str, body: bytes = b"") -> str:
        """``ok`` or the error's code."""
        try:
            await self.call(function_id, body)
        except StokerError as exc:
            return exc.code
        return "ok"

    @property
    def state(self) -> str:
        return repr(self.supervisor.scheduler)

    def complaints(self) -> list[tuple[str, str, dict[str, Any]]]:
        return [line for line in self.log.lines if line[0] in ("error", "exception", "critical")]


@asynccontextmanager
async def world(tmp_path: Path, behaviour: Behaviour | None = None, **limits: Any) -> AsyncIterator[World]:
    """A node of 2 GiB unless said otherwise. At the end nothing may be left."""
    assert isinstance(trio.lowlevel.current_clock(), MockClock), "ask for autojump_clock in the test itself"
    values = replace(Limits(memory_mib=2048), **limits)
    log, catalog = SilentLog(), Catalog()
    catalog.put_app(App(id="app", name="app"))
    launcher = FakeLauncher(values, behaviour)
    async with LogBook(tmp_path, Logs(), log=log) as log_book, trio.open_nursery() as nursery:
        await nursery.start(launcher.run)
        supervisor = Supervisor(
            Scheduler(values, jitter=lambda: 0.0), launcher, limits=values, log_book=log_book, log=log
        )
        invoker = Invoker(catalog, supervisor, Metrics(), log=log)
        await nursery.start(supervisor.run)
        made = World(values, catalog, launcher, supervisor, invoker, log)
        yield made
        nursery.cancel_scope.cancel()
    assert launcher.alive == 0
    assert supervisor.slots == {}
    assert supervisor.waiters == {}
    assert made.complaints() == []
