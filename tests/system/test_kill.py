"""What was acknowledged survives ``kill -9`` at any moment, and no worker outlives the daemon."""

from __future__ import annotations

import http.client
import json
import os
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.system.daemon import Daemon, bundle, eventually, run_daemon

KILLS = 100
SEED = int(os.environ.get("STOKER_TEST_SEED", "20261121"))
SOURCE = "def handler(ctx, data=None):\n    return 'version {}'\n"

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(1500)]


@dataclass
class Known:
    """What the daemon acknowledged, and the one change that was under way when it was killed."""

    config: dict[str, str] = field(default_factory=dict)
    version: int = 0
    memory: int = 128
    doomed: set[str] = field(default_factory=set)
    """Apps whose deletion was acknowledged."""
    alive: set[str] = field(default_factory=set)
    pending: tuple[str, Any] | None = None
    tried: int = 0
    changes: int = 0
    """Those that were acknowledged."""


class Editor(threading.Thread):
    """A client that changes things one after the other until the daemon is gone."""

    def __init__(self, daemon: Daemon, known: Known, app_id: str, function_id: str, rng: random.Random) -> None:
        super().__init__()
        self.daemon_, self.known, self.app_id, self.function_id, self.rng = daemon, known, app_id, function_id, rng
        self.surprise: BaseException | None = None

    def run(self) -> None:
        try:
            while True:
                self._change()
        except (OSError, http.client.HTTPException):
            return  # the daemon is gone: what was pending may or may not have happened
        except BaseException as exc:
            self.surprise = exc

    def _change(self) -> None:
        known, daemon = self.known, self.daemon_
        known.tried += 1
        number = known.tried  # not of those that were acknowledged: one that was not may have made its name
        match self.rng.choice(["config", "deploy", "deploy", "memory", "app", "drop"]):
            case "config":
                known.pending = ("config", (f"K{number % 7}", f"v{number}"))
                key, value = known.pending[1]
                daemon.api("PUT", f"/v2/apps/{self.app_id}", {"config": {key: value}})
                known.config[key] = value
            case "deploy":
                version = max(known.version, (known.pending or ("", 0))[1] if known.pending else 0) + 1
                known.pending = ("deploy", version)
                image = f"kept:{version}"
                reply = daemon.request("PUT", f"/stoker/v1/bundles/{image}", bundle(SOURCE.format(version)))
                assert reply.status == 200, reply.body
                daemon.api("PUT", f"/v2/fns/{self.function_id}", {"image": image})
                known.version = version
            case "memory":
                known.pending = ("memory", 129 + number % 100)
                daemon.api("PUT", f"/v2/fns/{self.function_id}", {"memory": known.pending[1]})
                known.memory = known.pending[1]
            case "app":
                known.pending = ("app", f"app{number}")
                daemon.api("POST", "/v2/apps", {"name": f"app{number}"})
                known.alive.add(f"app{number}")
            case "drop" if known.alive:
                name = min(known.alive)
                known.pending = ("drop", name)
                app_id = daemon.api("GET", f"/v2/apps?name={name}")["items"][0]["id"]
                daemon.api("DELETE", f"/v2/apps/{app_id}")
                known.alive.discard(name)
                known.doomed.add(name)
        known.changes += 1
        known.pending = None


