"""Starts: pace, time, failure and back-off."""

from __future__ import annotations

from daemon.core.actions import Kill, Launch
from daemon.errors import InitFailed, InitTimeout
from tests.core.helpers import deploy, finish_all, ready_all, reap_all, told, world


def test_starts_are_paced_per_function() -> None:
    w = world("f", starts_at_once=3)
    for _ in range(10):
        w.call("f")
    assert len(w.starting()) == 3
    w.ready(1)
    assert len(w.starting()) == 3, "event-driven: the next one starts as one is ready"
    ready_all(w)
    assert len(w.busy()) == 10


def test_starts_are_paced_per_node() -> None:
    w = world("f", "g", "h", starts_at_once=3, node_starts_at_once=5)
    for function in ("f", "g", "h"):
        for _ in range(4):
            w.call(function)
    assert len(w.starting()) == 5
    w.ready(1)
    assert len(w.starting()) == 5
    ready_all(w)
    assert len(w.busy()) == 12


def test_floors_leave_places_for_calls() -> None:
    w = world("f", starts_at_once=8, node_starts_at_once=8)
    deploy(w, "floor", floor=20)
    assert len(w.starting("floor")) == 4
    w.call("f")
    assert len(w.starting("f")) == 1, "a call finds a place at once"


def test_an_instance_that_does_not_become_ready_in_time_is_killed() -> None:
    w = world("f", start_s=5.0)
    call = w.call("f")
    w.wait(5.0)
    assert w.processes[1].killed
    assert isinstance(w.errors[call], InitTimeout)
    assert "not ready after 5 s" in w.errors[call].detail


def test_the_reason_of_a_failed_start_is_told_to_those_who_wait() -> None:
    w = world("f")
    calls = [w.call("f"), w.call("f")]
    w.start_fails(1)
    assert all(call in w.calls for call in calls), "another instance is still starting"
    w.start_fails(2)
    for call in calls:
        assert isinstance(w.errors[call], InitFailed)
        assert "Traceback: boom" in w.errors[call].detail
        assert "next start attempt in 0.5 s" in w.errors[call].detail


def test_calls_wait_for_a_living_instance_though_a_start_failed() -> None:
    w = world("f")
    w.call("f")
    w.ready(1)
    call = w.call("f")
    w.start_fails(2)
    assert call in w.calls
    w.finish(1)
    assert w.calls[call].instance == 1


def test_when_the_last_living_instance_goes_the_reason_is_told() -> None:
    w = world("f")
    w.call("f")
    w.ready(1)
    call = w.call("f")
    w.start_fails(2)
    w.crash(1)
    w.reap(1)
    assert isinstance(w.errors[call], InitFailed)


def test_while_backing_off_new_calls_are_refused_at_once_with_the_reason_and_the_time() -> None:
    w = world("f")
    w.call("f")
    w.start_fails(1)
    w.wait(0.2)
    call = w.call("f")
    assert isinstance(w.errors[call], InitFailed)
    assert w.errors[call].detail == "Traceback: boom\nnext start attempt in 0.3 s"
    assert w.of("f") == []


def test_after_the_pause_the_next_call_is_an_attempt() -> None:
    w = world("f")
    w.call("f")
    w.start_fails(1)
    w.wait(0.6)
    call = w.call("f")
    assert len(w.starting()) == 1
    ready_all(w)
    assert w.calls[call].instance == 2


def test_the_pause_doubles_up_to_its_limit_and_a_success_ends_it() -> None:
    w = world("f", backoff_s=1.0, backoff_s_max=5.0)
    pauses = []
    for _ in range(5):
        w.call("f")
        w.start_fails(w.starting()[0])
        pauses.append(w.view("f").retry_s - w.now_s)
        w.wait(6.0)
    for pause_s, expected_s in zip(pauses, [1, 2, 4, 5, 5], strict=True):
        assert expected_s <= pause_s <= 1.1 * expected_s
    w.call("f")
    ready_all(w)
    assert w.view("f").start_error == ""
    w.call("f")
    w.call("f")
    w.start_fails(w.starting()[0])
    assert w.view("f").retry_s - w.now_s <= 1.1


def test_pauses_have_jitter() -> None:
    w = world("f", "g")
    for function in ("f", "g"):
        w.call(function)
        w.start_fails(w.starting(function)[0])
    assert w.view("f").retry_s != w.view("g").retry_s


def test_starts_that_fail_together_are_one_failure() -> None:
    w = world("f")
    for _ in range(10):
        w.call("f")
    for instance_id in w.starting():
        w.start_fails(instance_id)
    assert w.view("f").retry_s - w.now_s <= 0.55


def test_a_crashing_function_does_not_slow_another() -> None:
    w = world("bad", "good")
    for _ in range(5):
        w.call("bad")
        for instance_id in w.starting("bad"):
            w.start_fails(instance_id)
        call = w.call("good")
        ready_all(w)
        assert w.calls[call].instance is not None
        finish_all(w)


def test_a_waiting_call_is_an_attempt_when_the_pause_ends() -> None:
    w = world("f")
    w.call("f")
    w.ready(1)
    call = w.call("f")
    w.start_fails(2)
    w.log.clear()
    w.wait(0.4)
    assert told(w) == []
    w.wait(0.2)
    assert told(w) == ["Launch"]
    assert call in w.calls


def test_a_floor_is_tried_again_when_the_pause_ends() -> None:
    w = world()
    deploy(w, "f", floor=2)
    for instance_id in w.starting():
        w.start_fails(instance_id)
    assert w.view("f").pcu.state == "failing"
    assert "boom" in w.view("f").pcu.reason
    w.wait(0.6)
    assert len(w.starting()) == 2
    ready_all(w)
    assert w.view("f").pcu.state == "ready"


def test_a_condemned_start_is_a_failed_start() -> None:
    w = world("f")
    call = w.call("f")
    w.obey(w.scheduler.condemn(1, InitFailed(detail="garbage instead of ready"), now_s=0.0))
    assert "garbage instead of ready" in w.errors[call].detail
    w.reap(1)
    assert w.view("f").retry_s < 0.6, "its exit is not a second failure"


def test_an_exit_without_a_reason_has_one() -> None:
    w = world("f")
    call = w.call("f")
    w.crash(1)
    w.reap(1)
    assert "ended before it was ready" in w.errors[call].detail


def test_a_ready_that_crossed_the_kill_is_ignored() -> None:
    w = world("f", start_s=1.0)
    w.call("f")
    w.wait(1.0)
    w.log.clear()
    w.ready(1)
    assert told(w) == []
    assert w.processes[1].killed
    w.reap(1)
    assert w.scheduler.ready(1, now_s=w.now_s) == []


def test_new_settings_are_a_new_chance() -> None:
    w = world("f")
    w.call("f")
    w.start_fails(1)
    deploy(w, "f")
    call = w.call("f")
    assert call in w.calls
    assert w.log[-1] == Launch(2, "f", "f-3")


def test_a_start_that_is_killed_is_not_launched_again_before_the_pause_is_over() -> None:
    w = world("f", start_s=1.0, backoff_s=2.0, queue_s=30.0)
    w.call("f")
    w.ready(1)
    w.call("f")
    w.wait(1.0)
    assert [a.instance_id for a in w.log if isinstance(a, Kill)] == [2]
    reap_all(w)
    w.log.clear()
    w.wait(1.9)
    assert told(w) == []
    w.wait(0.4)
    assert told(w) == ["Launch"]
