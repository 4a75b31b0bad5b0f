"""The loop that the spawner and every template share: fork on request, report, reap, and leave nothing behind.

Single-threaded on purpose: `os.fork` of a process with threads copies locks that nobody will ever release.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from runtime import cgroups, control, linux

ORPHANS_S = 1.0
"""How long the killed orphans of an ended child may take to disappear; what is left then is tried again next time."""
END_S = 5.0
"""How long everything beneath this process may take to disappear when its own end has come."""
_PAUSE_S = 0.0005

ChildMain = Callable[[dict[str, Any], list[int]], NoReturn]
Fork = Callable[[dict[str, Any]], int]


class EndRequested(BaseException):
    """Raised by a signal handler: the daemon is gone."""


class Forker:
    """Owns all children of this process."""

    def __init__(self, sock: socket.socket, allowed: frozenset[str], fork: Fork, child_main: ChildMain) -> None:
        """``sock``: the control socket. ``child_main(message, descriptors)`` runs in each new child, never returns.

        ``fork(message)``: makes the child, with the namespaces that the message asks for.
        """
        self._fork_child = fork
        self._sock = sock
        self._allowed = allowed
        self._child_main = child_main
        self._poll = select.poll()
        self._children: dict[int, tuple[int, int]] = {}  # pidfd -> (pid, id)
        self._groups: list[str] = []

    def serve(self) -> NoReturn:
        """Obey until the control socket is closed; then kill everything beneath this process and end."""
        try:
            self._obey()
        except (EndRequested, OSError, control.ControlError):
            pass
        try:
            self._end()
        except EndRequested:  # the socket was closed and the signal came too, in this order; it comes only once
            self._end()

    def _obey(self) -> None:
        """Until the control socket is closed."""
        self._poll.register(self._sock, select.POLLIN)
        while True:
            for fd, _ in self._poll.poll():
                if fd in self._children:
                    self._ended(fd)
                elif not self._request():
                    return

    def _request(self) -> bool:
        received = control.receive(self._sock, self._allowed)
        if received is None:
            return False
        message, fds = received
        if message["type"] == "sweep":
            self._groups = message["directories"].splitlines()
            return True
        try:
            self._fork(message, fds)
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _fork(self, message: dict[str, Any], fds: list[int]) -> None:
        flush()  # or the child would write what is buffered once more
        try:
            pid = self._fork_child(message)
        except OSError as exc:
            control.send(self._sock, {"type": "refused", "id": message["id"], "message": f"cannot fork: {exc}"})
            return
        if pid == 0:
            try:
                own = len(fds) - message["groups"]
                _join(fds[own:])
                self._child_main(message, fds[:own])
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(70)
        pidfd = os.pidfd_open(pid)  # before any wait: the number cannot have been given to another process
        control.send(self._sock, {"type": "started", "id": message["id"], "pid": pid}, (pidfd,))
        self._children[pidfd] = (pid, message["id"])
        self._poll.register(pidfd, select.POLLIN)

    def _ended(self, pidfd: int) -> None:
        self._poll.unregister(pidfd)
        pid, child_id = self._children.pop(pidfd)
        code, signal_number = _reap(pid)
        os.close(pidfd)
        self._kill_orphans(ORPHANS_S)
        control.send(self._sock, {"type": "exited", "id": child_id, "code": code, "signal": signal_number})

    def _kill_orphans(self, limit_s: float) -> None:
        """Kill and reap the children that we did not fork: what an ended child had left beneath it."""
        me, known = os.getpid(), frozenset(pid for pid, _ in self._children.values())
        until_s = time.monotonic() + limit_s
        while orphans := [pid for pid in linux.children(me) if pid not in known]:
            linux.kill_descendants(me, spare=known)
            linux.reap(orphans)
            if time.monotonic() > until_s:
                return
            time.sleep(_PAUSE_S)

    def _end(self) -> NoReturn:
        self._children.clear()  # now nobody is spared
        self._kill_orphans(END_S)
        for directory in self._groups:
            cgroups.remove_tree(directory)
        os._exit(0)


def _join(fds: list[int]) -> None:
    """Into the control groups. That they are gone means that the launch was given up, and is nobody's error."""
    try:
        cgroups.join(fds)
    except OSError as exc:
        if exc.errno != errno.ENODEV:
            raise
        os._exit(70)


def flush() -> None:
    """Write out what Python has buffered for stdout and stderr, whatever the function has made of them."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass  # closed, replaced, or its reader is gone: nothing can be lost that could be saved


def _reap(pid: int) -> tuple[int, int]:
    """Exit code and signal, -1 where it is not that."""
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        return -1, -1
    code = os.waitstatus_to_exitcode(status)
    return (code, -1) if code >= 0 else (-1, -code)
