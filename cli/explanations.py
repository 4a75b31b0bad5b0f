"""What each error means and what to do about it: the daemon's own words, generated (scripts/generate_docs.py)."""

from __future__ import annotations

import difflib
import json
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "explanations.json"


@cache
def known() -> dict[str, dict[str, Any]]:
    """All explanations by code."""
    found: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def find(text: str) -> list[str]:
    """The codes that ``text`` means: our code, OCI's, or the message that a client was shown."""
    wanted = text.strip().lower()
    if wanted in known():
        return [wanted]
    return [
        code
        for code, entry in known().items()
        if wanted in (str(entry["oci_code"]).lower(), str(entry["message"]).lower(), str(entry["status"]))
    ]


def similar(text: str) -> list[str]:
    """Codes that look like ``text``."""
    return difflib.get_close_matches(text.strip().lower(), known(), n=3)


def cure(code: str) -> str:
    """What to do about an error, or an empty string."""
    entry = known().get(code)
    return str(entry["next"]) if entry else ""
