"""Which walls a worker gets on this machine. `runtime.confine` builds them, around and in the worker.

What is possible is found out by `doctor`; here it is decided, for a function and its bundle, what is shown in
its root file system, who it is, and which limits it has. The rest of the daemon sees `Sandbox` only.
"""

from __future__ import annotations

import glob
import os
import stat
import sys
from typing import Any

from daemon.config.settings import Limits
from daemon.config.settings import Sandbox as Settings
from daemon.core.limit_settings import network_of
from daemon.model import App, LaunchPlan
from daemon.sandbox.doctor import Diagnosis, diagnose
from daemon.sandbox.host_ids import HostIds
from daemon.sandbox.networks import Grant, NetworkError, Networks
from runtime import boot, seccomp
from runtime.walls import Walls

MIB = 2**20
LOCKED_BYTES_MAX = 64 * 2**10
"""RLIMIT_MEMLOCK of a worker. Fn's FN_MAX_LOCKED_MEMORY."""
TMP_FRACTION = 4
"""/tmp holds a quarter of a function's memory (OCI Functions, "file system of the container")."""
TMP_INODES_PER_MIB = 8
"""Files in /tmp per MiB of a function's memory. OCI's table has 1024 for 128 MB."""
UIDS = 2**16
"""Host users for functions, from sandbox.uid_first on, of all daemons of a machine together."""

FUNCTION, PACKAGES, RESOURCES, PYCACHE, TMP = "/function", "/python", "/resources", "/.pycache", "/tmp"
"""What a function's directories are called inside."""
DEBUGGER = "/.debugpy"
"""Where debugpy is in an instance that is debugged."""

_SYSTEM = ("/usr",)
_USR_MERGED = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
"""Links into /usr on a merged system, directories on others."""
_ETC = (
    "/etc/alternatives", "/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/pki/tls", "/etc/pki/ca-trust",
    "/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types", "/etc/services", "/etc/protocols", "/etc/gai.conf",
    *sorted(glob.glob("/etc/java-*-openjdk")),  # where Debian has the settings of its JREs
)  # fmt: skip
"""Of the host's /etc: certificates and what C libraries look up; nothing that tells of its users or services."""
_FILES = {
    "/etc/passwd": "root:x:0:0:root:/:/usr/sbin/nologin\nfunction:x:1000:1000:function:/tmp:/bin/sh\n",
    "/etc/group": "root:x:0:\nfunction:x:1000:\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
    "/etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost\n",
    "/etc/hostname": "function\n",
}
_KINDS = {
    "mount": seccomp.CLONE_NEWNS, "pid": seccomp.CLONE_NEWPID, "ipc": seccomp.CLONE_NEWIPC, "uts": seccomp.CLONE_NEWUTS,
}  # fmt: skip


