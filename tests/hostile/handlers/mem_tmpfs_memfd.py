"""Puts pages into a memfd, /tmp and /dev/shm. Must happen: they count or are bounded, and are freed with the instance."""

import os
import time

from kit import MIB, Report


def handler(ctx, data=None):
    report = Report(data)
    limit_mib = report.told["limit_mib"]
    places = {}
    fds = []
    shm = "/dev/shm/" + report.told["shm_name"]

    def fill(name, fd):
        fds.append(fd)
        places[name] = 0
        try:
            while sum(places.values()) < 512 and places[name] < 400:
                places[name] += os.write(fd, b"x" * MIB) / MIB
        except OSError as exc:
            report.facts[name] = f"{places[name]:.0f} MiB, then {exc.strerror}"

    fill("tmp", os.open(os.environ.get("TMPDIR", "/tmp") + "/fill", os.O_CREAT | os.O_RDWR, 0o600))
    try:
        fill("shm", os.open(shm, os.O_CREAT | os.O_RDWR | os.O_EXCL, 0o600))
    except OSError as exc:
        report.facts["shm"] = str(exc)
    else:
        os.unlink(shm)
    places["memfd"] = 0
    for number in range(20):  # each may have a limit of its own
        try:
            fill(f"memfd {number}", os.memfd_create("fill"))
        except OSError as exc:
            report.facts["memfd"] = str(exc)
            break
    places["memfd"] = sum(size for name, size in places.items() if name.startswith("memfd "))
    time.sleep(1.0)
    pages = places.get("memfd", 0) + places.get("shm", 0) + (places["tmp"] if report.told["tmp_is_memory"] else 0)
    report.check(pages <= limit_mib + 64, "memory-over-limit", f"{places} MiB of {limit_mib}")
    for fd in fds:
        os.close(fd)
    os.unlink(os.environ.get("TMPDIR", "/tmp") + "/fill")
    return report.reply()
