"""The root of all workers: started once by the daemon with nothing of it in its memory, it forks templates on request.

Single-threaded, with an empty environment and only its control socket. It is a child subreaper: whatever is started
beneath it stays beneath it. When the control socket is closed, because the daemon is gone, however that went, it kills
everything beneath it until nothing is left, then ends.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from types import FrameType
from typing import Any, NoReturn

from runtime import atfork

with atfork.kept_back():  # what these import of the standard library registers hooks
    from runtime import confine, control, init, linux, namespaces, program, seccomp, template
    from runtime.boot import command
    from runtime.forker import EndRequested, Forker
    from runtime.job import Job


def main(argument: str) -> NoReturn:
    """Serve the daemon. ``argument``: descriptor of the control socket and pid of the daemon, as ``FD:PID``."""
    fd, daemon_pid = map(int, argument.split(":"))
    os.setsid()  # before anything can fail: Ctrl-C in the daemon's terminal is the daemon's business
    linux.set_subreaper()
    linux.yield_memory()
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    linux.die_with_parent(signal.SIGTERM, daemon_pid)
    linux.set_name("stoker-spawner")
    sock = socket.socket(fileno=fd)
    sock.set_inheritable(False)
    pid = os.getpid()
    gc.collect()
    gc.freeze()
    control.send(sock, {"type": "ready", "forkable": True, "reason": "", "compiled": "", "import_us": 0})
    Forker(sock, control.TO_SPAWNER, _fork, lambda message, fds: _child(message, fds, pid)).serve()


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: the end must not be interrupted by a second one
    raise EndRequested


def _fork(message: dict[str, Any]) -> int:
    """A child, in the namespaces that the message asks for and with its ids; its pid, or 0 in the child.

    Raises:
      OSError: the kernel refuses.
    """
    kinds, hosts_id = message["namespaces"], message["hosts_id"]
    if not kinds:
        return os.fork()
    pid = -1
    go_read, go_write = os.pipe2(os.O_CLOEXEC)
    try:
        if (pid := namespaces.clone(kinds)) == 0:
            os.close(go_write)
            if not os.read(go_read, 1):  # a process without a map of users is nobody, and may do nothing
                os._exit(1)
            return 0
        try:
            if kinds & seccomp.CLONE_NEWUSER:
                namespaces.map_ids(pid, hosts_id)
            os.write(go_write, b"x")
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        return pid
    finally:
        os.close(go_read)
        if pid != 0:
            os.close(go_write)


def _child(message: dict[str, Any], fds: list[int], spawner_pid: int) -> NoReturn:
    """In a new child: become what the message asks for."""
    own_pids = bool(message["namespaces"] & seccomp.CLONE_NEWPID)
    parent_pid = 0 if own_pids else spawner_pid  # the spawner cannot be seen from in there
    confine.die_with_parent(parent_pid)
    if message["type"] == "template":
        job_fd, gate, sock_fd, log = fds
        places = {confine.STDOUT: log, confine.STDERR: log, confine.CONTROL: sock_fd, confine.JOB: job_fd}
        entry = "resume_template"
    else:
        job_fd, gate, calls, answers, stdout, stderr, *debugger = fds
        places = {
            **({confine.STDIN: debugger[0]} if debugger else {}),
            confine.STDOUT: stdout,
            confine.STDERR: stderr,
            confine.CALLS: calls,
            confine.ANSWERS: answers,
            confine.JOB: job_fd,
        }
        entry = "resume_alone"
    job, next_pid = confine.enter_version({**places, confine.GATE: gate}, inheritable=True)
    confine.lose_privileges(job, parent_pid, next_pid)
    if entry == "resume_template" and own_pids:
        if (template_pid := os.fork()) != 0:
            init.run(template_pid)
        confine.die_with_parent(1)
    confine.enter_template(job)
    if job.command:
        program.main(job, own_pids)
    if job.interpreter:
        _execute(job, entry)
    elif entry == "resume_template":
        template.main(job)
    else:
        template.alone(job)


def _execute(job: Job, entry: str) -> NoReturn:
    environment = {**job.environment, "TMPDIR": job.tmp}
    os.execve(job.interpreter, command(job.interpreter, entry, str(confine.JOB), job.roots), environment)


def resume_template(argument: str) -> NoReturn:
    """Another interpreter goes on here as a template."""
    template.main(_resume(argument))


def resume_alone(argument: str) -> NoReturn:
    """Another interpreter goes on here as an instance that imports by itself."""
    template.alone(_resume(argument))


def _resume(argument: str) -> Job:
    del sys.argv[1:]
    return Job.from_fd(int(argument))
