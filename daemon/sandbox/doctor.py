"""What of the sandbox works on this machine: probed in a throw-away process, never guessed from a version.

Each mechanism is a `Fact`: active or not, what it protects, what stands in for it, how to get it. Together they give
the level:

* **A**: namespaces, system-call filter, Landlock and control groups.
* **B**: namespaces and filter, without control groups or without Landlock.
* **C**: no namespaces: Landlock (with scopes) and the filter; never for root.
* **D**: less than that. The daemon refuses to start unless told to with ``--insecure``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

from daemon.config.settings import ConfigError, Sandbox
from runtime import boot

PROBES_S = 120.0
"""Longest time for all probes together; they take a fifth of a second."""
LEVELS = ("A", "B", "C", "D")


@dataclass(frozen=True, slots=True)
class Fact:
    """One mechanism."""

    name: str
    active: bool
    protects: str
    instead: str
    """What stands in for it when it is not active."""
    how: str
    """How to get it."""
    detail: str = ""
    """What the probe found, or ``switched off``."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All facts, and what follows from them."""

    level: str
    facts: tuple[Fact, ...]
    undecided: tuple[str, ...] = ()
    """Mechanisms whose probe did not end in time; they count as not active."""

    def has(self, *names: str) -> bool:
        """Whether all of these mechanisms are active."""
        active = {fact.name for fact in self.facts if fact.active}
        return active.issuperset(names)

    def meets(self, floor: str) -> bool:
        """Whether the level is the floor or better."""
        return LEVELS.index(self.level) <= LEVELS.index(floor)

    def missing(self) -> list[str]:
        """The names of what is not active."""
        return [fact.name for fact in self.facts if not fact.active]

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {"level": self.level, "facts": [asdict(fact) for fact in self.facts]}


_NAMESPACES = (
    "user.max_user_namespaces above 0; kernel.unprivileged_userns_clone=1 (Debian before 11); an AppArmor profile with "
    "userns, or kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu since 23.10); in systemd no "
    "RestrictNamespaces=; not inside chroot (pivot_root will do)"
)
_PROC = "nothing mounted over parts of /proc: no ProtectKernelTunables= or ProtectKernelLogs=; not inside Docker"
_FILES = "Landlock's rules for files: only the bundle, the interpreter and /usr can be read, its own directory written"
_LANDLOCK = "a kernel with CONFIG_SECURITY_LANDLOCK=y and landlock in its lsm= list; Linux {}"

# name: what it protects, what stands in for it, how to get it
MECHANISMS: dict[str, tuple[str, str, str]] = {
    "user": (
        "gives a function capabilities over nothing but its own namespaces; all others stand on it",
        "Landlock and the system-call filter alone (level C)",
        _NAMESPACES,
    ),
    "mount": ("a read-only root file system with the function's own files only", _FILES, _NAMESPACES),
    "pid": (
        "other processes cannot be seen or signalled; everything dies with the instance",
        "Landlock's scope for signals; the daemon searches the tree for what is left",
        _NAMESPACES,
    ),
    "ipc": ("shared memory and queues of others", "the system-call filter refuses System V IPC", _NAMESPACES),
    "uts": ("the machine's name", "nothing", "in systemd no ProtectHostname=yes"),
    "cgroup-ns": ("the names of the machine's control groups", "no /sys in the sandbox", _NAMESPACES),
    "proc": ("a /proc of its own", "no /proc: functions cannot be forked from a template", _PROC),
    "instance": (
        "each instance has namespaces, a /tmp and a process tree of its own",
        "instances of a function share these; Landlock keeps their signals apart",
        _NAMESPACES + "; " + _PROC,
    ),
    "own-uid": (
        "each function is a user of its own on the host",
        "one user for all functions; namespaces and Landlock keep them apart",
        "start the daemon as root",
    ),
    "capabilities": ("privileges of root", "nothing", "CAP_SETPCAP in the daemon's bounding set, if it runs as root"),
    "no-new-privs": ("privileges from setuid programs", "nothing", "a kernel since Linux 3.5"),
    "seccomp": (
        "the kernel from rarely used system calls; other processes from ptrace",
        "nothing",
        "a kernel with CONFIG_SECCOMP_FILTER=y on x86-64 or aarch64",
    ),
    "landlock": (
        "files, where there is no root file system of its own; processes from ptrace",
        "the mount and PID namespaces",
        _LANDLOCK.format("5.13"),
    ),
    "landlock-scopes": (
        "other processes from signals, and abstract UNIX sockets",
        "the PID and network namespaces",
        _LANDLOCK.format("6.12"),
    ),
    "net": (
        "the machine's network services, and other functions', from functions whose app does not allow them",
        "Landlock's rules for TCP ports; no network sockets at all for the modes none and loopback",
        _NAMESPACES,
    ),
    "landlock-net": (
        "the daemon's own TCP port from functions that share the machine's network",
        "the network namespace; in mode host the packet filter, or that mode is refused",
        _LANDLOCK.format("6.7"),
    ),
    "rlimits": ("descriptors, file sizes, processes, locked memory", "nothing", "always there"),
}
NAMESPACES = ("user", "mount", "pid", "ipc", "uts", "cgroup-ns", "proc", "instance", "net")
_DEMANDED = ("user", "mount", "pid", "ipc", "instance", "capabilities", "no-new-privs")
"""What levels A and B cannot do without, beside the filter."""
_ON_PRIVILEGES = ("seccomp", "landlock", "landlock-net", "landlock-scopes")
"""What the kernel gives only to a process that has no_new_privs."""


