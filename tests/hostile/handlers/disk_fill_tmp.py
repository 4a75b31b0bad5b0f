"""Fills /tmp. Must happen: ENOSPC at the limit (a quarter of the memory), and the host's disk has what it had."""

import errno
import os

from kit import MIB, Report


def handler(ctx, data=None):
    report = Report(data)
    written, refusal, number = 0, "", 0
    directory = os.environ.get("TMPDIR", "/tmp")
    try:
        while written < 256:
            number += 1
            with open(f"{directory}/fill-{number}", "wb", buffering=0) as file:
                for _ in range(16):
                    written += file.write(b"x" * MIB) / MIB
    except OSError as exc:
        refusal = errno.errorcode[exc.errno]
    limit = report.told["tmp_mib"]
    report.facts.update(written_mib=written, refusal=refusal)
    report.check(refusal == "ENOSPC", "tmp-without-limit", f"{written:.0f} MiB, then {refusal or 'no refusal'}")
    report.check(written <= limit + 1, "tmp-over-limit", f"{written:.0f} MiB of {limit}")
    return report.reply()
