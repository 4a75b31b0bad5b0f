"""A function's network on real namespaces: what egress reaches, what it never does, and that nothing is left."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from daemon.config.network import Network
from daemon.core.network import parse
from daemon.sandbox import blocks, netlink
from daemon.sandbox.netlink import Netlink
from daemon.sandbox.networks import NetworkError, Networks, Tools, Wire
from tests.limits.outside import HOST, PORT, REDIS, need_root, outside, reach, redis
from tests.limits.support import until

LOG = logging.getLogger("test")


@pytest.fixture(scope="module", autouse=True)
def world() -> Iterator[None]:
    with outside():
        yield


@pytest.fixture
def networks() -> Iterator[Networks]:
    made = Networks(Network(method="veth"), log=LOG, key="test")
    made.open()
    if made.method != "veth":
        pytest.skip(f"no veth networks here: {made.reason}")
    try:
        yield made
    finally:
        made.close()
    until(lambda: leftovers() == [], "nothing is left")


def leftovers() -> list[str]:
    """Devices and tables of daemons that are gone. Others may be running: theirs are locked."""
    with Netlink() as host:
        names = [name for name in host.links() if name.startswith(blocks.PREFIX)]
    nft = Tools.find().nft
    tables = subprocess.run([nft, "list", "tables"], capture_output=True, text=True, check=True).stdout
    names += [line for line in tables.splitlines() if "stoker_" in line]
    return [name for name in names if _number(name) not in _locked()]


def _number(name: str) -> int:
    digits = "".join(c if c.isdigit() else " " for c in name).split()
    return int(digits[0])


def _locked() -> set[int]:
    found = set()
    for path in blocks.DIRECTORY.glob("*.lock"):
        fd = blocks._lock(int(path.stem))
        if fd < 0:
            found.add(int(path.stem))
        else:
            os.close(fd)
    return found


@contextmanager
def namespace() -> Iterator[tuple[int, Callable[[Callable[[], Any]], Any]]]:
    """A process in a new network namespace, and what runs work in there."""
    process = subprocess.Popen(["unshare", "--net", "sleep", "100"])
    try:
        present = os.stat("/proc/self/ns/net").st_ino
        until(lambda: os.stat(f"/proc/{process.pid}/ns/net").st_ino != present, "the namespace is there")
        fd = os.open(f"/proc/{process.pid}/ns/net", os.O_RDONLY)
        try:
            yield process.pid, lambda work: netlink.inside(fd, work)
        finally:
            os.close(fd)
    finally:
        process.kill()
        process.wait()


async def wired(networks: Networks, pid: int, setting: Any) -> Wire | None:
    return await networks.wire(pid, parse(setting))


async def test_a_function_reads_and_writes_a_service_of_its_network(networks: Networks) -> None:
    with namespace() as (pid, run):
        assert run(lambda: reach(REDIS, PORT)) != "reached"
        wire = await wired(networks, pid, "egress")
        assert run(lambda: redis(REDIS, PORT, "SET", "key", "value")) == b"+OK"
        assert run(lambda: redis(REDIS, PORT, "STRLEN", "key")) == b":5"
        networks.unwire(wire)
        assert run(lambda: reach(REDIS, PORT)) != "reached"


async def test_the_machine_and_metadata_are_never_reached(networks: Networks) -> None:
    with socket.create_server(("0.0.0.0", 0)) as server, namespace() as (pid, run):
        port = server.getsockname()[1]
        wire = await wired(networks, pid, {"allow": ["0.0.0.0/0"]})
        with Netlink() as host:
            own = host.addresses()
        assert HOST in own
        assert networks.describe()["addresses"].rpartition(".")[0] + ".1" in own
        for address in [*own, "169.254.169.254"]:
            assert run(lambda address=address: reach(address, port)) != "reached", address
        assert reach(HOST, port) == "reached", "the server is there: the test can fail"
        assert run(lambda: reach(REDIS, PORT)) == "reached"
        networks.unwire(wire)


async def test_the_machine_s_side_holds_even_if_the_inner_filter_were_gone(networks: Networks) -> None:
    with socket.create_server(("0.0.0.0", 0)) as server, namespace() as (pid, run):
        port = server.getsockname()[1]
        wire = await wired(networks, pid, "egress")
        nft = Tools.find().nft
        run(lambda: subprocess.run([nft, "flush", "ruleset"], check=True))
        gateway = networks.describe()["addresses"].rpartition(".")[0] + ".1"
        for address in (HOST, gateway):
            assert run(lambda address=address: reach(address, port)) != "reached", address
        assert run(lambda: reach(REDIS, PORT)) == "reached"
        networks.unwire(wire)


async def test_functions_do_not_reach_each_other(networks: Networks) -> None:
    with namespace() as (one_pid, one), namespace() as (two_pid, two):
        wires = [await wired(networks, pid, "egress") for pid in (one_pid, two_pid)]
        server = two(lambda: socket.create_server(("0.0.0.0", 4444)))
        address = two(lambda: _address())
        with server:
            assert two(lambda: reach(address, 4444)) == "reached"
            assert one(lambda: reach(address, 4444)) != "reached"
        for wire in wires:
            networks.unwire(wire)


def _address() -> str:
    with Netlink() as own:
        return next(address for address in own.addresses() if not address.startswith("127."))


async def test_an_allow_list_narrows_egress_to_what_it_names(networks: Networks) -> None:
    cases = {f"{REDIS}:{PORT}": True, "198.51.100.0/24": True, f"{REDIS}:1": False, "203.0.113.0/24": False}
    for entry, reached in cases.items():
        with namespace() as (pid, run):
            wire = await wired(networks, pid, {"allow": [entry]})
            assert (run(lambda: reach(REDIS, PORT)) == "reached") is reached, entry
            networks.unwire(wire)


@pytest.mark.parametrize("mode", ["none", "loopback"])
async def test_other_modes_are_not_connected(networks: Networks, mode: str) -> None:
    with namespace() as (pid, run):
        assert await wired(networks, pid, mode) is None
        assert run(lambda: reach(REDIS, PORT)) != "reached"


async def test_names_are_asked_where_the_setting_says(networks: Networks) -> None:
    """A name server of the test's own, outside; the filter lets questions to it through even with an allow-list."""
    asked = Networks(Network(method="veth", name_servers=(REDIS,)), log=LOG, key="names")
    asked.open()
    try:
        assert asked.name_servers() == [REDIS]
        with namespace() as (pid, run):
            wire = await wired(asked, pid, {"allow": ["203.0.113.0/24"]})
            assert run(lambda: reach(REDIS, 53)) == "ConnectionRefusedError", "nobody listens, but the packet arrived"
            assert run(lambda: reach(REDIS, PORT)) != "reached"
            asked.unwire(wire)
    finally:
        asked.close()