def diagnose(config: Sandbox, more: Iterable[Fact] = ()) -> Diagnosis:
    """Probe this machine, for the present user. Blocks for a fifth of a second the first time.

    ``more``: facts of mechanisms that others probe.

    Raises:
      ConfigError: a mechanism that is to be switched off is not known.
    """
    found = probe(config.uid_first)
    facts = [_fact(name, found) for name in MECHANISMS] + list(more)
    known = {fact.name for fact in facts} | {"namespaces"}
    if unknown := set(config.switch_off) - known:
        raise ConfigError(
            f"sandbox.switch_off: unknown {', '.join(sorted(unknown))}; known: {', '.join(sorted(known))}"
        )
    off = set(config.switch_off)
    if "namespaces" in off:
        off.update(NAMESPACES)
    if "user" in off:
        off.update((*NAMESPACES, "own-uid"))
    if "no-new-privs" in off:
        off.update(_ON_PRIVILEGES)
    if "landlock" in off:
        off.update(("landlock-net", "landlock-scopes"))
    facts = [replace(fact, active=False, detail="switched off") if fact.name in off else fact for fact in facts]
    level = level_of({fact.name for fact in facts if fact.active}, root=os.geteuid() == 0)
    return Diagnosis(
        level, tuple(facts), tuple(name for name in MECHANISMS if _is_late(name, found) and name not in off)
    )


def cgroup_fact(active: bool, missing: str) -> Fact:
    """What was found out about control groups; ``missing``: why there are none, or not better ones."""
    return Fact(
        "cgroup",
        active,
        "the machine and other functions from an instance's memory, processes and CPU time, exactly",
        "memory is measured every 25 ms and limited by RLIMIT_DATA, processes by RLIMIT_NPROC; no CPU share",
        "cgroup v1 or v2 mounted, and root; in systemd Delegate=memory pids cpu",
        missing,
    )


def egress_fact(method: str, missing: str) -> Fact:
    """How functions reach outside; ``missing``: why not in a better way."""
    return Fact(
        "egress",
        method in ("veth", "pasta", "slirp4netns"),
        "lets functions reach outside, but neither the machine nor each other nor cloud metadata",
        {"ports": "the machine's own network, TCP to network.ports only"}.get(method, "functions cannot reach outside"),
        "root with nftables; or pasta (package passt) or slirp4netns, and /dev/net/tun with mode 0666",
        f"by {method}" if method not in ("none", "ports") else missing,
    )


def in_trouble(egress: Fact, why: str) -> Fact:
    """Egress while what carries functions' packets is being started again."""
    how = "the daemon starts it again, after longer and longer pauses: its log says what happens"
    return replace(egress, active=False, instead="functions cannot reach outside for now", how=how, detail=why)


