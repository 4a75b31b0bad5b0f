"""A thread, or a child, writes an answer after the real one, for whichever call is next. Must happen: no later call
gets it; the instance is killed."""

import os
import threading
import time

from kit import Report

forged = False


def handler(ctx, data=None):
    global forged
    report = Report(data)
    late = b"\0\0\0\4late"
    if report.told.get("by") == "thread":
        threading.Timer(0.05, os.write, (4, late)).start()
    elif report.told.get("by") == "child":
        if os.fork() == 0:
            os.setsid()
            for _ in range(40):
                time.sleep(0.02)
                os.write(4, late)
            os._exit(0)
    else:
        report.check(not forged, "instance-reused", "a call after a forgery")
    forged = forged or "by" in report.told
    return report.reply()
