"""A Dockerfile as instructions with their lines. Pure: what they mean is decided in `cli.image`.

Read: comments, continuations, ``# escape`` is refused, JSON and shell forms, ``$NAME`` and ``${NAME}``, ``${NAME:-x}``
(Dockerfile reference, "Format" and "Environment replacement").
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from cli.errors import CliError

LINES_MAX = 5000
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VARIABLE = re.compile(r"\\\$|\$(?:\{([A-Za-z_][A-Za-z0-9_]*)(?::([-+])([^}]*))?\}|([A-Za-z_][A-Za-z0-9_]*))")


class DockerfileError(CliError):
    """A line that cannot be honoured."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction, not yet expanded."""

    file: str
    line: int
    name: str
    """In upper case."""
    text: str
    """What follows the name and its flags."""
    flags: dict[str, str] = field(default_factory=dict)
    words: tuple[str, ...] | None = None
    """Of the JSON form; None: the shell form, in ``text``."""

    def refuse(self, why: str, hint: str = "") -> DockerfileError:
        """An error that names the line and the reason."""
        shown = f"{self.name} {self.text}".strip()
        shown = shown if len(shown) <= 120 else f"{shown[:117]}..."
        return DockerfileError(f"{self.file} line {self.line}: {shown}: {why}", hint=hint)


def parse(text: str, file: str) -> list[Instruction]:
    """The instructions of a Dockerfile, in order.

    Raises:
      DockerfileError: names the line and what is wrong.
    """
    found: list[Instruction] = []
    pending, first = "", 0
    lines = text.splitlines()
    if len(lines) > LINES_MAX:
        raise DockerfileError(f"{file}: more than {LINES_MAX} lines")
    for number, line in enumerate(lines, 1):
        stripped = line.strip()
        if not found and not pending and re.match(r"#\s*escape\s*=", stripped, re.IGNORECASE):
            raise DockerfileError(f"{file} line {number}: another escape character is not supported")
        if not stripped or stripped.startswith("#"):
            continue  # also between the lines of a continued instruction
        first = first or number
        if line.rstrip().endswith("\\"):
            pending += line.rstrip()[:-1] + " "
            continue
        found.append(_instruction(file, first, (pending + line).strip()))
        pending, first = "", 0
    if pending:
        found.append(_instruction(file, first, pending.strip()))
    if not found:
        raise DockerfileError(f"{file}: is empty")
    return found


def _instruction(file: str, line: int, text: str) -> Instruction:
    name, _, rest = text.partition(" ")
    name, rest = name.upper(), rest.strip()
    flags: dict[str, str] = {}
    while name not in ("ENV", "LABEL", "ARG") and (match := re.match(r"--([a-z-]+)(?:=(\S*))?(\s+|$)", rest)):
        flags[match[1]] = match[2] or ""
        rest = rest[match.end() :]
    words = None
    if rest.startswith("[") and name in ("RUN", "CMD", "ENTRYPOINT", "COPY", "ADD", "VOLUME", "SHELL"):
        try:
            parsed = json.loads(rest)
        except ValueError:
            parsed = None
        if isinstance(parsed, list) and all(isinstance(word, str) for word in parsed):
            words = tuple(parsed)
    if "<<" in rest and name in ("RUN", "COPY", "ADD"):
        raise Instruction(file, line, name, rest).refuse("here-documents are not supported")
    return Instruction(file, line, name, rest, flags, words)


def expand(text: str, values: dict[str, str]) -> str:
    """``text`` with its variables replaced; one that is not set is empty."""

    def value(match: re.Match[str]) -> str:
        if match[0] == "\\$":
            return "$"
        found = values.get(match[1] or match[4], "")
        if match[2] == "-":
            return found or match[3]
        return (match[3] if found else "") if match[2] == "+" else found

    return _VARIABLE.sub(value, text)


def assignments(instruction: Instruction, values: dict[str, str]) -> dict[str, str]:
    """What an ENV (or LABEL) sets: ``K=V K2="v w"``, or the old form ``K the rest``.

    Raises:
      DockerfileError: neither.
    """
    import shlex

    text = instruction.text
    name, _, rest = text.partition(" ")
    if "=" not in name:
        if not _NAME.fullmatch(name) or not rest.strip():
            raise instruction.refuse("must be NAME=VALUE")
        return {name: expand(rest.strip(), values)}
    try:
        words = shlex.split(text.replace("\\$", "\\\\$"))
    except ValueError as exc:
        raise instruction.refuse(f"cannot be split into words ({exc})") from exc
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not _NAME.fullmatch(key):
            raise instruction.refuse(f"{word!r} is not NAME=VALUE")
        found[key] = expand(value, values)
    return found
