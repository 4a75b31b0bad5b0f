"""Starts threads up to 600. Must happen: they count as processes do; EAGAIN at the limit."""

import threading

from kit import Report


def handler(ctx, data=None):
    report = Report(data)
    gate = threading.Event()
    threads = []
    threading.stack_size(64 * 1024)
    stopped = ""
    for _ in range(600):
        thread = threading.Thread(target=gate.wait, daemon=True)
        try:
            thread.start()
        except RuntimeError as exc:  # "can't start new thread"
            stopped = str(exc)
            break
        threads.append(thread)
    gate.set()
    for thread in threads:
        thread.join()
    report.facts.update(threads=len(threads), stopped=stopped)
    report.check(stopped, "no-process-limit", f"{len(threads)} threads")
    return report.reply()
