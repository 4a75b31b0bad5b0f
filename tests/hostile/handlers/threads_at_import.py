"""A thread holds a lock from import on. Must happen: the call succeeds, because no instance is forked from there."""

import threading
import time

from kit import Report

lock = threading.Lock()
beats = 0


def beat():
    global beats
    while True:
        with lock:
            time.sleep(0.005)
            beats += 1
        time.sleep(0.001)


threading.Thread(target=beat, daemon=True).start()
threading.Event().wait(0.02)


def handler(ctx, data=None):
    report = Report(data)
    report.check(lock.acquire(timeout=5), "lock-never-released", "a copy of a thread's lock")
    lock.release()
    before = beats
    time.sleep(0.05)
    report.check(beats > before, "thread-gone", f"{beats} beats")
    return report.reply()
