"""The real command in a process of its own, with an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.fake import FakeDaemon

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0


@dataclass
class Result:
    code: int
    out: str
    err: str
    raw: bytes


Stoker = Callable[..., Result]


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    """A fake daemon; at the end of the test, everything it expected must have come and nothing else."""
    fake = FakeDaemon()
    yield fake
    fake.stop()
    assert fake.problems == []


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """What the command sees: a home and a cache of the test's own, nothing of the machine's."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path / "home"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "LC_ALL": "C.UTF-8",
    }


@pytest.fixture
def bare_stoker(environment: dict[str, str], tmp_path: Path) -> Stoker:
    """Run ``stoker`` with nothing that says where the daemon is."""

    def run(*arguments: str, stdin: bytes = b"", cwd: Path | None = None, **variables: str) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "cli", *arguments],
            input=stdin,
            capture_output=True,
            timeout=PATIENCE_S,
            cwd=cwd or tmp_path,
            env={**environment, **variables},
            check=False,
        )
        return Result(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode(), done.stdout)

    return run


@pytest.fixture
def stoker(bare_stoker: Stoker, daemon: FakeDaemon) -> Stoker:
    """Run ``stoker`` against the fake daemon."""

    def run(*arguments: str, **more: object) -> Result:
        return bare_stoker(*arguments, STOKER_URL=daemon.url, **more)

    return run


@pytest.fixture
def function(tmp_path: Path) -> Path:
    """A function's directory without dependencies."""
    directory = tmp_path / "hello"
    directory.mkdir()
    (directory / "func.yaml").write_text(
        "schema_version: 20180708\nname: hello\nversion: 0.0.1\nruntime: python\n"
        "entrypoint: /python/bin/fdk /function/func.py handler\nmemory: 256\n"
    )
    (directory / "func.py").write_text("def handler(ctx, data=None):\n    return 'hi'\n")
    (directory / "requirements.txt").write_text("fdk>=0.1.128")
    return directory
