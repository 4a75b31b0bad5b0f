"""One call, from admission to answer, in the caller's own task: the same path for HTTP, triggers and detached calls.

A hot start is: take an idle instance, write the frame, wait for the answer, release. No other task is woken, nothing
is allocated per wait, and no timer is armed: the scheduler's one timer aborts the channel of a call that overruns.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

import trio

from daemon import errors
from daemon.catalog import Catalog
from daemon.errors import StokerError
from daemon.model import Answer, Function
from daemon.supervisor import Slot, Supervisor, Waiter, out_of_memory
from daemon.telemetry.calls import LEFT_STATUS, RECEIVED, Habits, habits_of, served_line
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.recorder import Recorder
from daemon.telemetry.tracing import Tracer

EXIT_TEXT_WAIT_S = 0.1
"""How long a caller whose worker vanished waits for the reason: the pipe closes before the exit is reported."""
STARTED = ("fork", "boot", "exec")
"""Start kinds of calls that waited for their instance to start."""


class Diversion(Protocol):
    """What answers some calls of a function in place of its instances."""

    def wants(self, headers: list[tuple[str, str]]) -> bool: ...

    async def call(
        self, function: Function, *, call_id: str, headers: list[tuple[str, str]], body: bytes, kind: str, caller: Any
    ) -> Answer: ...


class Invoker:
    """Runs calls, each in the task of its caller."""

    def __init__(
        self,
        catalog: Catalog,
        supervisor: Supervisor,
        metrics: Metrics,
        *,
        log: Any,
        recorder: Recorder | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """``recorder``: is told of every call that has ended; None: nobody is. ``tracer``: None: nothing is traced."""
        self.diverted: Mapping[str, Diversion] = {}
        """By function: what answers some of its calls in place of its instances (`daemon.workers.debugging`)."""
        self._tracer = tracer
        self._recorder = recorder
        self._habits: dict[str, Habits] = {}
        self._catalog = catalog
        self._supervisor = supervisor
        self._scheduler = supervisor.scheduler
        self._metrics = metrics
        self._log = log
        self._open = 0
        self._quiet = trio.Event()
        self._deadline_second = -1
        self._deadline_texts: dict[int, str] = {}

    @property
    def open_calls(self) -> int:
        """Calls that were admitted and are not answered yet."""
        return self._open

    def drain(self) -> None:
        """Admit no new calls."""
        self._scheduler.drain()

    async def quiet(self) -> None:
        """Wait until no call is open (for drain)."""
        while self._open:
            self._quiet = trio.Event()
            await self._quiet.wait()

    async def invoke(
        self,
        function_id: str,
        *,
        call_id: str,
        headers: list[tuple[str, str]],
        body: bytes,
        timeout_s: int | None = None,
        kind: str = "sync",
        caller: Any = None,
    ) -> Answer:
        """Run one call and return what the function said.

        ``headers`` are the request's as the function shall see them; Fn-Deadline is added here, when the instance is
        won: the timeout counts execution only. ``timeout_s`` replaces the function's own (detached calls). ``kind``
        (`telemetry.calls.KINDS`) and ``caller`` (a principal, a peer of a connection, or text) are for the record.

        Raises:
          StokerError: refused, failed, timed out...; its ``call_id`` is set.
        """
        function = self._catalog.functions.get(function_id)
        if function is None:
            raise errors.NotFound("Fn not found")
        began_s = trio.current_time()
        self._open += 1
        try:
            if not function.live.digest:
                image = function.live.image
                missing = errors.BundleMissing(
                    f"Failed to pull image '{image}'", detail="no bundle of this name was pushed: stoker push"
                )
                self._record_failure(function, call_id, kind, caller, began_s, len(body), missing)
                raise missing
            if self.diverted and (elsewhere := self.diverted.get(function_id)) is not None and elsewhere.wants(headers):
                return await elsewhere.call(
                    function, call_id=call_id, headers=headers, body=body, kind=kind, caller=caller
                )
            answer = await self._run(function, call_id, headers, body, began_s, timeout_s, kind, caller)
        except StokerError as exc:
            exc.call_id = call_id
            self._metrics.observe_failure(function_id, exc, trio.current_time() - began_s)
            raise
        finally:
            self._open -= 1
            if not self._open:
                self._quiet.set()
        self._metrics.observe_answer(function_id, answer)
        return answer

    async def _run(
        self,
        function: Function,
        call_id: str,
        headers: list[tuple[str, str]],
        body: bytes,
        began_s: float,
        timeout_s: int | None,
        kind: str,
        caller: Any,
    ) -> Answer:
        supervisor, scheduler = self._supervisor, self._scheduler
        habits = self._habits.get(function.id)
        if habits is None or habits.function is not function or habits.app is not self._catalog.apps[function.app_id]:
            habits = self._learn(function)
        if habits.any:
            headers = self._begin(habits, call_id, headers, body)
        now_s = began_s
        waited = False
        while True:
            instance_id = scheduler.take(function.id, call_id, now_s=now_s)
            if instance_id is None:
                if function.state == "creating":  # OCI's clients try again by themselves
                    raise errors.IncorrectState("the function is being created: try again when that is done")
                if function.state != "active":
                    text = f"the function is {function.state}"
                    kind_of_failure = errors.InitFailed if function.live.digest else errors.BundleMissing
                    never = kind_of_failure(detail=f"{text}: {function.state_error}" if function.state_error else text)
                    self._record_failure(function, call_id, kind, caller, began_s, len(body), never)
                    raise never
                waited = True
                try:
                    instance_id = await self._wait(function.id, call_id)
                except (StokerError, trio.Cancelled) as exc:
                    self._record_failure(function, call_id, kind, caller, began_s, len(body), exc)
                    raise
                now_s = trio.current_time()
            slot = supervisor.slots.get(instance_id)
            if slot is None:
                continue  # it ended between being promised and this task's turn: nothing was sent, so once more
            assert slot.output is not None, "what can be taken is ready"
            if slot.frozen:
                slot.thaw()
            if not slot.output.begin_call(call_id) or not slot.channel.stray_bytes():
                break
            # It spoke out of turn, perhaps a late answer, or has ended: this call goes to another.
            breach = errors.InvalidResponse(detail="the worker wrote, or ended, while no call was running")
            supervisor.obey(scheduler.condemn(instance_id, breach, now_s=trio.current_time()))
        if timeout_s is None:
            timeout_s = slot.plan.timeout_s
        else:
            scheduler.set_timeout(instance_id, timeout_s)
        if scheduler.needs_settle:
            supervisor.settle()
        start_kind = scheduler.start_kind(instance_id)
        slot.call_id, slot.call_since_s = call_id, now_s
        try:
            answer: Answer = await slot.channel.call(
                call_id=call_id, deadline=self._deadline(timeout_s), headers=headers, body=body
            )
        except StokerError as exc:
            slot.call_id = ""
            error = await self._failed(slot, exc)
            self._record_failure(
                function, call_id, kind, caller, began_s, len(body), error,
                slot=slot, start_kind=start_kind, now_s=now_s, waited=waited,
            )  # fmt: skip
            raise error from None
        except BaseException as exc:  # the caller left, or a bug: the instance is in the middle of a call and goes
            slot.call_id = ""
            supervisor.obey(scheduler.cancel(call_id, now_s=trio.current_time()))
            self._record_failure(
                function, call_id, kind, caller, began_s, len(body), exc,
                slot=slot, start_kind=start_kind, now_s=now_s, waited=waited,
            )  # fmt: skip
            raise
        slot.call_id = ""
        ended_s = trio.current_time()
        slot.output.end_call()
        if todo := scheduler.release(instance_id, now_s=ended_s):
            supervisor.obey(todo)
        if scheduler.needs_settle:
            supervisor.settle()
        answer.call_id = call_id
        answer.start_kind = start_kind
        if waited:
            answer.queue_s = now_s - began_s
            if start_kind in STARTED:  # of that, while this instance was starting
                answer.start_s = max(0.0, slot.ready_s - max(slot.launched_s, began_s))
        answer.handler_s = ended_s - now_s
        if self._recorder is not None:
            self._recorder.add((
                function, call_id, kind, caller, instance_id, start_kind, began_s,
                answer.queue_s, answer.start_s, answer.handler_s, answer.status, None,
                len(body), len(answer.body), answer.cpu_us, slot.call_peak_bytes, slot.phases if waited else None,
            ))  # fmt: skip
        if habits.log_calls:
            self._end(function, call_id, answer.queue_s + answer.handler_s, answer.status, None)
        return answer

    def _record_failure(
        self, function: Function, call_id: str, kind: str, caller: Any, began_s: float, bytes_in: int,
        error: BaseException, *,
        slot: Slot | None = None, start_kind: str = "", now_s: float = 0.0, waited: bool = True,
    ) -> None:  # fmt: skip
        """Tell of a call that did not end in an answer of its function."""
        ended_s = trio.current_time()
        status = error.status if isinstance(error, StokerError) else LEFT_STATUS
        queue_s = (now_s if slot is not None else ended_s) - began_s if waited else 0.0
        handler_s = ended_s - now_s if slot is not None else 0.0
        cold = slot is not None and waited and start_kind in STARTED
        start_s = max(0.0, slot.ready_s - max(slot.launched_s, began_s)) if slot is not None and cold else 0.0
        if self._recorder is not None:
            self._recorder.add((
                function, call_id, kind, caller, slot.instance_id if slot else 0, start_kind, began_s,
                queue_s, start_s, handler_s, status, error, bytes_in, 0, -1,
                slot.call_peak_bytes if slot else -1, slot.phases if slot and cold else None,
            ))  # fmt: skip
        habits = self._habits.get(function.id)
        if habits is not None and habits.log_calls:
            self._end(function, call_id, queue_s + handler_s, status, error)

    def _learn(self, function: Function) -> Habits:
        """What is done for each call of the function: worked out when it or its app changes."""
        app = self._catalog.apps[function.app_id]
        traced = self._tracer is not None and self._tracer.wants(app, function)
        habits = self._habits[function.id] = habits_of(app, function, traced=traced)
        for gone in self._habits.keys() - self._catalog.functions.keys():
            del self._habits[gone]
        return habits

    def _begin(
        self, habits: Habits, call_id: str, headers: list[tuple[str, str]], body: bytes
    ) -> list[tuple[str, str]]:
        """What is done before the call; the headers that the function gets."""
        function = habits.function
        if habits.record_bodies and self._recorder is not None:
            self._recorder.add_body(call_id, function.id, headers, body)
        if habits.log_calls:
            self._supervisor.log_of(function.id).platform(RECEIVED, call_id=call_id)
        if habits.traced and self._tracer is not None:
            headers = self._tracer.begin(call_id, headers)
        return headers

    def _end(self, function: Function, call_id: str, total_s: float, status: int, error: BaseException | None) -> None:
        self._supervisor.log_of(function.id).platform(served_line(total_s, status, error), call_id=call_id)

    async def _wait(self, function_id: str, call_id: str) -> int:
        """Queue for an instance.

        Raises:
          StokerError: refused, or no instance in time.
        """
        waiter = Waiter()
        supervisor, scheduler = self._supervisor, self._scheduler
        supervisor.waiters[call_id] = waiter
        try:
            supervisor.obey(scheduler.enqueue(call_id, function_id, now_s=trio.current_time()))
            await waiter.event.wait()
        except BaseException:
            # POLICY: an instance that was won but never spoken to is as good as before.
            if waiter.instance_id is not None:
                supervisor.obey(scheduler.release(waiter.instance_id, now_s=trio.current_time()))
            elif supervisor.waiters.pop(call_id, None) is not None:
                supervisor.obey(scheduler.cancel(call_id, now_s=trio.current_time()))
            raise
        if waiter.error is not None:
            raise waiter.error
        assert waiter.instance_id is not None
        return waiter.instance_id

    async def _failed(self, slot: Slot, error: StokerError) -> StokerError:
        """Give the instance back or condemn it, and return the error with all that is known about it."""
        if isinstance(error, errors.FunctionFailed) and error.detail.startswith("MemoryError"):
            # RLIMIT_DATA, the backstop, was faster than the measurement.
            error = out_of_memory(slot)
        if slot.channel.usable and error.instance_survives:
            assert slot.output is not None, "it held a call"
            slot.output.end_call()
            self._supervisor.obey(self._scheduler.release(slot.instance_id, now_s=trio.current_time()))
            return error
        if isinstance(error, errors.FunctionCrashed):
            with trio.move_on_after(EXIT_TEXT_WAIT_S, shield=True):
                await slot.exited.wait()
            if slot.exit_text:
                error.detail = f"the worker ended during the call: {slot.exit_text}"
            if slot.ran_out:
                error = out_of_memory(slot)
        self._supervisor.obey(self._scheduler.condemn(slot.instance_id, error, now_s=trio.current_time()))
        return error

    def _deadline(self, timeout_s: int) -> str:
        """RFC 3339, whole seconds, ``Z``: Java's Instant.parse refuses offsets (fn-contract 2.1)."""
        second = int(time.time())
        if second != self._deadline_second:
            self._deadline_second = second
            self._deadline_texts.clear()
        text = self._deadline_texts.get(timeout_s)
        if text is None:
            text = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second + timeout_s))
            self._deadline_texts[timeout_s] = text
        return text
