"""``stoker deadletter`` against a real daemon: ls, show, redrive, purge."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.detached.effects import Effects, lines, ready
from tests.detached.test_accept import DETACHED, source
from tests.detached.test_accept import effects as effects
from tests.system.daemon import ROOT, Daemon, eventually, run_daemon

pytestmark = pytest.mark.processes


def stoker(daemon: Daemon, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "cli", *arguments], cwd=ROOT, capture_output=True, timeout=120,
        env={"PATH": os.environ["PATH"], "HOME": str(daemon.data), "LC_ALL": "C.UTF-8", "STOKER_URL": daemon.url},
    )  # fmt: skip
    assert done.returncode == code, done.stderr.decode()
    return done.stdout.decode() if code == 0 else done.stderr.decode()


def test_dead_letters_are_listed_shown_redriven_and_purged(data: Path, effects: Effects) -> None:
    with run_daemon(data) as daemon:
        ready(daemon)
        function = daemon.deploy("f", source(effects))
        assert "No dead letters" not in stoker(daemon, "deadletter", "ls")
        ids = [daemon.invoke(function, f"fail {n}", DETACHED).headers["fn-call-id"] for n in range(3)]
        eventually(lambda: daemon.api("GET", "/stoker/v1/detached")["dead_letters"] == 3)
        listed = stoker(daemon, "deadletter", "ls", "app", "f")
        assert all(call_id in listed for call_id in ids)
        assert "function-failed: ValueError: fail 0" in listed
        shown = stoker(daemon, "deadletter", "show", "app", "f", ids[0])
        assert "ValueError: fail 0" in shown
        assert "fn-invoke-type: detached" in shown
        assert stoker(daemon, "deadletter", "show", "app", "f", ids[1], "--body") == "fail 1"
        assert "say which" in stoker(daemon, "deadletter", "redrive", "app", "f", code=1)
        said = stoker(daemon, "deadletter", "redrive", "app", "f", ids[0])
        assert said.startswith(f"Put 1 call back into the queue\n{ids[0]} is now ")
        eventually(lambda: lines(effects).count("fail 0 1") == 2)
        eventually(lambda: daemon.api("GET", "/stoker/v1/detached")["dead_letters"] == 3)
        assert stoker(daemon, "deadletter", "purge", "app", "f", "--all") == "Deleted 3 dead letters\n"
        assert json.loads(stoker(daemon, "deadletter", "ls", "--output", "json")) == []


def test_only_so_many_dead_letters_are_kept_the_oldest_go(data: Path, effects: Effects) -> None:
    with run_daemon(data, config="detached: {dead_letters_max: 3}") as daemon:
        ready(daemon)
        function = daemon.deploy("f", source(effects))
        ids = []
        for number in range(6):
            ids.append(daemon.invoke(function, f"fail {number}", DETACHED).headers["fn-call-id"])
            eventually(lambda: ids[-1] in [i["call_id"] for i in daemon.api("GET", "/stoker/v1/deadletters")["items"]])
        kept = [item["call_id"] for item in daemon.api("GET", "/stoker/v1/deadletters")["items"]]
        assert kept == ids[3:]
