"""Makes files in /tmp without end. Must happen: ENOSPC at 8 for each MB, and the host's inodes are what they were."""

import errno
import os

from kit import Report


def handler(ctx, data=None):
    report = Report(data)
    made, refusal = 0, ""
    directory = os.environ.get("TMPDIR", "/tmp")
    try:
        while made < 4000:
            os.close(os.open(f"{directory}/inode-{made}", os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
            made += 1
    except OSError as exc:
        refusal = errno.errorcode[exc.errno]
    report.facts.update(made=made, refusal=refusal)
    report.check(refusal == "ENOSPC", "inodes-without-limit", f"{made} files, then {refusal or 'no refusal'}")
    report.check(made <= report.told["tmp_inodes"], "inodes-over-limit", f"{made} of {report.told['tmp_inodes']}")
    return report.reply()
