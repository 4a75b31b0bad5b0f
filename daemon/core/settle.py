"""Bring the node to rest: give free instances to waiting calls, then start what is wanted, making room for it.

``settle`` is called after every event that may have changed who could have what. It runs until nothing more can be
done, in this order, which is a policy of its own:

1. idle instances go to waiting calls; calls of a function that cannot start are refused;
2. launches that were decided earlier and whose memory has come back;
3. provisioned floors; 4. versions that are being deployed; 5. waiting calls, round robin; 6. spares.
"""

from __future__ import annotations

from math import inf
from operator import attrgetter

from daemon.core import policy
from daemon.core.instance import Instance
from daemon.core.node import Node
from daemon.core.pool import Pool, Revision, Role
from daemon.core.room import admit
from daemon.errors import InitFailed, StokerError

__all__ = ["prepared_missing", "refusal_while_backing_off", "settle", "start_replacement", "yields"]


def settle(node: Node, now_s: float) -> None:
    """Do everything that can be done now. Cheap when nobody wants anything."""
    if node.hungry:
        _serve(node, now_s)
    if node.claims:
        _meet_claims(node, now_s)
    if not node.draining:
        if node.short:
            _fill_floors(node, now_s)
        if node.preparing:
            _start_prepared(node, now_s)
    node.blocked, node.crowded = None, False
    if node.hungry:
        _scale_out(node, now_s)
    if node.spares:
        _start_spares(node, now_s)
    node.restless = bool(node.hungry or node.claims or node.short or node.preparing)


def _serve(node: Node, now_s: float) -> None:
    for pool in list(node.hungry.values()):
        while pool.waiting and pool.idle:
            # POLICY: the most recently used instance first, so that the surplus ages out.
            node.dispatch(pool, pool.idle.pop(), now_s)
        live = pool.live
        if not pool.waiting:
            del node.hungry[pool.function_id]
        elif live is not None and live.alive + live.claims == 0 and live.backing_off(now_s):
            # POLICY: the reason of a failed start goes to those who wait only when nobody is left who could serve them.
            for call_id in list(pool.waiting):
                node.refuse(pool, call_id, refusal_while_backing_off(live, now_s))


def refusal_while_backing_off(revision: Revision, now_s: float) -> StokerError:
    """The error of the last failed start, and when the next attempt is. A new object for each call."""
    error = revision.start_error or InitFailed()
    later = f"next start attempt in {max(0.0, revision.retry_s - now_s):.1f} s"
    return type(error)(error.message, detail=f"{error.detail}\n{later}" if error.detail else later)


def _meet_claims(node: Node, now_s: float) -> None:
    _drop_claims(node, now_s)
    ahead: list[Revision] = []
    for revision in node.claims.copy():
        if node.must_wait(revision, ahead):
            ahead.append(revision)  # it keeps its place, those behind it take only what is beyond
        else:
            node.unclaim(len(ahead))
            node.launch(revision, now_s)


def _drop_claims(node: Node, now_s: float) -> None:
    """Give up claims that nobody needs any longer, or that nothing will satisfy."""
    for index in range(len(node.claims) - 1, -1, -1):
        revision = node.claims[index]
        pool = revision.pool
        if revision.role is Role.PREPARED:
            wanted = max(1, revision.spec.floor) - revision.alive if revision.start_error is None else 0
        elif revision.role is Role.LIVE and not revision.backing_off(now_s):
            wanted = max(pool.granted - revision.alive, len(pool.waiting) - revision.starting)
        else:
            wanted = 0
        if revision.claims > wanted:
            node.unclaim(index)
    while node.claims and (node.room_mib() < 0 or node.room_instances() < 0 or not _slots_will_come(node)):
        node.unclaim(len(node.claims) - 1)
    for index in range(len(node.claims) - 1, -1, -1):
        if node.claims[index].pool.room_instances(node.limits.function_instances_max) < 0:
            node.unclaim(index)


def _slots_will_come(node: Node) -> bool:
    """There will be a place for the template of each claim."""
    wanted = {revision.id for revision in node.claims if node.needs_template(revision)}
    doomed = sum(revision.doomed for revision in node.templates.values())
    return len(node.templates) - doomed + len(wanted) <= node.limits.templates_max


def _start_places(node: Node, revision: Revision, *, background: bool) -> int:
    """POLICY: starts are paced per function and per node; those that nobody waits for take at most half."""
    limits = node.limits
    most = limits.node_starts_at_once
    if background:
        most = policy.background_starts_max(most)
    return min(limits.starts_at_once - revision.coming, most - node.starting - len(node.claims))


def _fill_floors(node: Node, now_s: float) -> None:
    for pool in list(node.short.values()):
        live = pool.live
        if live is None or live.backing_off(now_s):
            continue
        while pool.function_id in node.short and _start_places(node, live, background=True) > 0:
            # POLICY: what a floor was granted it gets, from idle instances of others if need be.
            if not admit(node, live, now_s, keep_mib=0, evict=True):
                break


def start_replacement(node: Node, revision: Revision, now_s: float) -> bool:
    """Start one more of a live revision that is full, if there is free memory for it."""
    return (
        not revision.backing_off(now_s)
        and not revision.pool.waiting
        and _start_places(node, revision, background=True) > 0
        and admit(node, revision, now_s, keep_mib=node.short_mib - revision.pool.short_mib, evict=False)
    )


def prepared_missing(node: Node, revision: Revision) -> int:
    """Instances that a revision being deployed still lacks, whether or not there is room for them."""
    if revision.start_error is not None:
        return 0
    return max(0, max(1, revision.spec.floor) - revision.alive - revision.claims)


