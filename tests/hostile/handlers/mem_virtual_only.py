"""Benign: 2 GiB of reserved address space, 16 threads, and numpy where the bundle has it. Must succeed."""

import mmap
import threading

from kit import Report

try:
    import numpy
except ModuleNotFoundError:
    numpy = None


def handler(ctx, data=None):
    report = Report(data)
    reserved = mmap.mmap(-1, 2 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
    gate = threading.Event()
    threads = [threading.Thread(target=gate.wait) for _ in range(16)]
    for thread in threads:
        thread.start()
    report.facts["threads"] = threading.active_count()
    gate.set()
    for thread in threads:
        thread.join()
    reserved.close()
    if numpy is not None:
        report.facts["sum"] = float((numpy.ones((400, 400)) @ numpy.ones((400, 400))).sum())
    return report.reply()
