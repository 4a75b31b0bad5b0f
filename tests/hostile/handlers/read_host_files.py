"""Reads the daemon's database, keys, other bundles, shadow. Must happen: ENOENT or EACCES; the canary is not found."""

import os

from kit import Report


def handler(ctx, data=None):
    report = Report(data)
    canary = report.told["canary"].encode()[::-1]  # sent backwards: the request itself must not be found
    for path in report.told["secret_files"]:
        got = report.refused("read-secret", lambda p=path: read(p), "ENOENT", "EACCES", "EPERM", "ENOTDIR")
        report.check(got is None or canary not in got, "canary-found", path)
    for path in report.told["secret_directories"]:
        report.refused("listed-secret", lambda p=path: os.listdir(p), "ENOENT", "EACCES", "EPERM", "ENOTDIR")
    for path in ("/etc/shadow", "/etc/gshadow", "/root/.ssh", "/root/.bashrc", "/var/log/dpkg.log", "/etc/machine-id",
                 "/etc/ssh", "/proc/kcore", "/dev/mem", "/dev/vda", "/etc/fstab"):  # fmt: skip
        if os.path.lexists(path):
            report.refused("read-secret", lambda p=path: os.listdir(p) if os.path.isdir(p) else read(p))
    found = search("/", canary, report)
    report.check(not found, "canary-found", ", ".join(found[:3]))
    return report.reply()


def read(path):
    with open(path, "rb") as file:
        return file.read(65536)


def search(top, canary, report):
    """Small files anywhere that hold the canary; bounded."""
    found, looked = [], 0
    skip = {"/proc", "/sys", "/usr/lib", "/usr/share", "/usr/src", os.path.dirname(os.path.dirname(os.__file__))}
    for directory, names, files in os.walk(top):
        names[:] = [
            n for n in names if os.path.join(directory, n) not in skip and n not in ("node_modules", "site-packages")
        ]
        for name in files:
            path = os.path.join(directory, name)
            looked += 1
            if looked > 3000:
                report.facts["looked_at"] = looked
                return found
            try:
                if os.path.isfile(path) and os.path.getsize(path) < 65536 and canary in read(path):
                    found.append(path)
            except OSError:
                pass
    report.facts["looked_at"] = looked
    return found
