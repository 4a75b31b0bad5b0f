"""Packages of the other projects, installed once: what functions import, and the oracle that runs them natively."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
HERE = Path(__file__).parent
PINNED = (
    "flask==3.1.3", "starlette==1.10.0", "httpx==0.28.1", "functions-framework==3.10.2", "awslambdaric==4.2.2",
)  # fmt: skip
INSTALL_S = 240
UNREACHABLE = re.compile("connection|name resolution|unreachable|timed out", re.IGNORECASE)

Oracle = Callable[..., Any]


@pytest.fixture(scope="session")
def packages() -> Path:
    """A directory like a bundle's ``python/`` with the pinned packages."""
    home = REPOSITORY / ".venvs" / f"adapters-{sys.version_info[0]}.{sys.version_info[1]}-1"
    if not (home / "installed").exists():
        try:
            home.parent.mkdir(exist_ok=True)
            lock = (home.parent / "adapters.lock").open("w")
        except OSError as exc:
            pytest.skip(f"the packages cannot be installed: {exc}")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (home / "installed").exists():
                shutil.rmtree(home, ignore_errors=True)
                command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(home / "site"), *PINNED]
                made = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S)
                if made.returncode and UNREACHABLE.search(made.stderr):
                    pytest.skip(f"the packages cannot be installed: {made.stderr.strip().splitlines()[-1:]}")
                assert made.returncode == 0, made.stderr
                (home / "installed").touch()
    return home / "site"


@pytest.fixture(scope="session")
def oracle(packages: Path) -> Oracle:
    """Run requests through the other project's own client or runtime, in a process of its own; the replies."""

    def run(kind: str, file: str, handler: str, requests: list[dict[str, Any]], **variables: str) -> Any:
        done = subprocess.run(
            [sys.executable, str(HERE / "native.py"), kind, str(HERE / "functions" / file), handler],
            input=json.dumps(requests),
            capture_output=True,
            text=True,
            timeout=120,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(packages), "PYTHONDONTWRITEBYTECODE": "1", **variables},
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.rpartition("\n=====\n")[2])

    return run


@pytest.fixture(scope="session")
def bundled(packages: Path) -> Callable[..., bytes]:
    """A bundle of a file in ``functions/``; with the packages if it needs any."""
    members = [
        (f"python/{path.relative_to(packages)}", path.read_bytes())
        for path in sorted(packages.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and "bin" not in path.relative_to(packages).parts[:1]
    ]

    def make(file: str, handler: str, adapter: str, *, needs_packages: bool = True) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(
                "function/func.yaml",
                f"schema_version: 20180708\nname: x\nentrypoint: /python/bin/fdk /function/{file} {handler}\n"
                f"annotations:\n  stoker.dev/adapter: {adapter}\n",
            )
            archive.write(HERE / "functions" / file, f"function/{file}")
            for name, data in members if needs_packages else []:
                archive.writestr(name, data)
        return buffer.getvalue()

    return make