def _start_prepared(node: Node, now_s: float) -> None:
    for revision in list(node.preparing.values()):
        pool = revision.pool
        if pool.live is not None:
            pool.live.accepting = True
        while prepared_missing(node, revision) > 0:
            canary = revision.alive + revision.claims == 0
            if _start_places(node, revision, background=not canary) <= 0:
                break
            keep_mib = node.short_mib - pool.short_mib
            if not admit(node, revision, now_s, keep_mib=keep_mib, evict=True):
                if canary:
                    _sacrifice(node, revision, keep_mib, now_s)
                break


def _sacrifice(node: Node, canary: Revision, keep_mib: int, now_s: float) -> None:
    """POLICY: without room for even a canary, the version that it replaces makes room, one instance as it gets free."""
    live = canary.pool.live
    if live is None:
        return
    need_mib = node.need_mib(canary) + keep_mib
    if node.room_mib() + live.alive * live.spec.memory_mib < need_mib:
        return  # it would be in vain
    while live.idle:
        node.retire(live.idle[0], now_s)
        if admit(node, canary, now_s, keep_mib=keep_mib, evict=True):
            return
    live.accepting = False


def _scale_out(node: Node, now_s: float) -> None:
    """POLICY: round robin, one launch per function and round, those first that hold least."""
    first = _whose_turn(node, now_s)
    progress = True
    while progress:
        progress = False
        for pool in [first] if first is not None else sorted(node.hungry.values(), key=attrgetter("held_mib")):
            live = pool.live
            # The quick ways out come first: on a full node hundreds may wait.
            if node.crowded or node.starting + len(node.claims) >= node.limits.node_starts_at_once:
                break
            if live is None or (node.blocked is not None and live.spec.memory_mib >= node.blocked[1]):
                continue
            if live.backing_off(now_s):
                continue
            wanted = policy.launches_wanted(waiting=len(pool.waiting), idle=len(pool.idle), starting=live.coming)
            if wanted == 0 or _start_places(node, live, background=False) <= 0:
                continue
            if _start_for_a_call(node, pool, live, now_s):
                del node.hungry[pool.function_id]
                node.hungry[pool.function_id] = pool
                progress = True
        if first is not None and node.blocked is None:
            first, progress = None, True  # it has what it needs: the others go on


def _whose_turn(node: Node, now_s: float) -> Pool | None:
    """The function that waits for memory for so long that it goes before all others."""
    if now_s < node.turn_s:
        return None
    turn, oldest_s, node.turn_s = None, inf, inf
    for pool in node.hungry.values():
        since_s = next(iter(pool.waiting.values())).since_s
        starts_s = policy.turn_starts_s(
            waiting_since_s=since_s, queue_s=node.limits.queue_s, not_before_s=pool.no_turn_before_s
        )
        node.turn_s = min(node.turn_s, starts_s)
        live = pool.live
        if live is None or live.backing_off(now_s) or len(pool.waiting) <= live.coming:
            continue
        if starts_s <= now_s and since_s < oldest_s and live.alive == 0:
            turn, oldest_s = pool, since_s
    return turn


def _start_for_a_call(node: Node, pool: Pool, live: Revision, now_s: float) -> bool:
    need_mib = node.need_mib(live)
    if pool.room_instances(node.limits.function_instances_max) <= 0:
        return False
    if node.blocked is not None:
        first, first_need_mib = node.blocked
        if need_mib >= first_need_mib or not policy.may_grow(
            held_mib=pool.held_mib,
            need_mib=need_mib,
            blocked_held_mib=first.held_mib,
            blocked_need_mib=first_need_mib,
        ):
            return False
    # POLICY: memory that an unfilled floor needs is not there for others.
    keep_mib = node.short_mib - pool.short_mib
    if admit(node, live, now_s, keep_mib=keep_mib, evict=True):
        return True
    node.crowded = node.room_instances() <= 0
    if node.blocked is None and (node.crowded or node.room_mib() - keep_mib < need_mib):
        node.blocked = (pool, need_mib)
    return False


def yields(node: Node, instance: Instance, now_s: float) -> bool:
    """Whether an instance that just got free goes away, though calls of its own function wait, for another function."""
    pool = instance.revision.pool
    if node.blocked is None or node.blocked[0] is pool or instance.revision.lasting <= pool.granted:
        return False
    other, need_mib = node.blocked
    if not other.waiting or not (node.crowded or node.room_mib() - node.short_mib < need_mib):
        return False
    # POLICY: memory moves to the function whose turn it is, or from one with a queue to one that has less.
    if _whose_turn(node, now_s) is other:
        return True
    return bool(pool.waiting) and policy.must_yield(
        held_mib=pool.held_mib,
        instance_mib=instance.memory_mib,
        blocked_held_mib=other.held_mib,
        blocked_need_mib=need_mib,
    )


def _start_spares(node: Node, now_s: float) -> None:
    """POLICY: a spare takes only what is free and wanted by nobody; it never evicts and never waits."""
    for pool in list(node.spares.values()):
        live = pool.live
        wanted = (
            live is not None
            and not node.draining
            and not pool.waiting
            and not live.backing_off(now_s)
            and policy.spare_wanted(in_use=live.in_use(now_s), idle=len(live.idle), starting=live.coming)
            and pool.instances + pool.claims < node.limits.function_instances_max
        )
        if wanted and live is not None:
            if node.blocked is not None or node.claims or _start_places(node, live, background=True) <= 0:
                return
            if not admit(node, live, now_s, keep_mib=node.short_mib - pool.short_mib, evict=False):
                del node.spares[pool.function_id]
                node.spares[pool.function_id] = pool  # at the end: a large one must not keep the small ones waiting
                return
        del node.spares[pool.function_id]
        pool.spare_asked = False
