"""Compiles a bundle's modules, since the functions that use them can write nowhere that lasts.

A program of its own, run by the daemon: it reads a list of sources, compiles them without running any, and puts the
results where `runtime.loader` looks. The sources are somebody else's, and compilers have bugs: so it gives up all but
reading these and writing there first.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import signal
import sys

from runtime import landlock, linux, privileges, seccomp

DATA_BYTES_MAX = 512 * 2**20
CPU_S_MAX = 60
"""One list may take this long; what is not compiled then is compiled each time it is imported."""
FILE_BYTES_MAX = 16 * 2**20
NICE = 19
"""It is nobody's hurry: the modules have been imported already."""


def main(argument: str) -> None:
    """Compile what the list on stdin names. ``argument``: pid of the daemon.

    The list is a JSON object: ``cache``, the directory of the results; ``read``, what of the host it needs;
    ``sources``, pairs of a path and the name under which functions know it.
    """
    linux.die_with_parent(signal.SIGKILL, int(argument))
    document = json.load(sys.stdin)
    _confine(document["cache"], document["read"])
    for path, name in document["sources"]:
        try:
            _compile(path, name, document["cache"])
        except Exception as exc:  # a syntax error in a module that nobody can import either, for one
            print(f"{path}: {type(exc).__name__}: {exc}", file=sys.stderr)


def _confine(cache: str, read: list[str]) -> None:
    os.nice(NICE)
    for kind, value in (
        (resource.RLIMIT_DATA, DATA_BYTES_MAX),
        (resource.RLIMIT_CPU, CPU_S_MAX),
        (resource.RLIMIT_FSIZE, FILE_BYTES_MAX),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        lowest = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (lowest, lowest))
    linux.set_no_new_privs()
    paths = [(path, landlock.READ) for path in read] + [(cache, landlock.WRITE)]
    landlock.restrict(paths=paths, connect=[], bind=[])
    if os.uname().machine in seccomp.ARCHITECTURES:
        program = seccomp.template_filter(os.uname().machine, inet=False, namespaces=False)
        privileges.filter_system_calls(program)


def _compile(path: str, name: str, cache: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        source = file.read(FILE_BYTES_MAX)
    # Never run, only compiled; the name is what tracebacks show.
    code = compile(source, name, "exec", dont_inherit=True)
    external = sys.modules["_frozen_importlib_external"]
    data = external._code_to_timestamp_pyc(code, status.st_mtime, status.st_size)
    target = cache + os.path.join(os.path.dirname(path), os.path.basename(importlib.util.cache_from_source(path)))
    os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
    temporary = f"{target}.{os.getpid()}"
    with open(temporary, "wb") as file:
        file.write(data)
    os.chmod(temporary, 0o644)
    os.replace(temporary, target)
