"""The FDK's own distribution installs alone, into an empty environment, and works there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fdk import oracle

pytestmark = [pytest.mark.slow, pytest.mark.processes]


def test_it_installs_alone_and_its_commands_work(tmp_path: Path) -> None:
    """dependencies: there are none."""
    source, home = tmp_path / "source", tmp_path / "venv"
    shutil.copytree(
        oracle.REPOSITORY / "fdk", source, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    )
    subprocess.run([sys.executable, "-m", "venv", home], check=True, timeout=120)
    pip = [home / "bin" / "pip", "--disable-pip-version-check"]
    installed = subprocess.run([*pip, "install", "-q", source], capture_output=True, text=True, timeout=240)
    if "Could not find a version that satisfies the requirement setuptools" in installed.stderr:
        pytest.skip("no package index: the build back end cannot be had")
    assert installed.returncode == 0, installed.stderr
    listed = subprocess.run([*pip, "list", "--format=freeze"], capture_output=True, text=True, check=True)
    assert {line.partition("=")[0] for line in listed.stdout.split()} <= {"stoker-fdk", "pip", "setuptools"}
    packed = {path.name for path in (home / "lib").glob("python3*/site-packages/fdk/*") if path.name != "__pycache__"}
    assert packed == {path.name for path in (oracle.REPOSITORY / "fdk").glob("*.py")} | {"py.typed"}

    file = tmp_path / "func.py"
    file.write_text(
        "import fdk\nfrom fdk import response, fixtures\ndef handler(ctx, data=None):\n    return fdk.__file__\n"
    )
    with oracle.serve([os.fspath(home / "bin" / "fdk")], file, entrypoint=None, directory=tmp_path / "run") as function:
        assert function.call([]).body.startswith(os.fsencode(home))
    usage = subprocess.run([home / "bin" / "fdk-tcp-debug"], capture_output=True, text=True)
    assert (usage.returncode, usage.stderr[:20]) == (2, "Usage: fdk-tcp-debug")
