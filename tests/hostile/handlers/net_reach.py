"""Connects to the daemon's ports and sockets, to the host's loopback, to metadata addresses. Must happen: unreachable."""

import os
import socket

from kit import Report


def handler(ctx, data=None):
    report = Report(data)
    told = report.told
    for port in told["ports"]:
        for host in told["hosts"]:
            report.refused("reached-host", lambda h=host, p=port: connect(h, p))
    for path in told["sockets"]:
        report.refused("reached-socket", lambda p=path: connect_unix(p))
    for name in told["abstract"]:
        report.refused("reached-abstract", lambda n=name: connect_unix("\0" + n))
    for host in ("169.254.169.254", "fd00:ec2::254", "fe80::1"):
        report.refused("reached-metadata", lambda h=host: connect(h, 80))
    for port in told["datagram_ports"]:
        # A datagram has no answer: the tests look whether it came.
        for host in told["hosts"]:
            try:
                with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    sock.sendto(b"hostile", (host, port))
            except OSError as exc:
                report.facts[f"datagram to {host}"] = str(exc)
    if "bind" in told:  # may serve itself, but on no port of the host's
        try:
            with socket.socket() as sock:
                sock.bind(("0.0.0.0", told["bind"]))
                sock.listen()
                report.facts["bound"] = told["bind"]
        except OSError as exc:
            report.facts["bind"] = str(exc)
    try:
        report.facts["interfaces"] = [name for _, name in socket.if_nameindex()]
    except OSError as exc:
        report.facts["interfaces"] = str(exc)
    return report.reply()


def connect(host, port):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.settimeout(0.5)
        sock.connect((host, port))
        sock.sendall(b"GET /v2/apps HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return f"{host}:{port}: {sock.recv(60)!r}"


def connect_unix(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(0.5)
        sock.connect(os.fsencode(path) if not path.startswith("\0") else path)
        return path
