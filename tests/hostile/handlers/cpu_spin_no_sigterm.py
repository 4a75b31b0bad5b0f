"""Ignores every signal and spins, with children that do the same. Must happen: 504 at the timeout, all killed."""

import os
import signal


def handler(ctx, data=None):
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        try:
            signal.signal(number, signal.SIG_IGN)
        except OSError:
            pass  # those that glibc keeps for itself
    if os.fork() == 0:
        os.setsid()
    while True:
        pass
