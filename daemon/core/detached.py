"""Detached calls: the life of one as a table, and the book of all that wait or run. Pure.

The shell (`daemon.detached.service`) tells what happened and when, stores what is decided here, and runs calls. Only
calls that are not over are in the book, without their bodies: those are in the store.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, StrEnum
from heapq import heappop, heappush
from math import inf

from daemon.errors import QueueFull

__all__ = ["TRANSITIONS", "Book", "Call", "Event", "IllegalTransition", "Policy", "State", "backoff_s"]


class State(StrEnum):
    """Where a detached call is in its life; also what the store says."""

    QUEUED = "queued"
    """Accepted; waits for its turn, or for its next attempt."""
    RUNNING = "running"
    DEAD = "dead"
    """A dead letter: it failed for good, and is kept to be looked at and redriven."""
    GONE = "gone"
    """Done, or dropped. Not stored."""


class Event(Enum):
    """What can happen to a detached call."""

    STARTED = "it is given to its function"
    SUCCEEDED = "the function answered"
    RETRIED = "the function failed, and there are attempts left"
    PUT_BACK = "it did not run: no room, or the daemon stops"
    GAVE_UP = "no attempts are left, or it can never run"
    REDRIVEN = "somebody wants it run once more"
    DROPPED = "its function was deleted, or it was purged"


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.QUEUED: {
        Event.STARTED: State.RUNNING,
        Event.GAVE_UP: State.DEAD,
        Event.DROPPED: State.GONE,
    },
    State.RUNNING: {
        Event.SUCCEEDED: State.GONE,
        Event.RETRIED: State.QUEUED,
        Event.PUT_BACK: State.QUEUED,
        Event.GAVE_UP: State.DEAD,
        Event.DROPPED: State.GONE,
    },
    State.DEAD: {
        Event.REDRIVEN: State.QUEUED,
        Event.DROPPED: State.GONE,
    },
    State.GONE: {},
}
"""State, event -> next state."""


class IllegalTransition(Exception):
    """The event means nothing in this state: a bug. Nothing was changed."""


@dataclass(slots=True, eq=False, kw_only=True)
class Call:
    """One detached call that is not over."""

    id: str
    function_id: str
    size_bytes: int
    """Body and headers, as they count in the bound on the queue."""
    accepted_at: int
    """Milliseconds since the epoch."""
    accepted_s: float
    """The same as monotonic seconds of this daemon; may be negative."""
    due_s: float = -inf
    """Monotonic seconds before which it is not started."""
    attempts: int = 0
    """Runs that ended in a failure."""
    interruptions: int = 0
    """Runs that ended with the daemon."""
    state: State = State.QUEUED
    mib: int = 0
    """Memory that it is counted with while it runs."""
    caller: str = ""
    """Who called, for the records of its runs."""
    ticket: int = 0
    """Its place in the queue: entries with another one are old."""

    def on(self, event: Event) -> None:
        """Move to the next state.

        Raises:
          IllegalTransition: the table has no entry; everything is left as it was.
        """
        try:
            self.state = TRANSITIONS[self.state][event]
        except KeyError:
            raise IllegalTransition(f"{event.name} while {self.state.name}: detached call {self.id}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The numbers that decide."""

    queue_max: int
    queue_bytes_max: int
    running_max: int
    function_running_max: int
    running_mib_max: int
    """Most memory of functions that run detached calls; one call may always run."""
    age_s_max: float


def backoff_s(failures: int, *, first_s: float, longest_s: float, jitter: float) -> float:
    """The pause before the next attempt after ``failures`` failed ones: doubled each time, and spread.

    POLICY: between half and all of it by chance (``jitter`` from 0 to 1), so that calls that failed together do not
    come back together.
    """
    whole = min(longest_s, first_s * 2.0 ** min(failures - 1, 60))
    return whole * (0.5 + 0.5 * jitter)


