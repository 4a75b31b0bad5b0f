"""An instance that is a program of its own: any language, by the Fn contract (HTTP/1.1 on a unix socket).

Before the program is started its socket's directory is made, inside what the instance alone can write, and the daemon
gets a descriptor of it; from then on this process has no connection to the daemon but its output.
"""

from __future__ import annotations

import array
import os
import signal
import socket
import sys
from typing import NoReturn

from runtime import confine, init, linux
from runtime.job import Job

DIRECTORY = b"directory"
"""The message with the descriptor of the socket's directory."""
NOT_FOUND = 127
"""Exit code when the program cannot be started, as a shell's."""
ADDRESS_BYTES_MAX = 107
"""Longest path of a unix socket (sockaddr_un.sun_path)."""
PHONY = "phonylsnr.sock"
"""The longest name that an official FDK binds in the directory of its listener."""
SIGNALLED = 128
"""Added to the number of the signal that ended a program beneath our init, as shells do."""


def main(job: Job, own_pids: bool) -> NoReturn:
    """Become the program of ``job``. `confine.enter_template` was done. ``own_pids``: this is a namespace's first.

    Then a child becomes it, and this process stays to reap what loses its parent: few programs do that by themselves,
    and the first process of a namespace ignores signals that end any other.
    """
    linux.set_name("stoker-init")
    os.close(confine.CALLS)
    os.close(confine.JOB)
    sock = socket.socket(fileno=confine.ANSWERS)
    sock.set_inheritable(False)  # its end tells the daemon that the program was started
    try:
        _prepare(job, sock)
        confine.seal(job, job.tmp)
        if own_pids:
            linux.hide_memory()  # our init's; the program's is its own again when it is executed
        child = os.fork() if own_pids else 0
        if child == 0:
            if own_pids:
                os.setsid()
                confine.stand_apart(job)
            _execute(job)
    except OSError as exc:
        _say(sock, f"cannot start {job.command[0]}: {exc.strerror or exc}")
        os._exit(NOT_FOUND)
    sock.close()
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in (confine.STDOUT, confine.STDERR):
        os.dup2(null, fd)  # the output is the program's own: its end is seen when the program ends
    sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = None  # type: ignore[misc]
    code = os.waitstatus_to_exitcode(init.wait_for(child))
    os._exit(code if code >= 0 else SIGNALLED - code)


def _prepare(job: Job, sock: socket.socket) -> None:
    if len(os.fsencode(os.path.join(job.socket_directory, PHONY))) > ADDRESS_BYTES_MAX:
        raise OSError(f"the path of its socket would be longer than {ADDRESS_BYTES_MAX} bytes: {job.socket_directory}")
    os.mkdir(job.socket_directory, 0o755)
    fd = os.open(job.socket_directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        sock.sendmsg([DIRECTORY], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
    finally:
        os.close(fd)


def _execute(job: Job) -> None:
    """Only returns by raising OSError."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores them, and what is ignored stays so
    os.execvpe(job.command[0], job.command, {**job.environment, "TMPDIR": job.tmp})


def _say(sock: socket.socket, text: str) -> None:
    try:
        sock.send(text.encode("utf-8", "replace")[:2000], socket.MSG_NOSIGNAL)
    except OSError:
        pass  # the daemon gave the start up
