"""The root file system of a function version: what its processes see is put together here, all else is out of reach.

A small tmpfs, read-only in the end, with read-only mounts of the directories that a function needs at the places where
it expects them, an /etc and a /dev of a few files, and a /proc of its own processes. /tmp alone can be written; each
instance gets its own.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct

TYPE_CHECKING = False  # the real one costs an import of typing in every worker
if TYPE_CHECKING:
    from typing import TypedDict

    class Root(TypedDict):
        """What `daemon.sandbox.walls` says about it."""

        mount_point: str
        """An empty directory of the host; nothing shown there stays when the processes are gone."""
        binds: list[list[str]]
        """Source on the host, place inside; directories or files, in order."""
        files: dict[str, str]
        """Path inside and content."""
        links: dict[str, str]
        """Path inside and target."""
        tmp_bytes: int
        tmp_inodes: int


_libc = ctypes.CDLL(None, use_errno=True)

_MOUNT_SETATTR = 442  # the same on every architecture
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_RDONLY, _NOSUID, _NODEV, _NOEXEC = 1, 2, 4, 8  # MS_* and MOUNT_ATTR_* agree on these
_BIND, _REC, _PRIVATE = 0x1000, 0x4000, 0x4_0000
_MNT_DETACH = 2

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
ROOT_OPTIONS = b"size=1m,nr_inodes=1024,mode=0755"
PROC_OPTIONS = b"subset=pid,hidepid=invisible"
_LINKS = {
    "/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2", "/dev/shm": "/tmp", "/var/tmp": "/tmp",
}  # fmt: skip
"""/dev/shm is /tmp, so that shared memory counts as what it is: files of the instance."""


def build(root: Root) -> None:
    """Make it and enter it. In a mount namespace and a user namespace of one's own, with all capabilities there.

    Raises:
      OSError: the kernel refuses, or what is to be shown is not there.
    """
    top = root["mount_point"]
    os.umask(0o022)
    _mount("none", "/", None, _REC | _PRIVATE)
    _mount("tmpfs", top, "tmpfs", _NOSUID | _NODEV, ROOT_OPTIONS)
    os.makedirs(f"{top}/tmp")
    mount_tmp(root, f"{top}/tmp")  # first: what is shown may lie beneath it
    for source, target in root["binds"]:
        show(source, top + target)
    for name in DEVICES:
        show(f"/dev/{name}", f"{top}/dev/{name}", device=True)
    for path, text in root["files"].items():
        _make_parents(top + path)
        with open(top + path, "w", encoding="utf-8") as file:
            file.write(text)
    for path, target in {**_LINKS, **root["links"]}.items():
        _make_parents(top + path)
        if not os.path.lexists(top + path):  # else something is shown beneath it
            os.symlink(target, top + path)
    os.makedirs(f"{top}/proc")
    try:
        mount_proc(f"{top}/proc")
    except OSError as exc:
        # Something is mounted over parts of the host's /proc (a container, a service manager), so that the kernel
        # lets no namespace have a clear one. Python does without; `runtime.template` will not fork without.
        if exc.errno != errno.EPERM:
            raise
    os.chdir(top)
    _check(_libc.syscall(_PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", _MNT_DETACH), "umount")
    os.chdir("/")
    _set_attributes("/", _RDONLY | _NOSUID | _NODEV, recursive=False)


def show(source: str, target: str, *, device: bool = False) -> None:
    """Mount a directory or file of the host, read-only, with all that is mounted beneath it."""
    _make_parents(target)
    if stat.S_ISDIR(os.stat(source).st_mode):
        os.makedirs(target, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    _mount(source, target, None, _BIND | _REC)
    _set_attributes(target, _RDONLY | _NOSUID | (_NOEXEC if device else _NODEV), recursive=True)


def mount_tmp(root: Root, path: str = "/tmp") -> None:
    """A /tmp of its own, of bounded size."""
    options = f"size={root['tmp_bytes']},nr_inodes={root['tmp_inodes']},mode=1777"
    _mount("tmpfs", path, "tmpfs", _NOSUID | _NODEV, options.encode())


def renew_tmp(root: Root) -> None:
    """Another /tmp over the one there is; what of the host is shown beneath it is shown again."""
    shown = [target for _, target in root["binds"] if target.startswith("/tmp/")]
    fds = [os.open(target, os.O_PATH | os.O_CLOEXEC) for target in shown]
    mount_tmp(root)
    for fd, target in zip(fds, shown, strict=True):
        os.makedirs(target)
        _mount(f"/proc/self/fd/{fd}", target, None, _BIND | _REC)  # read-only as it was: that cannot be undone here
        os.close(fd)


def mount_proc(path: str = "/proc") -> None:
    """A /proc with the processes of this PID namespace that the caller may look into, and nothing else."""
    _mount("proc", path, "proc", _NOSUID | _NODEV | _NOEXEC, PROC_OPTIONS)


def _make_parents(path: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)


def _mount(source: str, target: str, kind: str | None, flags: int, options: bytes = b"") -> None:
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode() if kind else None, ctypes.c_ulong(flags), options or None
    )
    _check(result, f"mount {target}")


def _set_attributes(path: str, attributes: int, *, recursive: bool) -> None:
    wanted = struct.pack("<QQQQ", attributes, 0, 0, 0)  # struct mount_attr: set, clear, propagation, user namespace
    result = _libc.syscall(
        _MOUNT_SETATTR, ctypes.c_int(_AT_FDCWD), path.encode(), ctypes.c_uint(_AT_RECURSIVE if recursive else 0),
        wanted, ctypes.c_size_t(len(wanted)),
    )  # fmt: skip
    _check(result, f"mount_setattr {path}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
