"""The picture of the states is printed from the table, and the documentation holds that picture."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from daemon.core.instance import TRANSITIONS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "explanation" / "architecture.md"
BEGIN, END = "<!-- state-table -->", "<!-- /state-table -->"


def diagram() -> str:
    script = [sys.executable, str(ROOT / "scripts" / "state_diagram.py")]
    return subprocess.run(script, check=True, capture_output=True, text=True, timeout=30).stdout


def test_the_diagram_has_every_arrow_of_the_table() -> None:
    arrows = {}
    for line in diagram().splitlines():
        names, _, events = line.strip().partition(": ")
        source, arrow, target = names.partition(" --> ")
        if arrow and "[*]" not in (source, target):
            for event in events.split(", "):
                arrows[source, event] = target
    assert arrows == {(s.name, e.value): t.name for s, row in TRANSITIONS.items() for e, t in row.items()}


def test_the_documentation_shows_the_diagram() -> None:
    if not PAGE.exists():
        pytest.skip(f"{PAGE.relative_to(ROOT)} is not written yet")
    _, begin, rest = PAGE.read_text().partition(BEGIN)
    shown, end, _ = rest.partition(END)
    assert begin, f"{PAGE.name} lacks {BEGIN}"
    assert end, f"{PAGE.name} lacks {END}"
    assert shown.strip() == diagram().strip(), "run scripts/state_diagram.py and paste its output"
