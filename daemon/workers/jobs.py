"""The document that tells a worker process what it is (`runtime.job`), made from a launch plan."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from daemon.config.settings import Limits
from daemon.model import LaunchPlan
from daemon.sandbox.walls import DEBUGGER, FUNCTION, PACKAGES, PYCACHE, RESOURCES, Sandbox
from daemon.workers import tmpdirs
from runtime import boot
from runtime.job import Job

SOCKETS, LISTENER = "iofs", "lsnr.sock"
"""Below the directory for temporary files: where a program listens. With /tmp before it, Fn's own path."""
_SEARCH_PATHS = ("PYTHONPATH", "NODE_PATH", "CLASSPATH", "LD_LIBRARY_PATH")


class Jobs:
    """Makes the jobs of one daemon."""

    def __init__(self, walls: Sandbox, limits: Limits, *, run_dir: Path, exact_memory: bool) -> None:
        """``exact_memory``: control groups limit it, so that nothing cruder has to."""
        self._exact_memory = exact_memory
        self._sandbox = walls
        self._limits = limits
        self._run_dir = run_dir
        self._roots = boot.roots()

    @contextmanager
    def memfd(self, plan: LaunchPlan, tmp: str) -> Iterator[tuple[int, Job]]:
        """A descriptor of the job and the job, for as long as the block lasts. ``tmp``: as for `job`.

        Raises:
          OSError: no descriptors or no memory left.
        """
        job = self.job(plan, tmp)
        fd = job.to_memfd()
        try:
            yield fd, job
        finally:
            os.close(fd)

    def job(self, plan: LaunchPlan, tmp: str) -> Job:
        """``tmp``: the process's directory for temporary files, on the host or inside (`tmpdirs`)."""
        interpreter = plan.interpreter
        if interpreter and os.path.realpath(interpreter) == os.path.realpath(sys.executable):
            interpreter = ""
        pycache = tmpdirs.pycache(self._run_dir, plan.function_id)
        walls = self._sandbox.walls(
            plan, run_dir=str(self._run_dir), interpreter=interpreter, pycache=pycache,
            exact_memory=self._exact_memory,
            writable=[tmpdirs.of_function(self._run_dir, plan.function_id)],
        )  # fmt: skip
        inside = walls.root is not None
        environment, command = dict(plan.environment), list(plan.command)
        if command and not inside:
            environment, command = _on_host(plan.bundle_dir, environment, command)
            environment["FN_LISTENER"] = f"unix:{tmp}/{SOCKETS}/{LISTENER}"
        return Job(
            roots=self._roots,
            interpreter=interpreter,
            directory=FUNCTION if inside else os.path.join(plan.bundle_dir, "function"),
            # On the host perhaps a link to a layer's.
            packages=PACKAGES if inside else os.path.realpath(os.path.join(plan.bundle_dir, "python")),
            handler_file=plan.handler_file,
            handler_name=plan.handler_name,
            adapter=plan.adapter,
            environment=environment,
            tmp=tmp,
            pycache=PYCACHE if inside else pycache,
            walls=walls,
            response_bytes_max=self._limits.response_bytes_max,
            command=command,
            socket_directory=os.path.join(tmp, SOCKETS) if command else "",
            debugger=(DEBUGGER if inside else plan.debugger) if plan.debugger else "",
        )


def _on_host(bundle_dir: str, environment: dict[str, str], command: list[str]) -> tuple[dict[str, str], list[str]]:
    """Where there is no root file system of its own: words and search paths that name the bundle, by its real place."""

    def real(path: str) -> str:
        for inside in (FUNCTION, PACKAGES, RESOURCES):
            if path == inside or path.startswith(inside + "/"):
                return os.path.realpath(bundle_dir + inside) + path[len(inside) :]
        return path

    paths = {
        name: os.pathsep.join(map(real, environment[name].split(os.pathsep)))
        for name in _SEARCH_PATHS
        if name in environment
    }
    return {**environment, **paths}, [real(word) for word in command]
