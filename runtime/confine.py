"""The sandbox, step by step: what a process gives up before it runs a function's code, in order, each with its why.

The first process of a function version takes the steps of `enter_version`. With namespaces it is their pid 1; it forks
the template, which takes those of `enter_template`, and stays to reap. An instance forked from the template takes those
of `enter_instance`. A process that imports by itself takes all of them.

The order matters. Parent-death first, so that nothing can be left behind half-way; descriptors before anything of the
function is read; privileges are given up when nothing needs them any more: root file system and network before
capabilities, capabilities before no_new_privs' dependents, Landlock before the filter that would refuse it.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal

from runtime import landlock, linux, namespaces, network, privileges, rootfs, seccomp
from runtime.job import Job

STDIN, STDOUT, STDERR, CALLS, ANSWERS, JOB, GATE = 0, 1, 2, 3, 4, 5, 6
CONTROL = 3
"""A template has its control socket where an instance has the pipe that calls come from."""
FIRST_FREE = 7

_NEVER_MADE = {"net": 0, "uts": 0, "time": 0}
"""Namespaces that no function makes. The filter refuses them, but cannot see everything; these the kernel counts."""
_NEXT_PID = "/proc/sys/kernel/ns_last_pid"
HOST_NAME = "function"

# What Python itself ignores at its start.
_PYTHON_SIGNALS = {signal.SIGPIPE: signal.SIG_IGN, signal.SIGXFSZ: signal.SIG_IGN}

_FILTERED = os.uname().machine in seccomp.ARCHITECTURES
_INSTANCE_FILTER = seccomp.instance_filter(os.uname().machine) if _FILTERED else b""

_OWN_DEVICES = [(f"/dev/{name}", landlock.DEVICE) for name in rootfs.DEVICES]


# -- the first process of a version -------------------------------------------------------------------------------


def enter_version(places: dict[int, int], *, inheritable: bool = False) -> tuple[Job, int]:
    """Turn a child of the spawner into the first process of a function version; its job, and a descriptor.

    ``places``: which descriptor goes to which number; nothing else stays open but 0, which is /dev/null if
    it is not among them.
    ``inheritable``: another interpreter may be executed, and needs them. The descriptor returned is for
    `namespaces.jump_pids`, -1 where that cannot be done. Returns when the daemon has opened the gate.
    """
    reset_signals()
    place_descriptors(places, inheritable=inheritable)
    own_session()
    job = Job.from_fd(JOB)
    walls = job.walls
    next_pid = -1
    if walls.namespaces & seccomp.CLONE_NEWPID:
        try:
            next_pid = os.open(_NEXT_PID, os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            pass  # no such file in this kernel: the template will be 2
    counts: list[tuple[int, int]] = []
    if walls.namespaces & seccomp.CLONE_NEWUTS:
        own_name()
    if walls.namespaces & seccomp.CLONE_NEWUSER:
        # A relay of packets holds a UTS namespace beneath this one: its end leaves room for its successor's.
        own_and_relay = 2 if walls.relayed else 0
        counts = namespaces.open_counts(_NEVER_MADE | {"uts": own_and_relay})
    if walls.network:
        network.enter(walls.network)
    if walls.root is not None:
        rootfs.build(walls.root)
    pass_gate()
    # Not earlier: the daemon's relay of packets confines itself in namespaces of its own, made beneath this one.
    namespaces.limit_counts(counts)
    if walls.namespaces & seccomp.CLONE_NEWUSER and walls.cgroup_view:
        namespaces.own_cgroup_view()
    return job, next_pid


def own_name() -> None:
    """In a UTS namespace of its own: a host name that tells nothing."""
    try:
        namespaces.set_host_name(HOST_NAME)
    except OSError:
        pass  # systemd's ProtectHostname= filters the call; the name stays the host's


def pass_gate() -> None:
    """Wait until the daemon has done what only it can: control groups, the host's end of a network.

    Why: not a line of the function's code runs before its limits hold.
    """
    opened = os.read(GATE, 1)
    os.close(GATE)
    if not opened:
        os._exit(1)  # the daemon gave the start up


def lose_privileges(job: Job, parent_pid: int, next_pid: int) -> None:
    """Become the function's user, without capabilities and without a way to gain any.

    ``next_pid``: of `enter_version`; used up.

    Why here: the steps before it need them. The bounding set goes first, because emptying it is a privilege itself;
    the parent-death signal is asked for again, because a change of user cancels it.
    """
    walls = job.walls
    if next_pid >= 0:
        try:
            namespaces.jump_pids(next_pid)
        except OSError:
            pass  # /proc/sys is read-only here: the template will be 2, which is not 1, an instance's
        os.close(next_pid)
    if walls.drop_capabilities and (walls.namespaces & seccomp.CLONE_NEWUSER or os.geteuid() == 0):
        privileges.empty_bounding_set()
    if walls.namespaces & seccomp.CLONE_NEWUSER:
        privileges.become(namespaces.UID)
    if walls.no_new_privs:
        linux.set_no_new_privs()
    if walls.drop_capabilities:
        privileges.drop_capabilities()
    die_with_parent(parent_pid)


# -- the template, and what imports by itself ---------------------------------------------------------------------


def enter_template(job: Job) -> None:
    """What is left to give up before the function is imported. Privileges are gone, the root file system is there."""
    walls = job.walls
    privileges.set_dumpable()  # a change of user took its own files in /proc from it
    limit_resources(walls.limits)
    if walls.landlock:
        paths = None
        if walls.readable is not None:
            # Its own /proc and those of its children, which it kills. Landlock itself keeps all others' memory shut.
            paths = [(path, landlock.READ) for path in [*walls.readable, "/proc"]]
            paths += [(path, landlock.WRITE) for path in walls.writable or ()] + _OWN_DEVICES
        landlock.restrict(paths=paths, connect=walls.connect_ports, bind=walls.bind_ports, scoped=walls.scoped)
    if walls.filter_calls:
        namespaced = bool(walls.instance_namespaces)
        program = seccomp.template_filter(
            os.uname().machine, inet=walls.internet, namespaces=namespaced, memfd=walls.memfd
        )
        privileges.filter_system_calls(program)
    os.chdir(job.directory)


# -- the instance -------------------------------------------------------------------------------------------------


def enter_instance(places: dict[int, int], parent_pid: int, job: Job, tmp: str) -> None:
    """Turn a child of a template into an instance. All else it has from the template."""
    walls = job.walls
    die_with_parent(parent_pid)
    place_descriptors(places)
    if walls.instance_namespaces & seccomp.CLONE_NEWUSER:
        namespaces.keep_ids()
    if walls.root is not None and walls.instance_namespaces & seccomp.CLONE_NEWNS:
        rootfs.renew_tmp(walls.root)
        if os.path.exists("/proc/self"):
            rootfs.mount_proc()
    if walls.drop_capabilities:
        privileges.drop_capabilities()
    own_session()
    seal(job, tmp)


def seal(job: Job, tmp: str) -> None:
    """The last step before the function's code: what an instance may not do though its template may.

    Why Landlock once more: the first time fenced the whole version in, this time each instance; so a signal does not
    reach the template or a sibling. And why a second filter: to have namespaces of its own, it had to be let make some.
    """
    walls = job.walls
    limit_resources(walls.instance_limits)
    if walls.landlock:
        paths = None
        if walls.readable is not None:
            paths = [(path, landlock.READ) for path in walls.readable] + [(tmp, landlock.WRITE), *_OWN_DEVICES]
        landlock.restrict(paths=paths, scoped=walls.scoped)  # the rules for ports hold since `enter_template`
    if walls.filter_calls and walls.instance_namespaces:
        privileges.filter_system_calls(_INSTANCE_FILTER)


def stand_apart(job: Job) -> None:
    """In a child of a sealed process: signal and look into what is beneath this one, no longer its parent.

    Why: a program is not to stop or rewrite the init that reaps for it, which has the same user.
    """
    if job.walls.landlock:
        landlock.restrict(paths=None, scoped=job.walls.scoped)


# -- single steps -------------------------------------------------------------------------------------------------


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends, however that ends. ``parent_pid`` as seen from here.

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
