"""Forks up to 300 times. Must happen: EAGAIN at the limit, others can fork, nothing is left."""

import errno
import os
import signal
import time

from kit import Report


def handler(ctx, data=None):
    report = Report(data)
    pids, refusal = [], ""
    for _ in range(300):
        try:
            pid = os.fork()
        except OSError as exc:
            refusal = errno.errorcode[exc.errno]
            break
        if pid == 0:
            time.sleep(60)
            os._exit(0)
        pids.append(pid)
    report.facts.update(forks=len(pids), refusal=refusal)
    if not report.told.get("leave"):
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)
    report.check(refusal == "EAGAIN", "no-process-limit", f"{len(pids)} forks, {refusal or 'no refusal'}")
    return report.reply()
