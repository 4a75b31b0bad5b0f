"""Programs that carry packets without root: found to work by trying them, as root or as an ordinary user."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import socket
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from daemon.config.network import Network
from daemon.sandbox.networks import Networks, Tools
from daemon.sandbox.relays import PROGRAMS
from tests.hostile.site import CONFIGURATIONS, FDK, SERVES, Site, run_site
from tests.system.daemon import ROOT, eventually

LOG = logging.getLogger("test")


def test_a_program_that_carries_packets_is_tried_not_believed_in() -> None:
    method = "slirp4netns" if os.geteuid() == 0 else "pasta"
    tools = replace(Tools.find(), **{method: "/bin/false"})
    if not os.access("/dev/net/tun", os.W_OK) or not (tools.nft or tools.iptables_restore):
        pytest.skip("no /dev/net/tun for this user, or no packet filter")
    made = Networks(Network(method=method), log=LOG, tools=tools)
    made.open()
    assert made.method == "none"
    assert "ended with code 1" in made.reason or "namespaces cannot be made" in made.reason


@pytest.mark.parametrize("method", ["pasta", "slirp4netns"])
def test_a_program_that_works_is_found_to(method: str) -> None:
    if not getattr(Tools.find(), method):
        pytest.skip(f"{method} is not installed")
    if not os.access("/dev/net/tun", os.W_OK) or (method == "pasta" and os.geteuid() == 0):
        pytest.skip("pasta does not run as root" if os.geteuid() == 0 else "no /dev/net/tun for this user")
    made = Networks(Network(method=method), log=LOG)
    made.open()
    assert (made.method, made.reason) == (method, "")


INSIDE = """
import json, os, socket

def handler(ctx, data=None):
    asked = json.loads(data.getvalue() or b"{}")
    if asked:
        try:
            socket.create_connection((asked["host"], asked["port"]), timeout=3).close()
            return "reached"
        except OSError as exc:
            return type(exc).__name__
    with open("/proc/self/net/route") as routes:
        return str(sum(line.split()[1:2] == ["00000000"] for line in routes))
"""
WRAPPER = """#!/bin/sh
[ -e {broken} ] && {{ echo broken by the test >&2; exit 1; }}
exec {program} "$@"
"""


@pytest.mark.processes
@pytest.mark.timeout(300)
@pytest.mark.parametrize("start", ["auto", "exec", "program"])
@pytest.mark.parametrize("method", ["pasta", "slirp4netns"])
def test_a_relay_that_ends_is_started_again_under_the_same_instance(method: str, start: str) -> None:
    """While its successors fail too, status says so and the pauses grow; then the function reaches outside again."""
    program = getattr(Tools.find(), method)
    if not program or not os.access("/dev/net/tun", os.W_OK):
        pytest.skip(f"{method} is not installed, or no /dev/net/tun for this user")
    tools = Path(tempfile.mkdtemp(prefix="stoker-tools-"))
    tools.chmod(0o755)
    try:
        wrapper, broken = tools / method, tools / "broken"
        wrapper.write_text(WRAPPER.format(broken=broken, program=program))
        wrapper.chmod(0o755)
        path = f"{tools}:{os.environ.get('PATH', '')}"
        with run_site(CONFIGURATIONS["user"], config=f"network:\n  method: {method}\n", env={"PATH": path}) as site:
            fn = deploy(site, start)
            if network_of(site, fn)["method"] != method:
                pytest.skip(f"{method} does not work for this user: {site.stderr()[:1000]}")
            live_through_the_end_of_its_relay(site, fn, broken)
    finally:
        shutil.rmtree(tools)


def deploy(site: Site, start: str) -> str:
    if start != "program":
        return site.deploy("inside", INSIDE, annotations={"stoker.dev/start": start})
    extra = {f"python/fdk/{path.relative_to(ROOT / 'fdk')}": path.read_text() for path in FDK}
    return site.deploy("inside", INSIDE, extra={**extra, "function/.stoker.json": json.dumps(SERVES)}, timeout=60)


def live_through_the_end_of_its_relay(site: Site, fn: str, broken: Path) -> None:
    assert routes(site, fn) == 1
    before = {item["pid"] for item in site.instances(fn) if item["state"] == "idle"}
    assert before
    broken.touch()
    for relay in relays_of(site):
        relay.send_signal(signal.SIGKILL)
    eventually(lambda: routes(site, fn) == 0, what="its way out is gone")
    eventually(lambda: "broken by the test" in network_of(site, fn)["trouble"], what="its status says why")
    facts = {fact["name"]: fact for fact in site.api("GET", "/stoker/v1/doctor")["facts"]}
    assert not facts["egress"]["active"]
    assert "broken by the test" in facts["egress"]["detail"]
    eventually(lambda: {0.1, 0.2, 0.4, 0.8} <= pauses(site, fn), what="more are tried, each after a longer pause")
    broken.unlink()
    eventually(lambda: routes(site, fn) == 1, what="it has a way out again")
    eventually(lambda: not network_of(site, fn)["trouble"], what="its status is as before")
    assert before <= {item["pid"] for item in site.instances(fn)}, "the instances lived on"
    facts = {fact["name"]: fact for fact in site.api("GET", "/stoker/v1/doctor")["facts"]}
    assert facts["egress"]["active"]
    found = re.search(r"^stoker_relay_ends_total ([\d.]+)$", site.request("GET", "/metrics").body.decode(), re.M)
    assert found
    assert float(found[1]) >= 1
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        for host in {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}:
            told = site.invoke(fn, json.dumps({"host": host, "port": port})).body.decode()
            assert told != "reached", f"{host}: the filter is not there any more"


def routes(site: Site, fn: str) -> int:
    """How many ways out the function sees."""
    reply = site.invoke(fn)
    assert reply.status == 200, reply.body
    return int(reply.body)


def relays_of(site: Site) -> list[psutil.Process]:
    return [p for p in psutil.Process(site.pid).children() if p.name().startswith(PROGRAMS)]


def network_of(site: Site, fn: str) -> Any:
    return site.api("GET", f"/stoker/v1/functions/{fn}")["network"]


def pauses(site: Site, fn: str) -> set[float]:
    """The pauses that the daemon told of."""
    lines = [json.loads(line) for line in site.stderr().splitlines() if line.startswith("{") and line.endswith("}")]
    return {line["again_in_s"] for line in lines if line.get("owner") == fn and "again_in_s" in line}
