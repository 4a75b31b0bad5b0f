"""Users of the host for functions, each for one function of one daemon, however many daemons the machine runs.

Who holds the lock on byte N of `LOCKS` owns id N. The locks go with the process, however that ends, and with it the
workers that ran as these users; so nothing has to be given back or cleaned up.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

LOCKS = Path("/run/stoker-users.lock")
_FLOCK = "hhqqi"
"""struct flock of asm-generic/fcntl.h: type, whence, start, length, pid; on 64-bit machines."""


class HostIds:
    """The ids from ``first`` on, ``count`` of them, as far as no other daemon has them."""

    def __init__(self, first: int, count: int, *, locks: Path = LOCKS) -> None:
        self._first = first
        self._count = count
        self._locks = locks
        self._fd = -1
        self._given = 0

    def claim(self) -> int:
        """The next id; when all are given, those of this daemon once more, from the first on."""
        for _ in range(self._count):
            found = self._first + self._given % self._count
            self._given += 1
            if self._lock(found):
                return found
        return self._first + self._given % self._count  # all are others': namespaces and Landlock keep them apart

    def close(self) -> None:
        """Let go of all."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _lock(self, number: int) -> bool:
        try:
            if self._fd < 0:
                self._fd = os.open(self._locks, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError:
            return True  # nowhere to say it (/run is read-only): as if alone
        try:
            # Of the open file, not of the process: others of the file that this process closes do not drop it.
            wanted = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, wanted)
        except OSError:
            return False
        return True
