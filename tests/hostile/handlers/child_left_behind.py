"""Leaves a grandchild behind: double fork, setsid, signals ignored. Must happen: nothing is left on the host."""

import os
import signal
import time

from kit import Report


def handler(ctx, data=None):
    report = Report(data)
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        for _ in range(3):
            if os.fork() == 0:
                signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
                os.setsid()
                os.chdir("/")
                os.closerange(3, 200) if not report.told.get("keep") else None
                try:
                    os.write(write, b"1")
                except OSError:
                    pass
                time.sleep(600)
        os._exit(0)
    os.wait()
    os.close(write)
    os.close(read)
    if report.told.get("then_exit"):
        os._exit(0)
    return report.reply()
