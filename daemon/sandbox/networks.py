"""The network of each function version: a namespace of its own, connected to the outside as its app's setting says.

The namespace is made with the version's first process (`runtime`), which waits until `Networks.wire` has connected it.
From then on nobody inside can change it. The filter lies inside, where it goes with the namespace; only with method
veth is something of it on the machine, and that is named so that the next daemon can remove it (`blocks`).
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from daemon.config.network import Network
from daemon.core.network import NetworkPolicy, iptables_rules, nft_rules, rules
from daemon.sandbox import nameservers, netlink, relays
from daemon.sandbox.blocks import Block, NetworkError, claim, run
from daemon.sandbox.netlink import Netlink
from daemon.sandbox.relay_keeper import Keeper
from runtime import landlock

RESOLV_CONF = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
NAME_SERVERS_MAX = 3  # resolv.conf(5): MAXNS
DEVICE = "eth0"
"""The name of a function's own end."""
SLOTS = range(2, 255)

__all__ = ["NetworkError", "Networks", "Wire"]


@dataclass(slots=True)
class Wire:
    """The connection of one version's network."""

    slot: int = 0
    keeper: Keeper | None = None
    """Of the program that carries the packets, if that is how it is connected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a function really gets of what its app asks for, on this machine."""

    mode: str
    namespace: bool = False
    """Whether it has a network of its own."""
    relayed: bool = False
    """Whether a program carries its packets (`daemon.sandbox.relays`)."""
    internet: bool = True
    """Whether it can make sockets of the internet's families at all."""
    connect_ports: tuple[int, ...] | None = None
    """TCP ports that it may connect to; None: not restricted."""
    resolver: str | None = None
    """Text of its /etc/resolv.conf; None: the machine's."""
    weaker: str = ""
    """In what it falls short of the setting, for people."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What was found on the machine, with absolute paths; empty: not there."""

    nft: str = ""
    iptables_restore: str = ""
    pasta: str = ""
    slirp4netns: str = ""

    @classmethod
    def find(cls) -> Tools:
        """Look for them on the usual paths, whatever the daemon's PATH is."""
        path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin"))
        names = ("nft", "iptables-restore", "pasta", "slirp4netns")
        return cls(*(shutil.which(name, path=path) or "" for name in names))


