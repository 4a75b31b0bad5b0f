"""The life of an instance: the table of states, and the one object that walks through it.

Everything that moves an instance from state to state is in this file, and the file knows nothing of pools, calls or
memory. The table is total: each state has a row, also the last. An event without an entry raises and changes nothing;
what may come late on purpose (the worker's answer crossed our kill) is listed in ``LATE``, not forgotten.

``scripts/state_diagram.py`` prints the picture from the table.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from typing import TYPE_CHECKING

from daemon.core.events import Event

if TYPE_CHECKING:
    from daemon.core.pool import Revision

__all__ = ["LATE", "TRANSITIONS", "IllegalTransition", "Instance", "State"]


class State(StrEnum):
    """Where an instance is in its life. Each state has at most one deadline."""

    STARTING = "starting"
    """Launched, has not said ready. Deadline: ``limits.start_s``."""
    IDLE = "idle"
    """Ready, holds no call. Deadline: the idle timeout or its age; see ``policy``."""
    BUSY = "busy"
    """Holds exactly one call. Deadline: the function's timeout."""
    STOPPING = "stopping"
    """Was told to stop. Deadline: ``limits.stop_s``."""
    KILLING = "killing"
    """Is being killed. Only its exit ends this; after ``limits.kill_s`` nobody counts on its memory any longer."""
    GONE = "gone"
    """Reaped, with all its descendants. Its memory is free."""


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.STARTING: {
        Event.READY: State.IDLE,
        Event.CONDEMNED: State.KILLING,
        Event.DEADLINE: State.KILLING,
        Event.EXITED: State.GONE,
    },
    State.IDLE: {
        Event.ASSIGNED: State.BUSY,
        Event.RETIRED: State.STOPPING,
        Event.CONDEMNED: State.KILLING,
        Event.EXITED: State.GONE,
    },
    State.BUSY: {
        Event.RELEASED: State.IDLE,
        Event.CONDEMNED: State.KILLING,
        # Fn contract: after a timeout the container cannot continue (fn agent.go:697).
        Event.DEADLINE: State.KILLING,
        Event.EXITED: State.GONE,
    },
    State.STOPPING: {
        Event.CONDEMNED: State.KILLING,
        Event.DEADLINE: State.KILLING,
        Event.EXITED: State.GONE,
    },
    State.KILLING: {
        Event.EXITED: State.GONE,
    },
    State.GONE: {},
}
"""State, event -> next state. The deadline of IDLE has no entry: whether it retires is a policy, then RETIRED."""

LATE: dict[State, frozenset[Event]] = {
    State.STARTING: frozenset(),
    State.IDLE: frozenset(),
    State.BUSY: frozenset(),
    State.STOPPING: frozenset(),
    State.KILLING: frozenset({Event.READY, Event.RELEASED, Event.CONDEMNED}),
    State.GONE: frozenset({Event.READY, Event.RELEASED, Event.CONDEMNED, Event.EXITED}),
}
"""Events that may be told after the fact, and are ignored then: the sender could not know yet."""


class IllegalTransition(Exception):
    """The event means nothing in this state: a bug in the scheduler or its shell. Nothing was changed."""


@dataclass(slots=True, eq=False, kw_only=True)
class Instance:
    """One worker process as the scheduler counts it."""

    id: int
    revision: Revision = field(repr=False)
    memory_mib: int
    """Reserved for it until GONE."""
    born_s: float
    """Monotonic seconds of its launch."""
    since_s: float
    """When it came into its present state."""
    deadline_s: float
    """When its present state must have ended; inf: never."""
    calls_max: int
    """Reuse limit, jitter applied."""
    retire_at_s: float
    """Reuse limit, jitter applied."""
    growth_bytes_max: float
    """Reuse limit: holding more than this it is worn."""
    state: State = State.STARTING
    alarm_s: float = inf
    """When the alarm clock looks at it next; kept by ``alarms.Alarms``."""
    call_id: str = ""
    """The call that it holds while BUSY."""
    calls: int = 0
    """Calls that it has answered."""
    kind: str = ""
    """How it was started: what the launcher said (``fork``, ``boot``, ``exec``)."""
    waited: bool = False
    """It was IDLE before its first call: that one is a ``spare`` start."""
    memory_bytes: int = 0
    """Last measured."""
    stuck: bool = False
    """It should be GONE and is not: nobody counts on its memory."""
    worn: bool = False
    """It has grown beyond its reuse limit."""
    relieved_s: float = inf
    """Worn, and its replacement is starting: it stays until that is ready, but not longer than this."""

    def on(self, event: Event, *, now_s: float, deadline_s: float = inf) -> None:
        """Move to the next state.

        Raises:
          IllegalTransition: the table has no entry; everything is left as it was.
        """
        try:
            state = TRANSITIONS[self.state][event]
        except KeyError:
            raise IllegalTransition(f"{event.name} while {self.state.name}: instance {self.id}") from None
        self.state, self.since_s, self.deadline_s = state, now_s, deadline_s

    def is_worn(self, now_s: float) -> bool:
        """It has reached a reuse limit: calls, age or growth."""
        return self.worn or self.calls >= self.calls_max or now_s >= self.retire_at_s

    def is_late(self, event: Event) -> bool:
        """The event crossed ours on the way and is to be ignored."""
        return event in LATE[self.state]
