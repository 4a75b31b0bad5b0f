"""Floors, deploys and eviction as the supervisor carries them out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from daemon import errors
from daemon.supervisor import SPARE_DELAY_S
from tests.contracts.fake_launcher import Behaviour
from tests.services.world import world


async def test_a_floor_is_filled_refilled_and_never_ages_out(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        node.function("f", pcu=5, idle_timeout_s=1)
        await trio.sleep(1)
        assert node.launcher.alive == 5
        next(iter(node.launcher.workers.values())).kill()
        await trio.sleep(0.5)
        assert node.launcher.alive == 5
        await trio.sleep(3600)
        assert node.launcher.alive == 5


async def test_a_prepared_version_gets_no_call_before_it_is_live_and_all_after(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with world(tmp_path) as node:
        old = node.function("f", pcu=2)
        node.launcher.behaviours["f.2"] = Behaviour(reply=lambda c: (200, [], b"new"))
        await trio.sleep(1)
        new = replace(old, live=replace(old.live, number=2))
        plan, spec = node.plan(new)
        await node.supervisor.prepare(plan, spec, timeout_s=10)
        assert node.launcher.alive >= 4, "the new floor is full and the old one still there"
        assert (await node.call("f", b"old")).body == b"old"
        node.supervisor.configure(plan, spec)
        assert (await node.call("f")).body == b"new"
        await trio.sleep(2)
        alive = [revision for number, revision, _ in node.launcher.launched if number in node.launcher.workers]
        assert alive == ["f.2", "f.2"]


async def test_a_canary_that_fails_leaves_nothing_and_the_old_version_serving(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with world(tmp_path) as node:
        old = node.function("f")
        assert await node.outcome("f") == "ok"
        node.launcher.behaviours["f.2"] = Behaviour(init_failure="SyntaxError: line 3")
        with pytest.raises(errors.InitFailed, match="line 3"):
            await node.supervisor.prepare(*node.plan(replace(old, live=replace(old.live, number=2))), timeout_s=10)
        assert "f.2" not in node.supervisor.plans
        assert await node.outcome("f") == "ok"
        await trio.sleep(1)
        assert "f.2" not in {revision for _, revision, _ in node.launcher.launched}


async def test_an_instance_of_before_that_ends_late_does_not_fail_its_version_prepared_again(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """A rollback may come while the version's last instances are leaving."""
    async with world(tmp_path, Behaviour(stop_s=0.5)) as node:
        old = node.function("f")
        assert await node.outcome("f") == "ok"
        new = replace(old, live=replace(old.live, number=2))
        await node.supervisor.prepare(*node.plan(new), timeout_s=10)
        node.supervisor.configure(*node.plan(new))
        node.launcher.behaviours["f.1"] = Behaviour(start_s=2.0)
        await node.supervisor.prepare(*node.plan(old), timeout_s=10)
        node.supervisor.configure(*node.plan(old))
        assert await node.outcome("f") == "ok"


async def test_a_canary_that_is_cancelled_leaves_nothing(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with world(tmp_path, Behaviour(boot_s=3.0)) as node:
        old = node.function("f")
        with trio.move_on_after(1):
            await node.supervisor.prepare(*node.plan(replace(old, live=replace(old.live, number=2))), timeout_s=10)
        await trio.sleep(5)
        assert node.launcher.alive == 0


async def test_an_idle_function_makes_room_for_another(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with world(tmp_path, memory_mib=600) as node:
        for name in ("a", "b"):
            node.function(name, memory_mib=256, idle_timeout_s=3600)
        assert await node.outcome("a") == "ok"
        await trio.sleep(1)
        assert await node.outcome("b") == "ok"
        await trio.sleep(1)
        assert await node.outcome("a") == "ok"


async def test_a_function_larger_than_the_node_is_told_so(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with world(tmp_path, memory_mib=256) as node:
        node.function("f", memory_mib=1024)
        assert await node.outcome("f") == "too-large-for-node"


async def test_a_forgotten_function_lets_its_running_call_finish(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with world(tmp_path, Behaviour(call_s=5.0)) as node:
        node.function("f")
        outcomes = []

        async def call() -> None:
            outcomes.append(await node.outcome("f"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await trio.sleep(1)
            node.supervisor.forget("f")
            assert await node.outcome("f") == "not-found"
        assert outcomes == ["ok"]
        await trio.sleep(1)
        assert node.launcher.alive == 0


async def test_a_spare_does_not_compete_with_the_cold_call_that_caused_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path, Behaviour(call_s=0.005)) as w:
        w.function("f")
        await w.call("f")
        assert w.launcher.alive == 1, "the spare's launch is put off until the call has its answer"
        await trio.sleep(SPARE_DELAY_S)
        assert w.launcher.alive == 2


async def test_a_call_that_waits_does_not_wait_for_the_delay_of_a_spare(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path, Behaviour(boot_s=0.0, start_s=0.001, call_s=10.0)) as w:
        w.function("f")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(w.call, "f")
            await trio.sleep(0.002)  # it runs, and its spare is put off
            began_s = trio.current_time()
            nursery.start_soon(w.call, "f")
            await trio.sleep(SPARE_DELAY_S / 2)
            busy = [slot for slot in w.supervisor.slots.values() if slot.call_id]
            assert len(busy) == 2
            assert busy[1].ready_s - began_s < SPARE_DELAY_S / 2
