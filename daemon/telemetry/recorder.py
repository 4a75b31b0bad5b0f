"""Collects what the invoker says about calls that have ended, and writes it down in batches, off their path.

A call costs the hot path one append to a bounded list. A task takes the list twice a second, makes records of it, hands
them to whoever subscribed (series, traces), and stores them. Should the disk be slower than the calls, records are
dropped, counted, and said so; calls never wait.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import trio
import trio.lowlevel

from daemon.config.settings import Records
from daemon.errors import Conflict, InternalError
from daemon.store import record_file
from daemon.store.record_file import RecordFile
from daemon.telemetry.calls import COLD, CallRecord, Finished, record_of

FLUSH_S = 0.5
"""Longest stay of a record in memory."""
SLICE = 100
"""Most records that are made before the event loop looks after calls again: about half a millisecond's worth."""
TRIM_S = 60.0
"""How often what is too old or too much is removed."""
SCANNED_MAX = 500_000
"""Most records that one question looks at."""
BLOCKS_MAX = 2000
"""Most blocks that are opened for one call that did not run when it came."""
LIST_MAX = 1000
"""Most records in one answer."""
BODIES_PENDING_BYTES_MAX = 16 * 2**20
"""Most recorded bodies in memory."""
WRITES_PENDING_MAX = 10_000
"""Most slow replies in memory."""
CALL_SLACK_S = 2.0
"""A call's id tells when it came, but for a clock that was set meanwhile."""
SLOW_PERCENT = 95
"""``slow`` without a number: calls slower than this percentile of those asked about."""

Batch = Sequence[CallRecord]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Which calls are wanted. Times are Unix time; empty and zero members do not count."""

    app_id: str = ""
    function_id: str = ""
    failed: bool = False
    error: str = ""
    kind: str = ""
    caller: str = ""
    cold: bool = False
    longer_s: float = 0.0
    slow: bool = False
    """Only the slowest: above the `SLOW_PERCENT`th percentile of those that fit the rest."""
    since: float = 0.0
    until: float = float("inf")
    visible: frozenset[str] | None = None
    """Only calls of these functions; None: of all."""
    before_id: str = ""
    """Only calls older than this one: the next page."""

    def of(self, records: Batch) -> Batch:
        """Those of them that fit, in their order: a pass for each member that counts, most questions have few."""
        if self.since > 0 or self.until != float("inf"):
            records = [r for r in records if self.since <= r.at <= self.until]
        if self.function_id:
            records = [r for r in records if r.function_id == self.function_id]
        if self.visible is not None:
            records = [r for r in records if r.function_id in self.visible]
        if self.app_id:
            records = [r for r in records if r.app_id == self.app_id]
        if self.failed:
            records = [r for r in records if r.error]
        if self.error:
            records = [r for r in records if r.error == self.error]
        if self.kind:
            records = [r for r in records if r.kind == self.kind]
        if self.caller:
            records = [r for r in records if r.caller == self.caller]
        if self.cold:
            records = [r for r in records if r.start_kind in COLD]
        if self.longer_s > 0:
            records = [r for r in records if r.total_s >= self.longer_s]
        if self.before_id:
            records = [r for r in records if r.id < self.before_id]
        return records


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Records, newest first."""

    records: list[CallRecord]
    more: bool
    """There are older ones."""
    scanned: int
    """Records that were looked at, of functions that may be seen. At `SCANNED_MAX` of any the search ends."""
    slow_s: float | None = None
    """From where on a call counted as slow."""


