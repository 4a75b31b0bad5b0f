"""The node's memory: reservations, eviction, templates, and who is next when there is not enough."""

from __future__ import annotations

import pytest

from daemon.config.settings import Limits
from daemon.core.actions import Launch, Stop, StopTemplate
from daemon.core.scheduler import Scheduler
from daemon.errors import TooLargeForNode
from tests.core.helpers import deploy, finish_all, ready_all, reap_all, spare, told, warm, world
from tests.core.world import World


def stopped(w: World) -> list[int]:
    return [i for i, p in w.processes.items() if p.stopping]


def test_memory_is_given_back_when_an_instance_is_gone_not_before() -> None:
    w = world("f", "g", memory_mib=256)
    warm(w, "f", 1)
    call = w.call("g")
    assert len(stopped(w)) == 1
    assert w.of("g") == [], "nothing is launched before the victim is gone"
    reap_all(w)
    ready_all(w)
    assert w.calls[call].instance is not None


def test_a_killed_instance_holds_its_memory_until_it_is_gone() -> None:
    w = world(memory_mib=128)
    deploy(w, "f", timeout_s=1.0)
    w.call("f")
    w.ready(1)
    w.wait(1.0)
    w.call("f")
    assert w.of("f") == [1]
    w.reap(1)
    assert len(w.starting()) == 1


def test_the_spare_goes_first() -> None:
    w = world("f", "g", memory_mib=512)
    warm(w, "f", 2)
    extra = spare(w, "f")
    w.wait(1.0)
    w.call("g")
    w.call("g")
    assert stopped(w) == [extra]


def test_then_idle_instances_of_others_go_oldest_first() -> None:
    w = world("f", "g", "h", memory_mib=3 * 128)
    (old,) = warm(w, "f", 1)
    w.wait(1.0)
    (young,) = warm(w, "g", 1)  # evicts nothing: one place was left
    w.call("h")
    assert stopped(w) == [spare(w, "f")]
    w.call("h")
    assert old in stopped(w)
    assert young not in stopped(w)


def test_templates_of_idle_functions_go_before_instances_of_others() -> None:
    w = world("f", memory_mib=300, template_mib=100)
    deploy(w, "quiet", uses_template=True, idle_timeout_s=1.0)
    w.call("quiet")
    w.ready(1)
    w.finish(1)
    w.wait(1.0)
    reap_all(w)
    assert w.templates == {"quiet-2"}
    w.call("f")
    ready_all(w)
    finish_all(w)
    assert w.memory_mib() == 100 + 128
    w.log.clear()
    deploy(w, "g", memory_mib=172)
    w.call("g")
    assert told(w) == ["StopTemplate"]
    reap_all(w)
    assert len(w.of("g")) == 1
    assert len(w.of("f")) == 1


def test_eviction_is_all_or_nothing() -> None:
    w = world("f", memory_mib=1024)
    deploy(w, "large", memory_mib=1000)
    calls = [w.call("f") for _ in range(6)]
    ready_all(w)
    for call in calls[:3]:
        w.finish(w.calls[call].instance or 0)
    w.call("large")
    assert stopped(w) == [], "three idle ones are not enough: they stay"
    finish_all(w)
    assert len(stopped(w)) == len(w.of("f"))


def test_no_more_are_evicted_than_are_needed() -> None:
    w = world("f", memory_mib=1024)
    warm(w, "f", 7)
    deploy(w, "g", memory_mib=300)
    w.call("g")
    assert len(stopped(w)) == 3


def test_a_function_never_evicts_its_own() -> None:
    w = world("f", memory_mib=256)
    first, second = w.call("f"), w.call("f")
    ready_all(w)
    w.call("f")
    assert stopped(w) == []
    w.finish(w.calls[first].instance or 0)
    assert stopped(w) == []
    assert second in w.calls


def test_busy_instances_are_never_evicted() -> None:
    w = world("f", "g", memory_mib=256)
    w.call("f")
    w.call("f")
    ready_all(w)
    w.call("g")
    assert stopped(w) == []
    finish_all(w)
    assert len(stopped(w)) == 1


def test_room_that_was_made_is_not_taken_by_another() -> None:
    w = world("f", "g", "h", memory_mib=256)
    warm(w, "f", 1)
    first, second = w.call("g"), w.call("h")
    assert len(stopped(w)) == 2
    victim = stopped(w)[0]
    w.reap(victim)
    assert len(w.of("g")) == 1, "g asked first"
    assert w.of("h") == []
    reap_all(w)
    ready_all(w)
    assert w.calls[first].instance is not None
    assert w.calls[second].instance is not None


def test_a_claim_that_nobody_needs_any_longer_is_given_up() -> None:
    w = world("f", "g", "h", memory_mib=256)
    warm(w, "f", 1)
    gone = w.call("g")
    w.leave(gone)
    w.call("h")
    reap_all(w)
    assert w.of("g") == []
    assert len(w.of("h")) == 1


