"""Writes 64 MiB of log, in one line and in many. Must happen: bounded, and nobody else waits for it."""

import os
import time

from kit import MIB, Report


def handler(ctx, data=None):
    report = Report(data)
    end_s = time.monotonic() + 4.0
    written = 0
    for chunk in (b"x" * 65536, b"y\n" * 32768):
        for _ in range(512):
            if time.monotonic() > end_s:
                break
            written += os.write(1, chunk)
    report.facts["written_mib"] = written // MIB
    return report.reply()
