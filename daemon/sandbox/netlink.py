"""The few rtnetlink requests that a function's network needs (rtnetlink(7)), in the present or another namespace.

By hand, because a library for it takes 250 ms to import, and ``ip`` is a program that a machine may lack.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWADDR, _GETADDR = 20, 22
_NEWROUTE, _GETROUTE = 24, 26
_REQUEST, _ACK, _DUMP, _EXCL, _CREATE = 1, 4, 0x300, 0x200, 0x400
_ERROR, _DONE = 2, 3
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 1, 3, 18, 28
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_IFF_UP = 1
_SCOPE_LINK, _TABLE_MAIN, _PROTOCOL_STATIC, _UNICAST = 253, 254, 4, 1
_CLONE_NEWNET = 0x40000000
_RECEIVE_BYTES = 65536
TIMEOUT_S = 5.0
"""How long the kernel may take to answer one request."""

_libc = ctypes.CDLL(None, use_errno=True)


class Netlink:
    """A connection to the kernel's network of the namespace in which it is made; stays with that namespace."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)  # NETLINK_ROUTE
        self._sock.settimeout(TIMEOUT_S)
        self._sock.bind((0, 0))
        self._number = 0

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    def links(self) -> dict[str, int]:
        """Name -> index of every device."""
        found = {}
        for body in self._request(_GETLINK, _DUMP, _link(0)):
            index = struct.unpack_from("=i", body, 4)[0]
            name = _attributes(body[16:]).get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
            found[name] = index
        return found

    def addresses(self) -> list[str]:
        """Every IPv4 address of the namespace."""
        found = []
        for body in self._request(_GETADDR, _DUMP, struct.pack("=BBBBi", socket.AF_INET, 0, 0, 0, 0)):
            attributes = _attributes(body[8:])
            raw = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
            if body[0] == socket.AF_INET and raw:
                found.append(socket.inet_ntoa(raw))
        return found

    def networks(self) -> list[str]:
        """Destinations of the IPv4 routes of the main table, but for the default one."""
        found = []
        header = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)
        for body in self._request(_GETROUTE, _DUMP, header):
            family, bits, _, _, table = struct.unpack_from("=BBBBB", body)
            destination = _attributes(body[12:]).get(_RTA_DST)
            if family == socket.AF_INET and table == _TABLE_MAIN and destination:
                found.append(f"{socket.inet_ntoa(destination)}/{bits}")
        return found

    def add_veth(self, name: str, peer: str, peer_namespace: int) -> None:
        """A virtual cable: one end here, the other in the namespace of the descriptor.

        Raises:
          OSError: not allowed, or a name is taken.
        """
        other = _link(0) + _attribute(_IFLA_IFNAME, peer.encode() + b"\0")
        other += _attribute(_IFLA_NET_NS_FD, struct.pack("=I", peer_namespace))
        data = _attribute(_INFO_KIND, b"veth\0") + _attribute(_INFO_DATA, _attribute(_VETH_PEER, other))
        body = _link(0) + _attribute(_IFLA_IFNAME, name.encode() + b"\0") + _attribute(_IFLA_LINKINFO, data)
        self._request(_NEWLINK, _CREATE | _EXCL, body)

    def up(self, name: str) -> int:
        """Switch a device on; its index.

        Raises:
          OSError: not allowed, or there is no such device.
        """
        index = self.links().get(name)
        if index is None:
            raise OSError(errno.ENODEV, f"no device {name}")
        self._request(_NEWLINK, 0, _link(index, flags=_IFF_UP, change=_IFF_UP))
        return index

    def remove(self, name: str) -> None:
        """Remove a device, and with a cable's end the other; nothing when it is gone.

        Raises:
          OSError: not allowed.
        """
        body = _link(0) + _attribute(_IFLA_IFNAME, name.encode() + b"\0")
        try:
            self._request(_DELLINK, 0, body)
        except OSError as exc:
            if exc.errno != errno.ENODEV:
                raise

    def add_address(self, index: int, address: str, *, bits: int = 32) -> None:
        """Give a device an IPv4 address.

        Raises:
          OSError: not allowed, or it has that one.
        """
        raw = socket.inet_aton(address)
        body = struct.pack("=BBBBi", socket.AF_INET, bits, 0, 0, index)
        body += _attribute(_IFA_LOCAL, raw) + _attribute(_IFA_ADDRESS, raw)
        self._request(_NEWADDR, _CREATE | _EXCL, body)

    def add_route(self, index: int, destination: str = "", *, gateway: str = "") -> None:
        """A route to one address (empty: to everything) through the device, perhaps by way of a gateway.

        Raises:
          OSError: not allowed, or it is there.
        """
        bits, scope = (32 if destination else 0), (0 if gateway else _SCOPE_LINK)
        body = struct.pack(
            "=BBBBBBBBI", socket.AF_INET, bits, 0, 0, _TABLE_MAIN, _PROTOCOL_STATIC, scope, _UNICAST, 0
        )  # fmt: skip
        body += _attribute(_RTA_DST, socket.inet_aton(destination)) if destination else b""
        body += _attribute(_RTA_GATEWAY, socket.inet_aton(gateway)) if gateway else b""
        self._request(_NEWROUTE, _CREATE | _EXCL, body + _attribute(_RTA_OIF, struct.pack("=i", index)))

    def _request(self, kind: int, flags: int, body: bytes) -> list[bytes]:
        """Send one request; the bodies of the answers.

        Raises:
          OSError: the kernel's error.
        """
        self._number += 1
        flags |= _REQUEST | (0 if flags & _DUMP == _DUMP else _ACK)
        self._sock.send(struct.pack("=IHHII", 16 + len(body), kind, flags, self._number, 0) + body)
        answers: list[bytes] = []
        while True:
            for answer, number, content in _messages(self._sock.recv(_RECEIVE_BYTES)):
                if number != self._number:
                    continue
                if answer == _ERROR:
                    code = -struct.unpack_from("=i", content)[0]
                    if code:
                        raise OSError(code, f"rtnetlink: {os.strerror(code)}")
                    return answers
                if answer == _DONE:
                    return answers
                answers.append(content)


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    while len(data) >= 16:
        length, kind, _, number, _ = struct.unpack_from("=IHHII", data)
        if not 16 <= length <= len(data):
            return
        yield kind, number, data[16:length]
        data = data[(length + 3) & ~3 :]


