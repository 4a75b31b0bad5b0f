"""Detached calls of a real daemon: accepted at once, run once, retried, dead letters, deadline, bounds, drain."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.detached.effects import Effects, collecting, lines, ready
from tests.system.daemon import Daemon, eventually, run_daemon

pytestmark = pytest.mark.processes
DETACHED = {"Fn-Invoke-Type": "detached"}

WRITES = """
import time
def handler(ctx, data=None):
    text = data.getvalue().decode()
    tell(text + " " + ctx.Headers().get("stoker-attempt", "?"))
    verb, _, number = text.partition(" ")
    if verb == "sleep":
        time.sleep(float(number))
    if verb == "fail":
        raise ValueError(text)
    return "done"
"""


def source(effects: Effects) -> str:
    """A function that tells of each run, and then does what its body says."""
    return effects.source + WRITES


@pytest.fixture
def effects() -> Iterator[Effects]:
    with collecting() as made:
        yield made


def test_a_detached_call_is_answered_at_once_and_runs_once(data: Path, effects: Effects) -> None:
    with run_daemon(data) as daemon:
        ready(daemon)
        function = daemon.deploy("f", source(effects))
        for path in (f"/invoke/{function}", f"/20181201/functions/{function}/actions/invoke"):
            reply = daemon.request("POST", path, b"sleep 0.5", DETACHED)
            assert (reply.status, reply.body) == (202, b"")
            assert reply.headers["fn-call-id"]
        eventually(lambda: len(lines(effects)) == 2)
        assert lines(effects) == ["sleep 0.5 1"] * 2
        assert daemon.request("POST", "/invoke/nobody", b"", DETACHED).status == 404


def test_a_detached_call_may_run_longer_than_a_sync_one(data: Path, effects: Effects) -> None:
    with run_daemon(data) as daemon:
        ready(daemon)
        function = daemon.deploy(
            "f", source(effects), timeout=1, annotations={"stoker.dev/detached-timeout": 60}
        )  # fmt: skip
        assert daemon.invoke(function, b"sleep 3").status == 504
        daemon.invoke(function, b"sleep 2", DETACHED)
        eventually(lambda: daemon.api("GET", "/stoker/v1/stats")["calls"].get("ok"))


def test_settings_that_cannot_be_are_refused_with_what_is_allowed(data: Path, effects: Effects) -> None:
    with run_daemon(data) as daemon:
        ready(daemon)
        for annotations, text in (
            ({"stoker.dev/detached-timeout": 3601}, "from 5 to 3600"),
            ({"stoker.dev/on-success": {"kind": "MAIL"}}, "kind must be NONE"),
            ({"stoker.dev/on-failure": {"kind": "STREAM", "streamId": "../x"}}, "streamId must be a name or OCID"),
            ({"stoker.dev/retry": {"attempts": 0}}, "attempts must be from 1 to 100"),
        ):
            reply = daemon.try_deploy("f", source(effects), annotations=annotations)
            assert reply.status == 400
            assert text in reply.json["message"]


def test_the_queue_is_bounded_in_count_and_bytes(data: Path, effects: Effects) -> None:
    config = "detached: {queue_max: 3, queue_bytes_max: 100000}\nlimits: {drain_s: 0.2}"
    with run_daemon(data, config=config) as daemon:
        ready(daemon)
        function = daemon.deploy("f", source(effects), annotations={"stoker.dev/detached-timeout": 60})
        reply = daemon.invoke(function, b"x" * 200_000, DETACHED)
        assert (reply.status, reply.json["code"]) == (429, "queue-full")
        assert "bytes" in reply.json["detail"]
        for _ in range(3):
            assert daemon.invoke(function, b"sleep 30", DETACHED).status == 202
        reply = daemon.invoke(function, b"sleep 30", DETACHED)
        assert (reply.status, reply.json["code"]) == (429, "queue-full")
        assert reply.json["detail"] == "3 of 3 detached calls wait or run"


def test_sync_calls_are_answered_while_detached_ones_want_everything(data: Path, effects: Effects) -> None:
    """A node with room for four instances, a flood of long detached calls: a sync call finds a place at once."""
    config = "limits: {memory_mib: 600, queue_s: 5, template_mib: 16, drain_s: 0.2}"
    with run_daemon(data, config=config) as daemon:
        ready(daemon)
        greedy = daemon.deploy("greedy", source(effects), memory=128, annotations={"stoker.dev/detached-timeout": 600})
        for _ in range(40):
            assert daemon.invoke(greedy, b"sleep 300", DETACHED).status == 202
        eventually(lambda: len([i for i in daemon.instances(greedy) if i["state"] == "busy"]) == 2)
        polite = daemon.deploy("polite", source(effects), memory=128)
        assert daemon.invoke(polite, b"sync").status == 200
        assert daemon.invoke(greedy, b"sync").status == 200
        assert len([i for i in daemon.instances(greedy) if i["state"] == "busy"]) == 2


def test_after_a_stop_waiting_calls_run_and_cut_ones_run_again(data: Path, effects: Effects) -> None:
    with run_daemon(data, config="limits: {drain_s: 1}\ndetached: {function_running_max: 1}") as daemon:
        ready(daemon)
        function = daemon.deploy("f", source(effects), annotations={"stoker.dev/detached-timeout": 60})
        daemon.invoke(function, b"sleep 8", DETACHED)
        eventually(lambda: lines(effects))
        for number in range(5):
            daemon.invoke(function, f"later {number}", DETACHED)
        daemon.stop()
    assert lines(effects) == ["sleep 8 1"], "what waits is not started while draining"
    with run_daemon(data) as daemon:
        ready(daemon)
        eventually(lambda: len(lines(effects)) == 7, what="all ran")
        assert sorted(lines(effects)[1:]) == sorted(["sleep 8 1", *(f"later {n} 1" for n in range(5))])


def test_a_running_call_finishes_within_the_drain(data: Path, effects: Effects) -> None:
    with run_daemon(data) as daemon:
        ready(daemon)
        function = daemon.deploy("f", source(effects))
        daemon.invoke(function, b"sleep 2", DETACHED)
        eventually(lambda: lines(effects))
        daemon.stop()
    with run_daemon(data) as daemon:
        ready(daemon)
        function = daemon.deploy("f", source(effects))
        assert daemon.invoke(function, b"sync").status == 200
        assert lines(effects) == ["sleep 2 1", "sync ?"], "it did not run again"


def test_deleting_a_function_drops_its_waiting_calls(data: Path, effects: Effects) -> None:
    with run_daemon(data, config="detached: {function_running_max: 1}") as daemon:
        ready(daemon)
        function = daemon.deploy("f", source(effects))
        daemon.invoke(function, b"sleep 1", DETACHED)
        eventually(lambda: lines(effects))
        for _ in range(10):
            daemon.invoke(function, b"never", DETACHED)
        daemon.api("DELETE", f"/v2/fns/{function}")
        other = daemon.deploy("g", source(effects))
        daemon.invoke(other, b"other", DETACHED)
        eventually(lambda: "other 1" in lines(effects))
        assert "never 1" not in lines(effects)
        assert "Traceback" not in daemon.stderr()


def many(daemon: Daemon, function: str, count: int, threads: int) -> list[int]:
    """Statuses of detached calls by several clients."""
    statuses: list[int] = []

    def client(part: int) -> None:
        for number in range(part, count, threads):
            statuses.append(daemon.invoke(function, json.dumps(number), DETACHED).status)

    workers = [threading.Thread(target=client, args=(part,)) for part in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return statuses


def test_a_burst_from_many_clients_runs_every_call_once(data: Path, effects: Effects) -> None:
    with run_daemon(data) as daemon:
        ready(daemon)
        function = daemon.deploy("f", source(effects))
        assert many(daemon, function, 400, 8) == [202] * 400
        eventually(lambda: len(lines(effects)) >= 400)
        assert sorted(lines(effects)) == sorted(f"{number} 1" for number in range(400))
