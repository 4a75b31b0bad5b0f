"""The book of detached calls by hypothesis: a world that accepts, runs, fails, stops and deletes in any order."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from daemon.core.detached import TRANSITIONS, Book, Call, Event, IllegalTransition, Policy, State, backoff_s
from daemon.errors import QueueFull

MIB = {"a": 100, "b": 300, "c": 700}


def call(number: int, function: str = "a", *, size: int = 10, now_s: float = 0.0) -> Call:
    return Call(id=f"c{number}", function_id=function, size_bytes=size, accepted_at=0, accepted_s=now_s)


def policy(**changes: float) -> Policy:
    values = {"queue_max": 8, "queue_bytes_max": 100, "running_max": 3, "function_running_max": 2,
              "running_mib_max": 600, "age_s_max": 50.0}  # fmt: skip
    return Policy(**{**values, **changes})  # type: ignore[arg-type]


class World(RuleBasedStateMachine):
    """The model: what was accepted and is not over, by id; who runs."""

    @initialize()
    def begin(self) -> None:
        self.now_s = 0.0
        self.mib = dict(MIB)
        self.book = Book(policy(), mib_of=self.mib.get)
        self.open: dict[str, Call] = {}
        self.reserved: list[int] = []
        self.number = 0
        self.busy: set[str] = set()
        self.due: dict[str, float] = {}

    @rule(size=st.integers(1, 60))
    def reserve(self, size: int) -> None:
        count = len(self.open) + len(self.reserved)
        held = sum(c.size_bytes for c in self.open.values()) + sum(self.reserved)
        fits = count < 8 and held + size <= 100
        try:
            self.book.reserve(size)
        except QueueFull:
            assert not fits
        else:
            assert fits
            self.reserved.append(size)

    @precondition(lambda self: self.reserved)
    @rule(function=st.sampled_from(sorted(MIB)), stored=st.booleans())
    def store(self, function: str, stored: bool) -> None:
        size = self.reserved.pop()
        self.book.cancel_reservation(size)
        if stored and function in self.mib:
            self.number += 1
            made = call(self.number, function, size=size, now_s=self.now_s)
            self.book.add(made)
            self.open[made.id] = made

    @rule(busy=st.sets(st.sampled_from(sorted(MIB))))
    def others_queue(self, busy: set[str]) -> None:
        self.busy = busy

    @rule()
    def start(self) -> None:
        queued = [c for c in self.open.values() if c.state is State.QUEUED and self.due.get(c.id, -inf) <= self.now_s]
        running = [c for c in self.open.values() if c.state is State.RUNNING]
        got = self.book.next(self.now_s, yields=lambda function_id: function_id in self.busy)
        startable = {c.function_id for c in queued if self._room(c.function_id, running)}
        if got is None:
            assert startable <= self.busy
            assert self.book.held_back == bool(startable)
            return
        assert got.function_id in startable - self.busy
        assert got.state is State.RUNNING
        same = [c for c in queued if c.function_id == got.function_id and self.due.get(c.id, -inf) == -inf]
        if self.due.get(got.id, -inf) == -inf:
            assert got is min(same, key=lambda c: int(c.id[1:])), "the oldest of its function first"

    def _room(self, function: str, running: list[Call]) -> bool:
        mib = self.mib.get(function)
        if len(running) >= 3:
            return False
        if mib is None:
            return True
        own = sum(c.function_id == function for c in running)
        return own < 2 and (not running or sum(c.mib for c in running) + mib <= 600)

    def _running(self, pick: int) -> Call:
        running = sorted((c for c in self.open.values() if c.state is State.RUNNING), key=lambda c: c.id)
        return running[pick % len(running)]

    @precondition(lambda self: self.book.running)
    @rule(pick=st.integers(0, 9), how=st.sampled_from(["succeeded", "gave_up", "dropped", "retry", "put_back"]),
          pause_s=st.floats(0.0, 20.0))  # fmt: skip
    def end(self, pick: int, how: str, pause_s: float) -> None:
        ended = self._running(pick)
        if how in ("retry", "put_back"):
            self.due[ended.id] = self.now_s + pause_s
            getattr(self.book, how)(ended, due_s=self.now_s + pause_s)
            assert ended.state is State.QUEUED
        else:
            getattr(self.book, how)(ended)
            assert ended.state is (State.DEAD if how == "gave_up" else State.GONE)
            del self.open[ended.id]

    @rule(seconds=st.floats(0.0, 30.0))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def sweep(self) -> None:
        old = self.book.overdue(self.now_s)
        assert {c.id for c in old} == {
            c.id for c in self.open.values() if c.state is not State.RUNNING and c.accepted_s < self.now_s - 50
        }
        for gone in old:
            assert gone.state is State.DEAD
            del self.open[gone.id]

    @rule(function=st.sampled_from(sorted(MIB)))
    def delete(self, function: str) -> None:
        self.mib.pop(function, None)
        for gone in self.book.forget(function):
            assert gone.state is State.GONE
            del self.open[gone.id]
        assert not [c for c in self.open.values() if c.function_id == function and c.state is State.QUEUED]

    @rule(function=st.sampled_from(sorted(MIB)))
    def make(self, function: str) -> None:
        self.mib[function] = MIB[function]

    @invariant()
    def the_book_holds_what_is_open(self) -> None:
        if hasattr(self, "book"):
            assert {c.id for c in self.book} == set(self.open)
            assert self.book.size_bytes == sum(c.size_bytes for c in self.open.values())
            running = [c for c in self.open.values() if c.state is State.RUNNING]
            assert self.book.running == len(running)
            assert self.book.running_mib == sum(c.mib for c in running)

    @invariant()
    def something_due_later_has_a_time(self) -> None:
        if hasattr(self, "book"):
            later = [self.due[c.id] for c in self.open.values() if c.state is State.QUEUED and c.id in self.due]
            future = [at for at in later if at > self.now_s]
            assert not future or self.book.next_due_s() <= min(future)


World.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestBook = World.TestCase


@given(st.sampled_from(list(State)), st.sampled_from(list(Event)))
def test_an_event_without_a_row_raises_and_changes_nothing(state: State, event: Event) -> None:
    made = call(1)
    made.state = state
    if event in TRANSITIONS[state]:
        made.on(event)
        assert made.state is TRANSITIONS[state][event]
    else:
        with pytest.raises(IllegalTransition):
            made.on(event)
        assert made.state is state


def test_every_state_has_a_row_and_can_be_reached() -> None:
    assert set(TRANSITIONS) == set(State)
    reached, todo = {State.QUEUED}, [State.QUEUED]
    while todo:
        for following in TRANSITIONS[todo.pop()].values():
            if following not in reached:
                reached.add(following)
                todo.append(following)
    assert reached == set(State)


def test_functions_take_turns() -> None:
    book = Book(policy(queue_max=20, running_max=20, function_running_max=20, running_mib_max=10_000), mib_of=MIB.get)
    for number, function in enumerate("aaaabbbc"):
        book.add(call(number, function))
    order = ""
    while (got := book.next(0.0, yields=lambda function_id: False)) is not None:
        order += got.function_id
    assert order == "abcababa"


@given(st.integers(1, 200), st.floats(0.01, 100), st.floats(0.01, 1000), st.floats(0, 1))
def test_the_pause_grows_within_its_bounds(failures: int, first_s: float, longest_s: float, jitter: float) -> None:
    pause_s = backoff_s(failures, first_s=first_s, longest_s=longest_s, jitter=jitter)
    whole_s = min(longest_s, first_s * 2.0 ** min(failures - 1, 60))
    assert whole_s / 2 <= pause_s <= whole_s
    assert backoff_s(failures + 1, first_s=first_s, longest_s=longest_s, jitter=jitter) >= pause_s
