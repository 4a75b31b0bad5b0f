"""A child keeps all pipes while the worker exits. Must happen: the caller has its error within a second or so."""

import os
import signal
import time


def handler(ctx, data=None):
    if os.fork() == 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        os.setsid()
        time.sleep(600)
    os._exit(7)
