"""Calls: which instance, the queue, deadlines, callers that leave, reuse limits."""

from __future__ import annotations

from math import inf

import pytest

from daemon.core.actions import Kill, Refuse
from daemon.core.instance import IllegalTransition
from daemon.errors import FunctionCrashed, NotFound, QueueFull, TooLargeForNode
from tests.core.helpers import deploy, finish_all, ready_all, reap_all, spare, told, warm, world


def test_the_most_recently_used_instance_is_taken_first() -> None:
    w = world("f")
    first, second, third = warm(w, "f", 3)
    w.call("f")
    w.call("f")
    assert w.busy() == [second, third]
    w.finish(second)
    w.call("f")
    assert w.busy() == [second, third]
    assert w.processes[first].call is None


def test_an_instance_that_was_used_is_taken_before_one_that_was_not() -> None:
    w = world("f")
    w.call("f")
    w.ready(1)
    w.finish(1)
    w.ready(2)  # the spare is ready only now
    w.call("f")
    assert w.busy() == [1]


def test_the_surplus_ages_out_while_the_function_goes_on() -> None:
    w = world("f")
    warm(w, "f", 5)
    for _ in range(40):
        w.call("f")
        w.wait(1.0)
        finish_all(w)
    assert w.alive("f") == 2, "the one that works and a spare"


def test_a_cold_call_launches_one_instance_and_gets_it() -> None:
    w = world("f")
    call = w.call("f")
    assert told(w) == ["Launch"]
    w.ready(1, kind="boot")
    assert w.calls[call].instance == 1
    assert w.scheduler.start_kind(1) == "boot"


def test_launches_are_as_many_as_waiting_calls_that_nothing_covers() -> None:
    w = world("f")
    for _ in range(5):
        w.call("f")
    assert len(w.starting()) == 5
    ready_all(w)
    assert len(w.busy()) == 5
    assert w.alive("f") == 6, "and one spare"


def test_one_spare_is_kept_ahead_of_demand() -> None:
    w = world("f")
    w.call("f")
    w.ready(1)
    assert len(w.starting()) == 1, "the spare is started as the first call runs"
    ready_all(w)
    call = w.call("f")
    assert w.calls[call].instance == 2
    assert w.scheduler.start_kind(2) == "spare"
    assert len(w.starting()) == 1, "and the next one as the spare is used"


def test_the_spare_stays_while_the_function_is_in_use_and_goes_afterwards() -> None:
    w = world("f")
    (worker,) = warm(w, "f", 1)
    extra = spare(w, "f")
    for _ in range(100):
        w.call("f")
        w.wait(1.0)
        w.finish(worker)
        assert w.alive("f") == 2
    assert extra in w.processes, "it was not replaced all the time either"
    w.wait(30.0)
    assert w.alive("f") == 0


def test_a_long_call_keeps_its_spare() -> None:
    w = world()
    deploy(w, "f", timeout_s=300.0, idle_timeout_s=10.0)
    w.call("f")
    ready_all(w)
    w.wait(290.0)
    assert w.alive("f") == 2
    finish_all(w)
    w.wait(10.0)
    assert w.alive("f") == 0


def test_an_unused_function_gets_no_spare() -> None:
    w = world("f")
    call = w.call("f")
    w.leave(call)
    w.ready(1)
    assert w.alive("f") == 1
    w.wait(30.0)
    assert w.alive("f") == 0


def test_idle_instances_go_after_the_idle_timeout_of_their_function() -> None:
    w = world()
    deploy(w, "quick", idle_timeout_s=1.0)
    deploy(w, "slow", idle_timeout_s=100.0)
    warm(w, "quick", 2)
    warm(w, "slow", 2)
    w.wait(1.0)
    assert (w.alive("quick"), w.alive("slow")) == (0, 3)
    w.wait(99.0)
    assert w.alive("slow") == 0


