"""A real daemon and the real command, for what users of ``fn`` do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.daemon import PATIENCE_S, ROOT, Daemon

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packages that one test has resolved need not be resolved by the next."""
    return tmp_path_factory.mktemp("caches")


@pytest.fixture
def environment(tmp_path: Path, caches: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("STOKER_", "FN_", "XDG_"))}
    return {**kept, "HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(caches), "PYTHONPATH": str(ROOT)}


@pytest.fixture
def stoker(shared_daemon: Daemon, tmp_path: Path, environment: dict[str, str]) -> Run:
    """Run ``stoker`` in ``tmp_path`` against the daemon; the exit code must be as said."""

    def run(*args: str, code: int = 0, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "cli", *args],
            cwd=cwd or tmp_path,
            env={**environment, "FN_API_URL": shared_daemon.url, **variables},
            stdin=subprocess.DEVNULL,
            text=True,
            capture_output=True,
            timeout=PATIENCE_S * 3,
        )
        assert done.returncode == code, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Write a function's directory."""

    def run(name: str, yaml: str = "", **files: str | bytes) -> Path:
        directory = tmp_path / name
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "func.yaml").write_text(
            f"schema_version: 20180708\nname: {directory.name}\nversion: 0.0.1\n{yaml}"
        )
        for file, content in {"func.py": f"def handler(ctx, data=None):\n    return '{name}'\n", **files}.items():
            path = directory / file.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return directory

    return run
