"""The daemon's side of a control socket, against a process that this test plays."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from daemon.workers import parents
from daemon.workers.parents import Child, ExitStatus, Parent, ParentGone, Refused
from runtime import control


class Far:
    """The process at the other end: it starts real children of this test's process."""

    def __init__(self) -> None:
        ours, self.sock = control.pair()
        self.sock.setblocking(False)
        self.exits = 0
        self.parent = Parent(ours, control.FROM_SPAWNER, on_exit=self.exit)
        self.parent.pid = os.getpid()
        self.processes: list[subprocess.Popen[bytes]] = []

    def exit(self) -> None:
        self.exits += 1

    async def request(self) -> dict[str, Any]:
        await trio.lowlevel.wait_readable(self.sock)
        received = control.receive(self.sock, control.TO_SPAWNER)
        assert received is not None
        for fd in received[1]:
            os.close(fd)
        return received[0]

    def say(self, kind: str, *fds: int, **members: Any) -> None:
        control.send(self.sock, {"type": kind, **members}, fds)

    def spawn(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(1000)"])
        self.processes.append(process)
        return process

    def start(self, child_id: int, *, times: int = 1) -> subprocess.Popen[bytes]:
        """Start a process and report it."""
        process = self.spawn()
        pidfd = os.pidfd_open(process.pid)
        for _ in range(times):
            self.say("started", pidfd, id=child_id, pid=process.pid)
        os.close(pidfd)
        return process

    async def begin(self, child_id: int) -> Child:
        return await self.parent.start(
            child_id, {"type": "template", "groups": 0, "namespaces": 0, "hosts_id": -1}, (0,) * 4
        )


@pytest.fixture
async def far(nursery: trio.Nursery) -> AsyncIterator[Far]:
    far = Far()
    nursery.start_soon(far.parent.serve, lambda message: None)
    yield far
    far.parent.close()
    far.sock.close()
    for process in far.processes:
        process.kill()
        process.wait()


async def test_a_child_is_started_killed_and_its_exit_reported(far: Far, nursery: trio.Nursery) -> None:
    async def answer() -> None:
        process = far.start((await far.request())["id"])
        await trio.to_thread.run_sync(process.wait)
        far.say("exited", id=5, code=-1, signal=9)

    nursery.start_soon(answer)
    child = await far.begin(5)
    assert (child.pid, far.parent.children) == (far.processes[0].pid, 1)
    child.kill()
    assert await child.exited() == ExitStatus(signal=9)
    assert (far.parent.children, far.exits) == (0, 1)
    child.kill()
    child.close()
    child.close()
    child.kill()
    assert await child.exited() == ExitStatus(signal=9)


async def test_a_refusal_is_told(far: Far, nursery: trio.Nursery) -> None:
    async def answer() -> None:
        far.say("refused", id=(await far.request())["id"], message="no room")

    nursery.start_soon(answer)
    with pytest.raises(Refused, match="no room"):
        await far.begin(1)
    assert far.parent.children == 0


async def test_a_child_that_nobody_waits_for_any_more_is_killed_when_it_comes(far: Far) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with trio.move_on_after(0.01):
        await far.begin(1)
    process = far.start((await far.request())["id"])
    assert await trio.to_thread.run_sync(process.wait) == -9
    far.say("exited", id=1, code=-1, signal=9)
    with trio.fail_after(30):
        while far.parent.children:  # noqa: ASYNC110
            await trio.sleep(0.001)
    assert len(os.listdir("/proc/self/fd")) <= before


async def test_it_ends_and_those_who_wait_are_told(far: Far, nursery: trio.Nursery) -> None:
    async def answer() -> None:
        await far.request()
        far.sock.close()

    nursery.start_soon(answer)
    with pytest.raises(ParentGone, match="it ended"):
        await far.begin(1)
    with pytest.raises(ParentGone, match="it ended"):
        await far.begin(2)


async def test_a_parent_that_does_not_answer_is_given_up(far: Far, autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(ParentGone, match="did not answer"):
        await far.begin(1)
    assert trio.current_time() == pytest.approx(parents.ANSWER_S)


async def test_impatient_launches_find_a_stuck_parent_too(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    with trio.move_on_after(0.01):
        await far.begin(1)
    assert (await far.request())["id"] == 1
    monkeypatch.setattr(parents, "ANSWER_S", 0.0)
    with pytest.raises(ParentGone, match="did not answer"):
        await far.begin(2)
    with pytest.raises(BlockingIOError):  # it was not even asked
        control.receive(far.sock, control.TO_SPAWNER)


@pytest.mark.parametrize("breach", ["started twice", "refused after started", "exited before started", "exited twice"])
async def test_answers_out_of_turn_condemn_it(far: Far, nursery: trio.Nursery, breach: str) -> None:
    async def answer() -> None:
        child_id = (await far.request())["id"]
        match breach:
            case "started twice":
                far.start(child_id, times=2)
            case "refused after started":
                far.start(child_id)
                far.say("refused", id=child_id, message="")
            case "exited before started":
                far.say("exited", id=child_id, code=0, signal=-1)
            case "exited twice":
                far.start(child_id)
                far.say("exited", id=child_id, code=0, signal=-1)
                far.say("exited", id=child_id, code=0, signal=-1)

    nursery.start_soon(answer)
    try:
        child = await far.begin(1)
        assert breach != "exited before started"
        child.close()
    except ParentGone:
        assert breach == "exited before started"
    with trio.fail_after(30):
        while not far.parent.gone:  # noqa: ASYNC110
            await trio.sleep(0.001)
    assert "it broke the protocol" in far.parent.gone


@pytest.mark.parametrize("whose", ["another's child", "no pidfd"])
async def test_a_pidfd_that_is_not_its_childs_condemns_it(far: Far, nursery: trio.Nursery, whose: str) -> None:
    async def answer() -> None:
        child_id = (await far.request())["id"]
        match whose:
            case "another's child":
                fd = os.pidfd_open(os.getppid())
                far.say("started", fd, id=child_id, pid=os.getppid())
            case _:
                fd = os.open("/dev/null", os.O_RDONLY)
                far.say("started", fd, id=child_id, pid=1)
        os.close(fd)

    nursery.start_soon(answer)
    with pytest.raises(ParentGone, match="pidfd"):
        await far.begin(1)


async def test_more_requests_than_the_socket_holds_wait_their_turn(far: Far, nursery: trio.Nursery) -> None:
    refused = 0
    # As the daemon does: the kernel lets a user have only so many descriptors on their way as he may have open.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    async def one(number: int) -> None:
        nonlocal refused
        with pytest.raises(Refused):
            await far.begin(number)
        refused += 1

    far.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    async with trio.open_nursery() as inner:
        for number in range(600):
            inner.start_soon(one, number)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(600):
            far.say("refused", id=(await far.request())["id"], message="full")
            await trio.lowlevel.checkpoint()
    assert refused == 600


def test_how_an_end_is_told() -> None:
    told = [str(ExitStatus(code=3)), str(ExitStatus(signal=11)), str(ExitStatus(signal=99)), str(ExitStatus())]
    assert told == ["exit code 3", "killed by SIGSEGV", "killed by signal 99", "exit status unknown"]
