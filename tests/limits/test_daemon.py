"""Limits and networks of a real daemon: what a caller is told, what a neighbour notices, and what is left."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.sandbox.cgroup_probe import name_for
from daemon.sandbox.cgroups import own_paths
from tests.limits.outside import PORT, REDIS, outside
from tests.system.daemon import Daemon, all_gone, eventually, run_daemon

pytestmark = pytest.mark.processes

WILD = """
import io, json, os, socket, subprocess, sys, threading, time

def reach(address, port):
    try:
        with socket.create_connection((address, int(port)), timeout=3):
            return "reached"
    except OSError as exc:
        return type(exc).__name__

def handler(ctx, data: io.BytesIO = None):
    mode, *words = data.getvalue().decode().split()
    if mode == "memory":
        hoard = []
        while len(hoard) < 400: hoard.append(b"x" * 2**20)
    if mode == "child":
        subprocess.run([sys.executable, "-I", "-S", "-c", "h = [b'x' * 2**20 for _ in range(400)]"])
    if mode == "memfd":
        fd = os.memfd_create("bomb")
        for _ in range(400):
            if os.fstat(fd).st_size >= 60 * 2**20: fd = os.memfd_create("bomb")
            os.write(fd, b"x" * 2**20)
    if mode == "forks":
        started = 0
        for _ in range(120):
            try:
                if os.fork() == 0: time.sleep(60); os._exit(0)
                started += 1
            except OSError: break
        return str(started)
    if mode == "spin":
        until = time.monotonic() + float(words[0])
        began = time.process_time()
        while time.monotonic() < until: pass
        return str(time.process_time() - began)
    if mode == "reach": return reach(*words)
    if mode == "listen":
        with socket.create_server(("127.0.0.1", 0)) as server: return reach("127.0.0.1", server.getsockname()[1])
    if mode == "redis":
        with socket.create_connection((words[0], int(words[1])), timeout=3) as sock:
            sock.sendall((" ".join(words[2:]) + "\\r\\n").encode())
            return sock.recv(1000).decode().strip()
    if mode == "resolver": return open("/etc/resolv.conf").read()
    if mode == "hoard":
        kept = b"x" * (int(words[0]) * 2**20)
    return "done"
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    data = tmp_path_factory.mktemp("limits") / "data"
    with run_daemon(data, "--insecure") as daemon:
        yield daemon
    assert left_of(data) == []


def groups_of(data: Path) -> list[str]:
    """Directories of the daemon's control groups."""
    record = data / "run" / "cgroups"
    return record.read_text().split() if record.exists() else []


def left_of(data: Path) -> list[str]:
    name = name_for(data)
    return [path for path in groups_of(data) if os.path.isdir(path) and os.path.basename(path) == name]


def need_groups(daemon: Daemon) -> None:
    if not groups_of(daemon.data):
        pytest.skip("no control groups here")


def function(daemon: Daemon, name: str, network: Any = None, **settings: Any) -> str:
    """A function in an app of its own."""
    annotations = {"stoker.dev/network": network} if network is not None else {}
    daemon.api("POST", "/v2/apps", {"name": name, "annotations": annotations})
    return daemon.deploy(name, WILD, app=name, **{"memory": 64, "timeout": 10, **settings})


@pytest.fixture(scope="module")
def wild(running: Daemon) -> str:
    return function(running, "wild")


@pytest.fixture(scope="module")
def neighbour(running: Daemon) -> str:
    return function(running, "neighbour")


@pytest.mark.parametrize("bomb", ["memory", "child", "memfd"])
def test_memory_is_the_whole_instance_s_and_its_caller_is_told(
    running: Daemon, wild: str, neighbour: str, bomb: str
) -> None:
    need_groups(running)
    reply = running.invoke(wild, bomb)
    assert (reply.status, reply.json["code"]) == (502, "function-out-of-memory"), reply.body
    assert "limit 64 MiB, peak 6" in reply.json["detail"]
    assert running.invoke(neighbour, "ping").body == b"done"
    assert running.invoke(wild, "ping").body == b"done"
    eventually(lambda: _metric(running, "stoker_memory_kills_total") > 0, what="the kill is counted")
    assert _metric(running, "stoker_control_groups") > 1


def _metric(daemon: Daemon, name: str) -> float:
    metrics = daemon.request("GET", "/metrics").body.decode()
    return float(next(line for line in metrics.splitlines() if line.startswith(name)).rpartition(" ")[2])


def test_memory_within_the_limit_is_not_killed(running: Daemon, wild: str) -> None:
    assert running.invoke(wild, "hoard 40").body == b"done"


def test_processes_are_limited_per_instance(running: Daemon, neighbour: str) -> None:
    need_groups(running)
    forker = function(running, "forker", memory=256)
    assert 30 <= int(running.invoke(forker, "forks").body) <= 50
    assert running.invoke(neighbour, "ping").body == b"done"


