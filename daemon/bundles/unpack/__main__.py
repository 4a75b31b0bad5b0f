"""The program that unpacks one bundle; `daemon.bundles.store` runs it as a child of its own.

    python -I -S daemon/bundles/unpack/__main__.py ARCHIVE_FD TARGET_FD PARENT_PID LIMITS_JSON

It reads the ZIP from the inherited descriptor ARCHIVE_FD and writes its members into the empty directory TARGET_FD.
The result is one line of JSON on stdout: ``{"ok": true, "files": n, "unpacked_bytes": n, "landlock": abi}`` or
``{"ok": false, "reason": text, "member": name, "too_large": bool}``, or ``{"ok": false, "os_error": text}`` when the
disk is to blame. What was written before a refusal is removed by the caller, who owns the directory.

The archive is hostile, and so, in case of a mistake in here, is this process: it runs in a process group of its own
with an empty environment, resource limits, and (where the kernel has Landlock) no right to touch more than TARGET_FD.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import struct
import sys

# -I keeps the script's directory off sys.path. Appended, so that the standard library comes first.
sys.path.append(os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", "..")))

from daemon.bundles.unpack.rules import Limits, Refused
from daemon.bundles.unpack.writer import unpack

DATA_BYTES_MAX = 512 * 2**20
"""RLIMIT_DATA: the central directory, 50,000 names and their tree fit."""
OPEN_FILES_MAX = 128
"""RLIMIT_NOFILE: one directory for each level of the path, and a file."""

PR_SET_NO_NEW_PRIVS = 38
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = (
    444,
    445,
    446,
)  # the same on x86-64 and aarch64
LANDLOCK_VERSION, LANDLOCK_PATH_BENEATH = 1, 1
# Rights of linux/landlock.h: WRITE_FILE, READ_FILE, READ_DIR, MAKE_DIR, MAKE_REG, MAKE_SYM
ALLOWED_BENEATH = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 7 | 1 << 8 | 1 << 12
RIGHTS_BY_ABI = {1: 13, 2: 14, 3: 15, 5: 16}
"""How many file-system rights each version of Landlock knows: all of them are denied elsewhere."""


def limit_resources(limits: Limits, *, cpu_s: int) -> None:
    """What the kernel will stop even if this program is subverted."""
    for kind, value in (
        (resource.RLIMIT_DATA, DATA_BYTES_MAX),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, limits.unpacked_bytes_max),
        (resource.RLIMIT_NOFILE, OPEN_FILES_MAX),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        lowest = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (lowest, lowest))


def confine(target_fd: int) -> int:
    """From here on this process may only make files below ``target_fd``. Returns Landlock's version, 0 without it."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    abi = int(libc.syscall(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), LANDLOCK_VERSION))
    if abi < 1:
        return 0
    rights = (1 << max(count for version, count in RIGHTS_BY_ABI.items() if version <= abi)) - 1
    # struct landlock_ruleset_attr: handled_access_fs; from version 4 net: bind, connect; from 6 scope: sockets, signals
    attributes = struct.pack("<QQQ", rights, 3, 3)[: 8 * (1 + (abi >= 4) + (abi >= 6))]
    ruleset = libc.syscall(LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    rule = struct.pack("<Qi", ALLOWED_BENEATH, target_fd)
    if (
        ruleset < 0
        or libc.syscall(LANDLOCK_ADD_RULE, ruleset, LANDLOCK_PATH_BENEATH, rule, 0) != 0
        or libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0) != 0
    ):
        raise OSError(ctypes.get_errno(), "cannot confine the unpacking process with Landlock")
    os.close(ruleset)
    return abi


def main(arguments: list[str]) -> dict[str, object]:
    """Unpack as the arguments say; the reply for the daemon."""
    archive_fd, target_fd, parent_pid = (int(argument) for argument in arguments[:3])
    numbers = json.loads(arguments[3])
    cpu_s = numbers.pop("cpu_s")
    limits = Limits(**numbers)
    os.umask(0o022)
    limit_resources(limits, cpu_s=cpu_s)
    try:
        landlock = confine(target_fd)
        return {
            "ok": True,
            "landlock": landlock,
            **unpack(archive_fd, target_fd, limits, parent_pid=parent_pid),
        }
    except Refused as exc:
        return {"ok": False, "reason": exc.reason, "member": exc.member, "too_large": exc.too_large}
    except MemoryError:
        return {"ok": False, "reason": "needs too much memory to read", "member": "", "too_large": True}
    except OSError as exc:  # the disk is full or broken: not the archive's fault
        return {"ok": False, "os_error": str(exc)}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
