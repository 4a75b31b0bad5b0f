"""What every launcher does, the real one and the fake: the supervisor relies on no more than this."""

from __future__ import annotations

import os

import pytest
import trio

from daemon import errors
from tests.contracts.fake_launcher import Behaviour, FakeLauncher
from tests.contracts.kit import Kit, Log, alive, call

pytestmark = pytest.mark.processes


async def test_a_worker_gets_ready_answers_and_is_gone_after_the_block(kit: Kit) -> None:
    async with kit.ready("echo") as worker:
        answer = await call(worker, b"hello", call_id="c1")
        assert (answer.status, answer.body, answer.call_id) == (200, b"hello", "c1")
        assert ("x-call", "c1") in answer.headers
        assert worker.channel.usable
        assert not worker.channel.stray_bytes()
        assert worker.gauge.read() > 0
    assert not alive(worker.pid)
    assert worker.gauge.read() == 0


async def test_the_first_start_boots_the_template_and_later_ones_fork(kit: Kit) -> None:
    async with kit.ready("echo") as one, kit.ready("echo") as two:
        assert (one.start_kind, two.start_kind) == ("boot", "fork")
        assert one.pid != two.pid
        assert [(info.forkable, info.reason) for info in kit.launcher.templates()] == [(True, "")]


async def test_launches_that_come_together_share_one_boot(kit: Kit) -> None:
    kinds: list[str] = []
    everybody = trio.Event()

    async def one() -> None:
        async with kit.ready("talks") as worker:
            kinds.append(worker.start_kind)
            if len(kinds) == 5:
                everybody.set()
            await everybody.wait()

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(one)
    assert kinds == ["boot"] * 5
    assert b"".join(kit.output) == b"importing\n"


async def test_each_instance_answers_its_own_calls_at_the_same_time(kit: Kit) -> None:
    answers: dict[str, bytes] = {}

    async def one(name: str) -> None:
        async with kit.ready("echo") as worker:
            for number in range(20):
                body = f"{name} {number}".encode()
                answers[name] = (await call(worker, body, call_id=name)).body
                assert answers[name] == body

    async with trio.open_nursery() as nursery:
        for name in ("a", "b", "c", "d"):
            nursery.start_soon(one, name)
    assert len(answers) == 4


async def test_a_large_body_goes_there_and_back(kit: Kit) -> None:
    async with kit.ready("echo") as worker:
        body = os.urandom(6 * 2**20)
        assert (await call(worker, body)).body == body
        assert (await call(worker, b"")).body == b""


async def test_what_cannot_be_forked_imports_by_itself(kit: Kit) -> None:
    for _ in range(2):
        async with kit.ready("threaded") as worker:
            assert worker.start_kind == "exec"
            assert (await call(worker)).body == b"hi"


async def test_fork_as_a_demand_is_refused_with_the_reason(kit: Kit) -> None:
    with pytest.raises(errors.InitFailed) as caught:
        async with kit.ready("threaded", start="fork"):
            pass
    assert "the import started 1 thread(s)" in caught.value.detail


@pytest.mark.parametrize("start", ["exec", "boot"])
async def test_own_processes_as_a_demand(kit: Kit, start: str) -> None:
    async with kit.ready("echo", start=start) as worker:
        assert worker.start_kind == "exec"
        assert (await call(worker)).body == b"hi"
        assert kit.launcher.templates() == []


async def test_a_handler_that_raises_leaves_the_instance_usable(kit: Kit) -> None:
    async with kit.ready("raises") as worker:
        with pytest.raises(errors.FunctionFailed) as caught:
            await call(worker)
        assert caught.value.detail.startswith("ValueError: no\n")
        assert worker.channel.usable
        assert (await call(worker)).body == b"hi"


async def test_a_worker_that_exits_during_a_call(kit: Kit) -> None:
    async with kit.ready("crashes") as worker:
        with pytest.raises(errors.FunctionCrashed):
            await call(worker)
        assert not worker.channel.usable
        status = await worker.exited()
        assert (status.code, status.signal, str(status)) == (3, None, "exit code 3")


async def test_a_worker_that_writes_garbage(kit: Kit) -> None:
    async with kit.ready("garbage") as worker:
        with pytest.raises(errors.InvalidResponse):
            await call(worker)
        assert not worker.channel.usable


async def test_an_answer_with_another_calls_number(kit: Kit) -> None:
    async with kit.ready("forges") as worker:
        with pytest.raises(errors.InvalidResponse):
            await call(worker)
        assert not worker.channel.usable


async def test_abort_wakes_the_caller_with_its_error_and_kill_ends_the_worker(kit: Kit) -> None:
    async with kit.ready("hangs") as worker, trio.open_nursery() as nursery:

        async def caller() -> None:
            with pytest.raises(errors.FunctionTimeout):
                await call(worker)
            outcome.set()

        outcome = trio.Event()
        nursery.start_soon(caller)
        await trio.testing.wait_all_tasks_blocked()
        assert not outcome.is_set()
        worker.channel.abort(errors.FunctionTimeout())
        worker.channel.abort(errors.FunctionCrashed())  # the first one counts
        worker.kill()
        worker.kill()
        await outcome.wait()
        status = await worker.exited()
        assert str(status) == "killed by SIGKILL"
        with pytest.raises(errors.FunctionTimeout):
            await call(worker)


