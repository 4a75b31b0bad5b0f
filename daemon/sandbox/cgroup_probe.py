"""Where control groups can be made on this machine: read from /proc, then proven with a process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from daemon.sandbox.cgroups import CONTROLLERS, Cgroups, GroupLimits, Site, enable, own_paths
from runtime.cgroups import PAUSE_S, REMOVE_S, pids_in, write

PROBE_S = 30.0
"""How long the process of a probe may take."""


class CgroupError(Exception):
    """Groups cannot be used; the text says why."""


# -- where -------------------------------------------------------------------------------------------------------------


def mounts(mountinfo: str) -> Iterator[tuple[str, str, str, set[str]]]:
    """``(type, root, mount point, super options)`` of each cgroup mount in a text of /proc/PID/mountinfo (proc(5))."""
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields, rest = before.split(), after.split()
        if separator and len(fields) >= 5 and len(rest) >= 3 and rest[0] in ("cgroup", "cgroup2"):
            yield rest[0], _unescape(fields[3]), _unescape(fields[4]), set(rest[2].split(","))


def _unescape(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def _below(root: str, mount_point: str, path: str) -> str:
    """The directory of group ``path`` in a mount whose root is group ``root``."""
    if root != "/" and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    return (mount_point.rstrip("/") + "/" + path.strip("/")).rstrip("/")


def locate(mountinfo: str, own: str) -> list[Site]:
    """The places to try, the best first: v2 when it has a memory controller, else v1."""
    paths = own_paths(own)
    v1: dict[str, str] = {}
    v2 = top = ""
    for kind, root, point, options in mounts(mountinfo):
        if kind == "cgroup2" and not v2 and "" in paths:
            v2, top = _below(root, point, paths[""]), point
        elif kind == "cgroup":
            for name in options & set(CONTROLLERS):
                v1.setdefault(name, _below(root, point, paths.get(name, "/")))
    sites = []
    if v2:
        sites.append(Site(2, dict.fromkeys(CONTROLLERS, v2), dict.fromkeys(CONTROLLERS, paths[""])))
        if v2 != top:  # root may make groups beside its session's, where other processes are in that one
            sites.append(Site(2, dict.fromkeys(CONTROLLERS, top), dict.fromkeys(CONTROLLERS, "/")))
    if "memory" in v1:
        missing = [name for name in CONTROLLERS if name not in v1]
        reason = f"not mounted: {', '.join(missing)}" if missing else ""
        sites.append(Site(1, v1, {name: paths.get(name, "/") for name in v1}, reason))
    return sites


# -- probing -----------------------------------------------------------------------------------------------------------


def name_for(data_dir: Path) -> str:
    """The name of our directory: the same after a restart, another for another daemon."""
    return "stoker-" + hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:12]


def probe(name: str, *, setting: str = "auto", sites: list[Site] | None = None) -> tuple[Cgroups, str]:
    """The groups that this machine allows, proven with a process, and why not better ones (empty: nothing is missing).

    ``setting``: ``auto``, ``v2``, ``v1`` or ``off``. What a daemon of the same name left is swept.
    """
    if setting == "off":
        return Cgroups(Site(reason="switched off by limits.cgroups"), name), "switched off by limits.cgroups"
    reasons = []
    for site in _sites() if sites is None else sites:
        if setting not in ("auto", f"v{site.version}"):
            continue
        try:
            usable = _ready(site)
            groups = Cgroups(usable, name)
            groups.prepare()
            _try_out(groups)
            return groups, usable.reason
        except (OSError, CgroupError, subprocess.TimeoutExpired) as exc:
            reasons.append(f"v{site.version}: {exc}")
    reason = "; ".join(dict.fromkeys(reasons)) or "no cgroup file system with a memory controller is mounted"
    return Cgroups(Site(reason=reason), name), reason


def _sites() -> list[Site]:
    try:
        return locate(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
    except OSError:
        return []


def _ready(site: Site) -> Site:
    """The site with the controllers that can really be used; on v2 we move into a group below it if we must.

    Raises:
      CgroupError: no memory limits here.
      OSError: not allowed.
    """
    if site.version == 1:
        usable = {name: path for name, path in site.parents.items() if os.access(path, os.W_OK)}
        if "memory" not in usable:
            raise CgroupError(f"{site.parents['memory']} is not writable")
        reason = "; ".join(
            filter(None, (site.reason, *(f"{n}: not writable" for n in site.parents if n not in usable)))
        )
        return Site(1, usable, {n: site.paths[n] for n in usable}, reason)
    parent = site.parents["memory"]
    there = Path(parent, "cgroup.controllers").read_text().split()
    if "memory" not in there:
        raise CgroupError(f"{parent} has no memory controller (it has: {' '.join(there) or 'none'})")
    if not os.access(parent, os.W_OK):
        raise CgroupError(f"{parent} is not writable: run under systemd with Delegate=yes, or as root")
    usable = {name: parent for name in CONTROLLERS if name in there}
    missing = [name for name in CONTROLLERS if name not in there]
    if site.paths["memory"] != "/":
        _move_aside(parent)
    enable(parent, tuple(usable))
    reason = f"not delegated: {', '.join(missing)}" if missing else ""
    return Site(2, usable, {n: site.paths[n] for n in usable}, reason)


def _move_aside(parent: str) -> None:
    """Go to a group below ``parent``: one that has processes cannot have limited groups below it (v2's rule)."""
    others = [pid for pid in pids_in(parent) if pid != os.getpid()]
    if others:
        raise CgroupError(f"{parent} has other processes in it (pid {others[0]}): it must be the daemon's own")
    if os.getpid() in pids_in(parent):
        os.makedirs(f"{parent}/stoker-daemon", exist_ok=True)
        write(f"{parent}/stoker-daemon/cgroup.procs", os.getpid())


def _try_out(groups: Cgroups) -> None:
    """Make a group, let a process join it the way workers do, and remove it.

    Raises:
      CgroupError, OSError: it does not work here.
    """
    group = groups.make("probe", "p", GroupLimits(memory_bytes=64 * 2**20, processes=16, cpu=1.0), memory_mib=128)
    fds = group.join_fds()
    try:
        code = f"import os; [os.write(fd, b'0') for fd in {fds}]; os.write(1, b'.'); os.read(0, 1)"
        interpreter = getattr(sys, "_base_executable", None) or sys.executable
        with subprocess.Popen(
            [interpreter, "-I", "-S", "-c", code], pass_fds=fds, env={},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            try:
                if process.stdout.read(1) != b"." or not group.holds(process.pid):
                    raise CgroupError("a process cannot join a group")
            finally:
                group.kill()
                process.kill()
                process.wait(PROBE_S)
    finally:
        for fd in fds:
            os.close(fd)
        until_s = time.monotonic() + REMOVE_S
        while not groups.remove("probe", group) and time.monotonic() < until_s:
            time.sleep(PAUSE_S)
