"""The choices as functions of numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core import policy
from daemon.core.policy import Victim

counts = st.integers(0, 300)
mib = st.integers(1, 4096)
jitters = st.floats(0, 1, exclude_max=True)


@given(counts, counts, counts)
def test_launches_cover_the_calls_that_nothing_else_covers(waiting: int, idle: int, starting: int) -> None:
    wanted = policy.launches_wanted(waiting=waiting, idle=idle, starting=starting)
    assert wanted >= 0
    assert wanted + idle + starting >= waiting
    assert wanted == 0 or wanted + idle + starting == waiting


def test_a_spare_is_wanted_only_in_use_and_when_nothing_is_ready_or_coming() -> None:
    assert policy.spare_wanted(in_use=True, idle=0, starting=0)
    assert not policy.spare_wanted(in_use=False, idle=0, starting=0)
    assert not policy.spare_wanted(in_use=True, idle=1, starting=0)
    assert not policy.spare_wanted(in_use=True, idle=0, starting=1)


def test_a_function_is_in_use_for_its_idle_timeout_after_a_call() -> None:
    assert policy.in_use(busy=1, used_s=0, idle_timeout_s=30, now_s=1000)
    assert policy.in_use(busy=0, used_s=0, idle_timeout_s=30, now_s=29.9)
    assert not policy.in_use(busy=0, used_s=0, idle_timeout_s=30, now_s=30)


@given(st.integers(1, 10**6), jitters)
def test_backoff_doubles_within_its_bounds(failures: int, jitter: float) -> None:
    pause_s = policy.backoff_s(failures=failures, first_s=0.5, most_s=30.0, jitter=jitter)
    assert 0.5 <= pause_s <= 33.0
    assert policy.backoff_s(failures=failures + 1, first_s=0.5, most_s=30.0, jitter=jitter) >= pause_s


def test_backoff_is_half_a_second_then_one_then_two() -> None:
    pauses = [policy.backoff_s(failures=n, first_s=0.5, most_s=30.0, jitter=0.0) for n in range(1, 9)]
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert policy.backoff_s(failures=1, first_s=0.5, most_s=30.0, jitter=0.5) == pytest.approx(0.525)


@given(st.floats(1, 1e6), jitters)
def test_a_reuse_limit_loses_at_most_a_tenth(limit: float, jitter: float) -> None:
    assert limit * 0.9 <= policy.reuse_limit(limit, jitter=jitter) <= limit


def test_starts_that_nobody_waits_for_take_half_of_the_places() -> None:
    assert [policy.background_starts_max(n) for n in (1, 2, 3, 32)] == [1, 1, 1, 16]


@given(counts, mib, st.integers(-1000, 10**6), counts)
def test_a_granted_floor_fits(floor: int, memory_mib: int, room_mib: int, instances_max: int) -> None:
    granted = policy.floor_granted(floor=floor, memory_mib=memory_mib, room_mib=room_mib, instances_max=instances_max)
    assert 0 <= granted <= min(floor, instances_max)
    assert granted == 0 or granted * memory_mib <= room_mib
    assert granted in (floor, instances_max) or (granted + 1) * memory_mib > room_mib


@given(mib, mib, mib, mib)
def test_memory_never_moves_back_and_forth(held: int, other_held: int, mine: int, need: int) -> None:
    """After A has given an instance of ``mine`` MiB to B, B would not have to give it back."""
    held = max(held, mine)
    if policy.must_yield(held_mib=held, instance_mib=mine, blocked_held_mib=other_held, blocked_need_mib=need):
        back = policy.must_yield(
            held_mib=other_held + need, instance_mib=need, blocked_held_mib=held - mine, blocked_need_mib=mine
        )
        assert not back


def test_a_function_may_grow_up_to_what_the_waiting_one_asks_for() -> None:
    assert policy.may_grow(held_mib=0, need_mib=128, blocked_held_mib=0, blocked_need_mib=128)
    assert policy.may_grow(held_mib=384, need_mib=128, blocked_held_mib=256, blocked_need_mib=256)
    assert not policy.may_grow(held_mib=512, need_mib=128, blocked_held_mib=256, blocked_need_mib=256)


def test_a_turn_comes_after_half_the_queue_time_but_not_during_a_pause() -> None:
    assert policy.turn_starts_s(waiting_since_s=100, queue_s=30, not_before_s=-1) == 115
    assert policy.turn_starts_s(waiting_since_s=100, queue_s=30, not_before_s=140) == 140


candidates = st.lists(st.tuples(st.integers(1, 600), st.integers(0, 1)), max_size=8).map(
    lambda pairs: [Victim(key, memory, n) for key, (memory, n) in enumerate(pairs)]
)


@given(candidates, st.integers(-50, 1500), st.integers(-2, 4))
def test_victims_are_all_or_nothing_and_none_is_superfluous(
    things: list[Victim], need_mib: int, need_instances: int
) -> None:
    def covers(some: list[Victim]) -> bool:
        return sum(v.memory_mib for v in some) >= need_mib and sum(v.instances for v in some) >= need_instances

    chosen = policy.victims(things, need_mib=need_mib, need_instances=need_instances)
    assert [v for v in things if v in chosen] == chosen, "in order"
    if not covers(things):
        assert chosen == []
        return
    assert covers(chosen)
    for victim in chosen:
        assert not covers([v for v in chosen if v is not victim]), f"{victim} is given up for nothing"


def test_the_oldest_goes_first() -> None:
    things = [Victim(0, 128, 1), Victim(1, 128, 1), Victim(2, 128, 1)]
    assert policy.victims(things, need_mib=200, need_instances=0) == things[:2]


def test_a_small_old_one_is_spared_when_a_large_one_must_go_anyway() -> None:
    things = [Victim(0, 128, 1), Victim(1, 1024, 1)]
    assert policy.victims(things, need_mib=1000, need_instances=0) == [things[1]]


def test_a_template_makes_no_room_for_the_number_of_instances() -> None:
    assert policy.victims([Victim(0, 24, 0)], need_mib=0, need_instances=1) == []
