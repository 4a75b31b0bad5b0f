"""What the scheduler shows: cheap copies for people, metrics and tests."""

from __future__ import annotations

from dataclasses import dataclass

from daemon.core.instance import Instance, State
from daemon.core.node import Node
from daemon.core.pcu import PcuStatus, pcu_status
from daemon.core.pool import Pool, Revision

__all__ = ["InstanceView", "NodeView", "PoolView", "instance_view", "node_view", "pool_view", "pool_views", "readable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceView:
    """One instance that is not gone."""

    instance_id: int
    function_id: str
    revision: str
    state: str
    start_kind: str
    """How it was started: ``fork``, ``boot`` or ``exec``; empty while it starts."""
    born_s: float
    """Monotonic seconds of its launch."""
    since_s: float
    """Monotonic seconds since when it is in its state."""
    calls: int
    call_id: str
    memory_bytes: int
    memory_mib: int
    """Its limit, and what is reserved for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolView:
    """One function."""

    function_id: str
    revision: str
    """The live one; empty while the first deploy is under way."""
    prepared: str
    """The one that is being deployed, or empty."""
    instances: dict[str, int]
    """By state, of all revisions of the function."""
    queue: int
    """Calls that wait."""
    held_mib: int
    starts: dict[str, int]
    """Calls by start kind: ``fork``, ``boot``, ``exec``, ``spare``, ``reuse``."""
    start_error: str
    """Why the last start failed; empty when it did not."""
    retry_s: float
    """Monotonic seconds; no start is tried before."""
    template: bool
    pcu: PcuStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """The node."""

    memory_mib: int
    used_mib: int
    """Reserved: instances that are not gone, and templates."""
    floor_missing_mib: int
    """What unfilled floors still need."""
    instances: dict[str, int]
    templates: int
    waiting: int
    draining: bool


def instance_view(instance: Instance) -> InstanceView:
    """A copy of what people may know of an instance."""
    return InstanceView(
        instance_id=instance.id,
        function_id=instance.revision.pool.function_id,
        revision=instance.revision.id,
        state=instance.state.value,
        start_kind=instance.kind,
        born_s=instance.born_s,
        since_s=instance.since_s,
        calls=instance.calls,
        call_id=instance.call_id,
        memory_bytes=instance.memory_bytes,
        memory_mib=instance.memory_mib,
    )


def pool_views(node: Node) -> list[PoolView]:
    """Copies of all functions, in one pass over the revisions."""
    revisions: dict[str, list[Revision]] = {}
    for revision in node.revisions.values():
        revisions.setdefault(revision.pool.function_id, []).append(revision)
    return [_pool_view(pool, revisions.get(pool.function_id, [])) for pool in node.pools.values()]


def pool_view(node: Node, pool: Pool) -> PoolView:
    """A copy of what people may know of a function."""
    return _pool_view(pool, [r for r in node.revisions.values() if r.pool is pool] if pool.instances else [])


def _pool_view(pool: Pool, mine: list[Revision]) -> PoolView:
    live = pool.live
    states = [instance.state for revision in mine for instance in revision.instances.values()]
    answered = pool.answered + sum(i.calls for revision in mine for i in revision.instances.values())
    running = sum(state is State.BUSY for state in states)
    starts = dict(pool.first_calls)
    starts["reuse"] = answered + running + pool.broken - sum(starts.values())
    error = live.start_error if live is not None else None
    return PoolView(
        function_id=pool.function_id,
        revision=live.id if live is not None else "",
        prepared=pool.prepared.id if pool.prepared is not None else "",
        instances={state.value: states.count(state) for state in State if state is not State.GONE},
        queue=len(pool.waiting),
        held_mib=pool.held_mib,
        starts=starts,
        start_error=str(error) if error is not None else "",
        retry_s=live.retry_s if live is not None else float("-inf"),
        template=live.template if live is not None else False,
        pcu=pcu_status(
            requested=live.spec.floor if live is not None else 0,
            granted=pool.granted,
            idle=len(live.idle) if live is not None else 0,
            busy=live.busy if live is not None else 0,
            spillover=pool.spillover,
            start_error=str(error) if error is not None else "",
        ),
    )


def node_view(node: Node) -> NodeView:
    """A copy of the node's numbers."""
    states = [instance.state for instance in node.instances.values()]
    return NodeView(
        memory_mib=node.limits.memory_mib,
        used_mib=node.used_mib,
        floor_missing_mib=node.short_mib,
        instances={state.value: states.count(state) for state in State if state is not State.GONE},
        templates=len(node.templates),
        waiting=len(node.waiting),
        draining=node.draining,
    )


def readable(node: Node) -> str:
    """The state on one line: ``<Scheduler 256/1024 MiB | f: 1 idle, 1 busy, 2 waiting>``."""
    parts = [f"{node.used_mib}/{node.limits.memory_mib} MiB"]
    if node.draining:
        parts.append("draining")
    for pool in node.pools.values():
        view = pool_view(node, pool)
        counts = [f"{n} {state}" for state, n in view.instances.items() if n]
        counts += [f"{view.queue} waiting"] if view.queue else []
        parts.append(f"{pool.function_id}: {', '.join(counts) or 'nothing'}")
    return f"<Scheduler {' | '.join(parts)}>"
