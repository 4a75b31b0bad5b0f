"""Templates to pages: jinja2 with escaping always on, and how values look to people."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from daemon import VERSION
from daemon.http.views import HTML_TYPE, ApiReply

HERE = Path(__file__).parent
STATIC_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
SECURITY = [
    (
        "Content-Security-Policy",
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
]
"""Headers of every page: nothing from elsewhere, nothing inline, in nobody's frame, in no window that a page of another
kind has opened (those of functions have this origin and cannot say the same: `daemon.http.gateway`)."""


def page(template: str, *, status: int = 200, headers: list[tuple[str, str]] | None = None, **values: Any) -> ApiReply:
    """A page of the console."""
    text = _environment().get_template(template).render(version=VERSION, **values)
    return ApiReply(status=status, body=text, content_type=HTML_TYPE, headers=[*SECURITY, *(headers or [])])


def see_other(location: str, *, headers: list[tuple[str, str]] | None = None) -> ApiReply:
    """Where to look after a form was taken (303, so that a reload does not send it again)."""
    return ApiReply(status=303, headers=[("Location", location), *SECURITY, *(headers or [])])


def static(name: str) -> ApiReply | None:
    """A file of the console, or None. Only names that are in the directory: nothing of the request is a path."""
    text = _static_files().get(name)
    if text is None:
        return None
    headers = [(key, value) for key, value in SECURITY if key != "Cache-Control"]
    headers.append(("Cache-Control", "max-age=3600"))
    return ApiReply(body=text, content_type=STATIC_TYPES[Path(name).suffix], headers=headers)


@cache
def _static_files() -> dict[str, str]:
    return {path.name: path.read_text() for path in (HERE / "static").iterdir() if path.suffix in STATIC_TYPES}


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(zone=zone, ahead_s=ahead_s)
    environment.filters.update(duration=duration, mib=mib, size=size, when=when, ago=ago, count=count)
    return environment


def duration(seconds: float | None) -> str:
    """A length of time: microseconds to days, two or three digits."""
    if seconds is None or math.isnan(seconds):
        return "-"
    if math.isinf(seconds):
        return "never"
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1, 1e3, "ms"), (120, 1, "s"), (7200, 1 / 60, "min")):
        if abs(seconds) < limit:
            value = seconds * factor
            return f"{value:.0f} {unit}" if abs(value) >= 10 or value == 0 else f"{value:.2g} {unit}"
    return f"{seconds / 3600:.0f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} d"


def mib(value: float) -> str:
    """Memory given in MiB."""
    return f"{value:,.0f} MiB" if value >= 10 else f"{value:.1f} MiB"


def size(value: float) -> str:
    """Bytes."""
    for limit, unit in ((2**10, "B"), (2**20, "KiB"), (2**30, "MiB")):
        if value < limit:
            scaled = value / (limit / 2**10)
            return f"{scaled:.0f} {unit}" if unit == "B" or scaled >= 10 else f"{scaled:.1f} {unit}"
    return f"{value / 2**30:.1f} GiB"


def when(at: float) -> str:
    """A moment (Unix time) in the machine's time zone."""
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def ahead_s() -> int:
    """How far the machine's time is ahead of UTC, in seconds."""
    shift = datetime.now(UTC).astimezone().utcoffset()
    return int(shift.total_seconds()) if shift is not None else 0


def zone() -> str:
    """The machine's time zone now: its name, and how far it is from UTC."""
    local = datetime.now(UTC).astimezone()
    name, offset = local.tzname() or "", local.strftime("%z")
    shift = f"UTC{offset[:3]}:{offset[3:]}"
    return "UTC" if name == "UTC" else shift if name[:1] in "+-" else f"{name}, {shift}"


def ago(at: float, now: float) -> str:
    """How long ago a moment was."""
    return f"{duration(max(0.0, now - at))} ago"


def count(number: int, noun: str) -> str:
    """``1 call``, ``2 calls``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