def test_memory_that_does_not_come_back_is_not_waited_for() -> None:
    """A process that cannot be killed costs its memory, not everybody's patience."""
    w = world("f", "g", "h", memory_mib=512, queue_s=100.0)
    warm(w, "f", 1)
    deploy(w, "large", memory_mib=512)
    w.call("large")
    w.reap(stopped(w)[0])
    w.call("g")
    assert w.of("g") == [], "the room is promised to the large one"
    w.wait(1.0 + 5.0)  # stop_s, then kill_s
    assert len(w.starting("g")) == 1
    assert w.memory_mib() == 256, "the stuck one still counts"


def test_an_instance_that_does_not_go_holds_up_only_its_own_function() -> None:
    w = world("g", function_instances_max=1, queue_s=100.0)
    deploy(w, "f", timeout_s=1.0)
    w.call("f")
    ready_all(w)
    w.wait(1.0)
    waiting = w.call("f")
    assert w.starting() == [], "its only place is still taken"
    w.call("g")
    assert len(w.starting("g")) == 1
    w.reap(1)
    assert len(w.starting("f")) == 1
    assert waiting in w.calls


def test_a_small_claim_is_met_before_a_large_one_only_from_what_that_does_not_need() -> None:
    w = world("f", "small", memory_mib=768)
    warm(w, "f", 5)
    deploy(w, "large", memory_mib=512)
    w.call("large")
    w.call("small")
    first, *others = stopped(w)
    w.reap(first)
    assert w.starting() == []
    for instance_id in others[:2]:
        w.reap(instance_id)
    assert w.starting() == [], "three of four: still the large one's"
    w.reap(others[2])
    assert len(w.starting("large")) == 1


def test_the_budget_must_be_known() -> None:
    with pytest.raises(ValueError, match=r"limits\.memory_mib"):
        Scheduler(Limits(memory_mib=0), jitter=lambda: 0.0)


def test_a_template_counts_once_however_many_instances_it_has() -> None:
    w = world(memory_mib=2048, template_mib=24)
    deploy(w, "f", uses_template=True)
    for _ in range(4):
        w.call("f")
    ready_all(w)
    assert w.scheduler.node().used_mib == 24 + 5 * 128
    assert w.view("f").template


def test_a_template_stays_for_a_while_after_its_last_instance_then_goes() -> None:
    w = world(template_idle_s=100.0)
    deploy(w, "f", uses_template=True)
    w.call("f")
    ready_all(w)
    finish_all(w)
    w.wait(30.0)
    reap_all(w)
    w.log.clear()
    w.wait(99.0)
    assert told(w) == []
    w.wait(1.0)
    assert w.log == [StopTemplate("f-1")]
    w.template_reaped("f-1")
    assert w.scheduler.node().used_mib == 0


def test_a_call_keeps_the_template() -> None:
    w = world(template_idle_s=100.0)
    deploy(w, "f", uses_template=True, idle_timeout_s=1.0)
    for _ in range(5):
        w.call("f")
        ready_all(w)
        finish_all(w)
        w.wait(1.0)
        reap_all(w)
        w.wait(90.0)
    assert "StopTemplate" not in told(w)


def test_a_template_that_dies_takes_its_instances_along() -> None:
    w = world()
    deploy(w, "f", uses_template=True)
    busy = w.call("f")
    w.ready(1)
    w.template_dies("f-1")
    assert w.ended[busy] == "function-crashed"
    assert "template" in w.errors[busy].detail
    assert not w.processes[2].leaving, "one that starts is told by its own failed launch"
    w.ready(2)
    assert w.scheduler.node().used_mib == 256


def test_the_number_of_templates_has_a_maximum_and_the_longest_unused_goes() -> None:
    w = world(templates_max=2)
    for function in ("a", "b", "c"):
        deploy(w, function, uses_template=True, idle_timeout_s=1.0)
    for function in ("a", "b"):
        w.call(function)
        ready_all(w)
        finish_all(w)
        w.wait(3.0)
        reap_all(w)
    w.log.clear()
    w.call("c")
    assert w.log == [StopTemplate("a-1")]
    assert w.of("c") == []
    w.template_reaped("a-1")
    assert len(w.of("c")) == 1


def test_with_all_templates_in_use_the_longest_unused_idle_function_gives_its_up() -> None:
    w = world(templates_max=2)
    for function in ("a", "b", "c"):
        deploy(w, function, uses_template=True)
    for function in ("a", "b"):
        w.call(function)
        ready_all(w)
        finish_all(w)
        w.wait(1.0)
    w.log.clear()
    call = w.call("c")
    assert told(w) == ["Stop", "Stop"]
    assert {w.processes[i].function for i in stopped(w)} == {"a"}
    reap_all(w)
    reap_all(w)
    ready_all(w)
    assert w.calls[call].instance is not None


