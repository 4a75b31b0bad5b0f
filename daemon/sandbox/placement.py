"""Where a worker runs: its control group, and what is measured and cleaned with it. The launcher's helper.

Without control groups everything here still works: nothing is joined, and memory is measured process by process.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, Protocol

import trio

from daemon.config.network import Network
from daemon.config.settings import Limits
from daemon.errors import InternalError
from daemon.model import LaunchPlan
from daemon.sandbox.cgroup_probe import name_for, probe
from daemon.sandbox.cgroups import Cgroups, Group, GroupLimits
from daemon.sandbox.memory import Gauge
from daemon.sandbox.networks import Networks, Wire, open_networks
from runtime.cgroups import PAUSE_S, REMOVE_S, remove_tree

MIB = 2**20
RECORD = "cgroups"
"""File in the run directory: the directories of the present daemon's groups, for the next one to sweep."""
TEMPLATE_CPU_MIN = 1.0
"""Cores that a template may use at least: an import should not take longer because calls may use little."""


class MemoryGauge(Protocol):
    """How much memory a worker and everything beneath it use: `daemon.sandbox.memory.Gauge` or `GroupGauge`."""

    oom_kills: int

    @property
    def processes(self) -> int: ...

    def read(self) -> int: ...

    def peak(self) -> int: ...

    def close(self) -> None: ...


class GroupGauge:
    """The memory of a control group, shared mappings, memfd and tmpfs among it. A reading costs 5 us."""

    def __init__(self, group: Group) -> None:
        self._group: Group | None = group
        self.oom_kills = 0
        """Processes that the kernel killed because the group was full, as of the last reading."""

    @property
    def processes(self) -> int:
        """How many processes are in the group now, where nothing else limits them; else 0, which costs nothing."""
        return 0 if self._group is None or self._group.limits_processes else len(self._group.processes())

    def read(self) -> int:
        """Bytes in use, page cache that can be dropped aside; 0 after `close`."""
        if self._group is None:
            return 0
        used = self._group.read()
        self.oom_kills = self._group.oom_kills
        return used

    def peak(self) -> int:
        """Most bytes ever used at once; 0 after `close`."""
        if self._group is None:
            return 0
        peak = self._group.peak()
        self.oom_kills = self._group.oom_kills
        return peak

    def close(self) -> None:
        """Forget the group, which its `Place` removes. May be called again."""
        self._group = None


class Place:
    """The group of one process that is being started, or None where there are no groups."""

    def __init__(self, placement: Placement, function: str, group: Group | None, eventfd: int = -1) -> None:
        self._placement = placement
        self._function = function
        self._group = group
        self._eventfd = eventfd
        self._wire: Wire | None = None

    def join_fds(self) -> list[int]:
        """Descriptors for `runtime.cgroups.join`; the caller closes them.

        Raises:
          OSError: no descriptors left.
        """
        return self._group.join_fds() if self._group is not None else []

    def gauge(self, pid: int, *, forked: bool, limit_bytes: int) -> MemoryGauge:
        """What measures the process and everything beneath it; arguments as for `daemon.sandbox.memory.Gauge`."""
        if self._group is not None:
            return GroupGauge(self._group)
        return Gauge(pid, forked=forked, limit_bytes=limit_bytes)

    async def wire(self, pid: int, plan: LaunchPlan) -> None:
        """Connect the network of a process that waits for it; nothing where it has none of its own.

        Raises:
          NetworkError: it cannot be connected.
        """
        if (networks := self._placement.networks) is not None:
            self._wire = await networks.wire(pid, plan.network, owner=plan.function_id)

    def confirm(self, pid: int) -> None:
        """Make sure that the process is where its limits are: a template runs its author's code before it forks.

        Raises:
          InternalError: it is not. It must be killed.
        """
        if self._group is not None and not self._group.holds(pid):
            raise InternalError(detail=f"process {pid} has not joined its control group")

    def kill(self) -> None:
        """SIGKILL everything in the group."""
        if self._group is not None:
            self._group.kill()

    async def leave(self) -> None:
        """The process is gone: kill what is left of its group, and remove that."""
        if (networks := self._placement.networks) is not None and self._wire is not None:
            wire, self._wire = self._wire, None
            await networks.let_go(wire)
        if self._group is None:
            return
        group, self._group = self._group, None
        group.peak()
        self._placement.memory_kills += group.oom_kills > 0 or self._eventfd in self._placement.full
        self._placement.unwatch(self._eventfd)
        if self._placement.cgroups.remove(self._function, group):
            return
        with trio.CancelScope(shield=True), trio.move_on_after(REMOVE_S):
            while True:
                group.kill()
                await trio.sleep(PAUSE_S)
                if self._placement.cgroups.remove(self._function, group):
                    return
        self._placement.log.error("control group cannot be removed", function=self._function)


