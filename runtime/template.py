"""The fork server of one revision: import the function once, check that it may be forked, then fork on request."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from runtime import atfork, confine, control, linux, loader, namespaces, seccomp, worker
from runtime.forker import Forker, flush
from runtime.job import Job

_HARMLESS = frozenset({"/dev/null", "/dev/urandom", "/dev/random", "/dev/zero"})


def main(job: Job) -> NoReturn:
    """Become the template of ``job``. `confine.enter_template` was done. Ends the process."""
    sock = socket.socket(fileno=confine.CONTROL)
    os.set_inheritable(confine.CONTROL, False)
    os.close(confine.JOB)
    linux.set_name("stoker-template")
    loader.set_environment(job)
    loader.set_stdio()
    loader.set_path(job)
    baseline = descriptors()
    loader.hide()
    began_ns = time.monotonic_ns()
    try:
        runner = loader.prepared(job)
    except loader.LoadError as exc:
        flush()
        control.send(sock, {"type": "failed", "traceback": control.clip(str(exc))})
        os._exit(1)
    import_us = (time.monotonic_ns() - began_ns) // 1000
    worker.rehearse()
    reason = why_not_forkable(baseline)
    gc.collect()
    # What is alive now never changes again: the collector of an instance must not touch (and so copy) these pages.
    gc.freeze()
    compiled = loader.compiled(job)
    ready = {"type": "ready", "forkable": not reason, "reason": control.clip(reason), "compiled": compiled}
    control.send(sock, {**ready, "import_us": import_us})
    if reason:
        os._exit(0)
    _serve(sock, job, runner)


def _serve(sock: socket.socket, job: Job, runner: loader.AnyRunner) -> NoReturn:
    pid, kinds = os.getpid(), job.walls.instance_namespaces
    handled = [s for s in signal.valid_signals() if callable(signal.getsignal(s)) and s != signal.SIGINT]

    def instance(message: dict[str, Any], fds: list[int]) -> NoReturn:
        calls, answers, stdout, stderr = fds
        places = {
            confine.STDOUT: stdout,
            confine.STDERR: stderr,
            confine.CALLS: calls,
            confine.ANSWERS: answers,
        }
        parent_pid = 0 if kinds & seccomp.CLONE_NEWPID else pid  # a parent in another namespace has no number
        confine.enter_instance(places, parent_pid, job, message["tmp"])
        if os.getpid() == pid:  # OpenSSL would not renew its random state: see runtime.worker.renew
            worker.fail("an instance has the pid of its template")
        for number in handled:
            signal.signal(number, signal.SIG_DFL)
        sock.detach()
        atfork.restore()
        worker.renew(message["tmp"])
        worker.run(runner, response_bytes_max=job.response_bytes_max, info=information())

    def fork(message: dict[str, Any]) -> int:
        return namespaces.clone(kinds) if kinds else os.fork()

    Forker(sock, control.TO_TEMPLATE, fork, instance).serve()


def alone(job: Job) -> NoReturn:
    """Become an instance that imports the function by itself. `confine.enter_template` was done. Ends the process."""
    for fd in (confine.CALLS, confine.ANSWERS):
        os.set_inheritable(fd, False)
    os.close(confine.JOB)
    linux.set_name("stoker-worker")
    listen: Callable[[str], None] | None = None
    if job.debugger:
        from runtime import debugger  # while ours can be found

        listen = debugger.listen
    loader.set_environment(job)
    loader.set_stdio()
    loader.set_path(job)
    loader.hide()
    confine.seal(job, job.tmp)
    atfork.restore()
    worker.renew(job.tmp)
    began_ns = time.monotonic_ns()
    try:
        if listen is not None:
            listen(job.debugger)
        runner = loader.prepared(job)
    except Exception as exc:  # LoadError, NoDebugger
        worker.fail(str(exc))
    import_us = (time.monotonic_ns() - began_ns) // 1000
    info = {**information(), "import_us": import_us}
    worker.run(runner, response_bytes_max=job.response_bytes_max, info=info)


def information() -> dict[str, str | int]:
    """What ``stoker inspect`` shows of an instance."""
    return {"python": python_version(), "pid": os.getpid()}


# -- may it be forked? ------------------------------------------------------------------------------------------


def descriptors() -> dict[int, str]:
    """The open descriptors of this process and what they are; none where there is no /proc."""
    found = {}
    for name in os.listdir("/proc/self/fd") if _has_proc() else ():
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            pass  # the descriptor of the listing itself
    return found


def why_not_forkable(baseline: dict[int, str]) -> str:
    """Why instances must not be forked from this process, for the function's author; empty when they may.

    A copy of a process has only the thread that forked, shares its open files' positions and its sockets, and shares
    the pages of shared mappings: each of these breaks programs in ways that show late.
    """
    if not _has_proc():
        return "the sandbox of this machine has no /proc, by which it is found out whether it may be forked"
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        return f"the import started {threads - 1} thread(s)"
    if kids := linux.children(os.getpid()):
        return f"the import started {len(kids)} process(es)"
    now = descriptors()
    if lost := [fd for fd in baseline if now.get(fd) != baseline[fd]]:
        return f"the import closed or replaced descriptor {lost[0]}"
    if opened := [link for fd, link in now.items() if fd not in baseline and link not in _HARMLESS]:
        return f"the import left a descriptor open: {opened[0]}"
    if shared := _shared_mapping():
        return f"the import made a shared writable mapping: {shared}"
    return ""


def _has_proc() -> bool:
    return os.path.exists("/proc/self/fd")


def _shared_mapping() -> str:
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        for line in maps:
            fields = line.split(None, 5)
            if fields[1][1] == "w" and fields[1][3] == "s":
                return fields[5].strip() if len(fields) > 5 else fields[0]
    return ""


def python_version() -> str:
    """``3.11.7``."""
    return sys.version.partition(" ")[0]
