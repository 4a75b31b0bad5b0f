"""Fixtures of the FDK's tests."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fdk.oracle import OFFICIAL_VERSION, REPOSITORY


@pytest.fixture(scope="session")
def official_fdk() -> list[str]:
    """The command of the official FDK, in a virtual environment that is made once and kept."""
    home = REPOSITORY / ".venvs" / f"official-fdk-{OFFICIAL_VERSION}-{sys.version_info[0]}.{sys.version_info[1]}"
    if not (home / "installed").exists():
        try:
            home.parent.mkdir(exist_ok=True)
            lock = (home.parent / "official-fdk.lock").open("w")
        except OSError as exc:
            pytest.skip(f"the official FDK cannot be installed: {exc}")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            problem = _install(home)
        if problem:
            pytest.skip(f"the official FDK cannot be installed: {problem}")
    return [os.fspath(home / "bin" / "fdk")]


def _install(home: Path) -> str:
    """Nothing, or why it cannot be done."""
    if (home / "installed").exists():  # by another run, while this one waited for the lock
        return ""
    shutil.rmtree(home, ignore_errors=True)
    for command in (
        [sys.executable, "-m", "venv", os.fspath(home)],
        [os.fspath(home / "bin" / "pip"), "install", "--quiet", f"fdk=={OFFICIAL_VERSION}"],
    ):
        made = subprocess.run(command, capture_output=True, text=True, timeout=240)
        if made.returncode:
            return made.stderr.strip().splitlines()[-1] if made.stderr.strip() else f"exit code {made.returncode}"
    (home / "installed").touch()
    return ""
