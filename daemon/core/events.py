"""What can happen to an instance. What it means in each state stands in one table: ``instance.TRANSITIONS``."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Event"]


class Event(StrEnum):
    """Something that happened to one instance, told to its state machine.

    A ``StrEnum`` because its hash is the string's, computed once: two table look-ups are part of every call.
    """

    READY = "ready"
    """The worker has imported the handler and waits for calls."""
    ASSIGNED = "assigned"
    """A call was given to it."""
    RELEASED = "released"
    """It answered its call and may get another."""
    RETIRED = "retired"
    """It is not wanted any longer: idle too long, worn, of an old revision, or evicted for another function."""
    CONDEMNED = "condemned"
    """It is unfit or must not go on: it broke the protocol, its caller left, it used too much memory."""
    DEADLINE = "deadline"
    """The time of its present state is up."""
    EXITED = "exited"
    """Its process and all descendants are reaped."""
