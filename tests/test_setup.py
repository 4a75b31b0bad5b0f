"""scripts/setup: what it makes is used again only where it is whole and was made. A stand-in for Python takes notes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SETUP = Path(__file__).resolve().parents[1] / "scripts" / "setup"
PYTHON = """#!/bin/sh
case "$*" in
    "--version") echo Python 3.11.2 ;;
    "-m venv .venv")
        echo venv >>"$NOTES"
        mkdir -p .venv/bin
        cp "$0" .venv/bin/python
        if [ -n "${KILLED:-}" ]; then kill -KILL $PPID; fi
        ;;
    "-m pip install"*)
        echo pip >>"$NOTES"
        if [ -n "${PIP_SAYS:-}" ]; then echo "$PIP_SAYS"; exit 1; fi
        ;;
esac
"""


class Checkout:
    def __init__(self, top: Path, notes: Path) -> None:
        self.top = top
        self.notes = notes

    def setup(self, **environment: str) -> tuple[list[str], subprocess.CompletedProcess[str]]:
        """What it did (``venv``, ``pip``), and how it ended."""
        self.notes.write_text("")
        python = self.top.parent / "python"
        done = subprocess.run(
            [self.top / "scripts" / "setup"],
            env={**os.environ, "PYTHON": str(python), "NOTES": str(self.notes), **environment},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        return self.notes.read_text().split(), done


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A directory with setup in it, whose name has a space and a letter beyond ASCII."""
    top = tmp_path / "my stöker"
    (top / "scripts").mkdir(parents=True)
    shutil.copy(SETUP, top / "scripts")
    (top / "pyproject.toml").write_text("")
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return Checkout(top, tmp_path / "notes")


def test_nothing_is_done_twice(checkout: Checkout) -> None:
    did, done = checkout.setup()
    assert (did, done.returncode) == (["venv", "pip"], 0), done.stderr
    did, done = checkout.setup()
    assert (did, done.returncode, done.stderr) == ([], 0, "")


def test_a_copy_or_what_was_moved_gets_its_own(checkout: Checkout) -> None:
    """Else /opt/stoker, copied from a home as the manual says, would run the programs and sources of that home."""
    checkout.setup()
    copy = Checkout(checkout.top.with_name("copy"), checkout.notes)
    shutil.copytree(checkout.top, copy.top)  # copy2: times as they were
    assert copy.setup()[0] == ["venv", "pip"]
    assert copy.setup()[0] == []
    moved = Checkout(checkout.top.rename(checkout.top.with_name("moved")), checkout.notes)
    assert moved.setup()[0] == ["venv", "pip"]
    assert moved.setup()[0] == []


def test_one_that_was_interrupted_is_made_anew(checkout: Checkout) -> None:
    did, done = checkout.setup(KILLED="1")
    assert (did, done.returncode) == (["venv"], -9)
    did, done = checkout.setup()
    assert (did, done.returncode) == (["venv", "pip"], 0), done.stderr
    assert checkout.setup()[0] == []


def test_an_installation_that_failed_is_tried_again_in_the_same_one(checkout: Checkout) -> None:
    did, done = checkout.setup(PIP_SAYS="Failed to establish a new connection: Temporary failure in name resolution")
    assert (did, done.returncode) == (["venv", "pip"], 1)
    assert "the package index cannot be reached" in done.stderr
    did, done = checkout.setup(PIP_SAYS="editable mode currently requires a setup.py based build")
    assert (did, done.returncode) == (["pip"], 1)
    assert "the pip in .venv is too old" in done.stderr
    assert checkout.setup()[0] == ["pip"]
    assert checkout.setup()[0] == []
