"""Processes that a function starts are gone with its instance, whatever they do to hide: without PID namespaces too."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from daemon import errors
from runtime import landlock, linux
from tests.contracts.kit import ENVIRONMENT, NO_WALLS, Kit, alive, call, first_call, real_kit

pytestmark = pytest.mark.processes

TREE = """
import os, signal, time
PIDS = os.open(os.environ["PIDS"], os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC) if False else None

def note():
    fd = os.open(os.environ["PIDS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, b"%d\\n" % os.getpid())
    os.close(fd)

def hide(depth):
    # double fork, own session, all signals ignored: and again from there
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for s in set(signal.Signals) - {9, 19}:
                signal.signal(s, signal.SIG_IGN)
            if depth:
                hide(depth - 1)
            note()
            time.sleep(1000)
        os._exit(0)
    try:
        os.wait()
    except ChildProcessError:
        pass  # SIGCHLD is ignored: the kernel has reaped it

def seen(n):
    # the children are there before the answer is
    while not os.path.exists(os.environ["PIDS"]) or open(os.environ["PIDS"]).read().count("\\n") < n:
        time.sleep(0.001)

def handler(ctx, data=None):
    what = data.getvalue().decode()
    exec(what, globals())
    return "done"
""".replace('PIDS = os.open(os.environ["PIDS"], os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC) if False else None\n', "")


class Pids:
    """The pids that the function's processes wrote down."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environment = {**ENVIRONMENT, "PIDS": str(path)}

    def all(self) -> list[int]:
        return list(map(int, self.path.read_text().split())) if self.path.exists() else []

    def alive(self) -> list[int]:
        return [pid for pid in self.all() if alive(pid)]


@pytest.fixture
async def kit(tmp_path: Path) -> AsyncIterator[Kit]:
    """Where the kernel does not see to it; `tests.runtime.test_walls` is about where it does."""
    async with real_kit(tmp_path, off=NO_WALLS) as kit:
        yield kit
        assert [line for line in kit.log.lines if line[0] == "error"] == []


@pytest.fixture
async def fenced(tmp_path: Path) -> AsyncIterator[Kit]:
    """No namespaces, but Landlock."""
    async with real_kit(tmp_path / "fenced", off=("namespaces",)) as kit:
        yield kit


@pytest.fixture
def pids(tmp_path: Path) -> Pids:
    return Pids(tmp_path / "pids")


async def gone(pids: Pids) -> None:
    """The parents reap in their own time; it takes a moment, and only that."""
    with trio.fail_after(30):
        while pids.alive():  # noqa: ASYNC110  # nobody tells us
            await trio.sleep(0.002)


async def test_hidden_children_are_gone_when_the_block_is_left(kit: Kit, pids: Pids) -> None:
    async with kit.ready("tree", source=TREE, environment=pids.environment) as worker:
        await call(worker, b"hide(3); seen(4)")
        assert len(pids.alive()) == 4
    assert pids.alive() == []


async def test_hidden_children_are_gone_when_the_worker_ends_by_itself(kit: Kit, pids: Pids) -> None:
    async with kit.ready("tree", source=TREE, environment=pids.environment) as worker:
        with pytest.raises(errors.FunctionCrashed):
            await call(worker, b"hide(3); seen(4); os._exit(0)")
        assert str(await worker.exited()) == "exit code 0"
        assert pids.alive() == []


async def test_children_of_a_worker_of_its_own_are_gone_too(kit: Kit, pids: Pids) -> None:
    async with kit.ready("tree", source=TREE, environment=pids.environment, start="exec") as worker:
        await call(worker, b"hide(3); seen(4)")
        with pytest.raises(errors.FunctionCrashed):
            await call(worker, b"os._exit(0)")
        await worker.exited()
        assert pids.alive() == []


async def test_a_child_that_keeps_the_pipes_does_not_keep_the_caller(kit: Kit, pids: Pids) -> None:
    async with kit.ready("tree", source=TREE, environment=pids.environment) as worker, trio.open_nursery() as nursery:
        failed: list[errors.StokerError] = []

        async def caller() -> None:
            try:
                await call(worker, b"hide(0); seen(1); os.kill(os.getpid(), 9)")
            except errors.FunctionCrashed as exc:
                failed.append(exc)

        nursery.start_soon(caller)
        status = await worker.exited()
        worker.channel.abort(errors.FunctionCrashed(detail=str(status)))
        await trio.testing.wait_all_tasks_blocked()
        assert len(failed) == 1  # told by the end of the pipe, once the orphan is killed, or by the abort


async def test_programs_that_the_handler_starts_do_not_get_the_pipes(kit: Kit) -> None:
    source = """
import subprocess
def handler(ctx, data=None):
    return subprocess.run(["ls", "/proc/self/fd"], capture_output=True, text=True, close_fds=False).stdout
"""
    for start in ("auto", "exec"):
        async with kit.ready("list", source=source, revision=start, start=start) as worker:
            assert (await call(worker)).body.split() == [b"0", b"1", b"2", b"3"]  # 3 is the listing itself


BOMB = """
import os, time
until = time.monotonic() + 5
def respawn():
    # each process lives a moment and has made its successor first, in a session of its own
    while time.monotonic() < until:
        if os.fork():
            os._exit(0)
        os.setsid()
        note()
for _ in range(12):
    if os.fork() == 0:
        respawn()
        os._exit(0)
seen(50)
"""


async def test_processes_that_fork_faster_than_they_are_killed_lose(kit: Kit, pids: Pids) -> None:
    async with kit.ready("tree", source=TREE, environment=pids.environment) as worker:
        await call(worker, BOMB.encode())
        worker.kill()
        await worker.exited()
    await gone(pids)
    assert len(pids.all()) >= 50
    before = len(pids.all())
    await trio.sleep(0.1)
    assert len(pids.all()) == before


async def test_the_daemon_kills_a_tree_without_the_templates_help(kit: Kit, pids: Pids) -> None:
    async with kit.ready("tree", source=TREE, environment=pids.environment) as worker:
        template = linux.state_and_parent(worker.pid)[1]
        await call(worker, b"hide(4); seen(5)")
        os.kill(template, signal.SIGSTOP)
        try:
            worker.kill()
            await gone(pids)
            with trio.fail_after(30):
                while alive(worker.pid):  # noqa: ASYNC110
                    await trio.sleep(0.002)
        finally:
            os.kill(template, signal.SIGCONT)


async def test_a_broad_tree_is_killed_and_counted(kit: Kit, pids: Pids) -> None:
    async with kit.ready("tree", source=TREE, environment=pids.environment) as worker:
        code = b"for _ in range(5): os.fork()\nnote()\nif os.getpid() != %d: time.sleep(1000)\nseen(32)"
        await call(worker, code % worker.pid)
        worker.gauge.read()
        assert worker.gauge.processes == 32
    assert pids.alive() == []


async def test_threads_children_are_found(kit: Kit, pids: Pids) -> None:
    code = b"""
import threading
t = threading.Thread(target=hide, args=(0,))
t.start()
t.join()
def forks():
    if os.fork() == 0:
        note()
    time.sleep(1000)
threading.Thread(target=forks, daemon=True).start()
"""
    async with kit.ready("tree", source=TREE, environment=pids.environment) as worker:
        await call(worker, code + b"seen(2)")
        assert sorted(linux.children(worker.pid)) == sorted(pids.alive())
    assert pids.alive() == []


async def test_a_stopped_worker_is_killed(kit: Kit) -> None:
    async with kit.ready("stops", source=first_call("os.kill(os.getpid(), 19)")) as worker:
        with trio.move_on_after(0.1):
            await call(worker)
    assert not alive(worker.pid)


async def test_a_worker_cannot_signal_what_is_not_its_own(fenced: Kit) -> None:
    if not _kernel_scopes_signals():
        pytest.skip("the kernel has no Landlock scopes (Linux 6.12)")
    source = """
import os
def handler(ctx, data=None):
    for pid in map(int, data.getvalue().split()):
        try:
            os.kill(pid, 0)
        except PermissionError:
            continue
        return f"{pid} can be signalled"
    return "none"
"""
    async with fenced.ready("echo") as other, fenced.ready("kills", source=source) as worker:
        template = linux.state_and_parent(worker.pid)[1]
        spawner = linux.state_and_parent(template)[1]
        targets = f"{os.getpid()} {spawner} {other.pid} {linux.state_and_parent(other.pid)[1]}"
        assert (await call(worker, targets.encode())).body == b"none"
        assert (await call(worker, f"{worker.pid}".encode())).body == f"{worker.pid} can be signalled".encode()


def _kernel_scopes_signals() -> bool:
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            linux.set_no_new_privs()
            os.write(write, b"1" if landlock.restrict() else b"0")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    try:
        return os.read(read, 1) == b"1"
    finally:
        os.close(read)
        os.close(write)


async def test_memory_of_children_counts_and_what_they_share_counts_once(kit: Kit, pids: Pids) -> None:
    async with kit.ready("tree", source=TREE, environment=pids.environment, memory_mib=100) as worker:
        await call(worker, b"held = bytearray(b'x') * 60_000_000")
        assert 60 <= worker.gauge.read() / 1e6 < 80
        await call(worker, b"for _ in range(3):\n  if os.fork() == 0: note(); time.sleep(1000)\nseen(3)")
        assert 60 <= worker.gauge.read() / 1e6 < 104, "pages shared by a fork are one page"
        code = b"if os.fork() == 0:\n  more = bytearray(b'x') * 70_000_000; note(); time.sleep(1000)\nseen(4)"
        await call(worker, code)
        assert worker.gauge.read() / 1e6 >= 104
        shared = b"""
import mmap
if os.fork() == 0:
    shared = mmap.mmap(-1, 90_000_000)
    shared.write(bytes(90_000_000))
    note()
    time.sleep(1000)
seen(5)
"""
        before = worker.gauge.read()
        await call(worker, shared)
        assert worker.gauge.read() - before >= 80_000_000
