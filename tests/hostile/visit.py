"""One hostile function on one site: deployed, called, judged from inside and outside, removed, and looked for again."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from daemon.sandbox.relays import PROGRAMS
from tests.hostile.site import MEMORY_MIB, Neighbour, Site, answer_of, pids_of
from tests.system.daemon import Reply, eventually

GONE_S = 60.0
"""How long what a removed function started may take to disappear before it counts as left behind."""
RSS_GROWTH_MAX = 64 * 2**20
"""How much larger the daemon may be after an attack: its buffers for one call of each kind, never an attack's size."""
FDS_GROWTH_MAX = 24
"""Descriptors that the daemon may hold after an attack and not before: the neighbour's, the store's."""
CRASH = ("function-crashed", "function-failed", "function-out-of-memory", "function-timeout", "invalid-response")
OOM = ("function-out-of-memory",)
POLLED_TRIES = 6
"""How often an attack on memory is made where that is polled: a busy machine looks late, but not every time."""
UPSET = re.compile(r'"level": "(error|critical)"')
"""What no function may make the daemon say."""


class Visit:
    """What an attack's test has in its hands. ``violations`` collects ``name: detail``."""

    def __init__(self, site: Site, neighbour: Neighbour, host: Mapping[str, Any], name: str) -> None:
        self.site, self.neighbour, self.host, self.name = site, neighbour, host, name
        self.violations: list[str] = []
        self.function_id = ""
        self.shm_name = f"stoker-{secrets.token_hex(6)}"
        self.memory_mib = MEMORY_MIB
        self._before = self._outside()
        self._litter = set(temporary(site))
        self._there = {p.pid for p in site.inside()}  # what an earlier attack left is not this one's

    # -- the function ------------------------------------------------------------------------------------------------

    def send(self, **settings: Any) -> str:
        """Deploy it (again, with other settings)."""
        self.memory_mib = settings.get("memory", self.memory_mib)
        self.function_id = self.site.send(self.name, **{"memory": self.memory_mib, **settings})
        return self.function_id

    def told(self, **more: Any) -> dict[str, Any]:
        """What functions are told of what is around them, so that they need not guess."""
        site = self.site
        data, outside = str(site.data), str(site.outside)
        others = [str(path) for path in site.data.glob("bundles/sha256/*/function/func.py")][:3]
        own = self.site.configuration.namespaces
        return {
            "limit_mib": self.memory_mib,
            "tmp_is_memory": own,
            "tmp_mib": self.memory_mib // 4,
            "tmp_inodes": 8 * self.memory_mib,
            "canary": site.canary[::-1],
            "victims": [f"{outside}/writable.txt", f"{outside}/dropbox"],
            "directories": [str(site.base), data, outside, f"{outside}/dropbox", *(os.path.dirname(p) for p in others)],
            "files": [f"{outside}/writable.txt", f"{outside}/secret.txt", f"{data}/stoker.db"],
            "secret_files": [
                f"{outside}/secret.txt",
                f"{outside}/readable.txt",
                f"{data}/stoker.db",
                f"{site.base}/stoker.yaml",
            ],
            "secret_directories": [data, outside, f"{data}/bundles", f"{data}/logs"],
            "pids": site.pids_told()[:6],
            "armed": False,
            "ports": [site.port, self.host["tcp"]],
            "hosts": ["127.0.0.1", "::1", "127.0.0.53", "0.0.0.0", *own_addresses()],
            "sockets": [str(site.data / "stoker.sock"), "/run/dbus/system_bus_socket", "/var/run/docker.sock"],
            "abstract": [self.host["abstract"]],
            "datagram_ports": [self.host["udp"]],
            "uid": 1000 if own else 0,
            "cgroups": own_cgroups(site.pid),
            "own_cgroup_root": own,
            "shm_name": self.shm_name,
            "paths": [str(site.base)],
            "hostname": socket.gethostname(),
            "own_uts": own,
            "cpus": len(os.sched_getaffinity(0)),
            "umask": 0o022,
            **more,
        }  # fmt: skip

    def invoke(self, **told: Any) -> Reply:
        return self.site.invoke(self.function_id, json.dumps(self.told(**told)))

    def call(self, **told: Any) -> dict[str, Any]:
        """A call that must be answered; the violations that it reports are taken over."""
        answer = answer_of(self.invoke(**told))
        self.violations += answer["violations"]
        return answer

    def error(self, *codes: str, **told: Any) -> Reply:
        """A call that must end in one of these documented errors."""
        reply = self.invoke(**told)
        self.check_error(reply, codes)
        return reply

    def either(self, *codes: str, **told: Any) -> Reply:
        """A call that is answered, and then reports its violations, or ends in one of these errors."""
        reply = self.invoke(**told)
        if reply.status == 200:
            self.violations += answer_of(reply)["violations"]
        else:
            self.check_error(reply, codes)
        return reply

    def check_error(self, reply: Reply, codes: tuple[str, ...]) -> None:
        code = reply.json.get("code", "?") if reply.status != 200 else "answered"
        if code not in codes:
            self.violation("wrong-outcome", f"{reply.status} {reply.body[:300]!r} where one of {codes} must come")

    def at_once(self, count: int, **told: Any) -> list[Reply]:
        """Calls at the same time: each needs an instance of its own."""
        with concurrent.futures.ThreadPoolExecutor(count) as pool:
            return list(pool.map(lambda _: self.invoke(**told), range(count)))

    def violation(self, name: str, detail: str = "") -> None:
        self.violations.append(f"{name}: {detail}")

    def check(self, good: object, name: str, detail: str = "") -> None:
        if not good:
            self.violation(name, detail)

    def fill_memory(self) -> None:
        """A call that fills the memory and must be stopped. Where memory is polled, the best of several counts."""
        for left in reversed(range(POLLED_TRIES if self.site.configuration.memory_polled else 1)):
            before = len(self.violations)
            self.memory_of(self.either(*OOM))
            found = {v.partition(":")[0] for v in self.violations[before:]}
            if not left or found != {"memory-over-limit"}:
                return
            del self.violations[before:]

    def memory_of(self, reply: Reply) -> None:
        """An out-of-memory error tells the peak: at most 10 % or 64 MiB above the limit, 256 MiB where it is polled."""
        if found := re.search(rb"peak (\d+) MiB", reply.body):
            over = int(found[1]) - self.memory_mib
            slack = 256 if self.site.configuration.memory_polled else 64
            self.check(over <= max(slack, self.memory_mib // 10), "memory-over-limit", reply.body.decode())

    def confirmed_namespace(self) -> bool:
        """Whether the function's instances are in a process-id namespace that is neither ours nor the daemon's."""
        (instance, *_) = [i for i in self.site.instances(self.function_id) if i["pid"]]
        # Not /proc/PID/ns, which shows nothing of a program to an ordinary user.
        return len(pids_of(self.site.host_pid(instance["pid"]))) > len(pids_of(self.site.pid))

    # -- the judgement from outside ---

    def _outside(self) -> dict[str, Any]:
        site, daemon = self.site, psutil.Process(self.site.pid)
        return {
            "files": site.state_of_outside(),
            "mounts": site.mounts(),
            "host mounts": [line for line in host_mounts() if str(site.base) in line],
            "fds": daemon.num_fds(),
            "rss": daemon.memory_info().rss,
            "stderr": len(site.stderr()),
            "size": size_of(site.base),
        }

    def judge(self) -> list[str]:
        """Remove the function and look at everything around it; all violations, of the inside too."""
        site, before = self.site, self._before
        self.neighbour.call()
        self.violations += [f"neighbour: {failure}" for failure in self.neighbour.take_failures()]
        if self.function_id:
            site.remove(self.function_id)
        left = gone(site, self.neighbour, self._there)
        self.check(not left, "left-behind", f"{left}")
        if not psutil.pid_exists(site.pid):
            self.violation("daemon-died", site.stderr()[-500:])
            return self.violations
        after = self._outside()
        self.check(
            after["files"] == before["files"], "touched-outside", f"{differences(before['files'], after['files'])}"
        )
        for key in ("mounts", "host mounts"):
            new = set(after[key]) - set(before[key])
            self.check(not new, "mount-left", f"{sorted(new)[:3]}")
        daemon = psutil.Process(site.pid)
        with contextlib.suppress(AssertionError):
            settle(lambda: daemon.num_fds() <= before["fds"] + FDS_GROWTH_MAX)
        fds, rss = daemon.num_fds(), daemon.memory_info().rss
        self.check(fds <= before["fds"] + FDS_GROWTH_MAX, "daemon-descriptors", f"{before['fds']}, then {fds}")
        self.check(rss <= before["rss"] + RSS_GROWTH_MAX, "daemon-memory", f"{before['rss']}, then {rss}")
        said = site.stderr()[before["stderr"] :]
        wrong = [line for line in said.splitlines() if line.startswith("Traceback") or UPSET.search(line)]
        self.check(not wrong, "daemon-error", f"{wrong[:2]}")
        grown = after["size"] - before["size"]
        self.check(grown < 40 * 2**20, "disk", f"{grown} bytes more than before")
        self.check(not (heard := self.host["heard"]()), "reached-host", f"{heard}")
        if (shm := Path("/dev/shm", self.shm_name)).exists():
            self.violation("left-behind", str(shm))
            shm.unlink()
        with contextlib.suppress(AssertionError):
            settle(lambda: not set(temporary(site)) - alive_names(site) - self._litter)
        stray = set(temporary(site)) - alive_names(site) - self._litter
        self.check(not stray, "left-behind", f"temporary directories {stray}")
        return self.violations


def settle(condition: Any) -> None:
    """Wait a little for what follows by itself."""
    end_s = time.monotonic() + GONE_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def family(site: Site, function_id: str) -> set[int]:
    """Host pids of a function's processes: everything beneath the spawner's child that holds its instances."""
    found: set[int] = set()
    spawner = site.spawner.pid
    for instance in site.instances(function_id):
        with contextlib.suppress(LookupError, psutil.Error):
            process = psutil.Process(site.host_pid(instance["pid"]))
            while process.ppid() != spawner:
                process = process.parent() or psutil.Process(1)
            found |= {process.pid} | {p.pid for p in process.children(recursive=True)}
    return found


def gone(site: Site, neighbour: Neighbour, there: set[int]) -> list[str]:
    """What is there beside the daemon, the spawner, the neighbour and what was before, after it had time to go."""
    left: list[psutil.Process] = []

    def nothing_left() -> bool:
        nonlocal left
        try:
            expected = there | family(site, neighbour.function_id) | {site.spawner.pid}
            inside = site.inside()
            left = [p for p in inside if p.pid not in expected and p.is_running()]
            # Each version's first process has at most one relay, the daemon's child; the neighbour may start some anew.
            relays = [p for p in inside if p.name().startswith(PROGRAMS)]
            if len(relays) <= len(site.spawner.children()):
                left = [p for p in left if p not in relays]
        except (psutil.Error, StopIteration):
            return False
        return not left

    try:
        settle(nothing_left)
    except AssertionError:
        return [f"{p.pid} {p.name()}" for p in left if p.is_running()]
    return []


def temporary(site: Site) -> list[str]:
    """Names of the workers' temporary directories."""
    try:
        return os.listdir(site.data / "run" / "tmp")
    except FileNotFoundError:
        return []


def alive_names(site: Site) -> set[str]:
    return {f"i{instance['id']}" for instance in site.instances()} | {n for n in temporary(site) if n.startswith("t")}


def host_mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


def size_of(top: Path) -> int:
    """Bytes of files beneath, what disappears meanwhile left out."""
    total = 0
    for directory, _, names in os.walk(top):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
    return total


def own_addresses() -> list[str]:
    """Addresses of the machine that are not loopback."""
    found = [a.address for addresses in psutil.net_if_addrs().values() for a in addresses
             if a.family == socket.AF_INET and not a.address.startswith("127.")]  # fmt: skip
    return found[:2]


def own_cgroups(pid: int) -> list[str]:
    """Directories of the cgroups that the daemon is in, as far as they are mounted."""
    found = []
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        top = f"/sys/fs/cgroup/{controllers.removeprefix('name=') or 'unified'}"
        found.append(f"{top}{path}".rstrip("/"))
    return [path for path in found if os.path.isdir(path)]


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]


__all__ = ["CRASH", "OOM", "Visit", "eventually"]
