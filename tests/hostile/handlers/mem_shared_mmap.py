"""Fills a shared mapping, which RLIMIT_DATA does not see. Must happen: as for mem_bytes."""

import mmap
import time

from kit import MIB, Report


def handler(ctx, data=None):
    report = Report(data)
    limit_mib = report.told["limit_mib"]
    memory = mmap.mmap(-1, 512 * MIB)
    for step in range(512):
        memory[step * MIB : (step + 1) * MIB] = b"x" * MIB
    time.sleep(1.0)  # a poller must have seen it by now
    report.violation("memory-over-limit", f"512 MiB of {limit_mib} in a shared mapping")
    memory.close()
    return report.reply()
