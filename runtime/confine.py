"""The sandbox, step by step: what a process gives up before it runs a function's code, in order, each with its why.

A template (or an instance that imports by itself) takes the steps of `enter_template`, an instance forked from a
template those of `enter_instance`. The order matters: parent-death first, so that nothing can be left behind half-way;
descriptors before anything of the function is read; privileges last, since earlier steps may need them. Namespaces, the
minimal root file system and the cgroup belong between `own_session` and `give_up_privileges`; the rest of Landlock, and
seccomp, to `keep_signals_inside`, the last step before the function's code.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal

from runtime import linux
from runtime.job import Job

STDOUT, STDERR, CALLS, ANSWERS, JOB = 1, 2, 3, 4, 5
CONTROL = 3
"""A template has its control socket where an instance has the pipe that calls come from."""
FIRST_FREE = 6

# What Python itself ignores at its start.
_PYTHON_SIGNALS = {signal.SIGPIPE: signal.SIG_IGN, signal.SIGXFSZ: signal.SIG_IGN}


def enter_template(places: dict[int, int], parent_pid: int, *, inheritable: bool = False) -> Job:
    """Turn a child of the spawner into one that may import a function; returns its job, read from ``places[JOB]``.

    ``places``: which descriptor goes to which number; nothing else stays open but 0, which is /dev/null.
    ``inheritable``: another interpreter is executed next and needs them.
    """
    die_with_parent(parent_pid)
    reset_signals()
    place_descriptors(places, inheritable=inheritable)
    own_session()
    job = Job.from_fd(JOB)
    limit_resources(job.limits)
    give_up_privileges(job)
    keep_signals_inside()
    os.chdir(job.directory)
    return job


def enter_instance(places: dict[int, int], parent_pid: int, job: Job) -> None:
    """Turn a child of a template into an instance. All else it has from the template."""
    die_with_parent(parent_pid)
    place_descriptors(places)
    own_session()
    limit_resources(job.instance_limits)


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends, however that ends.

    Why: no worker may be left after the spawner, even when that is killed with -9.
    """
    linux.die_with_parent(signal.SIGKILL, parent_pid)


def reset_signals() -> None:
    """Every signal as in a fresh Python, none blocked.

    Why: the spawner handles SIGTERM and ignores SIGINT; neither is the function's business.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in signal.valid_signals():
        if signal.getsignal(number) not in (signal.SIG_DFL, None):
            signal.signal(number, _PYTHON_SIGNALS.get(signal.Signals(number), signal.SIG_DFL))
    signal.signal(signal.SIGINT, signal.default_int_handler)


def place_descriptors(places: dict[int, int], *, inheritable: bool = False) -> None:
    """Put each descriptor at its number and close all others.

    Why: a forked child has all of its parent's descriptors, control sockets of other functions among them. Those above
    2 are not inherited by programs that the function runs, unless ``inheritable``.
    """
    moved = {
        target: source if source >= FIRST_FREE else fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, FIRST_FREE)
        for target, source in places.items()
    }
    for target, source in moved.items():
        os.dup2(source, target, inheritable=inheritable or target <= STDERR)
    for target in range(CONTROL, FIRST_FREE):
        if target not in places:
            try:
                os.close(target)
            except OSError:
                pass  # was not open
    linux.close_from(FIRST_FREE)


def own_session() -> None:
    """A session and process group of its own, and its orphans come back to it.

    Why: no terminal, no signals meant for others' groups; and as long as the process lives, whatever its descendants
    do to hide (double fork, setsid), they stay beneath it, where they are counted and killed.
    """
    os.setsid()
    linux.set_subreaper()


def limit_resources(limits: dict[str, int]) -> None:
    """Set soft and hard limit alike, so that the function cannot raise them again.

    Why each: NOFILE, MEMLOCK, MSGQUEUE as Fn has them; CORE 0, because a core would hold other calls' data; DATA is the
    backstop of the memory limit between two measurements (never AS: that kills numpy and threads); FSIZE bounds one
    file or memfd, which DATA does not see. NPROC counts per *user*, not per instance, unless the process has a user
    namespace of its own: it is not set without one, or one function could keep all others from forking.
    """
    for name, value in limits.items():
        number = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(number)[1]
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)  # an ordinary user may only go down
        resource.setrlimit(number, (value, value))


def give_up_privileges(job: Job) -> None:
    """No program that the function runs can gain privileges from its file (setuid, capabilities).

    Why here: steps before it may need such helpers; Landlock and seccomp, which come after it, demand it.
    """
    if job.no_new_privs:
        linux.set_no_new_privs()


def keep_signals_inside() -> None:
    """The processes of a function can signal each other and nobody else, where the kernel has Landlock's scopes.

    Why: without a PID namespace and a user of their own they could kill the spawner, other functions and the daemon.
    Where it is missing the daemon still recovers: it starts a new spawner.
    """
    linux.scope_signals()
