"""A virtual environment per peer under ``bench/.cache``, made once and made again when what it needs changes."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.processes import BenchError

CACHE = Path(__file__).parent / ".cache"
PIP_S = 600.0
"""Longest time for one installation."""
_STAMP = "installed"


def ensure(name: str, requirements: Sequence[str]) -> Path:
    """The environment's ``bin`` directory.

    Raises:
      BenchError: it could not be made; says what pip said.
    """
    home = CACHE / "venvs" / name
    stamp, wanted = home / _STAMP, _digest(requirements)
    if not (stamp.exists() and stamp.read_text() == wanted):
        print(f"  installing {name}: {' '.join(requirements)}", file=sys.stderr, flush=True)
        _run([sys.executable, "-m", "venv", "--clear", str(home)])
        _run([str(home / "bin/python"), "-m", "pip", *_PIP, *requirements])
        stamp.write_text(wanted)
    return home / "bin"


def bare(interpreter: Path) -> Path:
    """A Python of this interpreter that has nothing installed.

    An interpreter's own site-packages may hold ``.pth`` files that import at every start: on one machine these made
    ``python3 -I -c pass`` three times as slow, which would flatter whatever is compared with it.

    Raises:
      BenchError: it could not be made.
    """
    home = CACHE / "venvs" / f"bare-{hashlib.sha256(str(interpreter).encode()).hexdigest()[:12]}"
    python = home / "bin/python"
    if not python.exists():
        _run([str(interpreter), "-I", "-m", "venv", "--clear", "--without-pip", str(home)])
    return python


def ensure_target(name: str, requirements: Sequence[str]) -> Path:
    """A directory of installed packages, as the ``python`` directory of a bundle.

    Raises:
      BenchError: pip failed.
    """
    home = CACHE / "targets" / name
    stamp, wanted = home.with_suffix(f".{_STAMP}"), _digest(requirements)
    if not (stamp.exists() and stamp.read_text() == wanted):
        print(f"  installing for {name}: {' '.join(requirements)}", file=sys.stderr, flush=True)
        home.parent.mkdir(parents=True, exist_ok=True)
        _run([sys.executable, "-m", "pip", *_PIP, "--upgrade", "--target", str(home), *requirements])
        stamp.write_text(wanted)
    return home


_PIP = ["install", "--quiet", "--disable-pip-version-check", "--no-input"]


def _digest(requirements: Sequence[str]) -> str:
    return hashlib.sha256("\n".join([sys.version, *requirements]).encode()).hexdigest()


def _run(command: Sequence[str]) -> None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=PIP_S)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{' '.join(command)} took more than {PIP_S:g} s") from None
    if result.returncode:
        raise BenchError(f"{' '.join(command)} failed:\n{result.stdout[-2000:]}{result.stderr[-2000:]}")
