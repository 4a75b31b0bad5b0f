"""After the daemon, the spawner, or a thousand instances: nothing is left."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio

from daemon import errors
from daemon.config.settings import Limits
from daemon.sandbox.walls import Sandbox
from daemon.workers.launcher import Launcher
from runtime import linux
from tests.contracts.kit import NO_WALLS, Kit, Log, alive, call, family, real_kit, spawner_of
from tests.runtime.test_hostile_trees import TREE, Pids

pytestmark = pytest.mark.processes

DAEMON = """
import sys, trio
from pathlib import Path
from tests.contracts.kit import call, real_kit
from tests.runtime.test_hostile_trees import TREE, Pids

async def main():
    directory, off = Path(sys.argv[1]), tuple(sys.argv[2:])
    pids = Pids(directory / "pids" if off else Path("/tmp/pids"))
    async with real_kit(directory, off=off) as kit:
        async with kit.ready("tree", source=TREE, environment=pids.environment) as one, \\
                kit.ready("tree", environment=pids.environment, revision="own", start="exec") as two:
            for worker, count in ((one, 4), (two, 8 if off else 4)):
                await call(worker, b"note(); hide(2); seen(%d)" % count)
            kit.nursery.start_soon(call, one, b"while True: pass")
            print("up", flush=True)
            await trio.sleep_forever()
