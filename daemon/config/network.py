"""The settings of functions' networks; part of `daemon.config.settings`, which checks and reads them."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from daemon.config.rules import ConfigError, positive
from daemon.core.network import MODES

METHODS = ("auto", "veth", "pasta", "slirp4netns", "ports", "none")
POOL_BITS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What functions may reach. An app's annotation ``stoker.dev/network`` says it for its functions."""

    mode: str = "egress"
    """Of apps without the annotation: ``egress``: outwards, but not the machine itself; ``none``; ``loopback``: only
    their own; ``host``: the machine's network, for functions that are trusted."""
    method: str = "auto"
    """How egress is made: ``veth`` (needs root and nftables), ``pasta`` or ``slirp4netns`` (ordinary users), ``ports``
    (the machine's own network, but TCP only to ``network.ports``: weaker), ``none``: not at all; ``auto``: the first of
    these that works here."""
    addresses: str = "10.213.0.0/16"
    """IPv4 network of 16 bits for functions, with method veth; must be free around here. One daemon takes a 256th."""
    ports: tuple[str, ...] = (
        "53", "443", "465", "587", "1433", "1521", "1522", "3306", "5432", "5671", "5672", "6379", "8443", "9042",
        "9092", "9200", "11211", "27017",
    )  # fmt: skip
    """TCP ports that functions may connect to with method ``ports``; those of the daemon are always left out. 80 is not
    among them: a cloud's metadata service answers there."""
    name_servers: tuple[str, ...] = ()
    """IPv4 addresses that functions ask for names; empty: those of the machine."""
    wire_s: float = 5.0
    """Longest time for connecting a version's network; then its start fails."""

    def __post_init__(self) -> None:
        positive("network", self)
        if self.mode not in MODES:
            raise ConfigError(f"network.mode must be one of {', '.join(MODES)}, not {self.mode!r}")
        if self.method not in METHODS:
            raise ConfigError(f"network.method must be one of {', '.join(METHODS)}, not {self.method!r}")
        try:
            pool = ipaddress.IPv4Network(self.addresses)
        except ValueError as exc:
            raise ConfigError(f"network.addresses: {exc}") from exc
        if pool.prefixlen != POOL_BITS:
            raise ConfigError(f"network.addresses must be a network of {POOL_BITS} bits, not {self.addresses!r}")
        for port in self.ports:
            if not (port.isascii() and port.isdecimal() and len(port) < 6 and 0 < int(port) < 65536):
                raise ConfigError(f"network.ports must be numbers from 1 to 65535, not {port!r}")
        for address in self.name_servers:
            try:
                ipaddress.IPv4Address(address)
            except ValueError as exc:
                raise ConfigError(f"network.name_servers: {exc}") from exc
