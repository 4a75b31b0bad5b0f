"""Joining control groups, from inside, and emptying them: what workers and spawner do of `daemon.sandbox.cgroups`.

The daemon opens one descriptor per group and sends them along; whoever holds one may move *itself* there: the kernel
checks the permission against the one who opened the file (Linux 5.16, and stable kernels since CVE-2021-4197), so this
works after every privilege is gone, in any user namespace, and needs no mounted cgroup file system.
"""

from __future__ import annotations

import errno
import os
import signal
import time

JOIN_FDS_MAX = 3
"""Most descriptors of groups for one process: cgroup v1 has one hierarchy for memory, pids and cpu each."""
REMOVE_S = 1.0
"""How long a killed group may take to become empty."""
PAUSE_S = 0.001
KILL_PASSES_MAX = 50
"""Most passes over a group that does not become empty; zombies do not count as processes."""
TREE_DEPTH_MAX = 8
"""How deep `remove_tree` looks below a group."""


def join(fds: list[int]) -> None:
    """Move this process, which must have one thread, into the groups that ``fds`` are of, and close them.

    Why at the very start: what is born later is born inside, and a page belongs to the group that touched it first.
    On v1 the descriptors are of ``tasks`` files and ``0`` means the calling thread. That takes no lock that waits for
    an RCU grace period, which ``cgroup.procs`` and any pid but one's own do: 35 us instead of 6 to 15 ms when nothing
    was moved for a while.

    Raises:
      OSError: not allowed, or a group is gone.
    """
    for fd in fds:
        os.write(fd, b"0")
        os.close(fd)


def write(path: str, value: int | float | str, *, optional: bool = False) -> None:
    """Write one value. ``optional``: the file may be missing, as it is in kernels built without the feature.

    Raises:
      OSError
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        if optional:
            return
        raise
    try:
        os.write(fd, str(value).encode())
    finally:
        os.close(fd)


def pids_in(directory: str) -> list[int]:
    """The processes of a group; none when it is gone."""
    try:
        return [int(line) for line in _read(f"{directory}/cgroup.procs").split()]
    except OSError:
        return []


def _read(path: str) -> bytes:
    parts = []
    with open(path, "rb", buffering=0) as file:
        while part := file.read(65536):
            parts.append(part)
    return b"".join(parts)


def kill_all(directories: list[str]) -> None:
    """SIGKILL each process of the groups, and what was born meanwhile. Never raises.

    The pidfd is opened before membership is looked at again: a number that was given to a stranger is not hit.
    """
    for directory in directories:
        for _ in range(KILL_PASSES_MAX):
            fds: dict[int, int] = {}
            for pid in pids_in(directory):
                try:
                    fds[pid] = os.pidfd_open(pid)
                except OSError:
                    pass
            members = set(pids_in(directory)) if fds else set()
            for pid, fd in fds.items():
                try:
                    if pid in members:
                        signal.pidfd_send_signal(fd, signal.SIGKILL)
                except OSError:
                    pass
                finally:
                    os.close(fd)
            if not fds:
                break


def remove_tree(directory: str, *, depth: int = TREE_DEPTH_MAX) -> bool:
    """Kill everything in a group and in those below it, and remove them; whether all is gone within `REMOVE_S`."""
    if depth:
        try:
            below = [entry.path for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]
        except OSError:
            below = []
        for path in below:
            remove_tree(path, depth=depth - 1)
    until_s = time.monotonic() + REMOVE_S
    while True:
        kill_all([directory])
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            return True
        except OSError as exc:
            if exc.errno != errno.EBUSY or time.monotonic() > until_s:
                return False
            time.sleep(PAUSE_S)
        else:
            return True
