"""Reads about other processes in /proc. Must happen: it sees only itself and its children."""

import os

from kit import Report

SECRETS = ("environ", "maps", "mem", "stack", "cmdline", "auxv", "fdinfo/0", "task", "mountinfo", "smaps_rollup")


def handler(ctx, data=None):
    report = Report(data)
    canary = report.told["canary"].encode()[::-1]
    try:
        seen = {int(name) for name in os.listdir("/proc") if name.isdigit()}
    except OSError as exc:
        seen = set()
        report.facts["proc"] = str(exc)
    mine = {os.getpid()}
    others = seen - mine
    report.facts["others"] = sorted(others)
    report.check(not others, "saw-others", f"{len(others)} processes: {sorted(others)[:5]}")
    for pid in {*report.told["pids"], *others, os.getppid()} - mine - {0}:
        for name in SECRETS:
            path = f"/proc/{pid}/{name}"
            try:
                content = b" ".join(map(os.fsencode, os.listdir(path))) if name == "task" else read(path)
            except OSError:
                continue
            if name in ("environ", "maps", "mem", "stack", "auxv"):
                report.violation("read-others", f"{path}: {content[:40]!r}")
            elif pid in report.told["pids"]:
                report.violation("saw-others", path)
            report.check(canary not in content, "canary-found", path)
    return report.reply()


def read(path):
    with open(path, "rb", buffering=0) as file:
        return file.read(65536)
