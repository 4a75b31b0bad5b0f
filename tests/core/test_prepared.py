"""Deploys: a version is prepared beside the live one, then takes over."""

from __future__ import annotations

from dataclasses import replace

import pytest

from daemon.core.pool import PoolSpec
from daemon.errors import TooLargeForNode
from tests.core.helpers import deploy, ready_all, reap_all, told, warm, world
from tests.core.world import World


def prepare(w: World, function: str, **settings: object) -> PoolSpec:
    spec = w.spec(function, **{"timeout_s": 30.0, "idle_timeout_s": 30.0, "uses_template": False, **settings})
    w.prepare(spec)
    return spec


def test_a_prepared_version_starts_a_canary_and_gets_no_calls() -> None:
    w = world("f")
    old = w.specs["f"].revision
    new = prepare(w, "f")
    assert w.scheduler.prepared("f", new.revision) == (0, 1)
    ready_all(w)
    assert w.scheduler.prepared("f", new.revision) == (1, 1)
    call = w.call("f")
    ready_all(w)
    assert w.processes[w.calls[call].instance or 0].revision == old
    assert w.view("f").prepared == new.revision


def test_a_first_version_can_be_prepared() -> None:
    w = world()
    new = prepare(w, "f")
    call = w.call("f")
    assert w.ended[call] == "not-found", "nothing is live yet"
    ready_all(w)
    w.configure(new)
    call = w.call("f")
    assert w.calls[call].instance == 1
    assert w.scheduler.start_kind(1) == "spare"


def test_a_prepared_version_starts_its_whole_floor() -> None:
    w = world()
    deploy(w, "f", floor=3)
    ready_all(w)
    new = prepare(w, "f", floor=4)
    assert w.scheduler.prepared("f", new.revision) == (0, 4)
    ready_all(w)
    assert w.scheduler.prepared("f", new.revision) == (4, 4)
    assert len(w.processes) == 7, "the old floor is still there"


def test_the_flip_sends_calls_to_the_new_version_and_the_old_one_away() -> None:
    w = world()
    deploy(w, "f", floor=2)
    ready_all(w)
    running = w.call("f")
    new = prepare(w, "f", floor=2)
    ready_all(w)
    w.configure(new)
    assert w.view("f").pcu.state == "ready", "the floor holds through the flip"
    call = w.call("f")
    assert w.processes[w.calls[call].instance or 0].revision == new.revision
    assert [p.stopping for p in w.processes.values()].count(True) == 1
    w.finish(w.calls[running].instance or 0)
    assert w.ended[running] == "ok"
    reap_all(w)
    assert {p.revision for p in w.processes.values()} == {new.revision}


def test_waiting_calls_go_to_the_new_version_at_the_flip() -> None:
    w = world("f", function_instances_max=3)
    w.call("f")
    w.ready(1)
    new = prepare(w, "f")
    w.call("f")
    waiting = w.call("f")
    ready_all(w)
    assert w.waiting("f") == [waiting]
    w.configure(new)
    assert w.processes[w.calls[waiting].instance or 0].revision == new.revision


def test_a_new_floor_is_wanted_only_as_far_as_memory_goes() -> None:
    w = world(memory_mib=6 * 128)
    deploy(w, "f", floor=4)
    ready_all(w)
    new = prepare(w, "f", floor=4)
    assert w.scheduler.prepared("f", new.revision) == (0, 2)
    ready_all(w)
    assert w.scheduler.prepared("f", new.revision) == (2, 2)
    assert w.alive("f", w.specs["f"].revision) == 4, "the old one is not let go before"
    w.configure(new)
    reap_all(w)
    ready_all(w)
    assert w.view("f").pcu.allocated == 4


def test_without_room_for_a_canary_the_old_version_gives_one_up() -> None:
    w = world(memory_mib=4 * 128)
    deploy(w, "f", floor=4)
    ready_all(w)
    new = prepare(w, "f", floor=4)
    assert w.scheduler.prepared("f", new.revision) == (0, 1)
    assert [p.stopping for p in w.processes.values()].count(True) == 1
    reap_all(w)
    ready_all(w)
    assert w.scheduler.prepared("f", new.revision) == (1, 1)
    assert w.alive("f", w.specs["f"].revision) == 3


def test_a_busy_old_version_gives_an_instance_up_as_it_gets_free() -> None:
    w = world("f", memory_mib=2 * 128)
    for _ in range(5):
        w.call("f")
    ready_all(w)
    new = prepare(w, "f")
    assert w.alive("f", new.revision) == 0
    w.finish(w.busy()[0])
    reap_all(w)
    assert w.alive("f", new.revision) == 1
    ready_all(w)
    w.finish(w.busy()[0])
    assert len(w.busy()) == 1, "after that, waiting calls come first again"


