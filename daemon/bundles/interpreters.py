"""Which Pythons this machine has, and which one a function's ``runtime`` means.

Looked for once: the daemon's own, PATH, /usr/bin, /usr/local/bin, ~/.pyenv/versions/*/bin. Each candidate is asked for
its version by running it; what does not answer is not there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from daemon.errors import InvalidFunction

OLDEST = (3, 11)
"""The worker's own code needs this Python."""
PROBE_S = 10.0
"""Longest time for a candidate to say its version; a healthy one takes 15 ms."""
CANDIDATES_MAX = 64
PROBE = (
    "import os, sys; v = sys.version_info; "
    "print(sys.implementation.name, v.major, v.minor, v.micro, os.path.realpath(sys.executable))"
)
NAME = re.compile(r"python3(\.\d+)?")
RUNTIME = re.compile(r"python(?:(3)\.?(\d{1,2})(?:\.ol\d+)?)?")
"""``python``, ``python3.12`` (Fn) and ``python312.ol9`` (OCI code-only functions)."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """One CPython. ``name`` is what func.yaml calls it: ``python3.12``."""

    name: str
    path: str
    """Absolute, links resolved: the real one behind a virtual environment or a shim."""
    version: str
    """All three parts: ``3.12.1``."""


def normalise_runtime(runtime: str) -> str:
    """``python`` or ``python3.N`` for every spelling that func.yaml and OCI know.

    Raises:
      InvalidFunction: not Python.
    """
    match = RUNTIME.fullmatch(runtime)
    if match is None:
        raise InvalidFunction(
            f"runtime: {runtime!r} cannot run here; allowed are python (the daemon's own) and python3.N, "
            "for example python3.12"
        )
    return f"python3.{match[2]}" if match[2] else "python"


def find_interpreters(environ: Mapping[str, str], *, home: Path | None) -> dict[str, Interpreter]:
    """Every usable CPython by name, the first found of each ``3.N``; blocks about 20 ms for each candidate."""
    found: dict[str, Interpreter] = {}
    seen: set[str] = set()
    for path in _candidates(environ, home):
        real = os.path.realpath(path)
        if real in seen or len(seen) >= CANDIDATES_MAX:
            continue
        seen.add(real)
        interpreter = probe(path)
        if interpreter is not None:
            found.setdefault(interpreter.name, interpreter)
    return dict(sorted(found.items(), key=lambda item: int(item[0].rpartition(".")[2])))


def probe(path: str) -> Interpreter | None:
    """Ask a candidate who it is; None if it does not run, is not CPython, or is too old."""
    try:
        done = subprocess.run(
            [path, "-I", "-S", "-c", PROBE],
            env={}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PROBE_S, check=True,
        )  # fmt: skip
        kind, major, minor, micro, real = done.stdout.strip().split(" ", 4)
        version = (int(major), int(minor))
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    if kind != "cpython" or version < OLDEST or not os.path.isabs(real):
        return None
    return Interpreter(f"python{major}.{minor}", real, f"{major}.{minor}.{micro}")


def _candidates(environ: Mapping[str, str], home: Path | None) -> Iterator[str]:
    yield sys.executable
    # PATH's relative and empty entries mean the current directory: never run anything from there.
    directories = [Path(part) for part in environ.get("PATH", "").split(os.pathsep) if os.path.isabs(part)]
    directories += [Path("/usr/bin"), Path("/usr/local/bin")]
    if home is not None:
        directories += _pyenv(home / ".pyenv" / "versions")
    for directory in directories:
        try:
            names = sorted(name for name in os.listdir(directory) if NAME.fullmatch(name))
        except OSError:
            continue
        for name in names:
            if os.access(directory / name, os.X_OK):
                yield str(directory / name)


def _pyenv(versions: Path) -> list[Path]:
    try:
        names = [name for name in os.listdir(versions) if re.fullmatch(r"3\.\d+\.\d+", name)]
    except OSError:
        return []
    newest_first = sorted(names, key=lambda name: [int(part) for part in name.split(".")], reverse=True)
    return [versions / name / "bin" for name in newest_first]


PROGRAMS = {"node": "node", "java": "java", "ruby": "ruby", "dotnet": "dotnet"}
"""Command -> what func.yaml calls functions that are run by it."""
_VERSION = re.compile(r"(\d+)(?:\.\d+)*")


def find_programs(path: str = "/usr/local/bin:/usr/bin:/bin") -> list[Interpreter]:
    """What runs functions of other languages, in the places where functions look; blocks up to 0.2 s for each."""
    found = []
    for command, name in PROGRAMS.items():
        program = shutil.which(command, path=path)
        if program is None:
            continue
        try:
            done = subprocess.run(
                [program, "--version"],
                env={"PATH": path}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PROBE_S,
                check=True,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError):
            continue
        if match := _VERSION.search(done.stdout or done.stderr):
            found.append(Interpreter(f"{name}{match[1]}", program, match[0]))
    return found


class Interpreters:
    """The machine's Pythons, looked for at the first question and then remembered."""

    def __init__(self, environ: Mapping[str, str] | None = None, *, home: Path | None = None) -> None:
        # PATH and HOME are the machine's, not configuration: style 3.8 keeps the latter out of here.
        self._environ = os.environ if environ is None else environ
        self._home = home or (Path(self._environ["HOME"]) if self._environ.get("HOME") else None)
        self._found: dict[str, Interpreter] | None = None
        self._programs: list[Interpreter] | None = None

    def programs(self) -> list[Interpreter]:
        """What runs other languages. The first call blocks."""
        if self._programs is None:
            self._programs = find_programs()
        return list(self._programs)

    def found(self) -> list[Interpreter]:
        """All of them, oldest first. The first call blocks for about 20 ms for each."""
        if self._found is None:
            self._found = find_interpreters(self._environ, home=self._home)
        return list(self._found.values())

    def path_of(self, runtime: str) -> str:
        """The interpreter for a bundle's ``runtime``: its path, or "" for the daemon's own, which forks fastest.

        Raises:
          InvalidFunction: this machine has none like it; the text lists those found.
        """
        name = normalise_runtime(runtime)
        if name in ("python", f"python3.{sys.version_info.minor}"):
            return ""
        for interpreter in self.found():
            if interpreter.name == name:
                return interpreter.path
        names = ", ".join(f"{i.name} ({i.version})" for i in self.found())
        raise InvalidFunction(f"runtime: {runtime!r} is not installed on this node; found: python, {names}")
