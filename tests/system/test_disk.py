"""The disk fails the daemon while it runs: calls go on, nothing is acknowledged that is lost, the operator is told."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import pytest

from tests.system.daemon import HELLO, Daemon, Reply, bundle, run_daemon

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

SOURCE = "def handler(ctx, data=None):\n    print('a line')\n    return 'fine'\n"


def changes(daemon: Daemon, function: str) -> list[Reply]:
    """One of each kind of thing that is acknowledged."""
    return [
        daemon.request("POST", "/v2/apps", json.dumps({"name": "another"})),
        daemon.request("PUT", f"/v2/fns/{function}", json.dumps({"config": {"A": "b"}})),
        daemon.request("PUT", "/stoker/v1/bundles/another:1", bundle(HELLO), {"Content-Type": "application/zip"}),
        daemon.invoke(function, b"", {"Fn-Invoke-Type": "detached"}),
    ]


def complaints(daemon: Daemon) -> list[str]:
    lines = [json.loads(line) for line in daemon.stderr().splitlines()]
    return [line["error"] for line in lines if line["event"] == "the database refuses"]


def test_a_data_directory_that_is_moved_away_acknowledges_nothing_and_is_not_begun_anew(data: Path) -> None:
    moved = data.with_name("moved")
    with run_daemon(data) as daemon:
        function = daemon.deploy("f", SOURCE)
        assert daemon.invoke(function).body == b"fine"
        data.rename(moved)
        assert daemon.invoke(function).body == b"fine"
        for reply in changes(daemon, function):
            assert reply.status == 500, reply.body
            assert "was moved or deleted" in reply.json["detail"], reply.body
        assert daemon.request("GET", "/metrics").status == 200
        assert daemon.invoke(function).body == b"fine"
        assert not list(data.rglob("*.db")), "an empty database in its place would hide the real one"
        assert complaints(daemon)
        if data.exists():
            for path in sorted(data.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            data.rmdir()
        moved.rename(data)
        for reply in changes(daemon, function):
            assert reply.status in (200, 202), reply.body
    with run_daemon(data) as daemon:
        assert daemon.invoke(function).body == b"fine"
        assert daemon.api("GET", "/v2/apps?name=another")["items"]


def test_numbers_are_shown_and_the_log_says_why_when_the_database_is_damaged(data: Path) -> None:
    with run_daemon(data) as daemon:
        function = daemon.deploy("f", SOURCE)
        assert daemon.invoke(function).body == b"fine"
        with sqlite3.connect(data / "stoker.db") as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        other.close()
        with (data / "stoker.db").open("r+b") as file:
            file.seek(4096)
            file.write(os.urandom((data / "stoker.db").stat().st_size - 4096))
        assert changes(daemon, function)[-1].status == 500
        assert daemon.invoke(function).body == b"fine"
        shown = daemon.request("GET", "/metrics")
        assert shown.status == 200
        assert b'stoker_calls_total{app="app",fault="none",function="f",outcome="ok"} 2.0' in shown.body
        assert any("malformed; restore a copy" in text for text in complaints(daemon))
