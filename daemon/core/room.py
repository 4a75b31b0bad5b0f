"""Make room on the node: whether one more instance fits, and who goes for it."""

from __future__ import annotations

from daemon.core import policy
from daemon.core.instance import Instance
from daemon.core.node import Node
from daemon.core.pool import Revision, Role

__all__ = ["admit", "evictable"]


def admit(node: Node, revision: Revision, now_s: float, *, keep_mib: int, evict: bool) -> bool:
    """Launch one more instance if there is room, or will be once others have left: then it becomes a claim.

    Args:
      keep_mib: memory that must stay free (floors of others that are not filled).
      evict: idle instances and templates of others may be given up for it. Without it nothing is claimed either.

    Returns: False, with nothing changed, when there is no room.
    """
    limits, pool = node.limits, revision.pool
    if pool.room_instances(limits.function_instances_max) <= 0:
        return False
    short_mib = node.need_mib(revision) + keep_mib - node.room_mib()
    short_instances = 1 - node.room_instances()
    slot = _template_slot(node, revision)
    if evict:
        if slot is None:
            return False
        if (short_mib > 0 or short_instances > 0) and not _evict(
            node, revision, now_s, need_mib=short_mib, need_instances=short_instances, slot=slot
        ):
            return False
        for holder in slot:
            _give_template_up(node, holder, now_s)
    elif short_mib > 0 or short_instances > 0 or slot != []:
        return False
    if node.must_wait(revision, node.claims):
        if not evict:
            return False
        node.claim(revision)
    else:
        node.launch(revision, now_s, spare=not evict)
    return True


def _evict(
    node: Node, revision: Revision, now_s: float, *, need_mib: int, need_instances: int, slot: list[Revision]
) -> bool:
    """POLICY: spares first, then templates of idle functions, then idle instances of others, oldest first."""
    given = [holder for holder in slot if not holder.instances]
    need_mib -= len(given) * node.limits.template_mib
    for holder in slot:
        need_mib -= sum(i.memory_mib for i in holder.idle)
        need_instances -= len(holder.idle)
    taken = {holder.id for holder in slot}
    spares, others = evictable(node, besides=revision.pool.function_id)
    spares = [i for i in spares if i.revision.id not in taken]
    others = [i for i in others if i.revision.id not in taken]
    templates = [r for r in idle_templates(node, revision) if r.id not in taken]
    things: list[Instance | Revision] = [*spares, *templates, *others]
    chosen = policy.victims(
        [
            policy.Victim(key, thing.memory_mib, 1)
            if isinstance(thing, Instance)
            else policy.Victim(key, node.limits.template_mib, 0)
            for key, thing in enumerate(things)
        ],
        need_mib=need_mib,
        need_instances=need_instances,
    )
    if not chosen and (need_mib > 0 or need_instances > 0):
        return False
    for victim in chosen:
        thing = things[victim.key]
        if isinstance(thing, Instance):
            node.retire(thing, now_s)
        else:
            node.stop_template(thing, now_s)
    return True


def evictable(node: Node, *, besides: str) -> tuple[list[Instance], list[Instance]]:
    """Idle instances of other functions above their floor: (never used ones, the others), each oldest first."""
    above: dict[str, int] = {}
    spares: list[Instance] = []
    others: list[Instance] = []
    for instance in _oldest_first(node):
        revision = instance.revision
        pool = revision.pool
        if pool.function_id == besides or revision.role is not Role.LIVE:
            continue
        left = above.setdefault(pool.function_id, revision.lasting - pool.granted)
        if left <= 0:
            continue
        above[pool.function_id] = left - 1
        (others if instance.calls else spares).append(instance)
    return spares, others


def _oldest_first(node: Node) -> list[Instance]:
    idle = [i for pool in node.pools.values() for i in pool.idle]
    idle.sort(key=lambda i: (bool(i.calls), i.since_s, i.id))
    return idle


def idle_templates(node: Node, revision: Revision) -> list[Revision]:
    """Templates that no instance was forked from and none is about to be, longest unused first."""
    unused = [r for r in node.templates.values() if r is not revision and not r.instances and not r.claims]
    unused.sort(key=lambda r: r.template_idle_s)
    return unused


def _template_slot(node: Node, revision: Revision) -> list[Revision] | None:
    """Which templates must go so that the revision can have one: none, one, or None if that cannot be had."""
    if not node.needs_template(revision):
        return []
    wanted = {r.id for r in node.claims if node.needs_template(r)} | {revision.id}
    doomed = sum(r.doomed for r in node.templates.values())
    if len(node.templates) - doomed + len(wanted) <= node.limits.templates_max:
        return []
    if unused := [r for r in idle_templates(node, revision) if not r.doomed]:
        return unused[:1]
    # POLICY: with all templates in use, the longest unused function whose instances are all idle gives its up.
    quiet = [
        r
        for r in node.templates.values()
        if r.pool is not revision.pool
        and r.role is Role.LIVE
        and not r.doomed
        and not r.claims
        and not r.pool.granted
        and len(r.idle) == r.alive
    ]
    return [min(quiet, key=lambda r: r.used_s)] if quiet else None


def _give_template_up(node: Node, holder: Revision, now_s: float) -> None:
    if not holder.instances:
        node.stop_template(holder, now_s)
        return
    holder.doomed = True
    for instance in list(holder.idle):
        node.retire(instance, now_s)
