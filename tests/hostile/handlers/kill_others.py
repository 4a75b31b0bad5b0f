"""Signals its parent, the daemon, siblings, everybody. Only signal 0 is sent unless the tests say that it is armed,
which they do when the namespace is confirmed. Must happen: nobody else can be reached."""

import ctypes
import os
import signal

from kit import ARM, Report, syscall

PIDFD_SEND, TGKILL, TKILL, QUEUE = (424, 131, 130, 138) if ARM else (424, 234, 200, 129)
FIRM = ("EPERM", "ESRCH", "ENOSYS", "EINVAL", "EACCES")


def handler(ctx, data=None):
    report = Report(data)
    number = signal.SIGKILL if report.told["armed"] else 0
    info = ctypes.create_string_buffer(128)
    me = os.getpid()
    for pid in {*report.told["pids"], os.getppid()} - {me, 0}:
        report.refused("kill", lambda p=pid: os.kill(p, number), *FIRM)
        report.refused("kill", lambda p=pid: os.killpg(p, number), *FIRM)
        report.refused("tgkill", lambda p=pid: syscall(TGKILL, p, p, number), *FIRM)
        report.refused("tkill", lambda p=pid: syscall(TKILL, p, number), *FIRM)
        report.refused("sigqueue", lambda p=pid: syscall(QUEUE, p, number, info), *FIRM)
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            continue
        report.refused("pidfd-kill", lambda f=fd: signal.pidfd_send_signal(f, number), *FIRM)
        os.close(fd)
    if report.told["armed"]:  # in a namespace of its own -1 is all in it but pid 1 and the caller
        report.refused("kill-all", lambda: os.kill(-1, signal.SIGKILL), "ESRCH", "EPERM")
    # (-1 with signal 0 says nothing: Linux reports success when every single one was refused.)
    # A signal of the kernel's for somebody else: the owner of a descriptor's SIGIO.
    import fcntl

    read, write = os.pipe()
    for pid in report.told["pids"]:
        try:
            fcntl.fcntl(read, fcntl.F_SETOWN, pid)
        except OSError:
            continue
        got = fcntl.fcntl(read, fcntl.F_GETOWN)
        if got == pid:
            report.facts["setown"] = "the owner can be named; the kernel checks when it sends"
    os.close(read)
    os.close(write)
    return report.reply()
