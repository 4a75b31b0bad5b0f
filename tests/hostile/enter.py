"""Starts a program, the daemon, in a place of its own: namespaces for processes and mounts, another user.

    python -I enter.py OPTIONS_JSON COMMAND...

The place makes two things possible. The tests can say exactly which processes are left: all in it are beneath this one.
And a function that breaks out of its sandbox reaches, at worst, what is in the place, not the machine's processes.

What comes on standard output: what the command says there, then ``ended CODE`` when it has ended. The place stays until
standard input is closed; then everything in it is killed. Needs root; without, the place is only that orphans of the
command become children of this process.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import stat
import sys
import tempfile
from typing import Any, NoReturn

NEWNS, NEWPID, NEWUSER = 0x20000, 0x20000000, 0x10000000
MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE = 4096, 8192, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36
FIRST_PID = 20_000
"""Pids in the place begin here: a small number of a function's own must not be mistaken for the daemon's."""

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    check(
        libc.mount(source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), data.encode()),
        f"mount {target}",
    )


def expose(paths: list[str]) -> None:
    """Make directories reachable that lie beneath one that others may not enter (an interpreter in /root, say)."""
    stashes, closed = [], []
    for path in paths:
        above = [path[: at or 1] for at in range(len(path)) if path[at] == "/"]
        shut = [directory for directory in above if not os.stat(directory).st_mode & stat.S_IXOTH]
        if shut:
            stash = tempfile.mkdtemp(prefix="stoker-stash-")
            mount(path, stash, flags=MS_BIND | MS_REC)
            stashes.append((stash, path))
            closed.append(shut[0])
    for directory in sorted(set(closed)):
        mount("tmpfs", directory, "tmpfs", data="mode=755,size=1m")
    for stash, path in stashes:
        os.makedirs(path, exist_ok=True)
        mount(stash, path, flags=MS_MOVE)
        os.rmdir(stash)


def only_cgroup2() -> None:
    """Hide what version 1 there is: /sys/fs/cgroup is version 2, as on a machine that has only that."""
    with open("/proc/self/mountinfo") as file:
        found = [line.split()[4] for line in file if " - cgroup2 " in line]
    if not found:
        mount("cgroup2", "/sys/fs/cgroup", "cgroup2")
    elif found[-1] != "/sys/fs/cgroup":
        stash = tempfile.mkdtemp(prefix="stoker-stash-")
        mount(found[-1], stash, flags=MS_BIND)
        check(libc.umount2(b"/sys/fs/cgroup", MNT_DETACH), "umount /sys/fs/cgroup")
        mount(stash, "/sys/fs/cgroup", flags=MS_MOVE)
        os.rmdir(stash)


def without_user_namespaces() -> None:
    """In a user namespace of one's own none can be made beneath it: the machine's setting is not touched."""
    uid, gid = os.getuid(), os.getgid()
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # after a change of user the own maps could not be written
    check(libc.unshare(NEWUSER), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    with open("/proc/sys/user/max_user_namespaces", "w") as file:
        file.write("0")


def become(options: dict[str, Any], command: list[str]) -> NoReturn:
    """In the daemon's process: its user, its limits, its program."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if (uid := options.get("uid")) is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if options.get("no_userns"):
        without_user_namespaces()
    os.chdir(options["directory"])
    os.execv(command[0], command)


def serve(options: dict[str, Any], command: list[str]) -> NoReturn:
    """Run the command, reap whatever comes, say how the command ended, and stay until standard input is closed."""
    wake_r, wake_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake_w)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    inside = os.fork()
    if inside == 0:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        become(options, command)
    while True:
        ready, _, _ = select.select([0, wake_r], [], [])
        if wake_r in ready:
            os.read(wake_r, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == inside:
                os.write(1, f"ended {os.waitstatus_to_exitcode(status)}\n".encode())
        if 0 in ready and not os.read(0, 4096):
            os._exit(0)


def main() -> NoReturn:
    options, command = json.loads(sys.argv[1]), sys.argv[2:]
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if os.getuid() != 0:
        serve(options, command)
    check(libc.unshare(NEWNS | NEWPID), "unshare")
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    if options.get("uid") is not None:
        expose(options["expose"])
    if options.get("cgroup2"):
        only_cgroup2()
    init = os.fork()
    if init == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        mount("proc", "/proc", "proc")
        with open("/proc/sys/kernel/ns_last_pid", "w") as file:
            file.write(str(FIRST_PID))
        serve(options, command)
    os.close(0)
    os.close(1)
    os.waitpid(init, 0)
    os._exit(0)


if __name__ == "__main__":
    main()
