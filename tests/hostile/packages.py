"""numpy and cryptography for bundles: fetched once, pinned, kept beside the other environments of the tests."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.daemon import ROOT

PINNED = ("numpy==2.2.6", "cryptography==45.0.7")
CACHE = ROOT / ".venv-hostile" / f"python{sys.version_info.major}.{sys.version_info.minor}"
LEFT_OUT = ("tests", "__pycache__", "include", "bin", "f2py", "typing")


@functools.cache
def packages() -> dict[str, bytes]:
    """Files for ``python/`` of a bundle."""
    stamp = CACHE / ".installed"
    if not stamp.exists() or stamp.read_text() != " ".join(PINNED):
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:",
             "--upgrade", "--target", str(CACHE), *PINNED],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            if "No matching distribution" in done.stderr or "connection" in done.stderr.lower():
                pytest.skip(f"the package registry cannot be reached: {done.stderr.splitlines()[-1][:200]}")
            raise AssertionError(done.stderr)
        stamp.write_text(" ".join(PINNED))
    return {
        f"python/{path.relative_to(CACHE)}": path.read_bytes()
        for path in sorted(Path(CACHE).rglob("*"))
        if path.is_file() and path != stamp and not set(path.relative_to(CACHE).parts) & set(LEFT_OUT)
    }