class Recorder:
    """All call records of a node. Use `opened`; `add` and `add_body` are for the invoker."""

    def __init__(self, settings: Records, *, log: Any) -> None:
        self.settings = settings
        self.dropped = 0
        """Records lost since the start: they came faster than they could be written."""
        self.dropped_bodies = 0
        self.recorded = 0
        self._log = log
        self._pending: list[Finished] = []
        self._digested: list[CallRecord] = []
        self._pending_max = settings.pending_max
        self._bodies: list[tuple[str, str, float, str, bytes]] = []
        self._bodies_bytes = 0
        self._writes: dict[str, float] = {}
        self._subscribers: list[Callable[[Batch], None]] = []
        self._file: RecordFile | None = None
        self._flushing = trio.Lock()
        self._told_s = float("-inf")
        self._told_dropped = 0

    def add(self, raw: Finished) -> None:
        """A call has ended. On the path of every call."""
        pending = self._pending
        if len(pending) < self._pending_max:
            pending.append(raw)
        else:
            self.dropped += 1

    def add_body(self, call_id: str, function_id: str, headers: list[tuple[str, str]], body: bytes) -> None:
        """Keep a request for `replay`: its function has body recording switched on."""
        size = len(body) + sum(len(name) + len(value) + 8 for name, value in headers)
        if size > self.settings.body_bytes_max or self._bodies_bytes + size > BODIES_PENDING_BYTES_MAX:
            self.dropped_bodies += 1
            return
        self._bodies_bytes += size
        self._bodies.append((call_id, function_id, time.time(), json.dumps(headers), body))

    def wrote(self, call_id: str, seconds: float) -> None:
        """A client took this long to take the reply of a call. Only told when it was not taken at once."""
        if len(self._writes) < WRITES_PENDING_MAX:
            self._writes[call_id] = seconds

    def subscribe(self, callback: Callable[[Batch], None]) -> None:
        """Have ``callback`` called on the event loop with each batch of records, before it is stored.

        It must be quick and not fail; batches come every `FLUSH_S`, and hold up to ``records.pending_max`` records.
        """
        self._subscribers.append(callback)

    @property
    def file(self) -> RecordFile:
        """The open file, inside of `opened`.

        Raises:
          Conflict: recording is switched off.
        """
        if self._file is None:
            raise Conflict("calls are not recorded", detail="records.enabled is false in the daemon's configuration")
        return self._file

    @asynccontextmanager
    async def opened(self, path: Path) -> AsyncIterator[None]:
        """Write records down for as long as the block lasts; what is in memory at its end is written then."""
        if not self.settings.enabled:
            yield
            return
        self._file = await RecordFile.open(path, log=self._log)
        try:
            await self._trim()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run)
                try:
                    yield
                finally:
                    nursery.cancel_scope.cancel(reason="the recorder is closed")
        finally:
            with trio.CancelScope(shield=True):
                await self.flush()
                await self._file.close()
                self._file = None

    async def _run(self) -> NoReturn:
        due_s = trio.current_time() + TRIM_S
        while True:
            await trio.sleep(FLUSH_S)
            await self.flush()
            if trio.current_time() >= due_s:
                due_s = trio.current_time() + TRIM_S
                await self._trim()

    def digest(self, most: int | None = None) -> None:
        """Make records of what came, or of the oldest ``most`` of it, and tell the subscribers. Does not write: see
        `flush`."""
        if not self._pending:
            return
        raws = self._pending[:most]
        del self._pending[:most]
        wall_s = time.time() - trio.current_time()
        records = [record_of(raw, wall_s=wall_s) for raw in raws]
        self._digested += records
        for callback in self._subscribers:
            try:
                callback(records)
            except Exception:
                self._log.exception("a subscriber of call records failed")

    async def flush(self) -> None:
        """Write what is in memory. Trouble with the disk is logged; the records are then lost and counted."""
        if self._file is None:
            return
        async with self._flushing:
            for _ in range(0, len(self._pending), SLICE):
                self.digest(SLICE)
                await trio.lowlevel.checkpoint()  # calls come first
            records, self._digested = self._digested, []
            bodies, self._bodies, self._bodies_bytes = self._bodies, [], 0
            writes, self._writes = self._writes, {}
            if not (records or bodies or writes):
                return
            if writes:
                records = [r._replace(write_s=writes.pop(r.id)) if r.id in writes else r for r in records]
            try:
                await self.file.write(partial(self._store, records, bodies, writes))
                self.recorded += len(records)
            except InternalError as exc:
                self.dropped += len(records)
                self._complain("call records cannot be written", error=exc.detail)
            if self.dropped > self._told_dropped:
                self._complain("call records were dropped: they came too fast", dropped=self.dropped)
                self._told_dropped = self.dropped

    def _store(
        self, records: list[CallRecord], bodies: list[tuple[str, str, float, str, bytes]], writes: dict[str, float],
        conn: Any,
    ) -> None:  # fmt: skip
        if records:
            record_file.add_calls(conn, records)
        if bodies:
            record_file.add_bodies(conn, bodies, bytes_max=self.settings.bodies_bytes_max)
        if writes:
            record_file.note_writes(conn, writes)

    def _complain(self, event: str, **values: Any) -> None:
        if trio.current_time() - self._told_s >= TRIM_S:
            self._told_s = trio.current_time()
            self._log.error(event, **values)

    async def _trim(self) -> None:
        before = time.time() - self.settings.age_s_max

        def trim(conn: Any) -> None:
            record_file.trim_calls(conn, before=before, bytes_max=self.settings.bytes_max)
            record_file.trim_bodies(conn, before=before)

        try:
            await self.file.write(trim)
            await self.file.write(record_file.give_back)
        except InternalError as exc:
            self._complain("call records cannot be trimmed", error=exc.detail)

    # -- questions

    async def find(self, question: Question, *, limit: int) -> Found:
        """The newest calls that fit.

        Raises:
          InternalError: the file cannot be read.
        """
        await self.flush()
        return await self.file.read(partial(_find, question, min(limit, LIST_MAX)))

    async def get(self, call_id: str, *, at: float) -> CallRecord | None:
        """One call; ``at``: the Unix time in its id (`time_of`); 0.0: it is no id of ours."""
        await self.flush()
        if at <= 0:
            return None
        # Ids never go back, the clock may have: then such an id says nothing about when its call ran.
        slack_s = CALL_SLACK_S if at <= time.time() + CALL_SLACK_S else float("inf")
        return await self.file.read(
            lambda conn: record_file.call(conn, call_id, came=at, slack_s=slack_s, blocks_max=BLOCKS_MAX)
        )

    async def body(self, call_id: str) -> tuple[str, list[tuple[str, str]], bytes] | None:
        """Function id, headers and body of a recorded request."""
        await self.flush()
        found = await self.file.read(lambda conn: record_file.body(conn, call_id))
        if found is None:
            return None
        return found[0], [(name, value) for name, value in json.loads(found[1])], found[2]

    async def counted(self) -> dict[str, Any]:
        """How much is stored, and what was lost."""
        counts = await self.file.read(record_file.counted)
        return {**counts, "dropped": self.dropped, "dropped_bodies": self.dropped_bodies}


