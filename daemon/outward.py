"""Where the daemon connects to for its tenants: not to itself, nor to what only this machine can reach.

In ``auth.mode: iam`` whoever may change a function or an application chooses addresses that the daemon, perhaps root,
then connects to (destinations, syslog). Functions themselves are kept from this machine and from link-local addresses
by their network (`daemon.core.network`); the daemon must not be their way around that.
"""

from __future__ import annotations

import ipaddress
import socket

import trio

__all__ = ["Inward", "addresses", "open_stream"]


_REFUSED = (ipaddress.ip_network("0.0.0.0/8"), ipaddress.ip_network("240.0.0.0/4"))
_METADATA_V6 = tuple(map(ipaddress.ip_network, ("fd00:ec2::/32", "fd00:c1::/32", "fd20:ce::/32")))
"""Where clouds (Amazon, Oracle, Google) serve a machine's secrets over IPv6; over IPv4 it is a link-local address."""


class Inward(OSError):
    """The name means an address of this machine or of its link alone."""

    def __init__(self, host: str) -> None:
        super().__init__(f"{host} is this machine or reached from it alone: not allowed in auth.mode iam")


def is_inward(address: str) -> bool:
    """Whether an IP address is this machine's, or link-local (metadata of clouds), or not that of one host."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.sixtofour is not None or found.teredo is not None:
            return True  # an IPv4 address in disguise, by relays that are gone
        found = found.ipv4_mapped or found
    if found.is_loopback or found.is_link_local or found.is_unspecified or found.is_multicast or found.is_reserved:
        return True
    nets = _REFUSED if found.version == 4 else _METADATA_V6
    return any(found in net for net in nets) or _is_own(found)


def _is_own(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """What this machine sends to an address of its own, it sends from that address. Nothing is sent here."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((str(address), 9))
            return ipaddress.ip_address(sock.getsockname()[0]) == address
    except OSError:
        return False  # no way there


async def addresses(host: str, port: int, kind: socket.SocketKind) -> list[tuple[int, str]]:
    """Families and IP addresses of a host that may be connected to.

    Raises:
      Inward: one of them is this machine's or its link's. All must be good: names can mean several, by turns.
      OSError: the name cannot be looked up.
    """
    found = await trio.socket.getaddrinfo(host, port, type=kind)
    known = list(dict.fromkeys((int(family), str(address[0])) for family, _, _, _, address in found))
    if not known or any(is_inward(address) for _, address in known):
        raise Inward(host)
    return known


async def open_stream(host: str, port: int) -> trio.SocketStream:
    """Connect to a host outside of this machine, at the very address that was looked at.

    Raises:
      Inward: it is not outside.
      OSError: it cannot be reached.
    """
    failure: OSError | None = None
    for _, address in await addresses(host, port, socket.SOCK_STREAM):
        try:
            return await trio.open_tcp_stream(address, port)
        except OSError as exc:
            failure = exc
    assert failure is not None, "there is at least one address"
    raise failure
