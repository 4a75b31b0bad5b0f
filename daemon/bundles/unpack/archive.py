"""Reads a ZIP and says exactly what is in it, or refuses it. Standard library only; nothing is written here.

The reader is an allow-list and refuses instead of repairing: what this program accepts has exactly one meaning. Each
byte of the archive belongs to exactly one member, the central directory or the end record; both headers of a member
agree; sizes and CRC are compared with the bytes that came out. Members are regular files, directories, and relative
symbolic links to other members. It is checked whole before the first file is made.

It does not use `zipfile`: that one strips ``..`` silently, drops modes, and on many Pythons accepts overlaps.
"""

from __future__ import annotations

import os
import struct
import unicodedata
import zlib

from daemon.bundles.unpack.rules import (
    DIRECTORY,
    FILE,
    LAYER_BYTES_MAX,
    LAYER_FILE,
    LINK,
    Limits,
    Refused,
    check_name,
    check_text,
    kind_of,
    shown,
)

BLOCK_BYTES = 256 * 1024
RATIO_FREE_BYTES = 2**20
"""Below this size no ratio of a member is judged: a small file of zeros is no bomb."""
RATIO_FREE_TOTAL_BYTES = 16 * 2**20
"""The same for the whole archive: a bomb may come in small parts."""
LINKS_MAX = 8
"""Longest chain of links."""
DIRECTORY_BYTES_MAX = 64 * 2**20
"""Longest central directory: it is read into memory at once."""

END = struct.Struct("<4s4H2IH")
CENTRAL = struct.Struct("<4s6H3I5H2I")
LOCAL = struct.Struct("<4s5H3I2H")
END_SIGNATURE, CENTRAL_SIGNATURE, LOCAL_SIGNATURE = b"PK\5\6", b"PK\1\2", b"PK\3\4"
DESCRIPTOR_SIGNATURE, LOCATOR_SIGNATURE = b"PK\7\x08", b"PK\6\7"

ENCRYPTED, DESCRIPTOR, UTF8 = 0x0001, 0x0008, 0x0800
FLAGS_ALLOWED = 0x0006 | DESCRIPTOR | UTF8  # 0x0006: how hard deflate tried
STORED, DEFLATED = 0, 8
VERSION_MAX = 45
"""Version needed to extract. 20 would do; some writers always say 45 (ZIP64), more than that nobody has a reason to."""
EXTRA_REFUSED = {
    0x0001: "ZIP64 sizes, which no bundle needs",
    0x7075: "a second name (extra field 0x7075)",
    0x0017: "strong encryption",
    0x9901: "AES encryption",
}


class Member:
    """One entry of the central directory; ``data_at`` is known after the local header was checked."""

    __slots__ = (
        "crc",
        "data_at",
        "executable",
        "flags",
        "kind",
        "method",
        "offset",
        "packed",
        "path",
        "raw",
        "size",
    )

    raw: bytes
    path: str
    kind: str
    executable: bool
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int
    data_at: int


