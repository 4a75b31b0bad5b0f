"""Property tests: whatever happens in whatever order, and however late the world obeys, these sentences hold."""

from __future__ import annotations

import os
from collections.abc import Callable
from math import inf
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from daemon.core.pool import PoolSpec
from daemon.errors import TooLargeForNode
from tests.core.world import LIMITS, World

T = TypeVar("T")

FUNCTIONS = {
    "small": {"memory_mib": 128, "timeout_s": 5.0, "idle_timeout_s": 20.0},
    "other": {"memory_mib": 128, "timeout_s": 8.0, "idle_timeout_s": 6.0},
    "large": {"memory_mib": 700, "timeout_s": 12.0, "idle_timeout_s": 9.0},
    "alone": {"memory_mib": 300, "timeout_s": 3.0, "idle_timeout_s": 15.0, "uses_template": False},
    "floor": {"memory_mib": 128, "timeout_s": 5.0, "idle_timeout_s": 4.0, "floor": 2},
}
EXAMPLES = int(os.environ.get("STOKER_CORE_EXAMPLES", "0"))
"""Set it to look for new cases: that many random ones. Otherwise the same ones in every run."""

functions = st.sampled_from(sorted(FUNCTIONS))
which = st.integers(0, 11)
"""Which one of those that there are: numbers shrink well, and a step keeps its meaning when others are left out."""


