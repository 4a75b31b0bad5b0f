"""Stops what idle instances do between calls, where that is asked for (``limits.freeze_s``).

A program of its own may run timers and threads while it waits; Fn's server freezes it for that reason. Nothing of this
is on the path of a call but the look whether its instance is frozen.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NoReturn

import trio

from daemon.config.settings import Limits
from daemon.supervisor import Supervisor

__all__ = ["start_freezer"]

LOOKS = 4
"""How often, in the time after which they are frozen, the idle instances are looked at."""
LOOK_S_MIN, LOOK_S_MAX = 0.01, 1.0

Samples = Callable[[], Awaitable[list[tuple[str, tuple[str, ...], float]]]]


def start_freezer(nursery: trio.Nursery, supervisor: Supervisor, limits: Limits) -> Samples:
    """Freeze idle instances until the nursery ends; does nothing where ``limits.freeze_s`` is 0. What metrics show."""
    if limits.freeze_s:
        nursery.start_soon(_run, supervisor, limits)

    async def samples() -> list[tuple[str, tuple[str, ...], float]]:
        frozen = sum(slot.frozen for slot in supervisor.slots.values())
        return [("stoker_frozen_instances", (), float(frozen))]

    return samples


async def _run(supervisor: Supervisor, limits: Limits) -> NoReturn:
    while True:
        await trio.sleep(min(LOOK_S_MAX, max(LOOK_S_MIN, limits.freeze_s / LOOKS)))
        _freeze(supervisor, trio.current_time() - limits.freeze_s, native=limits.freeze_native)


def _freeze(supervisor: Supervisor, since_s: float, *, native: bool) -> None:
    """Freeze all that have been idle since then or longer. No checkpoint in here: none gets a call meanwhile."""
    for slot in supervisor.slots.values():
        if slot.frozen or slot.doom is not None or slot.worker is None or not (native or slot.plan.command):
            continue
        idle_s = supervisor.scheduler.idle_since_s(slot.instance_id)
        if idle_s is not None and idle_s <= since_s:
            slot.worker.freeze(True)
            slot.frozen = True
