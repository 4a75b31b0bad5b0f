"""What the functions of an app may reach: the setting, checked, and the packet filter that carries it out. Pure.

The setting is the app's annotation ``stoker.dev/network``: a mode, or ``{"mode": "egress", "allow": [...]}``.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MODES = ("egress", "none", "loopback", "host")
ALLOW_MAX = 32
"""Most entries of an allow-list."""
DENIED = ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")
"""Never reachable in mode egress: "this network", loopback, link-local (cloud metadata), multicast and reserved."""

_HOST = re.compile(  # RFC 1035 section 2.3.4: at most 253 characters
    r"(?=.{1,253}\Z)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*", re.I
)


@dataclass(frozen=True, slots=True)
class Destination:
    """One entry of an allow-list: a network, or a host with a port."""

    host: str
    """A name, an IPv4 address, or a network as address/bits."""
    port: int = 0
    """0: every port and protocol; else TCP and UDP."""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.port else self.host

    @property
    def is_name(self) -> bool:
        """Whether it has to be looked up."""
        return _network(self.host) is None


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """What a function may reach."""

    mode: str = "egress"
    allow: tuple[Destination, ...] = ()
    """Mode egress: only these, when there are any."""

    def describe(self) -> dict[str, Any]:
        """For people, and for what a revision is made of."""
        return {"mode": self.mode, **({"allow": [str(entry) for entry in self.allow]} if self.allow else {})}


def parse(value: Any) -> NetworkPolicy:
    """Check the annotation's value.

    Raises:
      ValueError: it is not one; the text says what is allowed.
    """
    if isinstance(value, str):
        value = {"mode": value}
    if not isinstance(value, Mapping) or not set(value) <= {"mode", "allow"}:
        raise ValueError(f'must be one of {", ".join(MODES)}, or {{"mode": "egress", "allow": ["HOST:PORT", "CIDR"]}}')
    mode, allow = value.get("mode", "egress"), value.get("allow", [])
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, not {mode!r:.80}")
    if not isinstance(allow, Sequence) or isinstance(allow, str) or len(allow) > ALLOW_MAX:
        raise ValueError(f"allow must be a list of at most {ALLOW_MAX} entries")
    if allow and mode != "egress":
        raise ValueError(f"allow goes with mode egress only, not with {mode}")
    return NetworkPolicy(mode, tuple(_destination(entry) for entry in allow))


def _destination(entry: Any) -> Destination:
    allowed = "HOST:PORT, ADDRESS:PORT, an IPv4 address or a network like 10.0.0.0/8"
    if not isinstance(entry, str):
        raise ValueError(f"allow: {entry!r:.80} is not {allowed}")
    host, colon, port = entry.rpartition(":")
    if not colon:
        network = _network(entry)
        if network is None:
            raise ValueError(f"allow: {entry!r:.300} is not {allowed}")
        return Destination(network)
    if not (port.isascii() and port.isdecimal() and len(port) < 6 and 0 < int(port) < 65536):
        raise ValueError(f"allow: {entry!r:.300}: the port must be from 1 to 65535")
    network = _network(host)
    looks_numeric = re.fullmatch(r"[0-9./]+", host) is not None
    if network is None and (looks_numeric or _HOST.fullmatch(host) is None):
        raise ValueError(f"allow: {entry!r:.300} is not {allowed}")
    return Destination(network or host.lower(), int(port))


def _network(text: str) -> str | None:
    """An IPv4 address or network in its usual form, or None."""
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError:
        return None
    return str(network.network_address) if network.prefixlen == 32 else str(network)


# -- the filter --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rule:
    """The first rule that matches decides."""

    accept: bool
    network: str = ""
    """Empty: every destination."""
    port: int = 0
    """0: every port and protocol; else TCP and UDP."""


def rules(
    policy: NetworkPolicy,
    *,
    resolvers: Iterable[str],
    denied: Iterable[str],
    addresses: Mapping[str, Sequence[str]],
) -> list[Rule]:
    """What packets may leave a function's network in mode egress.

    ``resolvers``: name servers it uses. ``denied``: the machine's own addresses and other functions' networks.
    ``addresses``: what the names of the allow-list mean now; a name that means nothing allows nothing.
    """
    found = [Rule(True, address, 53) for address in resolvers]
    found += [Rule(False, network) for network in dict.fromkeys((*DENIED, *denied))]
    for entry in policy.allow:
        for network in addresses.get(entry.host, ()) if entry.is_name else (entry.host,):
            found.append(Rule(True, network, entry.port))
    found.append(Rule(not policy.allow))
    return found


def nft_rules(found: Iterable[Rule]) -> str:
    """An nftables ruleset for the inside of a function's network: nothing comes in, and what leaves is filtered."""
    lines = []
    for rule in found:
        match = f"ip daddr {rule.network} " if rule.network else ""
        verdict = "accept" if rule.accept else "reject with icmpx type admin-prohibited"
        if rule.port:
            lines += [f"    {match}{protocol} dport {rule.port} {verdict}" for protocol in ("tcp", "udp")]
        else:
            lines.append(f"    {match}{verdict}")
    body = "\n".join(lines)
    return f"""\
table inet stoker {{
  chain output {{
    type filter hook output priority 0; policy drop;
    oifname "lo" accept
    meta nfproto ipv6 drop
{body}
  }}
  chain input {{
    type filter hook input priority 0; policy drop;
    iifname "lo" accept
    ct state established,related accept
  }}
}}
"""


