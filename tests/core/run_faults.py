"""Run by ``test_mutants.py`` in a process of its own: try each fault in a fork, print a JSON line for each.

A fork, because importing pytest and hypothesis takes longer than finding most faults. The core itself must not be
imported before the fork: each child imports its own copy.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import hypothesis.stateful  # noqa: F401
import pytest


def main(directories: list[str]) -> None:
    """Each directory holds a copy of the core and a file FOUND_BY that names the test file to run."""
    assert not any(name.startswith("daemon") for name in sys.modules)
    for directory in directories:
        since_s = time.monotonic()
        child = os.fork()
        if child == 0:
            os._exit(run(Path(directory)))
        _, status = os.waitpid(child, 0)
        output = Path(directory, "output").read_text()
        code = os.waitstatus_to_exitcode(status)
        took_s = round(time.monotonic() - since_s, 2)
        print(json.dumps({"directory": directory, "code": code, "took_s": took_s, "output": output}), flush=True)


def run(directory: Path) -> int:
    """One test file on one copy; pytest's exit code."""
    os.chdir(directory)
    sys.path.insert(0, str(directory))
    out = os.open("output", os.O_WRONLY | os.O_CREAT, 0o644)
    os.dup2(out, 1)
    os.dup2(out, 2)
    options = ["-c", os.devnull, "--rootdir", str(directory), "-x", "-q", "--tb=line", "--hypothesis-seed=0"]
    options += ["-p", "no:cacheprovider", "-p", "no:trio"]
    try:
        return int(pytest.main([*options, f"tests/core/{Path('FOUND_BY').read_text()}"]))
    except BaseException as error:
        print(f"the run itself failed: {error!r}", flush=True)
        return 99
    finally:
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
