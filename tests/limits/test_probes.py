"""Probes of the sandbox on a machine that is too busy for them: what is not known does not count as missing."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from daemon.config.settings import ConfigError, Sandbox
from daemon.sandbox import doctor
from tests.system.daemon import ROOT

SLOW = """
import json, os, signal, sys
from runtime import probes
probes.PROBE_S = 0.3
made = []
def again():
    made.append(1)
    os.write(count, b".")
    signal.pause()
read, count = os.pipe()
own = probes._USER | probes.seccomp.CLONE_NEWPID
kinds = {"plain": again, "namespaces": lambda: probes._in_child(own, again, HOST)}
found = probes._found(kinds[sys.argv[1]])
os.close(count)
with os.fdopen(read, "rb") as pipe:  # which ends when no process is left that could write to it
    print(json.dumps({**found, "tries": len(pipe.read())}))
"""
HOST = "int(1.9e9) if os.geteuid() == 0 else -1"


def slow(kind: str) -> Any:
    command = [sys.executable, "-c", SLOW.replace("HOST", HOST), kind]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


def test_a_probe_that_does_not_end_is_made_again_and_then_undecided() -> None:
    found = slow("plain")
    assert (found["works"], found["late"], found["tries"]) == (False, True, 2)
    assert "did not end within 0.3 s" in found["detail"]


@pytest.mark.processes
def test_likewise_in_namespaces_of_its_own() -> None:
    if not doctor.diagnose(Sandbox()).has("user", "pid"):
        pytest.skip("no namespaces here")
    found = slow("namespaces")
    assert (found["works"], found["late"], found["tries"]) == (False, True, 2)


def test_a_daemon_does_not_start_with_less_because_of_that() -> None:
    found = doctor.diagnose(Sandbox())
    assert found.undecided == ()
    busy = doctor.Diagnosis(found.level, found.facts, undecided=("mount", "pid"))
    with pytest.raises(ConfigError, match="whether the sandbox can have mount, pid: the machine is too busy"):
        doctor.check(busy, Sandbox(floor="D"), insecure=False)
    doctor.check(busy, Sandbox(floor="D"), insecure=True)


def test_what_was_started_early_is_what_is_waited_for() -> None:
    first = Sandbox(uid_first=1_700_000_000)
    doctor.start_probes(first.uid_first)
    process = doctor._started[first.uid_first]
    assert doctor.diagnose(first).facts == doctor.diagnose(Sandbox()).facts
    assert process.returncode == 0
    assert not doctor._started
