"""A launcher without processes, of the same concurrency shape as the real one.

Each worker is a task of its own at the far ends of two real pipes, and the near ends are a real
`daemon.workers.channel`: an answer arrives while its caller may be doing anything else, and garbage is garbage. Time is
trio's, so the autojump clock works. What a worker does is said by a `Behaviour`, for all revisions or for one::

    launcher = FakeLauncher(limits, Behaviour(call_s=1.0))
    launcher.behaviours["revision-2"] = Behaviour(init_failure="Traceback ...")
    await nursery.start(launcher.run)
"""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import trio

from daemon.config.settings import Limits
from daemon.errors import InitFailed
from daemon.model import LaunchPlan
from daemon.workers.channel import Channel
from daemon.workers.parents import ExitStatus
from daemon.workers.templates import TemplateInfo
from runtime import wire

Reply = tuple[int, list[tuple[str, str]], bytes]


def hello(call: dict[str, Any]) -> Reply:
    """The default answer: the body back, with the call's id."""
    return 200, [("content-type", "text/plain"), ("x-call", call["id"])], call["body"]


@dataclass(slots=True, kw_only=True)
class Behaviour:
    """What the workers of a revision do. Calls are counted per instance, from 1."""

    boot_s: float = 0.02
    """How long the template takes to import."""
    start_s: float = 0.002
    """From fork to ready."""
    call_s: float | Callable[[dict[str, Any]], float] = 0.001
    reply: Callable[[dict[str, Any]], Reply] = hello
    kill_s: float = 0.001
    """From kill to gone."""
    stop_s: float | None = 0.001
    """From stop to gone; None: it does not listen."""
    memory_bytes: int | Callable[[FakeWorker], int] = 2**20
    forkable: bool = True
    """False: start kind exec; ``boot_s`` is then paid by every start."""
    init_failure: str = ""
    """Traceback of an import that fails, in the template."""
    boot_output: bytes = b""
    exit_before_ready: int | None = None
    """Exit code of a worker that ends before it is ready."""
    hang_before_ready: bool = False
    raise_at: frozenset[int] = frozenset()
    """Calls at which the handler raises ValueError: a failed frame."""
    crash_at: frozenset[int] = frozenset()
    """Calls at which the worker exits (code 3) instead of answering."""
    hang_at: frozenset[int] = frozenset()
    """Calls that are never answered."""
    garbage_at: frozenset[int] = frozenset()
    """Calls that are answered with bytes that are no frame."""
    forge_at: frozenset[int] = frozenset()
    """Calls that are answered with another call's number."""
    stray_at: frozenset[int] = frozenset()
    """Calls after whose answer one more byte is sent, a moment later."""
    crash_idle_after: int | None = None
    """The worker exits (code 4) by itself right after answering this call."""


class FakeGauge:
    """What `daemon.sandbox.memory.Gauge` is for the real one."""

    def __init__(self, worker: FakeWorker) -> None:
        self._worker = worker
        self.processes = 1
        self.oom_kills = 0

    def read(self) -> int:
        if self._worker.gone.is_set():
            return 0
        value = self._worker.behaviour.memory_bytes
        return value(self._worker) if callable(value) else value

    def peak(self) -> int:
        return self.read()


class FakeWorker:
    """Has the shape of `daemon.workers.launcher.Worker`; ``calls``, ``killed`` and ``stopped`` are for tests."""

    def __init__(self, pid: int, start_kind: str, behaviour: Behaviour, limits: Limits) -> None:
        calls_r, calls_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        answers_r, answers_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.stdout_fd, self.stdout = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.stderr_fd, self.stderr = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.pid = pid
        self.start_kind = start_kind
        self.template_s = behaviour.boot_s if start_kind == "boot" else 0.0
        self.fork_s = self.import_s = 0.0
        self.behaviour = behaviour
        self.channel = Channel(calls_w, answers_r, limits)
        self.gauge = FakeGauge(self)
        self.calls = 0
        self.killed = False
        self.stopped = False
        self.gone = trio.Event()
        self.status = ExitStatus()
        self._receive = trio.lowlevel.FdStream(calls_r)
        self._send = trio.lowlevel.FdStream(answers_w)
        self._scope = trio.CancelScope()

    async def exited(self) -> ExitStatus:
        await self.gone.wait()
        return self.status

    def confirm(self) -> None:
        pass

    def kill(self) -> None:
        self.killed = True
        self._scope.cancel(reason="killed")

    async def run(self) -> None:
        """The worker's process."""
        code: int | None = None
        with self._scope:
            code = await self._live()
        if code is None:
            self.status = ExitStatus(signal=9)
            with trio.CancelScope(shield=True):
                await trio.sleep(self.behaviour.kill_s)
        else:
            self.status = ExitStatus(code=code)
        self.end()

    def end(self) -> None:
        """All its descriptors close, as a process's do."""
        if not self.gone.is_set():
            for stream in (self._receive, self._send):
                stream.close()
            os.close(self.stdout)
            os.close(self.stderr)
            self.gone.set()

    async def _live(self) -> int:
        behaviour = self.behaviour
        await trio.sleep(behaviour.start_s)
        if behaviour.exit_before_ready is not None:
            return behaviour.exit_before_ready
        if behaviour.hang_before_ready:
            await trio.sleep_forever()
        if not await self._write(wire.encode({"type": "ready", "info": {"python": "fake"}})):
            return 1
        decoder = wire.Decoder(wire.TO_WORKER)
        while data := await self._receive.receive_some(65536):
            for frame in decoder.feed(data):
                if frame["type"] == "stop":
                    self.stopped = True
                    await trio.sleep_forever() if behaviour.stop_s is None else await trio.sleep(behaviour.stop_s)
                    return 0
                if (code := await self._answer(frame)) is not None:
                    return code
        return 0

    async def _answer(self, call: dict[str, Any]) -> int | None:
        behaviour = self.behaviour
        self.calls += 1
        number = self.calls
        if number in behaviour.hang_at:
            await trio.sleep_forever()
        await trio.sleep(behaviour.call_s(call) if callable(behaviour.call_s) else behaviour.call_s)
        if number in behaviour.crash_at:
            return 3
        if number in behaviour.garbage_at:
            await self._write(b"\0\0\0\4oops")
            await trio.sleep_forever()
        nonce = call["nonce"] + (number in behaviour.forge_at)
        frame: dict[str, Any] = {"id": call["id"], "nonce": nonce}
        if number in behaviour.raise_at:
            frame |= {"type": "failed", "kind": "exception", "message": "no", "traceback": "ValueError: no"}
        else:
            status, headers, body = behaviour.reply(call)
            frame |= {"type": "answer", "status": status, "headers": headers, "body": body, "cpu_us": 7}
        if not await self._write(wire.encode(frame)):
            return 1
        if number in behaviour.stray_at:
            await trio.sleep(0.0001)
            await self._write(b"\0")
        return 4 if number == behaviour.crash_idle_after else None

    async def _write(self, data: bytes) -> bool:
        try:
            await self._send.send_all(data)
        except trio.BrokenResourceError:
            return False  # the daemon has closed its end: a process would end by SIGPIPE or EPIPE
        return True


