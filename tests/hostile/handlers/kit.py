"""What hostile functions share. It travels in their bundles, so: standard library only.

A function answers ``{"violations": [...], "facts": {...}}``. Each violation begins with a name that the tests know. What
the tests tell a function (pids, ports, paths to try) comes as JSON in the request's body: `Report.told`.
"""

import ctypes
import errno
import json
import os
import platform
import select
import time

MIB = 2**20
ARM = platform.machine() == "aarch64"
libc = ctypes.CDLL(None, use_errno=True)


class Report:
    """Collects what should not have been possible."""

    def __init__(self, data=None):
        text = data.getvalue() if data is not None else b""
        self.told = json.loads(text or b"{}")
        self.violations = []
        self.facts = {}

    def violation(self, name, detail=""):
        self.violations.append(f"{name}: {detail}"[:300])

    def check(self, good, name, detail=""):
        if not good:
            self.violation(name, detail)

    def refused(self, name, attempt, *allowed):
        """The attempt must fail: with one of the errors named, or any `OSError`. What it gave if it did not fail."""
        try:
            result = attempt()
        except OSError as exc:
            got = errno.errorcode.get(exc.errno, str(exc.errno))
            if allowed and got not in allowed:
                self.violation(name, f"failed with {got} and not with {' or '.join(allowed)}")
            return None
        self.violation(name, f"succeeded: {result!r}")
        return result

    def reply(self):
        return json.dumps({"violations": self.violations, "facts": self.facts})


def syscall(number, *arguments):
    """A raw system call; errors as `OSError`."""
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def in_child(work, *, limit_s=5.0):
    """Do something in a forked child; ``("value", JSON value)``, ``("error", text)``, ``("signal", n)`` or ``("late", 0)``."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            try:
                said = {"value": work()}
            except BaseException as exc:
                said = {"error": f"{type(exc).__name__}: {exc}"}
            os.write(write, json.dumps(said).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    late = not select.select([read], [], [], limit_s)[0]
    said = b"" if late else os.read(read, 65536)
    os.close(read)
    if late:
        os.kill(pid, 9)
    _, status = os.waitpid(pid, 0)
    if late:
        return "late", 0
    if os.WIFSIGNALED(status):
        return "signal", os.WTERMSIG(status)
    return next(iter(json.loads(said or b'{"error": "nothing"}').items()))


def until(condition, limit_s=5.0):
    """Whether the condition came true in time."""
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        if condition():
            return True
        time.sleep(0.005)
    return False


def status_of(pid="self"):
    """The fields of ``/proc/<pid>/status``; empty where there is no /proc."""
    try:
        with open(f"/proc/{pid}/status") as file:
            return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    except OSError:
        return {}
