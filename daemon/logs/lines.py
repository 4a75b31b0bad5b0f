"""What a line of a log says about itself: its level, its object if it is JSON; and its form for syslog. Pure."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

__all__ = ["LEVELS", "at_least", "level_of", "object_of", "rfc5424", "severity"]

LEVELS = ("debug", "info", "warning", "error")
"""From least to most. A line whose level is not known has the empty one."""

_WORDS = {
    "trace": "debug", "debug": "debug", "dbg": "debug", "info": "info", "information": "info", "notice": "info",
    "warn": "warning", "warning": "warning", "err": "error", "error": "error", "critical": "error", "fatal": "error",
    "alert": "error", "emerg": "error", "emergency": "error", "panic": "error", "exception": "error",
}  # fmt: skip
_HEAD_CHARS = 120
_MEMBER_CHARS = 2000
_in_text = re.compile(
    r"\b(TRACE|DEBUG|INFO|NOTICE|WARN|WARNING|ERR|ERROR|CRITICAL|FATAL|ALERT|EMERG|PANIC)\b"
    r"|\b(?:level|lvl|severity)=\"?([A-Za-z]+)"
    r"|\[(trace|debug|info|notice|warn|warning|err|error|critical|fatal)\]"
).search
_in_json = re.compile(r"\"(?:level|levelname|severity|log_level|lvl|log\.level)\"\s*:\s*\"([A-Za-z]{1,20})\"").search

SEVERITIES = {"error": 3, "warning": 4, "info": 6, "debug": 7, "": 6}
"""RFC 5424 section 6.2.1."""
FACILITY = 1
"""user-level messages."""
ENTERPRISE = 32473
"""The number for documentation (RFC 5612): Stoker has none of its own. Names the structured data ``stoker@32473``."""
_not_printable = re.compile(r"[^!-~]")


def level_of(stream: str, line: str) -> str:
    """The level that a line states: one of `LEVELS`, or empty. ``platform`` lines are ``info``, or ``error``."""
    if stream == "platform":
        return "error" if " with error code " in line or "dropped" in line else "info"
    if line.startswith("{"):
        found = _in_json(line[:_MEMBER_CHARS])
        return _WORDS.get(found[1].lower(), "") if found else ""
    if line.startswith("Traceback (most recent call last)"):
        return "error"
    found = _in_text(line[:_HEAD_CHARS])
    return _WORDS.get((found[1] or found[2] or found[3]).lower(), "") if found else ""


def at_least(level: str) -> tuple[str, ...]:
    """The levels that are as grave, or graver."""
    return LEVELS[LEVELS.index(level) :]


def object_of(line: str) -> dict[str, Any] | None:
    """The object that a line is in JSON, or None."""
    if not line.startswith("{"):
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def severity(level: str) -> int:
    """Syslog's number of a level."""
    return SEVERITIES.get(level, 6)


def rfc5424(
    *, at: float, host: str, app: str, function: str, call_id: str, instance: str, stream: str, line: str
) -> bytes:
    """One message as RFC 5424 has it: names in header and structured data, the line as its text in UTF-8."""
    when = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    priority = FACILITY * 8 + severity(level_of(stream, line))
    data = f'[stoker@{ENTERPRISE} app="{_value(app)}" function="{_value(function)}" call="{_value(call_id)}"]'
    head = (
        f"<{priority}>1 {when} {_name(host, 255)} {_name(f'{app}/{function}', 48)} {_name(instance, 128)} "
        f"{_name(stream, 32)} {data} "
    )
    return (head + line.replace("\0", "\\0").replace("\n", "\\n")).encode("utf-8", "replace")


def _name(text: str, longest: int) -> str:
    return _not_printable.sub("_", text)[:longest] or "-"


def _value(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]").replace("\n", " ")