trio.run(main)
"""


WALLS = pytest.mark.parametrize("off", [(), NO_WALLS], ids=["walls", "no walls"])


@WALLS
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_nothing_is_left_when_the_daemon_is_killed(tmp_path: Path, how: signal.Signals, off: tuple[str, ...]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(tmp_path), *off], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        everybody = family(process.pid)
        assert len(everybody) >= 1 + 1 + 2 + 6  # spawner, template, two workers, three hidden ones each
        process.send_signal(how)
        process.wait()
        process.stdout.close()
        until_s = time.monotonic() + 30
        while left := [pid for pid in everybody if alive(pid)]:
            assert time.monotonic() < until_s, left
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()


async def test_a_first_spawner_that_does_not_start_is_said_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits, log = Limits(), Log()
    launcher = Launcher(limits, run_dir=tmp_path / "run", log=log, sandbox=Sandbox.probed(limits))
    monkeypatch.setattr(sys, "_base_executable", "/bin/false")
    with trio.fail_after(60), pytest.raises(errors.InternalError, match="the spawner did not start"):
        await launcher.run()


@WALLS
async def test_a_killed_spawner_is_replaced_and_leaves_nothing(tmp_path: Path, off: tuple[str, ...]) -> None:
    was_subreaper = linux.is_subreaper()
    others = set(linux.children(os.getpid()))  # of other tests
    linux.set_subreaper()
    try:
        pids = Pids(tmp_path / "pids" if off else Path("/tmp/pids"))
        async with real_kit(tmp_path, off=off) as kit:
            async with kit.ready("tree", source=TREE, environment=pids.environment) as worker:
                await call(worker, b"note(); hide(2); seen(4)")
                template = linux.state_and_parent(worker.pid)[1]
                spawner = spawner_of(worker)
                everybody = family(spawner)
                assert len(everybody) >= 5
                os.kill(spawner, signal.SIGKILL)
                await worker.exited()
                async with kit.ready("tree", environment=pids.environment) as other:
                    assert other.start_kind == "boot"
                    assert not alive(template)
                    assert (await call(other, b"1")).body == b"done"
            with trio.fail_after(30):
                while any(map(alive, everybody)):  # noqa: ASYNC110
                    await trio.sleep(0.002)
            assert [line[:2] for line in kit.log.lines] == [("error", "spawner ended")]
        assert set(linux.children(os.getpid())) <= others
    finally:
        if not was_subreaper:
            linux._prctl(linux._PR_SET_CHILD_SUBREAPER, 0)


async def test_launches_wait_for_a_new_spawner(kit: Kit) -> None:
    async with kit.ready("echo") as worker:
        template = linux.state_and_parent(worker.pid)[1]
        spawner = spawner_of(worker)
    os.kill(spawner, signal.SIGKILL)
    while alive(template):  # an instance forked in its last moment would work, and die with it
        pass
    kinds: list[str] = []

    async def one() -> None:
        async with kit.ready("echo") as worker:
            kinds.append(worker.start_kind)
            assert (await call(worker)).body == b"hi"

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(one)
    assert len(kinds) == 4
    kit.log.lines.clear()


async def test_a_stuck_template_is_given_up(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    from daemon.workers import parents

    monkeypatch.setattr(parents, "ANSWER_S", 0.2)
    async with kit.ready("echo") as first:
        template = linux.state_and_parent(first.pid)[1]
        os.kill(template, signal.SIGSTOP)
        async with kit.ready("echo") as second:
            assert second.start_kind == "boot"
            assert (await call(second)).body == b"hi"
    with trio.fail_after(30):
        while alive(template):  # noqa: ASYNC110
            await trio.sleep(0.005)


async def test_a_cancelled_launch_leaves_no_instance_behind(kit: Kit) -> None:
    async with kit.ready("echo") as first:
        template = linux.state_and_parent(first.pid)[1]
        for step in range(30):  # cancelled at ever later moments of the fork
            with trio.move_on_after(step * 0.0001):
                async with kit.ready("echo"):
                    await trio.sleep_forever()
        with trio.fail_after(30):
            while linux.children(template) != [first.pid]:  # noqa: ASYNC110
                await trio.sleep(0.002)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def cycles(kit: Kit, count: int, *, at_once: int) -> None:
    """Launch, call and end ``count`` instances, a few at a time, in several ways."""

    async def some(number: int) -> None:
        for turn in range(number, count, at_once):
            name = {8: "threaded", 9: "crashes"}.get(turn % 10, "echo")
            async with kit.ready(name) as worker:
                match turn % 4:
                    case 0 | 3:
                        with trio.move_on_after(0.001), contextlib.suppress(errors.FunctionCrashed):
                            await call(worker)
                    case 1:
                        worker.channel.stop()
                        await worker.exited()
                    case 2:
                        worker.kill()

    async with trio.open_nursery() as nursery:
        for number in range(at_once):
            nursery.start_soon(some, number)


@pytest.mark.slow
@WALLS
async def test_a_thousand_instances_leave_nothing(tmp_path: Path, off: tuple[str, ...]) -> None:
    mounts = linux.read_proc("/proc/self/mountinfo", 2**20)
    async with real_kit(tmp_path, off=off) as kit:
        async with kit.ready("echo") as first, kit.ready("crashes"), kit.ready("threaded"):
            before = descriptors()
            template = linux.state_and_parent(first.pid)[1]
            template_fds = len(os.listdir(f"/proc/{template}/fd"))
            children = len(linux.children(os.getpid()))
            await cycles(kit, 1000, at_once=8)
            with trio.fail_after(30):
                while descriptors() > before:  # noqa: ASYNC110
                    await trio.sleep(0.005)
            assert linux.children(template) == [first.pid]
            assert len(os.listdir(f"/proc/{template}/fd")) == template_fds
            assert len(linux.children(os.getpid())) == children
            if not kit.launcher.sandbox.has_root:
                left = [path.name for path in (tmp_path / "run" / "tmp" / "f").iterdir()]
                assert len(left) == 5  # three instances, two templates
        assert [line for line in kit.log.lines if line[0] == "error"] == []
    assert list((tmp_path / "run" / "tmp").iterdir()) == []
    assert list((tmp_path / "run" / "root").iterdir()) == []
    assert linux.read_proc("/proc/self/mountinfo", 2**20) == mounts


async def test_without_descriptors_a_launch_fails_and_later_ones_work(kit: Kit) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with kit.ready("echo") as worker:
        await call(worker)
    before = descriptors()
    failures = 0
    for room in range(16):
        top = max(map(int, os.listdir("/proc/self/fd"))) + 1
        fill = [os.dup(0) for _ in range(top - descriptors() + 1)]  # the holes below it
        resource.setrlimit(resource.RLIMIT_NOFILE, (top + room, hard))
        try:
            async with kit.ready("talks" if room % 2 else "echo"):
                pass
        except (OSError, errors.StokerError):
            failures += 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in fill:
                os.close(fd)
    assert failures >= 4
    async with kit.ready("talks") as worker:
        assert (await call(worker)).body == b"hi"
    kit.launcher.stop_template("talks-1")
    with trio.fail_after(30):
        while descriptors() > before:  # noqa: ASYNC110
            await trio.sleep(0.005)
    kit.log.lines.clear()


async def test_what_a_function_leaves_in_its_directory_goes_with_it(tmp_path: Path) -> None:
    source = """
import os
def handler(ctx, data=None):
    os.chdir(os.environ["TMPDIR"])
    os.symlink("/etc", "link")
    os.mkfifo("fifo")
    os.mkdir("locked")
    open("locked/file", "w").close()
    os.chmod("locked", 0)
    for _ in range(1200):
        os.mkdir("d")
        os.chdir("d")
    open("deep", "w").close()
    return os.environ["TMPDIR"]
"""
    async with real_kit(tmp_path, off=("namespaces",)) as kit, kit.ready("litters", source=source) as worker:
        tmp = (await call(worker)).body.decode()
        assert os.path.isdir(tmp)  # noqa: ASYNC240
    assert not os.path.lexists(tmp)  # noqa: ASYNC240
    assert os.path.exists("/etc/passwd")  # noqa: ASYNC240
