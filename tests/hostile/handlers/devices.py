"""Makes and opens devices, types into terminals. Must happen: refused."""

import fcntl
import os
import stat
import termios

from kit import Report

HARMLESS = {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9)}  # null zero full random urandom


def handler(ctx, data=None):
    report = Report(data)
    top = os.environ.get("TMPDIR", "/tmp")
    for number, device in enumerate([(1, 1), (254, 0), (5, 0), (1, 11), (10, 232), (10, 229)]):
        path = f"{top}/device-{number}"
        report.refused("mknod", lambda p=path, d=device: os.mknod(p, stat.S_IFBLK | 0o600, os.makedev(*d)))
        report.refused("mknod", lambda p=path, d=device: os.mknod(p + "c", stat.S_IFCHR | 0o600, os.makedev(*d)))
    for path in ("/dev/mem", "/dev/kmsg", "/dev/vda", "/dev/sda", "/dev/kvm", "/dev/fuse", "/dev/net/tun", "/dev/tty",
                 "/dev/console", "/dev/ptmx", "/dev/loop-control", "/dev/vhost-net", "/dev/userfaultfd", "/dev/uinput",
                 "/dev/btrfs-control", "/dev/mapper/control", "/dev/port", "/dev/hpet", "/dev/rtc0"):  # fmt: skip
        report.refused("opened-device", lambda p=path: os.close(os.open(p, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY)))
        report.refused("opened-device", lambda p=path: os.close(os.open(p, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)))
    for directory, _, names in os.walk("/dev"):
        for name in names:
            if name.startswith(("watchdog", "st", "nst")):
                continue  # opening one does something, should it be let through
            path = os.path.join(directory, name)
            try:
                status = os.stat(path)
                if not (stat.S_ISBLK(status.st_mode) or stat.S_ISCHR(status.st_mode)):
                    continue
                if (os.major(status.st_rdev), os.minor(status.st_rdev)) in HARMLESS:
                    continue
                os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY))
            except OSError:
                continue
            report.violation("opened-device", path)
    for fd in range(5):
        report.refused("tiocsti", lambda f=fd: fcntl.ioctl(f, termios.TIOCSTI, b"x"))
        report.refused("tioclinux", lambda f=fd: fcntl.ioctl(f, 0x541C, b"\x03"))
    with open("/dev/null", "wb") as null, open("/dev/urandom", "rb", buffering=0) as random:
        null.write(random.read(10))  # these must work
    return report.reply()
