"""Looks for the daemon's secrets in its environment and its own heap. Must happen: none is found."""

import os

from kit import MIB, Report


def handler(ctx, data=None):
    report = Report(data)
    # Assembled late and kept in one buffer that the search leaves out, or it would find itself.
    backwards = bytes(report.told["canary"], "ascii")
    report.check(
        not any(backwards[::-1] == v for v in map(os.fsencode, os.environ.values())), "canary-found", "os.environ"
    )
    try:
        with open("/proc/self/environ", "rb") as file:
            started_with = file.read(65536)
        report.check(backwards[::-1] not in started_with, "canary-found", "/proc/self/environ")
        report.facts["started_with"] = len(started_with)
    except OSError as exc:
        report.facts["environ"] = str(exc)
    hits, size = search_heap(backwards)
    report.facts.update(searched_mib=size // MIB)
    report.check(hits == 0, "canary-found", f"{hits} times in the heap")
    return report.reply()


def search_heap(backwards):
    hits, size = 0, 0
    head, tail = backwards[::-1][:8], backwards[::-1][8:]
    try:
        with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", buffering=0) as memory:
            for line in maps:
                fields = line.split()
                start, end = (int(part, 16) for part in fields[0].split("-"))
                if "w" not in fields[1] or end - start > 256 * MIB:
                    continue
                try:
                    memory.seek(start)
                    content = memory.read(end - start)
                except (OSError, OverflowError):
                    continue
                size += len(content)
                at = content.find(head)
                while at >= 0:
                    hits += content[at + 8 : at + 8 + len(tail)] == tail
                    at = content.find(head, at + 1)
                del content
    except OSError:
        return 0, 0
    return hits, size
