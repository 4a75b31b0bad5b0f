"""Requests to the daemon over TCP or a unix socket, with the standard library's HTTP client.

Where the daemon is: ``--url``, ``STOKER_URL``, ``FN_API_URL``, the unix socket ``STOKER_SOCKET``, or the current
context of ``fn`` (see `cli.contexts`); else the first unix socket that exists of
``$XDG_RUNTIME_DIR/stoker/stoker.sock``, ``/run/stoker/stoker.sock``, ``./.stoker/stoker.sock``; else
``http://127.0.0.1:8080``.
A token in ``STOKER_TOKEN`` or ``FN_TOKEN`` goes along over TCP; the unix socket knows its clients by themselves.
"""

from __future__ import annotations

import os
import socket
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from cli import __version__
from cli.errors import CliError, Unreachable

if TYPE_CHECKING:
    import http.client

DEFAULT_URL = "http://127.0.0.1:8080"
CONNECT_S = 5.0
"""Longest time for a connection to be made: the daemon is on this machine or near it."""
REPLY_S = 330.0
"""Longest silence of the daemon within a management request: a deploy waits for its canary and floor."""
CALL_S = 3900.0
"""Longest silence within a call: queue, start and the longest timeout (3600 s) of a function."""
KEPT_S = 5.0
"""A connection idle for longer is not used again: the daemon may be about to close it."""
REPLY_BYTES_MAX = 64 * 2**20
"""Largest reply that is read into memory."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the daemon is."""

    scheme: str
    """``http``, ``https`` or ``unix``."""
    host: str = "localhost"
    port: int = 0
    socket: str = ""
    prefix: str = ""
    tried: tuple[str, ...] = ()
    """Sockets that were looked for in vain; only for the message when nothing answers."""

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix:{self.socket}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.prefix}"


def parse_url(url: str, *, source: str) -> Endpoint:
    """The endpoint that ``url`` names: ``http[s]://host[:port][/prefix]``, ``host:port``, ``unix:/path``.

    Raises:
      CliError: anything else.
    """
    if url.startswith("unix:"):
        path = url.removeprefix("unix:")
        path = "/" + path.lstrip("/") if path.startswith("//") else path
        return Endpoint("unix", socket=path)
    parts = None
    host, port = None, None
    with suppress(ValueError):
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    if parts is None or parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise CliError(
            f"{source}: {url!r} is not an address of a daemon",
            hint="use http://HOST:PORT, https://HOST:PORT or unix:/PATH/TO/stoker.sock",
        )
    default_port = 443 if parts.scheme == "https" else (8080 if "://" not in url else 80)
    return Endpoint(parts.scheme, host, port or default_port, prefix=parts.path.rstrip("/"))


def find_endpoint(url: str | None, environ: Mapping[str, str]) -> Endpoint:
    """Where the daemon is, by the order in this module's docstring."""
    if url:
        return parse_url(url, source="--url")
    for name in ("STOKER_URL", "FN_API_URL"):
        if environ.get(name):
            return parse_url(environ[name], source=name)
    if environ.get("STOKER_SOCKET"):
        return Endpoint("unix", socket=environ["STOKER_SOCKET"])
    from cli import contexts

    if named := contexts.api_url(environ):
        return parse_url(named, source=f"the context {contexts.current(environ).name} of fn")
    candidates = ["/run/stoker/stoker.sock", os.path.join(os.getcwd(), ".stoker", "stoker.sock")]
    if environ.get("XDG_RUNTIME_DIR"):
        candidates.insert(0, os.path.join(environ["XDG_RUNTIME_DIR"], "stoker", "stoker.sock"))
    for path in candidates:
        if _usable(path):
            return Endpoint("unix", socket=path)
    found = parse_url(DEFAULT_URL, source="default")
    return Endpoint("http", found.host, found.port, tried=tuple(candidates))


