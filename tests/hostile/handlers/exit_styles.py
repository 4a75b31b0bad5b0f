"""Thirteen ways to end. Must happen: a function error each time, and the next call is fine."""

import ctypes
import os
import resource
import signal
import sys
import threading
import time

from kit import Report


def kill_by(number):
    os.kill(os.getpid(), number)
    time.sleep(0.3)  # as pid 1 of its namespace it may be immune to its own signals
    os._exit(number)


def exhaust_stack():
    threading.stack_size(0)
    sys.setrecursionlimit(10**9)

    def deeper(n):
        return deeper(n + 1) + 1

    deeper(0)
    os._exit(1)


def cpu_limit():
    resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
    while True:
        pass


STYLES = {
    "sys.exit": lambda: sys.exit(3),
    "os._exit 0": lambda: os._exit(0),
    "os._exit 9": lambda: os._exit(9),
    "abort": os.abort,
    "SIGKILL": lambda: kill_by(signal.SIGKILL),
    "SIGTERM": lambda: kill_by(signal.SIGTERM),
    "SIGSEGV by a bad pointer": lambda: ctypes.string_at(0),
    "exec": lambda: os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", "raise SystemExit(5)"]),
    "exec of nothing left": lambda: os.execve("/bin/true", ["true"], {}),
    "KeyboardInterrupt": lambda: (_ for _ in ()).throw(KeyboardInterrupt),
    "closed pipes": lambda: (os.closerange(3, 256), os._exit(0)),
    "stack overflow": exhaust_stack,
    "RLIMIT_CPU": cpu_limit,
}


def handler(ctx, data=None):
    report = Report(data)
    if style := report.told.get("style"):
        STYLES[style]()
        report.violation("still-alive", style)
    report.facts["styles"] = list(STYLES)
    return report.reply()
