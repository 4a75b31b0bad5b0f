"""Servers under measurement: start, wait until they answer, read what they cost from /proc, end by pid."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

START_S = 60.0
"""Longest wait for a server to answer."""
STOP_S = 10.0
"""How long a server has to leave after SIGTERM; then it is killed."""
LEAVE_S = 1.0
"""How long the children of an ended server may take to leave by themselves."""
POLL_S = 0.002
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """Something could not be measured; the text says what and why."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses, for servers that cannot pick one by themselves."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def cpu_s(pid: int) -> float:
    """User and system time of one process, all its threads, without its children; in steps of a clock tick (10 ms)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def descendants(pid: int) -> list[int]:
    """Every process beneath this one, parents first; those that end meanwhile are left out."""
    found: list[int] = []
    queue = [pid]
    while queue:
        parent = queue.pop()
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                children = [int(child) for child in (task / "children").read_text().split()]
                found += children
                queue += children
    return found


def pss_bytes(pid: int) -> int:
    """Memory of a process with each shared page divided among those who share it (proc_pid_smaps_rollup(5))."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise BenchError(f"no Pss in /proc/{pid}/smaps_rollup")


def with_mark(mark: str) -> list[int]:
    """Processes that carry ``mark`` on their command line and are not zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if mark.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


class Server:
    """One process and its children, until `stop`. Its output goes to a file, shown when it fails."""

    def __init__(
        self, command: Sequence[str | Path], *, log: Path, cwd: Path | None = None,
        env: Mapping[str, str] | None = None, stdout: int | None = None,
    ) -> None:  # fmt: skip
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self.started_s = time.perf_counter()
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [str(part) for part in command], cwd=cwd, env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL, stdout=output if stdout is None else stdout, stderr=output,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_for_port(self, port: int) -> None:
        """Wait until somebody listens.

        Raises:
          BenchError: the server ended, or START_S went by.
        """
        self._wait(lambda: _connects(port), f"port {port}")

    def wait_for_path(self, path: Path) -> None:
        """Wait until a file is there.

        Raises:
          BenchError: the server ended, or START_S went by.
        """
        self._wait(path.exists, str(path))

    def _wait(self, condition: object, what: str) -> None:
        assert callable(condition)
        end_s = time.monotonic() + START_S
        while not condition():
            if self.process.poll() is not None:
                raise BenchError(f"{self.process.args!r} ended with {self.process.returncode}: {self.output()}")
            if time.monotonic() > end_s:
                raise BenchError(f"no {what} within {START_S:g} s: {self.output()}")
            time.sleep(POLL_S)

    def output(self) -> str:
        """The last of what it wrote."""
        return self.log.read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        """End it and whatever it started."""
        family = descendants(self.pid)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
        end_processes(family)


def end_processes(pids: Iterable[int]) -> list[int]:
    """Kill those of these processes that still run after a moment, and see them go; returns them.

    Raises:
      BenchError: one survives SIGKILL.
    """
    left = _wait_gone(list(pids), LEAVE_S)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if stuck := _wait_gone(left, STOP_S):
        raise BenchError(f"processes {stuck} do not end")
    return left


def _wait_gone(pids: list[int], for_s: float) -> list[int]:
    end_s = time.monotonic() + for_s
    while (left := [pid for pid in pids if _alive(pid)]) and time.monotonic() < end_s:
        time.sleep(POLL_S)
    return left


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _connects(port: int) -> bool:
    with socket.socket() as sock:
        sock.settimeout(1.0)
        return sock.connect_ex(("127.0.0.1", port)) == 0
