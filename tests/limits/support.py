"""What the tests of limits share: groups of the test's own, and functions that go over them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon.sandbox.cgroup_probe import name_for, probe
from daemon.sandbox.cgroups import Cgroups, Group
from runtime import cgroups as joining

PATIENCE_S = 60.0


@contextmanager
def groups(directory: Path, setting: str = "auto") -> Iterator[Cgroups]:
    """The groups of a daemon on this directory; a counted skip where the machine allows none. None is left."""
    found, reason = probe(name_for(directory), setting=setting)
    if not found.active:
        pytest.skip(f"no control groups here: {reason}")
    try:
        yield found
    finally:
        found.close()
        assert not [path for path in found.directories if os.path.isdir(path)]


@contextmanager
def child(group: Group, work: Callable[[], object]) -> Iterator[int]:
    """A forked child that joins the group as workers do, then works; killed and reaped at the end."""
    fds = group.join_fds()
    pid = os.fork()
    if pid == 0:
        try:
            joining.join(fds)
            work()
            os._exit(0)
        finally:
            os._exit(70)
    for fd in fds:
        os.close(fd)
    try:
        yield pid
    finally:
        group.kill()
        until(lambda: not group.processes(), "the group is empty")
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:
            pass


def until(condition: Callable[[], object], what: str) -> None:
    """Poll until the condition holds: what it watches is another process."""
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, f"did not happen within {PATIENCE_S:g} s: {what}"
        time.sleep(0.002)
