"""stoker doctor: what the daemon says, what this machine says, and the exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Stoker
from tests.cli.fake import FakeDaemon

FACTS = [
    {"name": "user", "active": True, "protects": "walls", "instead": "", "how": "", "detail": ""},
    {
        "name": "cgroup",
        "active": False,
        "protects": "memory",
        "instead": "poll",
        "how": "be root",
        "detail": "EPERM",
    },
]


def test_what_the_daemon_found(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect("GET /stoker/v1/doctor", {"level": "B", "floor": "C", "met": True, "facts": FACTS})
    result = stoker("doctor")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "yes  user    walls\n"
        "NO   cgroup  memory\n"
        "             found: EPERM\n"
        "             instead: poll\n"
        "             to get it: be root\n"
        "\n"
        "Level B, floor C: met (the running daemon)\n"
    )


@pytest.mark.parametrize(("met", "code"), [(True, 0), (False, 1)])
def test_the_exit_code_says_whether_the_floor_is_met(stoker: Stoker, daemon: FakeDaemon, met: bool, code: int) -> None:
    found = {"level": "D", "floor": "C", "met": met, "facts": FACTS}
    daemon.expect("GET /stoker/v1/doctor", found)
    result = stoker("doctor", "--output", "json")
    assert (result.code, json.loads(result.out)) == (code, found)


def run(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = Path(sys.executable).parent / program
    return subprocess.run(
        [path, *arguments], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "STOKER_SOCKET": "/nonexistent/stoker.sock", **environment},
    )  # fmt: skip


@pytest.mark.processes
def test_this_machine_is_probed(tmp_path: Path) -> None:
    done = run("stoker", "doctor", "--local", "--output", "json")
    found = json.loads(done.stdout)
    assert found["level"] in ("A", "B", "C", "D")
    assert done.returncode == (0 if found["met"] else 1)
    assert all(fact.keys() == FACTS[0].keys() for fact in found["facts"])
    if found["level"] == "A":
        config = tmp_path / "stoker.yaml"
        config.write_text("sandbox: {switch_off: [namespaces], floor: B}\n")
        worse = run("stoker", "doctor", "--local", "--config", str(config))
        assert worse.returncode == 1
        assert "found: switched off" in worse.stdout
        assert "NOT met" in worse.stdout


@pytest.mark.processes
def test_every_mechanism_can_be_switched_off_and_is_then_said_to_be(tmp_path: Path) -> None:
    names = [fact["name"] for fact in json.loads(run("stokerd", "--doctor", "--json").stdout)["facts"]]
    assert len(names) > 10
    for name in names:
        done = run("stokerd", "--doctor", "--json", STOKER_SANDBOX_SWITCH_OFF=name)
        facts = {fact["name"]: fact for fact in json.loads(done.stdout)["facts"]}
        assert (facts[name]["active"], facts[name]["detail"]) == (False, "switched off")
    refused = run("stokerd", "--doctor", STOKER_SANDBOX_SWITCH_OFF="moat")
    assert (refused.returncode, "unknown moat" in refused.stderr) == (2, True)
    started = run("stokerd", "--data", str(tmp_path), "--listen", "127.0.0.1:0", STOKER_SANDBOX_SWITCH_OFF="seccomp")
    assert (started.returncode, "needs --insecure" in started.stderr) == (1, True)
