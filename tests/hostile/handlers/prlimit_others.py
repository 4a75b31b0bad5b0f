"""Changes limits, affinity and priority of others, raises its own. Must happen: refused."""

import os
import resource

from kit import Report

FIRM = ("EPERM", "ESRCH", "EACCES", "ENOSYS")


def handler(ctx, data=None):
    report = Report(data)
    for pid in {*report.told["pids"], os.getppid()} - {os.getpid(), 0}:
        report.refused("read-limits", lambda p=pid: resource.prlimit(p, resource.RLIMIT_NOFILE), *FIRM)
        # To their present values: should it work, nothing has changed.
        report.refused("affinity", lambda p=pid: os.sched_setaffinity(p, os.sched_getaffinity(p)), *FIRM)
        report.refused(
            "priority", lambda p=pid: os.setpriority(os.PRIO_PROCESS, p, os.getpriority(os.PRIO_PROCESS, p)), *FIRM
        )
        report.refused("scheduler", lambda p=pid: os.sched_setscheduler(p, os.SCHED_OTHER, os.sched_param(0)), *FIRM)
    for name in ("NOFILE", "FSIZE", "CORE", "MEMLOCK", "MSGQUEUE", "DATA", "NPROC", "SIGPENDING"):
        number = getattr(resource, f"RLIMIT_{name}", None) if name != "SIGPENDING" else 11
        soft, hard = resource.getrlimit(number)
        report.facts[name] = hard
        if hard == resource.RLIM_INFINITY:
            if name in ("NOFILE", "FSIZE", "CORE", "MEMLOCK", "MSGQUEUE"):
                report.violation("no-limit", name)
            continue
        report.refused("raised-own", lambda n=number, h=hard: resource.setrlimit(n, (h + 1, h + 1)) or "raised") if (
            not forbidden(number, hard)
        ) else None
    report.refused("nice", lambda: os.setpriority(os.PRIO_PROCESS, 0, -10), "EPERM", "EACCES")
    report.refused("realtime", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)), "EPERM")
    return report.reply()


def forbidden(number, hard):
    """Python says ValueError where the kernel says EPERM."""
    try:
        resource.setrlimit(number, (hard + 1, hard + 1))
    except (ValueError, OSError):
        return True
    return False