def processes_of(data: Path) -> list[psutil.Process]:
    """Every process that names the data directory: the daemon's spawner and all that was forked from it."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(data) in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def rng() -> Iterator[random.Random]:
    print(f"seed {SEED}")
    return random.Random(SEED)


def test_every_acknowledged_change_survives_a_hundred_kills(data: Path, rng: random.Random) -> None:
    known, app_id, function_id = Known(), "", ""
    for _ in range(KILLS):
        with run_daemon(data) as daemon:
            if not app_id:
                app_id = daemon.app("kept")
                function_id = daemon.deploy("kept", SOURCE.format(0), app="kept")
            check(daemon, known, app_id, function_id)
            editor = Editor(daemon, known, app_id, function_id, rng)
            editor.start()
            editor.join(rng.uniform(0.0, 0.35))
            daemon.process.kill()
            daemon.process.wait()
            editor.join()
            assert editor.surprise is None, repr(editor.surprise)
            eventually(lambda: not processes_of(data), what="no worker outlives the daemon")
    print(f"{known.changes} changes")
    assert known.changes > KILLS, "the editor hardly changed anything: the kills came too early to prove much"
    with run_daemon(data) as daemon:
        check(daemon, known, app_id, function_id)
    assert not list(data.rglob("*.partial*")), "half-unpacked bundles are left"


def check(daemon: Daemon, known: Known, app_id: str, function_id: str) -> None:
    """Everything acknowledged is there; the pending change is there whole or not at all. Then nothing is pending."""
    kind, value = known.pending or ("", None)
    config = daemon.api("GET", f"/v2/apps/{app_id}").get("config", {})
    if kind == "config" and config.get(value[0]) == value[1]:
        known.config[value[0]] = value[1]
    assert config == known.config
    function = daemon.api("GET", f"/v2/fns/{function_id}")
    answer = daemon.invoke(function_id).body.decode()
    if kind == "deploy" and answer == f"version {value}":
        known.version = value
    assert answer == f"version {known.version}"
    if known.version:
        assert function["image"] == f"kept:{known.version}"
    if kind == "memory" and function["memory"] == value:
        known.memory = value
    assert function["memory"] == known.memory
    names = {item["name"] for item in list_apps(daemon)} - {"kept"}
    if kind == "app" and value in names:
        known.alive.add(value)
    if kind == "drop" and value not in names:
        known.alive.discard(value)
    assert names == known.alive
    versions = daemon.api("GET", f"/stoker/v1/functions/{function_id}/versions")["items"]
    assert [v["number"] for v in versions if v["state"] == "building"] == []
    known.pending = None


def list_apps(daemon: Daemon) -> list[dict[str, Any]]:
    """All pages."""
    items: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = daemon.api("GET", f"/v2/apps?per_page=100&cursor={cursor}")
        items += page["items"]
        if not (cursor := page.get("next_cursor", "")):
            return items


def test_no_grandchild_outlives_a_killed_daemon(data: Path) -> None:
    source = (
        "import subprocess, sys\n"
        "def handler(ctx, data=None):\n"
        f"    subprocess.Popen([sys.executable, '-I', '-S', '-c', 'import time; time.sleep(600)', {str(data)!r}],\n"
        "                     start_new_session=True)\n"
        "    return 'started'\n"
    )
    with run_daemon(data) as daemon:
        function = daemon.deploy("parent", source)
        assert daemon.invoke(function).body == b"started"
        assert any("time.sleep(600)" in " ".join(p.cmdline()) for p in processes_of(data))
        daemon.process.kill()
        daemon.process.wait()
        eventually(lambda: not processes_of(data), what="nothing outlives the daemon")


def test_the_spawner_is_replaced_and_floors_are_restored(data: Path) -> None:
    with run_daemon(data, config="pcu: {steps: any}") as daemon:
        function = daemon.deploy("f", SOURCE.format(1), provisioned_concurrency={"strategy": "CONSTANT", "count": 3})
        eventually(lambda: len([i for i in daemon.instances(function) if i["state"] == "idle"]) >= 3)
        before = {i["pid"] for i in daemon.instances(function)}
        spawner = next(p for p in daemon.workers() if p.ppid() == daemon.process.pid)
        spawner.kill()
        eventually(lambda: not before & {p.pid for p in daemon.workers()}, what="its workers went with it")
        eventually(lambda: len([i for i in daemon.instances(function) if i["state"] == "idle"]) >= 3)
        assert daemon.invoke(function).body == b"version 1"
        assert json.loads(json.dumps(daemon.api("GET", "/health")))["status"] == "ok"


def test_an_upload_goes_on_when_the_spawner_is_killed_under_it(data: Path) -> None:
    """The unpacking program is a child of the daemon beside the spawner, not an orphan of it."""
    source = SOURCE.format(1)
    # Many files: unpacking takes long enough to be met in the act.
    extra = {f"resources/{number}": os.urandom(1000) for number in range(2000)}
    archive = bundle(source, extra=extra)
    with run_daemon(data) as daemon:
        me = psutil.Process(daemon.process.pid)

        def others() -> list[psutil.Process]:
            return [p for p in me.children() if "stoker-spawner" not in p.name()]

        (spawner,) = eventually(lambda: [p for p in me.children() if p.name() == "stoker-spawner"])
        replies: list[Any] = []
        upload = threading.Thread(
            target=lambda: replies.append(daemon.request("PUT", "/stoker/v1/bundles/held:1", archive))
        )
        upload.start()
        try:
            (unpacker,) = eventually(others, what="the unpacking program runs")
            unpacker.suspend()
            spawner.kill()
            eventually(
                lambda: [p for p in me.children() if p.name() == "stoker-spawner" and p.pid != spawner.pid],
                what="there is another spawner: the sweep for orphans is over",
            )
            assert unpacker.is_running()
            assert unpacker.status() == psutil.STATUS_STOPPED
            unpacker.resume()
        finally:
            upload.join(60)
        assert [reply.status for reply in replies] == [200], replies