async def test_a_cancelled_call_leaves_the_channel_unusable(kit: Kit) -> None:
    async with kit.ready("hangs") as worker:
        with trio.move_on_after(0.05) as scope:
            await call(worker)
        assert scope.cancelled_caught
        assert not worker.channel.usable


async def test_a_worker_leaves_when_told_to(kit: Kit) -> None:
    async with kit.ready("echo") as worker:
        await call(worker)
        worker.channel.stop()
        assert str(await worker.exited()) == "exit code 0"


async def test_a_worker_that_does_not_listen_is_gone_after_the_block_all_the_same(kit: Kit) -> None:
    async with kit.ready("deaf") as worker, trio.open_nursery() as nursery:

        async def caller() -> None:
            with pytest.raises(errors.FunctionCrashed):
                await call(worker)

        nursery.start_soon(caller)
        await trio.testing.wait_all_tasks_blocked()
        worker.channel.stop()
        with trio.move_on_after(0.1) as scope:
            await worker.exited()
        assert scope.cancelled_caught
        worker.channel.abort(errors.FunctionCrashed())


async def test_leaving_the_block_ends_a_running_call(kit: Kit) -> None:
    raised: list[str] = []

    async def caller(worker: object) -> None:
        try:
            await call(worker)
        except errors.FunctionCrashed as exc:
            raised.append(exc.detail)

    async with trio.open_nursery() as nursery, kit.ready("hangs") as worker:
        nursery.start_soon(caller, worker)
        await trio.testing.wait_all_tasks_blocked()
    assert len(raised) == 1


async def test_an_import_that_fails_is_told_with_its_traceback_and_tried_again(kit: Kit) -> None:
    for _ in range(2):
        with pytest.raises(errors.InitFailed) as caught:
            async with kit.ready("broken"):
                pass
        assert "ValueError: no" in caught.value.detail
    async with kit.ready("echo") as worker:
        assert (await call(worker)).body == b"hi"


async def test_a_worker_that_ends_before_it_is_ready(kit: Kit) -> None:
    plan = kit.plan("dies early", environment={"FN_FN_ID": "dies"})
    async with kit.launch(plan) as worker:
        with pytest.raises(errors.InitFailed):
            await worker.channel.ready()
        assert str(await worker.exited()) == "exit code 5"


async def test_a_launch_that_hangs_can_be_cancelled(kit: Kit) -> None:
    with trio.move_on_after(0.3) as scope:
        async with kit.ready("hangs at import"):
            pytest.fail("it cannot get ready")
    assert scope.cancelled_caught
    async with kit.ready("echo") as worker:
        assert (await call(worker)).body == b"hi"


async def test_two_tasks_may_wait_for_the_exit(kit: Kit) -> None:
    seen: list[str] = []
    async with kit.ready("crashes") as worker:

        async def watch() -> None:
            seen.append(str(await worker.exited()))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            nursery.start_soon(watch)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(errors.FunctionCrashed):
                await call(worker)
    assert seen == ["exit code 3"] * 2


async def test_memory_is_what_the_instance_added(kit: Kit) -> None:
    async with kit.ready("hungry") as worker:
        await call(worker)
        assert 30_000_000 <= worker.gauge.read() < 60_000_000


async def test_a_stopped_template_is_booted_again_and_its_instances_live_on(kit: Kit) -> None:
    async with kit.ready("echo") as old:
        kit.launcher.stop_template("echo-1")
        assert (await call(old)).body == b"hi"
        async with kit.ready("echo") as new:
            assert new.start_kind == "boot"
            assert (await call(old)).body == b"hi"
    async with kit.ready("echo") as worker:
        assert worker.start_kind == "fork"
    kit.launcher.stop_template("echo-1")
    kit.launcher.stop_template("never heard of")
    assert kit.launcher.templates() == []


async def test_the_fake_takes_no_time(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, tmp_path) -> None:
    from daemon.config.settings import Limits

    launcher = await nursery.start(FakeLauncher(Limits(), Behaviour(call_s=250.0, boot_s=40.0, start_s=10.0)).run)
    kit = Kit(launcher, tmp_path, Log(), Limits(), nursery)
    plan = kit.plan("echo")
    launcher.behaviours.clear()
    async with launcher.launch(plan, instance_id=1, on_boot_output=print) as worker:
        await worker.channel.ready()
        assert (await call(worker)).body == b"hi"
        assert trio.current_time() == pytest.approx(300.0)
        assert launcher.alive == launcher.peak == 1
    assert launcher.alive == 0
    os.close(worker.stdout_fd)
    os.close(worker.stderr_fd)
