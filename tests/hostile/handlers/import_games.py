"""Mischief in the module's body, chosen by the configuration: exit, spin, stop, kill the parent, daemonise.

Must happen: an init error in time, and nothing is left.
"""

import os
import signal
import sys
import time

from kit import Report

GAME = os.environ.get("GAME", "")


def stop():
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(60)  # the first process of a namespace cannot stop itself


def spin():
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        try:
            signal.signal(number, signal.SIG_IGN)
        except OSError:
            pass
    while True:
        pass


def kill_parent():
    try:
        if os.getppid() > 1:
            os.kill(os.getppid(), signal.SIGKILL)
    except OSError:
        pass
    os._exit(3)


def daemonise():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
    os.wait()
    os._exit(0)


def steal_control():
    os.write(3, b"\0\0\0\4oops")
    time.sleep(60)


def pretend_ready():
    os.dup2(3, 100)
    os.dup2(os.open("/dev/null", os.O_RDWR), 3)
    time.sleep(60)


def fork_and_return():
    """Both return from the import: two processes at the control socket."""
    if os.fork() == 0:
        os.setsid()


def replace_streams():
    os.closerange(0, 3)
    sys.stdout = sys.stderr = None
    raise ValueError("no streams")


GAMES = {
    "exit": lambda: sys.exit(0),
    "os._exit": lambda: os._exit(0),
    "spin": spin,
    "stop": stop,
    "kill parent": kill_parent,
    "daemonise": daemonise,
    "steal control": steal_control,
    "pretend ready": pretend_ready,
    "fork and return": fork_and_return,
    "replace streams": replace_streams,
    "exec": lambda: os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"]),
    "recursion": lambda: (lambda f: f(f))(lambda f: f(f)),
}

if GAME:
    GAMES[GAME]()


def handler(ctx, data=None):
    report = Report(data)
    report.facts["games"] = list(GAMES)
    return report.reply()
