"""Starts workers: forks them from a template of their revision where that is safe, else as processes of their own.

daemon -> spawner -> template of a revision -> instances. Start kinds:

* ``fork``: the template was there.
* ``boot``: the template had to be started first.
* ``exec``: a process of its own that imports the function by itself, because the module cannot be forked safely or
  because the version asks for it (``stoker.dev/start: exec`` and ``boot`` are the same here); or a program that follows
  the Fn contract, in any language (`daemon.workers.http_channel`).
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import trio

from daemon.bundles.precompiler import Precompiler
from daemon.config.settings import Limits
from daemon.errors import InitFailed, InternalError
from daemon.model import LaunchPlan
from daemon.sandbox.cgroups import Cgroups, Site
from daemon.sandbox.networks import NetworkError
from daemon.sandbox.placement import MemoryGauge, Place, Placement, close_all
from daemon.sandbox.walls import TMP, Sandbox
from daemon.workers import tmpdirs
from daemon.workers.channel import Channel
from daemon.workers.http_channel import HttpChannel, open_pipes
from daemon.workers.jobs import Jobs
from daemon.workers.parents import Child, ExitStatus, Gate, Parent, ParentGone, Refused
from daemon.workers.spawner import Spawner
from daemon.workers.templates import Template, TemplateInfo
from runtime import linux

__all__ = ["ExitStatus", "Launcher", "TemplateInfo", "Worker"]

STARTS_MAX = 3
"""Attempts of one launch when what should fork dies: its template has just died, then the spawner, then a new one."""
UNFORKABLE_MAX = 1024
"""Revisions remembered as not forkable; the oldest is forgotten, and found out again when it is used."""


class Worker:
    """One running instance, as `Launcher.launch` gives it."""

    def __init__(
        self,
        child: Child,
        *,
        start_kind: str,
        channel: Channel | HttpChannel,
        stdout_fd: int,
        stderr_fd: int,
        gauge: MemoryGauge,
        place: Place,
        own_pids: bool,
    ) -> None:
        """``own_pids``: it is the first process of a PID namespace."""
        self._child = child
        self._own_pids = own_pids
        self._place = place
        self.pid = child.pid
        self.start_kind = start_kind
        """``fork``, ``boot`` or ``exec``."""
        self.channel = channel
        self.stdout_fd = stdout_fd
        """The daemon's end of the worker's stdout, non-blocking; the caller closes it. Likewise ``stderr_fd``."""
        self.stderr_fd = stderr_fd
        self.gauge = gauge
        self.freeze = child.freeze  # used by `daemon.workers.freezer` and `Slot.thaw`
        self.template_s = 0.0
        """How long its launch waited for a template; 0 without one. Likewise ``fork_s``, for the process."""
        self.fork_s = 0.0
        self.import_s = 0.0
        """Of the wait for a template that was booted: its import of the function, as it says."""

    async def exited(self) -> ExitStatus:
        """Wait until the process is gone, and say how it ended."""
        return await self._child.exited()

    def confirm(self) -> None:
        """Make sure, once it is ready and before its first call, that its limits hold for it.

        Raises:
          InternalError: they do not. It must be killed.
        """
        self._place.confirm(self.pid)

    def kill(self) -> None:
        """SIGKILL the process and everything beneath it, whatever that did to hide. Returns at once; idempotent.

        With a PID namespace of its own the kernel sees to that. Else it is stopped first, so that it makes no more
        children and stays the one its orphans come to; what escapes all the same, its template kills.
        """
        fd = self._child.pidfd
        if fd < 0:
            return
        try:
            if not self._own_pids:
                signal.pidfd_send_signal(fd, signal.SIGSTOP)
                linux.kill_descendants(self.pid)  # the number is its own: it cannot be reaped before its parent knows
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._place.kill()


class Launcher:
    """Owns the spawner and the templates. `run` must be running for `launch` to work."""

    def __init__(
        self, limits: Limits, *, run_dir: Path, log: Any, placement: Placement | None = None,
        sandbox: Sandbox | None = None,
    ) -> None:  # fmt: skip
        """``run_dir``: for temporary directories of workers and compiled modules; made if absent.

        ``placement``: gives each process its control group; None: there are none. ``sandbox``: its walls; None: all
        that this machine can give, which is probed for a fifth of a second.
        """
        self.sandbox = sandbox or Sandbox.probed(limits)
        self._limits = limits
        self._placement = placement or Placement(Cgroups(Site(), ""), limits, log)
        self._precompiler = Precompiler(self.sandbox, run_dir=run_dir, log=log)
        self._jobs = Jobs(self.sandbox, limits, run_dir=run_dir, exact_memory=self._placement.cgroups.active)
        self._run_dir = run_dir
        self._log = log
        self._ids = itertools.count(1)
        self._nursery: trio.Nursery | None = None
        self._spawner = Spawner(
            limits, sweeps=lambda: self._placement.cgroups.directories, on_end=self._condemn_templates, log=log
        )
        self.on_template_gone: Callable[[str], None] = lambda revision: None
        """Called with the revision of a template that is reaped, whether it was told to go or died."""
        self._templates: dict[str, Template] = {}
        self._unforkable: dict[str, TemplateInfo] = {}

    async def run(self, *, task_status: trio.TaskStatus[Launcher] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Keep a spawner running until cancelled; then nothing that it started is left.

        Raises:
          InternalError: the first spawner did not start: the installation is broken.
        """
        tmpdirs.prepare(self._run_dir)
        async with trio.open_nursery() as self._nursery:
            await self._nursery.start(self._placement.run)
            if self._placement.networks is not None:
                await self._nursery.start(self._placement.networks.run)
            self._nursery.start_soon(self._precompiler.run)
            try:
                await self._spawner.run(started=lambda: task_status.started(self))
            except InternalError as exc:  # kept out of the nursery, which would wrap it in a group
                failure = exc
                self._nursery.cancel_scope.cancel()
        raise failure

    def _condemn_templates(self) -> None:
        """The spawner ended, and all that it had started goes with it."""
        for template in list(self._templates.values()):
            template.condemn("the spawner ended")
        self._templates.clear()

    # -- instances ----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def launch(
        self, plan: LaunchPlan, *, instance_id: int, on_boot_output: Callable[[bytes], None],
        debug: socket.socket | None = None,
    ) -> AsyncIterator[Worker]:  # fmt: skip
        """A new instance of the plan's revision, for as long as the block lasts; then it and its children are gone.

        Launches of one revision that come together share one template. ``on_boot_output`` gets what the import writes.
        Nothing limits the time in here: cancel it. ``debug``: what its debugger accepts editors on.

        Raises:
          InitFailed: the function cannot be imported, or not be forked though the plan says so; with the traceback.
        """
        tmp, place = "", None
        try:
            tmp = self._make_tmp(plan, f"i{instance_id}")
            place = self._placement.instance(plan, instance_id)
            worker, child = await self._start(plan, tmp, place, on_boot_output, debug)
            try:
                yield worker
            finally:
                await self._finish(worker, child)
        finally:
            with trio.CancelScope(shield=True):
                if place is not None:
                    await place.leave()
                await self._remove_tmp(tmp)

    def _make_tmp(self, plan: LaunchPlan, name: str) -> str:
        """A worker's directory for temporary files: inside its own root file system, if it has one."""
        return TMP if self.sandbox.has_root else tmpdirs.make(self._run_dir, plan.function_id, name)

    async def _remove_tmp(self, tmp: str) -> None:
        if tmp and not self.sandbox.has_root:
            await tmpdirs.remove(tmp)

    async def _start(
        self, plan: LaunchPlan, tmp: str, place: Place, on_boot_output: Callable[[bytes], None],
        debug: socket.socket | None,
    ) -> tuple[Worker, Child]:  # fmt: skip
        if plan.command and (why := self.sandbox.refuses_programs):
            raise InitFailed(detail=why)
        for attempt in range(1, STARTS_MAX + 1):
            began_s = trio.current_time()
            try:
                if plan.start not in ("boot", "exec") and plan.revision not in self._unforkable:
                    template, kind = await self._template(plan, on_boot_output)
                    if template is not None:
                        fork = {"type": "fork", "tmp": tmp}
                        found = await self._start_in(template.parent, plan, kind, place, fork, (), began_s)
                        found[0].import_s = template.import_s if kind == "boot" else 0.0
                        return found
                if plan.start == "fork":
                    reason = self._unforkable[plan.revision].reason
                    raise InitFailed(detail=f"cannot be forked as its start mode demands: {reason}")
                if plan.start in ("boot", "exec") and not plan.command:
                    self._precompiler.everything(plan)
                with self._jobs.memfd(plan, tmp) as (job_fd, job):
                    parent = await self._spawner.present()
                    walls = {"namespaces": job.walls.namespaces, "hosts_id": job.walls.hosts_id}
                    message = {"type": "instance" if debug is None else "debug", **walls}
                    return await self._start_alone(parent, plan, place, message, job_fd, began_s, debug)
            except ParentGone as exc:
                # POLICY: when a template or the spawner dies under a launch, the next one is tried.
                if attempt == STARTS_MAX:
                    raise InitFailed(detail=f"the worker could not be started: {exc}") from exc
        raise AssertionError("unreachable")

    async def _start_alone(
        self, parent: Parent, plan: LaunchPlan, place: Place, message: dict[str, Any], job_fd: int, began_s: float,
        debug: socket.socket | None,
    ) -> tuple[Worker, Child]:  # fmt: skip
        """A process that imports by itself."""
        gate = Gate()
        try:
            worker, child = await self._start_in(
                parent, plan, "exec", place, message, (job_fd, gate.fd), began_s, debug
            )
            try:
                await place.wire(child.pid, plan)
            except BaseException as exc:
                await self._finish(worker, child)
                close_all([worker.stdout_fd, worker.stderr_fd])
                if isinstance(exc, NetworkError):
                    raise InitFailed(detail=str(exc)) from exc
                raise
            gate.open()
            return worker, child
        finally:
            gate.close()

    async def _start_in(
        self, parent: Parent, plan: LaunchPlan, kind: str, place: Place, message: dict[str, Any],
        first: tuple[int, ...], began_s: float, debug: socket.socket | None = None,
    ) -> tuple[Worker, Child]:  # fmt: skip
        pipes: list[int] = []
        groups: list[int] = []
        forking_s = trio.current_time()
        try:
            groups = place.join_fds()
            pipes += open_pipes(program=bool(plan.command))
            calls_r, calls_w, answers_r, answers_w, stdout_r, stdout_w, stderr_r, stderr_w = pipes
            theirs, ours = (calls_r, answers_w, stdout_w, stderr_w), (calls_w, answers_r, stdout_r, stderr_r)
            for fd in ours:
                os.set_blocking(fd, False)
            if (user := self.sandbox.hosts_id(plan.function_id)) >= 0:  # it may open what its /dev/stdout is
                os.fchown(stdout_w, user, user)
                os.fchown(stderr_w, user, user)
            message = {**message, "groups": len(groups)}
            last = () if debug is None else (debug.fileno(),)
            child = await parent.start(next(self._ids), message, (*first, *theirs, *last, *groups))
            pipes = list(theirs)
        except Refused as exc:
            raise InitFailed(detail=str(exc)) from exc
        finally:
            close_all(pipes)
            close_all(groups)
        gauge = place.gauge(child.pid, forked=kind != "exec", limit_bytes=plan.memory_mib * 2**20)
        channel: Channel | HttpChannel
        if plan.command:
            os.close(calls_w)
            channel = HttpChannel(answers_r, child, self._limits, kill=lambda: worker.kill())
            assert self._nursery is not None
            self._nursery.start_soon(channel.close_idle)
        else:
            channel = Channel(calls_w, answers_r, self._limits)
        worker = Worker(
            child, start_kind=kind, channel=channel, stdout_fd=stdout_r, stderr_fd=stderr_r, gauge=gauge, place=place,
            own_pids=self.sandbox.has_pids,
        )  # fmt: skip
        worker.template_s = forking_s - began_s if kind != "exec" else 0.0
        worker.fork_s = trio.current_time() - forking_s
        return worker, child

    async def _finish(self, worker: Worker, child: Child) -> None:
        """Kill the tree, wait until it is gone and reaped, and let go of it."""
        try:
            worker.kill()
            worker.channel.close()
            with trio.CancelScope(shield=True):
                with trio.move_on_after(self._limits.kill_s) as scope:
                    await child.exited()
                if scope.cancelled_caught:
                    self._log.error("instance does not end", pid=worker.pid, waited_s=self._limits.kill_s)
        finally:
            worker.gauge.close()
            child.close()

    # -- templates ----------------------------------------------------------------------------------------------

    async def _template(self, plan: LaunchPlan, on_boot_output: Callable[[bytes], None]) -> tuple[Template | None, str]:
        """The template of the plan's revision and the start kind; None when it may not be forked.

        Raises:
          InitFailed, ParentGone
        """
        template = self._templates.get(plan.revision)
        if template is not None and template.ready.is_set():
            if not template.parent.gone:
                return template, "fork"
            del self._templates[plan.revision]  # it has just died, and its own task has not seen to it yet
            template = None
        if template is None:
            parent = await self._spawner.present()
            assert self._nursery is not None
            if (template := self._templates.get(plan.revision)) is None:  # none was made meanwhile
                template = Template(
                    plan, next(self._ids), on_boot_output, self._limits, self._log, own_pids=self.sandbox.has_pids
                )
                self._templates[plan.revision] = template
                self._nursery.start_soon(self._live, template, parent)
        await template.wait_ready()
        compiled, template.compiled = template.compiled, ""
        if compiled:
            self._precompiler.imported(plan, compiled)
        if template.reason:
            return None, "exec"
        return template, "boot"

    async def _live(self, template: Template, parent: Parent) -> None:
        """One template, from boot to reaped."""
        tmp, place = "", None
        try:
            tmp = self._make_tmp(template.plan, f"t{template.child_id}")
            place = self._placement.template(template.plan, template.child_id)
            with self._jobs.memfd(template.plan, tmp) as (job_fd, job):
                await template.live(parent, job_fd, job.walls, place)
        except (
            OSError,
            NetworkError,
        ) as exc:  # no descriptors or no space left: one revision's trouble, not the launcher's
            self._log.error("template cannot be started", revision=template.plan.revision, error=str(exc))
            template.condemn(str(exc))
        finally:
            revision = template.plan.revision
            if self._templates.get(revision) is template:
                del self._templates[revision]
            if template.reason:
                self._unforkable[revision] = template.info()
                if len(self._unforkable) > UNFORKABLE_MAX:
                    del self._unforkable[next(iter(self._unforkable))]
            template.settle()
            if not template.reason:
                self.on_template_gone(revision)
            with trio.CancelScope(shield=True):
                if place is not None:
                    await place.leave()
                await self._remove_tmp(tmp)

    def stop_template(self, revision: str) -> None:
        """Let the revision's template go, at once or, if it still has instances, with the last of them."""
        self._unforkable.pop(revision, None)
        if (template := self._templates.pop(revision, None)) is not None:
            template.retire()

    def templates(self) -> list[TemplateInfo]:
        """The templates, and what is known of revisions that have none because they cannot be forked."""
        return [template.info() for template in self._templates.values()] + list(self._unforkable.values())
