"""Makes ZIP archives field by field, so that each field can lie; and the table of hostile ones."""

from __future__ import annotations

import io
import random
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

HANDLER = b"def handler(ctx, data=None):\n    return 'hello'\n"
FILE, DIRECTORY, LINK = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK


@dataclass
class Entry:
    """One member. ``local``, ``central`` and ``descriptor`` override what an honest archive would say there."""

    name: str | bytes
    data: bytes = b""
    mode: int = FILE | 0o644
    method: int = zipfile.ZIP_DEFLATED
    flags: int | None = None
    extra: bytes = b""
    packed: bytes | None = None
    dos: int = 0
    system: int = 3
    streamed: bool = False
    signed: bool = True
    local: Mapping[str, Any] = field(default_factory=dict)
    central: Mapping[str, Any] = field(default_factory=dict)
    descriptor: Mapping[str, int] = field(default_factory=dict)
    signature: bytes = b"PK\7\x08"
    before: bytes = b""
    """Bytes between the member before and this one."""

    @property
    def raw_name(self) -> bytes:
        return self.name if isinstance(self.name, bytes) else self.name.encode()

    def payload(self) -> bytes:
        if self.packed is not None:
            return self.packed
        if self.method != zipfile.ZIP_DEFLATED:
            return self.data
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        return deflate.compress(self.data) + deflate.flush()


def handler() -> Entry:
    return Entry("function/func.py", HANDLER)


def link(name: str, target: str | bytes) -> Entry:
    data = target if isinstance(target, bytes) else target.encode()
    return Entry(name, data, mode=LINK | 0o777, method=0)


def archive(
    entries: Sequence[Entry],
    *,
    prefix: bytes = b"",
    before_directory: bytes = b"",
    before_end: bytes = b"",
    comment: bytes = b"",
    suffix: bytes = b"",
    offset_by: int = 0,
    end: Mapping[str, int] | None = None,
) -> bytes:
    """The bytes of an archive with these members, in this order."""
    out, directory = bytearray(prefix), bytearray()
    for entry in entries:
        out += entry.before
        offset = len(out) - len(prefix) + offset_by
        payload = entry.payload()
        flags = entry.flags
        if flags is None:
            flags = (0 if entry.raw_name.isascii() else 0x800) | (8 if entry.streamed else 0)
        sums = {"crc": zlib.crc32(entry.data), "packed": len(payload), "size": len(entry.data)}
        base = {"version": 20, "flags": flags, "method": entry.method, "name": entry.raw_name, "extra": entry.extra}
        told = {"crc": 0, "packed": 0, "size": 0} if entry.streamed else sums
        here = {**base, **told, **entry.local}
        out += struct.pack(
            "<4s5H3I2H", b"PK\3\4", here["version"], here["flags"], here["method"], 0, 0x21,
            here["crc"], here["packed"], here["size"], len(here["name"]), len(here["extra"]),
        ) + here["name"] + here["extra"]  # fmt: skip
        out += payload
        if entry.streamed:
            after = {**sums, **entry.descriptor}
            out += (entry.signature if entry.signed else b"") + struct.pack(
                "<3I", after["crc"], after["packed"], after["size"]
            )
        there = {**base, **sums, "disk": 0, "offset": offset, "comment": b"", **entry.central}
        directory += struct.pack(
            "<4s6H3I5H2I", b"PK\1\2", entry.system << 8 | 20,
            there["version"], there["flags"], there["method"], 0, 0x21,
            there["crc"], there["packed"], there["size"],
            len(there["name"]), len(there["extra"]), len(there["comment"]), there["disk"], 0,
            entry.mode << 16 | entry.dos, there["offset"],
        ) + there["name"] + there["extra"] + there["comment"]  # fmt: skip
    out += before_directory
    tail = {
        "disk": 0, "first_disk": 0, "here": len(entries), "count": len(entries), "size": len(directory),
        "start": len(out) - len(prefix) + offset_by, "comment": len(comment), **(end or {}),
    }  # fmt: skip
    out += directory + before_end
    out += struct.pack(
        "<4s4H2IH", b"PK\5\6", tail["disk"], tail["first_disk"], tail["here"], tail["count"],
        tail["size"], tail["start"], tail["comment"],
    )  # fmt: skip
    return bytes(out) + comment + suffix


