"""Detached calls: stored before they are acknowledged, run when there is room, again if need be, dead letters at worst.

``accept`` returns when the call is on the disk. One task (`_dispatch`) starts calls whose turn it is, which
`daemon.core.detached` decides, each in a task of its own through the same invoker as every call; what became of them is
stored by `daemon.detached.keeper`. A call that succeeds is deleted from the store; until that is on the disk, a crash
of the daemon makes it run once more: at least once, and exactly once when nothing crashes.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Protocol

import trio

from daemon import errors
from daemon.catalog import Catalog
from daemon.config.detached import Detached as Settings
from daemon.config.settings import Limits
from daemon.core.detached import Book, Call, Policy, backoff_s
from daemon.core.detached_settings import NOTHING, DetachedSettings, parse
from daemon.core.views import NodeView, PoolView
from daemon.detached.contents import Contents
from daemon.detached.keeper import Keeper
from daemon.errors import StokerError
from daemon.model import Answer, Function, Ids
from daemon.store import detached_records as records
from daemon.store.database import Database
from daemon.store.detached_records import Delivery, Headers, StoredCall
from daemon.telemetry.calls import caller_text

ASK_AGAIN_S = 0.05
"""While calls that somebody waits for go first: how often that is looked at."""
NO_ROOM_S = 1.0
"""Pause of a call that found no room, less up to half of it by chance. It does not count as an attempt."""
CHANGES_MAX = 1024
"""Most ended calls that may wait to be stored; until then no further ones are started."""
SWEEP_S = 60.0
"""How often calls that waited too long are looked for."""
ATTEMPT_HEADER = "stoker-attempt"
"""Tells the function the number of the attempt, from 1."""

NEVER_RUNS = (errors.CallerError, errors.TooLargeForNode)
"""Trying again changes nothing."""


class Invoker(Protocol):
    """What is needed of `daemon.invoker.Invoker`."""

    async def invoke(
        self,
        function_id: str,
        *,
        call_id: str,
        headers: Headers,
        body: bytes,
        timeout_s: int | None = None,
        kind: str = "sync",
        caller: Any = None,
    ) -> Answer: ...


class Scheduler(Protocol):
    """What is needed of `daemon.core.scheduler.Scheduler`."""

    def pool(self, function_id: str) -> PoolView | None: ...
    def node(self) -> NodeView: ...


class Outbox(Protocol):
    """What is needed of `daemon.detached.destinations.Outbox`."""

    def prepare(
        self, function: Function, settings: DetachedSettings, call: Call, *, headers: Headers, body: bytes,
        answer: Answer | None, error: StokerError | None, began_at: int,
    ) -> list[Delivery]: ...  # fmt: skip
    def add(self, deliveries: Sequence[Delivery]) -> None: ...


class Detached:
    """All detached calls of the node. ``run`` must be running for calls to be run; ``accept`` works without."""

    def __init__(
        self,
        database: Database,
        catalog: Catalog,
        invoker: Invoker,
        scheduler: Scheduler,
        *,
        settings: Settings,
        limits: Limits,
        outbox: Outbox | None = None,
        traceparent: Callable[[str], str] = lambda call_id: "",
        ids: Ids,
        jitter: Callable[[], float] = random.random,
        log: Any,
    ) -> None:
        """``limits.memory_mib`` must be resolved. ``traceparent``: of a call that just ran."""
        self._traceparent = traceparent
        self.settings = settings
        self.accepted = 0
        self.refused = 0
        self.outcomes: Counter[tuple[str, str]] = Counter()
        """Attempts by function id and ``succeeded``, ``retried``, ``put-back``, ``dead-letter``."""
        self.keeper = Keeper(database, settings, on_stored=self._stored, log=log)
        self._database = database
        self._catalog = catalog
        self._invoker = invoker
        self._scheduler = scheduler
        self._outbox = outbox
        self._ids = ids
        self._jitter = jitter
        self._log = log
        # POLICY: half of what the node can run is left to calls that somebody waits for, whatever is configured.
        policy = Policy(
            queue_max=settings.queue_max,
            queue_bytes_max=settings.queue_bytes_max,
            running_max=min(settings.running_max, max(1, limits.instances_max // 2)),
            function_running_max=min(settings.function_running_max, max(1, limits.function_instances_max // 2)),
            running_mib_max=int(limits.memory_mib * settings.memory_fraction_max),
            age_s_max=settings.age_s_max,
        )
        self.book = Book(policy, mib_of=self._mib_of)
        self._contents = Contents(database)
        self._given_way_s: dict[str, float] = {}
        self._draining = False
        self._wake = trio.Event()

    # -- accepting

    async def accept(
        self, function_id: str, *, call_id: str, headers: Headers, body: bytes, caller: Any = None
    ) -> None:
        """Take a call that nobody waits for; it is on the disk when this returns.

        ``headers`` as the function shall see them; ``caller`` as for `daemon.telemetry.calls.caller_text`.

        Raises:
          NotFound: there is no such function.
          QueueFull: too many wait, or they hold too much.
          InternalError: the disk refuses.
        """
        if function_id not in self._catalog.functions:
            raise errors.NotFound("Fn not found")
        headers = [pair for pair in headers if pair[0] != records.REDRIVE_HEADER]  # only we say that
        size_bytes = len(body) + sum(len(name) + len(value) for name, value in headers)
        try:
            self.book.reserve(size_bytes)
        except errors.QueueFull:
            self.refused += 1
            raise
        now_ms, caller_name = time.time_ns() // 1_000_000, caller_text(caller)

        def added(_: None) -> None:
            call = Call(
                id=call_id, function_id=function_id, size_bytes=size_bytes, accepted_at=now_ms,
                accepted_s=trio.current_time(), caller=caller_name,
            )  # fmt: skip
            self.book.add(call)
            self._contents.keep(call, headers, body)
            self.accepted += 1
            self._wake.set()

        try:
            # Shielded: a client that leaves now must not leave a call in the store that nobody knows of.
            with trio.CancelScope(shield=True):
                await self._database.write(
                    lambda conn: records.insert_call(
                        conn, call_id=call_id, function_id=function_id, accepted_at=now_ms, size_bytes=size_bytes,
                        headers=headers, body=body, caller=caller_name,
                    ),
                    apply=added,
                )  # fmt: skip
        finally:
            self.book.cancel_reservation(size_bytes)

    def forget(self, function_id: str) -> None:
        """The function was deleted, and its calls with it in the same transaction."""
        for call in self.book.forget(function_id):
            self._contents.drop(call.id)
        for key in [key for key in self.outcomes if key[0] == function_id]:
            del self.outcomes[key]

    # -- dead letters

    async def redrive(self, call_ids: Sequence[str]) -> dict[str, str]:
        """Put dead letters back into the queue as calls that came now; the id of the new call by that of the old.

        Raises:
          QueueFull: there is no room for all of them; none was touched.
        """

        def sizes(conn: Any) -> list[int]:
            found = []
            for call_id in call_ids:
                try:
                    found.append(records.dead_letter(conn, call_id).size_bytes)
                except errors.NotFound:
                    continue
            return found

        reserved: list[int] = []
        try:
            for size_bytes in await self._database.read(sizes):
                self.book.reserve(size_bytes)
                reserved.append(size_bytes)
            with trio.CancelScope(shield=True):
                ids = [(old_id, self._ids.new()) for old_id in call_ids]
                now_ms = time.time_ns() // 1_000_000
                revived = await self._database.write(
                    lambda conn: records.redrive(conn, ids, now_ms=now_ms), apply=self._add_all
                )
        finally:
            for size_bytes in reserved:
                self.book.cancel_reservation(size_bytes)
        made = {call.id for call in revived}
        return {old_id: new_id for old_id, new_id in ids if new_id in made}

    def _add_all(self, stored: Sequence[StoredCall]) -> None:
        for row in stored:
            self.book.add(self._call_of(row))
        self._wake.set()

    # -- running

    async def run(self, *, task_status: trio.TaskStatus[Detached] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Run calls until cancelled; then those that still run go back to the queue.

        To be started when functions can be called: what was left by an earlier daemon is run at once.
        """
        await self._load()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.keeper.run)
                nursery.start_soon(self._sweep)
                task_status.started(self)
                await self._dispatch(nursery)
        finally:
            await self.keeper.finish()
        raise AssertionError("unreachable")

    def drain(self) -> None:
        """Start no more calls. What is accepted from now on waits for the next daemon."""
        self._draining = True

    async def _load(self) -> None:
        keeper, dead = self.keeper, 0
        now_ms, now_s = time.time_ns() // 1_000_000, trio.current_time()
        for row in await self._database.read(records.open_calls):
            call = self._call_of(row)
            if row.state == "running":
                call.interruptions += 1
            if call.interruptions > self.settings.interruptions_max:
                error = errors.InternalError(
                    "the daemon ended during the call, again and again",
                    detail=f"{call.interruptions} times; at most {self.settings.interruptions_max} are allowed",
                )
                keeper.dead(call, error)
                dead += 1
                continue
            if row.state == "running":
                keeper.queued(call, row.due_at, None)
            # A clock that was set back must not keep a call waiting for ever.
            call.due_s = now_s + min(max(0, row.due_at - now_ms) / 1000, self.settings.age_s_max)
            self.book.add(call)
        await keeper.store()
        if len(self.book) or dead:
            self._log.info("detached calls of an earlier daemon", waiting=len(self.book), dead=dead)

    def _call_of(self, row: StoredCall) -> Call:
        age_s = max(0.0, time.time() - row.accepted_at / 1000)
        return Call(
            id=row.id, function_id=row.function_id, size_bytes=row.size_bytes, accepted_at=row.accepted_at,
            accepted_s=trio.current_time() - age_s, attempts=row.attempts, interruptions=row.interruptions,
            caller=row.caller,
        )  # fmt: skip

    async def _dispatch(self, nursery: trio.Nursery) -> None:
        while True:
            self._wake = trio.Event()
            now_s = trio.current_time()
            while not self._draining and self.keeper.backlog < CHANGES_MAX:
                call = self.book.next(now_s, yields=self._yields)
                if call is None:
                    break
                nursery.start_soon(self._attempt, call)
            due_s = self.book.next_due_s()
            if self.book.held_back:
                due_s = min(due_s, now_s + ASK_AGAIN_S)
            if self._draining or self.keeper.backlog >= CHANGES_MAX:
                due_s = float("inf")  # the keeper wakes us
            # A timer may fire a hair early: not before the next instant, or this would spin.
            with trio.move_on_at(max(due_s, now_s + 0.001)):
                await self._wake.wait()

    def _yields(self, function_id: str) -> bool:
        """POLICY: a detached call gives way while others queue, but not for ever: one goes every ``yield_s``."""
        pool = self._scheduler.pool(function_id)
        if not (pool is not None and pool.queue) and not self._scheduler.node().waiting:
            self._given_way_s.pop(function_id, None)
            return False
        now_s = trio.current_time()
        if now_s - self._given_way_s.setdefault(function_id, now_s) < self.settings.yield_s:
            return True
        self._given_way_s[function_id] = now_s
        return False

    async def _attempt(self, call: Call) -> None:
        """One run of a call, and what follows from it."""
        function = self._catalog.functions.get(call.function_id)
        began_at = time.time_ns() // 1_000_000
        self.keeper.started(call)
        content: tuple[Headers, bytes] | None = None
        answer: Answer | None = None
        error: StokerError | None = None
        settings = NOTHING
        try:
            content = await self._contents.of(call.id)
            if function is not None and content is not None:
                settings = parse(function.annotations)
                answer = await self._run(call, settings, *content)
                if answer.status != 200:
                    error = errors.HandlerTimeout() if answer.status == 504 else errors.FunctionFailed()
        except StokerError as exc:
            error = exc
        except trio.Cancelled:  # the daemon stops: the call goes back to the queue
            self.book.put_back(call, due_s=-1.0)
            self.keeper.queued(call, 0, None)
            raise
        except Exception as exc:  # a bug of ours ends this call, not the daemon
            self._log.exception("detached call failed", call=call.id)
            error = errors.InternalError(detail=f"{type(exc).__name__}: {exc}")
        finally:
            # What they wait for is decided below: there is no checkpoint before that.
            self._wake.set()
            self.keeper.wake()
        if function is None or (content is None and error is None):  # deleted meanwhile
            self.book.dropped(call)
            self.keeper.done(call)
        elif content is None:  # the disk refuses to give it
            self.book.put_back(call, due_s=trio.current_time() + NO_ROOM_S)
            self._log.error("cannot read a detached call", call=call.id, error=str(error))
        elif self._ended(call, function, settings, error):
            self._contents.drop(call.id)
            if self._outbox is not None:
                headers = content[0]
                if trace := self._traceparent(call.id):
                    headers = [*(pair for pair in headers if pair[0] != "traceparent"), ("traceparent", trace)]
                deliveries = self._outbox.prepare(
                    function, settings, call, headers=headers, body=content[1], answer=answer, error=error,
                    began_at=began_at,
                )  # fmt: skip
                self.keeper.deliver(deliveries)

    async def _run(self, call: Call, settings: DetachedSettings, headers: Headers, body: bytes) -> Answer:
        shown = [(name, value) for name, value in headers if name != ATTEMPT_HEADER]
        shown.append((ATTEMPT_HEADER, str(call.attempts + call.interruptions + 1)))
        return await self._invoker.invoke(
            call.function_id, call_id=call.id, headers=shown, body=body, timeout_s=settings.timeout_s, kind="detached",
            caller=call.caller,
        )  # fmt: skip

    def _ended(self, call: Call, function: Function, settings: DetachedSettings, error: StokerError | None) -> bool:
        """Decide what becomes of a call that was run; True: it is over."""
        if error is None:
            self.book.succeeded(call)
            self.keeper.done(call)
            self.outcomes[call.function_id, "succeeded"] += 1
            return True
        if isinstance(error, errors.NotFound) and call.function_id not in self._catalog.functions:
            self.book.dropped(call)
            self.keeper.done(call)
            return False
        now_s = trio.current_time()
        if isinstance(error, errors.NodeError) and not isinstance(error, NEVER_RUNS):
            pause_s = NO_ROOM_S * (0.5 + 0.5 * self._jitter())
            self.book.put_back(call, due_s=now_s + pause_s)
            self.keeper.queued(call, 0, error)
            self.outcomes[call.function_id, "put-back"] += 1
            return False
        call.attempts += 1
        retry, node = settings.retry, self.settings
        if call.attempts < (retry.attempts or node.attempts) and not isinstance(error, NEVER_RUNS):
            pause_s = backoff_s(
                call.attempts,
                first_s=retry.backoff_s or node.backoff_s,
                longest_s=retry.backoff_s_max or node.backoff_s_max,
                jitter=self._jitter(),
            )
            self.book.retry(call, due_s=now_s + pause_s)
            self.keeper.queued(call, time.time_ns() // 1_000_000 + int(pause_s * 1000), error)
            self.outcomes[call.function_id, "retried"] += 1
            return False
        self.book.gave_up(call)
        self.keeper.dead(call, error)
        self.outcomes[call.function_id, "dead-letter"] += 1
        self._log.warning(
            "detached call failed", call=call.id, app=function.app_id, function=function.id, code=error.code,
            attempts=call.attempts, error=str(error)[:2000],
        )  # fmt: skip
        return True

    async def _sweep(self) -> NoReturn:
        """Calls that waited too long become dead letters."""
        while True:
            await trio.sleep(SWEEP_S)
            for call in self.book.overdue(trio.current_time()):
                error = errors.QueueTimeout(
                    detail=f"the call waited longer than {self.settings.age_s_max:g} s to be run"
                )
                self.keeper.dead(call, error)
                self.outcomes[call.function_id, "dead-letter"] += 1
                await self._prepare_unrun(call, error)
            self.keeper.wake()

    async def _prepare_unrun(self, call: Call, error: StokerError) -> None:
        function = self._catalog.functions.get(call.function_id)
        try:
            content = await self._contents.of(call.id)
        except StokerError as exc:  # the database refuses: it is a dead letter all the same, nobody is told of it
            self._log.error("cannot read a detached call", call=call.id, error=exc.detail)
            content = None
        self._contents.drop(call.id)
        if self._outbox is not None and function is not None and content is not None:
            deliveries = self._outbox.prepare(
                function, parse(function.annotations), call, headers=content[0], body=content[1], answer=None,
                error=error, began_at=0,
            )  # fmt: skip
            self.keeper.deliver(deliveries)

    def _stored(self, deliveries: Sequence[Delivery]) -> None:
        self._wake.set()
        if self._outbox is not None and deliveries:
            self._outbox.add(deliveries)

    def _mib_of(self, function_id: str) -> int | None:
        function = self._catalog.functions.get(function_id)
        return None if function is None else function.live.memory_mib
