"""``app.yaml``: the app that a directory's functions belong to, as ``fn`` has it (reference: fn-contract 4.1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cli import funcfile
from cli.errors import CliError
from cli.items import FuncFileError, Item, parse

FILE_NAMES = ("app.yaml", "app.yml", "app.json")
DIRECTORIES_MAX = 10_000
"""Most directories that are looked through for functions."""
_SKIPPED = {"node_modules", "__pycache__", "venv", "target", "build"}


@dataclass(slots=True, kw_only=True)
class AppFile:
    """What an app.yaml says."""

    path: Path
    name: str
    config: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, Any] = field(default_factory=dict)
    syslog_url: str = ""
    warnings: list[str] = field(default_factory=list)

    def settings(self) -> dict[str, Any]:
        """The members of the API's app, without its name; only those that the file sets."""
        found = {"config": self.config, "annotations": self.annotations, "syslog_url": self.syslog_url}
        return {key: value for key, value in found.items() if value}


def load(directory: Path) -> AppFile | None:
    """The app file of a directory, or None when it has none.

    Raises:
      FuncFileError: names the file, the line, the field and what is allowed.
    """
    path = next((directory / name for name in FILE_NAMES if (directory / name).is_file()), None)
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise FuncFileError(f"cannot read {path}: {exc}") from exc
    root = parse(path, text)
    if root.kind != "map":
        raise _wrong(path, root, "", "must be a map of keys such as name and config")
    name = root.members.get("name")
    if name is None or name.kind in ("map", "list", "null"):
        raise FuncFileError(f"{path.name}: name is missing", hint="add the line 'name: APP'")
    found = AppFile(path=path, name=name.text)
    for key, item in root.members.items():
        if item.kind == "null" or key == "name":
            continue
        match key:
            case "config":
                found.config = {k: _text(path, v, f"config.{k}") for k, v in _map(path, item, key).items()}
            case "annotations":
                found.annotations = {k: v.plain() for k, v in _map(path, item, key).items()}
            case "syslog_url":
                found.syslog_url = _text(path, item, key)
            case _:
                found.warnings.append(f"{path.name} line {item.line}: {key} is not a known key and is ignored")
    return found


def functions_under(top: Path) -> list[Path]:
    """Every directory below ``top`` (and itself) that has a func file, by name.

    Raises:
      CliError: there is none, or there are too many directories.
    """
    found, seen, left = [], 0, [top]
    while left:
        directory = left.pop()
        seen += 1
        if seen > DIRECTORIES_MAX:
            raise CliError(f"{top} has more than {DIRECTORIES_MAX} directories", hint="run it in a smaller one")
        if any((directory / name).is_file() for name in funcfile.FILE_NAMES):
            found.append(directory)
        try:
            entries = [path for path in directory.iterdir() if path.is_dir() and not path.is_symlink()]
        except OSError as exc:
            raise CliError(f"cannot read {directory}: {exc.strerror}") from exc
        left += [path for path in entries if path.name not in _SKIPPED and not path.name.startswith(".")]
    if not found:
        raise CliError(f"there is no function in {top}", hint="a function is a directory with a func.yaml")
    return sorted(found)


def _map(path: Path, item: Item, label: str) -> dict[str, Item]:
    if item.kind != "map":
        raise _wrong(path, item, label, "must be a map")
    return item.members


def _text(path: Path, item: Item, label: str) -> str:
    if item.kind in ("map", "list"):
        raise _wrong(path, item, label, "must be text")
    return "" if item.kind == "null" else item.text


def _wrong(path: Path, item: Item, label: str, rule: str) -> FuncFileError:
    prefix = f"{label}: " if label else ""
    return FuncFileError(f"{path.name} line {item.line}: {prefix}{rule}, not {item.shown()}")