def _usable(path: str) -> bool:
    """Whether a socket of ours or of root's is there, and somebody listens (or we may not ask)."""
    try:
        info = os.stat(path)
    except OSError:
        return False
    # Another user's socket in a directory that we merely stand in must not get our code.
    if not stat.S_ISSOCK(info.st_mode) or info.st_uid not in (0, os.geteuid(), _owner(path)):
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(CONNECT_S)
        try:
            probe.connect(path)
        except PermissionError:
            return True  # it is the daemon's; the request will say what is missing
        except OSError:
            return False  # left behind by a daemon that is gone
    return True


def _owner(path: str) -> int:
    """The uid of the system service's own user, for its own directory only."""
    return os.stat(path).st_uid if path.startswith("/run/stoker/") else 0


@dataclass(slots=True)
class Reply:
    """A whole reply. ``headers`` keep the server's order; look one up with ``header``."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""

    def header(self, name: str) -> str:
        """The first value of a header, or the empty string."""
        return next((v for k, v in self.headers if k.lower() == name.lower()), "")


@dataclass(slots=True)
class Transport:
    """Connections to one endpoint; the last one is kept and used again."""

    endpoint: Endpoint
    _kept: http.client.HTTPConnection | None = field(default=None, init=False)
    _used_since_s: float = field(default=0.0, init=False)

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Iterable[tuple[str, str]] = (),
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | Iterator[bytes] = b"",
        length: int | None = None,
        timeout_s: float = REPLY_S,
        fresh: bool = False,
    ) -> Reply:
        """Send one request and read the whole reply. ``length`` is needed with an iterator as the body.

        ``fresh`` uses a connection of its own.

        Raises:
          Unreachable: nobody listens, or the connection broke.
          CliError: no answer in time, or a reply over ``REPLY_BYTES_MAX``.
        """
        if self._kept is not None and time.monotonic() - self._used_since_s > KEPT_S:
            self.close()
        with _explained(self.endpoint, timeout_s):
            connection = connect(self.endpoint) if fresh or self._kept is None else self._kept
            self._kept = self._kept if fresh else connection
            try:
                self._send(connection, method, self._target(path, query), headers, body, length, timeout_s)
                response = connection.getresponse()
                data = response.read(REPLY_BYTES_MAX + 1)
            except BaseException:
                connection.close()
                self._kept = None
                raise
            self._used_since_s = time.monotonic()
            if fresh:
                connection.close()
        if len(data) > REPLY_BYTES_MAX:
            raise CliError(f"the reply of {self.endpoint} is over {REPLY_BYTES_MAX // 2**20} MiB")
        return Reply(response.status, response.getheaders(), data)

    def lines(
        self, path: str, *, query: Iterable[tuple[str, str]] = (), timeout_s: float | None = REPLY_S,
        method: str = "GET",
    ) -> Lines:  # fmt: skip
        """A reply that comes line by line, on a connection of its own. ``timeout_s`` None: wait for ever."""
        with _explained(self.endpoint, timeout_s or 0):
            connection = connect(self.endpoint)
            self._send(connection, method, self._target(path, query), (), b"", None, timeout_s)
            response = connection.getresponse()
            head = Reply(response.status, response.getheaders())
            if response.status >= 400:
                head.body = response.read(REPLY_BYTES_MAX)
        return Lines(head, response, connection, self.endpoint)

    def close(self) -> None:
        """Close the kept connection."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _target(self, path: str, query: Iterable[tuple[str, str]]) -> str:
        pairs = list(query)
        quoted = quote(path, safe="/:@!$&'()*+,;=-._~%")
        return self.endpoint.prefix + quoted + ("?" + urlencode(pairs) if pairs else "")

    @staticmethod
    def _send(
        connection: http.client.HTTPConnection,
        method: str,
        target: str,
        headers: Iterable[tuple[str, str]],
        body: bytes | Iterator[bytes],
        length: int | None,
        timeout_s: float | None,
    ) -> None:
        given = list(headers)
        connection.putrequest(method, target, skip_accept_encoding=True)
        if "user-agent" not in {name.lower() for name, _ in given}:
            connection.putheader("User-Agent", f"stoker/{__version__}")
        for name, value in given:
            connection.putheader(name, value)
        token = os.environ.get("STOKER_TOKEN") or os.environ.get("FN_TOKEN")
        if (
            token
            and getattr(connection.sock, "family", None) != socket.AF_UNIX
            and "authorization" not in {n.lower() for n, _ in given}
        ):
            connection.putheader("Authorization", f"Bearer {token}")
        size = len(body) if isinstance(body, bytes) else length
        if size or method in ("POST", "PUT"):
            connection.putheader("Content-Length", str(size or 0))
        connection.sock.settimeout(timeout_s)
        connection.endheaders()
        try:
            for chunk in (body,) if isinstance(body, bytes) else body:
                connection.send(chunk)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before it was all sent: the reply says why


