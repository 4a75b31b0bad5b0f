"""The provisioned concurrency advisor: recorded calls of a function, and what each floor would have made of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import trio

from daemon.config.settings import Pcu
from daemon.core import advisor
from daemon.core.pcu import pcu_step
from daemon.model import Function
from daemon.store import record_file
from daemon.telemetry.recorder import Recorder

CALLS_MAX = 1_000_000
"""Most calls that are looked at, the newest ones."""
CURVE_MAX = 100
"""Most floors in the curve."""
GOAL = 0.95
"""POLICY: part of the cold starts that the recommended floor removes, unless the caller wants another."""
MEASURED_MAX = 10_000
"""Calls enough for the median of what they hold."""
STARTED = ("fork", "boot", "exec")


class Advisor:
    """Answers with numbers, for the API."""

    def __init__(self, recorder: Recorder, pcu: Pcu, memory_of: Callable[[str], float | None]) -> None:
        """``memory_of``: bytes that an instance of a function holds on average just now; None: there is none."""
        self._recorder = recorder
        self._pcu = pcu
        self._memory_of = memory_of

    async def calls(self, function: Function, *, since: float) -> int:
        """About how many calls `advise` would look at: the blocks of records at hand are counted, not read.

        Raises:
          Conflict, InternalError: calls are not recorded, or cannot be read.
        """
        return await self._recorder.file.read(
            lambda conn: record_file.calls_of(conn, function_id=function.id, since=since)
        )

    async def advise(self, function: Function, *, since: float, goal: float) -> dict[str, Any]:
        """What floors would have done since a time (Unix).

        Raises:
          Conflict, InternalError: calls are not recorded, or cannot be read.
        """
        await self._recorder.flush()
        calls = await self._recorder.file.read(lambda conn: _calls(conn, function.id, since))
        live = function.live
        found = await trio.to_thread.run_sync(partial(advisor.curve, calls.spans, idle_timeout_s=live.idle_timeout_s))
        allowed = self._allowed(live.memory_mib, found.peak)
        best = advisor.recommended(found, goal=goal, allowed=range(1, found.peak + 1))
        count = advisor.recommended(found, goal=goal, allowed=allowed)
        held = self._held(function, calls.memory_bytes)
        cold_starts_s = calls.cold_starts_s
        body: dict[str, Any] = {
            "function_id": function.id,
            "since": since,
            "until": time.time(),
            "calls": found.calls,
            "complete": calls.complete,
            "cold_recorded": len(cold_starts_s),
            "cold_start_s": round(sum(cold_starts_s) / len(cold_starts_s), 6) if cold_starts_s else None,
            "cold_without_floor": found.cold(0),
            "peak": found.peak,
            "idle_timeout_s": live.idle_timeout_s,
            "instance_bytes": held,
            "memory_mib": live.memory_mib,
            "present": function.pcu_count,
            "goal": goal,
            "best": self._row(found, best, held, live.memory_mib),
            "recommended": self._row(found, count, held, live.memory_mib),
            "curve": [self._row(found, floor, held, live.memory_mib) for floor in _floors(found.peak, allowed)],
        }
        body["text"] = _text(body)
        return body

    def _allowed(self, memory_mib: int, peak: int) -> list[int]:
        """The floors that may be set, up to the first one above the peak."""
        step = 1 if self._pcu.steps == "any" else pcu_step(memory_mib)
        most = self._pcu.memory_mib // memory_mib
        return [count for count in range(step, peak + step, step) if count <= most]

    def _held(self, function: Function, measured: list[int]) -> int:
        if (now := self._memory_of(function.id)) is not None:
            return int(now)
        return int(median(measured)) if measured else 0

    def _row(self, found: advisor.Curve, count: int, held: int, memory_mib: int) -> dict[str, Any]:
        return {
            "count": count,
            "cold": found.cold(count),
            "removed": round(found.removed(count), 6),
            "bytes": count * held,
            "reserved_mib": count * memory_mib,
        }


@dataclass(slots=True)
class _Calls:
    """What is needed of calls, not their records: a million of those would be a gigabyte."""

    spans: list[tuple[float, float]] = field(default_factory=list)
    """Begin and end of each, Unix time."""
    cold_starts_s: list[float] = field(default_factory=list)
    memory_bytes: list[int] = field(default_factory=list)
    """Of the newest ones."""
    complete: bool = True


def _calls(conn: Any, function_id: str, since: float) -> _Calls:
    found = _Calls()
    for block in record_file.blocks(conn, function_id=function_id, since=since):
        calls = [r for r in block if r.function_id == function_id and r.at >= since and r.instance]
        found.spans += [(r.at, r.at + r.handler_s) for r in calls]
        found.cold_starts_s += [r.start_s for r in calls if r.start_kind in STARTED]
        if len(found.memory_bytes) < MEASURED_MAX:
            found.memory_bytes += [r.memory_bytes for r in calls if r.memory_bytes > 0]
        if len(found.spans) > CALLS_MAX:
            found.complete = False
            break
        time.sleep(0)
    return found


def _floors(peak: int, allowed: list[int]) -> list[int]:
    """Which floors the curve shows: all when they are few, else evenly spread, and those that may be set."""
    shown = set(range(peak + 1)) if peak <= CURVE_MAX else {round(peak * i / CURVE_MAX) for i in range(CURVE_MAX + 1)}
    return sorted(shown | set(allowed[:CURVE_MAX]))


def _text(body: dict[str, Any]) -> str:
    if not body["calls"]:
        return "No calls are recorded in this time: there is nothing to advise."
    if not body["cold_without_floor"]:
        return f"None of {body['calls']} calls was a cold start: provisioned concurrency would bring nothing."
    best, count = body["best"], body["recommended"]
    text = (
        f"N = {best['count']} would have removed {100 * best['removed']:.0f} % of {body['cold_without_floor']} cold "
        f"starts for {best['bytes'] / 2**20:.0f} MiB."
    )
    if not count["count"]:
        return f"{text} The node's limit for provisioned concurrency (pcu.memory_mib) allows no floor of this function."
    if count["count"] != best["count"]:
        text += (
            f" The smallest count that may be set is {count['count']} (pcu.steps): {100 * count['removed']:.0f} %, "
            f"{count['bytes'] / 2**20:.0f} MiB."
        )
    if body["present"] >= count["count"]:
        text += f" It has {body['present']} already."
    return text
