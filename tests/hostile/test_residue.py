"""A thousand starts and kills, two hundred instances at once, and ``kill -9`` of daemon and spawner leave nothing.

Deploys, their files and the daemon's memory are the business of tests/system/test_residue.py. The place of a site makes
the counts exact: whatever is still there is a process beneath the one that keeps the place.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.hostile.site import CONFIGURATIONS, Site, run_site
from tests.hostile.visit import host_mounts, temporary
from tests.system.daemon import eventually

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(600)]
CYCLES = 1000
AT_ONCE = 8
CROWD = 200
LAZY_FDS = 16
"""Descriptors that the daemon opens once, when they are first needed."""
CONFIG = """
limits: {memory_mib: 40000, function_instances_max: 250, instances_max: 400, starts_at_once: 16, backoff_s: 0.01}
pcu: {steps: any}
"""
SOURCE = """
import os, signal, subprocess, sys, time
def handler(ctx, data=None):
    way = data.getvalue().decode()
    if way == "exit":
        os._exit(3)
    if way == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
        os._exit(3)  # the first process of a namespace does not die by its own signal
    if way == "litter":
        open((os.environ.get("TMPDIR") or "/tmp") + "/litter", "w").write("x")
        for _ in range(2):
            if os.fork() == 0:
                os.setsid()
                time.sleep(600)
        os._exit(3)
    if way == "sleep":
        time.sleep(600)
    return "fine"
"""
WAYS = ("exit", "kill", "litter")


@pytest.fixture(params=["root", "user"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with run_site(CONFIGURATIONS[request.param], config=CONFIG) as site:
        yield site


def kernel_state(site: Site) -> dict[str, Any]:
    """What the kernel keeps for us, the processes left out.

    Not the devices: those of other daemons come and go beside ours. A veth lives as long as the namespace of its other
    end, which is counted by the processes in it and by what is mounted.
    """
    daemon = psutil.Process(site.pid)
    return {
        "mounts": sorted(site.mounts()),
        "host mounts": [line for line in host_mounts() if str(site.base) in line],
        "network namespaces": named_namespaces(),
        "threads": daemon.num_threads() < 40,
    }


def named_namespaces() -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return sorted(os.listdir("/run/netns"))
    return []


def groups(site: Site) -> set[str]:
    """Directories of control groups beneath the site's own, one for each instance and template that there is."""
    tokens = set()
    for process in site.inside():
        with contextlib.suppress(OSError):
            tokens |= set(re.findall(r"stoker-[0-9a-f]+", Path(f"/proc/{process.pid}/cgroup").read_text()))
    found = set()
    for token in tokens:
        for top in Path("/sys/fs/cgroup").iterdir():
            found |= {str(path) for path in top.glob(f"**/{token}/**/*") if path.is_dir()} if top.is_dir() else set()
    return {path for path in found if re.search(r"/[it]\d+$", path)}


def network_namespaces(site: Site) -> set[str]:
    found = set()
    for process in site.inside():
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/{process.pid}/ns/net"))
    return found


def only_the_spawner(site: Site) -> bool:
    left = site.inside()
    return len(left) == 1 and left[0].name().startswith("stoker-spawner")


def settled(site: Site, function: str, *, fds: int, before: dict[str, Any]) -> None:
    """After the function is deleted: nothing but the daemon and the spawner, with what they had before."""
    site.remove(function)
    eventually(lambda: only_the_spawner(site), what=f"only the spawner is left, not {site.inside()}")
    assert [p.status() for p in site.inside()].count(psutil.STATUS_ZOMBIE) == 0
    eventually(lambda: kernel_state(site) == before, what="the kernel has what it had")
    eventually(lambda: not groups(site), what="no control group of an instance is left")
    assert len(network_namespaces(site)) <= 1
    daemon = psutil.Process(site.pid)
    eventually(lambda: daemon.num_fds() <= fds + LAZY_FDS, what=f"at most {fds + LAZY_FDS} descriptors")
    eventually(lambda: not temporary(site), what="no temporary directory is left")


