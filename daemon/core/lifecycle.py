"""What events do to pools and revisions: deploys, floors, failed starts, and time that is up.

The functions here change the node through its own methods; ``settle`` runs after each of them.
"""

from __future__ import annotations

from math import inf

from daemon import errors
from daemon.core import policy
from daemon.core.alarms import Alarmed
from daemon.core.events import Event
from daemon.core.instance import Instance, State
from daemon.core.node import Node
from daemon.core.pool import LeavingTemplate, Pool, PoolSpec, Revision, Role
from daemon.core.settle import prepared_missing, start_replacement

__all__ = [
    "abandon",
    "check_room",
    "check_size",
    "configure",
    "forget",
    "make_ready",
    "prepare",
    "prepared",
    "restart",
    "retire_worn",
    "start_failed",
    "template_gone",
    "time_is_up",
    "wear_out",
]


# Deploys


def configure(node: Node, spec: PoolSpec, now_s: float) -> None:
    """Make ``spec`` the live revision of its function."""
    pool = _pool(node, spec.function_id)
    revision = _revision(node, pool, spec)
    old = pool.live
    if pool.prepared is revision:
        pool.prepared = None
        del node.preparing[revision.id]
    revision.role, revision.accepting = Role.LIVE, True
    if old is not revision:
        revision.forgive()
        revision.used_s = max(revision.used_s, old.used_s if old is not None else -inf)
    pool.live, pool.idle, pool.timeout_s = revision, revision.idle, spec.timeout_s
    _grant_floors(node)
    if old is not None and old is not revision:
        _send_away(node, old, now_s)
    for instance in list(revision.idle):  # the floor or the idle timeout may have changed
        instance.deadline_s = min(instance.since_s + revision.idle_timeout_s, instance.retire_at_s)
        if instance.deadline_s <= now_s or instance.is_worn(now_s):
            _idle_time_is_up(node, instance, now_s)
        else:
            node.alarms.set(instance)
    if not revision.instances and revision.template and revision.template_idle_s == inf:
        revision.template_idle_s = now_s + node.limits.template_idle_s
        node.arm(revision, now_s)


def prepare(node: Node, spec: PoolSpec, now_s: float) -> None:
    """Start a revision beside the live one. One at a time: another one under way is abandoned.

    Raises:
      TooLargeForNode: it could never become ready.
    """
    known = node.pools.get(spec.function_id)
    if known is not None and known.live is not None and known.live.id == spec.revision:
        raise ValueError(f"cannot prepare {spec.revision}: it is live")
    check_room(node, spec)
    if known is not None and known.prepared is not None and known.prepared.id != spec.revision:
        abandon(node, known.function_id, known.prepared.id, now_s)
    pool = _pool(node, spec.function_id)
    revision = _revision(node, pool, spec)
    revision.role, revision.accepting = Role.PREPARED, False
    revision.forgive()
    pool.prepared = revision
    node.preparing[revision.id] = revision


