"""Short words for directed tests of the scheduler."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from daemon.config.settings import Limits
from daemon.core.actions import Action
from daemon.core.pool import PoolSpec
from tests.core.world import World

ROOMY = Limits(memory_mib=8192, queue_s=30.0, start_s=5.0, stop_s=1.0, kill_s=5.0)
"""The defaults, on a node with 8 GiB."""


def world(*functions: str, **limits: Any) -> World:
    """A world with limits changed and functions of 128 MiB without templates (whole numbers are easier to read)."""
    w = World(limits=replace(ROOMY, **limits))
    for function in functions:
        deploy(w, function)
    return w


def deploy(w: World, function: str, **settings: Any) -> PoolSpec:
    """Configure a new revision of a function."""
    given = {"timeout_s": 30.0, "idle_timeout_s": 30.0, "uses_template": False, **settings}
    spec = w.spec(function, **given)
    w.configure(spec)
    return spec


def ready_all(w: World) -> None:
    """All that start become ready, again and again until nothing starts."""
    for _ in range(1000):
        starting = w.starting()
        if not starting:
            return
        w.ready(starting[0])
    raise AssertionError("instances start without end")


def reap_all(w: World) -> None:
    """All that leave are gone."""
    for instance_id in [i for i, p in w.processes.items() if p.leaving]:
        w.reap(instance_id)
    for revision, _ in list(w.leaving_templates):
        w.template_reaped(revision)


def finish_all(w: World) -> None:
    """All running calls are answered."""
    for instance_id in w.busy():
        if w.processes[instance_id].call is not None:
            w.finish(instance_id)


def warm(w: World, function: str, count: int) -> list[int]:
    """Let the function answer ``count`` calls at once. Returns the ids of their instances; a spare is there too."""
    calls = [w.call(function) for _ in range(count)]
    ready_all(w)
    ids = [i for call in calls if (i := w.calls[call].instance) is not None]
    assert len(ids) == count
    for instance_id in ids:
        w.finish(instance_id)
    return ids


def spare(w: World, function: str) -> int:
    """The id of the function's only idle instance that was never used."""
    (found,) = [v.instance_id for v in w.scheduler.instances() if v.function_id == function and not v.calls]
    return found


def kinds(actions: list[Action]) -> list[str]:
    """The names of actions."""
    return [type(action).__name__ for action in actions]


def told(w: World) -> list[str]:
    """The names of all actions since the last time this was asked."""
    names = kinds(w.log)
    w.log.clear()
    return names
