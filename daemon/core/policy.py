"""The choices, as pure functions of numbers. Where one is applied stands ``# POLICY:``: grep for the tuning manual.

Nothing in here knows a clock, the configuration or the scheduler's state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from daemon.core.pcu import check_pcu

__all__ = [
    "Victim",
    "background_starts_max",
    "backoff_s",
    "check_pcu",
    "floor_granted",
    "in_use",
    "keep_as_spare",
    "launches_wanted",
    "may_grow",
    "must_yield",
    "reuse_limit",
    "spare_wanted",
    "turn_starts_s",
    "victims",
]

BACKOFF_JITTER = 0.1
"""Part of a back-off pause that is random, so that many functions do not retry in step."""
REUSE_JITTER = 0.1
"""Part of a reuse limit that is random, so that instances started together are not replaced together."""
TURN_FRACTION = 0.5
"""Part of its queue time that a call waits politely; then it is its function's turn before all others."""


def launches_wanted(*, waiting: int, idle: int, starting: int) -> int:
    """How many instances to launch now: waiting calls that no idle or starting instance covers.

    Fn's rule (fn slots.go isNewContainerNeeded), but all of them at once and on the event, not one per 200 ms poll.
    """
    return max(0, waiting - idle - starting)


def spare_wanted(*, in_use: bool, idle: int, starting: int) -> bool:
    """Whether one instance should be started ahead of demand: the function is in use and nothing else is ready."""
    return in_use and idle == 0 and starting == 0


def in_use(*, busy: int, used_s: float, idle_timeout_s: float, now_s: float) -> bool:
    """A function is in use while a call runs and for its idle timeout after the last one."""
    return busy > 0 or now_s < used_s + idle_timeout_s


def keep_as_spare(*, in_use: bool, others_unused: int) -> bool:
    """Whether an instance whose idle time is up stays as the spare of a function in use.

    Only one does: when another has been unused for as long, that one is spare enough. Without this rule the spare
    would idle out under a steady client and be started again at once.
    """
    return in_use and others_unused == 0


def backoff_s(*, failures: int, first_s: float, most_s: float, jitter: float) -> float:
    """Pause before the next start attempt: doubled at each failure, bounded, with up to 10 % of jitter on top."""
    doublings = min(failures - 1, 63)  # 2.0 ** 1024 overflows
    return float(min(first_s * 2.0**doublings, most_s) * (1 + BACKOFF_JITTER * jitter))


def reuse_limit(limit: float, *, jitter: float) -> float:
    """A reuse limit less up to 10 % of jitter."""
    return limit * (1 - REUSE_JITTER * jitter)


def background_starts_max(node_starts_at_once: int) -> int:
    """Starts that nobody waits for (floors, spares) may take half of the places: a waiting call finds one at once."""
    return max(1, node_starts_at_once // 2)


def floor_granted(*, floor: int, memory_mib: int, room_mib: int, instances_max: int) -> int:
    """How much of a floor the node can hold at all: a floor that can never be filled must not block the others."""
    return max(0, min(floor, room_mib // memory_mib, instances_max))


def may_grow(*, held_mib: int, need_mib: int, blocked_held_mib: int, blocked_need_mib: int) -> bool:
    """Whether a function may take memory while another one, whose turn came before, waits for more than there is.

    Yes as long as it then holds no more than the waiting one would: small functions go on beside a large one that
    waits, a large one is not starved by those that already hold more than it asks for.
    """
    return held_mib + need_mib <= blocked_held_mib + blocked_need_mib


def must_yield(*, held_mib: int, instance_mib: int, blocked_held_mib: int, blocked_need_mib: int) -> bool:
    """Whether a function with calls waiting gives up an instance that just got free, for one that waits for memory.

    Yes if it keeps at least as much as the other one would then hold: memory moves from the one that has most until
    the shares are even, and never back and forth.
    """
    return held_mib - instance_mib >= blocked_held_mib + blocked_need_mib


def turn_starts_s(*, waiting_since_s: float, queue_s: float, not_before_s: float) -> float:
    """From when a function that waits for memory goes before all others, whatever it needs.

    ``not_before_s`` is the pause after a turn that did not succeed: a function that never fits takes at most a third
    of the time from the others.
    """
    return max(waiting_since_s + queue_s * TURN_FRACTION, not_before_s)


class Victim(NamedTuple):
    """Something that could be given up to make room."""

    key: int
    memory_mib: int
    instances: int
    """1 for an instance, 0 for a template."""


def victims(candidates: Sequence[Victim], *, need_mib: int, need_instances: int) -> list[Victim]:
    """The first candidates that cover the need, or ``[]`` if all together would not.

    All or nothing: giving some up without making room only makes cold starts. Candidates come in the order in which
    they should go; one that turns out not to be needed (a larger one came after it) is spared, the last ones first.
    """
    chosen: list[Victim] = []
    for candidate in candidates:
        if need_mib <= 0 and need_instances <= 0:
            break
        chosen.append(candidate)
        need_mib -= candidate.memory_mib
        need_instances -= candidate.instances
    if need_mib > 0 or need_instances > 0:
        return []
    for candidate in reversed(chosen.copy()):
        if need_mib + candidate.memory_mib <= 0 and need_instances + candidate.instances <= 0:
            chosen.remove(candidate)
            need_mib += candidate.memory_mib
            need_instances += candidate.instances
    return chosen
