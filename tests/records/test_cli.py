"""``stoker calls``, ``call``, ``replay`` against a real daemon."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.records.test_calls import MOODY
from tests.system.daemon import HELLO, PATIENCE_S, ROOT, Daemon, run_daemon

pytestmark = pytest.mark.processes


def stoker(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli", "--url", daemon.url, *arguments],
        capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S,
    )  # fmt: skip


@pytest.fixture(scope="module")
def function(shared_daemon: Daemon) -> str:
    return shared_daemon.deploy("moody", MOODY)


def test_a_failing_call_explained(shared_daemon: Daemon, function: str) -> None:
    good = shared_daemon.invoke(function, "hello").headers["fn-call-id"]
    bad = shared_daemon.invoke(function, "raise").headers["fn-call-id"]
    listed = stoker(shared_daemon, "calls", "app", "moody")
    assert listed.returncode == 0, listed.stderr
    rows = listed.stdout.splitlines()
    assert rows[0].split() == ["ID", "AT", "VERSION", "OUTCOME", "TIME", "QUEUE", "START", "KIND", "MEMORY"]
    assert rows[1].startswith(bad)
    assert "function-failed" in rows[1]
    assert rows[2].startswith(good)
    failed = stoker(shared_daemon, "calls", "app", "--failed", "--since", "1h", "--output", "json")
    assert [item["id"] for item in json.loads(failed.stdout)] == [bad]
    shown = stoker(shared_daemon, "call", bad)
    assert shown.returncode == 0, shown.stderr
    for text in ("app/moody", "function-failed (fault: function)", "handler", "█", "no such mood", "asked for raise"):
        assert text in shown.stdout
    assert "what to do next\n  * The handler raised an exception" in shown.stdout


def test_slow_takes_a_number_or_none(shared_daemon: Daemon, function: str) -> None:
    slow = shared_daemon.invoke(function, "sleep0.4").headers["fn-call-id"]
    for arguments in (("--slow", "0.4"), ("--slow",)):
        found = stoker(shared_daemon, "calls", "app", "moody", "--output", "json", *arguments)
        assert [item["id"] for item in json.loads(found.stdout)] == [slow]
    assert stoker(shared_daemon, "calls", "app", "--slow", "soon").returncode == 2


def test_nothing_fits(shared_daemon: Daemon, function: str) -> None:
    empty = stoker(shared_daemon, "calls", "app", "moody", "--until", "1h")
    assert (empty.returncode, empty.stdout) == (0, "")
    assert "No calls that fit" in empty.stderr
    unknown = stoker(shared_daemon, "call", "01M7Y00C28R00040J6N8000063")
    assert unknown.returncode == 1
    assert "Call not found" in unknown.stderr


def test_replay(shared_daemon: Daemon) -> None:
    function = shared_daemon.deploy("again", HELLO, annotations={"stoker.dev/record-bodies": True})
    call_id = shared_daemon.invoke(function, "Ada").headers["fn-call-id"]
    assert f"stoker replay {call_id}" in stoker(shared_daemon, "call", call_id).stdout
    done = stoker(shared_daemon, "replay", call_id)
    assert (done.returncode, done.stdout) == (0, '{"hello": "Ada"}')
    assert f"replay of {call_id} as call " in done.stderr


def test_logs_of_an_app_are_searched_and_followed(shared_daemon: Daemon) -> None:
    one, two = (shared_daemon.deploy(name, MOODY, app="talk") for name in ("one", "two"))
    shared_daemon.invoke(one, "first")
    shared_daemon.invoke(two, "ERROR second")
    both = stoker(shared_daemon, "logs", "talk")
    assert both.returncode == 0, both.stderr
    assert sorted(line.split()[3] for line in both.stdout.splitlines()) == ["one", "two"]
    found = stoker(shared_daemon, "logs", "talk", "--level", "error", "--since", "1h")
    assert found.stdout.endswith("two asked for ERROR second\n")
    assert stoker(shared_daemon, "logs", "talk", "two", "--text", "error second", "-i").stdout.count("\n") == 1
    assert stoker(shared_daemon, "logs", "talk", "one", "--text", "second").stdout == ""
    command = [sys.executable, "-m", "cli", "--url", shared_daemon.url, "logs", "talk", "-f", "--tail", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().endswith("ERROR second\n")
        shared_daemon.invoke(one, "third")
        assert process.stdout.readline().endswith("one asked for third\n")
        process.terminate()


def test_the_state_of_a_function_on_one_screen(shared_daemon: Daemon) -> None:
    def status(*more: str) -> str:
        done = stoker(shared_daemon, "status", "app", "stated", *more)
        assert done.returncode == 0, done.stderr
        return done.stdout

    function = shared_daemon.deploy("stated", MOODY, timeout=7)
    assert "app/stated was not called in this time" in status()
    assert " 0, 0 a minute" in status()
    for body in ("", "", "sleep0.1"):
        shared_daemon.invoke(function, body)
    assert "app/stated is healthy\n" in status()
    bad = shared_daemon.invoke(function, "raise").headers["fn-call-id"]
    shown = " ".join(status("--since", "10m").split())
    for text in (
        "app/stated fails: 25% of its calls did", ", 128 MiB, timeout 7 s",
        "calls 4, 0.4 a minute", "failed function-failed 1 (whose fault: function's 1)", "half below ",
        "its own code", " handler ", " idle; none provisioned", f"stoker call {bad}",
    ):  # fmt: skip
        assert text in shown, shown
    found = json.loads(status("--output", "json"))
    assert found["summary"]["total"]["calls"] == 4
    listed = shared_daemon.api("GET", f"/stoker/v1/functions/{function}/calls?slow=true")["items"]
    assert [call["id"] for call in found["slow"]] == [max(listed, key=lambda call: call["total_s"])["id"]]
    assert found["failed"][0]["id"] == bad
    assert stoker(shared_daemon, "status", "app", "stated", "--since", "soon").returncode == 1


def test_without_records_there_is_a_state_all_the_same(tmp_path: Path) -> None:
    with run_daemon(tmp_path / "data", config="records: {enabled: false}\n") as daemon:
        daemon.deploy("silent", HELLO)
        done = stoker(daemon, "status", "app", "silent")
        assert (done.returncode, done.stderr) == (0, "")
        assert "its calls are not recorded" in done.stdout
        assert "none provisioned" in done.stdout
