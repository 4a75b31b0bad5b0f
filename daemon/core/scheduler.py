"""The scheduler: (what happened, now) -> what to do. One object, one thread, no lock, no I/O, no clock.

The shell tells it every event, obeys the actions that it gets back without a checkpoint in between, sleeps until
``next_deadline_s()`` and then calls ``tick()``. ``take`` and ``release`` are on the path of every call and do nothing
that can wait: when they leave something to do, or a deadline came nearer, they set ``needs_settle``.

Messages about instances that are gone, or being killed, are late and ignored: their sender could not know. Messages
about an instance that never was, or that mean nothing in its state, are bugs and raise.
"""

from __future__ import annotations

from collections.abc import Callable

from daemon import errors
from daemon.config.settings import Limits
from daemon.core import lifecycle, views
from daemon.core.actions import Action
from daemon.core.events import Event
from daemon.core.instance import Instance, State
from daemon.core.lifecycle import start_failed, time_is_up
from daemon.core.node import Node
from daemon.core.pool import Pool, PoolSpec
from daemon.core.settle import refusal_while_backing_off, settle, yields

__all__ = ["PoolSpec", "Scheduler"]

_BUSY = State.BUSY
_ASSIGNED, _RELEASED = Event.ASSIGNED, Event.RELEASED


