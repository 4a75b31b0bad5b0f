"""Has a bundle's modules compiled once, beside its functions, which can write nothing that lasts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import trio

from daemon.model import LaunchPlan
from daemon.sandbox.walls import FUNCTION, PACKAGES, Sandbox
from daemon.workers import tmpdirs
from runtime import boot

WORTH_BYTES = 32 * 2**10
"""Less source than this is compiled again at each import: that takes less time than starting a process."""
SOURCES_MAX = 5000
"""Most modules of one list."""
WAITING_MAX = 64
"""Most lists that wait; a further one is forgotten, and comes again when a template of that version boots again."""
COMPILE_S = 120.0
"""Longest time for one list."""


class Precompiler:
    """Compiles one list after the other while `run` runs."""

    def __init__(self, sandbox: Sandbox, *, run_dir: Path, log: Any) -> None:
        self._sandbox = sandbox
        self._run_dir = run_dir
        self._log = log
        self._send, self._receive = trio.open_memory_channel[tuple[LaunchPlan, list[tuple[str, str]]]](WAITING_MAX)
        self._seen: set[str] = set()

    def imported(self, plan: LaunchPlan, text: str) -> None:
        """A template of ``plan`` says that these modules, one path a line, had to be compiled. Nothing is believed."""
        self._ask(plan, [found for name in text.splitlines() if (found := self._source(plan, name)) is not None])

    def everything(self, plan: LaunchPlan) -> None:
        """Nobody will say what a plan that has no template imports. Blocks for as long as listing its files takes."""
        if plan.revision not in self._seen and self._sandbox.has_root:
            self._seen.add(plan.revision)
            self._ask(plan, list(self._all(plan)))

    def _ask(self, plan: LaunchPlan, sources: list[tuple[str, str]]) -> None:
        if sum(os.stat(path).st_size for path, _ in sources) >= WORTH_BYTES:
            try:
                self._send.send_nowait((plan, sources[:SOURCES_MAX]))
            except trio.WouldBlock:
                self._seen.discard(plan.revision)

    async def run(self) -> NoReturn:
        """Compile what is asked for until cancelled."""
        async for plan, sources in self._receive:
            try:
                await self._compile(plan, sources)
            except OSError as exc:
                self._log.warning("modules cannot be compiled", function=plan.function_id, error=str(exc))
        raise AssertionError("the channel is never closed")

    async def _compile(self, plan: LaunchPlan, sources: list[tuple[str, str]]) -> None:
        cache = tmpdirs.pycache(self._run_dir, plan.function_id)
        roots = [root for root, _ in _roots(plan)]
        read = [*self._sandbox.host_paths(plan.interpreter), "/etc/ld.so.cache", *roots]
        document = json.dumps({"cache": cache, "read": read, "sources": sources})
        interpreter = plan.interpreter or getattr(sys, "_base_executable", None) or sys.executable
        # In the main thread, not through trio's: the parent-death signal follows the thread that started it.
        with subprocess.Popen(  # noqa: ASYNC220
            boot.precompile(interpreter, str(os.getpid()), boot.roots()),
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={}, cwd="/",
        ) as process:  # fmt: skip
            assert process.stdin is not None
            pidfd = os.pidfd_open(process.pid)
            try:
                with trio.move_on_after(COMPILE_S):
                    async with trio.lowlevel.FdStream(os.dup(process.stdin.fileno())) as pipe:
                        process.stdin.close()
                        await pipe.send_all(document.encode())
                    await trio.lowlevel.wait_readable(pidfd)
            except trio.BrokenResourceError:
                pass  # it has ended: it could not be confined, or the interpreter is broken
            finally:
                process.kill()
                os.close(pidfd)

    def _source(self, plan: LaunchPlan, name: str) -> tuple[str, str] | None:
        """The host's path of a module that its function knows as ``name``; None unless it is a file of the bundle."""
        if not name.endswith(".py") or os.path.normpath(name) != name:
            return None
        for root, inside in _roots(plan):
            if name.startswith(inside + "/"):
                path = root + name[len(inside) :]
                if os.path.realpath(path) == path and os.path.isfile(path):
                    return path, name
        return None

    def _all(self, plan: LaunchPlan) -> Iterator[tuple[str, str]]:
        for root, inside in _roots(plan):
            for directory, _, names in os.walk(root):
                for name in sorted(names):
                    path = os.path.join(directory, name)
                    if name.endswith(".py") and not os.path.islink(path):
                        yield path, inside + path[len(root) :]


def _roots(plan: LaunchPlan) -> list[tuple[str, str]]:
    """The directories of a bundle that modules are imported from: on the host, and inside."""
    names = (("function", FUNCTION), ("python", PACKAGES))
    return [(os.path.realpath(os.path.join(plan.bundle_dir, name)), inside) for name, inside in names]
