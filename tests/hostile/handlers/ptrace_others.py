"""ptrace, process_vm_readv, pidfd_getfd, /proc/*/mem of others. Must happen: refused for all, and for itself too."""

import ctypes
import os

from kit import ARM, Report, in_child, syscall

PTRACE, VM_READ, VM_WRITE = (117, 270, 271) if ARM else (101, 310, 311)
PIDFD_OPEN, PIDFD_GETFD, KCMP = 434, 438, 272 if ARM else 312
SEIZE, ATTACH, TRACEME = 0x4206, 16, 0
FIRM = ("EPERM", "ENOSYS", "EACCES")


def handler(ctx, data=None):
    report = Report(data)
    buffer = ctypes.create_string_buffer(64)

    class IoVec(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

    local = IoVec(ctypes.addressof(buffer), 8)
    remote = IoVec(id(report), 8)
    targets = [pid for pid in {*report.told["pids"], os.getppid()} if pid and pid != os.getpid()]
    for pid in targets:
        report.refused("ptrace", lambda p=pid: detach(p, syscall(PTRACE, SEIZE, p, 0, 0)))
        report.refused("vm-read", lambda p=pid: syscall(VM_READ, p, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0))
        report.refused(
            "vm-write",
            lambda p=pid: syscall(VM_WRITE, p, ctypes.byref(local), 0, ctypes.byref(remote), 0, 0),
            *FIRM,
            "ESRCH",
        )
        report.refused("proc-mem", lambda p=pid: os.close(os.open(f"/proc/{p}/mem", os.O_RDWR)))
        report.refused("kcmp", lambda p=pid: syscall(KCMP, p, p, 0, 0, 0), *FIRM, "ESRCH")
        try:
            pidfd = syscall(PIDFD_OPEN, pid, 0)
        except OSError:
            continue
        for number in range(3, 12):
            report.refused("pidfd-getfd", lambda f=pidfd, n=number: syscall(PIDFD_GETFD, f, n, 0), *FIRM, "EBADF")
        os.close(pidfd)
    # The call itself is off, whoever it is for.
    report.refused("ptrace-allowed", lambda: syscall(PTRACE, SEIZE, 2**22 - 1, 0, 0), "EPERM", "ENOSYS")
    kind, value = in_child(lambda: syscall(PTRACE, TRACEME, 0, 0, 0))
    report.check(kind != "value", "ptrace-allowed", f"PTRACE_TRACEME in a child: {kind} {value}")
    report.facts["targets"] = len(targets)
    return report.reply()


def detach(pid, result):
    syscall(PTRACE, 17, pid, 0, 0)
    return result
