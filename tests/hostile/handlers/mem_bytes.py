"""Allocates past the limit in steps. Must happen: an out-of-memory error, at most 10 % (64 MiB when polled) above it."""

from kit import MIB, Report

held = []


def handler(ctx, data=None):
    report = Report(data)
    limit_mib = report.told["limit_mib"]
    try:
        while len(held) < 512:
            held.append(b"x" * MIB)
    except MemoryError:
        report.facts["memory_error_at_mib"] = len(held)
    report.check(len(held) <= limit_mib + 64, "memory-over-limit", f"{len(held)} MiB of {limit_mib}")
    held.clear()
    return report.reply()