class Placement:
    """Makes the places of one daemon's workers."""

    def __init__(self, cgroups: Cgroups, limits: Limits, log: Any) -> None:
        self.cgroups = cgroups
        self.networks: Networks | None = None
        self.memory_kills = 0
        """Groups in which the kernel killed a process for memory, or had us do so."""
        self.full: set[int] = set()
        """Event descriptors of groups that ran full and are not removed yet."""
        self.log = log
        self.on_out_of_memory: Callable[[int], None] = lambda instance_id: None
        """Called with the id of an instance whose group runs full, before the kernel kills a process of it (v1)."""
        self._limits = limits
        self._poll = select.epoll()
        self._watched: dict[int, int] = {}  # eventfd -> instance id

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Hear of groups that run full, until cancelled.

        On v1 the kernel kills one process of the group, perhaps a child whose end the function survives and answers
        after: this is how its caller learns the truth all the same. One descriptor for all groups: a task per instance
        would cost more.
        """
        task_status.started()
        while True:
            await trio.lowlevel.wait_readable(self._poll.fileno())
            for eventfd, _ in self._poll.poll(0):
                os.eventfd_read(eventfd)
                self.full.add(eventfd)
                self.on_out_of_memory(self._watched[eventfd])

    async def samples(self) -> list[tuple[str, tuple[str, ...], float]]:
        """For the metrics."""
        found = [
            ("stoker_control_groups", (str(self.cgroups.site.version),), float(self.cgroups.count)),
            ("stoker_memory_kills_total", (), float(self.memory_kills)),
        ]
        if self.networks is not None:
            found.append(("stoker_networks", (self.networks.method,), float(self.networks.connected)))
            found.append(("stoker_relay_ends_total", (), float(self.networks.relay_ends)))
        return found

    def close(self) -> None:
        """Close what `run` waits for."""
        self._poll.close()

    def unwatch(self, eventfd: int) -> None:
        """The group is about to be removed."""
        self.full.discard(eventfd)
        if eventfd >= 0 and self._watched.pop(eventfd, None) is not None:
            self._poll.unregister(eventfd)
            os.close(eventfd)

    def instance(self, plan: LaunchPlan, instance_id: int) -> Place:
        """For a new instance.

        Raises:
          OSError: the group cannot be made.
        """
        limits = GroupLimits(plan.memory_mib * MIB, self._limits.processes_max, plan.cpu)
        return self._place(plan, f"i{instance_id}", limits, instance_id)

    def template(self, plan: LaunchPlan, number: int) -> Place:
        """For a new template. Instances are born in its group and leave it at once.

        Raises:
          OSError: the group cannot be made.
        """
        memory = (plan.memory_mib + self._limits.memory_backstop_mib) * MIB
        processes = self._limits.processes_max + 2 * self._limits.starts_at_once
        cpu = max(TEMPLATE_CPU_MIN, plan.cpu) if plan.cpu else 0.0
        return self._place(plan, f"t{number}", GroupLimits(memory, processes, cpu))

    def _place(self, plan: LaunchPlan, name: str, limits: GroupLimits, instance_id: int = 0) -> Place:
        if not self.cgroups.active:
            return Place(self, plan.function_id, None)
        group = self.cgroups.make(plan.function_id, name, limits, memory_mib=plan.memory_mib)
        eventfd = -1
        if instance_id:
            try:
                eventfd = group.oom_eventfd()
            except OSError:
                self.cgroups.remove(plan.function_id, group)
                raise
            if eventfd >= 0:
                self._watched[eventfd] = instance_id
                self._poll.register(eventfd, select.EPOLLIN)
        return Place(self, plan.function_id, group, eventfd)


@contextmanager
def open_placement(data: Path, limits: Limits, network: Network, log: Any) -> Iterator[Placement]:
    """Find out what the machine allows and, when the block ends, leave nothing of it.

    What a daemon on the same data directory left is removed first, wherever that had its groups: they are named after
    the directory, whose lock the caller holds.
    """
    name = name_for(data)
    record = data / "run" / RECORD
    for directory in _recorded(record, name):
        remove_tree(directory)
    cgroups, _ = probe(name, setting=limits.cgroups)
    record.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    record.write_text("".join(f"{directory}\n" for directory in cgroups.directories))
    placement = Placement(cgroups, limits, log)
    try:
        with open_networks(network, data, log=log) as placement.networks:
            log.info("network", method=placement.networks.method, missing=placement.networks.reason)
            yield placement
    finally:
        placement.close()
        cgroups.close()


def _recorded(record: Path, name: str) -> list[str]:
    try:
        lines = record.read_text().splitlines()
    except OSError:
        return []
    return [line for line in lines if os.path.basename(line) == name and line.startswith("/")]


def close_all(fds: list[int]) -> None:
    """Close the descriptors."""
    for fd in fds:
        os.close(fd)
