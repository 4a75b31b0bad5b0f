"""Provisioned concurrency: the floor of a function."""

from __future__ import annotations

import pytest

from daemon.core.pool import PoolSpec
from tests.core.helpers import deploy, finish_all, ready_all, reap_all, told, warm, world
from tests.core.world import World


def change(w: World, function: str, **settings: object) -> None:
    """Configure the live revision of a function anew."""
    spec = w.specs[function]
    fields = {name: getattr(spec, name) for name in PoolSpec.__dataclass_fields__}
    w.configure(PoolSpec(**{**fields, **settings}))  # type: ignore[arg-type]


def test_the_floor_is_started_without_a_call() -> None:
    w = world()
    deploy(w, "f", floor=5)
    assert w.view("f").pcu.state == "filling"
    ready_all(w)
    pcu = w.view("f").pcu
    assert (pcu.requested, pcu.allocated, pcu.available, pcu.in_use, pcu.state) == (5, 5, 5, 0, "ready")


def test_the_floor_is_filled_in_the_background_at_a_pace() -> None:
    w = world(starts_at_once=4)
    deploy(w, "f", floor=10)
    assert len(w.starting()) == 4
    w.ready(1)
    assert len(w.starting()) == 4
    ready_all(w)
    assert w.alive("f") == 10


def test_the_floor_is_usable_one_by_one() -> None:
    w = world(starts_at_once=4)
    deploy(w, "f", floor=10)
    w.ready(3)
    call = w.call("f")
    assert w.calls[call].instance == 3


def test_the_floor_never_idles_out() -> None:
    w = world()
    deploy(w, "f", floor=3, idle_timeout_s=1.0)
    ready_all(w)
    w.log.clear()
    w.wait(10_000.0)
    assert told(w) == []
    assert w.alive("f") == 3


def test_what_is_above_the_floor_idles_out() -> None:
    w = world()
    deploy(w, "f", floor=2, idle_timeout_s=10.0)
    warm(w, "f", 5)
    w.wait(10.0)
    assert w.alive("f") == 2


def test_the_floor_counts_busy_instances() -> None:
    w = world()
    deploy(w, "f", floor=3)
    ready_all(w)
    w.call("f")
    w.call("f")
    assert w.alive("f") == 3
    assert (w.view("f").pcu.available, w.view("f").pcu.in_use) == (1, 2)


def test_the_floor_is_refilled_after_a_kill() -> None:
    w = world()
    deploy(w, "f", floor=3)
    ready_all(w)
    w.crash(2)
    w.reap(2)
    assert len(w.starting()) == 1
    ready_all(w)
    assert w.view("f").pcu.allocated == 3


def test_the_floor_is_refilled_while_the_killed_one_still_dies() -> None:
    w = world()
    deploy(w, "f", floor=2, timeout_s=1.0)
    ready_all(w)
    w.call("f")
    w.wait(1.0)
    assert [p.killed for p in w.processes.values()].count(True) == 1
    assert len(w.starting()) == 1


def test_the_floor_is_never_evicted() -> None:
    w = world("g", memory_mib=512)
    deploy(w, "f", floor=3)
    ready_all(w)
    w.call("g")
    w.call("g")
    w.call("g")
    ready_all(w)
    assert w.alive("f") == 3
    assert len(w.waiting("g")) == 2


def test_a_floor_takes_room_from_idle_instances_of_others() -> None:
    w = world("g", memory_mib=512)
    warm(w, "g", 3)
    deploy(w, "f", floor=3)
    reap_all(w)
    ready_all(w)
    assert w.alive("f") == 3


def test_memory_that_an_unfilled_floor_needs_is_not_used_by_calls() -> None:
    w = world("g", memory_mib=512, starts_at_once=1)
    deploy(w, "f", floor=3)
    for _ in range(4):
        w.call("g")
    assert len(w.starting("f")) == 1
    for _ in range(10):
        if starting := w.starting("g"):
            w.ready(starting[0])
    assert len(w.of("g")) == 1, "three quarters are promised"
    ready_all(w)
    assert w.alive("f") == 3


