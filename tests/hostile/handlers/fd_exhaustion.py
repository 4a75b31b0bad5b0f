"""Opens descriptors without end, and keeps some in flight in sockets. Must happen: EMFILE at the limit; bounded."""

import array
import errno
import os
import socket

from kit import Report


def handler(ctx, data=None):
    report = Report(data)
    opened, refusal = [], ""
    try:
        while len(opened) < 4096:
            opened.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as exc:
        refusal = errno.errorcode[exc.errno]
    report.facts.update(opened=len(opened), refusal=refusal)
    report.check(refusal in ("EMFILE", "ENFILE"), "no-descriptor-limit", f"{len(opened)} opened, {refusal}")
    for fd in opened:
        os.close(fd)
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    left.setblocking(False)
    in_flight = 0
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(100)]
    try:
        while in_flight < 20_000:
            left.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
            in_flight += len(fds)
    except OSError as exc:
        report.facts["in_flight_refusal"] = errno.errorcode[exc.errno]
    report.facts["in_flight"] = in_flight
    report.check(in_flight < 20_000, "in-flight-without-limit", f"{in_flight}")
    for fd in fds:
        os.close(fd)
    left.close()
    right.close()
    return report.reply()
