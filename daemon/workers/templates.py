"""One template as the daemon sees it: boot, readiness, retirement, death."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import trio

from daemon.config.settings import Limits
from daemon.errors import InitFailed
from daemon.model import LaunchPlan
from daemon.sandbox.networks import NetworkError
from daemon.sandbox.placement import MemoryGauge, Place, close_all
from daemon.workers.parents import Child, ExitStatus, Gate, Parent, ParentGone, Refused
from runtime import control, linux
from runtime.walls import Walls

OUTPUT_BYTES_MAX = 64 * 2**10
"""Most output of an import that is passed on; the rest is dropped."""
OUTPUT_TAIL_BYTES = 2000
"""How much of it is told with an import that ended without a traceback."""
OUTPUT_GRACE_S = 0.1
"""How long the last words of an ended template may take to arrive; a child of its may hold the pipe for ever."""
MEMORY_POLL_S = 0.05
"""How often the memory of an importing template is measured."""


@dataclass(frozen=True, slots=True)
class TemplateInfo:
    """For people: what is known of a revision's template."""

    revision: str
    pid: int
    """0: there is none."""
    forkable: bool
    reason: str
    """Why it is not forkable, or empty."""
    boot_s: float
    """From the request to having imported the function."""
    memory_bytes: int


class Template:
    """The fork server of one revision. Its task is `live`; all else may be called by others."""

    def __init__(
        self,
        plan: LaunchPlan,
        child_id: int,
        on_output: Callable[[bytes], None],
        limits: Limits,
        log: Any,
        *,
        own_pids: bool,
    ) -> None:
        """``own_pids``: its first process is the init of a PID namespace, and forks it."""
        self.plan = plan
        self.child_id = child_id
        self.ready = trio.Event()
        """Set when the function is imported and instances can be forked."""
        self.reason = ""
        """Why instances cannot be forked though the import went well."""
        self.compiled = ""
        """Modules that it says it had to compile, one path a line."""
        self.import_s = 0.0
        """How long the function's import took, as it says."""
        self.parent: Parent
        """Starts instances."""
        self._settled = trio.Event()
        self._failure = ""
        self._crashed = False
        self._scope = trio.CancelScope()
        self._waiters = 0
        self._retired = False
        self._child: Child | None = None
        self._own_pids = own_pids
        self._ended: ExitStatus | None = None
        self._gauge: MemoryGauge | None = None
        self._on_output = on_output
        self._tail = b""
        self._limits = limits
        self._log = log
        self._since_s = time.monotonic()
        self._boot_s = 0.0

    async def wait_ready(self) -> None:
        """Wait until it has booted. When nobody waits any more, the boot is given up.

        Raises:
          InitFailed: the import failed; with the traceback.
          ParentGone: the spawner ended.
        """
        self._waiters += 1
        try:
            await self._settled.wait()
        finally:
            self._waiters -= 1
            if not self._waiters and not self._settled.is_set():
                self._failure = "nobody waited for it any more"
                self._scope.cancel(reason=self._failure)
        if self._crashed:
            raise ParentGone(self._failure)
        if not self.ready.is_set() and not self.reason:
            raise InitFailed(detail=self._failure)

    async def live(self, spawner: Parent, job_fd: int, walls: Walls, place: Place) -> None:
        """Boot it, hear it, and when it is over, kill it and everything beneath it."""
        ours, theirs = control.pair()
        self.parent = Parent(ours, control.FROM_TEMPLATE, on_exit=self._check_retired)
        self.parent.distance = 2 if self._own_pids else 1
        try:
            with self._scope, theirs:
                output_r, output_w = os.pipe2(os.O_CLOEXEC)
                os.set_blocking(output_r, False)
                gate = None
                try:
                    groups: list[int] = []
                    try:
                        gate = Gate()
                        groups = place.join_fds()
                        if walls.hosts_id >= 0:  # it may open what its /dev/stdout is
                            os.fchown(output_w, walls.hosts_id, walls.hosts_id)
                        message = {
                            "type": "template",
                            "groups": len(groups),
                            "namespaces": walls.namespaces,
                            "hosts_id": walls.hosts_id,
                        }
                        fds = (job_fd, gate.fd, theirs.fileno(), output_w, *groups)
                        self._child = await spawner.start(self.child_id, message, fds)
                    finally:
                        os.close(output_w)
                        theirs.close()
                        close_all(groups)
                    await self._attend(output_r, place, gate)
                finally:
                    if gate is not None:
                        gate.close()
                    os.close(output_r)
        except ParentGone as exc:
            self.condemn(str(exc))
        except Refused as exc:
            self._failure = str(exc)
        finally:
            await self._end()

    async def _connect(self, place: Place, gate: Gate) -> None:
        """Connect its network, for which it waits at the gate."""
        assert self._child is not None
        try:
            await place.wire(self._child.pid, self.plan)
        except NetworkError as exc:
            if linux.state_and_parent(self._child.pid)[0] in ("", "Z", "X"):
                return  # no wonder: what it died of is told in its output
            self._failure = str(exc)
            self._scope.cancel(reason="no network")
        else:
            gate.open()

    async def _attend(self, output_fd: int, place: Place, gate: Gate) -> None:
        assert self._child is not None
        self.parent.pid = self._child.pid
        self._gauge = place.gauge(self._child.pid, forked=False, limit_bytes=self._memory_bytes_max)
        async with trio.open_nursery() as nursery:
            ended = trio.Event()
            nursery.start_soon(self._read_output, output_fd, ended)
            nursery.start_soon(self._watch_memory)
            nursery.start_soon(self._connect, place, gate)
            await self.parent.serve(self._on_message)
            with trio.move_on_after(OUTPUT_GRACE_S):
                await ended.wait()
            nursery.cancel_scope.cancel()

    def _on_message(self, message: dict[str, Any]) -> None:
        if message["type"] == "ended":
            code, number = message["code"], message["signal"]
            self._ended = ExitStatus(code if code >= 0 else None, number if number >= 0 else None)
            return
        if self.ready.is_set() or self.reason or self._failure:
            raise control.ControlError(f"{message['type']} message after the import was over")
        self._boot_s = time.monotonic() - self._since_s
        if message["type"] == "ready":
            self.compiled = message["compiled"]
            self.import_s = max(0, message["import_us"]) / 1e6
        if message["type"] == "failed":
            self._failure = message["traceback"] or "no traceback"
        elif message["forkable"]:
            self.ready.set()
            self._settled.set()
        else:
            self.reason = message["reason"] or "it does not say why"

    async def _read_output(self, fd: int, ended: trio.Event) -> None:
        left = OUTPUT_BYTES_MAX
        while True:
            await trio.lowlevel.wait_readable(fd)
            try:
                data = os.read(fd, 65536)
            except BlockingIOError:
                continue
            if not data:
                break
            self._tail = (self._tail + data)[-OUTPUT_TAIL_BYTES:]
            if left > 0:
                self._on_output(data[:left])
                left -= len(data)
        ended.set()

    @property
    def _memory_bytes_max(self) -> int:
        return (self.plan.memory_mib + self._limits.memory_backstop_mib) * 2**20

    async def _watch_memory(self) -> None:
        """An import that uses shared memory gets past RLIMIT_DATA. Once it is over, the size changes no more."""
        assert self._gauge is not None
        while not self._settled.is_set():
            if (used := self._gauge.read()) > self._memory_bytes_max:
                self._failure = self._out_of_memory(used)
                self._scope.cancel(reason="out of memory")
            await trio.sleep(MEMORY_POLL_S)

    def _out_of_memory(self, used: int) -> str:
        return f"out of memory while importing: {used // 2**20} MiB used, limit {self.plan.memory_mib} MiB"

    async def _end(self) -> None:
        self.parent.close()
        if (child := self._child) is None:
            return
        child.kill()
        with trio.CancelScope(shield=True):
            with trio.move_on_after(self._limits.kill_s) as scope:
                status = await child.exited()
            if scope.cancelled_caught:
                self._log.error("template does not end", pid=child.pid, revision=self.plan.revision)
            elif not (self._failure or self.reason or self.ready.is_set()):
                self._failure = f"the process ended while importing the function: {self._ended or status}"
                if self._gauge is not None and (used := self._gauge.peak()) and self._gauge.oom_kills:
                    self._failure = self._out_of_memory(used)
                if self.parent.gone != "it ended":
                    self._failure = f"{self.parent.gone}, while importing the function"
                if tail := self._tail.decode(errors="replace").strip():
                    self._failure += f"; its last output:\n{tail}"
        child.close()
        if self._gauge is not None:
            self._gauge.close()

    def settle(self) -> None:
        """It is over: whoever still waits learns how it went."""
        if not (self._failure or self.reason or self.ready.is_set()):
            self._failure, self._crashed = "the launcher ended", True
        self._settled.set()

    def condemn(self, why: str) -> None:
        """End it now, because of something that is not the function's fault."""
        if not self.ready.is_set():
            self._failure, self._crashed = self._failure or why, True
        self._scope.cancel(reason=why)

    def retire(self) -> None:
        """End it as soon as it has no instances."""
        self._retired = True
        self._check_retired()

    def _check_retired(self) -> None:
        if self._retired and not (self.ready.is_set() and self.parent.children):
            self._failure = self._failure or "it was stopped"
            self._scope.cancel(reason="retired")

    def info(self) -> TemplateInfo:
        """What it is now."""
        pid = self._child.pid if self._child is not None and not self.reason else 0
        memory_bytes = self._gauge.read() if self._gauge is not None and pid else 0
        return TemplateInfo(self.plan.revision, pid, not self.reason, self.reason, self._boot_s, memory_bytes)
