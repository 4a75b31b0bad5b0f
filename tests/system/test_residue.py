"""A thousand deploys, calls and deletions leave nothing behind: no process, file, descriptor, or growing memory."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from tests.system.daemon import Daemon, bundle, eventually, run_daemon

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(1500)]

CYCLES = 1000
WARM_UP = 200
"""Cycles before the first look: caches and free lists have their size then."""
GROWTH_BYTES_MAX = 12 * 2**20
"""Over 800 cycles. About 4 MiB are pages that the database's connections keep; a kilobyte each are counts and routes of
deleted functions, which go together now and then."""
ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}
"""What threads leave unused in arenas of their own is not a leak; how much differs from run to run by megabytes."""
LAZY_FDS = 10
"""Descriptors that may still be opened once after the warm-up: the store's readers, three each."""
SOURCE = "import json\nDATA = {}\ndef handler(ctx, data=None):\n    return json.dumps(DATA)\n"


def cycle(daemon: Daemon, app: str, number: int) -> None:
    image = f"cycle:{number}"
    daemon.push(bundle(SOURCE.format(number)), image)
    function = daemon.api("POST", "/v2/fns", {"app_id": app, "name": f"f{number}", "image": image})["id"]
    reply = daemon.invoke(function)
    assert (reply.status, reply.body) == (200, str(number).encode())
    daemon.api("DELETE", f"/v2/fns/{function}")
    daemon.api("DELETE", f"/stoker/v1/bundles/{image}")


def files(data: Path) -> set[str]:
    """What is in the data directory, less the database's own files and bundles that lost their name just now."""
    found = {str(path.relative_to(data)) for path in data.rglob("*")}
    return {name for name in found if not name.startswith(("stoker.db", "bundles/sha256/", "run/pycache/"))}


def test_a_thousand_cycles_leave_nothing_behind(data: Path) -> None:
    with run_daemon(data, env=ONE_ARENA) as daemon:
        app = daemon.app()
        process = psutil.Process(daemon.process.pid)

        def settled() -> bool:
            return not daemon.instances() and len(daemon.workers()) <= 1 and not list((data / "logs").glob("*/*"))

        for number in range(WARM_UP):
            cycle(daemon, app, number)
        eventually(settled, what="only the spawner is left")
        before = (process.num_fds(), files(data), process.memory_info().rss)
        for number in range(WARM_UP, CYCLES):
            cycle(daemon, app, number)
        eventually(settled, what="only the spawner is left")
        allowed = before[0] + LAZY_FDS
        eventually(lambda: process.num_fds() <= allowed, what=f"at most {allowed} descriptors")
        assert files(data) == before[1]
        assert process.memory_info().rss - before[2] < GROWTH_BYTES_MAX
        assert process.num_threads() < 24
        assert os.listdir(data / "run" / "tmp") == []


def test_unused_bundles_are_removed(data: Path) -> None:
    with run_daemon(data) as daemon:
        app = daemon.app()
        for number in range(3):
            cycle(daemon, app, number)
    with run_daemon(data) as daemon:  # what was just unnamed is held for a while; a restart forgets that
        daemon.push(bundle("x = 1\ndef handler(ctx, data=None): return 'x'\n"), "last:1")
        daemon.api("DELETE", "/stoker/v1/bundles/last:1")
        left = {path.name for path in (data / "bundles" / "sha256").iterdir()}
        assert len(left) <= 1
        assert {path.name for path in (data / "run" / "pycache").iterdir()} <= left
