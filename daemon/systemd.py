"""Talking to systemd: readiness, watchdog, handed-over sockets. Without systemd every function does nothing.

Protocol: sd_notify(3), sd_listen_fds(3). Both are a few lines over a datagram socket and two variables, so no library.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

LISTEN_FDS_START = 3
"""First handed-over descriptor (sd_listen_fds(3))."""


def notify(*lines: str, environ: MutableMapping[str, str] = os.environ) -> bool:
    """Send state lines such as ``READY=1``. Returns False when nobody listens; never raises."""
    path = environ.get("NOTIFY_SOCKET", "")
    if not path or path[0] not in "/@":
        return False
    address = "\0" + path[1:] if path[0] == "@" else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(lines).encode(), address)
    except OSError:
        return False
    return True


def watchdog_s(environ: MutableMapping[str, str] = os.environ) -> float | None:
    """Seconds within which ``WATCHDOG=1`` is expected, or None."""
    try:
        if int(environ.get("WATCHDOG_PID", os.getpid())) != os.getpid():
            return None
        return int(environ["WATCHDOG_USEC"]) / 1e6
    except (KeyError, ValueError):
        return None


def listen_fds(environ: MutableMapping[str, str] = os.environ) -> list[socket.socket]:
    """The listening stream sockets that were handed over, oldest first; the variables are removed.

    Raises:
      ValueError: a descriptor is not a listening stream socket.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    found = []
    for fd in range(LISTEN_FDS_START, LISTEN_FDS_START + int(count)):
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
        if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ValueError(f"descriptor {fd} from LISTEN_FDS is not a listening stream socket")
        found.append(sock)
    return found