class Source:
    """The archive: positioned reads that are complete or refused."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.size = os.fstat(fd).st_size

    def read(self, at: int, size: int) -> bytes:
        data = b""
        while len(data) < size:
            chunk = os.pread(self._fd, size - len(data), at + len(data)) if at + len(data) < self.size else b""
            if not chunk:
                raise Refused("the archive is cut short")
            data += chunk
        return data


# ---- reading the structure ------------------------------------------------------------------------------------------


def read_members(source: Source, limits: Limits) -> tuple[list[Member], int]:
    """All members in the order of the central directory, and where that directory starts."""
    end_at = _find_end(source)
    fields = END.unpack(source.read(end_at, END.size))
    _, disk, first_disk, here, count, size, start, _ = fields
    if 0xFFFF in fields[1:5] or 0xFFFFFFFF in fields[5:7] or (
        end_at >= 20 and source.read(end_at - 20, 4) == LOCATOR_SIGNATURE
    ):  # fmt: skip
        raise Refused("the archive is in ZIP64 form, which no bundle needs")
    if disk or first_disk or here != count:
        raise Refused("the archive is split over several files")
    if count > limits.files_max:
        raise Refused(f"{count} members, {limits.files_max} allowed (bundles.files_max)", too_large=True)
    if start + size != end_at:
        raise Refused("the central directory does not end where the end record begins: prepended or hidden data")
    if size > DIRECTORY_BYTES_MAX:
        raise Refused(f"a central directory of {size} bytes, {DIRECTORY_BYTES_MAX} allowed", too_large=True)
    directory, at, members = source.read(start, size), 0, []
    for _ in range(count):
        if at + CENTRAL.size > size or directory[at : at + 4] != CENTRAL_SIGNATURE:
            raise Refused(f"the central directory holds fewer than the {count} members that it names")
        member, at = _read_central(directory, at, limits)
        members.append(member)
    if at != size:
        raise Refused("bytes after the last entry of the central directory")
    return members, start


def _find_end(source: Source) -> int:
    if source.size < END.size:
        raise Refused("not a ZIP archive")
    tail_at = max(0, source.size - END.size - 0xFFFF)
    tail = source.read(tail_at, source.size - tail_at)
    found, at = [], tail.find(END_SIGNATURE)
    while at >= 0:
        if at + END.size <= len(tail) and at + END.size + END.unpack_from(tail, at)[-1] == len(tail):
            found.append(at)
        at = tail.find(END_SIGNATURE, at + 1)
    if not found:
        raise Refused("bytes after the end of the archive" if END_SIGNATURE in tail else "not a ZIP archive")
    if len(found) > 1:
        raise Refused("two end records: the archive can be read in two ways")
    return tail_at + found[0]


def _read_central(directory: bytes, at: int, limits: Limits) -> tuple[Member, int]:
    fields = CENTRAL.unpack_from(directory, at)
    _, _, version, flags, method, _, _, crc, packed, size = fields[:10]
    n_name, n_extra, n_comment, disk, _, attributes, offset = fields[10:]
    after = at + CENTRAL.size + n_name + n_extra + n_comment
    if after > len(directory):
        raise Refused("the central directory is cut short")
    member = Member()
    member.raw = directory[at + CENTRAL.size : at + CENTRAL.size + n_name]
    member.flags, member.method, member.crc = flags, method, crc
    member.packed, member.size, member.offset, member.data_at = packed, size, offset, -1
    name = shown(member.raw)
    if version & 0xFF > VERSION_MAX:
        raise Refused(
            f"needs version {version & 0xFF} of the ZIP format, which has features that are not allowed", name
        )
    if flags & ENCRYPTED:
        raise Refused("is encrypted", name)
    if flags & ~FLAGS_ALLOWED:
        raise Refused(f"uses an unknown feature (flags {flags:#06x})", name)
    if method not in (STORED, DEFLATED):
        raise Refused(f"is compressed with method {method}; allowed are 0 (stored) and 8 (deflate)", name)
    if 0xFFFFFFFF in (packed, size, offset) or disk == 0xFFFF:
        raise Refused("has ZIP64 sizes, which no bundle needs", name)
    if disk:
        raise Refused("lies on another disk", name)
    _check_extra(directory[at + CENTRAL.size + n_name : after - n_comment], name)
    member.path, is_directory = check_name(member.raw, limits, marked_utf8=bool(flags & UTF8))
    member.kind, member.executable = kind_of(attributes, is_directory, name)
    if member.kind == DIRECTORY and size:
        raise Refused("is a directory and has content", name)
    if member.kind == LINK and not 0 < size <= limits.path_bytes_max:
        raise Refused(f"is a link with a target of {size} bytes, 1 to {limits.path_bytes_max} allowed", name)
    if method == STORED and packed != size:
        raise Refused(f"is stored, yet has {packed} bytes packed and {size} unpacked", name)
    if size > RATIO_FREE_BYTES and size > limits.ratio_max * packed:
        raise Refused(f"{packed} bytes unpack to {size}: over {limits.ratio_max} to 1 (bundles.ratio_max)", name)
    return member, after


def _check_extra(extra: bytes, name: str) -> None:
    at = 0
    while at < len(extra):
        if at + 4 > len(extra):
            raise Refused("has a broken extra field", name)
        kind, size = struct.unpack_from("<2H", extra, at)
        at += 4 + size
        if at > len(extra):
            raise Refused("has a broken extra field", name)
        if kind in EXTRA_REFUSED:
            raise Refused(f"has {EXTRA_REFUSED[kind]}", name)


# ---- checking the whole ---------------------------------------------------------------------------------------------


def check_tree(members: list[Member], limits: Limits) -> dict[str, Member | None]:
    """Every path of the bundle; None stands for a directory that is only implied by what is in it.

    Two names that differ only in their Unicode form are refused: tools would take one for the other.
    """
    tree: dict[str, Member | None] = {}
    forms: dict[str, str] = {}
    for member in members:
        parts, name = member.path.split("/"), shown(member.raw)
        for i in range(1, len(parts) + 1):
            path = "/".join(parts[:i])
            form = path if path.isascii() else unicodedata.normalize("NFC", path)
            if forms.setdefault(form, path) != path:
                raise Refused("is there twice, in two Unicode forms of the same name", name)
            if i == len(parts):
                if path in tree and not (member.kind == DIRECTORY and tree[path] is None):
                    raise Refused("is there twice", name)
                tree[path] = member
            elif (above := tree.setdefault(path, None)) is not None and above.kind != DIRECTORY:
                raise Refused(f"lies inside '{shown(path.encode())}', which is a {above.kind}", name)
        if len(tree) > limits.files_max:
            raise Refused(
                f"more than {limits.files_max} files and directories (bundles.files_max)",
                name,
                too_large=True,
            )
    if limits.layer:
        if others := sorted({path.partition("/")[0] for path in tree} - {"python"}):
            raise Refused("is in a layer, which holds python/ and nothing else", others[0])
        if "python" not in tree:
            raise Refused("there is no python/ in the archive: a layer holds a function's dependencies")
        return tree
    check_layer_file(tree)
    if "function" not in tree:
        raise Refused("there is no function/ in the archive: the source belongs there, the handler in function/func.py")
    return tree


def check_layer_file(tree: dict[str, Member | None]) -> None:
    """A bundle has its dependencies inside or names a layer, not both."""
    member = tree.get(LAYER_FILE)
    if member is None:
        return
    if "python" in tree:
        raise Refused("names a layer, and there is python/ too: one of them has to go", LAYER_FILE)
    if member.kind != FILE or not 0 < member.size <= LAYER_BYTES_MAX:
        raise Refused("must be a file with the digest of a layer, sha256: and 64 hexadecimal digits", LAYER_FILE)


def check_sizes(source: Source, members: list[Member], limits: Limits) -> None:
    """The sum of the sizes that the headers claim; `payload` holds each member to its claim."""
    total = 0
    for member in members:
        total += member.size
        if total > limits.unpacked_bytes_max:
            raise Refused(
                f"unpacks to more than {limits.unpacked_bytes_max} bytes (bundles.unpacked_bytes_max)",
                shown(member.raw), too_large=True,
            )  # fmt: skip
    if total > RATIO_FREE_TOTAL_BYTES and total > limits.ratio_max * source.size:
        raise Refused(f"{source.size} bytes unpack to {total}: over {limits.ratio_max} to 1 (bundles.ratio_max)")


def check_layout(source: Source, members: list[Member], directory_at: int) -> None:
    """Compare each local header with its entry and account for every byte before the central directory."""
    ordered = sorted(members, key=lambda member: member.offset)
    expected = 0
    for member, following in zip(ordered, [*(m.offset for m in ordered[1:]), directory_at], strict=True):
        name = shown(member.raw)
        if member.offset != expected:
            raise Refused(
                "overlaps another member" if member.offset < expected else "has hidden data in front of it",
                name,
            )
        header = source.read(member.offset, LOCAL.size)
        signature, _, flags, method, _, _, crc, packed, size, n_name, n_extra = LOCAL.unpack(header)
        if signature != LOCAL_SIGNATURE:
            raise Refused("has no local header where the central directory says", name)
        names = source.read(member.offset + LOCAL.size, n_name + n_extra)
        if names[:n_name] != member.raw:
            raise Refused(f"is called '{shown(names[:n_name])}' in its local header", name)
        if (flags, method) != (member.flags, member.method):
            raise Refused("has other flags or another compression in its local header", name)
        _check_extra(names[n_name:], name)
        claims, streamed = (member.crc, member.packed, member.size), bool(flags & DESCRIPTOR)
        if not (streamed and all(a in (0, b) for a, b in zip((crc, packed, size), claims, strict=True))) and (
            (crc, packed, size) != claims
        ):
            raise Refused("has other sizes or another CRC in its local header", name)
        member.data_at = member.offset + LOCAL.size + n_name + n_extra
        expected = member.data_at + member.packed
        if streamed:
            expected += _check_descriptor(source, expected, following - expected, claims, name)
    if expected != directory_at:
        raise Refused("there is data between the last member and the central directory, or they overlap")


def _check_descriptor(source: Source, at: int, size: int, claims: tuple[int, int, int], name: str) -> int:
    if size not in (12, 16):
        raise Refused("has a data descriptor of the wrong length, or overlaps another member", name)
    descriptor = source.read(at, size)
    if size == 16 and descriptor[:4] != DESCRIPTOR_SIGNATURE:
        raise Refused("has a broken data descriptor", name)
    if struct.unpack("<3I", descriptor[-12:]) != claims:
        raise Refused("has other sizes or another CRC in its data descriptor", name)
    return size


def check_links(source: Source, tree: dict[str, Member | None], limits: Limits) -> dict[str, str]:
    """Targets of the symbolic links, by path: each leads to a file or directory of the bundle, and to nothing else."""
    targets: dict[str, str] = {}
    for path, member in tree.items():
        if member is None or member.kind != LINK:
            continue
        name = shown(member.raw)
        raw = b"".join(payload(source, member))
        try:
            target = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise Refused("is a link whose target is not UTF-8", name) from None
        check_text(target, name)
        if target.startswith("/"):
            raise Refused("is a link to an absolute path", name)
        targets[path] = target
    for path in targets:
        _follow(path, targets, tree)
    return targets


def _follow(path: str, targets: dict[str, str], tree: dict[str, Member | None]) -> None:
    at, name = path, shown(path.encode())
    for _ in range(LINKS_MAX):
        parts = at.split("/")[:-1]
        lost = f"is a link to '{shown(targets[at].encode())}', which is not in the bundle"
        for part in targets[at].split("/"):
            # Each step is a real directory, not a link to one, so that ".." means here what it means to the kernel.
            if parts and not _is_directory(tree, "/".join(parts)):
                raise Refused(lost, name)
            if part == ".." and not parts:
                raise Refused("is a link that leads out of the bundle", name)
            if part == "..":
                parts.pop()
            elif part not in ("", "."):
                parts.append(part)
        at = "/".join(parts)
        if at and at not in tree:
            raise Refused(lost, name)
        if at not in targets:
            break
    else:
        raise Refused(f"is a link that goes in a circle, or over more than {LINKS_MAX} links", name)
    if not at or path.startswith(at + "/"):
        raise Refused("is a link to a directory that it lies in", name)


def _is_directory(tree: dict[str, Member | None], path: str) -> bool:
    return path in tree and ((member := tree[path]) is None or member.kind == DIRECTORY)


def payload(source: Source, member: Member):  # type: ignore[no-untyped-def]  # Iterator[bytes]: typing costs 5 ms here
    """The member's content in blocks. Raises at the end if it is not what the headers claim: size, CRC, packed size."""
    at, left, size, crc = member.data_at, member.packed, 0, 0
    name = shown(member.raw)
    inflate = zlib.decompressobj(-zlib.MAX_WBITS) if member.method == DEFLATED else None
    pending = b""
    while True:
        if not pending and left:
            pending = source.read(at, min(left, BLOCK_BYTES))
            at, left = at + len(pending), left - len(pending)
        if inflate is None:
            block, pending = pending, b""
        else:
            try:
                block = inflate.decompress(pending, BLOCK_BYTES)
            except zlib.error as exc:
                raise Refused(f"has broken compressed data ({exc})", name) from None
            pending = inflate.unconsumed_tail
            if inflate.eof and (inflate.unused_data or left):
                raise Refused("has data after the end of its compressed data", name)
        size += len(block)
        if size > member.size:
            raise Refused(f"unpacks to more than the {member.size} bytes that it claims", name)
        crc = zlib.crc32(block, crc)
        if block:
            yield block
        elif not left and not pending:
            break
    if inflate is not None and not inflate.eof:
        raise Refused("has compressed data that is cut short", name)
    if size != member.size:
        raise Refused(f"unpacks to {size} bytes and claims {member.size}", name)
    if crc != member.crc:
        raise Refused("does not have the CRC that it claims", name)
