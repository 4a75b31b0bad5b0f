"""What the scheduler wants done. The supervisor obeys, without a checkpoint between being told and acting."""

from __future__ import annotations

from dataclasses import dataclass

from daemon.errors import StokerError

__all__ = ["Action", "Dispatch", "Kill", "Launch", "Refuse", "Stop", "StopTemplate"]


@dataclass(frozen=True, slots=True)
class Launch:
    """Start an instance; its memory is reserved already. Answer with ``ready`` or ``exited``."""

    instance_id: int
    function_id: str
    revision: str
    spare: bool = False
    """Nobody waits for it: it may begin when the call that caused it has its answer."""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """A call that waited has got this instance, which is BUSY with it already."""

    call_id: str
    instance_id: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """A call that waited gets this error; the scheduler has forgotten it."""

    call_id: str
    error: StokerError


@dataclass(frozen=True, slots=True)
class Stop:
    """Tell an idle instance to leave. Answer with ``exited``; after ``limits.stop_s`` comes a Kill."""

    instance_id: int


@dataclass(frozen=True, slots=True)
class Kill:
    """Kill the instance with all its descendants, then answer with ``exited``.

    ``error`` is what its running call gets, when it has one.
    """

    instance_id: int
    error: StokerError


@dataclass(frozen=True, slots=True)
class StopTemplate:
    """End the template of a revision that has no instances. Answer with ``template_gone``."""

    revision: str


Action = Launch | Dispatch | Refuse | Stop | Kill | StopTemplate
