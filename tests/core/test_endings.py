"""How instances end: worn, retired, drained, restarted, deleted."""

from __future__ import annotations

from daemon.errors import Draining, NotFound
from tests.core.helpers import deploy, finish_all, ready_all, reap_all, warm, world


def test_an_instance_is_replaced_after_its_share_of_calls() -> None:
    w = world("f", reuse_calls_max=10)
    (worker,) = warm(w, "f", 1)
    for _ in range(9):
        if w.processes[worker].leaving:
            break
        w.call("f")
        w.finish(worker)
    assert w.processes[worker].stopping
    assert 9 <= w.processes[worker].calls <= 10


def test_an_instance_is_replaced_at_its_age_even_when_it_is_called_all_the_time() -> None:
    w = world("f", reuse_age_s_max=100.0)
    (worker,) = warm(w, "f", 1)
    for _ in range(89):
        w.wait(1.0)
        w.call("f")
        w.finish(worker)
    assert not w.processes[worker].leaving
    for _ in range(11):
        w.wait(1.0)
        if not w.processes[worker].leaving:
            w.call("f")
            finish_all(w)
    assert w.processes[worker].leaving


def test_an_instance_that_has_grown_is_replaced_after_its_call() -> None:
    w = world("f", reuse_growth_fraction_max=0.5)
    (worker,) = warm(w, "f", 1)
    w.grow(worker, 0.5)
    assert not w.processes[worker].leaving
    w.call("f")
    w.grow(worker, 0.51)
    assert w.processes[worker].call is not None, "not during its call"
    w.finish(worker)
    assert w.processes[worker].stopping


def test_an_idle_instance_that_has_grown_is_replaced_at_once() -> None:
    w = world("f", reuse_growth_fraction_max=0.5)
    (worker,) = warm(w, "f", 1)
    w.scheduler.used(worker, 100 * 2**20)
    assert w.scheduler.needs_settle
    w.settle()
    assert w.processes[worker].stopping
    w.scheduler.used(999, 1)  # long gone: no harm


def test_an_instance_that_does_not_stop_is_killed() -> None:
    w = world("f")
    warm(w, "f", 1)
    w.wait(30.0)
    assert [p.stopping for p in w.processes.values()] == [True, True]
    w.wait(1.0)
    assert [p.killed for p in w.processes.values()] == [True, True]
    assert w.memory_mib() == 256, "its memory is given back when it is gone, not before"
    reap_all(w)
    assert w.scheduler.node().used_mib == 0


def test_while_draining_no_call_is_admitted_and_the_admitted_ones_are_served() -> None:
    w = world("f", function_instances_max=2)
    for _ in range(4):
        w.call("f")
    ready_all(w)
    w.drain()
    call = w.call("f")
    assert isinstance(w.errors[call], Draining)
    for _ in range(4):
        finish_all(w)
    assert list(w.ended.values()).count("ok") == 4
    call = w.call("f")
    assert w.ended[call] == "draining", "not even with an idle instance"


def test_while_draining_no_spare_and_no_floor_is_started() -> None:
    w = world("f")
    call = w.call("f")
    w.drain()
    ready_all(w)
    assert w.calls[call].instance == 1
    assert w.alive("f") == 1
    deploy(w, "g", floor=3)
    assert w.alive("g") == 0


def test_a_deleted_function_refuses_who_waits_and_lets_the_running_finish() -> None:
    w = world("f", function_instances_max=1)
    running = w.call("f")
    w.ready(1)
    waiting = w.call("f")
    w.forget("f")
    assert isinstance(w.errors[waiting], NotFound)
    w.finish(1)
    assert w.ended[running] == "ok"
    assert w.processes[1].stopping
    reap_all(w)
    assert w.scheduler.pools() == []
    assert w.scheduler.forget("f", now_s=w.now_s) == []


def test_a_restart_ends_idle_instances_and_lets_the_running_finish() -> None:
    w = world("f")
    first, second = warm(w, "f", 2)
    w.call("f")
    w.restart("f")
    assert w.busy() == [second]
    assert w.alive("f") == 1
    assert w.processes[first].stopping
    w.finish(second)
    w.call("f")
    assert w.busy() == [second]
    assert w.scheduler.restart("nobody", now_s=w.now_s) == []


def test_a_restart_ends_a_starting_instance_and_a_call_that_waits_gets_a_new_one() -> None:
    w = world("f")
    call = w.call("f")
    (old,) = w.starting()
    w.restart("f")
    assert w.processes[old].killed
    (new,) = [i for i in w.starting() if i != old]
    w.reap(old)
    assert w.view("f").start_error == "", "that is not a failed start"
    w.ready(new)
    assert w.calls[call].instance == new


def test_a_restart_fills_the_floor_anew() -> None:
    w = world()
    deploy(w, "f", floor=2)
    ready_all(w)
    w.restart("f")
    assert len(w.starting()) == 2
    reap_all(w)
    ready_all(w)
    assert w.view("f").pcu.state == "ready"
