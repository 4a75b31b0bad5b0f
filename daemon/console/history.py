"""What a function's page shows of its past, from the points of the time series. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from daemon.core.points import Point, percentile
from daemon.errors import leaves

FAULTS = {error.code: error.fault for error in leaves()}
COLD = ("fork", "boot", "exec")
"""Start kinds of calls that waited for their instance to start."""
ALIVE = ("starting", "idle", "busy")
"""States of instances that are or will be of use."""
MINUTES = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """The last hour of one function."""

    calls: int
    errors: int
    cold: int
    per_minute: Sequence[float]
    p50_s: float | None
    p99_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """One function over time, in equal steps; None is a gap. Lengths of time are seconds."""

    times: Sequence[float]
    """Unix time of each step's begin."""
    ok: Sequence[float | None]
    function_errors: Sequence[float | None]
    other_errors: Sequence[float | None]
    cold: Sequence[float | None]
    p50_s: Sequence[float | None]
    p95_s: Sequence[float | None]
    p99_s: Sequence[float | None]
    queue_p95_s: Sequence[float | None]
    start_p95_s: Sequence[float | None]
    handler_p95_s: Sequence[float | None]
    instances: Sequence[float | None]
    busy: Sequence[float | None]
    floor: Sequence[float | None]
    memory_mib: Sequence[float | None]


def hour(minutes: Mapping[int, Point], until: float) -> Hour:
    """The last hour from its minutes, by their begin."""
    total = Point()
    for _, point in sorted(minutes.items()):
        total.merge(point)
    first = int(until) // 60 * 60 - (MINUTES - 1) * 60
    joined = total.warm + total.total
    return Hour(
        calls=total.calls,
        errors=total.calls - total.outcomes["ok"],
        cold=_cold(total),
        per_minute=[float(minutes[at].calls) if at in minutes else 0.0 for at in range(first, first + 3600, 60)],
        p50_s=percentile(joined, 50),
        p99_s=percentile(joined, 99),
    )


def of(points: Sequence[tuple[float, Point]]) -> History:
    """The columns of the charts."""
    found = [point for _, point in points]
    totals = [point.warm + point.total for point in found]
    return History(
        times=[at for at, _ in points],
        ok=[float(point.outcomes["ok"]) for point in found],
        function_errors=[_failed(point, function=True) for point in found],
        other_errors=[_failed(point, function=False) for point in found],
        cold=[float(_cold(point)) for point in found],
        p50_s=[percentile(histogram, 50) for histogram in totals],
        p95_s=[percentile(histogram, 95) for histogram in totals],
        p99_s=[percentile(histogram, 99) for histogram in totals],
        queue_p95_s=[percentile(point.queue, 95) for point in found],
        start_p95_s=[percentile(point.start, 95) for point in found],
        handler_p95_s=[percentile(Counter(point.warm) + point.handler, 95) for point in found],
        instances=[_mean(point, *ALIVE) for point in found],
        busy=[_mean(point, "busy") for point in found],
        floor=[_mean(point, "pcu_requested") for point in found],
        memory_mib=[None if (b := _mean(point, "memory_bytes")) is None else b / 2**20 for point in found],
    )


def _failed(point: Point, *, function: bool) -> float:
    return float(
        sum(
            count
            for code, count in point.outcomes.items()
            if code != "ok" and (FAULTS.get(code) == "function") is function
        )
    )


def _cold(point: Point) -> int:
    return sum(point.starts[kind] for kind in COLD)


def _mean(point: Point, *names: str) -> float | None:
    """The mean of a sum of gauges within a step; None: nothing was noted in it."""
    known = [values for name in names if (values := point.gauges.get(name)) and values[0]]
    return sum(values[1] / values[0] for values in known) if known else None