class Networks:
    """Connects the networks of one daemon's functions."""

    def __init__(self, settings: Network, *, log: Any, tools: Tools | None = None, key: str = "") -> None:
        """``key``: what the daemon is known by; it gets the same block of addresses again if that is free."""
        self.settings = settings
        self.method = "none"
        """How egress is made: ``veth``, ``pasta``, ``slirp4netns`` or ``none``."""
        self.reason = ""
        """Why not better, for people; empty: nothing is missing."""
        self.has_namespaces = True
        """Whether functions can have a network namespace of their own; set by who probed it."""
        self.has_ports = landlock.abi() >= landlock.ABI_NET
        """Whether Landlock's rules for TCP ports are in force; likewise."""
        self.unlimited = False
        """A test switched all limits of the network off."""
        self.daemon_ports: list[int] = []
        """TCP ports that no function may reach."""
        self.host_calls = False
        """Whether functions in mode host may reach them all the same: requests are signed there."""
        self.users = ""
        """Range of the users that functions run as, if these are their own."""
        self._log = log
        self._tools = tools or Tools.find()
        self._block: Block | None = None
        self._free = list(reversed(SLOTS))
        self._key = sum(key.encode()) % 256
        self.connected = 0
        """Networks that are connected now."""
        self.relay_ends = 0
        """Relays of packets that ended by themselves."""
        self._keepers: dict[Keeper, str] = {}
        self._nursery: trio.Nursery | None = None

    # -- what the machine allows --------------------------------------------------------------------------------

    def open(self) -> None:
        """Find out what works here, by trying. Blocks: not for the event loop."""
        reasons = []
        auto = ("veth", "pasta", "slirp4netns", "ports")
        for method in auto if self.settings.method == "auto" else (self.settings.method,):
            try:
                if method == "veth":
                    self._open_veth()
                elif method == "ports":
                    if not self.has_ports:
                        raise NetworkError("needs Landlock's rules for TCP (Linux 6.7)")
                elif method != "none":
                    self._check_filter()
                    relays.check(method, self._program(method), DEVICE, *self._filter_inside([]))
            except (NetworkError, OSError) as exc:
                reasons.append(f"{method}: {exc}")
            else:
                self.method = method
                break
        self.reason = "; ".join(reasons)

    def _open_veth(self) -> None:
        if os.geteuid() != 0:
            raise NetworkError("needs root")
        if not self._tools.nft:
            raise NetworkError("nft is not installed (package nftables)")
        self._block = claim(self.settings.addresses, self._tools.nft, wanted=self._key)
        try:
            netlink.in_new(self._try_veth)
        except BaseException:
            self._block.close()
            self._block = None
            raise

    def _try_veth(self, host: Netlink) -> None:
        """In a namespace of its own: is a cable possible, and a filter?"""
        assert self._block is not None
        device = f"{self._block.devices}1"
        with netlink.here() as fd:
            host.add_veth(device, DEVICE, fd)
        try:
            self._filter([])
            self._block.try_rules()
        finally:
            host.remove(device)

    def _check_filter(self) -> None:
        if not (self._tools.nft or self._tools.iptables_restore):
            raise NetworkError("neither nft nor iptables is installed (package nftables)")

    def _program(self, method: str) -> str:
        program: str = getattr(self._tools, method)
        if not program:
            package = "passt" if method == "pasta" else method
            raise NetworkError(f"{method} is not installed (package {package})")
        return program

    # -- one version --------------------------------------------------------------------------------------------

    def name_servers(self) -> list[str]:
        """Whom functions in mode egress ask for names: what their /etc/resolv.conf must say."""
        if self.method in relays.NAME_SERVER:
            return [relays.NAME_SERVER[self.method]]
        found = list(self.settings.name_servers) or machine_name_servers()
        return found or ([self.needs_name_relay] if self.needs_name_relay else [])

    @property
    def needs_name_relay(self) -> str:
        """Where a relay for names must listen, since the machine's own servers are on its loopback; or empty."""
        if self._block is None or self.settings.name_servers or machine_name_servers():
            return ""
        return self._block.gateway if nameservers.loopback_servers() else ""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep relays of packets running, and answer functions' name queries if that is needed; until cancelled."""
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                if address := self.needs_name_relay:
                    try:
                        await nameservers.serve(address, nameservers.loopback_servers()[0])
                    except OSError as exc:
                        self._log.error("functions cannot look up names", address=address, error=str(exc))
                await trio.sleep_forever()
        finally:
            self._nursery = None

    def grant(self, policy: NetworkPolicy) -> Grant:
        """What a function with this policy gets here.

        Raises:
          NetworkError: not even something weaker can be had safely.
        """
        if policy.mode == "host":
            return self._grant_host()
        if policy.mode == "egress":
            if self.has_namespaces and self.method in ("veth", "pasta", "slirp4netns"):
                text = "".join(f"nameserver {address}\n" for address in self.name_servers())
                relayed = self.method in relays.NAME_SERVER
                return Grant(mode="egress", namespace=True, relayed=relayed, resolver=text)
            if self.unlimited:
                return Grant(mode="egress", weaker="the machine's own network, without limits")
            if self.has_ports and self.method != "none":
                return self._grant_ports(policy)
            weaker = f"no way out: {self.reason or 'network.method is none'}"
        else:
            weaker = ""
        if self.has_namespaces:
            return Grant(mode="none" if policy.mode == "none" else "loopback", namespace=True, weaker=weaker)
        if policy.mode == "loopback":
            weaker = "no network namespace: it cannot make network sockets at all"
        return Grant(mode="none", internet=False, weaker=weaker)

    def _grant_host(self) -> Grant:
        """The machine's network, but not the daemon's own ports, where a worker would have the machine's rights.

        In mode iam it has only those of its function: then it may call.
        """
        if (self._block is not None and self.users) or self.unlimited or self.host_calls:
            return Grant(mode="host")
        if not self.has_ports:
            raise NetworkError("network mode host needs root with nftables, or Landlock's rules for TCP (Linux 6.7)")
        return Grant(mode="host", connect_ports=tuple(p for p in range(65536) if p not in self.daemon_ports))

    def _grant_ports(self, policy: NetworkPolicy) -> Grant:
        ports = {int(port) for port in self.settings.ports}
        if policy.allow and all(entry.port for entry in policy.allow):
            ports = {53, *(entry.port for entry in policy.allow)}
        weaker = "the machine's own network: TCP to some ports of any address, UDP without limits"
        return Grant(mode="egress", connect_ports=tuple(sorted(ports - set(self.daemon_ports))), weaker=weaker)

    async def wire(self, pid: int, policy: NetworkPolicy, *, owner: str = "") -> Wire | None:
        """Connect the network namespace of a process that waits for it, filtered before it is connected.

        ``owner``: the id of the function that it is for.

        Raises:
          NetworkError: it cannot be done; nothing is left of it.
        """
        grant = self.grant(policy)
        if grant.mode == "host" and self._block is not None:
            await trio.to_thread.run_sync(self._prepare)
        if grant.mode != "egress" or not grant.namespace:
            return None
        try:
            with trio.fail_after(self.settings.wire_s):
                found = await self._rules(policy)
                if self.method == "veth":
                    wire = await trio.to_thread.run_sync(self._wire_veth, pid, found)
                else:
                    wire = await self._wire_relay(pid, found, owner)
                self.connected += 1
                return wire
        except trio.TooSlowError:
            raise NetworkError(f"the network was not connected within {self.settings.wire_s:g} s") from None
        except OSError as exc:
            raise NetworkError(f"the network cannot be connected: {exc}") from exc

    async def let_go(self, wire: Wire | None) -> None:
        """The namespace is going: let go of what was made for it."""
        if wire is not None and wire.keeper is not None:
            self._keepers.pop(wire.keeper, None)
            await wire.keeper.stop()
        await trio.to_thread.run_sync(self.unwire, wire)

    def unwire(self, wire: Wire | None) -> None:
        """The same, for a network that no task keeps (`run`)."""
        if wire is None:
            return
        self.connected -= 1
        if wire.keeper is not None:
            wire.keeper.close()
        if wire.slot and self._block is not None:
            with Netlink() as host:
                host.remove(f"{self._block.devices}{wire.slot}")
            self._free.append(wire.slot)

    def close(self) -> None:
        """Remove everything."""
        if self._block is not None:
            self._block.close()
            self._block = None

    def describe(self) -> dict[str, Any]:
        """For people."""
        return {
            "method": self.method,
            "reason": self.reason,
            "namespaces": self.has_namespaces,
            "addresses": self._block.network if self._block is not None else "",
            "name_servers": self.name_servers() if self.method != "none" else [],
        }

    async def _rules(self, policy: NetworkPolicy) -> list[Any]:
        addresses: dict[str, Sequence[str]] = {}
        for entry in policy.allow:
            if entry.is_name and entry.host not in addresses:
                addresses[entry.host] = await _look_up(entry.host)
                if not addresses[entry.host]:
                    self._log.warning("name of an allow-list means nothing", host=entry.host)
        with Netlink() as host:
            own = host.addresses()
        denied = [*own, self._block.pool if self._block is not None else relays.GATEWAY]
        return rules(policy, resolvers=self.name_servers(), denied=denied, addresses=addresses)

    def _filter(self, found: list[Any]) -> None:
        """In the thread that is inside: filter first, connect then."""
        if self._tools.nft:
            run(self._tools.nft, nft_rules(found))
        else:
            run(self._tools.iptables_restore, iptables_rules(found), arguments=())

    def _prepare(self) -> None:
        assert self._block is not None
        self._block.users, self._block.ports = self.users, [] if self.host_calls else self.daemon_ports
        self._block.prepare(relay=bool(self.needs_name_relay))

    def _wire_veth(self, pid: int, found: list[Any]) -> Wire:
        assert self._block is not None
        block = self._block
        self._prepare()
        if not self._free:
            raise NetworkError(f"all {len(SLOTS)} networks of this daemon are in use")
        slot = self._free.pop()
        device, address = f"{block.devices}{slot}", block.address(slot)
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

        def inner() -> None:
            with Netlink() as own:
                own.add_address(own.up(DEVICE), address)
                index = own.links()[DEVICE]
                own.add_route(index, block.gateway)
                own.add_route(index, gateway=block.gateway)

        def before() -> None:
            with Netlink() as own:
                own.up("lo")  # a refusal by the filter comes back through it
            self._filter(found)
            _switch_off_ipv6()

        try:
            netlink.inside(namespace, before)
            with Netlink() as host:
                host.add_veth(device, DEVICE, namespace)
                index = host.up(device)
                host.add_address(index, block.gateway)
                host.add_route(index, address)
            for name, value in (("ipv4/conf/{}/forwarding", "1"), ("ipv6/conf/{}/disable_ipv6", "1")):
                path = Path("/proc/sys/net", name.format(device))
                if path.exists():
                    path.write_text(value)
            netlink.inside(namespace, inner)
        except BaseException:
            with Netlink() as host:
                host.remove(device)
            self._free.append(slot)
            raise
        finally:
            os.close(namespace)
        return Wire(slot=slot)

    def _filter_inside(self, found: list[Any]) -> tuple[list[str], str]:
        """A command that sets the filter of the namespace that it runs in, and what it reads."""
        if self._tools.nft:
            return [self._tools.nft, "-f", "-"], nft_rules(found)
        return [self._tools.iptables_restore], iptables_rules(found)

    async def _wire_relay(self, pid: int, found: list[Any], owner: str) -> Wire:
        await relays.run_inside(pid, *self._filter_inside(found))
        program = self._program(self.method)
        relay = await relays.start(self.method, program, pid, DEVICE)
        keeper = Keeper(
            relay, method=self.method, program=program, pid=pid, device=DEVICE, start_s=self.settings.wire_s,
            owner=owner, log=self._log, on_end=self._relay_ended,
        )  # fmt: skip
        if self._nursery is not None:
            self._keepers[keeper] = owner
            self._nursery.start_soon(keeper.run)
        return Wire(keeper=keeper)

    def _relay_ended(self) -> None:
        self.relay_ends += 1

    def trouble(self, owner: str = "") -> str:
        """Why a function, or any, reaches nothing outside just now though it is connected; empty: it does."""
        found = {keeper.trouble: None for keeper, of in self._keepers.items() if owner in ("", of)}
        return "; ".join(filter(None, found))


