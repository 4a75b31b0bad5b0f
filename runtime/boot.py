"""The command lines that start an interpreter in one of our functions. The daemon needs no more of them.

The daemon must not import the spawner: that brings in the FDK, which sets the process's logging up for a function.
"""

from __future__ import annotations

import importlib.util
import os

BOOT = "import sys; sys.path += sys.argv[2:]; from runtime import {}; {}(sys.argv[1])"
"""What an interpreter runs with ``-I -S -c``: our directories come last and are gone before a function is imported."""
PACKAGES = ("runtime", "fdk", "msgpack")
"""What a worker needs of ours."""


def command(interpreter: str, entry: str, argument: str, roots: list[str]) -> list[str]:
    """The command line that starts ``interpreter`` in function ``entry`` of `runtime.spawner`."""
    return _command(interpreter, "spawner", f"spawner.{entry}", argument, roots)


def probes(interpreter: str, argument: str, roots: list[str]) -> list[str]:
    """The command line that tries the mechanisms of the sandbox."""
    return _command(interpreter, "probes", "probes.main", argument, roots)


def precompile(interpreter: str, argument: str, roots: list[str]) -> list[str]:
    """The command line that compiles modules."""
    return _command(interpreter, "precompile", "precompile.main", argument, roots)


def _command(interpreter: str, module: str, function: str, argument: str, roots: list[str]) -> list[str]:
    return [interpreter, "-I", "-S", "-X", "utf8", "-c", BOOT.format(module, function), argument, *roots]


def directories() -> list[str]:
    """Where our packages are: `PACKAGES`, in order. They are not imported: see above."""
    found = []
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None, f"{package} is not installed"
        assert spec.origin is not None, f"{package} is not a regular package"
        found.append(os.path.dirname(os.path.abspath(spec.origin)))
    return found


def roots() -> list[str]:
    """The directories that a worker needs on its search path to import them."""
    return sorted({os.path.dirname(directory) for directory in directories()})