async def test_two_daemons_have_blocks_of_their_own(networks: Networks) -> None:
    other = Networks(Network(method="veth"), log=LOG, key="test")
    other.open()
    try:
        assert other.describe()["addresses"] != networks.describe()["addresses"]
        with namespace() as (one_pid, one), namespace() as (two_pid, two):
            wires = await wired(networks, one_pid, "egress"), await wired(other, two_pid, "egress")
            assert one(lambda: reach(REDIS, PORT)) == two(lambda: reach(REDIS, PORT)) == "reached"
            other.unwire(wires[1])
            other.close()
            assert one(lambda: reach(REDIS, PORT)) == "reached"
            networks.unwire(wires[0])
    finally:
        other.close()


async def test_a_failed_connection_leaves_nothing(networks: Networks) -> None:
    with namespace() as (pid, _):
        wire = await wired(networks, pid, "egress")
        with pytest.raises(NetworkError):
            await wired(networks, pid, "egress")  # it has its device already
        networks.unwire(wire)
        networks.unwire(await wired(networks, pid, "egress"))


KILLED = """
import logging, os, subprocess, sys, time, trio
from daemon.config.network import Network
from daemon.core.network import parse
from daemon.sandbox.networks import Networks
networks = Networks(Network(method="veth"), log=logging.getLogger(), key="killed")
networks.open()
trio.run(networks.wire, int(sys.argv[1]), parse("egress"))
print(networks.describe()["addresses"], flush=True)
time.sleep(100)
"""


def test_what_a_killed_daemon_left_is_removed_by_the_next_and_only_that(networks: Networks) -> None:
    need_root()
    with namespace() as (pid, _):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(pid)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        with process.stdout:
            number = int(process.stdout.readline().split(".")[2])
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert any(_number(name) == number for name in leftovers())
        foreign = f"stkx{os.getpid() % 10**5}"
        with Netlink() as host:
            fd = os.open("/proc/self/ns/net", os.O_RDONLY)
            host.add_veth(foreign, f"{foreign}p", fd)
            os.close(fd)
        try:
            blocks.sweep_free(Tools.find().nft)
            with Netlink() as host:
                assert foreign in host.links(), "not ours: not touched"
                assert not [name for name in host.links() if name.startswith(f"stk{number}-")]
        finally:
            with Netlink() as host:
                host.remove(foreign)
    until(lambda: leftovers() == [], "nothing is left")


def test_what_cannot_be_had_is_named() -> None:
    made = Networks(Network(method="veth"), log=LOG, tools=Tools())
    made.open()
    assert made.method == "none"
    assert "nft is not installed" in made.reason
    assert made.grant(parse("egress")).mode == "loopback"
    overlap = Networks(Network(method="veth", addresses="198.51.0.0/16"), log=LOG)
    overlap.open()
    assert "overlaps with 198.51.100.0/24" in overlap.reason


def test_forwarding_is_as_it_was_when_the_last_daemon_has_gone() -> None:
    switch = Path("/proc/sys/net/ipv4/conf")
    before = {path: path.read_text() for path in switch.glob("*/forwarding")}
    if Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "1" or _locked():
        pytest.skip("the machine forwards already, or another daemon runs")
    made = Networks(Network(method="veth"), log=LOG, key="switch")
    made.open()
    assert made._block is not None
    made._block.prepare(relay=False)
    assert any(path.read_text() != before.get(path) for path in switch.glob("*/forwarding"))
    made.close()
    assert {path: path.read_text() for path in switch.glob("*/forwarding")} == before


def test_threads_of_this_process_stay_where_they_were() -> None:
    present = os.stat("/proc/thread-self/ns/net").st_ino
    with namespace() as (_, run):
        assert run(lambda: os.stat("/proc/thread-self/ns/net").st_ino) != present
    assert os.stat("/proc/thread-self/ns/net").st_ino == present
    assert threading.active_count() < 20
