"""System V and POSIX IPC, which outlives processes. Must happen: refused, or private and gone with the instance."""

import ctypes
import os

from kit import ARM, Report, in_child, syscall

SHMGET, SEMGET, MSGGET, MQ_OPEN = (194, 190, 186, 180) if ARM else (29, 64, 68, 240)
IPC_CREAT = 0o1000


def handler(ctx, data=None):
    report = Report(data)
    key = report.told["key"]
    for name, call in {
        "shm": lambda: syscall(SHMGET, key, 4096, IPC_CREAT | 0o666),
        "sem": lambda: syscall(SEMGET, key, 1, IPC_CREAT | 0o666),
        "msg": lambda: syscall(MSGGET, key, IPC_CREAT | 0o666),
        "mq": lambda: syscall(MQ_OPEN, ctypes.c_char_p(b"stoker-hostile"), os.O_CREAT | os.O_RDWR, 0o666, 0),
    }.items():
        kind, value = in_child(lambda c=call: attempt(c))
        report.facts[name] = f"{kind} {value}"
        # Made is made; the tests look from outside, and from another function, whether it can be seen there.
    return report.reply()


def attempt(call):
    import errno

    try:
        call()
    except OSError as exc:
        return errno.errorcode[exc.errno]
    return "made"
