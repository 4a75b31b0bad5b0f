"""Tries each mechanism of the sandbox in a child that is thrown away: what works here, never what should.

A program of its own (`main`): the daemon has threads, and must not fork. What it prints is one JSON object: name of the
probe to what it found, ``{"works": bool, "late": bool, "detail": str}``. Late: it did not end in time.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from runtime import landlock, linux, namespaces, privileges, rootfs, seccomp

PROBE_S = 10.0
"""Longest time for one probe: a kernel that hangs must not hang the daemon."""
TRIES = 2
"""How often a probe that takes longer is made, before it counts as undecided: a busy machine is slow, not open."""
TEXT_BYTES_MAX = 2000

_USER = seccomp.CLONE_NEWUSER
_VERSION = _USER | seccomp.CLONE_NEWNS | seccomp.CLONE_NEWPID | seccomp.CLONE_NEWIPC | seccomp.CLONE_NEWUTS


class Missing(Exception):
    """The mechanism does not do what it is there for."""


def main(argument: str) -> None:
    """Probe everything and print what was found. ``argument``: the first host id for functions."""
    host_id = int(argument) if os.geteuid() == 0 else -1
    directory = tempfile.mkdtemp(prefix="stoker-probe-")
    try:
        found = {name: _found(probe) for name, probe in _probes(directory, host_id).items()}
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    version = landlock.abi()
    found["landlock"]["detail"] = found["landlock"]["detail"] or f"version {version}"
    json.dump(found, sys.stdout)


def _probes(directory: str, host_id: int) -> dict[str, Callable[[], None]]:
    def own_id() -> None:
        if os.geteuid() != 0:
            raise Missing("only root may give each function a user of its own")
        _in_child(_USER, lambda: _becomes(namespaces.UID), host_id)

    return {
        "user": lambda: _in_child(
            _USER, lambda: _expect(os.getuid() == (0 if host_id >= 0 else namespaces.UID)), host_id
        ),
        "own-uid": own_id,
        "mount": lambda: _in_child(_USER | seccomp.CLONE_NEWNS, lambda: _root(directory), host_id),
        "pid": lambda: _in_child(_USER | seccomp.CLONE_NEWPID, lambda: _expect(os.getpid() == 1), host_id),
        "ipc": lambda: _in_child(_USER | seccomp.CLONE_NEWIPC, lambda: None, host_id),
        "uts": lambda: _in_child(_USER | seccomp.CLONE_NEWUTS, lambda: namespaces.set_host_name("probe"), host_id),
        "net": lambda: _in_child(_USER | seccomp.CLONE_NEWNET, _no_network, host_id),
        "cgroup-ns": lambda: _in_child(_USER, namespaces.own_cgroup_view, host_id),
        "proc": lambda: _in_child(_USER | seccomp.CLONE_NEWNS | seccomp.CLONE_NEWPID, rootfs.mount_proc, host_id),
        "instance": lambda: _in_child(_VERSION, lambda: _instance(directory), host_id),
        "capabilities": _capabilities,
        "no-new-privs": linux.set_no_new_privs,
        "seccomp": _seccomp,
        "landlock": _landlock,
        "landlock-net": _landlock_net,
        "landlock-scopes": _landlock_scopes,
    }


def _found(probe: Callable[[], None]) -> dict[str, Any]:
    for left in reversed(range(TRIES)):
        found = _tried(probe)
        if not (found["late"] and left):
            break
    return found


def _tried(probe: Callable[[], None]) -> dict[str, Any]:
    read, write = os.pipe()
    sys.stdout.flush()
    if (pid := os.fork()) == 0:
        os.close(read)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, PROBE_S)
        _report(write, probe)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        text = pipe.read(TEXT_BYTES_MAX).decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    late = code == -signal.SIGALRM
    if late:
        text = f"the probe did not end within {PROBE_S:g} s: it may work all the same"
    elif code < 0 and not text:
        text = f"the probe was killed by {signal.Signals(-code).name}"
    return {"works": code == 0, "late": late, "detail": text}


def _report(fd: int, probe: Callable[[], None]) -> None:
    """In a child: probe, say what went wrong, and end."""
    code = 1
    try:
        probe()
        code = 0
    except BaseException as exc:
        os.write(fd, (str(exc) or type(exc).__name__).encode()[:TEXT_BYTES_MAX])
    finally:
        os._exit(code)


def _in_child(kinds: int, probe: Callable[[], None], host_id: int) -> None:
    """``probe`` in a child in new namespaces."""
    if not namespaces.available():
        raise Missing(f"this kernel or architecture ({os.uname().machine}) lacks what a child in namespaces needs")
    go_read, go_write = os.pipe()
    read, write = os.pipe()
    parent_pid = 0 if kinds & seccomp.CLONE_NEWPID else os.getpid()
    if (pid := namespaces.clone(kinds)) == 0:
        linux.die_with_parent(signal.SIGKILL, parent_pid)  # which the alarm ends
        os.close(go_write)
        os.close(read)
        if not os.read(go_read, 1):
            os._exit(1)
        _report(write, probe)
    os.close(write)
    try:
        namespaces.map_ids(pid, host_id)
        os.write(go_write, b"x")
    finally:
        os.close(go_write)
        with os.fdopen(read, "rb") as pipe:
            text = pipe.read(TEXT_BYTES_MAX).decode(errors="replace")
        _, status = os.waitpid(pid, 0)
    if status:
        raise Missing(text or f"wait status {status}")


def _expect(true: bool, otherwise: str = "it has no effect") -> None:
    if not true:
        raise Missing(otherwise)


def _becomes(uid: int) -> None:
    privileges.become(uid)
    _expect(os.getresuid() == (uid,) * 3)


def _root(directory: str) -> None:
    rootfs.build(_root_of(directory))
    _expect(sorted(os.listdir("/")) == ["dev", "proc", "tmp", "usr", "var"], "the root is not what was put together")
    try:
        os.mkdir("/usr/probe")
    except OSError:
        return
    raise Missing("the root can be written")


def _root_of(directory: str) -> rootfs.Root:
    return {
        "mount_point": directory,
        "binds": [["/usr", "/usr"]],
        "files": {},
        "links": {},
        "tmp_bytes": 2**20,
        "tmp_inodes": 64,
    }


def _instance(directory: str) -> None:
    """All that an instance is made of, inside all that its template is made of."""
    rootfs.build(_root_of(directory))
    privileges.become(namespaces.UID)
    linux.set_no_new_privs()
    privileges.drop_capabilities()
    privileges.filter_system_calls(seccomp.template_filter(os.uname().machine))
    pid = namespaces.clone(seccomp.OF_INSTANCES)
    if pid == 0:
        code = 1
        try:
            privileges.set_dumpable()
            namespaces.keep_ids()
            rootfs.mount_tmp(_root_of(directory))
            rootfs.mount_proc()
            privileges.drop_capabilities()
            privileges.filter_system_calls(seccomp.instance_filter(os.uname().machine))
            code = 0 if os.getpid() == 1 and os.getuid() == namespaces.UID else 2
        except OSError as exc:
            code = exc.errno or 1
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    _expect(code == 0, f"inside a template: {os.strerror(code) if code > 0 else code}")


def _no_network() -> None:
    with open("/proc/self/net/route", encoding="ascii") as routes:
        _expect(len(routes.readlines()) <= 1, "the new network namespace has routes")


def _capabilities() -> None:
    if os.geteuid() == 0:
        privileges.empty_bounding_set()
    privileges.drop_capabilities()


def _seccomp() -> None:
    linux.set_no_new_privs()
    privileges.filter_system_calls(seccomp.template_filter(os.uname().machine))
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW)
    except PermissionError:
        pass
    else:
        raise Missing("a refused system call went through")
    try:
        socket.socket(socket.AF_VSOCK).close()
    except OSError:
        return
    raise Missing("a refused address family can be used")


def _landlock() -> None:
    linux.set_no_new_privs()
    _expect(landlock.restrict(paths=[("/usr", landlock.READ)], scoped=False), "the kernel has it not, or it is off")
    os.listdir("/usr")
    try:
        os.listdir("/")
    except PermissionError:
        return
    raise Missing("it has no effect")


def _landlock_net() -> None:
    linux.set_no_new_privs()
    _expect(landlock.abi() >= landlock.ABI_NET, f"needs version {landlock.ABI_NET} (Linux 6.7)")
    landlock.restrict(bind=[], scoped=False)
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", 0))
        except PermissionError:
            return
    raise Missing("it has no effect")


def _landlock_scopes() -> None:
    linux.set_no_new_privs()
    _expect(landlock.abi() >= landlock.ABI_SCOPES, f"needs version {landlock.ABI_SCOPES} (Linux 6.12)")
    landlock.restrict()
    try:
        os.kill(os.getppid(), 0)
    except PermissionError:
        return
    raise Missing("it has no effect")
