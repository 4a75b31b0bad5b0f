"""The alarm clock against a plain minimum over all deadlines."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from daemon.core.alarms import Alarms


@dataclass(eq=False)
class Thing:
    deadline_s: float = inf
    alarm_s: float = inf


times = st.sampled_from([0.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, inf])


@given(st.lists(st.tuples(st.integers(0, 4), times, st.floats(0, 2))))
def test_it_rings_for_everything_that_is_due_and_for_nothing_else(steps: list[tuple[int, float, float]]) -> None:
    alarms, things, now_s = Alarms(), [Thing() for _ in range(5)], 0.0
    for index, ahead_s, passed_s in steps:
        things[index].deadline_s = now_s + ahead_s
        alarms.set(things[index])
        assert alarms.next_s() == min(t.deadline_s for t in things)
        now_s += passed_s
        expected = [t for t in things if t.deadline_s <= now_s]
        found = alarms.due(now_s)
        assert sorted(map(id, found)) == sorted(map(id, expected))
        for thing in found:
            thing.deadline_s = inf
        assert alarms.next_s() == min(t.deadline_s for t in things)


def test_a_later_deadline_costs_nothing() -> None:
    alarms, thing = Alarms(), Thing(1.0)
    alarms.set(thing)
    alarms.nearer = False
    for at_s in range(2, 1000):
        thing.deadline_s = float(at_s)
        alarms.set(thing)
    assert not alarms.nearer
    assert len(alarms._heap) == 1
    assert alarms.due(998.0) == []
    assert alarms.due(999.0) == [thing]


def test_nearer_tells_when_the_shell_must_wake_earlier() -> None:
    alarms, first, second = Alarms(), Thing(5.0), Thing(7.0)
    alarms.set(first)
    assert alarms.nearer
    alarms.nearer = False
    alarms.set(second)
    assert not alarms.nearer
    second.deadline_s = 4.0
    alarms.set(second)
    assert alarms.nearer
    assert alarms.next_s() == 4.0


def test_what_is_dropped_does_not_ring() -> None:
    alarms, thing = Alarms(), Thing(1.0)
    alarms.set(thing)
    alarms.drop(thing)
    assert alarms.next_s() == inf
    assert alarms.due(2.0) == []


def test_alternating_near_and_far_deadlines_do_not_pile_up() -> None:
    # An instance with a timeout of 1 s and an idle timeout of an hour, called every two seconds for two hours.
    alarms, things = Alarms(), [Thing() for _ in range(10)]
    for now_s in range(0, 7200, 2):
        for thing in things:
            thing.deadline_s = now_s + 1.0
            alarms.set(thing)
            thing.deadline_s = now_s + 3600.0
            alarms.set(thing)
        assert alarms.due(now_s + 1.5) == []
    assert len(alarms._heap) < 600
    assert alarms.next_s() == 7198 + 3600
    assert sorted(map(id, alarms.due(inf))) == sorted(map(id, things))
