"""Messages between the daemon, the spawner and the templates, over SOCK_SEQPACKET sockets that also carry descriptors.

A message is one msgpack map with a ``type``, at most `MESSAGE_BYTES_MAX` long, and descriptors beside it. A template
runs its author's code, so the daemon trusts nothing that comes from one: a message that is unknown, malformed or
brings descriptors that it should not is a `ControlError`, and whoever sent it is condemned.

=========  =========  ====================================================================================
type       direction  members; descriptors
=========  =========  ====================================================================================
template   to worker  ``id``, ``groups``, ``namespaces``, ``hosts_id``; job, gate, control socket, log, descriptors of
                      control groups
instance   to worker  ``id``, ``groups``, ``namespaces``, ``hosts_id``; job, gate, calls, answers, stdout, stderr,
                      descriptors of control groups (to the spawner: a process that imports by itself)
debug      to worker  as ``instance``; and, before the control groups, the socket that debugpy accepts editors on
fork       to worker  ``id``, ``tmp``, ``groups``; calls, answers, stdout, stderr, descriptors of control groups (to a
                      template)
sweep      to worker  ``directories``: of control groups, which the spawner empties and removes when its end has come
started    to daemon  ``id``, ``pid``; pidfd
refused    to daemon  ``id``, ``message``: nothing was started
exited     to daemon  ``id``, ``code``, ``signal`` (-1: not by that way)
ready      to daemon  ``forkable`` bool, ``reason``, ``compiled``, ``import_us``: a template has imported the function,
                      which took so long, and had to compile these modules, one path a line; the spawner is there
failed     to daemon  ``traceback``: a template could not import it
ended      to daemon  ``code``, ``signal``: how a template ended that is not the first process of its namespace
=========  =========  ====================================================================================

``namespaces`` and ``hosts_id`` are those of `runtime.walls`; the gate is a pipe that the new process reads a byte from
before it goes on. ``groups`` says how many of the descriptors, the last ones, are of control groups: for
`runtime.cgroups.join`.
"""

from __future__ import annotations

import os
import socket
from array import array
from typing import Any

import msgpack

from runtime.cgroups import JOIN_FDS_MAX

MESSAGE_BYTES_MAX = 64 * 2**10
"""Longest message. The biggest one is a traceback, which is cut to `TEXT_CHARS_MAX`."""
TEXT_CHARS_MAX = 12_000
"""Longest reason or traceback; at most 4 bytes a character, so it always fits."""
DESCRIPTORS_MAX = 7 + JOIN_FDS_MAX
_ANCILLARY_BYTES = socket.CMSG_SPACE(DESCRIPTORS_MAX * array("i").itemsize)

_INT, _TEXT, _BOOL = int, str, bool
_MEMBERS: dict[str, tuple[dict[str, type], int]] = {
    "template": ({"id": _INT, "groups": _INT, "namespaces": _INT, "hosts_id": _INT}, 4),
    "instance": ({"id": _INT, "groups": _INT, "namespaces": _INT, "hosts_id": _INT}, 6),
    "debug": ({"id": _INT, "groups": _INT, "namespaces": _INT, "hosts_id": _INT}, 7),
    "fork": ({"id": _INT, "tmp": _TEXT, "groups": _INT}, 4),
    "sweep": ({"directories": _TEXT}, 0),
    "started": ({"id": _INT, "pid": _INT}, 1),
    "refused": ({"id": _INT, "message": _TEXT}, 0),
    "exited": ({"id": _INT, "code": _INT, "signal": _INT}, 0),
    "ready": ({"forkable": _BOOL, "reason": _TEXT, "compiled": _TEXT, "import_us": _INT}, 0),
    "failed": ({"traceback": _TEXT}, 0),
    "ended": ({"code": _INT, "signal": _INT}, 0),
}
TO_SPAWNER = frozenset({"template", "instance", "debug", "sweep"})
TO_TEMPLATE = frozenset({"fork"})
FROM_SPAWNER = frozenset({"started", "refused", "exited", "ready"})
FROM_TEMPLATE = frozenset({"started", "refused", "exited", "ready", "failed", "ended"})


class ControlError(Exception):
    """The other side sent something that is not a legal control message."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected control sockets, neither inherited by a new program."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def clip(text: str) -> str:
    """``text`` short enough for a message: its end, where a traceback says what happened; always encodable."""
    if len(text) > TEXT_CHARS_MAX:
        text = "...\n" + text[-TEXT_CHARS_MAX + 4 :]
    return text.encode("utf-8", "replace").decode("utf-8")


def send(sock: socket.socket, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
    """Send one message and copies of ``fds``.

    Raises:
      OSError: the other side is gone, or (non-blocking socket) its queue is full.
    """
    payload: bytes = msgpack.packb(message, use_bin_type=True)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
    sock.sendmsg([payload], rights, socket.MSG_NOSIGNAL)


def receive(sock: socket.socket, allowed: frozenset[str]) -> tuple[dict[str, Any], list[int]] | None:
    """One message and its descriptors, which the caller now owns; None when the other side is gone.

    Raises:
      ControlError: not a legal message of an ``allowed`` type; descriptors that came with it are closed.
      OSError: as `socket.recvmsg` does, BlockingIOError among them.
    """
    # Not socket.recv_fds: it ignores its flags (CPython 3.11 to 3.13), and the descriptors would be inherited.
    payload, ancillary, flags, _ = sock.recvmsg(MESSAGE_BYTES_MAX, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
    fds = array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    if not payload and not fds:
        return None
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ControlError("message too long or too many descriptors")
        return _checked(payload, len(fds), allowed), list(fds)
    except ControlError:
        for fd in fds:
            os.close(fd)
        raise


def _checked(payload: bytes, descriptors: int, allowed: frozenset[str]) -> dict[str, Any]:
    try:
        message: Any = msgpack.unpackb(payload, raw=False, strict_map_key=True, ext_hook=_refuse)
    except Exception as exc:  # msgpack raises a dozen kinds, RecursionError and UnicodeError among them
        raise ControlError(f"not msgpack: {type(exc).__name__}") from exc
    kind = message.get("type") if isinstance(message, dict) else None
    if not isinstance(message, dict) or not isinstance(kind, str) or kind not in allowed:
        raise ControlError(f"message type {kind!r:.80} is not one of {', '.join(sorted(allowed))}")
    members, wanted = _MEMBERS[kind]
    if len(message) != len(members) + 1 or any(type(message.get(k)) is not t for k, t in members.items()):
        raise ControlError(f"{kind} message with wrong members")
    groups = message.get("groups", 0)
    if descriptors != wanted + groups or not 0 <= groups <= JOIN_FDS_MAX:
        raise ControlError(f"{kind} message with {descriptors} descriptors, not {wanted}")
    return message


def _refuse(code: int, data: bytes) -> Any:
    raise ControlError(f"msgpack extension type {code} is not allowed")