def plain(files: Mapping[str, bytes]) -> bytes:
    """An archive as Python's `zipfile` writes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)  # with the date of 1980: the same bytes at every run
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (DIRECTORY | 0o755 if name.endswith("/") else FILE | 0o644) << 16
            out.writestr(info, content)
    return buffer.getvalue()


@dataclass
class Hostile:
    """An archive that must be refused, and what the message must say."""

    data: bytes
    says: str
    member: str = ""


def directory(name: str) -> Entry:
    return Entry(name, mode=DIRECTORY | 0o755)


def lying(name: str = "function/x", data: bytes = b"x", *, method: int = 8, **claims: int) -> Entry:
    """An entry whose two headers tell the same lie."""
    return Entry(name, data, method=method, local=claims, central=claims)


def with_handler(*entries: Entry, **settings: Any) -> bytes:
    return archive([handler(), *entries], **settings)


def _overlapping(count: int) -> bytes:
    """Many entries of the directory that share one payload, as in the bombs that turn 19 KB into 2 GB."""
    first = Entry("function/a", random.Random(1).randbytes(2**17))
    whole = bytearray(archive([first]))
    end = whole.rindex(b"PK\5\6")
    start = whole.index(b"PK\1\2")
    record = bytes(whole[start:end])
    copies = b"".join(record.replace(b"function/a", b"function/%c" % (97 + i)) for i in range(count))
    return bytes(whole[:start]) + copies + struct.pack(
        "<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(copies), start, 0
    )  # fmt: skip


def _short_directory() -> bytes:
    """The only entry says that it has a longer name than there is directory."""
    whole = bytearray(with_handler())
    start = whole.rindex(b"PK\1\2")
    whole[start + 28] += 7
    return bytes(whole)


def _quine_like(depth: int) -> bytes:
    data = b"\0" * 2**20
    for _ in range(depth):
        data = plain({"function/inner.zip": data})
    return data


ZIP64_EXTRA = struct.pack("<2HQQ", 1, 16, 10, 10)
BOMB = b"\0" * (8 * 2**20)

HOSTILE: dict[str, Hostile] = {
    # names
    "absolute name": Hostile(with_handler(Entry("/etc/victim", b"x")), "absolute name", "/etc/victim"),
    "absolute name below function": Hostile(with_handler(Entry("//function/x", b"x")), "absolute name"),
    "parent at the start": Hostile(with_handler(Entry("../victim", b"x")), "'..'", "../victim"),
    "parent in the middle": Hostile(with_handler(Entry("function/../../victim", b"x")), "'..'"),
    "parent at the end": Hostile(with_handler(Entry("function/..", b"x")), "'..'"),
    "parent directory entry": Hostile(with_handler(Entry("function/../", mode=DIRECTORY | 0o755)), "'..'"),
    "dot in the middle": Hostile(with_handler(Entry("function/./x", b"x")), "'.'"),
    "empty part": Hostile(with_handler(Entry("function//x", b"x")), "''"),
    "empty name": Hostile(with_handler(Entry("", b"x")), "no name"),
    "backslash": Hostile(with_handler(Entry("function\\..\\..\\victim", b"x")), "backslash"),
    "drive letter": Hostile(with_handler(Entry("C:/function/x", b"x")), "nothing else may be at the root"),
    "line feed": Hostile(with_handler(Entry("function/a\nb", b"x")), "U+000A", "function/a\\nb"),
    "carriage return": Hostile(with_handler(Entry("function/a\rb", b"x")), "U+000D"),
    "NUL in the name": Hostile(with_handler(Entry("function/a.py\0.txt", b"x")), "U+0000"),
    "escape sequence": Hostile(with_handler(Entry("function/\x1b[2Jx", b"x")), "U+001B"),
    "DEL": Hostile(with_handler(Entry("function/\x7f", b"x")), "U+007F"),
    "text that runs backwards": Hostile(with_handler(Entry("function/\u202etxt.py", b"x")), "U+202E"),
    "Unicode line separator": Hostile(with_handler(Entry("function/a\u2028b", b"x")), "U+2028"),
    "not UTF-8": Hostile(with_handler(Entry(b"function/\xff\xfe", b"x", flags=0x800)), "not UTF-8"),
    "overlong UTF-8 slash": Hostile(with_handler(Entry(b"function/..\xc0\xafx", b"x", flags=0x800)), "not UTF-8"),
    "unmarked UTF-8": Hostile(with_handler(Entry("function/é", b"x", flags=0)), "not marked as UTF-8"),
    "second name in an extra field": Hostile(
        with_handler(Entry("function/x", b"x", extra=struct.pack("<2HBI", 0x7075, 11, 1, 0) + b"../vic")), "second name"
    ),
    "too long": Hostile(with_handler(Entry("function/" + "x/" * 300 + "y", b"x")), "610 bytes, 512 allowed"),
    "part too long": Hostile(with_handler(Entry("function/" + "x" * 256, b"x")), "255 bytes"),
    "too deep": Hostile(with_handler(Entry("function/" + "d/" * 32 + "y", b"x")), "34 levels deep, 32 allowed"),
    "twice": Hostile(with_handler(Entry("function/func.py", b"import os")), "twice", "function/func.py"),
    "twice, directory": Hostile(
        with_handler(directory("function/d/"), directory("function/d/")), "twice"
    ),
    "twice in two Unicode forms": Hostile(
        with_handler(Entry("function/caf\u00e9.py", b"1"), Entry("function/cafe\u0301.py", b"2")), "two Unicode forms"
    ),
    "directory in two Unicode forms": Hostile(
        with_handler(Entry("function/\u00e9/a", b"1"), Entry("function/e\u0301/b", b"2")), "two Unicode forms"
    ),
    "file and directory": Hostile(
        with_handler(Entry("function/x", b"1"), Entry("function/x/", mode=DIRECTORY | 0o755)), "twice"
    ),
    "file below a file": Hostile(
        with_handler(Entry("function/x", b"1"), Entry("function/x/y", b"2")), "lies inside 'function/x'"
    ),
    "file below a later file": Hostile(
        with_handler(Entry("function/x/y", b"2"), Entry("function/x", b"1")), "twice", "function/x"
    ),
    # kinds of files
    "absolute link": Hostile(with_handler(link("function/l", "/etc/passwd")), "absolute path", "function/l"),
    "link out of the bundle": Hostile(with_handler(link("function/l", "../../victim")), "leads out of the bundle"),
    "link out and in again": Hostile(
        with_handler(link("function/l", "../../x/function/func.py")), "leads out of the bundle"
    ),
    "link to nothing": Hostile(with_handler(link("function/l", "missing.py")), "not in the bundle"),
    "link through a missing directory": Hostile(
        with_handler(link("function/l", "missing/../func.py")), "not in the bundle"
    ),
    "link through a file": Hostile(
        with_handler(Entry("function/x", b"1"), link("function/l", "func.py/../x/y")), "not in the bundle"
    ),
    "link to itself": Hostile(with_handler(link("function/l", "l")), "circle"),
    "links in a circle": Hostile(with_handler(link("function/a", "b"), link("function/b", "a")), "circle"),
    "link to its own directory": Hostile(with_handler(link("function/d/l", "..")), "directory that it lies in"),
    "link to the root": Hostile(with_handler(link("function/l", "..")), "directory that it lies in"),
    "link with a line feed": Hostile(with_handler(link("function/l", "func.py\n")), "U+000A"),
    "link that is not UTF-8": Hostile(with_handler(link("function/l", b"\xff")), "target is not UTF-8"),
    "link without a target": Hostile(with_handler(link("function/l", "")), "0 bytes"),
    "link with a long target": Hostile(with_handler(link("function/l", "./" * 400)), "800 bytes"),
    "file through a link": Hostile(
        with_handler(link("python/d", "../function"), Entry("python/d/x.py", b"x")), "which is a link", "python/d/x.py"
    ),
    "file through a link that comes later": Hostile(
        with_handler(Entry("python/d/x.py", b"x"), link("python/d", "../function")), "twice", "python/d"
    ),
    "link in place of function": Hostile(
        archive([Entry("python/func.py", HANDLER), link("function", "python")]), "must be a directory"
    ),
    "link as the handler": Hostile(
        archive([Entry("python/x.py", HANDLER), link("function/func.py", "../python/x.py")]), "function/func.py"
    ),
    "named pipe": Hostile(with_handler(Entry("function/p", mode=stat.S_IFIFO | 0o644)), "device, pipe or socket"),
    "character device": Hostile(with_handler(Entry("function/p", mode=stat.S_IFCHR | 0o644)), "device, pipe or socket"),
    "block device": Hostile(with_handler(Entry("function/p", mode=stat.S_IFBLK | 0o644)), "device, pipe or socket"),
    "socket": Hostile(with_handler(Entry("function/p", mode=stat.S_IFSOCK | 0o644)), "device, pipe or socket"),
    "setuid": Hostile(with_handler(Entry("function/p", b"x", mode=FILE | 0o4755)), "setuid", "function/p"),
    "setgid": Hostile(with_handler(Entry("function/p", b"x", mode=FILE | 0o2755)), "setgid"),
    "sticky": Hostile(with_handler(Entry("function/p/", mode=DIRECTORY | 0o1777)), "sticky"),
    "setuid made by another system": Hostile(
        with_handler(Entry("function/p", b"x", mode=FILE | 0o4755, system=0)), "setuid"
    ),
    "directory by attribute only": Hostile(with_handler(Entry("function/d", dos=0x10)), "not by both"),
    "directory by name only": Hostile(with_handler(Entry("function/d/", mode=FILE | 0o644)), "not by both"),
    "directory with content": Hostile(with_handler(Entry("function/d/", b"x", mode=DIRECTORY | 0o755)), "has content"),
    # headers that disagree
    "another name in the local header": Hostile(
        with_handler(Entry("function/x", b"x", local={"name": b"function/y"})), "is called 'function/y'"
    ),
    "another method in the local header": Hostile(
        with_handler(Entry("function/x", b"x", local={"method": 0})), "another compression"
    ),
    "other flags in the local header": Hostile(
        with_handler(Entry("function/x", b"x", local={"flags": 0x800})), "other flags"
    ),
    "another size in the local header": Hostile(
        with_handler(Entry("function/x", b"x", local={"size": 2})), "other sizes"
    ),
    "another CRC in the local header": Hostile(
        with_handler(Entry("function/x", b"x", local={"crc": 1})), "another CRC"
    ),
    "size that is too small": Hostile(
        with_handler(lying(data=b"x" * 9, size=5)), "more than the 5 bytes"
    ),
    "size that is too large": Hostile(
        with_handler(lying(data=b"x" * 9, size=50)), "9 bytes and claims 50"
    ),
    "wrong CRC": Hostile(
        with_handler(lying(data=b"x", crc=7)), "CRC that it claims"
    ),
    "wrong CRC of a stored member": Hostile(
        with_handler(lying(data=b"x", method=0, crc=7)), "CRC that it claims"
    ),
    "stored with two sizes": Hostile(
        with_handler(lying(data=b"x" * 9, method=0, size=10)), "is stored, yet"
    ),
    "packed size too small": Hostile(
        with_handler(lying(data=b"xyz" * 9, packed=5)), "between the last member"
    ),
    "packed size too large": Hostile(
        with_handler(lying(data=b"x", packed=500)), "between the last member"
    ),
    "data after the compressed data": Hostile(
        with_handler(Entry("function/x", b"", packed=b"\x03\0hidden")), "after the end of its compressed data"
    ),
    "compressed data cut short": Hostile(
        with_handler(Entry("function/x", b"", packed=b"\x4b")), "cut short"
    ),
    "compressed data that is garbage": Hostile(
        with_handler(Entry("function/x", b"abc", packed=b"\xff\xff\xff\xff")), "broken compressed data"
    ),
    "data descriptor with another CRC": Hostile(
        with_handler(Entry("function/x", b"x", streamed=True, descriptor={"crc": 1})), "data descriptor"
    ),
    "data descriptor with another size": Hostile(
        with_handler(Entry("function/x", b"x", streamed=True, descriptor={"size": 99})), "data descriptor"
    ),
    "data descriptor with another signature": Hostile(
        with_handler(Entry("function/x", b"x", streamed=True, signature=b"PK\7\x09")), "broken data descriptor"
    ),
    "data descriptor that is missing": Hostile(
        with_handler(Entry("function/x", b"x", flags=8)), "data descriptor of the wrong length"
    ),
    "streamed member whose local header lies": Hostile(
        with_handler(Entry("function/x", b"x", streamed=True, local={"size": 9})), "other sizes"
    ),
    "local header that is none": Hostile(with_handler(Entry("function/x", b"x", central={"offset": 7})), "overlaps"),
    # the archive as a whole
    "prepended data": Hostile(with_handler(prefix=b"#!/bin/sh\n"), "prepended or hidden data"),
    "prepended data with honest offsets": Hostile(
        with_handler(prefix=b"#!/bin/sh\n", offset_by=10), "hidden data in front", "function/func.py"
    ),
    "trailing data": Hostile(with_handler(suffix=b"trailing"), "bytes after the end"),
    "data between two members": Hostile(
        with_handler(Entry("function/x", b"x", before=b"hidden")), "hidden data in front", "function/x"
    ),
    "data before the directory": Hostile(with_handler(before_directory=b"hidden"), "between the last member"),
    "data after the directory": Hostile(with_handler(before_end=b"hidden"), "prepended or hidden data"),
    "two end records": Hostile(
        with_handler(comment=plain({"function/func.py": b"evil"})), "two ways"
    ),
    "fewer members than it says": Hostile(with_handler(end={"here": 2, "count": 2}), "fewer than the 2"),
    "more members than are allowed": Hostile(
        with_handler(end={"here": 50_001, "count": 50_001}), "50001 members, 50000 allowed"
    ),
    "more members than it says": Hostile(
        with_handler(Entry("function/x", b"x"), end={"here": 1, "count": 1}), "after the last entry"
    ),
    "members on other disks": Hostile(with_handler(end={"disk": 1}), "several files"),
    "a member on another disk": Hostile(with_handler(Entry("function/x", b"x", central={"disk": 3})), "another disk"),
    "directory cut short": Hostile(_short_directory(), "directory is cut short"),
    "ZIP64 end record": Hostile(with_handler(end={"count": 0xFFFF, "here": 0xFFFF}), "ZIP64"),
    "ZIP64 locator": Hostile(with_handler(before_end=b"PK\6\7" + bytes(16)), "ZIP64"),
    "ZIP64 sizes": Hostile(with_handler(Entry("function/x", b"x", central={"size": 0xFFFFFFFF})), "ZIP64"),
    "ZIP64 sizes in the local header": Hostile(
        with_handler(Entry("function/x", b"x", local={"extra": ZIP64_EXTRA})), "ZIP64"
    ),
    "ZIP64 sizes in an extra field": Hostile(with_handler(Entry("function/x", b"x", extra=ZIP64_EXTRA)), "ZIP64"),
    "broken extra field": Hostile(with_handler(Entry("function/x", b"x", extra=b"\1\2\xff\xff")), "broken extra field"),
    "encrypted": Hostile(with_handler(Entry("function/x", b"x", flags=1)), "encrypted", "function/x"),
    "strong encryption": Hostile(with_handler(Entry("function/x", b"x", flags=0x40)), "unknown feature"),
    "masked headers": Hostile(with_handler(Entry("function/x", b"x", flags=0x2000)), "unknown feature"),
    "AES": Hostile(with_handler(Entry("function/x", b"x", extra=struct.pack("<2H", 0x9901, 0))), "AES"),
    "bzip2": Hostile(with_handler(Entry("function/x", b"x", method=12)), "method 12"),
    "LZMA": Hostile(with_handler(Entry("function/x", b"x", method=14)), "method 14"),
    "Zstandard": Hostile(with_handler(Entry("function/x", b"x", method=93)), "method 93"),
    "a newer format": Hostile(with_handler(Entry("function/x", b"x", central={"version": 63})), "version 63"),
    # bombs
    "bomb by ratio": Hostile(with_handler(Entry("function/zeros", BOMB)), "200 to 1", "function/zeros"),
    "bomb by ratio in small parts": Hostile(
        with_handler(*(Entry(f"function/z{i}", b"\0" * 2**20) for i in range(20))), "200 to 1"
    ),
    "bomb by size": Hostile(
        with_handler(lying("python/big", b"", size=2**31, packed=2**30)), "bundles.unpacked_bytes_max"
    ),
    "bomb that hides its size": Hostile(
        with_handler(Entry("function/x", BOMB, local={"size": 100}, central={"size": 100})), "more than the 100 bytes"
    ),
    "bomb of overlapping members": Hostile(_overlapping(20), "overlaps"),
    "bomb by count": Hostile(
        archive([handler(), *(Entry(f"python/{i:05}", method=0) for i in range(50_000))]), "bundles.files_max"
    ),
    "bomb by implied directories": Hostile(
        archive([handler(), *(Entry(f"python/{i:05}/a/b/c/d/e", method=0) for i in range(9000))]), "bundles.files_max"
    ),
    "nested archives are not unpacked, their outside is judged": Hostile(_quine_like(2), "function/func.py"),
    # layout
    "nothing in it": Hostile(archive([]), "no function/"),
    "no function": Hostile(archive([Entry("python/x.py", b"x")]), "no function/"),
    "no handler": Hostile(archive([Entry("function/other.py", b"x")]), "function/func.py is not in it"),
    "file at the root": Hostile(with_handler(Entry("func.py", b"x")), "nothing else may be at the root", "func.py"),
    "directory at the root": Hostile(with_handler(Entry("etc/x", b"x")), "nothing else may be at the root"),
    "metadata of the store": Hostile(with_handler(Entry(".bundle.json", b"{}")), "nothing else may be at the root"),
    "native": Hostile(with_handler(Entry("native/fn-arch-x86/x.so", b"x")), "multi-architecture"),
    "function is a file": Hostile(archive([Entry("function", HANDLER)]), "must be a directory"),
    "not an archive": Hostile(b"hello" * 100, "not a ZIP"),
    "one byte": Hostile(b"P", "not a ZIP"),
    "a tar": Hostile(b"function/func.py".ljust(257, b"\0") + b"ustar\x0000" + bytes(800), "not a ZIP"),
    "func.yaml that is no YAML": Hostile(with_handler(Entry("function/func.yaml", b"{")), "func.yaml: not YAML"),
}  # fmt: skip
