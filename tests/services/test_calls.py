"""The path of a call through invoker, scheduler and supervisor, and every await at which it can end otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from daemon import errors
from tests.contracts.fake_launcher import Behaviour
from tests.services.world import World, world


async def test_a_warm_instance_is_used_again_then_ages_out(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        node.function("f", idle_timeout_s=300)
        first = await node.call("f", b"one")
        assert (first.status, first.body, first.start_kind) == (200, b"one", "boot")
        kinds = [(await node.call("f")).start_kind for _ in range(3)]
        assert kinds[1:] == ["reuse", "reuse"]
        await trio.sleep(302)
        assert node.launcher.alive == 0


async def test_simultaneous_calls_get_instances_of_their_own(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with world(tmp_path, Behaviour(call_s=1.0)) as node:
        node.function("f")
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(node.call, "f")
        assert node.launcher.peak >= 8
        assert len(node.launcher.boots) == 1
        assert trio.current_time() < 2.0, "they ran beside each other"


@pytest.mark.parametrize(
    ("behaviour", "code", "instance_goes"),
    [
        (Behaviour(raise_at=frozenset({1})), "function-failed", False),
        (Behaviour(crash_at=frozenset({1})), "function-crashed", True),
        (Behaviour(garbage_at=frozenset({1})), "invalid-response", True),
        (Behaviour(forge_at=frozenset({1})), "invalid-response", True),
        (Behaviour(hang_at=frozenset({1})), "function-timeout", True),
        (Behaviour(reply=lambda c: (200, [], b"x" * 7_000_000)), "response-too-large", False),
        (Behaviour(reply=lambda c: (200, [("a", "x" * 70_000)], b"")), "response-headers-too-large", True),
        (Behaviour(reply=lambda c: (418, [], b"")), "invalid-response", True),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
async def test_a_failing_call_gets_its_error_and_the_instance_lives_or_dies_by_the_rule(
    autojump_clock: MockClock, tmp_path: Path, behaviour: Behaviour, code: str, instance_goes: bool
) -> None:
    async with world(tmp_path, behaviour) as node:
        node.function("f", timeout_s=5)
        assert await node.outcome("f") == code
        used = node.launcher.launched[0][0]
        await trio.sleep(1)
        assert (used not in node.launcher.workers) is instance_goes


async def test_a_call_is_cut_at_its_deadline_not_before_and_hardly_after(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with world(tmp_path, Behaviour(hang_at=frozenset({1}), boot_s=3.0)) as node:
        node.function("f", timeout_s=7)
        began_s = trio.current_time()
        with pytest.raises(errors.FunctionTimeout):
            await node.call("f")
        # The cold start does not count: 3 s of boot, then 7 s of execution.
        assert 10.0 <= trio.current_time() - began_s < 10.05


async def test_an_answer_and_the_deadline_in_one_instant_end_the_call_once(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with world(tmp_path, Behaviour(call_s=5.0)) as node:
        node.function("f", timeout_s=5)
        for _ in range(20):
            assert await node.outcome("f") in ("ok", "function-timeout")
        await trio.sleep(1)
        assert "busy" not in node.state


async def test_a_worker_that_spoke_out_of_turn_does_not_hurt_the_next_call(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with world(tmp_path, Behaviour(stray_at=frozenset({1}))) as node:
        node.function("f")
        assert await node.outcome("f") == "ok"
        await trio.sleep(0.5)
        assert await node.outcome("f") == "ok"


async def test_an_idle_worker_that_dies_costs_nobody_a_call(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with world(tmp_path, Behaviour(crash_idle_after=1)) as node:
        node.function("f")
        for _ in range(5):
            assert await node.outcome("f") == "ok"
            await trio.sleep(0.1)


async def test_the_reason_of_a_failed_start_is_told_and_the_next_attempt_waits(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with world(tmp_path, Behaviour(init_failure="Traceback\nImportError: no numpy")) as node:
        node.function("f")
        with pytest.raises(errors.InitFailed, match="no numpy"):
            await node.call("f")
        boots = len(node.launcher.boots)
        with pytest.raises(errors.InitFailed, match="next"):
            await node.call("f")
        assert len(node.launcher.boots) == boots
        node.launcher.behaviour.init_failure = ""
        await trio.sleep(60)
        assert await node.outcome("f") == "ok"


async def test_a_start_that_hangs_is_given_up(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with world(tmp_path, Behaviour(hang_before_ready=True), start_s=5.0) as node:
        node.function("f")
        began_s = trio.current_time()
        assert await node.outcome("f") == "init-timeout"
        assert 5.0 <= trio.current_time() - began_s < 5.1


async def test_a_full_queue_refuses_at_once_and_a_long_wait_ends(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with world(tmp_path, Behaviour(call_s=20.0), memory_mib=160, queue_max=2, queue_s=5.0) as node:
        node.function("f", memory_mib=128, timeout_s=300)
        outcomes: list[tuple[str, float]] = []

        async def one() -> None:
            outcome = await node.outcome("f")
            outcomes.append((outcome, trio.current_time()))

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(one)
                await trio.sleep(0.1)
        codes = [code for code, _ in outcomes]
        assert sorted(codes) == ["node-busy", "node-busy", "ok", "queue-full"]


async def test_memory_over_the_limit_ends_the_call_with_limit_and_peak(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    grows = Behaviour(call_s=60.0, memory_bytes=200 * 2**20)
    async with world(tmp_path, grows) as node:
        node.function("f", memory_mib=128, timeout_s=100)
        with pytest.raises(errors.FunctionOutOfMemory, match="limit 128 MiB, peak 200 MiB"):
            await node.call("f")


class TestACallerWhoLeaves:
    """Cancellation at each await of the invoke path leaves the pool consistent."""

    async def _leave(self, node: World, after_s: float) -> None:
        with trio.move_on_after(after_s):
            await node.call("f")
        await wait_all_tasks_blocked()

    async def test_while_waiting_for_the_start(self, autojump_clock: MockClock, tmp_path: Path) -> None:
        async with world(tmp_path, Behaviour(boot_s=1.0)) as node:
            node.function("f")
            await self._leave(node, 0.5)
            assert node.supervisor.waiters == {}
            await trio.sleep(2)
            assert await node.outcome("f") == "ok"

    async def test_while_the_function_runs(self, autojump_clock: MockClock, tmp_path: Path) -> None:
        async with world(tmp_path, Behaviour(call_s=10.0)) as node:
            node.function("f")
            await self._leave(node, 1.0)
            await trio.sleep(0.1)
            assert node.launcher.launched[0][0] not in node.launcher.workers, "it was in the middle of a call"
            assert "busy" not in node.state

    async def test_in_the_instant_in_which_it_got_an_instance(self, autojump_clock: MockClock, tmp_path: Path) -> None:
        async with world(tmp_path, Behaviour(boot_s=1.0, start_s=0.0)) as node:
            node.function("f")
            with trio.CancelScope() as scope:
                settle = node.supervisor._settle_waiter

                def settle_and_leave(*args: object, **kwargs: object) -> None:
                    settle(*args, **kwargs)  # type: ignore[arg-type]
                    scope.cancel()

                node.supervisor._settle_waiter = settle_and_leave  # type: ignore[method-assign]
                await node.call("f")
            await wait_all_tasks_blocked()
            assert "busy" not in node.state, "the instance was never spoken to and goes on"
            assert node.launcher.alive >= 1


async def test_a_call_may_have_a_timeout_of_its_own(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Longer or shorter than the function's, and the next call on the same instance has the function's again."""
    async with world(tmp_path, Behaviour(call_s=100.0, hang_at=frozenset({2}))) as node:
        node.function("f", timeout_s=20)
        await node.invoker.invoke("f", call_id="long", headers=[], body=b"", timeout_s=3600)
        began_s = trio.current_time()
        with pytest.raises(errors.FunctionTimeout, match="its timeout is 20 s"):
            await node.call("f")
        assert 20.0 <= trio.current_time() - began_s < 20.05
        began_s = trio.current_time()
        with pytest.raises(errors.FunctionTimeout, match="its timeout is 5 s"):
            await node.invoker.invoke("f", call_id="short", headers=[], body=b"", timeout_s=5)
        assert 5.0 <= trio.current_time() - began_s < 6


async def test_draining_refuses_new_calls_and_lets_running_ones_finish(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with world(tmp_path, Behaviour(call_s=3.0)) as node:
        node.function("f")
        outcomes = []

        async def early() -> None:
            outcomes.append(await node.outcome("f"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(early)
            await trio.sleep(1)
            node.invoker.drain()
            assert await node.outcome("f") == "draining"
            await node.invoker.quiet()
        assert outcomes == ["ok"]


async def test_an_unknown_function_and_a_missing_bundle_say_so(autojump_clock: MockClock, tmp_path: Path) -> None:
    from dataclasses import replace

    async with world(tmp_path) as node:
        assert await node.outcome("nobody") == "not-found"
        function = node.function("f")
        node.catalog.put_function(replace(function, live=replace(function.live, digest="")))
        with pytest.raises(errors.BundleMissing, match="Failed to pull image 'f:1'"):
            await node.call("f")
