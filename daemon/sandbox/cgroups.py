"""Control groups: exact limits of memory, processes and CPU for an instance's whole tree.

    <the daemon's own group>/stoker-<hash of its data directory>/<function>/i<number>      an instance
                                                                 /t<number>      a template

On cgroup v2 (*unified*) these are directories of one tree; on v1, of one tree per controller. `cgroup_probe`
finds out what the machine allows. All calls are plain file operations of 10 to 60 us. What joins is the new process
itself (`runtime.cgroups.join`), through descriptors opened here; `Group.holds` proves it.
"""

from __future__ import annotations

import fcntl
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from runtime.cgroups import kill_all, pids_in, remove_tree, write

CONTROLLERS = ("memory", "pids", "cpu")
_NAME = re.compile(r"stoker-[0-9a-f]{12}")
PERIOD_US = 100_000
"""Period of CPU limits: the kernel's default. An instance with ``cpu`` 0.5 runs 50 ms in each."""
SHARES_PER_MIB = 8
"""CPU weight on v1 by memory: a function of 128 MiB has the kernel's default, 1024."""


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """What one group may use. 0: no limit."""

    memory_bytes: int = 0
    processes: int = 0
    """Threads count."""
    cpu: float = 0.0
    """Cores: 0.5 is half of one."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where groups can be made: a directory per controller (all the same on v2), and which version that is."""

    version: int = 0
    """2, 1, or 0: nowhere."""
    parents: dict[str, str] = field(default_factory=dict)
    """Controller -> the directory under which ours are made."""
    paths: dict[str, str] = field(default_factory=dict)
    """The same directories as /proc/PID/cgroup names them."""
    reason: str = ""
    """Why a controller is missing, for people."""


# -- groups ------------------------------------------------------------------------------------------------------------


