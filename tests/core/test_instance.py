"""The table of states."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.events import Event
from daemon.core.instance import LATE, TRANSITIONS, IllegalTransition, Instance, State
from daemon.core.pool import Pool, PoolSpec, Revision, Role

ILLEGAL = [(s, e) for s in State for e in Event if e not in TRANSITIONS[s]]


def instance(state: State = State.STARTING) -> Instance:
    spec = PoolSpec(function_id="f", revision="f-1", memory_mib=128, timeout_s=1.0, idle_timeout_s=1.0)
    return Instance(
        id=1, revision=Revision(Pool("f"), spec, Role.LIVE), memory_mib=128, born_s=0.0, since_s=1.0, deadline_s=2.0,
        calls_max=10, retire_at_s=inf, growth_bytes_max=inf, state=state,
    )  # fmt: skip


def test_the_table_has_a_row_for_every_state() -> None:
    assert set(TRANSITIONS) == set(State)
    assert set(LATE) == set(State)


def test_every_state_is_reached_and_every_event_used() -> None:
    assert {target for row in TRANSITIONS.values() for target in row.values()} == set(State) - {State.STARTING}
    assert {event for row in TRANSITIONS.values() for event in row} == set(Event)


def test_every_state_leads_to_gone() -> None:
    for state in State:
        if state is not State.GONE:
            assert TRANSITIONS[state][Event.EXITED] is State.GONE
    assert TRANSITIONS[State.GONE] == {}


def test_killing_ends_only_with_the_exit() -> None:
    assert TRANSITIONS[State.KILLING] == {Event.EXITED: State.GONE}


def test_busy_past_its_deadline_is_killing() -> None:
    assert TRANSITIONS[State.BUSY][Event.DEADLINE] is State.KILLING


def test_only_idle_instances_get_calls_and_only_busy_ones_answer() -> None:
    assert [s for s in State if Event.ASSIGNED in TRANSITIONS[s]] == [State.IDLE]
    assert [s for s in State if Event.RELEASED in TRANSITIONS[s]] == [State.BUSY]


@pytest.mark.parametrize(("state", "event"), ILLEGAL, ids=[f"{e.name} in {s.name}" for s, e in ILLEGAL])
def test_an_illegal_transition_raises_and_changes_nothing(state: State, event: Event) -> None:
    it = instance(state)
    with pytest.raises(IllegalTransition, match=f"{event.name} while {state.name}"):
        it.on(event, now_s=5.0, deadline_s=9.0)
    assert (it.state, it.since_s, it.deadline_s) == (state, 1.0, 2.0)


@pytest.mark.parametrize("state", State)
def test_what_is_late_is_not_in_the_table(state: State) -> None:
    assert not LATE[state] & set(TRANSITIONS[state])
    for event in Event:
        assert instance(state).is_late(event) == (event in LATE[state])


@given(st.lists(st.sampled_from(list(Event))))
def test_a_walk_follows_the_table(events: list[Event]) -> None:
    it = instance()
    for step, event in enumerate(events):
        before, expected = it.state, TRANSITIONS[it.state].get(event)
        if expected is None:
            with pytest.raises(IllegalTransition):
                it.on(event, now_s=step)
            assert it.state is before
        else:
            it.on(event, now_s=step, deadline_s=step + 1.5)
            assert (it.state, it.since_s, it.deadline_s) == (expected, step, step + 1.5)
