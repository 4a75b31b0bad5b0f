"""The daemon's side of the processes that fork: the spawner and the templates. One control socket each.

A template runs its author's code. What it says is checked, a pidfd that it passes must be one of a child of its own,
and the first breach condemns it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import trio

from runtime import control, linux

ANSWER_S = 10.0
"""How long a parent may take to fork; one that takes longer is stuck, and given up."""
EXIT_REPORT_S = 1.0
"""How long the exit status may come after the process is gone: the parent first kills what was left beneath it."""

NO_PID = 2**31 - 1
"""Stands for a process that was gone before its pid could be read; more than any pid can be."""


class ParentGone(Exception):
    """The process that should have forked has ended, or broke the protocol; the text says which."""


class Refused(Exception):
    """The process could not be started; the text says why."""


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended. Both None: nobody could tell any more."""

    code: int | None = None
    signal: int | None = None

    @classmethod
    def of(cls, process: subprocess.Popen[bytes]) -> ExitStatus:
        """How a process that we started ended, if it has."""
        code = process.poll()
        if code is None:
            return cls()
        return cls(code=code) if code >= 0 else cls(signal=-code)

    def __str__(self) -> str:
        if self.signal is not None:
            try:
                return f"killed by {signal.Signals(self.signal).name}"
            except ValueError:
                return f"killed by signal {self.signal}"
        return "exit status unknown" if self.code is None else f"exit code {self.code}"


