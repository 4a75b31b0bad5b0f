"""``requirements.txt`` made whole: includes followed, ``fdk`` left out, local paths absolute, and what identifies it.

``fdk`` in every spelling is left out because the worker provides Stoker's own.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from cli.errors import CliError

FILES_MAX = 50
"""Most files that include one another."""

_COMMENT = re.compile(r"(^|\s)#.*$")
_FDK = re.compile(r"fdk\s*(\[[^\]]*\])?(\s|$|[=~!<>@;(,])", re.IGNORECASE)
_VERSION = (
    r"v?(\d+!)?\d+(\.\d+)*(\.\*|([-_.]?(alpha|beta|preview|pre|a|b|c|rc)[-_.]?\d*)?(-\d+|[-_.]?(post|rev|r)[-_.]?\d*)?"
    r"([-_.]?dev[-_.]?\d*)?(\+[a-z\d]+([-_.][a-z\d]+)*)?)"
)
"""A version as PEP 440 spells it, or a prefix of one with ``.*``."""
_CLAUSE = rf"\s*(===\s*\S+|(==|~=|!=|<=|>=|<|>)\s*{_VERSION})\s*"
_WHOLE_FDK = re.compile(
    rf"fdk\s*(\[[^\]]*\]\s*)?(@.+|\(?({_CLAUSE}(,{_CLAUSE})*,?\s*)?\)?)\s*(;.*|\s--.*)?", re.IGNORECASE
)
_OPTION = re.compile(r"(-r|--requirement|-c|--constraint|-e|--editable|-f|--find-links)(?:\s*=\s*|\s+|(?=[^-\s=]))(.+)")
_ARCHIVE = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_SKIPPED = {".git", ".hg", "__pycache__", "build", ".venv", ".tox"}


@dataclass(slots=True)
class Requirements:
    """The lines to install, the constraints, and the local files they name."""

    lines: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    constraints: list[str] = field(default_factory=list)
    local: list[Path] = field(default_factory=list)

    def identity(self) -> list[object]:
        """All that decides what will be installed, as far as it can be known here; for the cache's key."""
        return [
            sorted(os.path.expandvars(line) for line in self.lines),
            [os.path.expandvars(line) for line in self.options],
            sorted(os.path.expandvars(line) for line in self.constraints),
            [content_hash(path) for path in self.local],
        ]


def read(path: Path, *, keep_fdk: bool = False) -> Requirements:
    """Read a requirements file and all it includes; an absent one is empty.

    ``keep_fdk``: for a program that is not run by our worker and so needs the FDK of its own.

    Raises:
      CliError: an included file is missing or not text, or a line about ``fdk`` is no requirement. Such a line would
        be left out with whatever has run into it, as when something is appended to a file without a last line end.
    """
    found = Requirements()
    if path.exists():
        _Reader(found, keep_fdk=keep_fdk).read(path, constraint=False, parent="")
    return found


def names_fdk(line: str) -> bool:
    """Whether a line of a requirements file asks for ``fdk``, in whatever spelling."""
    return _FDK.match(line) is not None


class _Reader:
    def __init__(self, found: Requirements, *, keep_fdk: bool) -> None:
        self._found = found
        self._keep_fdk = keep_fdk
        self._seen: set[tuple[str, bool]] = set()

    def read(self, path: Path, *, constraint: bool, parent: str) -> None:
        key = (os.path.realpath(path), constraint)
        if key in self._seen:
            return
        self._seen.add(key)
        if len(self._seen) > FILES_MAX:
            raise CliError(f"{path}: more than {FILES_MAX} requirements files include one another")
        try:
            text = path.read_text(encoding="utf-8-sig")
        except OSError as exc:
            raise CliError(f"{parent or path}: cannot read {path}: {exc.strerror}") from exc
        except UnicodeDecodeError as exc:
            raise CliError(f"{path}: not UTF-8 text: {exc.reason} at byte {exc.start}") from exc
        for number, line in _logical_lines(text):
            self._line(path, number, line, constraint)

    def _line(self, path: Path, number: int, line: str, constraint: bool) -> None:
        place = f"{path.name} line {number}"
        if option := _OPTION.fullmatch(line):
            name, value = option[1], option[2].strip().strip("'\"")
            if name in ("-r", "--requirement"):
                self.read(path.parent / value, constraint=constraint, parent=place)
            elif name in ("-c", "--constraint"):
                self.read(path.parent / value, constraint=True, parent=place)
            elif name in ("-f", "--find-links"):
                self._found.options.append(f"--find-links {self._local(path, value, place) or value}")
            else:  # -e: a bundle has no use for a link to the source
                self._requirement(path, value, place, constraint)
        elif line.startswith("-"):
            self._found.options.append(line)
        else:
            self._requirement(path, line, place, constraint)

    def _requirement(self, path: Path, line: str, place: str, constraint: bool) -> None:
        if names_fdk(line) and not self._keep_fdk:
            if not _WHOLE_FDK.fullmatch(line):
                raise CliError(
                    f"{place}: {line!r} is not a requirement", hint="one package a line: is a line end missing?"
                )
            return
        name, marker, rest = line.partition(";")
        direct = re.fullmatch(r"([A-Za-z0-9._\-]+\s*(?:\[[^\]]*\])?\s*@\s*)?(file:(?://)?)?(.+?)(\[[^\]]*\])?\s*", name)
        if direct and (direct[2] or direct[3].startswith((".", "/")) or direct[3].lower().endswith(_ARCHIVE)):
            local = self._local(path, direct[3].strip(), place)
            if local:
                line = f"{direct[1] or ''}{'file://' if direct[1] else ''}{local}{direct[4] or ''}{marker}{rest}"
        (self._found.constraints if constraint else self._found.lines).append(line)

    def _local(self, path: Path, value: str, place: str) -> str:
        """The absolute path that ``value`` names, remembered; empty when it is an address or not there."""
        if "://" in value or value.startswith("git+"):
            return ""
        local = (path.parent / os.path.expanduser(value)).resolve()
        if not local.exists():
            raise CliError(f"{place}: there is no {value} in {path.parent}")
        self._found.local.append(local)
        return str(local)


def _logical_lines(text: str) -> list[tuple[int, str]]:
    """Lines with continuations joined, comments and blank ones left out, and their numbers."""
    found: list[tuple[int, str]] = []
    pending, first = "", 0
    for number, line in enumerate([*text.splitlines(), ""], 1):
        first = first or number
        if line.endswith("\\"):
            pending += line[:-1] + " "
            continue
        whole = " ".join(_COMMENT.sub("", pending + line).split())
        if whole:
            found.append((first, whole))
        pending, first = "", 0
    return found


def content_hash(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files under a directory."""
    digest = hashlib.sha256()
    if path.is_file():
        digest.update(path.read_bytes())
        return digest.hexdigest()
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED and not name.endswith(".egg-info"))
        for name in sorted(files):
            full = os.path.join(folder, name)
            if name.endswith(".pyc") or not os.path.isfile(full):
                continue
            relative = os.path.relpath(full, path)
            with open(full, "rb") as file:
                digest.update(
                    f"{relative}\0{hashlib.sha256(file.read()).hexdigest()}\n".encode(errors="surrogateescape")
                )
    return digest.hexdigest()
