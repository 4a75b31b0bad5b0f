"""A world that obeys the scheduler late, or never, and keeps its own books.

It knows what really runs (processes, templates, calls) only from the actions it was told and from what it did itself,
so that the invariants compare two independent accounts. Nothing in here looks into the scheduler but through its views.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from math import inf
from random import Random

from daemon.config.settings import Limits
from daemon.core.actions import Action, Dispatch, Kill, Launch, Refuse, Stop, StopTemplate
from daemon.core.scheduler import PoolSpec, Scheduler
from daemon.core.views import PoolView
from daemon.errors import FunctionCrashed, InitFailed, InitTimeout, StokerError

LIMITS = Limits(
    memory_mib=1500, instances_max=8, function_instances_max=5, queue_max=4, queue_s=10.0, start_s=3.0, stop_s=1.0,
    kill_s=2.0, starts_at_once=2, node_starts_at_once=3, backoff_s=0.5, backoff_s_max=8.0, reuse_calls_max=9,
    reuse_age_s_max=150.0, reuse_growth_fraction_max=0.8, template_idle_s=20.0, templates_max=3, template_mib=24,
)  # fmt: skip
"""Small enough that every limit is reached within a few steps."""


@dataclass
class Process:
    """What the world knows of an instance."""

    function: str
    revision: str
    memory_mib: int
    born_s: float
    ready: bool = False
    call: str | None = None
    stopping: bool = False
    killed: bool = False
    dead: bool = False
    calls: int = 0
    used: bool = False
    grown: bool = False
    idle_since: int = 0
    """Orders all idle ones: those never used, the newest first, then the others, the most recently used last."""

    @property
    def leaving(self) -> bool:
        return self.stopping or self.killed


@dataclass
class Call:
    """What the world knows of a call that has not ended."""

    function: str
    since_s: float
    instance: int | None = None


@dataclass
class World:
    """The shell, the workers and the callers in one."""

    limits: Limits = LIMITS
    now_s: float = 0.0
    processes: dict[int, Process] = field(default_factory=dict)
    calls: dict[str, Call] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    errors: dict[str, StokerError] = field(default_factory=dict)
    stacks: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Idle instances of the live revision of each function, as they became idle."""
    specs: dict[str, PoolSpec] = field(default_factory=dict)
    """Live."""
    prepared: dict[str, PoolSpec] = field(default_factory=dict)
    old: dict[str, PoolSpec] = field(default_factory=dict)
    """By revision: every one that was ever used."""
    templates: set[str] = field(default_factory=set)
    leaving_templates: list[tuple[str, float]] = field(default_factory=list)
    backoff: dict[str, tuple[int, float]] = field(default_factory=dict)
    """By revision: failed starts in a row, and before when none may follow."""
    used_s: dict[str, float] = field(default_factory=dict)
    log: list[Action] = field(default_factory=list)
    template_unused_s: dict[str, float] = field(default_factory=dict)
    """By revision: since when it has no instances."""
    restarted: str = ""
    """The function whose restart was asked for just now."""
    draining: bool = False
    names: int = 0
    broken: bool = False

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.limits, jitter=Random(1).random)

    # Obeying

    def obey(self, actions: list[Action]) -> list[Action]:
        self.broken = True  # until the actions turn out to make sense
        for action in actions:
            self.log.append(action)
            match action:
                case Launch(instance_id, function, revision, _):
                    self._launch(instance_id, function, revision)
                case Dispatch(call_id, instance_id):
                    call = self.calls[call_id]
                    assert call.instance is None, f"{call_id} runs already"
                    self._assign(call_id, instance_id)
                case Refuse(call_id, error):
                    assert self.calls[call_id].instance is None, f"{call_id} runs, it cannot be refused"
                    assert error.call_id == call_id
                    self._end(call_id, error)
                case Stop(instance_id):
                    self._stop(instance_id)
                case Kill(instance_id, error):
                    self._kill(instance_id, error)
                case StopTemplate(revision):
                    assert revision in self.templates, f"{revision} has no template"
                    assert not any(p.revision == revision for p in self.processes.values())
                    self.templates.remove(revision)
                    self.leaving_templates.append((revision, self.now_s))
            assert self.memory_mib() <= self.limits.memory_mib, f"memory oversold by {action}"
        self.broken = False
        return actions

    def _launch(self, instance_id: int, function: str, revision: str) -> None:
        assert instance_id not in self.processes
        assert all(instance_id > known for known in self.processes)
        spec = self.old[revision]
        assert spec.function_id == function
        assert spec in (self.specs.get(function), self.prepared.get(function)), f"{revision} is not wanted"
        assert self.now_s >= self.backoff.get(revision, (0, -inf))[1], "launched while backing off"
        if spec.uses_template:
            self.templates.add(revision)
        self.processes[instance_id] = Process(function, revision, spec.memory_mib, self.now_s)

    def _assign(self, call_id: str, instance_id: int) -> None:
        process, call = self.processes[instance_id], self.calls[call_id]
        assert process.ready
        assert not process.leaving
        assert process.call is None, f"instance {instance_id} holds {process.call}"
        assert process.function == call.function
        spec = self.specs[call.function]
        assert process.revision == spec.revision, "a call went to another revision"
        stack = self.stacks[call.function]
        assert stack.pop() == instance_id, "not the most recently used instance"
        process.used = True
        process.call, call.instance = call_id, instance_id

    def _stop(self, instance_id: int) -> None:
        process = self.processes[instance_id]
        assert process.ready
        assert process.call is None
        assert not process.leaving
        self._unstack(instance_id)
        process.stopping = True
        spec = self.specs.get(process.function)
        if spec is not None and spec.revision == process.revision and process.function != self.restarted:
            old = process.calls >= 0.9 * self.limits.reuse_calls_max - 1 or process.grown
            old = old or self.now_s >= process.born_s + 0.9 * self.limits.reuse_age_s_max
            alive = self.alive(process.function, spec.revision)
            assert old or process.function in self.prepared or alive >= spec.floor, "a floor was given away"

    def _kill(self, instance_id: int, error: StokerError) -> None:
        process = self.processes[instance_id]
        assert not process.killed, f"instance {instance_id} is killed twice"
        process.killed = True
        self._unstack(instance_id)
        if isinstance(error, InitTimeout):
            self._failed(process.revision)
        if process.call is not None:
            self._end(process.call, error)
            process.call = None

    def _failed(self, revision: str) -> None:
        count, retry_s = self.backoff.get(revision, (0, -inf))
        pause_s = min(self.limits.backoff_s * 2 ** (count - 1), self.limits.backoff_s_max)
        if self.now_s < retry_s:
            return  # several at about the same time are one failure
        if self.now_s < retry_s + 0.1 * pause_s:
            self.backoff[revision] = (count, -inf)  # with this jitter, who knows whether it counts
            return
        pause_s = min(self.limits.backoff_s * 2**count, self.limits.backoff_s_max)
        self.backoff[revision] = (count + 1, self.now_s + pause_s if retry_s > -inf or not count else -inf)

    def _unstack(self, instance_id: int) -> None:
        for stack in self.stacks.values():
            if instance_id in stack:
                stack.remove(instance_id)

    def _end(self, call_id: str, how: StokerError | str) -> None:
        assert call_id not in self.ended, f"{call_id} ends twice"
        call = self.calls.pop(call_id)
        if call.instance is not None:
            self.used_s[call.function] = self.now_s
        self.ended[call_id] = how if isinstance(how, str) else how.code
        if not isinstance(how, str):
            self.errors[call_id] = how

    # Callers

    def call(self, function: str, *, settle: bool = True) -> str:
        """A call arrives. Returns its id."""
        self.names += 1
        call_id = f"call{self.names}"
        self.calls[call_id] = Call(function, self.now_s)
        instance_id = self.scheduler.take(function, call_id, now_s=self.now_s)
        if instance_id is not None:
            assert not self.draining
            assert not any(c.instance is None for i, c in self.calls.items() if c.function == function and i != call_id)
            self._assign(call_id, instance_id)
        else:
            refused: StokerError | None = None
            try:
                self.obey(self.scheduler.enqueue(call_id, function, now_s=self.now_s))
            except StokerError as error:
                refused = error
            if refused is not None:
                assert refused.call_id == call_id
                self._end(call_id, refused)
        if settle:
            self.settle()
        return call_id

    def settle(self) -> None:
        if self.scheduler.needs_settle:
            self.obey(self.scheduler.settle(now_s=self.now_s))

    def leave(self, call_id: str) -> None:
        """The caller goes away."""
        call = self.calls[call_id]
        self._end(call_id, "left")
        if call.instance is not None:
            self.processes[call.instance].call = None
        before = len(self.log)
        self.obey(self.scheduler.cancel(call_id, now_s=self.now_s))
        if call.instance is not None:
            assert any(isinstance(a, Kill) and a.instance_id == call.instance for a in self.log[before:])
        assert self.scheduler.cancel(call_id, now_s=self.now_s) == []

    # Workers

    def ready(self, instance_id: int, kind: str = "fork") -> None:
        process = self.processes[instance_id]
        late = process.leaving
        if not late:
            process.ready = True
            self._stack(instance_id)
            self.backoff.pop(process.revision, None)
        actions = self.obey(self.scheduler.ready(instance_id, now_s=self.now_s, kind=kind))
        assert not (late and actions)

    def _stack(self, instance_id: int) -> None:
        process = self.processes[instance_id]
        self.names += 1
        process.idle_since = self.names if process.used else -self.names
        if self._lives(process):
            self.stacks[process.function].insert(len(self.stacks[process.function]) if process.used else 0, instance_id)

    def _lives(self, process: Process) -> bool:
        spec = self.specs.get(process.function)
        return spec is not None and spec.revision == process.revision

    def finish(self, instance_id: int) -> None:
        """The worker answers."""
        process = self.processes[instance_id]
        assert process.call is not None
        self._end(process.call, "ok")
        process.call = None
        process.calls += 1
        self._stack(instance_id)
        self.obey(self.scheduler.release(instance_id, now_s=self.now_s))

    def answer_too_late(self, instance_id: int) -> None:
        """The answer of a worker that was killed, or of one that is gone."""
        before = repr(self.scheduler)
        assert self.scheduler.release(instance_id, now_s=self.now_s) == []
        assert repr(self.scheduler) == before

    def crash(self, instance_id: int) -> None:
        """The process ends by itself. Nobody knows yet."""
        self.processes[instance_id].dead = True

    def end_of_channel(self, instance_id: int) -> None:
        """The caller of a dead worker sees it first."""
        process = self.processes[instance_id]
        assert process.call is not None
        self._end(process.call, "function-crashed")
        process.call = None
        self.obey(self.scheduler.condemn(instance_id, FunctionCrashed(), now_s=self.now_s))

    def reap(self, instance_id: int, error: StokerError | None = None) -> None:
        """The supervisor sees the end of a process."""
        process = self.processes.pop(instance_id)
        self._unstack(instance_id)
        self.template_unused_s[process.revision] = self.now_s
        if process.call is not None:
            self._end(process.call, "function-crashed")
        if not process.ready and not process.killed:
            self._failed(process.revision)
        self.obey(self.scheduler.exited(instance_id, now_s=self.now_s, error=error))

    def start_fails(self, instance_id: int) -> None:
        self.reap(instance_id, InitFailed(detail="Traceback: boom"))

    def template_dies(self, revision: str) -> None:
        self.templates.remove(revision)
        self.obey(self.scheduler.template_gone(revision, now_s=self.now_s))

    def template_reaped(self, revision: str) -> None:
        self.leaving_templates.remove(next(t for t in self.leaving_templates if t[0] == revision))
        self.obey(self.scheduler.template_gone(revision, now_s=self.now_s))

    def grow(self, instance_id: int, fraction: float) -> None:
        process = self.processes[instance_id]
        process.grown = process.grown or fraction > self.limits.reuse_growth_fraction_max
        self.scheduler.used(instance_id, int(process.memory_mib * 2**20 * fraction))
        self.settle()

    # Owners

    def spec(self, function: str, **settings: object) -> PoolSpec:
        """A new revision of a function."""
        self.names += 1
        given: dict[str, object] = {"memory_mib": 128, "timeout_s": 5.0, "idle_timeout_s": 20.0, **settings}
        spec = PoolSpec(function_id=function, revision=f"{function}-{self.names}", **given)  # type: ignore[arg-type]
        self.old[spec.revision] = spec
        return spec

    def configure(self, spec: PoolSpec) -> None:
        function = spec.function_id
        self.old[spec.revision] = spec
        if function not in self.specs or self.specs[function].revision != spec.revision:
            self.backoff.pop(spec.revision, None)
        self.specs[function] = spec
        if self.prepared.get(function) is not None and self.prepared[function].revision == spec.revision:
            del self.prepared[function]
        ready = [i for i, p in self.processes.items() if p.revision == spec.revision and p.ready]
        idle = [i for i in ready if self.processes[i].call is None and not self.processes[i].leaving]
        if set(idle) != set(self.stacks.get(function, [])):
            self.stacks[function] = []
            self.stacks[function] = sorted(idle, key=lambda i: self.processes[i].idle_since)
        self.obey(self.scheduler.configure(spec, now_s=self.now_s))

    def prepare(self, spec: PoolSpec) -> None:
        self.prepared[spec.function_id] = spec
        self.old[spec.revision] = spec
        self.backoff.pop(spec.revision, None)
        self.obey(self.scheduler.prepare(spec, now_s=self.now_s))

    def abandon(self, function: str) -> None:
        spec = self.prepared.pop(function)
        self.obey(self.scheduler.abandon(function, spec.revision, now_s=self.now_s))
        left = [p for p in self.processes.values() if p.revision == spec.revision]
        assert all(p.killed for p in left)

    def forget(self, function: str) -> None:
        waiting = [i for i, c in self.calls.items() if c.function == function and c.instance is None]
        self.specs.pop(function, None)
        self.prepared.pop(function, None)
        self.obey(self.scheduler.forget(function, now_s=self.now_s))
        self.stacks.pop(function, None)
        assert all(self.ended[i] == "not-found" for i in waiting)

    def restart(self, function: str) -> None:
        """All idle and starting instances of the function go; only its floor and calls that wait start new ones."""
        free = [i for i, p in self.processes.items() if p.call is None and not p.leaving]
        mine = [i for i in free if self._lives(self.processes[i]) and self.processes[i].function == function]
        self.restarted = function
        self.obey(self.scheduler.restart(function, now_s=self.now_s))
        self.restarted = ""
        assert all(self.processes[i].leaving for i in mine)

    def drain(self) -> None:
        self.draining = True
        self.scheduler.drain()

    # Time

    def wait(self, seconds: float) -> None:
        """Let time pass; the shell ticks at each deadline. Templates that were told to go do so in time."""
        until_s = self.now_s + seconds
        for _ in range(10_000):
            gone_s = min((s for _, s in self.leaving_templates), default=inf) + self.limits.kill_s * 0.9
            next_s = min(self.scheduler.next_deadline_s(), gone_s)
            assert next_s >= self.now_s or gone_s <= self.now_s, "a deadline lies in the past"
            if next_s > until_s:
                break
            self.now_s = max(next_s, self.now_s)
            for revision, since_s in list(self.leaving_templates):
                if self.now_s >= since_s + self.limits.kill_s * 0.9:
                    self.template_reaped(revision)
            self.tick()
        else:
            raise AssertionError("the deadlines do not end")
        self.now_s = until_s  # no tick: a deadline that was not announced must show

    def tick(self) -> None:
        self.obey(self.scheduler.tick(now_s=self.now_s))
        assert self.scheduler.next_deadline_s() > self.now_s, "a deadline is due after tick"
        assert not self.scheduler.needs_settle

    # Books

    def memory_mib(self) -> int:
        templates = len(self.templates) + len(self.leaving_templates)
        return sum(p.memory_mib for p in self.processes.values()) + templates * self.limits.template_mib

    def of(self, function: str) -> list[int]:
        return [i for i, p in self.processes.items() if p.function == function]

    def alive(self, function: str, revision: str | None = None) -> int:
        mine = [p for p in self.processes.values() if p.function == function and not p.leaving]
        return sum(revision is None or p.revision == revision for p in mine)

    def starting(self, function: str | None = None) -> list[int]:
        return [
            i
            for i, p in self.processes.items()
            if not p.ready and not p.leaving and (function is None or p.function == function)
        ]

    def busy(self, function: str | None = None) -> list[int]:
        return [
            i for i, p in self.processes.items() if p.call is not None and (function is None or p.function == function)
        ]

    def waiting(self, function: str) -> list[str]:
        return [i for i, c in self.calls.items() if c.function == function and c.instance is None]

    def view(self, function: str) -> PoolView:
        view = self.scheduler.pool(function)
        assert view is not None
        return view
