"""Tries to get out of its root: ``..``, descriptors, /proc links, chroot, file handles. Must happen: stays inside."""

import ctypes
import os

from kit import ARM, Report, in_child, libc, syscall


def handler(ctx, data=None):
    report = Report(data)
    told = report.told
    for path in told["secret_files"]:
        for trick in ("/../../../../.." + path, os.getcwd() + "/../../../../../../../.." + path,
                      "/proc/self/root" + path, "/proc/1/root" + path, "/proc/thread-self/root/.." + path,
                      "/proc/self/cwd/../../../../../.." + path, "//" + path, "/./" + path):  # fmt: skip
            report.refused("escaped-root", lambda p=trick: open(p, "rb").read(100))
    for pid in [*told["pids"], os.getppid()]:
        if pid:
            report.refused("escaped-root", lambda p=pid: os.listdir(f"/proc/{p}/root/"))
            if not same(f"/proc/{pid}/cwd/", os.getcwd()):  # its template's is its own
                report.refused("escaped-root", lambda p=pid: os.listdir(f"/proc/{p}/cwd/"))
            report.refused("escaped-root", lambda p=pid: os.listdir(f"/proc/{p}/fd"))
    kind, value = in_child(lambda: os.chroot(os.environ.get("TMPDIR", "/tmp")))
    report.check(kind != "value", "chroot", f"{kind} {value}")
    for fd in list_fds():
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if target.startswith("/") and os.path.isdir(target) and target != f"/proc/{os.getpid()}/fd":
            report.violation("open-directory", f"{fd} is {target}")
    buffer = ctypes.create_string_buffer(8 + 128)
    ctypes.c_uint.from_buffer(buffer).value = 128
    mount_id = ctypes.c_int()
    libc.name_to_handle_at(-100, b"/", buffer, ctypes.byref(mount_id), 0)
    number = 265 if ARM else 304
    here = os.open("/", os.O_RDONLY | os.O_DIRECTORY) if readable("/") else os.open(os.getcwd(), os.O_RDONLY)
    report.refused("open-by-handle", lambda: syscall(number, here, buffer, os.O_RDONLY), "EPERM", "ENOSYS")
    os.close(here)
    report.refused("pivot-root", lambda: syscall(41 if ARM else 155, b"/tmp", b"/tmp"), "EPERM", "ENOSYS")
    return report.reply()


def same(path, other):
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


def readable(path):
    try:
        os.listdir(path)
        return True
    except OSError:
        return False


def list_fds():
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return [fd for fd in range(256) if os.path.exists(f"/dev/fd/{fd}")]