class Lines:
    """The reply to ``Transport.lines``: ``reply`` is its head, with the body of an error; iterate for lines."""

    def __init__(
        self,
        reply: Reply,
        response: http.client.HTTPResponse,
        connection: http.client.HTTPConnection,
        endpoint: Endpoint,
    ) -> None:
        self.reply = reply
        self._response = response
        self._connection = connection
        self._endpoint = endpoint

    def __iter__(self) -> Iterator[bytes]:
        try:
            while True:
                with _explained(self._endpoint, 0):
                    line = self._response.readline()
                if not line:
                    return
                yield line
        finally:
            self._connection.close()


def connect(endpoint: Endpoint) -> http.client.HTTPConnection:
    """An open connection. ``OSError`` when there is none to be had."""
    http_client = _http_client(tls=endpoint.scheme == "https")
    if endpoint.scheme == "https":
        connection: http.client.HTTPConnection = http_client.HTTPSConnection(
            endpoint.host, endpoint.port, timeout=CONNECT_S)  # fmt: skip
        connection.connect()
        return connection
    if endpoint.scheme == "http":
        connection = http_client.HTTPConnection(endpoint.host, endpoint.port, timeout=CONNECT_S)
        connection.connect()
        return connection
    connection = http_client.HTTPConnection("localhost", timeout=CONNECT_S)
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(CONNECT_S)
        sock.connect(endpoint.socket)
    except BaseException:
        sock.close()
        raise
    connection.sock = sock
    return connection


def _http_client(*, tls: bool) -> Any:
    """``http.client``, without OpenSSL unless the address needs it: loading that costs more than a whole request."""
    if not tls and "http.client" not in sys.modules and "ssl" not in sys.modules:
        sys.modules["ssl"] = None  # type: ignore[assignment]  # http.client does without ssl where the build has none
        try:
            import http.client
        finally:
            del sys.modules["ssl"]
    import http.client

    if tls and not hasattr(http.client, "HTTPSConnection"):
        raise CliError("this Python has no TLS", hint="use an http:// or unix: address")
    return http.client


class _explained:
    """Turns what sockets and ``http.client`` raise into errors that say what to do."""

    def __init__(self, endpoint: Endpoint, timeout_s: float) -> None:
        self._endpoint = endpoint
        self._timeout_s = timeout_s

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        if exc is None or isinstance(exc, CliError):
            return
        if isinstance(exc, TimeoutError):
            raise CliError(f"no answer from {self._endpoint} within {self._timeout_s:g} s") from exc
        if isinstance(exc, OSError):
            raise unreachable(self._endpoint, exc) from exc
        if type(exc).__module__ == "http.client":
            raise Unreachable(
                f"{self._endpoint} does not speak HTTP as the daemon does: {type(exc).__name__} {exc}".rstrip(),
                hint="check the address (--url, STOKER_URL, FN_API_URL)",
            ) from exc


def unreachable(endpoint: Endpoint, exc: OSError) -> Unreachable:
    """Why the daemon cannot be reached, and what to type."""
    why = exc.strerror or str(exc) or type(exc).__name__
    start = "start it with 'stokerd --data ./.stoker', or name another with --url or STOKER_URL"
    if isinstance(exc, PermissionError) and endpoint.scheme == "unix":
        return Unreachable(
            f"cannot reach the daemon at {endpoint}: {why}",
            hint=f"you may not open that socket: see 'ls -l {endpoint.socket}' for its group, or use --url",
        )
    where = f" (no socket at {', '.join(endpoint.tried)} either)" if endpoint.tried else ""
    return Unreachable(f"cannot reach the daemon at {endpoint}: {why}{where}", hint=start)
