"""How much memory an instance and its children use, cheaply: through /proc files that are kept open."""

from __future__ import annotations

import os

from runtime import linux

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PROCESSES_MAX = 1024
"""Most descendants that one reading adds up; a tree that large is over any other limit."""


class Gauge:
    """The memory of one process and of everything beneath it.

    What a forked instance shares with its template is not its own: the resident size at the fork is subtracted. A
    reading costs about 6 us without children and 50 us more for each child; only when a tree seems to be over
    ``limit_bytes`` its proportional sizes are read as well (300 us a process), because parent and child share pages.
    """

    def __init__(self, pid: int, *, forked: bool, limit_bytes: int) -> None:
        """``forked``: what the process holds now is its template's, and does not count."""
        self._pid = pid
        self._limit_bytes = limit_bytes
        self.processes = 1
        """How many processes the last reading saw."""
        self.oom_kills = 0
        """Always 0: the kernel sets no limit here."""
        self._peak_bytes = 0
        self._statm = self._children = -1
        try:
            self._statm = os.open(f"/proc/{pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
            self._children = os.open(f"/proc/{pid}/task/{pid}/children", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            pass  # it is gone already
        self._base_bytes = self._resident() if forked else 0

    def read(self) -> int:
        """Bytes in use, or 0 when the process is gone."""
        used = self._read()
        self._peak_bytes = max(self._peak_bytes, used)
        return used

    def peak(self) -> int:
        """The largest of all readings."""
        return self._peak_bytes

    def _read(self) -> int:
        resident = self._resident()
        if not resident:
            self.processes = 0
            return 0
        own = max(0, resident - self._base_bytes)
        beneath = self._descendants()
        self.processes = 1 + len(beneath)
        if not beneath:
            return own
        total = own + sum(map(_own_bytes, beneath))
        return total if total <= self._limit_bytes else self._exact(own, total, beneath)

    def close(self) -> None:
        """Close the kept files; readings are 0 from now on. May be called again."""
        for fd in (self._statm, self._children):
            if fd >= 0:
                os.close(fd)
        self._statm = self._children = -1

    def _resident(self) -> int:
        if self._statm < 0:
            return 0
        try:
            return int(os.pread(self._statm, 128, 0).split(None, 2)[1]) * PAGE_BYTES
        except (OSError, IndexError):  # the process was reaped
            return 0

    def _descendants(self) -> list[int]:
        try:
            # One link per thread and two of its own. The kept-open file lists the main thread's children only.
            if os.stat(f"/proc/{self._pid}/task").st_nlink == 3:
                waiting = list(map(int, os.pread(self._children, 65536, 0).split()))
            else:
                waiting = linux.children(self._pid)
        except OSError:
            return []
        found: list[int] = []
        while waiting and len(found) < PROCESSES_MAX:
            pid = waiting.pop()
            found.append(pid)
            waiting += linux.children(pid)
        return found

    def _exact(self, own: int, total: int, beneath: list[int]) -> int:
        """Each page of the tree counted once, by proportional size; too low by the template's part, never too high."""
        sizes = [_proportional_bytes(pid) for pid in (self._pid, *beneath)]
        if None in sizes:
            return total  # one has just ended, or may not be looked at
        return max(own, sum(size for size in sizes if size) - self._base_bytes)


def _own_bytes(pid: int) -> int:
    """Anonymous and shared memory of a process, without files; 0 when it is gone."""
    status = linux.read_proc(f"/proc/{pid}/status", 4096)
    return 1024 * (_kib(status, b"\nRssAnon:") + _kib(status, b"\nRssShmem:"))


def _proportional_bytes(pid: int) -> int | None:
    rollup = linux.read_proc(f"/proc/{pid}/smaps_rollup", 4096)
    return 1024 * _kib(rollup, b"\nPss:") if rollup else None


def _kib(text: bytes, name: bytes) -> int:
    start = text.find(name)
    return int(text[start + len(name) :].split(None, 1)[0]) if start >= 0 else 0