class Sandbox:
    """The walls that can be built here, and who is who behind them."""

    def __init__(self, diagnosis: Diagnosis, settings: Settings, limits: Limits) -> None:
        self.diagnosis = diagnosis
        self._settings = settings
        self._limits = limits
        self.networks: Networks | None = None
        """What functions reach; None: whatever the machine does."""
        self._uids: dict[str, int] = {}
        self._ids = HostIds(settings.uid_first, UIDS)
        self._packages = boot.directories()
        self.namespaces = self._kinds()
        """CLONE_NEW* of a function version; 0: level C or worse."""

    @classmethod
    def probed(cls, limits: Limits, settings: Settings | None = None) -> Sandbox:
        """What this machine can do, for the present user. Blocks for a fifth of a second the first time.

        Raises:
          ConfigError: as `daemon.sandbox.doctor.diagnose` does.
        """
        settings = settings or Settings()
        return cls(diagnose(settings), settings, limits)

    @property
    def has_root(self) -> bool:
        """Whether workers have a root file system of their own."""
        return bool(self.namespaces & seccomp.CLONE_NEWNS)

    @property
    def has_pids(self) -> bool:
        """Whether an instance is the first process of a namespace: with it everything beneath it dies."""
        return bool(self.namespaces & seccomp.CLONE_NEWPID)

    @property
    def refuses_programs(self) -> str:
        """Why programs that listen on a unix socket cannot run here, or empty.

        POLICY: without namespaces nothing but the filter keeps a function from the host's unix sockets (Landlock does
        not), so it makes none at all (`runtime.seccomp`): neither can it make its own.
        """
        if self.namespaces or not self.diagnosis.has("seccomp"):
            return ""
        return (
            f"programs of one's own need namespaces, and this machine gives none (sandbox level "
            f"{self.diagnosis.level}; stokerd --doctor says why): without them no function can make unix sockets"
        )

    def _kinds(self) -> int:
        if not self.diagnosis.has("user", "instance"):
            return 0
        kinds = seccomp.CLONE_NEWUSER
        for name, kind in _KINDS.items():
            if self.diagnosis.has(name):
                kinds |= kind
        return kinds

    def hosts_id(self, function_id: str) -> int:
        """The user and group of the host that the function runs as; -1: the daemon's own."""
        if not (self.has_root and self.diagnosis.has("own-uid")):  # another user could not reach the bundle
            return -1
        if function_id not in self._uids:
            self._uids[function_id] = self._ids.claim()
        return self._uids[function_id]

    def walls(
        self, plan: LaunchPlan, *, run_dir: str, interpreter: str, writable: list[str], pycache: str, exact_memory: bool
    ) -> Walls:
        """The walls of the plan's function version.

        ``interpreter``: another Python than the daemon's, or empty. ``writable``: where there is no root file system
        of its own, what a template may write. ``pycache``: the host's directory of its compiled modules.
        ``exact_memory``: control groups limit the memory.

        Raises:
          NetworkError: the network that its app asks for cannot be had safely.
        """
        has = self.diagnosis.has
        limited = has("rlimits")
        instance_limits = {"NOFILE": self._limits.open_files_max}
        if self.namespaces & seccomp.CLONE_NEWUSER:
            # The kernel counts processes per user and user namespace: an instance has one of its own.
            instance_limits["NPROC"] = self._limits.processes_max
        walls = Walls(
            limits=self._common_limits(plan, exact_memory) if limited else {},
            instance_limits=instance_limits if limited else {},
            no_new_privs=has("no-new-privs"),
            namespaces=self.namespaces,
            instance_namespaces=self.namespaces & seccomp.OF_INSTANCES,
            hosts_id=self.hosts_id(plan.function_id),
            drop_capabilities=has("capabilities"),
            filter_calls=has("seccomp"),
            memfd=exact_memory,
            landlock=has("landlock"),
            scoped=has("landlock-scopes"),
            cgroup_view=has("cgroup-ns"),
        )
        grant = self.networks.grant(plan.network) if self.networks is not None else Grant(mode="host")
        if grant.namespace:
            walls.namespaces |= seccomp.CLONE_NEWNET
            walls.network, walls.relayed = grant.mode, grant.relayed
        walls.internet = grant.internet
        walls.connect_ports = None if grant.connect_ports is None else list(grant.connect_ports)
        resolver = _read("/etc/resolv.conf") if grant.resolver is None else grant.resolver
        if self.has_root:
            memory_mib = plan.memory_mib
            walls.root = {
                "mount_point": os.path.join(run_dir, "root"),
                "binds": self._binds(plan, interpreter, pycache),
                "files": _FILES | {"/etc/resolv.conf": resolver},
                "links": {path: os.readlink(path) for path in _USR_MERGED if os.path.islink(path)},
                "tmp_bytes": max(1, memory_mib * MIB // TMP_FRACTION),
                "tmp_inodes": max(16, memory_mib * TMP_INODES_PER_MIB),
            }
        elif not self.namespaces:
            bundle = [os.path.realpath(os.path.join(plan.bundle_dir, name)) for name in ("function", "python")]
            walls.readable = [*self.host_paths(interpreter), *_ETC, "/etc/resolv.conf", "/etc/hosts", *bundle, pycache]
            walls.readable += [plan.bundle_dir, "/etc/passwd", "/etc/group", "/etc/nsswitch.conf"]
            walls.readable += [plan.debugger] if plan.debugger else []
            walls.writable = [*writable, pycache]
        return walls

    def _common_limits(self, plan: LaunchPlan, exact_memory: bool) -> dict[str, int]:
        """Of the template and all instances. The template keeps a descriptor for each of its instances: no NOFILE.

        DATA counts the stacks of threads that nobody has touched: only where nothing counts better.
        """
        data = {"DATA": (plan.memory_mib + self._limits.memory_backstop_mib) * MIB}
        return {
            **({} if exact_memory else data),
            "CORE": 0,
            "FSIZE": plan.memory_mib * MIB,  # four times what /tmp holds
            "MEMLOCK": LOCKED_BYTES_MAX,
            "MSGQUEUE": 0,
        }

    def host_paths(self, interpreter: str) -> list[str]:
        """What every function can read of the host: system, interpreter, our packages, what the settings add."""
        prefixes = [os.path.dirname(os.path.dirname(os.path.realpath(interpreter)))] if interpreter else []
        if not interpreter:
            prefixes = [os.path.realpath(sys.base_prefix), os.path.realpath(sys.base_exec_prefix)]
        directories = [path for path in _USR_MERGED if os.path.isdir(path) and not os.path.islink(path)]
        return _without_nested([*_SYSTEM, *directories, *prefixes, *self._packages, *self._settings.readable])

    def _binds(self, plan: LaunchPlan, interpreter: str, pycache: str) -> list[list[str]]:
        same = [*self.host_paths(interpreter), *(path for path in _ETC if os.path.exists(path))]
        binds = [[os.path.realpath(path) if path in _ETC else path, path] for path in same]
        own = {"function": FUNCTION, "python": PACKAGES, "resources": RESOURCES}
        # Compiled modules are kept by the path of their source on the host; inside, that has another name.
        os.makedirs(pycache, 0o700, exist_ok=True)
        caches = []
        for name, inside in own.items():
            source = os.path.realpath(os.path.join(plan.bundle_dir, name))
            if os.path.isdir(source):
                binds.append([source, inside])
                cache, place = pycache + source, pycache + inside
                os.makedirs(cache, 0o755, exist_ok=True)
                os.makedirs(place, 0o755, exist_ok=True)
                caches.append([cache, PYCACHE + inside])
        debugger = [[plan.debugger, DEBUGGER]] if plan.debugger else []
        return [*binds, [pycache, PYCACHE], *caches, *debugger]

    def join(self, networks: Networks, daemon_ports: list[int], *, host_calls: bool) -> None:
        """From now on functions get networks of these, and do not reach the daemon's ``daemon_ports``.

        ``host_calls``: but for those in mode host.
        """
        has = self.diagnosis.has
        networks.has_namespaces = bool(self.namespaces) and has("net")
        networks.has_ports = networks.has_ports and has("landlock-net")
        networks.unlimited = not networks.has_namespaces and "landlock-net" in self._settings.switch_off
        networks.daemon_ports, networks.host_calls = daemon_ports, host_calls
        if self.namespaces and has("own-uid"):
            first = self._settings.uid_first
            networks.users = f"{first}-{first + UIDS - 1}"
        self.networks = networks

    def network(self, app: App, function_id: str) -> dict[str, Any]:
        """For people: what a function of the app may reach, and what it gets here."""
        if self.networks is None:
            return {"mode": "host"}
        policy = network_of(app.annotations, default=self.networks.settings.mode)
        known: dict[str, Any] = {"setting": policy.describe(), "method": self.networks.method}
        try:
            grant = self.networks.grant(policy)
        except NetworkError as exc:
            return {**known, "mode": "refused", "weaker": str(exc)}
        return {**known, "mode": grant.mode, "weaker": grant.weaker, "trouble": self.networks.trouble(function_id)}

    def trouble(self) -> str:
        """Why functions reach nothing outside just now; empty: they do, or never could."""
        return self.networks.trouble() if self.networks is not None else ""

    def describe(self) -> dict[str, Any]:
        """For people: what is in force."""
        return {"level": self.diagnosis.level, "missing": self.diagnosis.missing()}


def _without_nested(paths: list[str]) -> list[str]:
    """In order, without those that another one holds."""
    kept: list[str] = []
    for path in sorted(dict.fromkeys(paths), key=len):
        if not any(path == other or path.startswith(other.rstrip("/") + "/") for other in kept):
            kept.append(path)
    return kept


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(64 * 1024) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else ""
    except OSError:
        return ""
