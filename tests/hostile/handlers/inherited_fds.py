"""Lists its descriptors. Must happen: 0, 1, 2 and the two pipes."""

import fcntl
import os
import stat

from kit import Report


def handler(ctx, data=None):
    report = Report(data)
    kinds = {}
    for fd in range(1024):
        try:
            mode = os.fstat(fd).st_mode
        except OSError:
            continue
        kinds[fd] = "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else stat.filemode(mode)[0]
        if fd > 4:
            try:
                name = os.readlink(f"/proc/self/fd/{fd}")
            except OSError:
                name = kinds[fd]
            report.violation("inherited", f"{fd} is {name}")
    report.facts["kinds"] = kinds
    report.check(kinds.get(0) == "c" and os.fstat(0).st_rdev == os.makedev(1, 3), "stdin", f"{kinds.get(0)}")
    for fd in (1, 2, 3, 4):
        report.check(kinds.get(fd) == "pipe", "not-a-pipe", f"{fd} is {kinds.get(fd)}")
    for fd, wanted in ((1, os.O_WRONLY), (2, os.O_WRONLY), (3, os.O_RDONLY), (4, os.O_WRONLY)):
        mode = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
        report.check(mode == wanted, "pipe-direction", f"{fd} is open in mode {mode}")
        # A pipe can be opened again in the other direction through /proc.
        if wanted == os.O_WRONLY:
            report.facts[f"reopen_{fd}"] = reopen(fd)
    return report.reply()


def reopen(fd):
    try:
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK)
    except OSError as exc:
        return str(exc)
    os.close(again)
    return "own pipe opened for reading"
