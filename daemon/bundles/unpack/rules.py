"""What a member of a bundle may be called and be, whatever the archive's format. Standard library only."""

from __future__ import annotations

import stat
import unicodedata

ROOTS = ("function", "python", "resources")
"""All that may stand at the root of a bundle (OCI code-only functions, Python)."""
LAYER_FILE = "python.layer"
"""May stand there instead of ``python/``: the digest of the layer that holds the dependencies."""
LAYER_BYTES_MAX = 80
"""``sha256:``, 64 digits, a line end."""
FILE, DIRECTORY, LINK = "file", "directory", "link"


class Refused(Exception):
    """The archive breaks a rule. ``member`` is the name as the archive has it, for people."""

    def __init__(self, reason: str, member: str = "", *, too_large: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.member, self.too_large = reason, member, too_large


class Limits:
    """The numbers of `daemon.config.settings.Bundles`, without its imports."""

    def __init__(
        self, *, unpacked_bytes_max: int, files_max: int, ratio_max: int, depth_max: int, path_bytes_max: int,
        layer: bool = False,
    ) -> None:  # fmt: skip
        self.unpacked_bytes_max = unpacked_bytes_max
        self.files_max = files_max
        self.ratio_max = ratio_max
        self.depth_max = depth_max
        self.path_bytes_max = path_bytes_max
        self.layer = layer
        """It is to hold dependencies only: ``python/`` and nothing else."""


def shown(raw: bytes) -> str:
    """A member's name for a message: printable, bounded."""
    text = ascii(raw.decode("utf-8", "surrogateescape"))[1:-1]
    return text if len(text) <= 200 else text[:197] + "..."


def check_name(raw: bytes, limits: Limits, *, marked_utf8: bool) -> tuple[str, bool]:
    """The path without a trailing slash, and whether it had one (then it is a directory)."""
    name = shown(raw)
    if not raw:
        raise Refused("a member has no name")
    if len(raw) > limits.path_bytes_max:
        raise Refused(f"has a name of {len(raw)} bytes, {limits.path_bytes_max} allowed", name)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("has a name that is not UTF-8", name) from None
    if not text.isascii() and not marked_utf8:
        raise Refused("has a name outside ASCII that is not marked as UTF-8", name)
    check_text(text, name)
    is_directory = text.endswith("/")
    path = text[:-1] if is_directory else text
    if path.startswith("/"):
        raise Refused("has an absolute name", name)
    parts = path.split("/")
    if len(parts) > limits.depth_max:
        raise Refused(f"is {len(parts)} levels deep, {limits.depth_max} allowed (bundles.depth_max)", name)
    for part in parts:
        if part in ("", ".", ".."):
            raise Refused(f"has {part!r} as a part of its name", name)
        if len(part.encode()) > 255:
            raise Refused("has a part of more than 255 bytes in its name", name)
    if parts[0] == "native":
        raise Refused(
            "native/ is only for multi-architecture applications; build the dependencies for this machine into python/",
            name,
        )
    if path == LAYER_FILE and not is_directory:
        return path, False
    if parts[0] not in ROOTS:
        raise Refused(f"is outside {', '.join(root + '/' for root in ROOTS)}: nothing else may be at the root", name)
    if len(parts) == 1 and not is_directory:
        raise Refused(f"must be a directory: {parts[0]}/", name)
    return path, is_directory


def check_text(text: str, name: str) -> None:
    """Refuse what a terminal, a log or another operating system would read differently."""
    if "\\" in text:
        raise Refused("has a backslash in its name", name)
    for char in text:
        # Cc: control, Cf: invisible formatting (text that runs backwards), Zl and Zp: line ends of Unicode
        if not " " <= char <= "~" and unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            raise Refused(f"has the control character U+{ord(char):04X} in its name", name)


def kind_of(attributes: int, is_directory: bool, name: str) -> tuple[str, bool]:
    """FILE, DIRECTORY or LINK and the x bit, from the Unix mode if there is one, whatever system made it."""
    mode, dos = attributes >> 16, attributes & 0xFFFF
    if mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX):
        raise Refused(f"has special mode bits ({stat.filemode(mode)}): setuid, setgid and sticky are not allowed", name)
    kinds = {0: "", stat.S_IFREG: FILE, stat.S_IFDIR: DIRECTORY, stat.S_IFLNK: LINK}
    if stat.S_IFMT(mode) not in kinds:
        raise Refused(f"is a device, pipe or socket ({stat.filemode(mode)})", name)
    kind = kinds[stat.S_IFMT(mode)] or (DIRECTORY if is_directory else FILE)
    if (kind == DIRECTORY) != is_directory or (dos & 0x10 and not is_directory) or dos & 0x08:
        raise Refused("is a directory by its name or by its attributes, but not by both", name)
    return kind, kind == FILE and bool(mode & 0o100)
