"""A shared mapping and an open file at import, armed by the configuration: every instance forked from there would share
them. Must happen: not across functions, and not between instances either: such a module is not forked from."""

import mmap
import os
import tempfile

from kit import Report

shared = mmap.mmap(-1, 4096)
shared[:8] = bytes(8)
file = tempfile.TemporaryFile()
calls = 0
"""Of this process."""


def handler(ctx, data=None):
    global calls
    report = Report(data)
    before = int.from_bytes(shared[:8], "little")
    shared[:8] = (before + 1).to_bytes(8, "little")
    report.facts.update(pid=os.getpid(), before=before, own=calls)
    calls += 1
    file.seek(0, 2)
    at_end = file.tell()
    file.write(b"x")
    file.flush()
    report.check(at_end == before, "shared-file", f"{at_end} bytes by others, {before} by this instance")
    import time

    time.sleep(report.told.get("sleep_s", 0))
    return report.reply()
