"""Deterministic ZIP files: sorted members, one fixed time, two modes, deflate; the same input gives the same bytes.

The writer is our own because ``zipfile`` cannot take over members that are compressed already: the dependencies of
a function are compressed once, kept as a *segment* (their local records back to back), and copied into each bundle as
they are, so that deploying again costs a copy and a checksum (format: PKWARE APPNOTE 6.3.10, sections 4.3.7, 4.3.12,
4.3.16).
"""

from __future__ import annotations

import hashlib
import stat
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass
from typing import BinaryIO

MEMBERS_MAX = 65_000
"""Under the 65,535 of ZIP without its 64-bit extension."""
BYTES_MAX = 2**32 - 2**24
"""Under the 4 GiB of ZIP without its 64-bit extension."""
LEVEL = 6
COPY_BYTES = 2**20

_DOS_DATE = (0 << 9) | (1 << 5) | 1  # 1980-01-01, the first day that ZIP can tell
_UTF8 = 0x800
_STORED, _DEFLATED = 0, 8
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")


class ArchiveError(ValueError):
    """More members or bytes than a bundle can hold, or a name that it must not have."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file or empty directory (its name ends in ``/``) of an archive."""

    name: str
    mode: int
    crc: int
    packed: int
    size: int
    method: int
    offset: int

    def to_list(self) -> list[str | int]:
        """For JSON; ``Member(*list)`` is the way back."""
        return list(astuple(self))


def check_name(name: str) -> None:
    """Refuse a name that an unpacker must refuse.

    Raises:
      ArchiveError: says which and why.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ArchiveError(f"the name {name!r} is not UTF-8") from None
    if any(ord(c) < 32 or ord(c) == 127 for c in name) or "\\" in name:
        raise ArchiveError(f"the name {name!r} holds a control character or a backslash")


class Segment:
    """Writes local records to ``file``; ``members`` lists them with offsets from where it began."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.members: list[Member] = []
        self.length = 0

    def add(self, name: str, data: bytes, *, executable: bool = False) -> None:
        """Compress and write one file, or an empty directory when ``name`` ends in ``/``."""
        check_name(name)
        deflater = zlib.compressobj(LEVEL, zlib.DEFLATED, -15)
        packed = deflater.compress(data) + deflater.flush()
        method = _DEFLATED
        if len(packed) >= len(data):
            packed, method = data, _STORED
        mode = (stat.S_IFDIR | 0o755) if name.endswith("/") else stat.S_IFREG | (0o755 if executable else 0o644)
        member = Member(name, mode, zlib.crc32(data), len(packed), len(data), method, self.length)
        raw, flags = _encoded(name)
        head = _LOCAL.pack(
            b"PK\3\4", 20, flags, method, 0, _DOS_DATE, member.crc, member.packed, member.size, len(raw), 0
        )
        self._file.write(head + raw + packed)
        self.members.append(member)
        self.length += len(head) + len(raw) + len(packed)
        if len(self.members) > MEMBERS_MAX or self.length > BYTES_MAX:
            raise ArchiveError(f"more than {MEMBERS_MAX} files or {BYTES_MAX // 2**20} MiB")


def write(
    file: BinaryIO,
    segments: Iterable[tuple[BinaryIO, list[Member]]],
    *,
    progress: Callable[[int], None] = lambda n: None,
) -> tuple[str, int, int]:
    """Put segments together to one archive; its SHA-256, its bytes and the sum of its files' bytes.

    ``segments``: each with a file that stands at its begin. ``progress`` is told the bytes written.
    """
    digest = hashlib.sha256()
    written = 0

    def put(data: bytes) -> None:
        nonlocal written
        file.write(data)
        digest.update(data)
        written += len(data)
        progress(len(data))

    placed: list[tuple[Member, int]] = []
    for source, members in segments:
        start, left = written, records_bytes(members)
        while left and (data := source.read(min(left, COPY_BYTES))):
            put(data)
            left -= len(data)
        placed += [(member, start + member.offset) for member in members]
    placed.sort(key=lambda pair: pair[0].name.encode())
    start = written
    for member, offset in placed:
        put(_central(member, offset))
    if len(placed) > MEMBERS_MAX or written > BYTES_MAX:
        raise ArchiveError(f"more than {MEMBERS_MAX} files or {BYTES_MAX // 2**20} MiB")
    put(_END.pack(b"PK\5\6", 0, 0, len(placed), len(placed), written - start, start, 0))
    return digest.hexdigest(), written, sum(member.size for member, _ in placed)


def records_bytes(members: Iterable[Member]) -> int:
    """How long a segment's local records are, back to back."""
    return sum(_LOCAL.size + len(member.name.encode()) + member.packed for member in members)


def _encoded(name: str) -> tuple[bytes, int]:
    raw = name.encode()
    return raw, 0 if raw.isascii() else _UTF8


def _central(member: Member, offset: int) -> bytes:
    raw, flags = _encoded(member.name)
    made_by_unix = (3 << 8) | 20
    return _CENTRAL.pack(
        b"PK\1\2", made_by_unix, 20, flags, member.method, 0, _DOS_DATE, member.crc, member.packed, member.size,
        len(raw), 0, 0, 0, 0, member.mode << 16 | (0x10 if member.name.endswith("/") else 0), offset,
    ) + raw  # fmt: skip
