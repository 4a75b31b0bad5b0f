"""Frames between the daemon and a worker: length-prefixed msgpack maps over two pipes. Pure: no I/O.

A frame is a 4-byte big-endian length and that many bytes of one msgpack map with a ``type``. The daemon treats every
byte from a worker as hostile, so the reader checks the length before it allocates, allows no extension types, and
checks each member's type. A frame that is unknown, out of turn or malformed is a `ProtocolError`: the instance is
killed.

========  =========  =====================================================================================
type      direction  members
========  =========  =====================================================================================
call      to worker  ``id`` str, ``nonce`` int, ``deadline`` str (RFC 3339), ``headers`` [[str, str]], ``body`` bytes
stop      to worker  none: leave when idle
identity  to worker  ``token``, ``key``, ``region``, ``endpoint`` str: the function's resource principal, at any time
ready     to daemon  ``info`` map of str to str or int (for ``stoker inspect``)
answer    to daemon  ``id``, ``nonce``, ``status`` int, ``headers`` [[str, str]], ``body`` bytes, ``cpu_us`` int
failed    to daemon  ``id``, ``nonce``, ``kind`` str, ``message`` str, ``traceback`` str
========  =========  =====================================================================================

``nonce`` is a random number per call that the worker must echo: a thread left over from an earlier call cannot answer
a later one by guessing. ``cpu_us`` is the processor time of the worker during the call, as it says. ``kind`` is one of
`FAILURE_KINDS`; before ``ready`` a ``failed`` frame has an empty ``id``.
"""

from __future__ import annotations

import struct
from typing import Any

import msgpack

__all__ = [
    "FAILURE_KINDS",
    "FRAME_BYTES_MAX",
    "HEADER_BYTES",
    "Decoder",
    "ProtocolError",
    "encode",
]

FRAME_BYTES_MAX = 8 * 2**20
"""Longest frame either side accepts, header excluded: a 6 MiB body and its headers fit."""
HEADER_BYTES = 4
_HEADER = struct.Struct(">I")

FAILURE_KINDS = frozenset({"exception", "timeout", "init", "response-too-large", "invalid-response"})
"""exception: the handler raised; timeout: it raised TimeoutError; init: import or warm-up failed;
response-too-large: the body is over the limit; invalid-response: what it returned cannot be sent."""

_TEXT, _INT, _BYTES, _PAIRS, _MAP = "text", "int", "bytes", "pairs", "map"
_MEMBERS: dict[str, dict[str, str]] = {
    "call": {"id": _TEXT, "nonce": _INT, "deadline": _TEXT, "headers": _PAIRS, "body": _BYTES},
    "stop": {},
    "identity": {"token": _TEXT, "key": _TEXT, "region": _TEXT, "endpoint": _TEXT},
    "ready": {"info": _MAP},
    "answer": {"id": _TEXT, "nonce": _INT, "status": _INT, "headers": _PAIRS, "body": _BYTES, "cpu_us": _INT},
    "failed": {"id": _TEXT, "nonce": _INT, "kind": _TEXT, "message": _TEXT, "traceback": _TEXT},
}
TO_WORKER = frozenset({"call", "stop", "identity"})
TO_DAEMON = frozenset({"ready", "answer", "failed"})

_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack


class ProtocolError(Exception):
    """The other side sent bytes that are not a legal frame."""


def encode(frame: dict[str, Any]) -> bytes:
    """One frame as bytes, header included.

    Raises:
      ProtocolError: longer than `FRAME_BYTES_MAX`, or not representable in msgpack.
    """
    try:
        payload: bytes = _pack(frame)
    except (TypeError, ValueError, OverflowError) as exc:
        raise ProtocolError(f"cannot encode frame: {exc}") from exc
    if len(payload) > FRAME_BYTES_MAX:
        raise ProtocolError(f"cannot encode frame: {len(payload)} bytes, {FRAME_BYTES_MAX} allowed")
    return _HEADER.pack(len(payload)) + payload


class Decoder:
    """Turns received bytes into checked frames, in order, whatever the chunking."""

    __slots__ = ("_allowed", "_buffer")

    def __init__(self, allowed: frozenset[str]) -> None:
        """``allowed``: the frame types this side may receive, `TO_WORKER` or `TO_DAEMON`."""
        self._allowed = allowed
        self._buffer = bytearray()

    @property
    def pending_bytes(self) -> int:
        """Received bytes that do not make a frame yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Add received bytes and return the frames they complete, oldest first.

        Raises:
          ProtocolError: a frame too long, not msgpack, or not a frame of an allowed type. The decoder is then useless.
        """
        buffer = self._buffer
        if not buffer and len(data) >= HEADER_BYTES:  # the warm path: one read, one whole frame
            length = int.from_bytes(data[:HEADER_BYTES], "big")
            if length == len(data) - HEADER_BYTES and length <= FRAME_BYTES_MAX:
                return [self._decode(memoryview(data)[HEADER_BYTES:])]
        buffer += data
        frames = []
        while len(buffer) >= HEADER_BYTES:
            length = int.from_bytes(buffer[:HEADER_BYTES], "big")
            if length > FRAME_BYTES_MAX:
                raise ProtocolError(f"frame of {length} bytes, {FRAME_BYTES_MAX} allowed")
            if len(buffer) < HEADER_BYTES + length:
                break
            frames.append(self._decode(bytes(buffer[HEADER_BYTES : HEADER_BYTES + length])))
            del buffer[: HEADER_BYTES + length]
        return frames

    def _decode(self, payload: bytes | memoryview) -> dict[str, Any]:
        try:
            frame = msgpack.unpackb(payload, raw=False, strict_map_key=True, ext_hook=_refuse_ext)
        except ProtocolError:
            raise
        except Exception as exc:  # msgpack raises a dozen kinds, RecursionError and UnicodeError among them
            raise ProtocolError(f"not msgpack: {type(exc).__name__}") from exc
        if not isinstance(frame, dict):
            raise ProtocolError(f"frame is {type(frame).__name__}, not a map")
        kind = frame.get("type")
        if not isinstance(kind, str) or kind not in self._allowed:
            raise ProtocolError(f"frame type {kind!r:.80} is not one of {', '.join(sorted(self._allowed))}")
        members = _MEMBERS[kind]
        if len(frame) != len(members) + 1:
            raise ProtocolError(f"{kind} frame has {len(frame) - 1} members, not {len(members)}")
        for name, wanted in members.items():
            if not _is(frame.get(name), wanted):
                raise ProtocolError(f"{kind} frame: {name} is not {wanted}")
        return frame


def _refuse_ext(code: int, data: bytes) -> Any:
    raise ProtocolError(f"msgpack extension type {code} is not allowed")


def _is(value: Any, wanted: str) -> bool:
    if wanted is _TEXT:
        return type(value) is str
    if wanted is _INT:
        return type(value) is int
    if wanted is _BYTES:
        return type(value) is bytes
    if wanted is _PAIRS:
        if type(value) is not list:
            return False
        for pair in value:  # a plain loop: this is on the path of every call
            if type(pair) is not list or len(pair) != 2 or type(pair[0]) is not str or type(pair[1]) is not str:
                return False
        return True
    return type(value) is dict and all(type(k) is str and type(v) in (str, int) for k, v in value.items())