def _attribute(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + b"\0" * (-length % 4)


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if not 4 <= length <= len(data):
            break
        found[kind & 0x3FFF] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


def _link(index: int, *, flags: int = 0, change: int = 0) -> bytes:
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, flags, change)


def inside(namespace: int, work: Callable[[], T]) -> T:
    """Run ``work`` in the network namespace of the descriptor: in a thread of its own, which ends with it.

    What it starts is in there too. Needs root's privileges. Blocks: not for the event loop.

    Raises:
      OSError: not allowed; or what ``work`` raises.
    """
    result: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            if _libc.setns(namespace, _CLONE_NEWNET) != 0:
                code = ctypes.get_errno()
                raise OSError(code, f"setns: {os.strerror(code)}")
            result.append(work())
        except BaseException as exc:
            failure.append(exc)

    thread = threading.Thread(target=run, name="network")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


@contextmanager
def here() -> Iterator[int]:
    """A descriptor of the calling thread's network namespace."""
    fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def in_new(work: Callable[[Netlink], T]) -> T:
    """Run ``work(connection to the present namespace)`` in a new network namespace, which then goes. As `inside`.

    Raises:
      OSError: not allowed; or what ``work`` raises.
    """
    with Netlink() as outside:

        def enter() -> T:
            if _libc.unshare(_CLONE_NEWNET) != 0:
                code = ctypes.get_errno()
                raise OSError(code, f"unshare: {os.strerror(code)}")
            return work(outside)

        with here() as present:
            return inside(present, enter)
