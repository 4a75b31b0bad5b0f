"""The command line that starts an interpreter in one of `runtime.spawner`'s functions. The daemon needs no more of it.

The daemon must not import the spawner: that brings in the FDK, which sets the process's logging up for a function.
"""

from __future__ import annotations

BOOT = "import sys; sys.path += sys.argv[2:]; from runtime import spawner; spawner.{}(sys.argv[1])"
"""What an interpreter runs with ``-I -S -c``: our directories come last and are gone before a function is imported."""


def command(interpreter: str, entry: str, argument: str, roots: list[str]) -> list[str]:
    """The command line that starts ``interpreter`` in function ``entry`` of `runtime.spawner`."""
    return [interpreter, "-I", "-S", "-X", "utf8", "-c", BOOT.format(entry), argument, *roots]
