"""The node as its own endpoints see it (`daemon.http.ops.Node`): one place that gathers what the parts know."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import trio

from daemon.bundles.interpreters import Interpreters
from daemon.bundles.store import BundleStore
from daemon.catalog import Catalog
from daemon.core.views import InstanceView, NodeView, PoolView
from daemon.http.ops import Connections, InstanceInfo, Sample, StartMode
from daemon.logs.book import LogBook
from daemon.model import App, Function
from daemon.registry import Registry
from daemon.store.database import Database
from daemon.supervisor import Supervisor
from daemon.telemetry.metrics import Metrics
from daemon.workers.launcher import Launcher

if TYPE_CHECKING:
    from daemon.http.frontdoor import FrontDoor


class Node:
    """What `daemon.http.ops` shows and does. ``front_door`` and ``draining`` are set by `daemon.serve`."""

    def __init__(
        self,
        *,
        bundle_bytes_max: int,
        catalog: Catalog,
        registry: Registry,
        database: Database,
        bundles: BundleStore,
        supervisor: Supervisor,
        launcher: Launcher,
        log_book: LogBook,
        metrics: Metrics,
        interpreters: Interpreters,
    ) -> None:
        self.bundle_bytes_max = bundle_bytes_max
        self.catalog = catalog
        self.registry = registry
        self.database = database
        self.bundles = bundles
        self.log_book = log_book
        self.metrics = metrics
        self.interpreters = interpreters
        self.draining = False
        self.front_door: FrontDoor | None = None
        self.sources: list[Callable[[], Awaitable[list[Sample]]]] = []
        """Of numbers for Prometheus; the parts that have some are added by `daemon.serve`."""
        self._supervisor = supervisor
        self._launcher = launcher
        self._since_s = trio.current_time()

    @property
    def uptime_s(self) -> float:
        """Seconds since the daemon was built."""
        return trio.current_time() - self._since_s

    def instances(self) -> list[InstanceInfo]:
        """All that are not gone."""
        return [self._info(view) for view in self._supervisor.scheduler.instances()]

    def _info(self, view: InstanceView) -> InstanceInfo:
        slot = self._supervisor.slots.get(view.instance_id)
        now_s = trio.current_time()
        plan = slot.plan if slot else None
        _, number, _ = view.revision.split(".")  # daemon.deployer.Deployer.plan
        return InstanceInfo(
            id=view.instance_id,
            app=plan.app_name if plan else "",
            function=plan.function_name if plan else "",
            function_id=view.function_id,
            version=int(number),
            state=view.state,
            pid=slot.worker.pid if slot and slot.worker else None,
            start_kind=view.start_kind,
            age_s=round(now_s - view.born_s, 3),
            idle_s=round(now_s - view.since_s, 3) if view.state == "idle" else None,
            calls=view.calls,
            memory_mib=round(view.memory_bytes / 2**20, 2),
            memory_limit_mib=view.memory_mib,
        )

    def pool(self, function_id: str) -> PoolView | None:
        """One function's instances, queue and PCU; None if it has none."""
        return self._supervisor.scheduler.pool(function_id)

    def pools(self) -> dict[str, PoolView]:
        """All functions' instances, queues and PCUs, by function id."""
        return {view.function_id: view for view in self._supervisor.scheduler.pools()}

    def instance_bytes(self, function_id: str) -> float | None:
        """What an instance of the function holds on average; None without any that was measured."""
        slots = self._supervisor.slots.values()
        held = [slot.memory_bytes for slot in slots if slot.plan.function_id == function_id and slot.memory_bytes]
        return sum(held) / len(held) if held else None

    def gauges(self) -> dict[str, dict[str, float]]:
        """The numbers of this moment for the time series: of functions that have any, and of the node (empty id)."""
        memory: dict[str, int] = {}
        for slot in self._supervisor.slots.values():
            memory[slot.plan.function_id] = memory.get(slot.plan.function_id, 0) + slot.memory_bytes
        found: dict[str, dict[str, float]] = {}
        for pool in self._supervisor.scheduler.pools():
            if any(pool.instances.values()) or pool.queue or pool.pcu.requested:
                found[pool.function_id] = {
                    **{state: float(count) for state, count in pool.instances.items()},
                    "queue": float(pool.queue),
                    "pcu_requested": float(pool.pcu.requested),
                    "pcu_allocated": float(pool.pcu.allocated),
                    "pcu_available": float(pool.pcu.available),
                    "memory_bytes": float(memory.get(pool.function_id, 0)),
                    "reserved_mib": float(pool.held_mib),
                }
        totals: dict[str, float] = {}
        for values in found.values():
            for name, value in values.items():
                totals[name] = totals.get(name, 0.0) + value
        if totals:
            found[""] = totals
        return found

    def view(self) -> NodeView:
        """Memory, instances, templates."""
        return self._supervisor.scheduler.node()

    def start_mode(self, function: Function) -> StartMode:
        """How its instances are started, and why."""
        pool = self.pool(function.id)
        known = {t.revision: t for t in self._launcher.templates()}
        template = known.get(pool.revision) if pool else None
        if template is None or (template.pid == 0 and template.forkable):
            return StartMode(setting=function.live.start, forkable=None, reason="")
        return StartMode(setting=function.live.start, forkable=template.forkable, reason=template.reason)

    def connections(self) -> Connections:
        """The front door's numbers."""
        if self.front_door is None:
            return Connections()
        stats = self.front_door.stats
        return Connections(
            open=stats.connections,
            accepted=stats.accepted,
            refused=stats.refused,
            timed_out=stats.timed_out,
            clients_left=stats.clients_left,
        )

    async def samples(self) -> list[Sample]:
        """What `sources` have."""
        return [sample for source in self.sources for sample in await source()]

    def sandbox(self) -> dict[str, Any]:
        """The level of what separates functions, and what is missing of it."""
        return self._launcher.sandbox.describe()

    def network(self, app: App, function_id: str) -> dict[str, Any]:
        """What a function of the app may reach, and what it gets here."""
        return self._launcher.sandbox.network(app, function_id)

    def restart(self, function_id: str) -> int:
        """End the function's idle and starting instances; the floor is filled anew. How many went."""
        scheduler = self._supervisor.scheduler
        going = ("idle", "starting")
        count = sum(v.function_id == function_id and v.state in going for v in scheduler.instances())
        self._supervisor.obey(scheduler.restart(function_id, now_s=trio.current_time()))
        return count
