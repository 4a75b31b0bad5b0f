"""How many instances should be kept warm? From the calls that came, what each floor would have made of them. Pure.

The scheduler gives a call to the most recently used idle instance, so the k-th instance is needed exactly when k calls
run at once, and it is there (without a floor) exactly while that was so within the idle timeout. So the call that makes
k run at once is a cold start if k is above the floor and k ran at once too long ago: one pass over the calls gives the
whole curve. A test compares it with a simulation of every floor, instance by instance.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Curve", "curve", "recommended"]


@dataclass(frozen=True, slots=True)
class Curve:
    """Cold starts by floor."""

    calls: int
    cold_by_level: tuple[int, ...]
    """How many calls had to start the instance number 1, 2, 3..."""

    @property
    def peak(self) -> int:
        """Most calls that ran at once: a floor of as many leaves no cold start."""
        return len(self.cold_by_level)

    def cold(self, floor: int) -> int:
        """Cold starts with that many instances kept warm."""
        return sum(self.cold_by_level[floor:])

    def removed(self, floor: int) -> float:
        """Part of the cold starts that the floor would have removed; 1.0 when there were none."""
        everything = self.cold(0)
        return 1.0 - self.cold(floor) / everything if everything else 1.0


def curve(calls: Iterable[tuple[float, float]], *, idle_timeout_s: float) -> Curve:
    """The curve of calls given as begin and end, in seconds, in any order."""
    ends: list[float] = []
    left_at: list[float] = [0.0]  # when as many calls last ran at once
    cold = [0]
    count = 0
    for begin, end in sorted(calls):
        count += 1
        while ends and ends[0] <= begin:
            level = len(ends)
            left_at[level] = heapq.heappop(ends)
        heapq.heappush(ends, end)
        level = len(ends)
        if level == len(cold):
            cold.append(1)
            left_at.append(0.0)
        elif begin - left_at[level] > idle_timeout_s:
            cold[level] += 1
    return Curve(count, tuple(cold[1:]))


def recommended(found: Curve, *, goal: float, allowed: Sequence[int]) -> int:
    """The smallest allowed floor that removes at least the part ``goal`` of the cold starts; 0 when there are none.

    The largest allowed one when none does; 0 when nothing is allowed.
    """
    if not found.cold(0):
        return 0
    for floor in sorted(allowed):
        if found.removed(floor) >= goal:
            return floor
    return max(allowed, default=0)