def iptables_rules(found: Iterable[Rule]) -> str:
    """The same for ``iptables-restore``; IPv6 has to be off."""
    lines = []
    for rule in found:
        match = f"-d {rule.network} " if rule.network else ""
        verdict = "ACCEPT" if rule.accept else "REJECT --reject-with icmp-admin-prohibited"
        if rule.port:
            lines += [f"-A OUTPUT {match}-p {p} --dport {rule.port} -j {verdict}" for p in ("tcp", "udp")]
        else:
            lines.append(f"-A OUTPUT {match}-j {verdict}")
    body = "\n".join(lines)
    return f"""\
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT DROP [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A OUTPUT -o lo -j ACCEPT
{body}
COMMIT
"""


def host_rules(
    table: str, *, devices: str, network: str, relay: str, guard: bool, users: str = "", ports: Sequence[int] = ()
) -> str:
    """An nftables table for the machine's side of the virtual cables: routed outwards, and nowhere else.

    ``devices``: their names' common beginning. ``network``: the functions' addresses. ``relay``: where the machine
    answers name queries, or empty. ``guard``: the machine routed nothing before us, and goes on routing nothing else.
    ``users``: those that functions in mode host run as; they do not reach ``ports``, the daemon's, on the machine.
    """
    closed = ", ".join(map(str, ports))
    refuse = f"meta skuid {users} fib daddr type local tcp dport {{ {closed} }} reject with tcp reset"
    output = f"    {refuse}\n" if users and ports else ""
    ours = f'"{devices}*"'
    answer = "".join(
        f"    iifname {ours} ip daddr {relay} {protocol} dport 53 accept\n" for protocol in ("udp", "tcp") if relay
    )
    # Other daemons like this one see to their own devices.
    last = '    iifname "stk*" accept\n    oifname "stk*" accept\n    drop\n' if guard else ""
    return f"""\
table inet {table} {{
  chain input {{
    type filter hook input priority -5; policy accept;
{answer}    iifname {ours} drop
  }}
  chain output {{
    type filter hook output priority -5; policy accept;
{output}  }}
  chain forward {{
    type filter hook forward priority -5; policy accept;
    iifname {ours} ip saddr != {network} drop
    iifname {ours} oifname "stk*" drop
    iifname {ours} meta nfproto ipv6 drop
    iifname {ours} ip daddr {{ {", ".join(DENIED)} }} drop
    iifname {ours} accept
    oifname {ours} ct state established,related accept
    oifname {ours} drop
{last}  }}
  chain postrouting {{
    type nat hook postrouting priority 100; policy accept;
    ip saddr {network} oifname != "stk*" masquerade
  }}
}}
"""