def test_a_version_that_can_never_fit_is_refused_at_once_and_costs_nobody_anything() -> None:
    w = world("f", memory_mib=256)
    warm(w, "f", 1)
    with pytest.raises(TooLargeForNode, match="needs 512 MiB, the node has 256 MiB"):
        prepare(w, "f", memory_mib=512)
    assert w.scheduler.prepared("f", "f.2") == (0, 1)
    assert not any(p.leaving for p in w.processes.values())


def test_the_floor_of_the_version_before_makes_room_but_that_of_others_does_not() -> None:
    w = world(memory_mib=1024)
    deploy(w, "f", memory_mib=128, floor=3)
    deploy(w, "g", memory_mib=128, floor=2)
    fits = replace(w.specs["f"], revision="f.9", memory_mib=768)
    w.scheduler.check_room(fits)
    with pytest.raises(TooLargeForNode, match="1024 MiB less 256 MiB provisioned for others"):
        w.scheduler.check_room(replace(fits, memory_mib=769))


def test_a_canary_counts_towards_the_maximum_of_its_function() -> None:
    w = world("f", function_instances_max=2)
    w.call("f")
    w.call("f")
    ready_all(w)
    new = prepare(w, "f")
    assert w.alive("f", new.revision) == 0
    w.finish(1)
    assert w.processes[1].stopping
    w.reap(1)
    assert w.alive("f", new.revision) == 1


def test_a_failed_canary_is_reported_and_not_started_again() -> None:
    w = world("f")
    prepare(w, "f", floor=3)
    w.start_fails(w.starting()[0])
    w.log.clear()
    w.wait(100.0)
    assert "Launch" not in told(w)


def test_an_abandoned_version_is_killed_and_the_old_one_goes_on() -> None:
    w = world("f")
    warm(w, "f", 1)
    new = prepare(w, "f", floor=2)
    w.ready(w.starting()[0])
    w.abandon("f")
    assert w.alive("f", new.revision) == 0
    reap_all(w)
    call = w.call("f")
    assert w.calls[call].instance == 1
    assert w.scheduler.abandon("f", new.revision, now_s=w.now_s) == []
    assert w.scheduler.prepared("f", new.revision) == (0, 1)


def test_an_abandoned_version_gives_its_template_back() -> None:
    w = world()
    prepare(w, "f", uses_template=True)
    w.abandon("f")
    reap_all(w)
    reap_all(w)
    assert w.scheduler.node().used_mib == 0
    assert w.scheduler.pools() == []


def test_a_version_can_be_prepared_again_after_it_was_abandoned() -> None:
    w = world()
    new = prepare(w, "f")
    w.abandon("f")
    w.prepare(new)
    ready_all(w)
    assert w.scheduler.prepared("f", new.revision) == (1, 1)


def test_another_deploy_replaces_the_one_under_way() -> None:
    w = world("f")
    first = prepare(w, "f")
    second = prepare(w, "f")
    assert w.alive("f", first.revision) == 0
    assert w.scheduler.prepared("f", first.revision) == (0, 1)
    ready_all(w)
    assert w.scheduler.prepared("f", second.revision) == (1, 1)


def test_the_live_version_cannot_be_prepared() -> None:
    w = world("f")
    with pytest.raises(ValueError, match="it is live"):
        w.scheduler.prepare(w.specs["f"], now_s=0.0)


def test_a_rollback_to_a_version_that_still_runs_takes_its_instances_back() -> None:
    w = world("f")
    old = w.specs["f"]
    w.call("f")
    w.ready(1)
    deploy(w, "f")
    w.configure(old)
    w.finish(1)
    call = w.call("f")
    assert w.calls[call].instance == 1


def test_the_template_of_an_old_version_goes_with_its_last_instance() -> None:
    w = world()
    deploy(w, "f", uses_template=True)
    w.call("f")
    w.ready(1)
    deploy(w, "f", uses_template=True)
    assert "StopTemplate" not in told(w)
    w.finish(1)
    reap_all(w)
    assert "StopTemplate" in told(w)


def test_a_prepared_version_does_not_idle_out() -> None:
    w = world("f")
    new = prepare(w, "f", idle_timeout_s=1.0)
    ready_all(w)
    w.wait(100.0)
    assert w.scheduler.prepared("f", new.revision) == (1, 1)
