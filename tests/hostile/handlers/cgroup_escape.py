"""Raises its own limits, moves to another cgroup, writes release_agent. Must happen: nothing there is writable."""

import glob
import os
import re

from kit import Report


def handler(ctx, data=None):
    report = Report(data)
    try:
        with open("/proc/self/cgroup") as file:
            report.facts["cgroup"] = file.read().splitlines()
            for line in report.facts["cgroup"]:
                path = line.split(":", 2)[2]
                if report.told["own_cgroup_root"]:  # where it is in the tree stays hidden; its own number may show
                    report.check(re.fullmatch(r"/|/\.\./i\d+", path), "cgroup-path", path)
    except OSError as exc:
        report.facts["cgroup"] = str(exc)
    for top in ("/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified",
                *report.told["cgroups"]):  # fmt: skip
        for name in ("cgroup.procs", "tasks", "memory.limit_in_bytes", "memory.max", "pids.max", "cpu.max",
                     "release_agent", "notify_on_release", "cgroup.subtree_control", "cgroup.kill"):  # fmt: skip
            for path in glob.glob(f"{top}/{name}") + glob.glob(f"{top}/*/{name}")[:3]:
                report.refused("cgroup-writable", lambda p=path: os.close(os.open(p, os.O_WRONLY)))
        report.refused("cgroup-mkdir", lambda t=top: make_and_remove(f"{t}/stoker-hostile"))
    return report.reply()


def make_and_remove(path):
    os.mkdir(path)
    os.rmdir(path)
