"""unshare, clone, clone3, setns, mount and the new mount calls. Must happen: EPERM or ENOSYS.

Should one be let through, nothing of the machine has changed: what is set is what was there.
"""

import ctypes
import os
import struct

from kit import ARM, Report, in_child, libc, syscall

FLAGS = {"user": 0x10000000, "mnt": 0x20000, "pid": 0x20000000, "net": 0x40000000, "ipc": 0x8000000,
         "uts": 0x4000000, "cgroup": 0x2000000, "time": 0x80}  # fmt: skip
CLONE3, CLONE = 435, 220 if ARM else 56
FIRM = ("EPERM", "ENOSYS", "EACCES")


def handler(ctx, data=None):
    report = Report(data)
    for name, flag in FLAGS.items():
        expect_refusal(report, f"unshare-{name}", lambda f=flag: unshare(f))
        # In a child: with CLONE_NEWPID and the like the new process would be here.
        expect_refusal(report, f"clone3-{name}", lambda f=flag: clone3(f))
        if name != "time":  # its bit is the signal's in clone
            expect_refusal(report, f"clone-{name}", lambda f=flag: clone(f))
    for kind in ("mnt", "net", "pid", "user", "ipc", "uts"):
        for path in (f"/proc/1/ns/{kind}", f"/proc/self/ns/{kind}"):
            try:
                fd = os.open(path, os.O_RDONLY)
            except OSError:
                continue
            expect_refusal(report, "setns", lambda f=fd: syscall(268 if ARM else 308, f, 0))
            os.close(fd)
    top = os.environ.get("TMPDIR", "/tmp").encode()
    expect_refusal(report, "mount", lambda: mount(b"none", top, b"tmpfs", 0))
    expect_refusal(report, "mount", lambda: mount(b"none", top, b"proc", 0))
    expect_refusal(report, "bind-mount", lambda: mount(b"/", top, None, 4096))
    expect_refusal(report, "remount", lambda: mount(b"none", b"/", None, 32 | 4096))
    expect_refusal(report, "remount", lambda: mount(b"none", os.getcwdb(), None, 32 | 4096))
    expect_refusal(report, "umount", lambda: umount(top))
    expect_refusal(report, "umount", lambda: umount(b"/proc", 4))  # MNT_EXPIRE: nothing happens the first time
    expect_refusal(report, "fsopen", lambda: syscall(430, b"tmpfs", 0))
    expect_refusal(report, "open_tree", lambda: syscall(428, -100, b"/", 1))
    expect_refusal(report, "mount_setattr", lambda: syscall(442, -100, b"/", 0, struct.pack("<4Q", 0, 0, 0, 0), 32))
    expect_refusal(report, "move_mount", lambda: syscall(429, -100, b"/tmp", -100, b"/", 0))
    expect_refusal(
        report,
        "sethostname",
        lambda: syscall(161 if ARM else 170, os.uname().nodename.encode(), len(os.uname().nodename)),
    )
    return report.reply()


def expect_refusal(report, name, attempt):
    kind, value = in_child(lambda: refusal(attempt))
    if kind == "signal" and value == 31:
        return  # SIGSYS: the filter kills
    if kind != "value" or value not in FIRM:
        report.violation(name, f"{kind} {value}")


def refusal(attempt):
    import errno

    try:
        attempt()
    except OSError as exc:
        return errno.errorcode[exc.errno]
    return "succeeded"


def unshare(flags):
    if libc.unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def mount(source, target, kind, flags):
    if libc.mount(source, target, kind, ctypes.c_ulong(flags), None) != 0:
        raise OSError(ctypes.get_errno(), "mount")


def umount(target, flags=2):
    if libc.umount2(target, flags) != 0:
        raise OSError(ctypes.get_errno(), "umount")


def clone3(flags):
    arguments = struct.pack("<11Q", flags, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0)
    pid = syscall(CLONE3, ctypes.c_char_p(arguments), len(arguments))
    if pid == 0:
        os._exit(0)


def clone(flags):
    pid = syscall(CLONE, flags | 17, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
