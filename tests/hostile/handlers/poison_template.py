"""One instance changes everything that it can; the next one looks. Must happen: the next one is clean.

``told["do"]`` is ``poison``, ``look`` or ``exit``.
"""

import builtins
import json
import os
import resource
import sys
import tempfile

from kit import Report

state = {"poisoned": False}


def handler(ctx, data=None):
    report = Report(data)
    top = os.environ.get("TMPDIR", "/tmp")
    if report.told["do"] == "exit":
        os._exit(0)
    if report.told["do"] == "poison":
        poison(report, top)
        return report.reply()
    report.check(not state["poisoned"], "poisoned", "a module's variable")
    report.check(not hasattr(builtins, "poisoned"), "poisoned", "builtins")
    report.check("POISON" not in os.environ, "poisoned", "the environment")
    report.check(json.dumps is not sys.exit, "poisoned", "a module of the standard library")
    report.check("poison" not in os.listdir(top), "poisoned", "/tmp")
    report.check("poison" not in os.listdir(tempfile.gettempdir()), "poisoned", "the temporary directory")
    report.check(os.umask(0o022) == report.told["umask"], "poisoned", "the umask")
    report.check(os.getpriority(os.PRIO_PROCESS, 0) == 0, "poisoned", "the priority")
    report.check(len(os.sched_getaffinity(0)) == report.told["cpus"], "poisoned", "the affinity")
    report.check(resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 50, "poisoned", "a limit")
    report.check(os.getcwd() == os.path.dirname(os.path.abspath(__file__)), "poisoned", os.getcwd())
    return report.reply()


def poison(report, top):
    state["poisoned"] = builtins.poisoned = True
    os.environ["POISON"] = "1"
    with open(f"{top}/poison", "w") as file:
        file.write("x")
    os.umask(0)
    os.chdir("/")
    for pid in {0, os.getppid(), *report.told["pids"]}:
        for attempt in (
            lambda p=pid: resource.prlimit(p, resource.RLIMIT_NOFILE, (30, 30)),
            lambda p=pid: os.sched_setaffinity(p, {min(os.sched_getaffinity(0))}),
            lambda p=pid: os.setpriority(os.PRIO_PROCESS, p, 19),
        ):
            if pid == 0 or report.told["armed"]:
                try:
                    attempt()
                except (OSError, ValueError):
                    continue
    json.dumps_before = json.dumps
    for name in list(sys.modules):
        if name.startswith("email"):
            del sys.modules[name]
