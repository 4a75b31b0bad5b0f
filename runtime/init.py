"""Pid 1 of a function version's namespace: reaps what loses its parent, and ends when the template does.

Its end is the end of every process in the namespace: the kernel sees to that.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import NoReturn

from runtime import confine, control, linux


def run(template_pid: int) -> NoReturn:
    """Wait for the template, tell the daemon how it ended, and end."""
    linux.set_name("stoker-init")
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in (confine.STDOUT, confine.STDERR, confine.JOB):
        os.dup2(null, fd)  # the template's output and job are its own
    sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = None  # type: ignore[misc]
    code = os.waitstatus_to_exitcode(wait_for(template_pid))  # negative: the signal that killed it
    ended = {"type": "ended", "code": code if code >= 0 else -1, "signal": -code if code < 0 else -1}
    try:
        with socket.socket(fileno=confine.CONTROL) as sock:
            sock.setblocking(False)
            control.send(sock, ended)
    except OSError:
        pass  # the daemon is gone, or so busy that it learns the rest from the end of the socket
    os._exit(max(code, 0))


def wait_for(child: int) -> int:
    """Reap whatever ends until that is ``child``; its wait status."""
    while True:
        try:
            pid, status = os.waitpid(-1, 0)
        except InterruptedError:
            continue
        except ChildProcessError:
            return 0
        if pid == child:
            return status