def test_cpu_is_capped_by_the_annotation_and_changing_it_starts_anew(running: Daemon) -> None:
    need_groups(running)
    capped = function(running, "capped", annotations={"stoker.dev/cpu": 0.2})
    assert float(running.invoke(capped, "spin 1").body) < 0.5
    assert {cores_of(item["pid"]) for item in running.instances(capped) if item["calls"]} == {0.2}
    running.api("PUT", f"/v2/fns/{capped}", {"annotations": {"stoker.dev/cpu": 1}})
    assert running.invoke(capped, "ping").body == b"done"
    assert [cores_of(item["pid"]) for item in running.instances(capped) if item["calls"]] == [1.0]
    reply = running.request("PUT", f"/v2/fns/{capped}", json.dumps({"annotations": {"stoker.dev/cpu": "fast"}}))
    assert reply.status == 400
    assert "stoker.dev/cpu" in reply.json["message"]


def cores_of(pid: int) -> float:
    """How many cores the control group of a process may use, as the kernel has it: what it uses, others decide too."""
    path = own_paths(Path(f"/proc/{pid}/cgroup").read_text())
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point, kind, options = line.split()[4], *line.partition(" - ")[2].split()[::2]
        if kind == "cgroup" and "cpu" in options.split(","):
            files = [Path(point + path["cpu"], f"cpu.cfs_{name}_us") for name in ("quota", "period")]
        elif kind == "cgroup2":
            files = [Path(point + path.get("", "/"), "cpu.max")]
        else:
            continue
        if all(file.exists() for file in files):
            quota, period = " ".join(file.read_text() for file in files).split()
            return int(quota) / int(period)
    raise LookupError("no cpu controller")


def test_a_bad_network_is_refused_by_name(running: Daemon) -> None:
    body = json.dumps({"name": "bad", "annotations": {"stoker.dev/network": "bridge"}})
    reply = running.request("POST", "/v2/apps", body)
    assert reply.status == 400
    assert "stoker.dev/network" in reply.json["message"]


@pytest.mark.parametrize("mode", ["none", "loopback", "egress", "host"])
def test_in_no_mode_a_function_reaches_the_daemon(running: Daemon, mode: str) -> None:
    # The daemon itself is up: this very test speaks to it.
    made = function(running, f"mode-{mode}", mode)
    assert running.invoke(made, f"reach 127.0.0.1 {running.port}").body != b"reached"
    served = running.invoke(made, "listen").body == b"reached"
    status = running.api("GET", f"/stoker/v1/functions/{made}")
    ports = mode == "egress" and status["network"]["method"] == "ports"  # as it is without a packet filter: some ports
    assert served is (mode != "none" and not ports), "a service of its own"
    assert status["network"]["mode"] == mode
    assert status["network"]["setting"] == {"mode": mode}


@pytest.fixture
def redis() -> Iterator[None]:
    with outside():
        yield


def test_a_function_reads_and_writes_a_service_in_its_app_s_network(running: Daemon, redis: None) -> None:
    made = function(running, "reader", {"mode": "egress", "allow": [f"{REDIS}:{PORT}"]})
    if running.api("GET", f"/stoker/v1/functions/{made}")["network"]["method"] != "veth":
        pytest.skip("no virtual cables here")
    assert running.invoke(made, f"redis {REDIS} {PORT} SET color blue").body == b"+OK"
    assert running.invoke(made, f"redis {REDIS} {PORT} GET color").body.split() == [b"$4", b"blue"]
    assert "nameserver" in running.invoke(made, "resolver").body.decode()
    app = running.api("GET", "/v2/apps?name=reader")["items"][0]["id"]
    running.api("PUT", f"/v2/apps/{app}", {"annotations": {"stoker.dev/network": "none"}})
    assert running.invoke(made, f"reach {REDIS} {PORT}").body != b"reached"
    running.api("PUT", f"/v2/apps/{app}", {"annotations": {"stoker.dev/network": {"allow": [f"{REDIS}:1"]}}})
    assert running.invoke(made, f"reach {REDIS} {PORT}").body != b"reached"
    running.api("PUT", f"/v2/apps/{app}", {"annotations": {"stoker.dev/network": ""}})
    assert running.invoke(made, f"reach {REDIS} {PORT}").body == b"reached"


@pytest.mark.parametrize("who", ["daemon", "spawner"])
def test_a_kill_leaves_no_group_and_no_cable(data: Path, who: str) -> None:
    with run_daemon(data, "--insecure") as daemon:
        made = function(daemon, "killed")
        assert daemon.invoke(made, "hoard 10").body == b"done"
        tree = daemon.workers()
        if who == "spawner":
            spawner = next(process for process in tree if process.ppid() == daemon.process.pid)
            spawner.send_signal(signal.SIGKILL)
            eventually(lambda: daemon.invoke(made, "ping").body == b"done", what="a new spawner serves")
            if groups_of(data):
                eventually(lambda: len(functions_in(data)) <= 1, what="old groups are gone")
        else:
            daemon.process.send_signal(signal.SIGKILL)
            daemon.process.wait()
            assert all_gone(tree) == []
            eventually(lambda: left_of(data) == [], what="the spawner has removed the groups")
    with run_daemon(data, "--insecure") as daemon:
        assert daemon.invoke(made, "ping").body == b"done"
    assert left_of(data) == []


def functions_in(data: Path) -> list[str]:
    return [entry.name for entry in os.scandir(groups_of(data)[0]) if entry.is_dir()]
