"""Which Python the dependencies are installed for: the one that ``runtime:`` names."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass

from cli.errors import CliError

OLDEST = 11
"""The worker needs Python 3.11."""
ASK_S = 10.0
"""Longest time an interpreter may take to say its version."""
_PLACES = (
    "/usr/bin", "/usr/local/bin", "~/.local/bin", "~/.pyenv/versions/*/bin", "/opt/python*/bin",
    "~/.local/share/uv/python/*/bin",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python on this machine."""

    path: str
    version: str
    """Major and minor: ``3.11``."""


def for_runtime(runtime: str) -> Interpreter:
    """The interpreter for ``python`` (the one that runs this command) or ``python3.N``.

    Raises:
      CliError: this machine has none; lists those found.
    """
    own = Interpreter(sys.executable, f"{sys.version_info[0]}.{sys.version_info[1]}")
    wanted = runtime.removeprefix("python")
    if wanted in ("", own.version):
        return own
    for path in _candidates(runtime) if int(wanted.partition(".")[2]) >= OLDEST else ():
        if _version(path) == wanted:
            return Interpreter(path, wanted)
    raise missing(runtime, found())


def missing(runtime: str, names: list[str]) -> CliError:
    """The error about a runtime that is not here; ``names`` are those that are."""
    return CliError(
        f"there is no {runtime} on this machine (func.yaml: runtime)",
        hint=f"found: {', '.join(names)}; change 'runtime:' to one of these or to 'python', or install {runtime}",
    )


def found() -> list[str]:
    """Names of all the interpreters found, ``python3.11`` first to last by version."""
    minors = {sys.version_info[1]}
    for place in [*_PLACES, *os.environ.get("PATH", "").split(os.pathsep)]:
        for path in glob.glob(os.path.join(os.path.expanduser(place), "python3.[0-9]*")):
            suffix = os.path.basename(path).removeprefix("python3.")
            if not suffix.isdigit() or int(suffix) in minors or int(suffix) < OLDEST:
                continue
            if _version(path) == f"3.{suffix}":
                minors.add(int(suffix))
    return [f"python3.{minor}" for minor in sorted(minors)]


def _candidates(name: str) -> list[str]:
    on_path = shutil.which(name)
    paths = [on_path] if on_path else []
    for place in _PLACES:
        paths += sorted(glob.glob(os.path.join(os.path.expanduser(place), name)), reverse=True)
    return paths


def _version(path: str) -> str:
    """Ask it: a pyenv shim may be there without the version behind it."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([path, "-I", "-c", code], capture_output=True, text=True, timeout=ASK_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
