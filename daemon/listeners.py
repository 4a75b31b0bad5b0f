"""The sockets to serve on: handed over by systemd, or opened here."""

from __future__ import annotations

import errno
import grp
import os
import signal
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from daemon import systemd
from daemon.auth.identity import LOCAL_GROUP
from daemon.config.settings import Config, exposure
from daemon.tls import TlsError, TlsFiles

SOCKET_PATH_BYTES_MAX = 107
"""sockaddr_un.sun_path less its NUL (unix(7))."""


BIND_CURES = {
    errno.EADDRINUSE: "is another stokerd running? --listen 127.0.0.1:0 picks a free port",
    errno.EADDRNOTAVAIL: "give an address of this machine with --listen",
    errno.EACCES: "ports below 1024 need root or CAP_NET_BIND_SERVICE; give a higher one with --listen",
}
"""What to do when the TCP listener cannot be had."""


class CannotServe(Exception):
    """The daemon cannot start; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """The sockets to serve on. ``inherited``: they live on when this process stops (socket activation)."""

    tcp: list[socket.socket]
    unix: list[socket.socket]
    inherited: bool
    tls: TlsFiles | None = None
    """For the TCP listeners."""

    @property
    def url(self) -> str:
        """Where clients find the TCP listener."""
        if not self.tcp:
            return f"unix:{self.unix[0].getsockname()}"
        host, port = self.tcp[0].getsockname()[:2]
        return f"{'https' if self.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


@contextmanager
def open_listeners(config: Config) -> Iterator[Listeners]:
    """The handed-over sockets, or new ones.

    Raises:
      CannotServe: an address cannot be bound, or certificate and key cannot be used.
    """
    tls = read_tls(config)
    try:
        given = systemd.listen_fds()
    except ValueError as exc:
        raise CannotServe(str(exc)) from exc
    if given:
        unix = [s for s in given if s.family == socket.AF_UNIX]
        tcp_given = [s for s in given if s.family != socket.AF_UNIX]
        for sock in tcp_given:
            if why := exposure(config, str(sock.getsockname()[0])):
                raise CannotServe(f"socket handed over: {why}")
        yield Listeners(tcp_given, unix, inherited=True, tls=tls)
        return
    path = socket_path(config)
    tcp = bind_tcp(config)
    unix_listener = bind_unix(path, config.http.backlog)
    try:
        yield Listeners([tcp], [unix_listener], inherited=False, tls=tls)
    finally:
        tcp.close()
        unix_listener.close()
        path.unlink(missing_ok=True)


def read_tls(config: Config) -> TlsFiles | None:
    """The certificate and key, if there are to be any.

    Raises:
      CannotServe: they cannot be used.
    """
    if not config.http.tls_certificate:
        return None
    try:
        return TlsFiles(config.http.tls_certificate, config.http.tls_key)
    except TlsError as exc:
        raise CannotServe(str(exc)) from exc


async def reload_on_hangup(
    tls: TlsFiles | None, *, log: Any, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """On SIGHUP read certificate and key again; new connections get them. Without TLS the signal does nothing."""
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            if tls is None:
                log.info("SIGHUP: nothing to read again without TLS")
                continue
            try:
                tls.reload()
                log.info("certificate and key were read again")
            except TlsError as exc:
                log.error("cannot read certificate and key again: the old ones stay", error=str(exc))


def socket_path(config: Config) -> Path:
    """Where the unix socket lives: as configured, else systemd's runtime directory, else the data directory."""
    if config.http.socket:
        return Path(config.http.socket).expanduser().absolute()
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return (Path(runtime) if runtime else config.data) / "stoker.sock"


def bind_tcp(config: Config) -> socket.socket:
    """A listening TCP socket.

    Raises:
      CannotServe: the address is taken or not ours.
    """
    host, _, port = config.http.listen.rpartition(":")
    host = host.strip("[]")
    try:
        infos = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, proto, _, address = infos[0]
        sock = socket.socket(family, kind, proto)
    except OSError as exc:
        raise CannotServe(
            f"cannot listen on {config.http.listen}: {exc.strerror}; give an address of this machine with --listen"
        ) from exc
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(config.http.backlog)
    except OSError as exc:
        sock.close()
        hint = BIND_CURES.get(exc.errno or 0, "give another address with --listen")
        raise CannotServe(f"cannot listen on {config.http.listen}: {exc.strerror}; {hint}") from exc
    return sock


def bind_unix(path: Path, backlog: int) -> socket.socket:
    """A listening unix socket, for this user and the group ``stoker`` (where it exists and we may give the socket to
    it, else our own group) only. A stale one, that nobody listens on, is replaced.

    Raises:
      CannotServe: the path is too long, taken, or not writable.
    """
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise CannotServe(
            f"cannot listen on {path}: {len(os.fsencode(path))} bytes, the kernel allows {SOCKET_PATH_BYTES_MAX}; "
            "give a shorter one with --socket"
        )
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            if not stat.S_ISSOCK(path.stat().st_mode):
                raise CannotServe(
                    f"cannot listen on {path}: something else than a socket is there; move it away, or give another "
                    "path with --socket"
                )
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(str(path)) == 0:
                    raise CannotServe(
                        f"cannot listen on {path}: another daemon does; stop that one, or give another with --socket"
                    )
            path.unlink()
        old = os.umask(0o117)  # the socket must never be there with wider rights, not even for a moment
        try:
            sock.bind(str(path))
        finally:
            os.umask(old)
        with suppress(KeyError, PermissionError):
            os.chown(path, -1, grp.getgrnam(LOCAL_GROUP).gr_gid)
        sock.listen(backlog)
    except OSError as exc:
        sock.close()
        raise CannotServe(f"cannot listen on {path}: {exc.strerror}; give another path with --socket") from exc
    except CannotServe:
        sock.close()
        raise
    return sock
