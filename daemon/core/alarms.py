"""An alarm clock for things whose deadline changes with every call.

A heap entry per change would put two heap operations into each call. Instead a thing has one alarm at a time, which may
ring early: a later deadline leaves the alarm alone, and the clock looks at the real deadline when it rings. A function
with a timeout of 30 s so costs one heap operation in 30 s, however many calls it answers.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from math import inf
from typing import Protocol

__all__ = ["Alarmed", "Alarms"]

_COMPACT_AT_LEAST = 256
"""Heap size below which dead entries are not worth sweeping."""


class Alarmed(Protocol):
    """Something with a deadline."""

    alarm_s: float
    """When its alarm rings; inf: it has none. Kept by ``Alarms``."""

    @property
    def deadline_s(self) -> float:
        """When it must be looked at; inf: never."""


class Alarms:
    """All alarms of a scheduler, earliest first."""

    __slots__ = ("_compact_at", "_heap", "_order", "nearer")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Alarmed]] = []
        self._order = 0
        self._compact_at = _COMPACT_AT_LEAST
        self.nearer = False
        """True: an alarm came before all others since this was last set to False."""

    def set(self, what: Alarmed) -> None:
        """Make sure that the alarm of ``what`` rings no later than its deadline."""
        at_s = what.deadline_s
        if at_s >= what.alarm_s:
            return
        heap = self._heap
        if not heap or at_s < heap[0][0]:
            self.nearer = True
        what.alarm_s = at_s
        self._order += 1
        heappush(heap, (at_s, self._order, what))
        if len(heap) > self._compact_at:
            self._compact()

    def drop(self, what: Alarmed) -> None:
        """Forget the alarm of ``what``."""
        what.alarm_s = inf

    def due(self, now_s: float) -> list[Alarmed]:
        """Take out everything whose deadline is reached, earliest alarm first."""
        found: list[Alarmed] = []
        heap = self._heap
        while heap and heap[0][0] <= now_s:
            at_s, _, what = heappop(heap)
            if what.alarm_s != at_s:
                continue  # an earlier alarm has replaced this one, or it was dropped
            what.alarm_s = inf
            if what.deadline_s <= now_s:
                found.append(what)
            else:
                self.set(what)
        return found

    def next_s(self) -> float:
        """The earliest deadline of all, or inf."""
        heap = self._heap
        while heap:
            at_s, _, what = heap[0]
            if what.alarm_s == at_s and what.deadline_s == at_s:
                return at_s
            heappop(heap)
            if what.alarm_s == at_s:
                what.alarm_s = inf
                self.set(what)
        return inf

    def _compact(self) -> None:
        # In place: due() and next_s() may be walking through it.
        self._heap[:] = [entry for entry in self._heap if entry[2].alarm_s == entry[0]]
        heapify(self._heap)
        self._compact_at = max(_COMPACT_AT_LEAST, 2 * len(self._heap))
