"""A thread that goes on burning after the answer. Must happen: it is frozen or accounted, and touches no later call."""

import threading
import time

from kit import Report

burnt = 0


def burn(seconds):
    global burnt
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        burnt += 1


def handler(ctx, data=None):
    report = Report(data)
    before = burnt
    if report.told.get("burn_s"):
        threading.Thread(target=burn, args=(report.told["burn_s"],), daemon=True).start()
    report.facts["burnt"] = before
    return report.reply()