class Scheduler:
    """All pools of the node and its memory.

    Args:
      limits: ``memory_mib`` must be resolved (not 0).
      jitter: gives numbers in [0, 1).
    """

    __slots__ = ("_alarms", "_concurrency_mib", "_instances", "_node", "_pools", "_running", "needs_settle")

    def __init__(self, limits: Limits, *, jitter: Callable[[], float]) -> None:
        self._node = Node(limits, jitter=jitter)
        self._pools = self._node.pools
        self._instances = self._node.instances
        self._concurrency_mib = limits.concurrency_mib
        self._running = self._node.running
        self._alarms = self._node.alarms
        self.needs_settle = False
        """True: call ``settle()``, and look at ``next_deadline_s()`` again, soon."""

    def __repr__(self) -> str:
        return views.readable(self._node)

    # Calls

    def take(self, function_id: str, call_id: str, *, now_s: float) -> int | None:
        """Give the call to the most recently used idle instance and return its id. None: enqueue the call.

        None is also the answer while others wait for the same function, and while draining.
        """
        pool = self._pools.get(function_id)
        if pool is None or not pool.idle or pool.waiting or self._node.draining:
            return None
        if self._concurrency_mib and self._exceeds(pool):
            return None  # `enqueue` says why
        # POLICY: the most recently used instance first, so that the surplus ages out.
        instance = pool.idle.pop()
        deadline_s = now_s + pool.timeout_s
        instance.on(_ASSIGNED, now_s=now_s, deadline_s=deadline_s)
        instance.call_id = call_id
        self._running[call_id] = instance
        if deadline_s < instance.alarm_s:
            self._alarms.set(instance)
            self.needs_settle = True
        if (not instance.calls or pool.granted or not pool.idle) and self._node.note_taken(pool, instance):
            self.needs_settle = True
        return instance.id

    def enqueue(self, call_id: str, function_id: str, *, now_s: float) -> list[Action]:
        """Let the call wait for an instance; actions may dispatch it at once.

        Raises:
          Draining, NotFound, TooLargeForNode, QueueFull: it was not admitted.
          FunctionError: its function cannot start at present; the text says why and when the next attempt is.
        """
        node = self._node
        pool = node.pools.get(function_id)
        if node.draining:
            raise errors.Draining(detail="the daemon is stopping", call_id=call_id)
        if pool is None or pool.live is None:
            raise errors.NotFound("Fn not found", call_id=call_id)
        live = pool.live
        if live.backing_off(now_s) and live.alive + live.claims == 0:
            error = refusal_while_backing_off(live, now_s)
            error.call_id = call_id
            raise error
        lifecycle.check_size(node, live, call_id)
        # POLICY: a queue per function, with a limit and a time.
        if len(pool.waiting) >= node.limits.queue_max:
            places = f"{len(pool.waiting)} of {node.limits.queue_max} places taken"
            raise errors.QueueFull(detail=f"cannot queue: {places}", call_id=call_id)
        if self._concurrency_mib and self._exceeds(pool):
            raise errors.ConcurrencyLimit(
                detail=f"total-concurrency-mb: {self._used_mib()} MB are in use, {live.spec.memory_mib} MB more are"
                f" over the limit of {self._concurrency_mib} MB (limits.concurrency_mib)",
                call_id=call_id,
            )
        node.enqueue(pool, call_id, now_s)
        return self._rest(now_s)

    def idle_since_s(self, instance_id: int) -> float | None:
        """Since when the instance waits for a call; None: it does not."""
        instance = self._instances.get(instance_id)
        return instance.since_s if instance is not None and instance.state is State.IDLE else None

    def set_timeout(self, instance_id: int, timeout_s: float) -> None:
        """Let the call that the instance holds run for this long instead of its function's timeout (detached calls)."""
        instance = self._instances.get(instance_id)
        if instance is not None and instance.state is _BUSY:
            instance.deadline_s = instance.since_s + timeout_s
            if instance.deadline_s < instance.alarm_s:
                self._alarms.set(instance)
            self.needs_settle = True

    def _exceeds(self, pool: Pool) -> bool:
        """POLICY: what runs and waits has a limit in memory (OCI: total-concurrency-mb)."""
        return pool.live is not None and self._used_mib() + pool.live.spec.memory_mib > self._concurrency_mib

    def _used_mib(self) -> int:
        running = sum(instance.memory_mib for instance in self._running.values())
        pools = self._pools.values()
        return running + sum(p.live.spec.memory_mib * len(p.waiting) for p in pools if p.live is not None and p.waiting)

    def release(self, instance_id: int, *, now_s: float) -> list[Action]:
        """The instance has answered its call: it waits for the next one, gets it at once, or leaves."""
        instance = self._instances.get(instance_id)
        if instance is None or instance.state is not _BUSY:
            return self._late(instance_id, _RELEASED)
        del self._running[instance.call_id]
        instance.call_id = ""
        instance.calls += 1
        revision = instance.revision
        revision.used_s = now_s
        deadline_s = now_s + revision.idle_timeout_s
        if deadline_s > instance.retire_at_s:
            deadline_s = instance.retire_at_s
        instance.on(_RELEASED, now_s=now_s, deadline_s=deadline_s)
        revision.idle.append(instance)
        if deadline_s < instance.alarm_s:
            self._alarms.set(instance)
            self.needs_settle = True
        if (
            revision.accepting
            and not self._node.restless
            and instance.calls < instance.calls_max
            and now_s < instance.retire_at_s
            and not instance.worn
        ):
            return []
        node = self._node
        # POLICY: worn instances, those of an old version, and those that another function needs more, leave.
        if not revision.accepting or yields(node, instance, now_s):
            node.retire(instance, now_s)
        elif instance.is_worn(now_s):
            lifecycle.wear_out(node, instance, now_s)
        return self._rest(now_s)

    def cancel(self, call_id: str, *, now_s: float) -> list[Action]:
        """The caller left. A waiting call is forgotten; a running one takes its instance with it. Idempotent."""
        node = self._node
        if (pool := node.waiting.get(call_id)) is not None:
            node.forget_call(pool, call_id)
            return self._rest(now_s)
        if (instance := node.running.get(call_id)) is None:
            return []
        left = errors.BadRequest("the caller left before the answer", call_id=call_id)
        node.kill(instance, Event.CONDEMNED, left, now_s)
        return self._rest(now_s)

    # Instances

    def ready(self, instance_id: int, *, now_s: float, kind: str = "fork") -> list[Action]:
        """The instance waits for calls. ``kind`` is what the launcher said: ``fork``, ``boot`` or ``exec``."""
        instance = self._instances.get(instance_id)
        if instance is None or instance.is_late(Event.READY):
            return self._late(instance_id, Event.READY)
        lifecycle.make_ready(self._node, instance, now_s, kind)
        actions = self._rest(now_s)
        instance.waited = instance.state is State.IDLE
        return actions

    def condemn(self, instance_id: int, error: errors.StokerError, *, now_s: float) -> list[Action]:
        """The instance must not go on, whatever it does. ``error`` goes to its running call."""
        instance = self._instances.get(instance_id)
        if instance is None or instance.is_late(Event.CONDEMNED):
            return self._late(instance_id, Event.CONDEMNED)
        if instance.state is State.STARTING:
            start_failed(self._node, instance.revision, error, now_s)
        self._node.kill(instance, Event.CONDEMNED, error, now_s)
        return self._rest(now_s)

    def exited(self, instance_id: int, *, now_s: float, error: errors.StokerError | None = None) -> list[Action]:
        """The instance and all its descendants are reaped; its memory is free.

        A call that it was running ends by the end of its channel, not by an action: its answer may be in the pipe.

        Args:
          error: why an instance that was not ready yet ended.
        """
        instance = self._instances.get(instance_id)
        if instance is None:
            return self._late(instance_id, Event.EXITED)
        if self._node.bury(instance, now_s) is State.STARTING:
            ended = error or errors.InitFailed(detail="the worker ended before it was ready")
            start_failed(self._node, instance.revision, ended, now_s)
        return self._rest(now_s)

    def used(self, instance_id: int, memory_bytes: int) -> None:
        """Note what the instance was last measured to hold."""
        instance = self._instances.get(instance_id)
        if instance is None:
            return
        instance.memory_bytes = memory_bytes
        if memory_bytes > instance.growth_bytes_max and not instance.worn:
            instance.worn = True
            if instance.state is State.IDLE:
                self._node.worn_idle.append(instance)
                self.needs_settle = True

    def start_kind(self, instance_id: int) -> str:
        """How the call that the instance holds was started: ``reuse``, ``spare``, ``fork``, ``boot`` or ``exec``."""
        instance = self._instances.get(instance_id)
        if instance is None:
            return ""
        return "reuse" if instance.calls else "spare" if instance.waited else instance.kind

    def template_gone(self, revision: str, *, now_s: float) -> list[Action]:
        """The revision's template is gone: as it was told, or by itself, and then its instances are condemned."""
        lifecycle.template_gone(self._node, revision, now_s)
        return self._rest(now_s)

    # Pools

    def configure(self, spec: PoolSpec, *, now_s: float) -> list[Action]:
        """Make ``spec`` the live revision: of a new function, after changed settings, or the flip of a deploy."""
        lifecycle.configure(self._node, spec, now_s)
        return self._rest(now_s)

    def prepare(self, spec: PoolSpec, *, now_s: float) -> list[Action]:
        """Start instances of a revision that is not live yet: a canary and its floor, as memory allows.

        Raises:
          TooLargeForNode: there will never be room for one.
        """
        lifecycle.prepare(self._node, spec, now_s)
        return self._rest(now_s)

    def check_room(self, spec: PoolSpec) -> None:
        """Refuse a revision before anything is done for it, if there will never be room for an instance of it.

        Raises:
          TooLargeForNode
        """
        lifecycle.check_room(self._node, spec)

    def prepared(self, function_id: str, revision: str) -> tuple[int, int]:
        """(ready, wanted within memory) of a revision that is being prepared; wanted is at least 1."""
        return lifecycle.prepared(self._node, function_id, revision)

    def abandon(self, function_id: str, revision: str, *, now_s: float) -> list[Action]:
        """Kill all of a revision that was being prepared. Idempotent; a live revision is left alone."""
        lifecycle.abandon(self._node, function_id, revision, now_s)
        return self._rest(now_s)

    def forget(self, function_id: str, *, now_s: float) -> list[Action]:
        """The function was deleted: waiting calls are refused, busy instances finish and go. Idempotent."""
        lifecycle.forget(self._node, function_id, now_s)
        return self._rest(now_s)

    def restart(self, function_id: str, *, now_s: float) -> list[Action]:
        """End the function's idle and starting instances: the next call starts one, the floor is filled anew."""
        lifecycle.restart(self._node, function_id, now_s)
        return self._rest(now_s)

    # Time

    def tick(self, *, now_s: float) -> list[Action]:
        """Do what is due. To be called when ``next_deadline_s()`` is reached; earlier does no harm."""
        for what in self._alarms.due(now_s):
            time_is_up(self._node, what, now_s)
        return self.settle(now_s=now_s)

    def next_deadline_s(self) -> float:
        """When ``tick`` is to be called next; inf: not before something else happens."""
        return self._alarms.next_s()

    def settle(self, *, now_s: float) -> list[Action]:
        """Do what ``take``, ``release`` and ``used`` had no time for."""
        lifecycle.retire_worn(self._node, now_s)
        actions = self._rest(now_s)
        self._alarms.nearer = self.needs_settle = False
        return actions

    def drain(self) -> None:
        """Admit no new calls, and start nothing but for calls that wait already."""
        self._node.draining = True

    # Views

    def instances(self) -> list[views.InstanceView]:
        """All instances that are not gone, oldest first."""
        return [views.instance_view(instance) for instance in self._instances.values()]

    def pools(self) -> list[views.PoolView]:
        """All functions."""
        return views.pool_views(self._node)

    def pool(self, function_id: str) -> views.PoolView | None:
        """One function; None: there is none."""
        pool = self._pools.get(function_id)
        return views.pool_view(self._node, pool) if pool is not None else None

    def node(self) -> views.NodeView:
        """The node's memory and counts."""
        return views.node_view(self._node)

    # Helpers

    def _rest(self, now_s: float) -> list[Action]:
        node = self._node
        settle(node, now_s)
        if self._alarms.nearer:
            self._alarms.nearer, self.needs_settle = False, True
        actions, node.actions = node.actions, []
        return actions

    def _late(self, instance_id: int, event: Event) -> list[Action]:
        instance: Instance | None = self._instances.get(instance_id)
        if instance is not None and not instance.is_late(event):
            instance.on(event, now_s=instance.since_s)  # raises: the table has no entry
        if instance is None and not 0 < instance_id < self._node.next_id:
            raise KeyError(f"there never was an instance {instance_id}")
        return []
