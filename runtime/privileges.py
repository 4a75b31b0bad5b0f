"""Giving up privileges: ids, capabilities, what programs could gain, and system calls."""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)

_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_READ, _PR_CAPBSET_DROP = 4, 22, 23, 24
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x2008_0522
CAPABILITIES_MAX = 64
"""More than any kernel has: the loop over them ends at the first that is unknown."""


class _Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


_CAPABILITY_HEADER = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
_NO_CAPABILITIES = (ctypes.c_uint32 * 6)()


def empty_bounding_set() -> None:
    """No program can ever give a capability again. Needs CAP_SETPCAP."""
    for capability in range(CAPABILITIES_MAX):
        if _libc.prctl(_PR_CAPBSET_READ, ctypes.c_ulong(capability), 0, 0, 0) < 0:
            return
        _check(_libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0), "PR_CAPBSET_DROP")


def become(uid: int) -> None:
    """User and group ``uid``, no other groups where they may be given up."""
    try:
        os.setgroups([])
    except PermissionError:
        pass  # an ordinary user's namespace: setgroups had to be denied before its map could be written
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def drop_capabilities() -> None:
    """None left, nothing to be inherited.

    Raises:
      OSError: the kernel refuses.
    """
    _check(_libc.capset(ctypes.byref(_CAPABILITY_HEADER), ctypes.byref(_NO_CAPABILITIES)), "capset")


def set_dumpable() -> None:
    """Let this process's own /proc files be its own again: a change of user takes them away."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(1), 0, 0, 0), "PR_SET_DUMPABLE")


def filter_system_calls(program: bytes) -> None:
    """Install a filter of `runtime.seccomp`, for ever and for all children. Needs no_new_privs.

    Raises:
      OSError: the kernel refuses.
    """
    header = _Program(len(program) // 8, program)
    _check(_libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(header), 0, 0), "seccomp")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
