"""Looks for privileges: ids, capabilities, no_new_privs, setuid files. Must happen: none, and none to be had."""

import os
import stat

from kit import Report, libc, status_of


def handler(ctx, data=None):
    report = Report(data)
    status = status_of()
    report.facts["ids"] = [os.getuid(), os.getgid()]
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        report.check(int(status.get(name, "0"), 16) == 0, "capabilities", f"{name} {status.get(name)}")
    bounding = [number for number in range(41) if libc.prctl(23, number, 0, 0, 0) == 1]  # PR_CAPBSET_READ
    # A new user namespace fills the set again; no_new_privs, checked next, keeps programs from getting any of it.
    report.facts["bounding_set"] = len(bounding)
    report.check(libc.prctl(39, 0, 0, 0, 0) == 1, "new-privileges", "no_new_privs is not set")
    report.check(libc.prctl(3, 0, 0, 0, 0) in (0, 1), "dumpable", "")
    if report.told["uid"]:
        report.check(os.getuid() == report.told["uid"], "uid", f"{os.getuid()}, not {report.told['uid']}")
        report.check(os.getresuid() == (os.getuid(),) * 3, "uid", f"{os.getresuid()}")
        report.check(not set(os.getgroups()) - {os.getgid()}, "groups", f"{os.getgroups()}")
    for other in (0, 1, 1001, 65534, 100000):
        if other != os.getuid():
            report.refused("setuid", lambda u=other: os.setresuid(u, u, u) or u, "EPERM", "EINVAL")
            report.refused("setgid", lambda u=other: os.setresgid(u, u, u) or u, "EPERM", "EINVAL")
    report.refused("setgroups", lambda: os.setgroups([0]), "EPERM")
    for option, name in ((8, "keepcaps"),):  # PR_SET_KEEPCAPS may be set, it keeps nothing
        libc.prctl(option, 1, 0, 0, 0)
    report.check(libc.prctl(38, 0, 0, 0, 0) != 0, "new-privileges", "no_new_privs can be unset")
    top = os.environ.get("TMPDIR", "/tmp")
    copy = f"{top}/setuid"
    with open(copy, "wb") as file:
        file.write(b"#!/bin/sh\nid -u\n")
    try:
        os.chmod(copy, 0o6755)
        report.facts["setuid_bit"] = stat.filemode(os.stat(copy).st_mode)
        report.check(os.stat(copy).st_uid == os.getuid(), "owner", "")
    except OSError as exc:
        report.facts["setuid_bit"] = str(exc)
    report.refused(
        "chown", lambda: os.chown(copy, 0, 0) if os.getuid() else os.chown(copy, 12345, 12345), "EPERM", "EINVAL"
    )
    for path in ("/usr/bin/su", "/usr/bin/passwd", "/usr/bin/mount", "/bin/su"):
        try:
            pid = os.posix_spawn(path, [path, "--version"], {}, file_actions=[(os.POSIX_SPAWN_CLOSE, 1)])
            os.waitpid(pid, 0)
            report.facts[path] = "runs, without its privileges"
        except OSError as exc:
            report.facts[path] = str(exc)
    return report.reply()
