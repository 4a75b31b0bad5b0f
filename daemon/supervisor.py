"""Owns every instance: one task each, from launch to reaped; obeys the scheduler and decides nothing.

The warm path does not come through here: the caller's own task takes an idle instance and talks to its channel
(`daemon.invoker`). This module owns launch, exit, kill, reap, the one timer of the scheduler, and the memory watch.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn, Protocol

import trio

from daemon import errors
from daemon.config.settings import Limits
from daemon.core import actions
from daemon.core.scheduler import PoolSpec, Scheduler
from daemon.errors import StokerError
from daemon.logs.book import FunctionLog, LogBook
from daemon.model import LaunchPlan
from daemon.telemetry.calls import StartPhases, start_phases, told_s
from daemon.workers.output import OutputReader

IDLE_MEMORY_POLL_S = 1.0
"""How often the memory of an instance that is not in a call is measured."""
SPARE_DELAY_S = 0.01
"""How long a launch that no call waits for is put off: it must not compete with the cold call that caused it."""
OUTPUT_GRACE_S = 0.25
"""How long the output of an ended worker may still trickle in, from a child that holds its pipes."""


class Launcher(Protocol):
    """What the supervisor needs of `daemon.workers.launcher.Launcher`; the tests' fake has the same shape."""

    def launch(
        self, plan: LaunchPlan, *, instance_id: int, on_boot_output: Callable[[bytes], None]
    ) -> AbstractAsyncContextManager[Any]: ...

    def stop_template(self, revision: str) -> None: ...


