"""Every child forks on. Exponential: it starts only after the limit was proven by a flat bomb in the same call.

Must happen: EAGAIN at the limit, others can fork, nothing is left.
"""

import os
import time

from kit import Report

DEPTH_MAX = 8  # 2**8 processes at most, should the proof have been wrong


def proven_limit():
    pids, stopped = [], False
    try:
        while len(pids) < 290:
            pid = os.fork()
            if pid == 0:
                time.sleep(30)
                os._exit(0)
            pids.append(pid)
    except OSError:
        stopped = True
    for pid in pids:
        os.kill(pid, 9)
    for pid in pids:
        os.waitpid(pid, 0)
    return len(pids) if stopped else 0


def grow(depth, gate):
    for _ in range(2):
        if depth >= DEPTH_MAX:
            return
        try:
            pid = os.fork()
        except OSError:
            os.write(gate, b"r")
            return
        if pid == 0:
            os.setsid()
            os.write(gate, b"f")
            grow(depth + 1, gate)
            time.sleep(30)
            os._exit(0)


def handler(ctx, data=None):
    report = Report(data)
    limit = proven_limit()
    if not limit:
        report.violation("no-process-limit", "the tree was not grown")
        return report.reply()
    read, write = os.pipe()
    os.set_blocking(read, False)
    grow(0, write)
    told, end_s = b"", time.monotonic() + 2.0
    while time.monotonic() < end_s and told.count(b"r") == 0:
        try:
            told += os.read(read, 65536)
        except BlockingIOError:
            time.sleep(0.01)
    report.facts.update(limit=limit, born=told.count(b"f"), refused=told.count(b"r"))
    report.check(told.count(b"f") <= limit + 2, "no-process-limit", f"{told.count(b'f')} in the tree, {limit} flat")
    return report.reply()  # all that was born is left to the runtime