def level_of(active: set[str], *, root: bool = False) -> str:
    """The level that a set of active mechanisms makes.

    ``root``: the daemon is, and without namespaces so are functions. Landlock keeps root from opening files, not from
    changing modes and owners: that is no level C.
    """
    if active.issuperset(_DEMANDED) and "seccomp" in active:
        return "A" if active.issuperset(("landlock", "cgroup")) else "B"
    fenced = active.issuperset(("seccomp", "landlock", "landlock-scopes", "no-new-privs"))
    return "C" if fenced and not root else "D"


def _fact(name: str, found: Mapping[str, Mapping[str, Any]]) -> Fact:
    result = found.get(name, {"works": name == "rlimits", "detail": ""})
    return Fact(name, bool(result["works"]), *MECHANISMS[name], detail=str(result["detail"]))


def _is_late(name: str, found: Mapping[str, Mapping[str, Any]]) -> bool:
    return bool(found.get(name, {}).get("late"))


_started: dict[int, subprocess.Popen[bytes]] = {}


def start_probes(uid_first: int) -> None:
    """Have the probes run beside what comes next; `diagnose` waits for them. A failure is told there."""
    if uid_first not in _started:
        try:
            _started[uid_first] = _popen(uid_first)
        except OSError:
            pass


def _popen(uid_first: int) -> subprocess.Popen[bytes]:
    interpreter = getattr(sys, "_base_executable", None) or sys.executable
    command = boot.probes(interpreter, str(uid_first), boot.roots())
    return subprocess.Popen(
        command, env={}, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@lru_cache(maxsize=8)
def probe(uid_first: int) -> dict[str, dict[str, Any]]:
    """What the probes found, by name; nothing works if the program that does it fails. Done once per process."""
    said = b""
    try:
        with _started.pop(uid_first, None) or _popen(uid_first) as process:
            try:
                output, said = process.communicate(timeout=PROBES_S)
            except subprocess.TimeoutExpired:
                process.kill()
                text = f"the probes did not end within {PROBES_S:g} s"
                return {
                    name: {"works": False, "late": True, "detail": text} for name in MECHANISMS if name != "rlimits"
                }
            if process.returncode:
                raise OSError(f"they ended with {process.returncode}")
            found: dict[str, dict[str, Any]] = json.loads(output)
    except (OSError, ValueError) as exc:
        text = f"the probes failed: {exc} {said.decode(errors='replace')[-500:]}".strip()
        return {name: {"works": False, "detail": text} for name in MECHANISMS if name != "rlimits"}
    return found


def check(diagnosis: Diagnosis, config: Sandbox, *, insecure: bool) -> None:
    """May the daemon start?

    Raises:
      ConfigError: the level is below the floor, or mechanisms are switched off or undecided, and nobody said
        ``--insecure``.
    """
    if insecure:
        return
    if config.switch_off:
        raise ConfigError("sandbox.switch_off is for tests of the sandbox itself: it needs --insecure")
    if diagnosis.undecided:
        # POLICY: not with fewer walls than the machine may have, only because it is busy just now.
        raise ConfigError(
            f"it could not be found out in time whether the sandbox can have {', '.join(diagnosis.undecided)}: the "
            f"machine is too busy. Start again when it is less so; --insecure starts without these"
        )
    if not diagnosis.meets(config.floor):
        raise ConfigError(
            f"the sandbox of this machine is of level {diagnosis.level}, sandbox.floor is {config.floor}: missing "
            f"{', '.join(diagnosis.missing())}. `stokerd --doctor` says how to get these; --insecure starts anyway"
        )


def table(diagnosis: Diagnosis, floor: str) -> str:
    """For people."""
    width = max(len(fact.name) for fact in diagnosis.facts)
    lines = []
    for fact in diagnosis.facts:
        lines.append(f"{'yes' if fact.active else 'NO ':3}  {fact.name:{width}}  {fact.protects}")
        if not fact.active:
            indent = " " * (width + 7)
            lines += [f"{indent}found: {fact.detail or 'it does not work'}", f"{indent}instead: {fact.instead}"]
            lines.append(f"{indent}to get it: {fact.how}")
    verdict = "met" if diagnosis.meets(floor) else "NOT met"
    user = "root" if os.geteuid() == 0 else f"user {os.geteuid()}"
    lines.append(f"\nlevel {diagnosis.level} for {user}; floor {floor}: {verdict}")
    return "\n".join(lines)