def prepared(node: Node, function_id: str, revision_id: str) -> tuple[int, int]:
    """(ready, wanted within memory)."""
    pool = node.pools.get(function_id)
    revision = pool.prepared if pool is not None else None
    if revision is None or revision.id != revision_id:
        return 0, 1
    coming = revision.alive + revision.claims
    missing = prepared_missing(node, revision)
    # POLICY: a deploy waits for the part of its floor for which there is free memory.
    room_mib = node.room_mib() - (node.short_mib - revision.pool.short_mib)
    fits = max(0, min(room_mib // revision.spec.memory_mib, node.room_instances()))
    own = node.limits.function_instances_max - revision.pool.instances - revision.pool.claims
    return len(revision.idle), max(1, coming + min(missing, fits, max(0, own)))


def abandon(node: Node, function_id: str, revision_id: str, now_s: float) -> None:
    """Kill all of a prepared revision."""
    pool = node.pools.get(function_id)
    revision = pool.prepared if pool is not None else None
    if pool is None or revision is None or revision.id != revision_id:
        return
    pool.prepared = None
    del node.preparing[revision.id]
    if pool.live is not None:
        pool.live.accepting = True
    _send_away(node, revision, now_s, kill=True)
    node.drop_empty(pool)


def forget(node: Node, function_id: str, now_s: float) -> None:
    """Delete a function's pool."""
    pool = node.pools.get(function_id)
    if pool is None:
        return
    if pool.prepared is not None:
        abandon(node, function_id, pool.prepared.id, now_s)
    for call_id in list(pool.waiting):
        node.refuse(pool, call_id, errors.NotFound("Fn not found"))
    live, pool.live, pool.idle = pool.live, None, []
    pool.granted = 0
    node.spares.pop(function_id, None)
    if live is not None:
        _send_away(node, live, now_s)
    node.drop_empty(pool)
    node.count_floor(pool)
    _grant_floors(node)


def _pool(node: Node, function_id: str) -> Pool:
    pool = node.pools.get(function_id)
    if pool is None:
        pool = node.pools[function_id] = Pool(function_id)
    return pool


def _revision(node: Node, pool: Pool, spec: PoolSpec) -> Revision:
    revision = node.revisions.get(spec.revision)
    if revision is None:
        revision = node.revisions[spec.revision] = Revision(pool, spec, Role.OUTGOING)
    elif revision.pool is not pool:
        raise ValueError(f"revision {spec.revision} belongs to function {revision.pool.function_id}")
    elif revision.template and not spec.uses_template:
        node.template_lost(revision)
    revision.spec, revision.idle_timeout_s = spec, spec.idle_timeout_s
    return revision


def _send_away(node: Node, revision: Revision, now_s: float, *, kill: bool = False) -> None:
    """Make a revision OUTGOING: idle instances retire, starting ones are killed, busy ones finish (or not: kill)."""
    revision.role, revision.accepting = Role.OUTGOING, False
    for index in range(len(node.claims) - 1, -1, -1):
        if node.claims[index] is revision:
            node.unclaim(index)
    for instance in list(revision.instances.values()):
        if instance.state is State.STARTING or (kill and instance.state is not State.KILLING):
            reason = errors.InternalError(detail="its version is not wanted any longer")
            node.kill(instance, Event.CONDEMNED, reason, now_s)
        elif instance.state is State.IDLE:
            node.retire(instance, now_s)
    revision.template_idle_s = inf
    if not revision.instances:
        node.stop_template(revision, now_s)
        node.alarms.drop(revision)
        del node.revisions[revision.id]


def _grant_floors(node: Node) -> None:
    """POLICY: floors are granted in the order of their functions, as far as the node can hold them at all."""
    room_mib, room_instances = node.limits.memory_mib, node.limits.instances_max
    for pool in node.pools.values():
        live = pool.live
        if live is None:
            continue
        floor, spec = 0, live.spec
        if spec.floor:
            template_mib = node.limits.template_mib if spec.uses_template else 0
            floor = policy.floor_granted(
                floor=spec.floor,
                memory_mib=spec.memory_mib,
                room_mib=room_mib - template_mib,
                instances_max=min(room_instances, node.limits.function_instances_max),
            )
            if floor:
                room_mib -= floor * spec.memory_mib + template_mib
                room_instances -= floor
        pool.granted = floor
        node.count_floor(pool)
    node.granted_mib = node.limits.memory_mib - room_mib


def check_size(node: Node, revision: Revision, call_id: str) -> None:
    """Refuse a call whose function can never run here: beside the floors of others there is not room for one.

    Raises:
      TooLargeForNode
    """
    if not revision.pool.granted:
        _check_fits(node, revision.spec, node.granted_mib, call_id)


def check_room(node: Node, spec: PoolSpec) -> None:
    """Refuse a version of which not even one instance can ever start: the floor of the one before it makes room.

    Raises:
      TooLargeForNode
    """
    pool = node.pools.get(spec.function_id)
    own_mib = 0
    if pool is not None and pool.live is not None and pool.granted:
        template_mib = node.limits.template_mib if pool.live.spec.uses_template else 0
        own_mib = pool.granted * pool.live.spec.memory_mib + template_mib
    _check_fits(node, spec, node.granted_mib - own_mib, "")


def _check_fits(node: Node, spec: PoolSpec, others_mib: int, call_id: str) -> None:
    limits = node.limits
    template_mib = limits.template_mib if spec.uses_template else 0
    need_mib = spec.memory_mib + template_mib
    if need_mib <= limits.memory_mib - others_mib:
        return
    with_template = f" with its template of {template_mib} MiB" if template_mib else ""
    others = f" less {others_mib} MiB provisioned for others" if others_mib else ""
    raise errors.TooLargeForNode(
        detail=f"the function needs {need_mib} MiB{with_template}, the node has {limits.memory_mib} MiB{others}"
        " (limits.memory_mib)",
        call_id=call_id,
    )


# Starts


def make_ready(node: Node, instance: Instance, now_s: float, kind: str) -> None:
    """STARTING -> IDLE. A worn instance of a floor that this one replaces can go now."""
    node.make_ready(instance, now_s, kind)
    revision = instance.revision
    if revision.pool.granted:
        for worn in [i for i in revision.idle if i.relieved_s < inf]:
            wear_out(node, worn, now_s)


def start_failed(node: Node, revision: Revision, error: errors.StokerError, now_s: float) -> None:
    """An instance did not become ready: back off."""
    revision.start_error = error
    if revision.backing_off(now_s):
        return  # several starts were under way; together they are one failure
    revision.failures += 1
    # POLICY: a crashing function is started again after a pause that doubles, with jitter.
    pause_s = policy.backoff_s(
        failures=revision.failures,
        first_s=node.limits.backoff_s,
        most_s=node.limits.backoff_s_max,
        jitter=node.jitter(),
    )
    revision.retry_s = now_s + pause_s
    node.arm(revision, now_s)


def template_gone(node: Node, revision_id: str, now_s: float) -> None:
    """A template went: one that was told to, or one on its own, whose instances then are unfit."""
    for leaving in node.leaving_templates:
        if leaving.revision == revision_id:
            node.template_left(leaving)
            return
    revision = node.revisions.get(revision_id)
    if revision is None or not revision.template:
        return
    node.template_lost(revision)
    for instance in list(revision.instances.values()):
        # Starting ones are told by their own failed launch, with the reason.
        if instance.state in (State.IDLE, State.BUSY):
            gone = errors.FunctionCrashed(detail="the template that it was forked from is gone")
            node.kill(instance, Event.CONDEMNED, gone, now_s)


def restart(node: Node, function_id: str, now_s: float) -> None:
    """A restart was asked for: idle and starting instances go. The floor is filled anew, a spare waits for a call."""
    pool = node.pools.get(function_id)
    if pool is None or pool.live is None:
        return
    pool.live.used_s = -inf
    for instance in list(pool.live.instances.values()):
        if instance.state is State.IDLE:
            node.retire(instance, now_s)
        elif instance.state is State.STARTING:  # POLICY: it began before the restart; calls that wait get another one
            node.kill(instance, Event.CONDEMNED, errors.InternalError(detail="the function is restarted"), now_s)


def retire_worn(node: Node, now_s: float) -> None:
    """Idle instances that were measured above their growth limit leave."""
    worn, node.worn_idle = node.worn_idle, []
    for instance in worn:
        if instance.state is State.IDLE:
            wear_out(node, instance, now_s)


def wear_out(node: Node, instance: Instance, now_s: float) -> None:
    """POLICY: an idle instance that has reached a reuse limit leaves; one of a floor when its replacement is ready."""
    revision, pool = instance.revision, instance.revision.pool
    if (
        revision.role is Role.LIVE
        and revision.alive - revision.starting <= pool.granted
        and now_s < instance.relieved_s
        and not node.draining
    ):
        if instance.relieved_s == inf and start_replacement(node, revision, now_s):
            instance.relieved_s = now_s + node.limits.start_s
        if instance.relieved_s < inf:
            instance.deadline_s = instance.relieved_s
            node.alarms.set(instance)
            return
    node.retire(instance, now_s)


# Time


def time_is_up(node: Node, what: Alarmed, now_s: float) -> None:
    """A deadline is reached."""
    if what.deadline_s > now_s:
        return  # another one's end has moved it
    match what:
        case Instance():
            _instance_time_is_up(node, what, now_s)
        case Pool():
            _refuse_overdue(node, what, now_s)
        case Revision():
            if what.template_idle_s <= now_s:
                node.stop_template(what, now_s)
            node.arm(what, now_s)
        case LeavingTemplate():
            node.template_left(what)


def _instance_time_is_up(node: Node, instance: Instance, now_s: float) -> None:
    revision, limits = instance.revision, node.limits
    match instance.state:
        case State.STARTING:
            error = errors.InitTimeout(detail=f"not ready after {limits.start_s:g} s")
            start_failed(node, revision, error, now_s)
            node.kill(instance, Event.DEADLINE, error, now_s)
        case State.BUSY:
            ran_s = now_s - instance.since_s
            over = f"the call ran {ran_s:.2f} s, its timeout is {instance.deadline_s - instance.since_s:g} s"
            error_ = errors.FunctionTimeout(detail=over, call_id=instance.call_id)
            node.kill(instance, Event.DEADLINE, error_, now_s)
        case State.STOPPING:
            slow = errors.FunctionCrashed(detail=f"did not stop within {limits.stop_s:g} s")
            node.kill(instance, Event.DEADLINE, slow, now_s)
        case State.KILLING:
            node.give_up_on(instance)
        case State.IDLE:
            _idle_time_is_up(node, instance, now_s)


def _idle_time_is_up(node: Node, instance: Instance, now_s: float) -> None:
    revision = instance.revision
    timeout_s = revision.idle_timeout_s
    if instance.is_worn(now_s):
        wear_out(node, instance, now_s)
        return
    stay_until_s = -inf
    if revision.role is Role.PREPARED or revision.lasting <= revision.pool.granted:
        # POLICY: the floor never idles out.
        stay_until_s = instance.retire_at_s
    else:
        others = sum(i is not instance and i.since_s + timeout_s <= now_s for i in revision.idle)
        # POLICY: nor does the spare of a function in use.
        if policy.keep_as_spare(in_use=revision.in_use(now_s), others_unused=others):
            stay_until_s = (now_s if revision.busy else revision.used_s) + timeout_s
    stay_until_s = min(stay_until_s, instance.retire_at_s)
    if stay_until_s <= now_s:
        node.retire(instance, now_s)
    else:
        instance.deadline_s = stay_until_s
        node.alarms.set(instance)


def _refuse_overdue(node: Node, pool: Pool, now_s: float) -> None:
    for waiting in list(pool.waiting.values()):
        if waiting.deadline_s > now_s:
            break
        live = pool.live
        if live is not None and live.alive == 0:
            pool.no_turn_before_s = now_s + node.limits.queue_s
        why = f"no instance became free within {node.limits.queue_s:g} s: {_shortage(node, pool)}"
        node.refuse(pool, waiting.call_id, errors.QueueTimeout(detail=why))
    node.alarms.set(pool)


def _shortage(node: Node, pool: Pool) -> str:
    limits = node.limits
    if pool.instances >= limits.function_instances_max:
        return f"all {pool.instances} instances that the function may have are taken"
    if len(node.instances) >= limits.instances_max:
        return f"all {limits.instances_max} instances that the node may have are taken"
    if pool.live is not None and node.used_mib + node.short_mib + node.need_mib(pool.live) > limits.memory_mib:
        floors = f", {node.short_mib} MiB kept for floors" if node.short_mib else ""
        return f"{node.used_mib} of {limits.memory_mib} MiB are taken{floors}"
    return f"{pool.instances} instances are there"