class Group:
    """One control group (v1: one directory per controller). Made by `Cgroups.make`."""

    def __init__(self, version: int, directories: dict[str, str], paths: dict[str, str]) -> None:
        self._version = version
        self._directories = directories
        self._paths = paths
        self._files: dict[str, int] = {}
        self._peak_bytes = 0
        self.oom_kills = 0
        """Processes in it that the kernel killed for memory, as of the last `read` or `peak`."""
        self.limits = GroupLimits()

    def set(self, limits: GroupLimits) -> None:
        """Apply the limits.

        Raises:
          OSError: the kernel refuses.
        """
        self.limits = limits
        memory = self._directories.get("memory", "")
        if memory and limits.memory_bytes:
            if self._version == 2:
                write(f"{memory}/memory.max", limits.memory_bytes)
                write(f"{memory}/memory.swap.max", 0, optional=True)
                write(f"{memory}/memory.oom.group", 1, optional=True)
            else:
                write(f"{memory}/memory.limit_in_bytes", limits.memory_bytes)
                write(f"{memory}/memory.memsw.limit_in_bytes", limits.memory_bytes, optional=True)
        pids = self._directories.get("pids", "")
        if pids and limits.processes:
            write(f"{pids}/pids.max", limits.processes)
        cpu = self._directories.get("cpu", "")
        if cpu and limits.cpu:
            quota = max(1000, round(limits.cpu * PERIOD_US))
            if self._version == 2:
                write(f"{cpu}/cpu.max", f"{quota} {PERIOD_US}")
            else:
                write(f"{cpu}/cpu.cfs_period_us", PERIOD_US)
                write(f"{cpu}/cpu.cfs_quota_us", quota)

    def join_fds(self) -> list[int]:
        """New descriptors for `runtime.cgroups.join`; the caller closes them.

        Raises:
          OSError: no descriptors left, or not allowed.
        """
        name = "cgroup.procs" if self._version == 2 else "tasks"
        fds: list[int] = []
        try:
            for directory in dict.fromkeys(self._directories.values()):
                fds.append(os.open(f"{directory}/{name}", os.O_WRONLY | os.O_CLOEXEC))
        except OSError:
            for fd in fds:
                os.close(fd)
            raise
        return fds

    def holds(self, pid: int) -> bool:
        """Whether the process is in the group, or gone."""
        try:
            with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as file:
                actual = own_paths(file.read())
        except OSError:
            return True
        return all(actual.get("" if self._version == 2 else name) == path for name, path in self._paths.items())

    def read(self) -> int:
        """Bytes in use by the group and everything in it, page cache that can be dropped aside; 0 when unknown."""
        name = "memory.current" if self._version == 2 else "memory.usage_in_bytes"
        used = self._number(name)
        self._peak_bytes = max(self._peak_bytes, used)
        self._count_kills()
        # Files read count until the kernel needs the room. Only a full-looking group is worth a look at them.
        if self.limits.memory_bytes and used > self.limits.memory_bytes // 2:
            used -= min(used, self._page_cache())
        return used

    def peak(self) -> int:
        """Most bytes that it ever used at once, page cache included."""
        name = "memory.peak" if self._version == 2 else "memory.max_usage_in_bytes"
        self._peak_bytes = max(self._peak_bytes, self._number(name))
        self._count_kills()
        return self._peak_bytes

    @property
    def limits_processes(self) -> bool:
        """Whether the kernel limits its processes."""
        return "pids" in self._directories

    def oom_eventfd(self) -> int:
        """A new eventfd that becomes readable when the group runs full (v1; -1 on v2, where the kernel kills it whole).

        It does so too when the group is removed. The caller closes it.

        Raises:
          OSError: the kernel refuses.
        """
        if self._version == 2 or "memory" not in self._directories:
            return -1
        directory = self._directories["memory"]
        eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
            try:
                write(f"{directory}/cgroup.event_control", f"{eventfd} {control}")
            finally:
                os.close(control)
        except OSError:
            os.close(eventfd)
            raise
        return eventfd

    def processes(self) -> list[int]:
        """Its processes, those of groups below it not among them."""
        found: set[int] = set()
        for directory in dict.fromkeys(self._directories.values()):
            found.update(pids_in(directory))
        return sorted(found)

    def kill(self) -> None:
        """SIGKILL everything in it. On v2 in one step; on v1 no process can be born any more, then each is killed."""
        if self._version == 2:
            directory = next(iter(self._directories.values()))
            try:
                write(f"{directory}/cgroup.kill", 1)
                return
            except OSError:
                pass  # before Linux 5.14, or it is gone
        if pids := self._directories.get("pids"):
            try:
                write(f"{pids}/pids.max", 0)
            except OSError:
                pass  # it is gone
        kill_all(list(dict.fromkeys(self._directories.values())))

    def try_remove(self) -> bool:
        """Remove it if nothing is in it any more; whether it is gone. It is of no use afterwards."""
        self._close_files()
        for directory in dict.fromkeys(self._directories.values()):
            try:
                os.rmdir(directory)
            except FileNotFoundError:
                pass
            except OSError:
                return False
            self._directories = {n: d for n, d in self._directories.items() if d != directory}
        return True

    def _close_files(self) -> None:
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()

    def _text(self, name: str) -> bytes:
        """The content of a file of the memory controller; it is kept open."""
        directory = self._directories.get("memory", "")
        if not directory:
            return b""
        try:
            if (fd := self._files.get(name, -1)) < 0:
                fd = self._files[name] = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            return os.pread(fd, 8192, 0)
        except OSError:
            return b""

    def _number(self, name: str) -> int:
        text = self._text(name).strip()
        return int(text) if text.isdigit() else 0

    def _count_kills(self) -> None:
        text = self._text("memory.events" if self._version == 2 else "memory.oom_control")
        self.oom_kills = max(self.oom_kills, _field(text, b"oom_kill"))

    def _page_cache(self) -> int:
        stat = self._text("memory.stat")
        prefix = b"" if self._version == 2 else b"total_"
        return _field(stat, prefix + b"inactive_file") + _field(stat, prefix + b"active_file")