@dataclass(slots=True)
class _Boot:
    done: trio.Event = field(default_factory=trio.Event)


class FakeLauncher:
    """Has the shape of `daemon.workers.launcher.Launcher`; what it counts is for tests."""

    def __init__(self, limits: Limits, behaviour: Behaviour | None = None) -> None:
        self.behaviour = behaviour or Behaviour()
        """Of revisions that have none of their own in ``behaviours``."""
        self.behaviours: dict[str, Behaviour] = {}
        self.workers: dict[int, FakeWorker] = {}
        """Those not gone, by instance id."""
        self.launched: list[tuple[int, str, str]] = []
        """(instance id, revision, start kind) of every worker that was started."""
        self.boots: list[str] = []
        """Revisions of the templates that were booted, in order."""
        self.stopped_templates: list[str] = []
        self.peak = 0
        """Most workers alive at once."""
        self._limits = limits
        self._boots: dict[str, _Boot] = {}
        self._pids = itertools.count(2**22)  # above every real pid
        self._nursery: trio.Nursery | None = None

    @property
    def alive(self) -> int:
        """Workers that are not gone."""
        return len(self.workers)

    async def run(self, *, task_status: trio.TaskStatus[FakeLauncher] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Own all workers until cancelled; then none is left."""
        async with trio.open_nursery() as self._nursery:
            task_status.started(self)
            await trio.sleep_forever()
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def launch(
        self, plan: LaunchPlan, *, instance_id: int, on_boot_output: Callable[[bytes], None]
    ) -> AsyncIterator[FakeWorker]:
        """As the real one's."""
        assert self._nursery is not None, "run() comes first"
        behaviour = self.behaviours.get(plan.revision, self.behaviour)
        kind = await self._boot(plan, behaviour, on_boot_output)
        await trio.lowlevel.checkpoint()
        worker = FakeWorker(next(self._pids), kind, behaviour, self._limits)
        assert instance_id not in self.workers, "an instance id is used once"
        self.workers[instance_id] = worker
        self.launched.append((instance_id, plan.revision, kind))
        self.peak = max(self.peak, len(self.workers))
        self._nursery.start_soon(self._own, worker, instance_id)
        try:
            yield worker
        finally:
            worker.kill()
            worker.channel.close()
            with trio.CancelScope(shield=True):
                await worker.gone.wait()

    async def _own(self, worker: FakeWorker, instance_id: int) -> None:
        try:
            await worker.run()
        finally:
            worker.end()
            del self.workers[instance_id]

    async def _boot(self, plan: LaunchPlan, behaviour: Behaviour, on_boot_output: Callable[[bytes], None]) -> str:
        if plan.start in ("boot", "exec") or not behaviour.forkable:
            if plan.start == "fork":
                raise InitFailed(detail="cannot be forked as its start mode demands: the import started 1 thread(s)")
            await trio.sleep(behaviour.boot_s)
            if behaviour.init_failure:
                raise InitFailed(detail=behaviour.init_failure)
            return "exec"
        boot = self._boots.get(plan.revision)
        if boot is not None and boot.done.is_set():
            return "fork"
        if boot is None:
            boot = self._boots[plan.revision] = _Boot()
            self.boots.append(plan.revision)
            assert self._nursery is not None
            self._nursery.start_soon(self._import, boot, behaviour, on_boot_output)
        await boot.done.wait()
        if behaviour.init_failure:
            if self._boots.get(plan.revision) is boot:
                del self._boots[plan.revision]  # the next launch tries again
            raise InitFailed(detail=behaviour.init_failure)
        return "boot"

    async def _import(self, boot: _Boot, behaviour: Behaviour, on_boot_output: Callable[[bytes], None]) -> None:
        await trio.sleep(behaviour.boot_s)
        if behaviour.boot_output:
            on_boot_output(behaviour.boot_output)
        boot.done.set()

    def stop_template(self, revision: str) -> None:
        """As the real one's: later launches boot a new one."""
        self.stopped_templates.append(revision)
        self._boots.pop(revision, None)

    def templates(self) -> list[TemplateInfo]:
        return [
            TemplateInfo(revision, 1, True, "", self.behaviours.get(revision, self.behaviour).boot_s, 2**24)
            for revision, boot in self._boots.items()
            if boot.done.is_set()
        ]