def test_start_kinds_are_counted_by_call() -> None:
    w = world("f")
    w.call("f")
    w.ready(1, kind="boot")
    w.ready(2, kind="fork")
    w.call("f")
    assert w.scheduler.start_kind(2) == "spare"
    w.ready(3)
    w.finish(1)
    w.call("f")
    assert w.scheduler.start_kind(1) == "reuse"
    assert w.view("f").starts == {"boot": 1, "spare": 1, "reuse": 1}
    w.crash(1)
    w.reap(1)
    assert w.view("f").starts == {"boot": 1, "spare": 1, "reuse": 1}
    assert w.scheduler.start_kind(1) == ""


def test_waiting_calls_are_served_in_order() -> None:
    w = world("f", function_instances_max=1)
    calls = [w.call("f") for _ in range(4)]
    w.ready(1)
    for call in calls:
        assert w.processes[1].call == call
        w.finish(1)


def test_nobody_overtakes_a_waiting_call() -> None:
    w = world("f", function_instances_max=1)
    w.call("f")
    w.ready(1)
    first, second = w.call("f"), w.call("f")
    w.finish(1)
    assert w.processes[1].call == first
    assert w.waiting("f") == [second]


def test_the_queue_has_a_limit() -> None:
    w = world("f", queue_max=3)
    for _ in range(3):
        w.call("f")
    call = w.call("f")
    assert isinstance(w.errors[call], QueueFull)
    assert str(w.errors[call]) == "too many requests: cannot queue: 3 of 3 places taken"


def test_a_call_waits_no_longer_than_its_queue_time() -> None:
    w = world("f", function_instances_max=1, queue_s=10.0)
    w.call("f")
    w.ready(1)
    w.wait(1.0)
    call = w.call("f")
    w.wait(9.9)
    assert call in w.calls
    w.wait(0.1)
    assert w.ended[call] == "node-busy"
    assert "all 1 instances that the function may have are taken" in w.errors[call].detail


def test_a_refusal_says_what_is_short() -> None:
    w = world("f", "g", memory_mib=256, queue_s=2.0)
    w.call("f")
    w.call("f")
    ready_all(w)
    call = w.call("g")
    w.wait(2.0)
    assert "256 of 256 MiB are taken" in w.errors[call].detail


def test_the_instances_of_a_function_have_a_maximum() -> None:
    w = world("f", "g", function_instances_max=3)
    for _ in range(8):
        w.call("f")
        ready_all(w)
    assert len(w.of("f")) == 3
    w.call("g")
    ready_all(w)
    assert len(w.busy("g")) == 1


def test_a_call_that_overruns_its_timeout_dies_with_its_instance() -> None:
    w = world()
    deploy(w, "f", timeout_s=2.0)
    call = w.call("f")
    w.wait(3.0)  # the wait and the start do not count
    w.ready(1)
    w.wait(1.99)
    assert call in w.calls
    assert w.scheduler.next_deadline_s() == 5.0
    w.wait(0.01)
    assert w.ended[call] == "function-timeout"
    assert w.errors[call].detail == "the call ran 2.00 s, its timeout is 2 s"
    assert w.errors[call].call_id == call
    assert w.processes[1].killed


def test_an_instance_whose_call_timed_out_is_never_used_again() -> None:
    w = world()
    deploy(w, "f", timeout_s=2.0)
    w.call("f")
    w.ready(1)
    w.wait(2.0)
    w.answer_too_late(1)
    w.call("f")
    assert w.processes[1].call is None
    w.reap(1)
    w.answer_too_late(1)


def test_the_timeout_starts_anew_with_each_call() -> None:
    w = world()
    deploy(w, "f", timeout_s=2.0)
    warm(w, "f", 1)
    for _ in range(10):
        w.wait(1.5)
        w.call("f")
        w.wait(1.5)
        finish_all(w)
    assert "function-timeout" not in w.ended.values()


def test_a_nearer_deadline_wakes_the_shell() -> None:
    w = world()
    deploy(w, "f", timeout_s=2.0)
    warm(w, "f", 1)
    w.wait(3.0)
    w.tick()  # the alarm of its first call has rung
    assert w.scheduler.next_deadline_s() == 30.0
    assert not w.scheduler.needs_settle
    w.call("f", settle=False)
    assert w.scheduler.needs_settle
    w.settle()
    assert not w.scheduler.needs_settle
    assert w.scheduler.next_deadline_s() == 5.0