def test_a_thousand_starts_and_kills_leave_nothing(site: Site) -> None:
    before = kernel_state(site)
    warm = site.deploy("warm", SOURCE, app="residue", memory=128)
    site.invoke(warm, "exit")
    site.remove(warm)
    eventually(lambda: only_the_spawner(site))
    fds = psutil.Process(site.pid).num_fds()
    function = site.deploy("cycles", SOURCE, app="residue", memory=128, timeout=30)

    def cycle(number: int) -> str:
        reply = site.invoke(function, WAYS[number % len(WAYS)])
        return str(reply.json["code"]) if reply.status != 200 else "answered"

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = list(pool.map(cycle, range(CYCLES)))
    assert set(outcomes) == {"function-crashed"}, {o: outcomes.count(o) for o in set(outcomes)}
    assert site.invoke(function).body == b"fine"
    settled(site, function, fds=fds, before=before)


def test_two_hundred_instances_at_once_leave_nothing(site: Site) -> None:
    before, fds = kernel_state(site), psutil.Process(site.pid).num_fds()
    floor = {"strategy": "CONSTANT", "count": CROWD}
    function = site.deploy("crowd", SOURCE, app="residue", memory=128, provisioned_concurrency=floor)
    eventually(lambda: idle(site, function) >= CROWD, what=f"{CROWD} instances are ready")
    assert len(site.inside()) > CROWD
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        assert set(pool.map(lambda _: site.invoke(function).body, range(CROWD))) == {b"fine"}
    settled(site, function, fds=fds, before=before)


def idle(site: Site, function: str) -> int:
    return len([i for i in site.instances(function) if i["state"] == "idle"])


def test_a_killed_spawner_is_replaced_and_nothing_of_it_is_left(site: Site) -> None:
    before, fds = kernel_state(site), psutil.Process(site.pid).num_fds()
    floor = {"strategy": "CONSTANT", "count": 20}
    function = site.deploy("floor", SOURCE, app="residue", memory=128, provisioned_concurrency=floor)
    eventually(lambda: idle(site, function) >= 20)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(site.invoke, function, "sleep") for _ in range(4)]
        eventually(lambda: sum(i["state"] == "busy" for i in site.instances(function)) == 4)
        old = {p.pid for p in site.inside()}
        spawner = site.spawner
        spawner.kill()
        assert {call.result().status for call in calls} == {502}
    eventually(lambda: not old & {p.pid for p in site.inside()}, what="all that it had started went with it")
    eventually(lambda: idle(site, function) >= 20, what="the floor is restored")
    assert site.spawner.pid != spawner.pid
    assert site.invoke(function).body == b"fine"
    settled(site, function, fds=fds, before=before)


@pytest.mark.parametrize("configuration", ["root", "user"])
def test_a_killed_daemon_leaves_nothing(configuration: str) -> None:
    base = Path(tempfile.mkdtemp(prefix="stoker-hostile-"))
    floor = {"strategy": "CONSTANT", "count": 20}
    try:
        with run_site(CONFIGURATIONS[configuration], config=CONFIG, keep=base) as site:
            before = kernel_state(site)
            keeper = psutil.Process(site.process.pid)
            function = site.deploy("floor", SOURCE, app="residue", memory=128, provisioned_concurrency=floor)
            eventually(lambda: idle(site, function) >= 20)
            seen = groups(site)
            os.kill(site.pid, signal.SIGKILL)
            level = 2 if os.getuid() == 0 else 1  # the process that keeps the place, and its first one
            eventually(lambda: len(alive(keeper)) < level, what="no process is left")
            assert not [line for line in host_mounts() if str(base) in line]
        with run_site(CONFIGURATIONS[configuration], config=CONFIG, keep=base) as site:
            eventually(lambda: idle(site, function) >= 20, what="the floor is restored")
            assert site.invoke(function).body == b"fine"
            left = {path for path in seen if os.path.isdir(path)} - groups(site)
            assert not left, "control groups of the killed daemon"
            site.remove(function)
            eventually(lambda: only_the_spawner(site))
            eventually(lambda: kernel_state(site).keys() == before.keys() and not groups(site))
            eventually(lambda: not temporary(site), what="no temporary directory is left")
    finally:
        shutil.rmtree(base, ignore_errors=True)


def alive(keeper: psutil.Process) -> list[psutil.Process]:
    """What is in the place beside what keeps it; zombies count."""
    return [p for p in keeper.children(recursive=True) if p.is_running()]
