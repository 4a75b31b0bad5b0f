"""The daemon's side of the spawner (`runtime.spawner`): started, replaced when it ends, and nothing of it left behind.

Nothing is forked from the daemon, which has threads and secrets: this is the one process that it executes, with a clean
environment, and everything that runs functions is beneath it.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import trio

from daemon.config.settings import Limits
from daemon.errors import InternalError
from daemon.workers.parents import ExitStatus, Parent
from runtime import boot, control, linux

SPAWNER_START_S = 10.0
"""How long the spawner may take to say that it is there."""
SPAWNER_PAUSE_S = 0.2
"""Pause before a spawner that ended is replaced."""
ORPHANS_S = 1.0
"""How long what a killed spawner left behind may take to disappear."""


class Spawner:
    """Keeps one spawner running."""

    def __init__(
        self, limits: Limits, *, sweeps: Callable[[], Iterable[str]], on_end: Callable[[], None], log: Any
    ) -> None:
        """``sweeps`` gives the control groups whose leftovers a spawner removes when it ends.

        ``on_end`` is called when one is about to be gone, by our will or not, with all that it had started.
        """
        self._limits = limits
        self._sweeps = sweeps
        self._on_end = on_end
        self._log = log
        self._parent: Parent | None = None
        self._up = trio.Event()
        self._roots = boot.roots()

    async def run(self, *, started: Callable[[], None]) -> NoReturn:
        """Keep a spawner running until cancelled; then nothing that it started is left.

        ``started`` is called when the first one is there.

        Raises:
          InternalError: the first spawner did not start: the installation is broken.
        """
        failure = ""
        for number in itertools.count():
            up = trio.Event()
            process, parent = self._start()
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._serve, parent, up, nursery.cancel_scope)
                    with trio.move_on_after(SPAWNER_START_S):
                        await up.wait()
                    if not up.is_set():
                        nursery.cancel_scope.cancel()
                    elif number == 0:
                        started()
            finally:
                await self._end(process, parent)
            failure = f"{parent.gone}, {ExitStatus.of(process)}"
            if number == 0 and not up.is_set():
                break
            self._log.error("spawner ended", why=failure)
            await trio.sleep(SPAWNER_PAUSE_S)
        raise InternalError(detail=f"the spawner did not start: {failure}")

    async def present(self) -> Parent:
        """The spawner, as soon as there is one; bounded by whoever launches."""
        while True:
            if self._parent is not None:
                if not self._parent.gone:
                    return self._parent
                self._parent, self._up = None, trio.Event()  # `run` will replace it
            await self._up.wait()

    async def _serve(self, parent: Parent, up: trio.Event, scope: trio.CancelScope) -> None:
        def on_message(message: dict[str, Any]) -> None:  # only "ready" can come
            parent.tell({"type": "sweep", "directories": "\n".join(self._sweeps())})
            self._parent = parent
            self._up.set()
            up.set()

        await parent.serve(on_message)
        scope.cancel()

    def _start(self) -> tuple[subprocess.Popen[bytes], Parent]:
        # In the main thread, not through trio's: the parent-death signal follows the *thread* that started it.
        ours, theirs = control.pair()
        interpreter = getattr(sys, "_base_executable", None) or sys.executable  # not the virtual environment's
        argument = f"{theirs.fileno()}:{os.getpid()}"
        with theirs:
            process = subprocess.Popen(
                boot.command(interpreter, "main", argument, self._roots),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                close_fds=True,
                pass_fds=(theirs.fileno(),),
                env={},
                cwd="/",
            )
        parent = Parent(ours, control.FROM_SPAWNER)
        parent.pid = process.pid
        return process, parent

    async def _end(self, process: subprocess.Popen[bytes], parent: Parent) -> None:
        """The spawner is going, by our will or not: nothing of it is left when this returns."""
        if self._parent is not None:  # else there are those who wait for the present event
            self._parent, self._up = None, trio.Event()
        parent.close()  # it now kills everything beneath it, then ends
        self._on_end()
        pidfd = os.pidfd_open(process.pid)
        try:
            with trio.CancelScope(shield=True):
                with trio.move_on_after(self._limits.kill_s) as scope:
                    await trio.lowlevel.wait_readable(pidfd)
                if scope.cancelled_caught:
                    self._log.error("spawner does not end", pid=process.pid)
                    linux.kill_descendants(process.pid)
                    process.kill()
                    await trio.lowlevel.wait_readable(pidfd)
                process.poll()
                await sweep_orphans()
        finally:
            os.close(pidfd)


async def sweep_orphans() -> None:
    """Kill what a spawner that was itself killed left to us, its reaper.

    Everything beneath the spawner is in a session other than ours and cannot come back to ours; the daemon's own
    programs are in ours.
    """
    me, session = os.getpid(), os.getsid(0)
    with trio.move_on_after(ORPHANS_S):
        while orphans := [pid for pid in linux.children(me) if linux.session_of(pid) not in (0, session)]:
            linux.kill_descendants(me, spare=frozenset(linux.children(me)) - frozenset(orphans))
            linux.reap(orphans)
            await trio.sleep(0.002)
