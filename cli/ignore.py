"""Which files of a function's directory stay out of its bundle: built-in names and the patterns of ``.fnignore``.

Patterns are those of ``.gitignore``: ``#`` comments, ``!`` takes back, a leading or inner ``/`` ties to the top, a
trailing ``/`` means directories only, ``*`` and ``?`` stop at ``/``, ``**`` does not. The last match
decides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

FILE_NAME = ".fnignore"
BUILT_IN = (
    ".git", ".hg", ".svn", "__pycache__", "*.pyc", "*.pyo", ".venv", ".fnignore", ".DS_Store", ".mypy_cache",
    ".pytest_cache", ".ruff_cache",
)  # fmt: skip
"""Never part of a function: version control, caches, virtual environments."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One line."""

    regex: re.Pattern[str]
    negated: bool
    directories_only: bool


class Ignore:
    """The patterns of one directory."""

    def __init__(self, text: str = "") -> None:
        lines = [*BUILT_IN, *text.splitlines()]
        self._patterns = [pattern for line in lines if (pattern := _pattern(line)) is not None]

    def ignores(self, path: str, *, directory: bool) -> bool:
        """Whether ``path`` (relative, with ``/``) stays out. A directory that does takes all under it along."""
        verdict = False
        for pattern in self._patterns:
            if pattern.negated != verdict or (pattern.directories_only and not directory):
                continue
            if pattern.regex.fullmatch(path):
                verdict = not pattern.negated
        return verdict


def _pattern(line: str) -> Pattern | None:
    line = line.rstrip("\r\n")
    if not line.endswith("\\ "):
        line = line.rstrip(" ")
    if not line or line.startswith("#"):
        return None
    negated = line.startswith("!")
    line = line[1:] if negated else line.removeprefix("\\")
    directories_only = line.endswith("/")
    line = line.rstrip("/")
    if not line:
        return None
    tied = "/" in line
    body = _translate(line.lstrip("/"))
    return Pattern(re.compile(body if tied else f"(?:.*/)?{body}", re.DOTALL), negated, directories_only)


def _translate(pattern: str) -> str:
    out = ""
    at = 0
    while at < len(pattern):
        if pattern.startswith("**/", at):
            out, at = out + "(?:.*/)?", at + 3
        elif pattern.startswith("**", at):
            out, at = out + ".*", at + 2
        elif pattern[at] == "*":
            out, at = out + "[^/]*", at + 1
        elif pattern[at] == "?":
            out, at = out + "[^/]", at + 1
        elif pattern[at] == "[" and (end := pattern.find("]", at + 2)) != -1:
            out, at = out + _class(pattern[at + 1 : end]), end + 1
        elif pattern[at] == "\\" and at + 1 < len(pattern):
            out, at = out + re.escape(pattern[at + 1]), at + 2
        else:
            out, at = out + re.escape(pattern[at]), at + 1
    return out


def _class(inner: str) -> str:
    """A bracket expression; it never matches ``/``. A range that runs backwards matches nothing, as in git."""
    negated = inner[0] in "!^"
    inner = inner[1:] if negated else inner
    items = []
    at = 0
    while at < len(inner):
        if inner[at + 1 : at + 2] == "-" and at + 2 < len(inner):
            low, high = inner[at], inner[at + 2]
            items += [f"{re.escape(low)}-{re.escape(high)}"] if low <= high else []
            at += 3
        else:
            items.append(re.escape(inner[at]))
            at += 1
    body = "".join(items)
    if negated:
        return f"[^/{body}]"
    return f"(?!/)[{body}]" if body else "(?!)"
