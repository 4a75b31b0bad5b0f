"""The tests bite: each small fault of ``faults.py``, put into a copy of the core, is found.

A property test that no fault fails is decoration. Most faults must be found by ``test_world.py``, which knows nothing
of single policies; the others are matters of policy, which only the test that names the policy can see.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.core.faults import FAULTS, WORLD

pytestmark = pytest.mark.timeout(600)
"""50 s on a quiet machine; other work on it must not fail this."""

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = 200
"""Runs of the property test per fault; nearly all are found within the first twenty."""


def copy_of_the_core(to: Path, found_by: str) -> None:
    """What the core's tests need, alone in a directory."""
    for part in ("daemon/core", "daemon/config", "tests/core"):
        shutil.copytree(ROOT / part, to / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("daemon/__init__.py", "daemon/errors.py", "tests/__init__.py"):
        shutil.copy(ROOT / name, to / name)
    (to / "FOUND_BY").write_text(found_by)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """By fault, and by test file for the runs without one: how the run ended."""
    top = tmp_path_factory.mktemp("faults")
    names = {}
    for number, fault in enumerate(FAULTS):
        directory = top / str(number)
        copy_of_the_core(directory, fault.found_by)
        path = directory / "daemon" / "core" / fault.file
        source = path.read_text()
        assert fault.old in source, f"the code has changed, write this fault anew: {fault.name}"
        path.write_text(source.replace(fault.old, fault.new, 1))
        names[str(directory)] = fault.name
    for test_file in sorted({fault.found_by for fault in FAULTS}):
        directory = top / test_file
        copy_of_the_core(directory, test_file)
        names[str(directory)] = test_file
    command = [sys.executable, "-B", str(Path(__file__).with_name("run_faults.py")), *names]
    environment = {**os.environ, "STOKER_CORE_EXAMPLES": str(EXAMPLES), "STOKER_CORE_MUTANT": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stderr
    return {names[line["directory"]]: line for line in map(json.loads, done.stdout.splitlines())}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_a_fault_is_found(fault: Any, results: dict[str, dict[str, Any]]) -> None:
    result = results[fault.name]
    assert result["code"] == pytest.ExitCode.TESTS_FAILED, f"{fault.found_by} did not find it:\n{result['output']}"
    assert "SyntaxError" not in result["output"]
    assert "ImportError" not in result["output"]


@pytest.mark.slow
@pytest.mark.parametrize("test_file", sorted({fault.found_by for fault in FAULTS}))
def test_without_a_fault_the_copy_passes(test_file: str, results: dict[str, dict[str, Any]]) -> None:
    assert results[test_file]["code"] == pytest.ExitCode.OK, results[test_file]["output"]


def test_most_faults_are_found_by_the_property_test() -> None:
    assert sum(fault.found_by == WORLD for fault in FAULTS) >= 20
