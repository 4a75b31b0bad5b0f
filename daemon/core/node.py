"""The node: every instance, template and reservation, and the few ways in which they change.

Each method changes state, counts, memory and alarms together and notes the action that the shell must perform, so that
no caller can do one without the other. When to do what is decided in ``settle.py`` and ``scheduler.py``.

Memory is a reservation: taken when a launch is decided, given back when the process is GONE. What is being given up
(instances STOPPING or KILLING, templates told to stop) is *coming back*; a launch that counts on it is a *claim* and
waits its turn, so that nobody else takes the room that was made for it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from daemon.config.settings import Limits
from daemon.core import policy
from daemon.core.actions import Action, Dispatch, Kill, Launch, Refuse, Stop, StopTemplate
from daemon.core.alarms import Alarms
from daemon.core.events import Event
from daemon.core.instance import Instance, State
from daemon.core.pool import LeavingTemplate, Pool, Revision, Role, Waiting
from daemon.errors import StokerError

__all__ = ["Node"]


class Node:
    """State of the scheduler. Owned by one ``Scheduler``; nobody else changes it."""

    def __init__(self, limits: Limits, *, jitter: Callable[[], float]) -> None:
        if limits.memory_mib <= 0:
            raise ValueError("limits.memory_mib must be known here: 0 is for the shell to work out")
        self.limits = limits
        self.jitter = jitter
        self.pools: dict[str, Pool] = {}
        self.revisions: dict[str, Revision] = {}
        self.instances: dict[int, Instance] = {}
        self.running: dict[str, Instance] = {}
        """Calls that an instance holds."""
        self.waiting: dict[str, Pool] = {}
        """Calls that wait."""
        self.alarms = Alarms()
        self.actions: list[Action] = []
        self.draining = False
        self.next_id = 1
        self.used_mib = 0
        self.starting = 0
        self.leaving = 0
        self.leaving_mib = 0
        self.templates: dict[str, Revision] = {}
        self.leaving_templates: list[LeavingTemplate] = []
        self.claims: list[Revision] = []
        self.short_mib = 0
        """Sum of what unfilled floors need."""
        self.granted_mib = 0
        """Sum of what all granted floors take when they are full."""
        # Pools and revisions that want something, each in order of its turn.
        self.hungry: dict[str, Pool] = {}
        """Calls wait."""
        self.short: dict[str, Pool] = {}
        """The floor is not filled."""
        self.preparing: dict[str, Revision] = {}
        """A deploy is under way."""
        self.spares: dict[str, Pool] = {}
        """In use, and nothing is ready."""
        self.blocked: tuple[Pool, int] | None = None
        """The first of the hungry that got no memory in the last round, and what it needs."""
        self.crowded = False
        """It was the number of instances that stopped it, not memory."""
        self.turn_s = inf
        """Before this no function that waits for memory has waited long enough to go before all others."""
        self.worn_idle: list[Instance] = []
        """Idle ones that were found to be worn."""
        self.restless = False
        """Somebody wants something: an instance that gets free may be needed elsewhere."""

    # Memory and room

    def need_mib(self, revision: Revision) -> int:
        """What one more instance of the revision takes, with its template when it has none."""
        return revision.spec.memory_mib + (self.limits.template_mib if self.needs_template(revision) else 0)

    @staticmethod
    def needs_template(revision: Revision) -> bool:
        """A launch would start a template too."""
        return revision.spec.uses_template and not revision.template

    def claimed_mib(self, claims: list[Revision]) -> int:
        """What claims will take; a template is counted once."""
        total, templates = 0, set()
        for revision in claims:
            total += revision.spec.memory_mib
            if self.needs_template(revision):
                templates.add(revision.id)
        return total + self.limits.template_mib * len(templates)

    def coming_back_mib(self) -> int:
        """What is being given up at present."""
        return self.leaving_mib + self.limits.template_mib * len(self.leaving_templates)

    def room_mib(self) -> int:
        """What will be free when all that leaves is gone and all claims are met."""
        return self.limits.memory_mib - self.used_mib + self.coming_back_mib() - self.claimed_mib(self.claims)

    def room_instances(self) -> int:
        """How many more instances there may be when all that leaves is gone and all claims are met."""
        return self.limits.instances_max - len(self.instances) + self.leaving - len(self.claims)

    def must_wait(self, revision: Revision, ahead: list[Revision]) -> bool:
        """One more instance of the revision has no place just now, when the claims ``ahead`` of it keep theirs."""
        limits = self.limits
        if (
            self.used_mib + self.claimed_mib([*ahead, revision]) > limits.memory_mib
            or len(self.instances) + len(ahead) >= limits.instances_max
            or revision.pool.instances >= limits.function_instances_max
        ):
            return True
        if not self.needs_template(revision):
            return False
        starting = {other.id for other in ahead if self.needs_template(other)} | {revision.id}
        return (
            len(self.templates) + len(self.leaving_templates) + len(starting) > limits.templates_max
            # One template per revision at a time: the launcher and our books know them by its name.
            or any(template.revision == revision.id for template in self.leaving_templates)
        )

    # Instances

    def launch(self, revision: Revision, now_s: float, *, spare: bool = False) -> None:
        """Reserve an instance's memory, and its template's, and have it started."""
        limits, pool, spec = self.limits, revision.pool, revision.spec
        instance = Instance(
            id=self.next_id,
            revision=revision,
            memory_mib=spec.memory_mib,
            born_s=now_s,
            since_s=now_s,
            deadline_s=now_s + limits.start_s,
            # POLICY: reuse limits with jitter.
            calls_max=max(1, int(policy.reuse_limit(limits.reuse_calls_max, jitter=self.jitter()))),
            retire_at_s=now_s + policy.reuse_limit(limits.reuse_age_s_max, jitter=self.jitter()),
            growth_bytes_max=spec.memory_mib * 2**20 * limits.reuse_growth_fraction_max,
        )
        self.next_id += 1
        self.instances[instance.id] = instance
        revision.instances[instance.id] = instance
        revision.starting += 1
        pool.instances += 1
        pool.held_mib += instance.memory_mib
        self.starting += 1
        if self.needs_template(revision):
            revision.template = True
            self.templates[revision.id] = revision
            self.used_mib += limits.template_mib
        self.used_mib += instance.memory_mib
        revision.doomed = False
        revision.template_idle_s = inf
        self.alarms.set(instance)
        self.actions.append(Launch(instance.id, pool.function_id, revision.id, spare))
        self.count_floor(pool)

    def claim(self, revision: Revision) -> None:
        """Decide a launch that waits until memory comes back."""
        self.claims.append(revision)
        revision.claims += 1
        revision.pool.claims += 1
        revision.pool.held_mib += revision.spec.memory_mib
        self.count_floor(revision.pool)

    def unclaim(self, index: int) -> Revision:
        """Take a claim out of the list: it is met or not wanted any longer."""
        revision = self.claims.pop(index)
        revision.claims -= 1
        revision.pool.claims -= 1
        revision.pool.held_mib -= revision.spec.memory_mib
        self.count_floor(revision.pool)
        return revision

    def make_ready(self, instance: Instance, now_s: float, kind: str) -> None:
        """STARTING -> IDLE."""
        revision = instance.revision
        instance.on(Event.READY, now_s=now_s, deadline_s=self.idle_until_s(instance, now_s))
        instance.kind = kind
        revision.starting -= 1
        self.starting -= 1
        revision.idle.insert(0, instance)  # POLICY: one that was used is taken before one that never was
        revision.forgive()
        self.alarms.set(instance)

    def idle_until_s(self, instance: Instance, now_s: float) -> float:
        """POLICY: an instance that got idle now goes after the idle timeout, or when it is too old."""
        return min(now_s + instance.revision.idle_timeout_s, instance.retire_at_s)

    def assign(self, pool: Pool, instance: Instance, call_id: str, now_s: float) -> None:
        """IDLE -> BUSY, for an instance that was just taken from the stack."""
        deadline_s = now_s + pool.timeout_s
        instance.on(Event.ASSIGNED, now_s=now_s, deadline_s=deadline_s)
        instance.call_id = call_id
        self.running[call_id] = instance
        if deadline_s < instance.alarm_s:
            self.alarms.set(instance)
        self.note_taken(pool, instance)

    def note_taken(self, pool: Pool, instance: Instance) -> bool:
        """Count a call that an instance of the live revision has just got. True: settle() has something to do."""
        if not instance.calls:
            kind = "spare" if instance.waited else instance.kind
            pool.first_calls[kind] = pool.first_calls.get(kind, 0) + 1
        if pool.granted and pool.live is not None and pool.live.busy > pool.granted:
            pool.spillover += 1
        # POLICY: one spare ahead of demand. Only noted here: settle() has the time to start it.
        if pool.idle or pool.spare_asked:
            return False
        pool.spare_asked = True
        self.spares[pool.function_id] = pool
        return True

    def dispatch(self, pool: Pool, instance: Instance, now_s: float) -> None:
        """Give the oldest waiting call to an instance that was just taken from the stack."""
        call_id, _ = pool.waiting.popitem(last=False)
        del self.waiting[call_id]
        self.assign(pool, instance, call_id, now_s)
        self.actions.append(Dispatch(call_id, instance.id))

    def retire(self, instance: Instance, now_s: float) -> None:
        """IDLE -> STOPPING."""
        instance.on(Event.RETIRED, now_s=now_s, deadline_s=now_s + self.limits.stop_s)
        instance.revision.idle.remove(instance)
        self._leave(instance)
        self.alarms.set(instance)
        self.actions.append(Stop(instance.id))

    def kill(self, instance: Instance, event: Event, error: StokerError, now_s: float) -> None:
        """Any state but KILLING and GONE -> KILLING, by DEADLINE or CONDEMNED.

        Nothing but its exit ends KILLING. Its deadline only says from when nobody counts on its memory any longer.
        """
        was = instance.state
        instance.on(event, now_s=now_s, deadline_s=now_s + self.limits.kill_s)
        self._take_out(instance, was, now_s)
        if was is not State.STOPPING:
            self._leave(instance)
        self.alarms.set(instance)
        self.actions.append(Kill(instance.id, error))

    def bury(self, instance: Instance, now_s: float) -> State:
        """Any state -> GONE: its memory is free. Returns the state in which it ended."""
        was = instance.state
        instance.on(Event.EXITED, now_s=now_s)
        revision, pool = instance.revision, instance.revision.pool
        self._take_out(instance, was, now_s)
        if was is State.STOPPING or was is State.KILLING:
            revision.leaving -= 1
            self._stop_counting_on(instance)
        else:
            pool.held_mib -= instance.memory_mib
        self.used_mib -= instance.memory_mib
        pool.instances -= 1
        pool.answered += instance.calls
        del self.instances[instance.id]
        del revision.instances[instance.id]
        self.alarms.drop(instance)
        self.count_floor(pool)
        if not revision.instances:
            self._last_one_gone(revision, now_s)
        self.drop_empty(pool)
        return was

    def drop_empty(self, pool: Pool) -> None:
        """Forget a pool that serves nothing, when its last instance is gone."""
        if pool.live is None and pool.prepared is None and not pool.instances:
            self.pools.pop(pool.function_id, None)

    def give_up_on(self, instance: Instance) -> None:
        """It should be gone but is not: its memory stays reserved, and no launch is decided in view of it."""
        self._stop_counting_on(instance)
        instance.deadline_s = inf

    def _stop_counting_on(self, instance: Instance) -> None:
        if not instance.stuck:
            instance.stuck = True
            instance.revision.pool.leaving -= 1
            self.leaving -= 1
            self.leaving_mib -= instance.memory_mib

    def _take_out(self, instance: Instance, was: State, now_s: float) -> None:
        revision = instance.revision
        if was is State.STARTING:
            revision.starting -= 1
            self.starting -= 1
        elif was is State.IDLE:
            revision.idle.remove(instance)
        elif was is State.BUSY:
            del self.running[instance.call_id]
            instance.call_id = ""
            revision.used_s = now_s
            revision.pool.broken += 1

    def _leave(self, instance: Instance) -> None:
        instance.relieved_s = inf
        instance.revision.leaving += 1
        instance.revision.pool.leaving += 1
        instance.revision.pool.held_mib -= instance.memory_mib
        self.leaving += 1
        self.leaving_mib += instance.memory_mib
        self.count_floor(instance.revision.pool)

    # Templates

    def _last_one_gone(self, revision: Revision, now_s: float) -> None:
        if revision.role is Role.OUTGOING and not revision.claims:
            self.stop_template(revision, now_s)
            self.revisions.pop(revision.id, None)
            self.alarms.drop(revision)
        elif revision.doomed:
            self.stop_template(revision, now_s)
        elif revision.template:
            # POLICY: a template without instances stays for a while: the next cold start is a fork, not a boot.
            revision.template_idle_s = now_s + self.limits.template_idle_s
            self.arm(revision, now_s)

    def stop_template(self, revision: Revision, now_s: float) -> None:
        """End a template that has no instances; its memory comes back when it is gone. Without one: nothing."""
        revision.doomed = False
        revision.template_idle_s = inf
        if not revision.template:
            return
        revision.template = False
        del self.templates[revision.id]
        leaving = LeavingTemplate(revision.id, now_s + self.limits.kill_s)
        self.leaving_templates.append(leaving)
        self.alarms.set(leaving)
        self.actions.append(StopTemplate(revision.id))

    def template_left(self, leaving: LeavingTemplate) -> None:
        """A template that was told to stop is gone."""
        self.leaving_templates.remove(leaving)
        self.alarms.drop(leaving)
        self.used_mib -= self.limits.template_mib

    def template_lost(self, revision: Revision) -> None:
        """A template went without being told to."""
        revision.template, revision.doomed, revision.template_idle_s = False, False, inf
        del self.templates[revision.id]
        self.used_mib -= self.limits.template_mib
        self.count_floor(revision.pool)

    # Calls, floors, alarms

    def enqueue(self, pool: Pool, call_id: str, now_s: float) -> None:
        """Put a call at the end of its function's queue."""
        pool.waiting[call_id] = Waiting(call_id, now_s, now_s + self.limits.queue_s)
        self.waiting[call_id] = pool
        self.hungry.setdefault(pool.function_id, pool)
        turn_s = policy.turn_starts_s(waiting_since_s=now_s, queue_s=self.limits.queue_s, not_before_s=-inf)
        self.turn_s = min(self.turn_s, turn_s)
        self.alarms.set(pool)

    def refuse(self, pool: Pool, call_id: str, error: StokerError) -> None:
        """Take a call out of the queue, with an error."""
        self.forget_call(pool, call_id)
        error.call_id = call_id
        self.actions.append(Refuse(call_id, error))

    def forget_call(self, pool: Pool, call_id: str) -> None:
        """Take a call out of the queue."""
        del pool.waiting[call_id]
        del self.waiting[call_id]
        if not pool.waiting:
            self.hungry.pop(pool.function_id, None)

    def count_floor(self, pool: Pool) -> None:
        """Work out again what the pool's floor still needs."""
        missing = 0
        if pool.live is not None:
            missing = max(0, pool.granted - pool.live.alive - pool.live.claims)
        short_mib = 0
        if missing and pool.live is not None:
            short_mib = missing * pool.live.spec.memory_mib + self.need_mib(pool.live) - pool.live.spec.memory_mib
            self.short.setdefault(pool.function_id, pool)
        else:
            self.short.pop(pool.function_id, None)
        self.short_mib += short_mib - pool.short_mib
        pool.short_mib = short_mib

    def arm(self, revision: Revision, now_s: float) -> None:
        """Set the alarm of a revision whose back-off or template deadline has changed."""
        revision.set_deadline(now_s)
        self.alarms.set(revision)
