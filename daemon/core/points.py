"""Points of the built-in time series: what happened to a function within a second, a minute or an hour. Pure.

Points add up: a minute is the sum of its seconds. Lengths of time are kept as counts in buckets that grow by a fourth
root of two, so that percentiles of any span are right within 9 %.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from math import log2
from typing import Any

from daemon.telemetry.calls import CallRecord

__all__ = ["BUCKETS_PER_OCTAVE", "STEPS_S", "Point", "percentile"]

STEPS_S = (1, 60, 3600)
"""The resolutions, in seconds."""
BUCKETS_PER_OCTAVE = 4
PERCENTS = (50, 95, 99)

Histogram = Counter[int]


def bucket(seconds: float) -> int:
    """The bucket of a length of time; everything up to a microsecond is in bucket 0."""
    us = seconds * 1e6
    return int(log2(us) * BUCKETS_PER_OCTAVE) + 1 if us > 1 else 0


def middle_s(number: int) -> float:
    """The length of time that a bucket stands for."""
    return float(2 ** ((number - 0.5) / BUCKETS_PER_OCTAVE) / 1e6) if number else 1e-6


def percentile(histogram: Mapping[int, int], percent: float) -> float | None:
    """Nearest rank, within the width of a bucket; None for nothing."""
    total = sum(histogram.values())
    if not total:
        return None
    rank, seen = max(1, -(-total * percent // 100)), 0
    for number in sorted(histogram):
        seen += histogram[number]
        if seen >= rank:
            return middle_s(number)
    raise AssertionError("unreachable")


class Point:
    """Sums of one span. ``warm`` has the calls whose time was all handler; others are in ``handler`` and ``total``."""

    __slots__ = ("bytes_in", "bytes_out", "cpu_s", "gauges", "handler", "outcomes", "queue", "start", "starts", "sums",
                 "total", "warm")  # fmt: skip

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        """Calls by ``ok`` or the code of their error."""
        self.starts: Counter[str] = Counter()
        self.warm: Histogram = Counter()
        self.handler: Histogram = Counter()
        self.total: Histogram = Counter()
        self.queue: Histogram = Counter()
        self.start: Histogram = Counter()
        self.sums = [0.0, 0.0, 0.0, 0.0]
        """Seconds of handler, total, queue, start."""
        self.cpu_s = 0.0
        self.bytes_in = 0
        self.bytes_out = 0
        self.gauges: dict[str, list[float]] = {}
        """By name: samples, their sum, the highest, the last."""

    def add(self, record: CallRecord) -> None:
        """A call has ended."""
        self.outcomes[record.error or "ok"] += 1
        self.starts[record.start_kind] += 1
        self.bytes_in += record.bytes_in
        self.bytes_out += record.bytes_out
        if record.cpu_s > 0:
            self.cpu_s += record.cpu_s
        sums, handler_s, queue_s = self.sums, record.handler_s, record.queue_s
        sums[0] += handler_s
        if not queue_s and not record.write_s:
            sums[1] += handler_s
            self.warm[bucket(handler_s)] += 1
            return
        total_s = queue_s + handler_s + record.write_s
        sums[1] += total_s
        sums[2] += queue_s
        sums[3] += record.start_s
        if record.instance:
            self.handler[bucket(handler_s)] += 1
        self.total[bucket(total_s)] += 1
        self.queue[bucket(queue_s)] += 1
        if record.start_s > 0:
            self.start[bucket(record.start_s)] += 1

    def sample(self, values: Mapping[str, float]) -> None:
        """Numbers of this moment."""
        for name, value in values.items():
            known = self.gauges.get(name)
            if known is None:
                self.gauges[name] = [1, value, value, value]
            else:
                known[0] += 1
                known[1] += value
                known[2] = max(known[2], value)
                known[3] = value

    def merge(self, other: Point, *, gauges: bool = True) -> None:
        """Add another point, of a later time; without its ``gauges`` if it is another function's."""
        for name in ("outcomes", "starts", "warm", "handler", "total", "queue", "start"):
            getattr(self, name).update(getattr(other, name))
        self.sums = [a + b for a, b in zip(self.sums, other.sums, strict=True)]
        self.cpu_s += other.cpu_s
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        for name, (count, total, highest, last) in other.gauges.items() if gauges else ():
            known = self.gauges.get(name)
            if known is None:
                self.gauges[name] = [count, total, highest, last]
            else:
                self.gauges[name] = [known[0] + count, known[1] + total, max(known[2], highest), last]

    def absorb(self, values: list[Any]) -> None:
        """Add what `packed` gave, without making a point of it: a chart adds thousands."""
        outcomes, starts, histograms, sums, cpu_s, bytes_in, bytes_out, gauges = values
        own = (self.warm, self.handler, self.total, self.queue, self.start)
        counters: list[tuple[dict[Any, int], Any]] = [(self.outcomes, outcomes.items()), (self.starts, starts.items())]
        for counter, pairs in [*counters, *zip(own, histograms, strict=True)]:
            for key, count in pairs:
                counter[key] = counter.get(key, 0) + count
        mine = self.sums
        for i in range(4):
            mine[i] += sums[i]
        self.cpu_s += cpu_s
        self.bytes_in += bytes_in
        self.bytes_out += bytes_out
        for name, (count, total, highest, last) in gauges.items():
            self._gauge(name, count, total, highest, last)

    def hold(self, gauges: Mapping[str, list[float]]) -> None:
        """One more sample of each number, as it was last."""
        for name, (_, _, _, last) in gauges.items():
            self._gauge(name, 1, last, last, last)

    def _gauge(self, name: str, count: float, total: float, highest: float, last: float) -> None:
        known = self.gauges.get(name)
        if known is None:
            self.gauges[name] = [count, total, highest, last]
        else:
            known[0] += count
            known[1] += total
            if highest > known[2]:
                known[2] = highest
            known[3] = last

    @property
    def calls(self) -> int:
        """Calls that ended."""
        return sum(self.outcomes.values())

    def packed(self) -> list[Any]:
        """As plain values, for storing."""
        histograms = (self.warm, self.handler, self.total, self.queue, self.start)
        return [
            dict(self.outcomes), dict(self.starts), [sorted(h.items()) for h in histograms], self.sums, self.cpu_s,
            self.bytes_in, self.bytes_out, self.gauges,
        ]  # fmt: skip

    @classmethod
    def unpacked(cls, values: list[Any]) -> Point:
        """The point that `packed` gave."""
        point = cls()
        outcomes, starts, histograms, sums, point.cpu_s, point.bytes_in, point.bytes_out, gauges = values
        point.outcomes, point.starts = Counter(outcomes), Counter(starts)
        point.warm, point.handler, point.total, point.queue, point.start = (
            Counter(dict(pairs)) for pairs in histograms
        )
        point.sums = list(sums)
        point.gauges = {name: list(value) for name, value in gauges.items()}
        return point

    def form(self, at: int, faults: Mapping[str, str]) -> dict[str, Any]:
        """As clients see it. ``faults``: whose fault an error's code is."""
        failed: Counter[str] = Counter()
        for code, count in self.outcomes.items():
            if code != "ok":
                failed[faults.get(code, "platform")] += count
        cold = sum(count for kind, count in self.starts.items() if kind in ("fork", "boot", "exec"))
        return {
            "at": at,
            "calls": self.calls,
            "ok": self.outcomes["ok"],
            "failed": dict(failed),
            "errors": {code: count for code, count in self.outcomes.items() if code != "ok"},
            "starts": {kind: count for kind, count in self.starts.items() if kind},
            "cold": cold,
            "latency": {
                "total": _latency([self.warm, self.total], self.sums[1]),
                "queue": _latency([self.queue], self.sums[2]),
                "start": _latency([self.start], self.sums[3]),
                "handler": _latency([self.warm, self.handler], self.sums[0]),
            },
            "cpu_s": round(self.cpu_s, 6),
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "gauges": {
                name: {"mean": round(total / count, 3) if count else 0.0, "max": highest, "last": last}
                for name, (count, total, highest, last) in self.gauges.items()
            },
        }


def _latency(histograms: Iterable[Histogram], total_s: float) -> dict[str, Any] | None:
    joined: Histogram = Counter()
    for histogram in histograms:
        joined.update(histogram)
    count = sum(joined.values())
    if not count:
        return None
    shown: dict[str, Any] = {"count": count, "mean_s": round(total_s / count, 9)}
    for percent in PERCENTS:
        found = percentile(joined, percent)
        shown[f"p{percent}_s"] = round(found, 9) if found is not None else None
    return shown