@dataclass(slots=True)
class Slot:
    """One instance, as the shell sees it. ``scope`` is cancelled to kill it."""

    instance_id: int
    plan: LaunchPlan
    spare: bool = False
    """Nobody waits for it yet."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    worker: Any = None
    channel: Any = None
    output: OutputReader | None = None
    frozen: bool = False
    """Whether its processes are stopped, to use nothing while it is idle: `daemon.workers.freezer`."""
    call_id: str = ""
    """The call that runs on it now, or empty."""
    call_since_s: float = 0.0
    launched_s: float = field(default_factory=trio.current_time)
    ready_s: float = math.inf
    memory_bytes: int = 0
    memory_peak_bytes: int = 0
    call_peak_bytes: int = 0
    """The most that was measured during the present call; before its first measurement, what was measured last."""
    phases: StartPhases | None = None
    """How long its start took."""
    measured_s: float = -math.inf
    doom: StokerError | None = None
    """Why it is being killed."""
    exited: trio.Event = field(default_factory=trio.Event)
    ran_out: bool = False
    """Whether it ended because the kernel killed for memory in it; known when ``exited`` is set."""
    exit_text: str = ""
    """How its process ended; known when ``exited`` is set, unless we killed it."""

    def thaw(self) -> None:
        """Let its processes go on: a call comes, or it is asked to leave."""
        self.frozen = False
        self.worker.freeze(False)


@dataclass(slots=True, eq=False)
class Waiter:
    """A call that waits for an instance: gets one, or an error, exactly once."""

    event: trio.Event = field(default_factory=trio.Event)
    instance_id: int | None = None
    error: StokerError | None = None


class Preparation(NamedTuple):
    """A version that is being made ready beside the live one."""

    since_s: float
    failures: list[StokerError]
    """Of its instances that were launched since then."""


class Supervisor:
    """Turns the scheduler's actions into processes. All methods but `run` are synchronous and never block."""

    def __init__(
        self, scheduler: Scheduler, launcher: Launcher, *, limits: Limits, log_book: LogBook, log: Any
    ) -> None:
        self.scheduler = scheduler
        self.slots: dict[int, Slot] = {}
        self.plans: dict[str, LaunchPlan] = {}
        self.waiters: dict[str, Waiter] = {}
        self.before_ready: Callable[[Slot], Awaitable[None]] | None = None
        """Awaited in the instance's own task when it has started, before it may be given a call."""
        self._launcher = launcher
        self._limits = limits
        self._log_book = log_book
        self._log = log
        self._nursery: trio.Nursery | None = None
        self._wake = trio.Event()
        self._armed_s = -math.inf
        self._preparing: dict[str, Preparation] = {}
        self._changed = trio.Event()
        self._wanted = trio.Event()
        """Set while a call waits for an instance: launches that were put off begin."""

    async def run(self, *, task_status: trio.TaskStatus[Supervisor] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Own every instance until cancelled; then none is left."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._watch_memory)
            task_status.started(self)
            while True:
                self._wake = trio.Event()
                self._armed_s = self.scheduler.next_deadline_s()
                with trio.move_on_at(self._armed_s):
                    await self._wake.wait()
                self.obey(self.scheduler.tick(now_s=max(trio.current_time(), self._due_s())))
        raise AssertionError("unreachable")

    def _due_s(self) -> float:
        # The timer may fire a hair early: `now` is then the deadline itself, or this loop would spin.
        return self._armed_s if self._armed_s <= trio.current_time() + 0.001 else -math.inf

    def obey(self, todo: Iterable[actions.Action]) -> None:
        """Carry out what the scheduler decided. No checkpoint in here: the scheduler and the world change together."""
        for action in todo:
            match action:
                case actions.Launch(instance_id, _, revision, spare):
                    self._launch(instance_id, revision, spare=spare)
                case actions.Dispatch(call_id, instance_id):
                    self._settle_waiter(call_id, instance_id=instance_id)
                case actions.Refuse(call_id, error):
                    self._settle_waiter(call_id, error=error)
                case actions.Stop(instance_id):
                    self._stop(instance_id)
                case actions.Kill(instance_id, error):
                    self._kill(instance_id, error)
                case actions.StopTemplate(revision):
                    self._launcher.stop_template(revision)
        if self.waiters:
            self._wanted.set()
        elif self._wanted.is_set():
            self._wanted = trio.Event()
        if self.scheduler.next_deadline_s() < self._armed_s:
            self._wake.set()

    def template_gone(self, revision: str) -> None:
        """The launcher says: this template is gone, as it was told or by itself."""
        self.obey(self.scheduler.template_gone(revision, now_s=trio.current_time()))

    def log_of(self, function_id: str) -> FunctionLog:
        """The log of a function."""
        return self._log_book.open(function_id)

    def settle(self) -> None:
        """What `Scheduler.take` left to do (a spare to launch, an earlier deadline)."""
        self.obey(self.scheduler.settle(now_s=trio.current_time()))

    # -- versions that are made ready beside the live one -------------------------------------------------------

    async def prepare(self, plan: LaunchPlan, spec: PoolSpec, *, timeout_s: float) -> None:
        """Start instances of a version that is not live yet and wait until they are ready.

        The first that becomes ready is the canary. Filling the rest of the floor is waited for too, but a floor that
        cannot be filled in ``timeout_s`` does not fail the version.

        Raises:
          TooLargeForNode: there will never be room for it.
          StokerError: the canary did not become ready; nothing of the version is left.
        """
        failures: list[StokerError] = []
        self._preparing[plan.revision] = Preparation(trio.current_time(), failures)
        self.plans[plan.revision] = plan
        done = False
        try:
            self.obey(self.scheduler.prepare(spec, now_s=trio.current_time()))
            with trio.move_on_after(timeout_s):
                await self.until(lambda: bool(failures) or self._is_prepared(spec))
            if failures:
                raise failures[0]
            if not self.scheduler.prepared(spec.function_id, spec.revision)[0]:
                raise errors.QueueTimeout(detail=f"no room for an instance of {spec.memory_mib} MiB in {timeout_s:g} s")
            done = True
        finally:
            del self._preparing[plan.revision]
            if not done:
                self.abandon(spec.function_id, plan.revision)

    def _is_prepared(self, spec: PoolSpec) -> bool:
        ready, wanted = self.scheduler.prepared(spec.function_id, spec.revision)
        return ready >= wanted

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds; it is looked at whenever an instance becomes ready or ends."""
        while not condition():
            if self._changed.is_set():
                self._changed = trio.Event()
            await self._changed.wait()

    def abandon(self, function_id: str, revision: str) -> None:
        """Give up a prepared version: its instances are killed."""
        self.obey(self.scheduler.abandon(function_id, revision, now_s=trio.current_time()))
        self.plans.pop(revision, None)

    def configure(self, plan: LaunchPlan, spec: PoolSpec) -> None:
        """Make the plan's revision the live one of its function."""
        self.plans[plan.revision] = plan
        self.obey(self.scheduler.configure(spec, now_s=trio.current_time()))
        self._forget_plans(spec.function_id, keep=plan.revision)

    def forget(self, function_id: str) -> None:
        """The function is no more: waiting calls are refused, idle instances leave, running calls finish."""
        self.obey(self.scheduler.forget(function_id, now_s=trio.current_time()))
        self._forget_plans(function_id, keep="")

    def _forget_plans(self, function_id: str, *, keep: str) -> None:
        stale = [
            revision
            for revision, plan in self.plans.items()
            if plan.function_id == function_id and revision != keep and revision not in self._preparing
        ]
        for revision in stale:
            del self.plans[revision]

    # -- obeying ------------------------------------------------------------------------------------------------

    def _launch(self, instance_id: int, revision: str, *, spare: bool) -> None:
        assert self._nursery is not None, "run() comes first"
        slot = self.slots[instance_id] = Slot(instance_id, self.plans[revision], spare=spare)
        self._nursery.start_soon(self._live, slot)

    def _settle_waiter(self, call_id: str, *, instance_id: int | None = None, error: StokerError | None = None) -> None:
        waiter = self.waiters.pop(call_id)
        waiter.instance_id, waiter.error = instance_id, error
        waiter.event.set()

    def _stop(self, instance_id: int) -> None:
        if (slot := self.slots.get(instance_id)) and slot.channel is not None:
            if slot.frozen:
                slot.thaw()
            slot.channel.stop()

    def _kill(self, instance_id: int, error: StokerError) -> None:
        if slot := self.slots.get(instance_id):
            slot.doom = error
            if slot.channel is not None:
                slot.channel.abort(error)
            if slot.worker is not None:
                slot.worker.kill()
            slot.scope.cancel(reason=error.code)

    # -- one instance -------------------------------------------------------------------------------------------

    async def _live(self, slot: Slot) -> None:
        """One instance, from launch to reaped."""
        failure: StokerError | None = None
        log = self._log_book.open(slot.plan.function_id)
        try:
            with slot.scope:
                if slot.spare:
                    with trio.move_on_after(SPARE_DELAY_S):
                        await self._wanted.wait()
                    slot.launched_s = trio.current_time()
                async with self._launcher.launch(
                    slot.plan,
                    instance_id=slot.instance_id,
                    on_boot_output=lambda data: log.platform_output(data, instance_id=slot.instance_id),
                ) as worker:
                    await self._work(slot, worker, log)
        except StokerError as exc:
            failure = exc
        except Exception as exc:
            # One instance's trouble is not the daemon's: it is condemned, logged with its traceback, and gone.
            self._log.exception("instance failed", instance=slot.instance_id, function=slot.plan.function_id)
            failure = errors.InternalError(detail=f"{type(exc).__name__}: {exc}")
        finally:
            self._end(slot, slot.doom or failure)

    async def _work(self, slot: Slot, worker: Any, log: Any) -> None:
        slot.worker, slot.channel = worker, worker.channel
        slot.output = OutputReader(
            log, instance_id=slot.instance_id, stdout_fd=worker.stdout_fd, stderr_fd=worker.stderr_fd
        )
        slot.output.watch(worker.channel.answers_fd)
        failure: StokerError | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(slot.output.run)
                try:
                    await self._until_exit(slot, worker)
                except StokerError as exc:  # kept out of the nursery, which would wrap it in a group
                    failure = exc
                with trio.move_on_after(OUTPUT_GRACE_S, shield=True):
                    await slot.output.finished()
                nursery.cancel_scope.cancel()
        finally:
            slot.output.close()
        if failure is not None:
            raise failure

    async def _until_exit(self, slot: Slot, worker: Any) -> None:
        try:
            info = await worker.channel.ready()
        except errors.InitFailed as exc:
            if self._ran_out(slot):
                raise errors.InitFailed(detail=f"{out_of_memory(slot)} while starting") from exc
            raise
        worker.confirm()
        if self.before_ready is not None:
            await self.before_ready(slot)
        slot.ready_s = trio.current_time()
        slot.phases = start_phases(
            slot.ready_s - slot.launched_s, template_s=worker.template_s, fork_s=worker.fork_s,
            import_s=worker.import_s or told_s(info.get("import_us")),
        )  # fmt: skip
        self.obey(self.scheduler.ready(slot.instance_id, kind=worker.start_kind, now_s=trio.current_time()))
        self._changed.set()
        status = await worker.exited()
        slot.exit_text = str(status)
        slot.ran_out = self._ran_out(slot) or slot.ran_out
        slot.exited.set()
        # The caller is woken even if a child of the worker still holds the pipe's other end, and no other call comes.
        ended = out_of_memory(slot) if slot.ran_out else errors.FunctionCrashed(detail=f"the worker ended: {status}")
        worker.channel.abort(ended)
        self.obey(self.scheduler.condemn(slot.instance_id, ended, now_s=trio.current_time()))

    def _end(self, slot: Slot, failure: StokerError | None) -> None:
        """Synchronous, always reached: the instance is gone, whatever happened."""
        del self.slots[slot.instance_id]
        slot.exited.set()
        self.obey(self.scheduler.exited(slot.instance_id, now_s=trio.current_time(), error=failure))
        preparation = self._preparing.get(slot.plan.revision)
        # One of before may still be leaving when its version is prepared again (rollback): its end says nothing.
        if failure is not None and preparation is not None and slot.launched_s >= preparation.since_s:
            preparation.failures.append(failure)
        self._changed.set()

    # -- memory -------------------------------------------------------------------------------------------------

    async def _watch_memory(self) -> NoReturn:
        """Measure busy instances often and idle ones now and then; condemn those over their limit."""
        while True:
            await trio.sleep(self._limits.memory_poll_s)
            now_s = trio.current_time()
            for slot in list(self.slots.values()):
                if slot.worker is None or slot.doom is not None:
                    continue
                age_s = now_s - slot.measured_s
                # Short calls come and go between two polls: they are measured at the idle pace.
                busy = slot.call_id and now_s - slot.call_since_s >= self._limits.memory_poll_s
                if busy or age_s >= IDLE_MEMORY_POLL_S:
                    self._measure(slot, now_s)

    def _measure(self, slot: Slot, now_s: float) -> None:
        slot.memory_bytes = slot.worker.gauge.read()
        before = slot.call_peak_bytes if slot.call_id and slot.measured_s >= slot.call_since_s else 0
        slot.call_peak_bytes = max(slot.memory_bytes, before)
        slot.measured_s = now_s
        slot.memory_peak_bytes = max(slot.memory_peak_bytes, slot.memory_bytes)
        self.scheduler.used(slot.instance_id, slot.memory_bytes)
        if self.scheduler.needs_settle:
            self.settle()
        if slot.memory_bytes > slot.plan.memory_mib * 2**20 or slot.worker.gauge.oom_kills:
            self._ran_out(slot)
            self.obey(self.scheduler.condemn(slot.instance_id, out_of_memory(slot), now_s=now_s))
        elif (count := slot.worker.gauge.processes) > self._limits.processes_max:
            # Where the kernel does not limit them: see `daemon.sandbox.cgroups`.
            error = errors.FunctionCrashed(detail=f"{count} processes, limit {self._limits.processes_max}")
            self.obey(self.scheduler.condemn(slot.instance_id, error, now_s=now_s))

    def ran_full(self, instance_id: int) -> None:
        """The kernel says: the instance's memory is used up, and a process of it is killed now."""
        slot = self.slots.get(instance_id)
        if slot is not None and slot.doom is None and slot.worker is not None:
            slot.ran_out = True
            self._ran_out(slot)
            self.obey(self.scheduler.condemn(instance_id, out_of_memory(slot), now_s=trio.current_time()))

    def _ran_out(self, slot: Slot) -> bool:
        """Whether the kernel killed for memory in it; the peak is read as well, while there is something to read."""
        if slot.worker is None:
            return False
        slot.memory_peak_bytes = max(slot.memory_peak_bytes, slot.worker.gauge.peak())
        return bool(slot.worker.gauge.oom_kills)


def out_of_memory(slot: Slot) -> errors.FunctionOutOfMemory:
    """The error told to the caller of an instance that went over its memory, with the numbers."""
    peak_mib = math.ceil(slot.memory_peak_bytes / 2**20)
    return errors.FunctionOutOfMemory(detail=f"limit {slot.plan.memory_mib} MiB, peak {peak_mib} MiB")