def test_a_caller_that_leaves_the_queue_is_forgotten() -> None:
    w = world("f", function_instances_max=1)
    w.call("f")
    w.ready(1)
    second, third = w.call("f"), w.call("f")
    w.leave(second)
    w.finish(1)
    assert w.processes[1].call == third


def test_a_caller_that_leaves_a_running_call_takes_its_instance_along() -> None:
    w = world("f")
    call = w.call("f")
    w.ready(1)
    w.log.clear()
    w.leave(call)
    (kill,) = [a for a in w.log if isinstance(a, Kill)]
    assert (kill.instance_id, kill.error.fault) == (1, "caller")


def test_a_condemned_instance_tells_its_call_why() -> None:
    w = world("f")
    call = w.call("f")
    w.ready(1)
    w.obey(w.scheduler.condemn(1, FunctionCrashed(detail="garbage"), now_s=w.now_s))
    assert w.errors[call].detail == "garbage"
    assert w.scheduler.condemn(1, FunctionCrashed(), now_s=w.now_s) == []
    w.reap(1)
    assert w.scheduler.condemn(1, FunctionCrashed(), now_s=w.now_s) == []


def test_the_end_of_a_busy_process_is_no_action() -> None:
    """Its caller sees the end of the channel, after the answer that may still be in it."""
    w = world("f")
    w.call("f")
    ready_all(w)
    assert w.scheduler.exited(1, now_s=w.now_s) == []
    assert w.scheduler.release(1, now_s=w.now_s) == []


def test_an_unknown_function_is_not_found() -> None:
    w = world()
    call = w.call("nobody")
    assert isinstance(w.errors[call], NotFound)
    assert w.errors[call].message == "Fn not found"


def test_a_function_larger_than_the_node_is_refused_at_once() -> None:
    w = world(memory_mib=256, template_mib=24)
    deploy(w, "f", memory_mib=256)
    deploy(w, "g", memory_mib=256, uses_template=True)
    w.call("f")
    assert len(w.starting()) == 1
    call = w.call("g")
    assert isinstance(w.errors[call], TooLargeForNode)
    assert "needs 280 MiB with its template of 24 MiB, the node has 256 MiB" in w.errors[call].detail


def test_messages_about_instances_that_never_were_are_bugs() -> None:
    w = world("f")
    with pytest.raises(KeyError, match="never was an instance 1"):
        w.scheduler.ready(1, now_s=0.0)
    for wrong in (0, -1):
        with pytest.raises(KeyError):
            w.scheduler.release(wrong, now_s=0.0)


def test_messages_that_mean_nothing_in_a_state_are_bugs_and_change_nothing() -> None:
    w = world("f")
    warm(w, "f", 1)
    before = repr(w.scheduler)
    with pytest.raises(IllegalTransition, match="RELEASED while IDLE"):
        w.scheduler.release(1, now_s=w.now_s)
    with pytest.raises(IllegalTransition, match="READY while IDLE"):
        w.scheduler.ready(1, now_s=w.now_s)
    assert repr(w.scheduler) == before


def test_the_scheduler_shows_its_state_on_one_line() -> None:
    w = world("f", "g", function_instances_max=2)
    for _ in range(3):
        w.call("f")
    w.ready(1)
    assert repr(w.scheduler) == "<Scheduler 256/8192 MiB | f: 1 starting, 1 busy, 2 waiting | g: nothing>"
    w.drain()
    assert "draining" in repr(w.scheduler)


def test_an_idle_node_has_no_deadline() -> None:
    w = world("f")
    assert w.scheduler.next_deadline_s() == inf
    warm(w, "f", 1)
    w.wait(31.0)
    reap_all(w)
    assert w.scheduler.next_deadline_s() == inf


def test_refusals_are_objects_of_their_own() -> None:
    """Each is raised in another task; a shared one would collect their tracebacks."""
    w = world("f", queue_s=1.0, function_instances_max=1)
    w.call("f")
    w.ready(1)
    w.call("f")
    w.call("f")
    w.log.clear()
    w.wait(1.0)
    first, second = [a.error for a in w.log if isinstance(a, Refuse)]
    assert first is not second
