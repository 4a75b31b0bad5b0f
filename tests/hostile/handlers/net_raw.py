"""Opens raw and packet sockets and odd families. Must happen: refused."""

import os
import socket

from kit import Report

FIRM = ("EPERM", "EACCES", "EAFNOSUPPORT", "EPROTONOSUPPORT", "ESOCKTNOSUPPORT", "ENOSYS", "EINVAL")
ODD = {"AX25": 3, "IPX": 4, "APPLETALK": 5, "X25": 9, "KEY": 15, "PACKET": 17, "RDS": 21, "LLC": 26, "CAN": 29, "TIPC": 30,
       "BLUETOOTH": 31, "RXRPC": 33, "ALG": 38, "NFC": 39, "VSOCK": 40, "KCM": 41, "QIPCRTR": 42, "SMC": 43, "XDP": 44}  # fmt: skip
NETLINKS = {"USERSOCK": 2, "SOCK_DIAG": 4, "NFLOG": 5, "XFRM": 6, "SELINUX": 7, "AUDIT": 9, "CONNECTOR": 11,
            "NETFILTER": 12, "KOBJECT_UEVENT": 15, "GENERIC": 16, "CRYPTO": 21}  # fmt: skip


def handler(ctx, data=None):
    report = Report(data)
    for family in (socket.AF_INET, socket.AF_INET6):
        for protocol in (1, 6, 17, 58, 255):
            report.refused("raw-socket", lambda f=family, p=protocol: open_one(f, socket.SOCK_RAW, p), *FIRM)
    for name, number in ODD.items():
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
            report.refused("odd-family", lambda n=number, k=kind: open_one(n, k, 0), *FIRM)
    for name, number in NETLINKS.items():
        report.refused("netlink", lambda n=number: open_one(socket.AF_NETLINK, socket.SOCK_RAW, n), *FIRM)
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):  # these must work: many programs make a pair
        left, right = socket.socketpair(socket.AF_UNIX, kind)
        left.send(b"x")
        right.recv(1)
        left.close()
        right.close()
    return report.reply()


def open_one(family, kind, protocol):
    fd = socket.socket(family, kind, protocol).detach()
    os.close(fd)
    return f"family {family}, kind {kind}, protocol {protocol}"