def test_a_template_of_a_busy_function_is_not_given_up() -> None:
    w = world(templates_max=1)
    deploy(w, "a", uses_template=True)
    deploy(w, "b", uses_template=True)
    deploy(w, "exec", uses_template=False)
    w.call("a")
    ready_all(w)
    w.call("b")
    assert stopped(w) == []
    w.call("exec")
    assert len(w.starting("exec")) == 1, "who needs no template does not wait for one"
    finish_all(w)
    assert {w.processes[i].function for i in stopped(w)} == {"a"}


def test_the_instances_of_the_node_have_a_maximum() -> None:
    w = world("f", "g", instances_max=4)
    warm(w, "f", 3)
    call = w.call("g")
    assert len(stopped(w)) == 1
    assert len(w.processes) == 4
    reap_all(w)
    ready_all(w)
    assert w.calls[call].instance is not None


def test_a_spare_evicts_nobody_and_waits_for_nobody() -> None:
    w = world("f", "g", memory_mib=384)
    warm(w, "f", 2)
    w.call("g")
    reap_all(w)
    ready_all(w)
    assert stopped(w) == []
    assert len(w.of("g")) == 1
    assert len(w.of("f")) == 2


def test_round_robin_over_functions_when_memory_gets_free() -> None:
    w = world("a", "b", "c", "hog", memory_mib=6 * 128)
    for _ in range(6):
        w.call("hog")
    ready_all(w)
    for function in ("a", "a", "a", "b", "b", "b", "c", "c", "c"):
        w.call(function)
    w.log.clear()
    for instance_id in w.busy("hog"):
        w.crash(instance_id)
        w.reap(instance_id)
    assert [a.function_id for a in w.log if isinstance(a, Launch)] == ["a", "b", "c", "a", "b", "c"]


def test_a_function_with_an_endless_queue_shares_with_one_that_has_nothing() -> None:
    w = world("hog", "guest", memory_mib=4 * 128, queue_max=1000)
    for _ in range(20):
        w.call("hog")
    ready_all(w)
    calls = [w.call("guest") for _ in range(6)]
    for _ in range(4):
        w.finish(w.busy("hog")[0])
        w.call("hog")
        reap_all(w)
        ready_all(w)
    assert len(w.busy("guest")) == 2
    assert len(w.busy("hog")) == 2, "even shares, and no more than that"
    assert calls[0] in w.calls


def test_a_large_function_gets_its_turn_among_small_ones() -> None:
    w = world("small", memory_mib=1024, queue_s=30.0, queue_max=1000)
    deploy(w, "large", memory_mib=900)
    for _ in range(8):
        w.call("small")
    ready_all(w)
    call = w.call("large")
    for _ in range(29):
        w.wait(1.0)
        for instance_id in w.busy("small"):
            w.call("small")
            w.finish(instance_id)
        reap_all(w)
        ready_all(w)
        if call not in w.calls or w.calls[call].instance is not None:
            break
    assert call in w.calls
    assert w.calls[call].instance is not None


def test_after_a_turn_in_vain_the_others_come_first() -> None:
    w = world("small", "late", memory_mib=1024, queue_s=20.0, queue_max=1000)
    deploy(w, "large", memory_mib=900)
    deploy(w, "long", memory_mib=512, timeout_s=300.0)
    w.call("long")
    ready_all(w)
    w.call("large")
    w.wait(20.0)
    w.call("large")
    w.wait(15.0)
    call = w.call("late")
    reap_all(w)
    ready_all(w)
    assert w.calls[call].instance is not None, "large had its turn and could not use it"


def test_a_small_function_runs_beside_a_large_one_that_waits() -> None:
    w = world("small", memory_mib=1024)
    deploy(w, "large", memory_mib=900)
    deploy(w, "long", memory_mib=512)
    w.call("long")
    ready_all(w)
    w.call("large")
    call = w.call("small")
    reap_all(w)
    ready_all(w)
    assert w.calls[call].instance is not None


def test_a_function_that_holds_much_does_not_take_the_rest_from_one_that_waits_for_more() -> None:
    w = world("small", memory_mib=1024, queue_max=1000)
    deploy(w, "large", memory_mib=512)
    for _ in range(6):
        w.call("small")
    ready_all(w)
    reap_all(w)
    assert len(w.of("small")) == 7, "with its spare"
    w.call("large")  # 128 MiB are free and those of the spare, 512 are needed
    for _ in range(2):
        w.call("small")
    assert len(w.of("small")) == 7


def test_what_is_beside_the_floors_of_others_is_the_limit_for_one_function() -> None:
    w = world(memory_mib=1024)
    deploy(w, "floor", floor=4)
    deploy(w, "large", memory_mib=600)
    call = w.call("large")
    assert isinstance(w.errors[call], TooLargeForNode)
    assert "1024 MiB less 512 MiB provisioned for others" in w.errors[call].detail


def test_a_call_can_use_what_others_do_not_need() -> None:
    w = world("f", "g", memory_mib=256)
    warm(w, "f", 1)
    w.call("g")
    (victim,) = [a.instance_id for a in w.log if isinstance(a, Stop)]
    assert victim == 2, "the spare of f"