class Book:
    """All detached calls that wait or run; whose turn it is.

    Args:
      policy: the bounds.
      mib_of: memory of a function in MiB, None once it is deleted.
    """

    def __init__(self, policy: Policy, *, mib_of: Callable[[str], int | None]) -> None:
        self.policy = policy
        self.held_back = False
        """True: a call that is due was not started because calls that somebody waits for go first: ask again soon."""
        self._mib_of = mib_of
        self._ready: OrderedDict[str, deque[tuple[int, Call]]] = OrderedDict()
        self._later: list[tuple[float, int, Call]] = []
        self._order = 0
        self._calls: dict[str, Call] = {}
        self._reserved = [0, 0]
        self._bytes = 0
        self._running: Counter[str] = Counter()
        self._running_mib = 0

    # -- in

    def reserve(self, size_bytes: int) -> None:
        """Take a place for a call that is being stored.

        Raises:
          QueueFull: in count or in bytes; says the numbers.
        """
        policy = self.policy
        count, held = len(self._calls) + self._reserved[0], self._bytes + self._reserved[1]
        if count >= policy.queue_max:
            raise QueueFull(detail=f"{count} of {policy.queue_max} detached calls wait or run")
        if held + size_bytes > policy.queue_bytes_max:
            raise QueueFull(
                detail=f"detached calls hold {held} of {policy.queue_bytes_max} bytes, this one has {size_bytes}"
            )
        self._reserved[0] += 1
        self._reserved[1] += size_bytes

    def cancel_reservation(self, size_bytes: int) -> None:
        """Give the place back: the call was not stored, or is added now."""
        self._reserved[0] -= 1
        self._reserved[1] -= size_bytes

    def add(self, call: Call) -> None:
        """A call that is stored and QUEUED."""
        assert call.state is State.QUEUED, call.state
        assert call.id not in self._calls, call.id
        self._calls[call.id] = call
        self._bytes += call.size_bytes
        self._queue(call)

    # -- out

    def next(self, now_s: float, *, yields: Callable[[str], bool]) -> Call | None:
        """The call whose turn it is, RUNNING now; None: none is due, or none has room.

        ``yields(function_id)``: calls that somebody waits for are queueing for the same function, or for the node.

        POLICY: functions take turns; within one, the oldest first. Detached calls together hold at most a part of the
        node's memory and of a function's instances, so that there is always room for calls that somebody waits for.
        """
        self._promote(now_s)
        self.held_back = False
        for function_id in list(self._ready):
            if not self._has_room(function_id):
                continue
            if yields(function_id):
                self.held_back = True
                continue
            call = self._take(function_id)
            if call is None:
                continue
            call.on(Event.STARTED)
            call.mib = self._mib_of(function_id) or 0
            self._running[function_id] += 1
            self._running_mib += call.mib
            return call
        return None

    def next_due_s(self) -> float:
        """When a call that waits for its next attempt is due; inf: none does."""
        return self._later[0][0] if self._later else inf

    def overdue(self, now_s: float) -> list[Call]:
        """Calls that have waited longer than ``age_s_max``, DEAD now and out of the book."""
        limit_s = now_s - self.policy.age_s_max
        old = [call for call in self._calls.values() if call.state is State.QUEUED and call.accepted_s < limit_s]
        for call in old:
            self._end(call, Event.GAVE_UP)
        return old

    # -- what became of a running call

    def succeeded(self, call: Call) -> None:
        """The function answered."""
        self._stop(call)
        self._end(call, Event.SUCCEEDED)

    def retry(self, call: Call, *, due_s: float) -> None:
        """It failed and is run again at ``due_s``."""
        self._stop(call)
        call.on(Event.RETRIED)
        call.due_s = due_s
        self._queue(call)

    def put_back(self, call: Call, *, due_s: float) -> None:
        """It was not run and keeps its attempts."""
        self._stop(call)
        call.on(Event.PUT_BACK)
        call.due_s = due_s
        self._queue(call)

    def gave_up(self, call: Call) -> None:
        """It is a dead letter now."""
        self._stop(call)
        self._end(call, Event.GAVE_UP)

    def dropped(self, call: Call) -> None:
        """Its function is no more."""
        self._stop(call)
        self._end(call, Event.DROPPED)

    def forget(self, function_id: str) -> list[Call]:
        """The function was deleted: its waiting calls are GONE. Running ones end by themselves."""
        waiting = [c for c in self._calls.values() if c.function_id == function_id and c.state is State.QUEUED]
        for call in waiting:
            self._end(call, Event.DROPPED)
        return waiting

    # -- views

    def __iter__(self) -> Iterator[Call]:
        return iter(self._calls.values())

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def size_bytes(self) -> int:
        """Of all calls that wait or run."""
        return self._bytes

    @property
    def running(self) -> int:
        """Calls that run."""
        return self._running.total()

    @property
    def running_mib(self) -> int:
        """Memory of the functions of the calls that run."""
        return self._running_mib

    # -- helpers

    def _has_room(self, function_id: str) -> bool:
        policy, running = self.policy, self._running.total()
        mib = self._mib_of(function_id)
        if mib is None:
            return running < policy.running_max  # to be dropped
        return (
            running < policy.running_max
            and self._running[function_id] < policy.function_running_max
            and (not running or self._running_mib + mib <= policy.running_mib_max)
        )

    def _queue(self, call: Call) -> None:
        self._order += 1
        call.ticket = self._order
        heappush(self._later, (call.due_s, self._order, call))

    def _promote(self, now_s: float) -> None:
        while self._later and self._later[0][0] <= now_s:
            _, ticket, call = heappop(self._later)
            if call.ticket == ticket and call.state is State.QUEUED:
                self._ready.setdefault(call.function_id, deque()).append((ticket, call))

    def _take(self, function_id: str) -> Call | None:
        """The function's oldest call that is due; the function goes behind the others."""
        queue = self._ready.pop(function_id)
        found = None
        while queue and found is None:
            ticket, call = queue.popleft()
            if call.ticket == ticket and call.state is State.QUEUED:  # else it was dropped meanwhile
                found = call
        if queue:
            self._ready[function_id] = queue
        return found

    def _stop(self, call: Call) -> None:
        if call.state is not State.RUNNING:
            raise IllegalTransition(f"detached call {call.id} is {call.state.name}, not RUNNING")
        self._running[call.function_id] -= 1
        if not self._running[call.function_id]:
            del self._running[call.function_id]
        self._running_mib -= call.mib
        call.mib = 0

    def _end(self, call: Call, event: Event) -> None:
        call.on(event)
        del self._calls[call.id]
        self._bytes -= call.size_bytes
