"""How results are shown: tables for people, JSON or YAML for scripts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import click

FORMATS = ("table", "json", "yaml")

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def clean(text: str) -> str:
    """``text`` with control characters made visible: what a function wrote must not steer the terminal."""
    return _CONTROL.sub(lambda m: f"\\x{ord(m.group()):02x}", text)


_C1 = re.compile("[\x7f-\x9f]")


def inert(document: str) -> str:
    """A JSON document, the control characters that JSON lets stand escaped too: some terminals obey them."""
    return _C1.sub(lambda m: f"\\u{ord(m.group()):04x}", document)


def structured(data: Any, form: str) -> None:
    """Print ``data`` as one JSON or YAML document."""
    if form == "yaml":
        import yaml

        text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, default_flow_style=False)
        click.echo(text.removesuffix("...\n"), nl=False)
    else:
        click.echo(inert(json.dumps(data, indent=2, ensure_ascii=False)))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str = "") -> None:
    """Print rows under bold upper-case column names, two blanks between columns.

    No rows: ``empty`` goes to standard error instead. Numbers are right-aligned. Nothing is cut: a name that was
    printed can be copied.
    """
    rows = list(rows)
    cells = [[_cell(value) for value in row] for row in rows]
    if not cells:
        click.echo(empty, err=True)
        return
    widths = [max(len(name), *(len(row[i]) for row in cells)) for i, name in enumerate(columns)]
    right = [all(isinstance(row[i], (int, float)) or row[i] is None for row in rows) for i in range(len(columns))]

    def line(values: Sequence[str]) -> str:
        padded = (v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True))
        return "  ".join(padded).rstrip()

    click.echo(click.style(line([name.upper() for name in columns]), bold=True))
    for row in cells:
        click.echo(line(row))


def pairs(items: Iterable[tuple[str, Any]]) -> None:
    """Print names and values under each other, the values aligned."""
    shown = [(name, _cell(value)) for name, value in items]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        click.echo(f"{click.style(name.ljust(width), bold=True)}  {value}".rstrip())


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (dict, list)):
        return clean(json.dumps(value, ensure_ascii=False))
    return clean(str(value))


def size(count: float) -> str:
    """Bytes for people: ``512 B``, ``3.2 KiB``, ``12 MiB``."""
    unit = "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"


def duration(seconds: float | None) -> str:
    """Seconds for people: ``0.3s``, ``42s``, ``5m10s``, ``3h02m``, ``4d03h``."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def short_digest(digest: str) -> str:
    """``sha256:`` and the first twelve digits: enough for people to tell bundles apart."""
    return digest[:19] if digest.startswith("sha256:") else digest


def count(number: int, noun: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