class Cgroups:
    """All groups of one daemon."""

    def __init__(self, site: Site, name: str) -> None:
        """``name``: of our directory, unique to this daemon."""
        self.site = site
        self.name = name
        self._locks: list[int] = []
        self._functions: dict[str, int] = {}
        """How many groups each function's group has."""

    @property
    def active(self) -> bool:
        """Whether groups are made at all."""
        return self.site.version != 0

    @property
    def controllers(self) -> tuple[str, ...]:
        """Which limits are the kernel's."""
        return tuple(name for name in CONTROLLERS if name in self.site.parents)

    @property
    def count(self) -> int:
        """Groups of instances and templates at present."""
        return sum(self._functions.values())

    def describe(self) -> dict[str, object]:
        """For people."""
        return {
            "version": self.site.version,
            "controllers": list(self.controllers),
            "directories": self.directories,
            "reason": self.site.reason,
        }

    @property
    def directories(self) -> list[str]:
        """Ours, in each hierarchy: everything is beneath them."""
        return sorted({self._directory(name) for name in self.controllers})

    def _directory(self, controller: str, *names: str) -> str:
        return "/".join((self.site.parents[controller], self.name, *names))

    def make(self, function: str, name: str, limits: GroupLimits, *, memory_mib: int = 0) -> Group:
        """A new group of the function. ``memory_mib`` sets the function's CPU weight.

        Raises:
          OSError: no room, or a name is taken.
        """
        function = safe(function)
        if function not in self._functions:
            self._make_function(function, memory_mib)
        directories = {c: self._directory(c, function, name) for c in self.controllers}
        made: list[str] = []
        try:
            for directory in dict.fromkeys(directories.values()):
                os.mkdir(directory)
                made.append(directory)
            group = Group(self.site.version, directories, self._paths(directories))
            group.set(limits)
        except OSError:
            for directory in made:
                os.rmdir(directory)
            raise
        self._functions[function] += 1
        return group

    def remove(self, function: str, group: Group) -> bool:
        """Remove a group that should be empty, and the function's with the last; whether that was possible."""
        function = safe(function)
        if not group.try_remove():
            return False
        left = self._functions[function] = self._functions.get(function, 1) - 1
        if left <= 0:
            del self._functions[function]
            for directory in {self._directory(c, function) for c in self.controllers}:
                try:
                    os.rmdir(directory)
                except OSError:
                    pass  # one that could not be removed is in it; the next start sweeps it
        return True

    def _make_function(self, function: str, memory_mib: int) -> None:
        for directory in {self._directory(c, function) for c in self.controllers}:
            os.makedirs(directory, exist_ok=True)
            if self.site.version == 2:
                enable(directory, self.controllers)
        if "cpu" in self.controllers and memory_mib:
            directory = self._directory("cpu", function)
            shares = min(262_144, max(2, memory_mib * SHARES_PER_MIB))
            if self.site.version == 2:
                write(f"{directory}/cpu.weight", min(10_000, max(1, shares * 100 // 1024)))
            else:
                write(f"{directory}/cpu.shares", shares)
        self._functions[function] = 0

    def _paths(self, directories: dict[str, str]) -> dict[str, str]:
        """Directories as /proc/PID/cgroup names them."""
        site = self.site
        return {n: site.paths[n].rstrip("/") + d[len(site.parents[n]) :] for n, d in directories.items()}

    def prepare(self) -> None:
        """Make our directory, empty of what a daemon that was killed left.

        Raises:
          OSError: not allowed.
        """
        for name in self.controllers:
            directory = self._directory(name)
            if os.path.isdir(directory):
                remove_tree(directory)
            self._sweep_beside(os.path.dirname(directory))
            self._make_locked(directory)
            if self.site.version == 2:
                enable(directory, self.controllers)
        if self.site.version == 1 and "cpu" in self.controllers:
            # All functions together against the daemon, which is one process of weight 1024 beside them.
            write(f"{self._directory('cpu')}/cpu.shares", 1024 * (os.cpu_count() or 1))

    def _make_locked(self, directory: str) -> None:
        """Make it and lock it for as long as we live: so others see that it is not left over."""
        while True:
            os.makedirs(directory, exist_ok=True)
            try:
                fd = lock(directory)
            except FileNotFoundError:
                continue  # swept by another daemon that was quicker than our lock
            if fd >= 0 and os.path.isdir(directory):
                self._locks.append(fd)
                return
            if fd >= 0:
                os.close(fd)
            else:
                return  # its former daemon's spawner is just removing what is in it

    def _sweep_beside(self, parent: str) -> None:
        """Remove what daemons on other data directories left that are gone: nobody holds their locks."""
        for entry in os.scandir(parent):
            if _NAME.fullmatch(entry.name) and entry.path not in self.directories and not _any_process(entry.path):
                try:
                    fd = lock(entry.path)
                except OSError:
                    continue
                if fd >= 0:
                    remove_tree(entry.path)
                    os.close(fd)

    def close(self) -> None:
        """Kill and remove everything in our directory, and the directory."""
        for directory in self.directories:
            remove_tree(directory)
        for fd in self._locks:
            os.close(fd)
        self._locks.clear()
        self._functions.clear()


# -- files -------------------------------------------------------------------------------------------------------------


def safe(name: str) -> str:
    """A directory name of anything."""
    return "".join(c if c.isalnum() and c.isascii() else "-" for c in name)[:64] or "-"


def own_paths(text: str) -> dict[str, str]:
    """Controller -> path of the process, from a text of /proc/PID/cgroup; ``""`` is the unified tree."""
    found = {}
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        for name in names.split(","):
            found[name] = path
    return found


def lock(directory: str) -> int:
    """A descriptor that holds the directory's lock, or -1 when another process does.

    Raises:
      OSError: there is no such directory.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return -1
    return fd


def enable(directory: str, controllers: tuple[str, ...]) -> None:
    """Let the groups below a v2 directory have the controllers.

    Raises:
      OSError
    """
    missing = set(controllers) - set(Path(directory, "cgroup.subtree_control").read_text().split())
    if missing:
        write(f"{directory}/cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(missing)))


def _any_process(directory: str) -> bool:
    return any(pids_in(path) for path, _, _ in os.walk(directory))


def _field(text: bytes, name: bytes) -> int:
    """The number after ``name`` in lines of ``name number``."""
    for line in text.splitlines():
        key, _, value = line.partition(b" ")
        if key == name and value.strip().isdigit():
            return int(value)
    return 0
