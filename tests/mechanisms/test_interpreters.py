"""Which Pythons are found, and what a runtime means."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.bundles.interpreters import Interpreter, Interpreters, find_interpreters, normalise_runtime, probe
from daemon.errors import InvalidFunction

OWN = f"python3.{sys.version_info.minor}"


def pretend(path: Path, answer: str) -> Path:
    """A program that says it is some Python."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{answer}\n")
    path.chmod(0o755)
    return path


def says(version: str, kind: str = "cpython") -> str:
    return f'echo "{kind} {version.replace(".", " ")} $0"'


def test_the_own_one_is_found_and_is_real() -> None:
    found = find_interpreters({}, home=None)
    own = found[OWN]
    assert own.version == ".".join(map(str, sys.version_info[:3]))
    said = subprocess.run(
        [own.path, "-I", "-S", "-c", "import sys; print(sys.version_info.minor)"], capture_output=True
    )
    assert int(said.stdout) == sys.version_info.minor
    assert own.path == os.path.realpath(own.path)


def test_path_comes_before_pyenv_and_the_newest_of_pyenv_first(tmp_path: Path) -> None:
    first = pretend(tmp_path / "bin/python3.70", says("3.70.1"))
    pretend(tmp_path / ".pyenv/versions/3.70.9/bin/python3.70", says("3.70.9"))
    pretend(tmp_path / ".pyenv/versions/3.71.9/bin/python3.71", says("3.71.9"))
    newest = pretend(tmp_path / ".pyenv/versions/3.71.10/bin/python3", says("3.71.10"))
    found = find_interpreters({"PATH": f"/nonexistent:{tmp_path / 'bin'}"}, home=tmp_path)
    assert found["python3.70"] == Interpreter("python3.70", str(first), "3.70.1")
    assert found["python3.71"] == Interpreter("python3.71", str(newest), "3.71.10")
    assert list(found)[-2:] == ["python3.70", "python3.71"]


@pytest.mark.parametrize(
    "answer",
    [says("3.9.18"), says("2.7.18"), says("3.72.1", kind="pypy"), "exit 1", "echo hello", "echo cpython 3 72 1 python3",
     "echo cpython 3 x 1 /bin/x", "kill -9 $$", "true"],
)  # fmt: skip
def test_what_is_no_usable_python_is_not_there(tmp_path: Path, answer: str) -> None:
    assert probe(str(pretend(tmp_path / "python3.72", answer))) is None
    assert "python3.72" not in find_interpreters({"PATH": str(tmp_path)}, home=None)


def test_nothing_is_run_from_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tmp_path / "python3", f"touch {tmp_path}/was-run; {says('3.73.0')}")
    monkeypatch.chdir(tmp_path)
    find_interpreters({"PATH": ":.:bin:"}, home=None)
    assert not (tmp_path / "was-run").exists()


def test_only_pythons_are_run(tmp_path: Path) -> None:
    for name in ("python", "python3-config", "python3.12-gdb", "ipython3", "python3.x"):
        pretend(tmp_path / name, f"touch {tmp_path}/was-run")
    pretend(tmp_path / "python3.74", says("3.74.0")).chmod(0o644)
    assert "python3.74" not in find_interpreters({"PATH": str(tmp_path)}, home=None)
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize(
    ("runtime", "means"),
    [("python", "python"), ("python3.12", "python3.12"), ("python312.ol9", "python3.12"), ("python311", "python3.11")],
)
def test_spellings_of_a_runtime(runtime: str, means: str) -> None:
    assert normalise_runtime(runtime) == means


def test_a_runtime_means_an_interpreter(tmp_path: Path) -> None:
    other = pretend(tmp_path / "python3.75", says("3.75.2"))
    interpreters = Interpreters({"PATH": str(tmp_path)})
    assert interpreters.path_of("python") == ""
    assert interpreters.path_of(OWN) == ""
    assert interpreters.path_of("python3.75") == str(other)
    other.unlink()
    assert interpreters.path_of("python375.ol9") == str(other), "it is looked for once"


def test_an_unknown_runtime_lists_what_is_there(tmp_path: Path) -> None:
    pretend(tmp_path / "python3.75", says("3.75.2"))
    with pytest.raises(InvalidFunction) as refusal:
        Interpreters({"PATH": str(tmp_path)}).path_of("python3.99")
    message = refusal.value.message
    assert "'python3.99' is not installed" in message
    assert "python3.75 (3.75.2)" in message
    assert OWN in message


@pytest.mark.parametrize(
    "runtime", ["go", "node22", "java", "", "python2.7", "Python", "python3.12.1", "python 3", "python3.12\n"]
)
def test_what_is_no_runtime_is_refused(runtime: str) -> None:
    with pytest.raises(InvalidFunction, match="allowed are python"):
        normalise_runtime(runtime)
