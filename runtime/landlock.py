"""Landlock: rights that a process gives up for itself and all its children, without any privilege.

Two uses. Where a worker has a root file system of its own, Landlock keeps signals and abstract sockets inside and
restricts TCP: the *scopes* and *network* rules, which still allow it to mount for its instances. Where there are no
namespaces it is the wall: *path* rules, which let it reach what is listed and nothing else.

The numbers are those of linux/landlock.h; the meaning of the versions is in the kernel's userspace-api/landlock.rst.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct

TYPE_CHECKING = False  # the real one costs an import of typing in every worker
if TYPE_CHECKING:
    from collections.abc import Iterable

_libc = ctypes.CDLL(None, use_errno=True)

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION = 1
_PATH_BENEATH, _NET_PORT = 1, 2

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE, MAKE_DIR, MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
MAKE_SOCK, MAKE_FIFO, MAKE_SYM, REFER, TRUNCATE, IOCTL_DEV = 1 << 9, 1 << 10, 1 << 12, 1 << 13, 1 << 14, 1 << 15
_RIGHTS_BY_ABI = {1: 13, 2: 14, 3: 15, 5: 16}
"""How many rights each version knows, those of MAKE_CHAR (1 << 6) and MAKE_BLOCK (1 << 11) among them."""
BIND_TCP, CONNECT_TCP = 1, 2
SCOPE_SOCKETS, SCOPE_SIGNALS = 1, 2

READ = EXECUTE | READ_FILE | READ_DIR
WRITE = (
    READ | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SOCK | MAKE_FIFO | MAKE_SYM | REFER
    | TRUNCATE
)  # fmt: skip
DEVICE = READ_FILE | WRITE_FILE | IOCTL_DEV
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV

ABI_NET, ABI_SCOPES = 4, 6
"""Linux 6.7 and 6.12."""


def abi() -> int:
    """The version of Landlock that this kernel has; 0: none, or it is switched off."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(_VERSION))))


def rights(version: int) -> int:
    """Every right over files that a version of Landlock knows."""
    known = [count for since, count in _RIGHTS_BY_ABI.items() if since <= version]
    return (1 << max(known)) - 1 if known else 0


def restrict(
    *,
    paths: Iterable[tuple[str, int]] | None = None,
    connect: Iterable[int] | None = None,
    bind: Iterable[int] | None = None,
    scoped: bool = True,
) -> bool:
    """Give up, for ever and for all future children, all but what is listed. False: this kernel has no Landlock.

    ``paths``: what may be done beneath each; one that does not exist is left out; None: files are not restricted.
    ``connect``, ``bind``: TCP ports; None: not restricted. ``scoped``: signals and abstract UNIX sockets reach only
    processes that this process starts from now on. What the kernel is too old for is left out: `abi` tells.
    Needs no_new_privs, or privileges.

    Raises:
      OSError: the kernel refuses, although it has Landlock.
    """
    version = abi()
    if not version:
        return False
    files = rights(version) if paths is not None else 0
    net = (BIND_TCP if bind is not None else 0) | (CONNECT_TCP if connect is not None else 0)
    attributes = struct.pack("<Q", files)
    if version >= ABI_NET:
        attributes += struct.pack("<Q", net)
    else:
        net = 0
    scopes = SCOPE_SOCKETS | SCOPE_SIGNALS if scoped and version >= ABI_SCOPES else 0
    if version >= ABI_SCOPES:
        attributes += struct.pack("<Q", scopes)
    if not files and not net and not scopes:
        return False  # the kernel refuses an empty set
    ruleset = _check(_libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint(0)))
    try:
        for path, allowed in paths or ():
            _add_path(ruleset, path, allowed & files)
        for port in connect or () if net & CONNECT_TCP else ():
            _add_port(ruleset, port, CONNECT_TCP)
        for port in bind or () if net & BIND_TCP else ():
            _add_port(ruleset, port, BIND_TCP)
        _check(_libc.syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint(0)))
    finally:
        os.close(ruleset)
    return True


def _add_path(ruleset: int, path: str, allowed: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            allowed &= _OF_FILES
        rule = struct.pack("<Qi", allowed, fd)
        _check(_libc.syscall(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint(0)))
    finally:
        os.close(fd)


def _add_port(ruleset: int, port: int, allowed: int) -> None:
    rule = struct.pack("<QQ", allowed, port)
    _check(_libc.syscall(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_NET_PORT), rule, ctypes.c_uint(0)))


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {os.strerror(number)}")
    return result
