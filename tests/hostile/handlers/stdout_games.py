"""Writes frames, control characters and other calls' ids to stdout and stderr. Must happen: it is log, and no more."""

import os
import sys

from kit import Report


def handler(ctx, data=None):
    report = Report(data)
    for fd in (1, 2):
        os.write(fd, b"\0\0\0\4oops" + b"\xff\xfe\x00\r\x1b[2J\x1b]0;title\x07\n" + b"\n" * 100)
        os.write(fd, b'{"level":"error","event":"forged","call_id":"' + report.told.get("call", "x").encode() + b'"}\n')
        os.write(fd, b"HTTP/1.1 200 OK\r\n\r\n\xe2\x80\xa8" + b"no newline at the end" * 2000)
    print("a frame:", "\x00\x00\x00\x10", "\u202e", file=sys.stderr)
    sys.stdout.write("\ud800".encode("utf-8", "surrogatepass").decode("latin-1"))
    os.dup2(1, 2)
    sys.stdout.flush()
    return report.reply()