@contextmanager
def open_networks(settings: Network, data: Path, *, log: Any) -> Iterator[Networks]:
    """What works on this machine; everything of it is removed at the end. Blocks for some 20 ms."""
    networks = Networks(settings, log=log, key=str(data))
    networks.open()
    try:
        yield networks
    finally:
        networks.close()


def machine_name_servers() -> list[str]:
    """The machine's IPv4 name servers that are not on its loopback; behind systemd-resolved, those that it asks."""
    for path in RESOLV_CONF:
        try:
            lines = path.read_text(errors="replace").splitlines()
        except OSError:
            continue
        found = [fields[1] for line in lines if len(fields := line.split()) > 1 and fields[0] == "nameserver"]
        usable = [text for text in found if "." in text and ":" not in text and not text.startswith("127.")]
        if usable:
            return usable[:NAME_SERVERS_MAX]
    return []


def _switch_off_ipv6() -> None:
    """In the thread that is inside: devices that come later have no IPv6, for which there is no route."""
    for name in ("default", "all"):
        path = Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
        if path.exists():
            path.write_text("1")


async def _look_up(host: str) -> list[str]:
    try:
        found = await trio.socket.getaddrinfo(host, None, family=socket.AF_INET, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return sorted({str(entry[4][0]) for entry in found})
