"""Sets traps for whoever removes /tmp. Must happen: no file outside is touched, and the removal does not hang."""

import os
import socket

from kit import Report


def handler(ctx, data=None):
    report = Report(data)
    top = os.environ.get("TMPDIR", "/tmp")
    for number, victim in enumerate([*report.told["victims"], "/", "/proc/1/root", "..", "../.."]):
        os.symlink(victim, f"{top}/link-{number}")
    os.mkfifo(f"{top}/fifo")
    try:
        here = socket.socket(socket.AF_UNIX)
        here.bind(f"{top}/socket")
    except OSError as exc:
        report.facts["socket"] = str(exc)
    os.mkdir(f"{top}/locked")
    with open(f"{top}/locked/inside", "w") as file:
        file.write("x")
    os.chmod(f"{top}/locked", 0)
    at = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    try:  # deeper than PATH_MAX, and than the descriptors that a recursive removal would need
        for _ in range(400):
            os.mkdir("d" * 20, dir_fd=at)
            deeper = os.open("d" * 20, os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = deeper
    except OSError as exc:
        report.facts["depth"] = str(exc)
    for name in ("new\nline", "\x01", "é" * 40, "-rf", " "):
        open(f"{top}/{name}", "w").close()
    if os.fork() == 0:  # swaps a directory for a link as fast as it can, until it is killed
        os.setsid()
        os.mkdir(f"{top}/swap")
        while True:
            try:
                os.rename(f"{top}/swap", f"{top}/away")
                os.symlink(report.told["victims"][0], f"{top}/swap")
                os.unlink(f"{top}/swap")
                os.rename(f"{top}/away", f"{top}/swap")
            except OSError:
                pass
    return report.reply()