class Node(RuleBasedStateMachine):
    """One node with five functions."""

    def __init__(self) -> None:
        super().__init__()
        self.w = World()

    @initialize()
    def deploy_all(self) -> None:
        for function, given in FUNCTIONS.items():
            self.w.configure(self.w.spec(function, **given))

    # Choosing

    def instances(self, **wanted: bool) -> list[int]:
        found = []
        for i, p in self.w.processes.items():
            has = {
                "ready": p.ready,
                "busy": p.call is not None,
                "leaving": p.leaving,
                "killed": p.killed,
                "dead": p.dead,
            }
            if all(has[name] == value for name, value in wanted.items()):
                found.append(i)
        return found

    # Callers

    @rule(function=functions, settle=st.booleans())
    def call(self, function: str, settle: bool) -> None:
        self.w.call(function, settle=settle)

    @rule(function=functions, count=st.integers(2, 5))
    def burst(self, function: str, count: int) -> None:
        for _ in range(count):
            self.w.call(function)

    # Workers

    @rule(which=which)
    def ready(self, which: int) -> None:
        if i := pick(which, self.instances(ready=False, leaving=False, dead=False)):
            self.w.ready(i)

    @rule()
    def all_ready(self) -> None:
        for i in self.instances(ready=False, leaving=False, dead=False):
            if i in self.w.processes and not self.w.processes[i].leaving:
                self.w.ready(i)

    @rule(which=which)
    def finish(self, which: int) -> None:
        if i := pick(which, self.instances(busy=True, dead=False)):
            self.w.finish(i)

    @rule()
    def all_finish(self) -> None:
        for i in self.instances(busy=True, dead=False):
            self.w.finish(i)

    @rule()
    def reap_all(self) -> None:
        for i in self.instances(leaving=True) + self.instances(leaving=False, dead=True):
            self.w.reap(i)

    @rule(kind=which, which=which)
    def something_goes_wrong(self, kind: int, which: int) -> None:
        """One of the kinds for which there is something just now: a step that does nothing proves nothing."""
        w, alive = self.w, self.instances(dead=False, leaving=False)
        gone = [i for i in range(1, max(w.processes, default=0)) if i not in w.processes]
        kinds: list[tuple[Callable[..., None], list[Any]]] = [
            (w.leave, list(w.calls)),
            (w.ready, self.instances(ready=False, killed=True)),
            (w.answer_too_late, self.instances(killed=True) + gone[-2:]),
            (w.crash, alive),
            (w.end_of_channel, self.instances(busy=True, dead=True)),
            (w.reap, self.instances(leaving=True) + self.instances(leaving=False, dead=True)),
            (w.start_fails, self.instances(ready=False, leaving=False)),
            (lambda i: w.grow(i, 0.5 + which % 2 * 0.4), self.instances(ready=True, leaving=False)),
            (w.template_dies, sorted(w.templates)),
            (w.template_reaped, [r for r, _ in w.leaving_templates]),
        ]
        kinds = [(do, targets) for do, targets in kinds if targets]
        if kinds:
            do, targets = kinds[kind % len(kinds)]
            do(targets[which % len(targets)])

    # Time

    @rule(seconds=st.sampled_from([0.0, 0.3, 1.0, 3.0, 6.0, 25.0]))
    def wait(self, seconds: float) -> None:
        self.w.wait(seconds)

    # Owners

    def change_floor(self, function: str, floor: int) -> None:
        spec = self.w.specs[function]
        floor = min(floor, 300 // spec.memory_mib)
        self.w.configure(PoolSpec(**{**_fields(spec), "floor": floor}))

    def prepare(self, function: str) -> None:
        spec = self.w.spec(function, **FUNCTIONS[function])
        others_mib = sum(
            other.floor * other.memory_mib + LIMITS.template_mib * other.uses_template
            for name, other in self.w.specs.items()
            if name != function and other.floor
        )
        need_mib = spec.memory_mib + LIMITS.template_mib * spec.uses_template
        if need_mib <= LIMITS.memory_mib - others_mib:
            self.w.prepare(spec)
        else:
            with pytest.raises(TooLargeForNode):
                self.w.scheduler.prepare(spec, now_s=self.w.now_s)

    def flip(self, function: str) -> None:
        spec = self.w.prepared[function]
        ready, wanted = self.w.scheduler.prepared(function, spec.revision)
        assert wanted >= 1
        if ready >= wanted:
            self.w.configure(spec)

    @rule(kind=which, which=which, floor=st.sampled_from([0, 0, 1, 2]))
    def the_owner(self, kind: int, which: int, floor: int) -> None:
        """Somebody changes, deploys, restarts or deletes a function, or the daemon is told to stop."""
        w = self.w
        live, ever = sorted(w.specs), sorted(FUNCTIONS)
        old = {s.function_id: s for s in w.old.values() if s is not w.specs.get(s.function_id)}
        kinds: list[tuple[Callable[[str], None], list[str]]] = [
            (lambda f: self.change_floor(f, floor), live),
            (lambda f: w.configure(w.spec(f, **FUNCTIONS[f])), ever),
            (self.prepare, ever),
            (self.flip, sorted(w.prepared)),
            (self.flip, sorted(w.prepared)),
            (w.abandon, sorted(w.prepared)),
            (lambda f: w.configure(old[f]), [f for f in live if f in old and f not in w.prepared]),
            (w.restart, live),
            (w.forget, live if len(live) > 3 and which % 4 == 0 else []),
            (lambda _: w.drain(), [""] if w.now_s > 10 and which % 4 == 0 else []),
        ]
        kinds = [(do, targets) for do, targets in kinds if targets]
        do, targets = kinds[kind % len(kinds)]
        do(targets[which % len(targets)])

    # What must always hold

    @invariant()
    def memory_is_never_oversold_and_never_lost(self) -> None:
        assert self.w.memory_mib() <= LIMITS.memory_mib
        assert self.w.memory_mib() == self.w.scheduler.node().used_mib

    @invariant()
    def every_open_call_waits_or_runs_exactly_once(self) -> None:
        running = [v.call_id for v in self.w.scheduler.instances() if v.call_id]
        assert sorted(running) == sorted(i for i, c in self.w.calls.items() if c.instance is not None)
        for view in self.w.scheduler.pools():
            assert view.queue == len(self.w.waiting(view.function_id))
        assert self.w.scheduler.node().waiting == sum(c.instance is None for c in self.w.calls.values())

    @invariant()
    def the_states_are_those_of_the_world(self) -> None:
        views = {v.instance_id: v for v in self.w.scheduler.instances()}
        assert views.keys() == self.w.processes.keys()
        for i, p in self.w.processes.items():
            state = "killing" if p.killed else "stopping" if p.stopping else "starting" if not p.ready else "idle"
            assert views[i].state == ("busy" if p.call is not None else state)
            assert (views[i].call_id or None) == p.call

    @invariant()
    def no_limit_is_exceeded(self) -> None:
        assert len(self.w.processes) <= LIMITS.instances_max
        assert len(self.w.starting()) <= LIMITS.node_starts_at_once
        assert len(self.w.templates) + len(self.w.leaving_templates) <= LIMITS.templates_max
        for function in FUNCTIONS:
            assert len(self.w.of(function)) <= LIMITS.function_instances_max
            assert len(self.w.starting(function)) <= 2 * LIMITS.starts_at_once
            assert len(self.w.waiting(function)) <= LIMITS.queue_max
        for process in self.w.processes.values():
            same = [p for p in self.w.processes.values() if p.revision == process.revision]
            assert sum(not p.ready and not p.leaving for p in same) <= LIMITS.starts_at_once

    @invariant()
    def nothing_outlives_its_deadline(self) -> None:
        longest_s = {"starting": LIMITS.start_s, "stopping": LIMITS.stop_s}
        for view in self.w.scheduler.instances():
            spec = self.w.old[view.revision]
            limit_s = spec.timeout_s if view.state == "busy" else longest_s.get(view.state, inf)
            assert self.w.now_s < view.since_s + limit_s
        assert self.w.scheduler.next_deadline_s() >= self.w.now_s
        for call in self.w.calls.values():
            assert call.instance is not None or self.w.now_s < call.since_s + LIMITS.queue_s

    @invariant()
    def nothing_idles_beyond_its_time(self) -> None:
        for view in self.w.scheduler.instances():
            spec = self.w.specs.get(view.function_id)
            if view.state != "idle" or spec is None or spec.revision != view.revision:
                continue
            assert self.w.now_s < view.born_s + LIMITS.reuse_age_s_max
            busy = len(self.w.busy(view.function_id))
            used_s = self.w.used_s.get(view.function_id, -inf)
            in_use = busy or self.w.now_s < used_s + spec.idle_timeout_s
            if self.w.now_s > view.since_s + spec.idle_timeout_s and not in_use:
                alive = self.w.alive(view.function_id, spec.revision) - len(self.w.starting(view.function_id))
                assert alive <= spec.floor

    @invariant()
    def no_template_outlives_its_time(self) -> None:
        for revision in self.w.templates:
            since_s = self.w.template_unused_s.get(revision)
            if since_s is not None and not any(p.revision == revision for p in self.w.processes.values()):
                assert self.w.now_s < since_s + LIMITS.template_idle_s

    @invariant()
    def nobody_waits_beside_an_idle_instance(self) -> None:
        for function, stack in self.w.stacks.items():
            assert not (stack and self.w.waiting(function))

    @invariant()
    def nobody_waits_while_there_is_room(self) -> None:
        if self.coming_back():
            return
        uncovered = []
        for function, spec in self.w.specs.items():
            missing = len(self.w.waiting(function)) - len(self.starting_live(function))
            if missing > 0 and self.may_start(function, background=False):
                uncovered.append(spec)
        if not uncovered or len(self.w.starting()) >= LIMITS.node_starts_at_once:
            return
        assert any(not self.fits(spec, keep_floors=True) for spec in uncovered), "room, and nobody takes it"

    @invariant()
    def the_floor_holds_while_there_is_room(self) -> None:
        if self.coming_back() or self.w.draining:
            return
        for function, spec in self.w.specs.items():
            missing = spec.floor - self.w.alive(function, spec.revision)
            if missing <= 0 or not self.may_start(function, background=True):
                continue
            assert not self.fits(spec, keep_floors=False), f"{function} lacks {missing} of its floor"

    @invariant()
    def the_status_of_a_floor_adds_up(self) -> None:
        for function, spec in self.w.specs.items():
            pcu = self.w.view(function).pcu
            alive = [v for v in self.w.scheduler.instances() if v.revision == spec.revision]
            started = sum(v.state in ("idle", "busy") for v in alive)
            assert pcu.requested == spec.floor
            assert pcu.allocated == min(spec.floor, started) == pcu.available + pcu.in_use
            assert (pcu.state in ("none", "ready")) == (pcu.allocated == spec.floor)
            assert bool(pcu.reason) == (pcu.state not in ("none", "ready"))

    def coming_back(self) -> bool:
        return bool(self.w.leaving_templates) or any(p.leaving for p in self.w.processes.values())

    def starting_live(self, function: str) -> list[int]:
        revision = self.w.specs[function].revision
        return [i for i in self.w.starting(function) if self.w.processes[i].revision == revision]

    def may_start(self, function: str, *, background: bool) -> bool:
        """Neither pace nor back-off nor a maximum forbids a start."""
        most = LIMITS.node_starts_at_once // 2 if background else LIMITS.node_starts_at_once
        return (
            len(self.starting_live(function)) < LIMITS.starts_at_once
            and len(self.w.starting()) < most
            and len(self.w.of(function)) < LIMITS.function_instances_max
            and self.w.view(function).retry_s <= self.w.now_s
        )

    def fits(self, spec: PoolSpec, *, keep_floors: bool) -> bool:
        """One more instance would fit, if all that may be evicted for it were."""
        free_mib = LIMITS.memory_mib - self.w.memory_mib()
        places = LIMITS.instances_max - len(self.w.processes)
        for function, other in self.w.specs.items():
            if function == spec.function_id:
                continue
            missing = other.floor - self.w.alive(function, other.revision)
            if keep_floors and missing > 0:
                free_mib -= missing * other.memory_mib
                free_mib -= LIMITS.template_mib if other.uses_template and other.revision not in self.w.templates else 0
            # A worn instance of a floor and the one that replaces it count as one.
            worn = sum(self.w.processes[i].grown for i in self.w.of(function)) + len(self.starting_live(function))
            spared = min(len(self.w.stacks.get(function, [])), max(0, -missing - (worn if other.floor else 0)))
            free_mib += spared * other.memory_mib
            places += spared
        unused = {r for r in self.w.templates if not any(p.revision == r for p in self.w.processes.values())}
        free_mib += len(unused - {spec.revision}) * LIMITS.template_mib
        need_mib = spec.memory_mib
        if spec.uses_template and spec.revision not in self.w.templates:
            need_mib += LIMITS.template_mib
            if len(self.w.templates) >= LIMITS.templates_max:
                return False  # who gives a template up is tested elsewhere
        return free_mib >= need_mib and places >= 1

    def teardown(self) -> None:
        """In an obedient world every call ends, and what is forgotten leaves nothing behind."""
        if self.w.broken:
            return
        for _ in range(400):
            if not self.w.calls:
                break
            self.reap_all()
            self.all_ready()
            self.all_finish()
            self.w.wait(0.2)
        assert not self.w.calls
        for function in FUNCTIONS:
            if function in self.w.prepared:
                self.w.abandon(function)
            self.w.forget(function)
        for _ in range(3):
            self.reap_all()
            self.w.wait(5.0)
        assert self.w.scheduler.node().used_mib == 0
        assert self.w.scheduler.next_deadline_s() == inf
        assert self.w.scheduler.pools() == []


def pick(which: int, among: list[T]) -> T | None:
    return among[which % len(among)] if among else None


def _fields(spec: PoolSpec) -> dict[str, object]:
    return {name: getattr(spec, name) for name in PoolSpec.__dataclass_fields__}


TestNode = Node.TestCase
TestNode.settings = settings(
    max_examples=EXAMPLES or 200,
    derandomize=not EXAMPLES,
    phases=[Phase.generate] if os.environ.get("STOKER_CORE_MUTANT") else list(Phase),
    stateful_step_count=60,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