def _find(question: Question, limit: int, conn: Any) -> Found:
    found: list[CallRecord] = []
    seen, slow_s = 0, None
    if question.slow:
        # Two passes: the records of the first are not kept, or a question would take hundreds of megabytes.
        totals: list[float] = []
        for block in _blocks(question, conn):
            seen += _seen(question, block)
            totals += [r.queue_s + r.handler_s + r.write_s for r in question.of(block)]  # total_s, without the calls
        if not totals:
            return Found(records=[], more=False, scanned=seen)
        totals.sort()
        slow_s = totals[min(len(totals) - 1, len(totals) * SLOW_PERCENT // 100)]
        question = replace(question, longer_s=slow_s)
    for block in _blocks(question, conn):
        if slow_s is None:
            seen += _seen(question, block)
        found += reversed(question.of(block))
        if len(found) > limit:
            break
    found.sort(key=lambda record: record.id, reverse=True)
    return Found(records=found[:limit], more=len(found) > limit, scanned=seen, slow_s=slow_s)


def _blocks(question: Question, conn: Any) -> Iterator[list[CallRecord]]:
    """The blocks that may hold what is asked for, newest first, while they hold no more than `SCANNED_MAX` records."""
    scanned = 0
    for block in record_file.blocks(
        conn, app_id=question.app_id, function_id=question.function_id, failed=question.failed or bool(question.error),
        longer_s=question.longer_s, since=question.since, until=question.until,
    ):  # fmt: skip
        yield block
        scanned += len(block)
        if scanned >= SCANNED_MAX:
            break
        time.sleep(0)  # calls come first: this thread holds the interpreter while it unpacks


def _seen(question: Question, block: Batch) -> int:
    if question.visible is None:
        return len(block)
    return sum(record.function_id in question.visible for record in block)


def time_of(call_id: str) -> float:
    """The Unix time in a call's id (`daemon.model.Ids`), or 0.0 when it is not one of ours."""
    digits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    number = 0
    for character in call_id[:10]:
        value = digits.find(character)
        if value < 0:
            return 0.0
        number = number * 32 + value
    return number / 1000 if len(call_id) == 26 else 0.0
