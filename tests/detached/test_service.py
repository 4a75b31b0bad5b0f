"""When a detached call is run, run again, given up; what the store says meanwhile. Time takes no time."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from daemon import errors
from tests.detached.world import World, world


async def settled(node: World) -> None:
    """Until nothing waits or runs."""
    while len(node.detached.book) or node.detached.keeper.backlog:  # noqa: ASYNC110
        await trio.sleep(0.5)  # of the clock that jumps


async def test_a_failing_call_runs_again_after_growing_pauses_then_is_a_dead_letter(autojump_clock: MockClock) -> None:
    async with world() as node:
        node.function(retry={"attempts": 5, "backoff_s": 2, "backoff_s_max": 10})
        node.invoker.outcomes = [errors.FunctionFailed(detail="no")]
        call_id = await node.accept()
        await settled(node)
        at = node.attempts()
        # 0.1 s each run; pauses of 2, 4, 8, 10 s with all of the jitter.
        assert [round(b - a, 1) for a, b in pairwise(at)] == [2.1, 4.1, 8.1, 10.1]
        assert [attempt for _, _, attempt in node.invoker.started] == ["1", "2", "3", "4", "5"]
        assert node.database.states() == {call_id: "dead"}
        assert '"code":"function-failed"' in node.error(call_id)
        assert node.detached.outcomes == {("f", "retried"): 4, ("f", "dead-letter"): 1}


async def test_without_settings_a_failing_call_is_not_run_again(autojump_clock: MockClock) -> None:
    async with world() as node:
        node.function()
        node.invoker.outcomes = [502]
        call_id = await node.accept()
        await settled(node)
        assert len(node.invoker.started) == 1
        assert node.database.states() == {call_id: "dead"}


async def test_the_detached_timeout_is_the_functions_own_or_the_annotations(autojump_clock: MockClock) -> None:
    async with world() as node:
        node.function("plain")
        node.function("long", detached_timeout=3600)
        await node.accept("plain")
        await node.accept("long")
        await settled(node)
        assert node.invoker.timeouts == [None, 3600]


@pytest.mark.parametrize("error", [errors.QueueTimeout(), errors.QueueFull(), errors.Draining()])
async def test_no_room_is_not_an_attempt(autojump_clock: MockClock, error: errors.StokerError) -> None:
    async with world() as node:
        node.function()
        node.invoker.outcomes = [error, error, error, 200]
        await node.accept()
        await settled(node)
        assert node.database.states() == {}
        assert node.detached.outcomes == {("f", "put-back"): 3, ("f", "succeeded"): 1}


@pytest.mark.parametrize("error", [errors.TooLargeForNode(), errors.RequestTooLarge()])
async def test_what_can_never_run_is_given_up_at_once(autojump_clock: MockClock, error: errors.StokerError) -> None:
    async with world() as node:
        node.function(retry={"attempts": 50})
        node.invoker.outcomes = [error]
        call_id = await node.accept()
        await settled(node)
        assert len(node.invoker.started) == 1
        assert node.database.states() == {call_id: "dead"}


async def test_a_call_is_in_the_store_before_it_is_acknowledged(autojump_clock: MockClock) -> None:
    async with world() as node:
        node.function()
        node.database.broken = True
        with pytest.raises(errors.InternalError):
            await node.accept()
        assert len(node.detached.book) == 0
        node.database.broken = False
        node.invoker.run_s = 100
        call_id = await node.accept()
        assert node.database.states() == {call_id: "queued"}
        await trio.sleep(1)
        assert node.database.states() == {call_id: "running"}, "marked after a while"


async def test_a_short_call_costs_one_write_more_than_its_acceptance(autojump_clock: MockClock) -> None:
    async with world() as node:
        node.function()
        before = node.database.writes
        await node.accept()
        await settled(node)
        assert node.database.writes - before == 2


async def test_a_client_that_leaves_while_its_call_is_stored_leaves_nothing_half_done(
    autojump_clock: MockClock,
) -> None:
    async with world() as node:
        node.function()
        with trio.move_on_after(0.0005):
            await node.accept()
        await settled(node)
        assert len(node.invoker.started) == 1
        assert node.database.states() == {}
        node.detached.book.reserve(1)  # no place is lost
        assert len(node.detached.book) == 0


async def test_ends_that_cannot_be_stored_are_kept_and_nothing_runs_twice(autojump_clock: MockClock) -> None:
    async with world() as node:
        node.function()
        await node.accept()
        node.database.broken = True
        await trio.sleep(5)
        assert len(node.database.states()) == 1
        assert len(node.invoker.started) == 1
        assert node.log.lines, "it is said"
        node.database.broken = False
        await settled(node)
        assert node.database.states() == {}
        assert len(node.invoker.started) == 1


async def test_a_call_that_cannot_be_read_waits_for_the_disk(autojump_clock: MockClock) -> None:
    async with world() as node:
        node.function()
        node.scheduler.queues = {"f": 1}  # held back, so that its body leaves the memory first
        call_id = await node.accept()
        node.detached._contents.drop(call_id)
        node.database.broken = True
        node.scheduler.queues = {}
        await trio.sleep(5)
        assert node.invoker.started == []
        assert len(node.detached.book) == 1
        node.database.broken = False
        await settled(node)
        assert len(node.invoker.started) == 1


async def test_what_a_stop_cuts_goes_back_and_runs_again_without_losing_an_attempt(autojump_clock: MockClock) -> None:
    async with world() as node:
        node.function()
        node.invoker.run_s = 100
        call_id = await node.accept()
        await trio.sleep(5)
        assert node.database.states() == {call_id: "running"}
    assert node.database.states() == {call_id: "queued"}
    async with world(database=node.database) as again:
        await settled(again)
        assert [attempt for _, _, attempt in again.invoker.started] == ["1"]
        assert again.database.states() == {}


async def test_a_call_that_the_daemon_dies_of_is_a_dead_letter_at_last(autojump_clock: MockClock) -> None:
    async with world() as node:
        node.function()
        node.invoker.run_s = 100
        call_id = await node.accept()
        await trio.sleep(5)
        conn = node.database.conn
    for _ in range(10):
        conn.execute("UPDATE detached_calls SET state = 'running'")  # what kill -9 leaves
        async with world(database=node.database) as again:
            again.invoker.run_s = 100
            await trio.sleep(0.1)
            assert len(again.invoker.started) == 1
    conn.execute("UPDATE detached_calls SET state = 'running'")
    async with world(database=node.database) as again:
        await trio.sleep(0.1)
        assert again.invoker.started == []
        assert again.database.states() == {call_id: "dead"}
        assert "again and again" in again.error(call_id)
        assert list(await again.detached.redrive([call_id])) == [call_id]
        await settled(again)
        assert again.database.states() == {}


async def test_a_waiting_attempt_is_still_waited_for_after_a_restart(autojump_clock: MockClock) -> None:
    async with world() as node:
        node.function(retry={"attempts": 2, "backoff_s": 100})
        node.invoker.outcomes = [502]
        await node.accept()
        await trio.sleep(5)
    async with world(database=node.database) as again:
        await trio.sleep(30)
        assert again.invoker.started == []
        await settled(again)
        assert [attempt for _, _, attempt in again.invoker.started] == ["2"]


async def test_detached_calls_give_way_but_not_for_ever(autojump_clock: MockClock) -> None:
    async with world(yield_s=5.0) as node:
        node.function()
        node.scheduler.queues = {"other": 3}
        for _ in range(4):
            await node.accept()
        await trio.sleep(16)
        assert len(node.invoker.started) == 3, "one every five seconds"
        node.scheduler.queues = {}
        await trio.sleep(0.2)
        assert len(node.invoker.started) == 4


async def test_at_most_half_of_the_memory_is_theirs_and_functions_take_turns(autojump_clock: MockClock) -> None:
    async with world(memory_mib=1024) as node:
        for name in "ab":
            node.function(name, memory_mib=128)
        node.invoker.run_s = 10
        for name in "aaaaaabb":
            await node.accept(name)
        await trio.sleep(1)
        assert node.invoker.running == 4
        assert node.detached.book.running_mib == 512
        await settled(node)
        assert node.invoker.peak == 4


async def test_one_that_is_larger_than_the_share_runs_alone(autojump_clock: MockClock) -> None:
    async with world(memory_mib=1000) as node:
        node.function(memory_mib=900)
        node.invoker.run_s = 1
        for _ in range(3):
            await node.accept()
        await settled(node)
        assert (node.invoker.peak, len(node.invoker.started)) == (1, 3)


async def test_a_call_that_waits_too_long_is_a_dead_letter(autojump_clock: MockClock) -> None:
    async with world(age_s_max=300.0, yield_s=100_000.0) as node:
        node.function()
        node.scheduler.queues = {"f": 1}
        call_id = await node.accept()
        await trio.sleep(400)
        assert node.database.states() == {call_id: "dead"}
        assert "waited longer than 300 s" in node.error(call_id)


async def test_redriving_more_than_fits_touches_none(autojump_clock: MockClock) -> None:
    async with world(queue_max=3) as node:
        node.function()
        node.invoker.outcomes = [502]
        ids = []
        for _ in range(4):
            ids.append(await node.accept())
            await settled(node)
        with pytest.raises(errors.QueueFull, match="3 of 3"):
            await node.detached.redrive(ids)
        assert set(node.database.states().values()) == {"dead"}
        assert list(await node.detached.redrive([*ids[:3], "nobody"])) == ids[:3]
        await settled(node)


async def test_a_deleted_functions_calls_are_gone(autojump_clock: MockClock) -> None:
    async with world() as node:
        node.function()
        node.invoker.run_s = 10
        for _ in range(100):
            await node.accept()
        await trio.sleep(1)
        running = len(node.invoker.started)
        node.database.conn.execute("DELETE FROM functions")
        node.catalog.drop_function("f")
        node.detached.forget("f")
        with pytest.raises(errors.NotFound):
            await node.accept()
        await settled(node)
        assert len(node.invoker.started) == running
        assert node.database.states() == {}
