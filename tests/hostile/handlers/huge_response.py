"""Answers with up to 256 MiB, past the FDK as well. Must happen: bounded; an error; the daemon's memory is flat."""

import os

from kit import MIB, Report


def handler(ctx, data=None):
    report = Report(data)
    size = report.told.get("mib", 0)
    if report.told.get("raw"):  # a frame with a length that lies
        os.write(4, (size * MIB).to_bytes(4, "big"))
        try:
            for _ in range(size):
                os.write(4, b"x" * MIB)
        except OSError:
            pass
        return report.reply()
    return "x" * (size * MIB) if size else report.reply()
