"""The few system calls that Python lacks, and what /proc says about a tree of processes.

Everything here works on x86-64 and aarch64: libc functions, and system calls newer than the common numbering.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal

_libc = ctypes.CDLL(None, use_errno=True)

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_NAME = 15

KILL_PASSES_MAX = 64
"""Most passes over a tree in `kill_descendants`. A pass costs about 20 us per process; two are the rule."""
TREE_PROCESSES_MAX = 20_000
"""Most processes looked at in one pass: a guard against a tree that grows faster than it is read."""


OOM_SCORE_ADJ = 500
"""POLICY: what runs functions counts as half of the machine's memory larger than it is: a function dies before the
daemon, and before what else the machine is for."""


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def die_with_parent(death_signal: int, parent_pid: int) -> None:
    """Have the kernel send ``death_signal`` to this process when its parent *thread* ends.

    ``parent_pid`` is who the parent should be: when it ended before the call, the signal would never come, so this
    process ends at once.
    """
    _prctl(_PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent_pid:
        os._exit(1)


def set_subreaper() -> None:
    """Make orphans among this process's descendants its own children, instead of init's."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def yield_memory() -> None:
    """Have the kernel end this process, or what it starts, before others when the machine runs out of memory (proc(5):
    oom_score_adj is inherited). Nothing where that cannot be said."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(OOM_SCORE_ADJ))


def is_subreaper() -> bool:
    """Whether orphaned descendants become children of this process."""
    value = ctypes.c_int(0)
    return _libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(value), 0, 0, 0) == 0 and value.value == 1


def set_no_new_privs() -> None:
    """Give up, for ever and for all children, what setuid files and file capabilities would add."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def hide_memory() -> None:
    """Nobody of the same user may look into this process or trace it, until it executes a program."""
    _prctl(_PR_SET_DUMPABLE, 0)


def set_name(name: str) -> None:
    """Name the process in ``ps`` and ``top`` (15 bytes are kept)."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    _libc.prctl(_PR_SET_NAME, buffer, 0, 0, 0)


def close_from(first_fd: int) -> None:
    """Close every descriptor from ``first_fd`` up."""
    if hasattr(_libc, "close_range") and _libc.close_range(ctypes.c_uint(first_fd), ctypes.c_uint(2**32 - 1), 0) == 0:
        return
    for name in os.listdir("/proc/self/fd"):  # a kernel before 5.9 or an old libc
        if int(name) >= first_fd:
            try:
                os.close(int(name))
            except OSError:
                pass  # the descriptor of the listing itself


def read_proc(path: str, size: int = 65536) -> bytes:
    """The content of a small /proc file, or nothing when the process is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, size)
    except OSError:
        return b""
    finally:
        os.close(fd)


def children(pid: int) -> list[int]:
    """The children of all threads of ``pid``, zombies included; empty when it is gone."""
    task = f"/proc/{pid}/task"
    try:
        # The directory has one link per thread and two of its own: one thread is the rule and spares the listing.
        threads = [str(pid)] if os.stat(task).st_nlink == 3 else os.listdir(task)
    except OSError:
        return []
    found: list[int] = []
    for thread in threads:
        found += map(int, read_proc(f"{task}/{thread}/children", 2**20).split())
    return found


def state_and_parent(pid: int) -> tuple[str, int]:
    """The state letter of ``pid`` (``R``, ``S``, ``T``, ``Z`` ...) and its parent; ``("", 0)`` when it is gone."""
    stat = read_proc(f"/proc/{pid}/stat", 1024)
    fields = stat[stat.rfind(b")") + 2 :].split(None, 2)  # the name before may hold spaces and brackets
    return (fields[0].decode(), int(fields[1])) if len(fields) == 3 else ("", 0)


def session_of(pid: int) -> int:
    """The session of ``pid``, or 0 when it is gone."""
    try:
        return os.getsid(pid)
    except OSError:
        return 0


def kill_descendants(root: int, *, spare: frozenset[int] = frozenset()) -> int:
    """SIGKILL everything beneath ``root``, but the processes in ``spare`` and what is beneath them.

    Each pass stops what it meets before it looks at its children, so that nothing is born or handed on behind its back,
    and kills it at the end. A fork that was under way when its process was stopped may still complete; but a process
    that was sent SIGKILL can no longer fork: the kernel checks for it at the end of every fork. So it is enough to
    reach a pass in which every living process had been seen before. A process that dies during a pass may have handed
    unseen children to its reaper, hence the comparison of what is *alive* in two passes. ``root`` should be stopped or
    the caller itself, and a subreaper: then nothing leaves the tree.

    Returns the number of processes killed. Never raises; a bound on the passes keeps it finite.
    """
    killed: set[int] = set()
    alive_before: set[int] | None = None
    for _ in range(KILL_PASSES_MAX):
        tree, alive, stopped = {root}, set[int](), list[int]()
        waiting = [pid for pid in children(root) if pid not in spare]
        while waiting and len(tree) < TREE_PROCESSES_MAX:
            pid = waiting.pop()
            if pid in tree:
                continue
            if pid in killed:
                if state_and_parent(pid)[0] not in ("", "Z", "X"):
                    alive.add(pid)
            elif _signal(pid, signal.SIGSTOP, tree):
                alive.add(pid)
                stopped.append(pid)
            tree.add(pid)
            waiting += children(pid)
        for pid in reversed(stopped):  # children before their parents, whose death would make orphans of them
            _signal(pid, signal.SIGKILL, tree)
        killed |= alive
        if alive == alive_before or not alive:
            break
        alive_before = alive
    return len(killed)


def stop_descendants(root: int) -> list[int]:
    """SIGSTOP everything beneath ``root``, which is stopped itself; the pids, parents first. Never raises.

    A fork that was under way may still complete, so passes are made until one meets nothing new.
    """
    stopped: list[int] = []
    for _ in range(KILL_PASSES_MAX):
        tree, found = {root}, len(stopped)
        waiting = children(root)
        while waiting and len(tree) < TREE_PROCESSES_MAX:
            pid = waiting.pop()
            if pid not in tree:
                if pid not in stopped and _signal(pid, signal.SIGSTOP, tree):
                    stopped.append(pid)
                tree.add(pid)
                waiting += children(pid)
        if len(stopped) == found:
            break
    return stopped


def continue_all(root: int, pids: list[int]) -> None:
    """SIGCONT what `stop_descendants` of ``root`` has stopped, children before their parents. Never raises."""
    tree = {root, *pids}
    for pid in reversed(pids):
        _signal(pid, signal.SIGCONT, tree)


def _signal(pid: int, number: int, tree: set[int]) -> bool:
    """Signal ``pid`` if its parent is in ``tree`` and it is alive; whether that was so.

    The pidfd is opened before the parent is looked up: a number that was given to a stranger in between is not hit.
    """
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        state, parent = state_and_parent(pid)
        if parent not in tree or state in ("Z", "X"):
            return False
        signal.pidfd_send_signal(fd, number)
        return True
    except OSError:
        return False
    finally:
        os.close(fd)


def reap(pids: list[int]) -> None:
    """Collect those of our children in ``pids`` that have ended; never waits."""
    for pid in pids:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass
