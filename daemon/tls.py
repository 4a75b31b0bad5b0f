"""TLS of the TCP listener: certificate and key from files, read again when told to; and a socket that speaks it.

`TlsSocket` looks like a non-blocking socket to `daemon.http.connection`: what has to wait raises BlockingIOError. It
works on OpenSSL's memory buffers, so that nothing is left in OpenSSL that the kernel's readiness does not tell of.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from pathlib import Path

__all__ = ["TlsError", "TlsFiles", "TlsSocket"]

RECORD_BYTES = 64 * 2**10
"""Plain text that is encrypted at once; what the kernel does not take of that waits here."""
HANDSHAKE_RECV_BYTES = 16 * 2**10


class TlsError(Exception):
    """Certificate and key cannot be used; the text says why."""


class TlsFiles:
    """The certificate chain and key of the listener."""

    def __init__(self, certificate: str, key: str) -> None:
        """Read the files. Raises TlsError."""
        self._certificate = Path(certificate).expanduser()
        self._key = Path(key).expanduser()
        self.context = self._load()
        """For new connections; open ones keep theirs."""

    def reload(self) -> None:
        """Read the files again; on an error everything stays as it was.

        Raises:
          TlsError: they cannot be used.
        """
        self.context = self._load()

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
        context.set_alpn_protocols(["http/1.1"])
        for path in (self._certificate, self._key):
            try:
                path.open("rb").close()
            except OSError as exc:
                raise TlsError(
                    f"cannot read {path}: {exc.strerror}; http.tls_certificate and http.tls_key must name files that "
                    "the user of stokerd may read"
                ) from exc
        try:
            # Without the callback OpenSSL would ask for a passphrase on the terminal.
            context.load_cert_chain(self._certificate, self._key, password=_no_passphrase)
        except (ssl.SSLError, ValueError) as exc:
            reason = getattr(exc, "reason", None) or str(exc)
            raise TlsError(
                f"cannot use {self._certificate} with {self._key}: {reason}; both must be PEM, the key without a "
                "passphrase, and belong together"
            ) from exc
        return context


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase")


class TlsSocket:
    """The server's side of TLS on a connected, non-blocking socket."""

    __slots__ = ("_in", "_out", "_pending", "_sock", "_tls")

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self._sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._pending = b""
        """Encrypted bytes that the kernel has not taken yet."""

    @property
    def plain(self) -> socket.socket:
        """The socket underneath."""
        return self._sock

    def fileno(self) -> int:
        """Of the socket underneath."""
        return self._sock.fileno()

    def handshake(self) -> bool:
        """One step; True: done. After False, wait until there is something to read, and until `flush` says yes.

        Raises:
          OSError: it failed.
        """
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self.flush()
            self._fetch(HANDSHAKE_RECV_BYTES)
            return False
        finally:
            self.flush()
        return True

    def _fetch(self, size: int) -> bool:
        """Move encrypted bytes from the kernel to OpenSSL; False: the client has ended.

        Raises:
          BlockingIOError: there are none.
        """
        data = self._sock.recv(size)
        if not data:
            self._in.write_eof()
            return False
        self._in.write(data)
        return True

    def recv(self, size: int, flags: int = 0) -> bytes:
        """All plain text that can be had, some ``size`` bytes; b"" at the end, be it announced or not."""
        alive = self._fetch(size)
        data = self.received()
        self.flush()
        if not data and alive and not self._closed():
            raise BlockingIOError
        return data

    def received(self) -> bytes:
        """The plain text that is here already."""
        parts = []
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError, ssl.SSLEOFError):
            while part := self._tls.read(RECORD_BYTES):
                parts.append(part)
        return b"".join(parts)

    def _closed(self) -> bool:
        """Whether the client has said that nothing more comes."""
        try:
            self._tls.read(1)
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError:
            return True
        return True

    def send(self, data: bytes | memoryview) -> int:
        """Encrypt some of ``data`` and give it to the kernel; how much is taken care of.

        Raises:
          BlockingIOError: the kernel has not even taken what was sent before.
        """
        if not self.flush():
            raise BlockingIOError
        taken = self._tls.write(data[:RECORD_BYTES]) if data else 0
        self.flush()
        return taken

    def sendmsg(self, parts: tuple[bytes, ...]) -> int:
        """As `send`, of the first part."""
        return self.send(parts[0])

    def flush(self) -> bool:
        """Give the kernel what is encrypted; False: it does not take all of it now."""
        if self._out.pending:
            self._pending += self._out.read()
        try:
            while self._pending:
                self._pending = self._pending[self._sock.send(self._pending) :]
        except BlockingIOError:
            return False
        return True

    def shutdown(self, how: int) -> None:
        """Say that nothing more comes, as far as the kernel takes it, and close the writing side."""
        with contextlib.suppress(ssl.SSLError, ValueError):
            self._tls.unwrap()
        if self.flush():
            self._sock.shutdown(how)

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_WR)
        self._sock.close()