@dataclass(slots=True, eq=False)
class Child:
    """A process that a parent was asked to start. ``pidfd`` is closed by `close`, which its owner calls."""

    id: int
    pid: int = 0
    pidfd: int = -1
    answered: trio.Event = field(default_factory=trio.Event)
    reported: trio.Event = field(default_factory=trio.Event)
    refusal: str = ""
    status: ExitStatus = field(default_factory=ExitStatus)
    abandoned: bool = False
    asked_s: float = field(default_factory=time.monotonic)
    _watching: trio.Lock = field(default_factory=trio.Lock)
    _gone: bool = False
    _stopped: list[int] = field(default_factory=list)

    async def exited(self) -> ExitStatus:
        """Wait until the process is gone, then, within `EXIT_REPORT_S`, for how it ended. For any number of tasks."""
        async with self._watching:  # one task at a time may wait for a descriptor
            if not self._gone:
                await trio.lowlevel.wait_readable(self.pidfd)
                self._gone = True
        with trio.move_on_after(EXIT_REPORT_S):
            await self.reported.wait()
        return self.status

    def kill(self) -> None:
        """SIGKILL, if it is still there."""
        if self.pidfd >= 0:
            try:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def freeze(self, frozen: bool) -> None:
        """SIGSTOP it and all beneath it, or SIGCONT to what was stopped; nothing if it is gone."""
        try:
            if frozen:
                signal.pidfd_send_signal(self.pidfd, signal.SIGSTOP)
                self._stopped = linux.stop_descendants(self.pid)
            else:
                linux.continue_all(self.pid, self._stopped)
                signal.pidfd_send_signal(self.pidfd, signal.SIGCONT)
        except ProcessLookupError:
            pass

    def close(self) -> None:
        """Let go of the process. May be called again."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class Gate:
    """Holds a process that is being started until the daemon has done its part."""

    def __init__(self) -> None:
        """Raises OSError: no descriptors left."""
        self.fd, self._key = os.pipe2(os.O_CLOEXEC)
        """``fd``: for the process."""

    def open(self) -> None:
        """Let it go on."""
        try:
            os.write(self._key, b"x")
        except BrokenPipeError:
            pass  # it has ended already, which others notice

    def close(self) -> None:
        """Forget it: a process that still waits ends."""
        os.close(self.fd)
        os.close(self._key)


class Parent:
    """Asks one process to fork, and hears of what became of the children."""

    def __init__(
        self, sock: socket.socket, allowed: frozenset[str], *, on_exit: Callable[[], None] | None = None
    ) -> None:
        """``sock``: the daemon's end, taken over. ``allowed``: what it may send. ``on_exit``: a child is gone."""
        sock.setblocking(False)
        self._sock = sock
        self._allowed = allowed
        self._on_exit = on_exit
        self._children: dict[int, Child] = {}
        self._sending = trio.Lock()
        self.pid = 0
        """Set by the owner, before the first `start`: whose descendants are accepted."""
        self.distance = 1
        """How far beneath `pid` they are: 1 for its own children, 2 for those of the one that it has forked."""
        self.gone = ""
        """Why it can start nothing any more."""

    @property
    def children(self) -> int:
        """How many of its children are not known to be gone."""
        return len(self._children)

    async def start(self, child_id: int, message: dict[str, Any], fds: tuple[int, ...]) -> Child:
        """Have a child started. The caller owns it then: to kill, to await and to close.

        A caller that is cancelled while it waits leaves nothing behind: the child is killed as soon as it is there.

        Raises:
          ParentGone, Refused
        """
        if any(child.abandoned and time.monotonic() - child.asked_s > ANSWER_S for child in self._children.values()):
            self._give_up()
        if self.gone:
            raise ParentGone(self.gone)
        child = self._children[child_id] = Child(child_id)
        try:
            with trio.move_on_after(ANSWER_S) as scope:
                await self._send({**message, "id": child_id}, fds)
                await child.answered.wait()
            if scope.cancelled_caught:
                self._give_up()
        except BaseException:
            child.abandoned = True
            if child.pid:  # it came in the same moment
                child.kill()
                child.close()
            raise
        if not child.pid:
            if child.refusal:
                raise Refused(child.refusal)
            raise ParentGone(self.gone)
        return child

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message that nothing answers; one that cannot be sent at once is lost."""
        try:
            control.send(self._sock, message)
        except OSError:
            pass

    async def _send(self, message: dict[str, Any], fds: tuple[int, ...]) -> None:
        async with self._sending:
            while not self.gone:
                try:
                    control.send(self._sock, message, fds)
                    return
                except BlockingIOError:
                    try:
                        await trio.lowlevel.wait_writable(self._sock)
                    except trio.ClosedResourceError:
                        break
                except OSError as exc:
                    self.leave(f"cannot be reached: {exc.strerror}")
        raise ParentGone(self.gone)

    async def serve(self, on_message: Callable[[dict[str, Any]], None]) -> None:
        """Hear what it has to say until it is gone or breaks the protocol; then `gone` says which.

        ``on_message`` gets what is not about children.
        """
        try:
            while not self.gone:
                try:
                    await trio.lowlevel.wait_readable(self._sock)
                    received = control.receive(self._sock, self._allowed)
                except BlockingIOError:
                    continue
                if received is None:
                    self.leave("it ended")
                    return
                message, fds = received
                match message["type"]:
                    case "started":
                        self._started(message, fds[0])
                    case "refused":
                        self._waiting(message["id"]).refusal = message["message"] or "no reason given"
                        self._children.pop(message["id"]).answered.set()
                    case "exited":
                        self._exited(message)
                    case _:
                        on_message(message)
        except trio.ClosedResourceError:
            pass  # `close` was called, and has told why
        except control.ControlError as exc:
            self.leave(f"it broke the protocol: {exc}")
        except OSError as exc:
            self.leave(f"cannot be reached: {exc.strerror}")

    def leave(self, why: str) -> None:
        """Hear no more of it: those who wait for it get `ParentGone`. The first reason counts."""
        self.gone = self.gone or why
        for child in self._children.values():
            child.answered.set()
            child.reported.set()
        self._children.clear()

    def _give_up(self) -> None:
        self.leave(f"it did not answer within {ANSWER_S:g} s")
        trio.lowlevel.notify_closing(self._sock)  # ends `serve`, whose caller then ends the process

    def close(self) -> None:
        """Close the socket: the process then kills all its children and ends. May be called again."""
        self.leave("it was closed")
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

    def _waiting(self, child_id: int) -> Child:
        child = self._children.get(child_id)
        if child is None or child.answered.is_set():
            raise control.ControlError(f"answer about child {child_id}, which was not asked for")
        return child

    def _started(self, message: dict[str, Any], pidfd: int) -> None:
        try:
            child = self._waiting(message["id"])
            pid = self._checked(pidfd)
        except control.ControlError:
            os.close(pidfd)
            raise
        child.pid, child.pidfd = pid, pidfd
        child.answered.set()
        if child.abandoned:
            child.kill()
            child.close()

    def _checked(self, pidfd: int) -> int:
        """The pid on this host of what the daemon is to signal: it must be a child of that very parent, or gone.

        The number in the message is one of the sender's namespace, and says nothing here.
        """
        actual = pid_of(pidfd)
        if actual == -1:
            return NO_PID  # reaped: a signal reaches nobody
        ancestor = actual
        for _ in range(self.distance):
            _, ancestor = linux.state_and_parent(ancestor)
        if ancestor not in (0, self.pid):
            raise control.ControlError(f"pidfd of process {actual}, which is not the child it was said to be")
        return actual

    def _exited(self, message: dict[str, Any]) -> None:
        child = self._children.get(message["id"])
        if child is None or not child.answered.is_set():
            raise control.ControlError(f"exit of child {message['id']}, which was not started")
        code, number = message["code"], message["signal"]
        child.status = ExitStatus(code if code >= 0 else None, number if number >= 0 else None)
        del self._children[message["id"]]
        child.reported.set()
        if self._on_exit is not None:
            self._on_exit()


def pid_of(pidfd: int) -> int:
    """The process of a pidfd, -1 when it was reaped.

    Raises:
      control.ControlError: the descriptor is not a pidfd.
    """
    for line in linux.read_proc(f"/proc/self/fdinfo/{pidfd}", 4096).splitlines():
        if line.startswith(b"Pid:"):
            return int(line[4:])
    raise control.ControlError("a descriptor that is not a pidfd")
