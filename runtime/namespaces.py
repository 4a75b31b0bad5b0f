"""Making a process in new namespaces, and giving it its ids.

One system call makes the child and its namespaces: the older way, unshare and fork once more, costs a Python process a
millisecond. Because the C library does not know of such a child, its after-fork handlers do not run in it: only a
process of one thread may do this, where they have nothing to repair.
"""

from __future__ import annotations

import ctypes
import os
import signal

from runtime.seccomp import CLONE_NEWCGROUP

_PR_GET_TID_ADDRESS = 40
_CLONE_CHILD_CLEARTID, _CLONE_CHILD_SETTID = 0x0020_0000, 0x0100_0000
_CLONE = {"x86_64": 56, "aarch64": 220}
"""Not clone3: its flags lie in memory, where a system-call filter cannot look at them."""
UID = 1000
"""User and group that a function sees itself as. Fn's and OCI's."""
TEMPLATE_PID = 30_000
"""Pid of a template in its namespace. Instances are 1 in theirs, and no descendant of one gets to be this: OpenSSL
renews its random state after a fork only when the pid differs from the one that drew last."""

# PyDLL keeps the interpreter's lock held: nothing may run between the clone and what follows it.
_libc = ctypes.PyDLL(None, use_errno=True)
_python = ctypes.pythonapi


def _tid_address() -> int:
    """Where the C library keeps the id of this thread, which it trusts: the kernel must write a child's own there."""
    address = ctypes.c_void_p()
    if _libc.prctl(_PR_GET_TID_ADDRESS, ctypes.byref(address), 0, 0, 0) != 0 or not address.value:
        return 0
    return address.value


def available() -> bool:
    """Whether `clone` works here: the architecture is known, and the kernel tells where the thread's id is kept."""
    return os.uname().machine in _CLONE and _tid_address() != 0


def clone(namespaces: int) -> int:
    """Like `os.fork`, with the child in new namespaces: its pid, or 0 in the child. For a process of one thread.

    Raises:
      OSError: the kernel refuses.
    """
    flags = namespaces | signal.SIGCHLD | _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID
    machine, address = os.uname().machine, _tid_address()
    # The order of the last two arguments differs between architectures; the one that is not the address is not used.
    last = (address, 0) if machine == "x86_64" else (0, address)
    arguments = [ctypes.c_ulong(value) for value in (flags, 0, 0, *last)]
    number = ctypes.c_long(_CLONE[machine])
    _python.PyOS_BeforeFork()
    pid: int = _libc.syscall(number, *arguments)
    if pid == 0:
        _python.PyOS_AfterFork_Child()
        return 0
    error = ctypes.get_errno()
    _python.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(error, f"clone: {os.strerror(error)}")
    return pid


def map_ids(pid: int, host_id: int) -> None:
    """From outside: user and group 1000 of the child ``pid`` are ``host_id`` on the host.

    A negative one: the caller's own, the only one that a process without privileges may give. Else the caller is root,
    and its own is mapped as well: whoever sets the child's root file system up must be able to reach the bundle.

    Raises:
      OSError: the kernel refuses.
    """
    if host_id < 0:
        _write(f"/proc/{pid}/setgroups", "deny")
        _write(f"/proc/{pid}/uid_map", f"{UID} {os.geteuid()} 1\n")
        _write(f"/proc/{pid}/gid_map", f"{UID} {os.getegid()} 1\n")
    else:
        _write(f"/proc/{pid}/uid_map", f"0 0 1\n{UID} {host_id} 1\n")
        _write(f"/proc/{pid}/gid_map", f"0 0 1\n{UID} {host_id} 1\n")


def keep_ids() -> None:
    """In a child in a new user namespace, whose parent was user and group 1000: go on as these.

    Raises:
      OSError: the kernel refuses. The process must be dumpable.
    """
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", _KEPT)
    _write("/proc/self/gid_map", _KEPT)


_KEPT = f"{UID} {UID} 1\n"


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def jump_pids(fd: int) -> None:
    """Have the next child of this namespace be `TEMPLATE_PID`. ``fd``: an open /proc/sys/kernel/ns_last_pid."""
    os.pwrite(fd, str(TEMPLATE_PID - 1).encode(), 0)


def own_cgroup_view() -> None:
    """See the present cgroups as the root: names of the host's stay out of sight. After having joined them."""
    if _libc.unshare(CLONE_NEWCGROUP) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"unshare(CLONE_NEWCGROUP): {os.strerror(error)}")


def open_counts(allowed: dict[str, int]) -> list[tuple[int, int]]:
    """For `limit_counts`: descriptors of how many namespaces of a kind there may be beneath this user namespace.

    While the machine's /proc is still there; fewer where that lets us not say it.
    """
    found = []
    for kind, count in allowed.items():
        try:
            fd = os.open(f"/proc/sys/user/max_{kind}_namespaces", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            continue  # the filter refuses them as well; /proc/sys may be read-only here
        found.append((fd, count))
    return found


def limit_counts(counts: list[tuple[int, int]]) -> None:
    """Set what `open_counts` was given, and close the descriptors. Namespaces that are there stay, whatever it is."""
    for fd, count in counts:
        try:
            os.write(fd, str(count).encode())
        except OSError:
            pass
        os.close(fd)


def set_host_name(name: str) -> None:
    """In a UTS namespace of its own.

    Raises:
      OSError: not allowed (a service manager's filter may forbid it).
    """
    raw = name.encode()
    if _libc.sethostname(raw, ctypes.c_size_t(len(raw))) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"sethostname: {os.strerror(error)}")
