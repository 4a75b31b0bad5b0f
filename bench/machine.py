"""The conditions of a run: machine, interpreter, versions, what else was going on."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench import venvs, wrk
from bench.peers import REQUIREMENTS


def conditions(*, command: str, sandbox: str, rounds: int, seconds: float, load_before: float) -> dict[str, Any]:
    """Everything a reader needs to judge the figures, by name. ``load_before``: the load average at the start."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "revision": _revision(),
        "cpu": f"{_cpu_model()}, {os.cpu_count()} cores",
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "system": _system(),
        "python": f"{platform.python_implementation()} {platform.python_version()} ({sys.executable})",
        "other_work": f"load average {load_before:.2f} when the run began (0 is a machine to ourselves)",
        "rounds": f"{rounds} of {seconds:g} s each for warm calls, peers in turn",
        "load": f"{wrk.version()}, 1 thread, on the same cores",
        "peers": {name: _versions(name, needed) for name, needed in REQUIREMENTS.items()},
        "sandbox": sandbox,
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.machine()


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"


def _revision() -> str:
    result = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    return result.stdout.strip() or "unknown"


def _versions(name: str, needed: tuple[str, ...]) -> str:
    """What was asked for, and what it runs on where that matters for speed."""
    lib = venvs.CACHE / "venvs" / name / "lib"
    extras = []
    for package in ("httptools", "uvloop", "gunicorn", "h11"):
        found = sorted(lib.glob(f"python*/site-packages/{package}-*.dist-info"))
        if found and not any(part.startswith(f"{package}==") for part in needed):
            extras.append(f"{package} {found[0].name.removesuffix('.dist-info').rpartition('-')[2]}")
    return ", ".join([*needed, *extras])
