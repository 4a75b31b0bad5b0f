"""The built-in time series: what each function did, by second, minute and hour, so that charts need no other program.

Calls come from the recorder in batches, numbers of the moment (instances, queue, memory) are sampled once a second.
What came together is added to the stored points every few seconds, in one transaction: a daemon that is killed loses at
most that much, and never leaves a point half-written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import trio

from daemon.config.settings import Records
from daemon.core.points import STEPS_S, Point
from daemon.errors import InternalError
from daemon.store import series_records
from daemon.telemetry.calls import DEBUG, CallRecord
from daemon.telemetry.recorder import Recorder

SAMPLE_S = 1.0
FLUSH_S = 5.0
TRIM_S = 60.0
POINTS_MAX = 2000
"""Most points in one answer."""
TOTAL_PARTS = 60
"""How exact the begin of a total is: a part of its span."""
ROWS_MAX = 500_000
"""Most points of one resolution that are kept, whatever their age."""
CARRY_S = 60
"""How long a number of a moment counts as unchanged where no newer one is stored; within half of it one is."""

Gauges = Callable[[], Mapping[str, Mapping[str, float]]]
"""Gives the numbers of this moment by function id; only of functions that have any."""


class Series:
    """All series of a node."""

    def __init__(self, recorder: Recorder, settings: Records, gauges: Gauges, *, log: Any) -> None:
        self._recorder = recorder
        self._settings = settings
        self._gauges = gauges
        self._log = log
        self._new: dict[tuple[str, int], Point] = {}
        self._last: dict[str, tuple[Mapping[str, float], int]] = {}
        self._flushing = trio.Lock()
        recorder.subscribe(self.add)

    def add(self, records: Sequence[CallRecord]) -> None:
        """Calls have ended."""
        new = self._new
        for record in records:
            if record.start_kind == DEBUG:  # somebody looked at it meanwhile: its time says nothing
                continue
            key = (record.function_id, int(record.at + record.queue_s + record.handler_s))
            point = new.get(key)
            if point is None:
                point = new[key] = Point()
            point.add(record)

    def sample(self, at: int) -> None:
        """Note the numbers of this moment, where they changed or `CARRY_S` is over."""
        gauges = self._gauges()
        for function_id, values in gauges.items():
            known = self._last.get(function_id)
            if known is not None and known[0] == values and at - known[1] < CARRY_S // 2:
                continue
            self._note(function_id, at, values)
        for function_id in self._last.keys() - gauges.keys():
            self._note(function_id, at, dict.fromkeys(self._last[function_id][0], 0.0))
            del self._last[function_id]

    def _note(self, function_id: str, at: int, values: Mapping[str, float]) -> None:
        self._last[function_id] = (values, at)
        self._new.setdefault((function_id, at), Point()).sample(values)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Sample and store until cancelled."""
        task_status.started()
        flush_s = trio.current_time() + FLUSH_S
        trim_s = trio.current_time()
        try:
            while True:
                await trio.sleep(SAMPLE_S)
                self.sample(int(time.time()))
                now_s = trio.current_time()
                if now_s >= flush_s:
                    flush_s = now_s + FLUSH_S
                    await self.flush()
                if now_s >= trim_s:
                    trim_s = now_s + TRIM_S
                    await self._trim()
        finally:
            with trio.CancelScope(shield=True):
                await self._recorder.flush()
                await self.flush()

    async def flush(self) -> None:
        """Add what came to what is stored. Trouble with the disk is logged, and what came is lost."""
        async with self._flushing:
            new, self._new = self._new, {}
            if not new:
                return
            deltas: dict[series_records.Key, Point] = {}
            for (function_id, second), point in new.items():
                for step_s in STEPS_S:
                    at = second - second % step_s
                    deltas.setdefault((step_s, function_id, at), Point()).merge(point)
            node: dict[series_records.Key, Point] = {}
            for (step_s, function_id, at), point in deltas.items():
                if function_id:
                    node.setdefault((step_s, "", at), Point()).merge(point, gauges=False)
            for key, point in node.items():  # not all functions were sampled: the node has a sample of its own
                deltas.setdefault(key, Point()).merge(point)
            try:
                await self._recorder.file.write(partial(_add, deltas))
            except InternalError as exc:
                self._log.error("cannot write the time series", error=exc.detail)

    async def _trim(self) -> None:
        now, settings = int(time.time()), self._settings
        kept = zip(
            STEPS_S, (settings.series_seconds_s, settings.series_minutes_s, settings.series_hours_s), strict=True
        )
        spans = [(step_s, int(now - age_s)) for step_s, age_s in kept]
        try:
            await self._recorder.file.write(lambda conn: series_records.trim(conn, spans, rows_max=ROWS_MAX))
        except InternalError as exc:
            self._log.error("cannot trim the time series", error=exc.detail)

    async def points(self, function_id: str, *, step_s: int, since: float, until: float) -> list[tuple[int, Point]]:
        """Every step of a span, oldest first, at most the last `POINTS_MAX`; steps without calls have none.

        A number of the moment that is not stored is the one before, for `CARRY_S`: it did not change.
        """
        await self._recorder.flush()
        await self.flush()
        last = int(until) - int(until) % step_s
        first = max(int(since) - int(since) % step_s, last - (POINTS_MAX - 1) * step_s)
        read = partial(
            series_records.between,
            step_s=step_s,
            function_id=function_id,
            since=first - max(CARRY_S, step_s),
            until=last,
        )
        found = await self._recorder.file.read(read)
        points, carried, carried_at = [], Point(), 0
        for at in sorted(found.keys() | set(range(first, last + 1, step_s))):
            point = found.get(at) or Point()
            if point.gauges:
                carried, carried_at = point, at
            elif at - carried_at <= CARRY_S:
                point.gauges = {name: [1, value[3], value[3], value[3]] for name, value in carried.gauges.items()}
            if at >= first:
                points.append((at, point))
        return points

    async def buckets(
        self, function_id: str, *, since: float, until: float, count: int = 100
    ) -> list[tuple[float, Point]]:
        """A span cut into at most ``count`` equal parts, half as many at least where the points allow it: begin and
        sums. Reads the coarsest points that do."""
        step_s = max((step for step in STEPS_S if step * count // 2 <= until - since), default=STEPS_S[0])
        if step_s == STEPS_S[0] and until - since > self._settings.series_seconds_s:
            step_s = STEPS_S[1]  # older seconds are gone
        await self._recorder.flush()
        await self.flush()
        last = int(until) - int(until) % step_s
        first = max(int(since) - int(since) % step_s, last - (POINTS_MAX - 1) * step_s)
        width_s = max(1, -(-((last - first) // step_s + 1) // count)) * step_s
        return await self._recorder.file.read(
            lambda conn: _summed(
                series_records.packed_between(
                    conn, step_s=step_s, function_id=function_id, since=first - max(CARRY_S, step_s), until=last
                ),
                first=first, last=last, step_s=step_s, width_s=width_s,
            )
        )  # fmt: skip

    async def total(self, function_id: str, *, since: float, until: float) -> Point:
        """A span as one point, to a sixtieth of it or to a second, minute or hour, whichever is coarser."""
        whole = Point()
        for _, point in await self.buckets(function_id, since=since, until=until, count=TOTAL_PARTS):
            whole.merge(point)
        return whole

    async def minutes(self, function_id: str, *, since: float, until: float) -> dict[int, Point]:
        """The minutes of one function in a span, by begin; not every minute."""
        await self._recorder.flush()
        await self.flush()
        first = int(since) - int(since) % 60
        return await self._recorder.file.read(
            lambda conn: series_records.between(conn, step_s=60, function_id=function_id, since=first, until=int(until))
        )

    async def overview(self, *, since: float, until: float) -> dict[str, dict[int, Point]]:
        """The minutes of every function in a span, by function id (empty: the node) and begin; not every minute."""
        await self._recorder.flush()
        await self.flush()
        first = int(since) - int(since) % 60
        return await self._recorder.file.read(
            lambda conn: series_records.of_all(conn, step_s=60, since=first, until=int(until))
        )


def _add(deltas: Mapping[series_records.Key, Point], conn: Any) -> None:
    series_records.add(conn, deltas)


def _summed(
    rows: Sequence[tuple[int, list[Any]]], *, first: int, last: int, step_s: int, width_s: int
) -> list[tuple[float, Point]]:
    """Sums of stored points by parts of ``width_s``; as in `Series.points`, a number that is not stored is carried."""
    stored = dict(rows)
    sums = [(float(at), Point()) for at in range(first, last + 1, width_s)]
    carried: dict[str, list[float]] = {}
    carried_at = 0
    for at in sorted(stored.keys() | set(range(first, last + 1, step_s))):
        values = stored.get(at)
        point = sums[(at - first) // width_s][1] if at >= first else None
        if values is not None and point is not None:
            point.absorb(values)
        if values is not None and values[-1]:
            carried, carried_at = values[-1], at
        elif at - carried_at <= CARRY_S and point is not None:
            point.hold(carried)
    return sums


def step_for(span_s: float) -> int:
    """The finest resolution that gives no more than 400 points, or the coarsest."""
    return next((step_s for step_s in STEPS_S if span_s / step_s <= 400), STEPS_S[-1])