def test_a_floor_that_must_be_refilled_comes_before_calls() -> None:
    w = world("g", memory_mib=512)
    deploy(w, "f", floor=3)
    ready_all(w)
    w.call("g")
    w.call("g")
    ready_all(w)
    w.crash(1)
    w.reap(1)
    assert len(w.starting("f")) == 1
    assert len(w.of("g")) == 1


def test_calls_beyond_the_floor_are_counted_as_spillover() -> None:
    w = world()
    deploy(w, "f", floor=2)
    ready_all(w)
    for _ in range(5):
        w.call("f")
    ready_all(w)
    assert len(w.busy()) == 5
    assert w.view("f").pcu.spillover == 3
    finish_all(w)
    w.call("f")
    assert w.view("f").pcu.spillover == 3


def test_a_function_without_a_floor_has_no_spillover() -> None:
    w = world("f")
    warm(w, "f", 3)
    assert w.view("f").pcu.spillover == 0


def test_a_floor_larger_than_the_node_is_granted_in_part_and_does_not_block_the_others() -> None:
    w = world(memory_mib=1024)
    deploy(w, "f", floor=6)
    deploy(w, "greedy", floor=40)
    ready_all(w)
    pcu = w.view("greedy").pcu
    assert (pcu.requested, pcu.allocated, pcu.state) == (40, 2, "partial")
    assert pcu.reason == "the node has room for 2 of 40"
    assert w.view("f").pcu.state == "ready"
    deploy(w, "f", floor=1)
    reap_all(w)
    ready_all(w)
    reap_all(w)
    ready_all(w)
    assert w.view("greedy").pcu.allocated == 7


def test_a_lower_floor_lets_the_surplus_idle_out() -> None:
    w = world()
    deploy(w, "f", floor=5, idle_timeout_s=10.0)
    ready_all(w)
    w.wait(100.0)
    change(w, "f", floor=2)
    assert w.alive("f") == 2
    change(w, "f", floor=0)
    assert w.alive("f") == 0


def test_a_higher_floor_is_filled() -> None:
    w = world()
    deploy(w, "f", floor=1)
    ready_all(w)
    change(w, "f", floor=4)
    ready_all(w)
    assert w.view("f").pcu.allocated == 4


def test_a_worn_instance_of_a_floor_is_replaced_before_it_goes() -> None:
    w = world(reuse_age_s_max=1000.0)
    deploy(w, "f", floor=3)
    ready_all(w)
    for _ in range(1200):
        w.wait(1.0)
        ready = [p for p in w.processes.values() if p.ready and not p.leaving]
        assert len(ready) >= 3
        ready_all(w)
        reap_all(w)
    assert min(w.processes) > 3, "all were replaced"
    assert len(w.processes) == 3


def test_a_worn_instance_of_a_floor_goes_all_the_same_when_its_replacement_fails() -> None:
    w = world(start_s=5.0)
    deploy(w, "f", floor=2)
    ready_all(w)
    w.grow(1, 0.9)
    assert (w.alive("f"), len(w.starting())) == (3, 1)
    w.start_fails(w.starting()[0])
    w.wait(5.0)
    assert w.processes[1].stopping


def test_without_free_memory_a_worn_instance_of_a_floor_makes_room_for_its_replacement() -> None:
    w = world(memory_mib=256)
    deploy(w, "f", floor=2)
    ready_all(w)
    w.grow(1, 0.9)
    assert w.processes[1].stopping
    w.reap(1)
    assert len(w.starting()) == 1


def test_settings_are_checked() -> None:
    for wrong in ({"memory_mib": 0}, {"timeout_s": 0.0}, {"idle_timeout_s": -1.0}, {"floor": -1}):
        with pytest.raises(ValueError, match="must be"):
            world().spec("f", **wrong)
