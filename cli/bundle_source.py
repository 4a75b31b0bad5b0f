"""The files of a Docker build context: a function's directory without what ``.fnignore`` and ``.dockerignore`` name."""

from __future__ import annotations

import re
from pathlib import Path

from cli.errors import CliError
from cli.ignore import Ignore

GENERATED = re.compile(r"Dockerfile-fn-tmp[0-9]*")
"""What ``fn build`` writes into the directory for as long as it runs."""


def context_of(directory: Path, *, besides: str) -> list[tuple[str, Path]]:
    """Relative names and paths; an empty directory's name ends in ``/``. ``besides``: the Dockerfile that is read.

    Raises:
      CliError: names the file that cannot be part of a bundle.
    """
    from cli.bundle import collect

    ignored = _dockerignore(directory)
    found = []
    for name, path in collect(directory).files:
        if GENERATED.fullmatch(name) or (name != besides and _ignores(ignored, name)):
            continue
        found.append((name, path))
    return found


def _dockerignore(directory: Path) -> Ignore:
    try:
        text = (directory / ".dockerignore").read_text(encoding="utf-8")
    except FileNotFoundError:
        return Ignore()
    except (OSError, UnicodeDecodeError) as exc:
        raise CliError(f"cannot read {directory / '.dockerignore'}: {exc}") from exc
    # Docker's patterns are all tied to the top, unlike .gitignore's.
    lines = []
    for line in text.splitlines():
        line = line.strip()
        if line and not line.startswith("#"):
            negated = "!" if line.startswith("!") else ""
            lines.append(f"{negated}/{line.removeprefix('!').lstrip('/').removeprefix('./')}")
    return Ignore("\n".join(lines))


def _ignores(ignored: Ignore, name: str) -> bool:
    """Whether the file or a directory above it is ignored."""
    parts = name.rstrip("/").split("/")
    return any(
        ignored.ignores("/".join(parts[: n + 1]), directory=n + 1 < len(parts) or name.endswith("/"))
        for n in range(len(parts))
    )
