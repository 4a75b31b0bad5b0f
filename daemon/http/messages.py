"""What passes between the front door and an endpoint: a whole request, a whole reply, who is at the other end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from daemon.auth.permissions import ANYBODY, Principal
from daemon.errors import StokerError
from daemon.http import views

Headers = list[tuple[str, str]]
"""Names and values in the order received; a name may come more than once. Latin-1 text, as HTTP has it."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection."""

    unix: bool
    """True: it came through the unix socket."""
    uid: int | None = None
    """The user of the process that connected (SO_PEERCRED); None for TCP."""
    address: str = ""
    """Its IP address; empty for a unix socket."""
    groups: tuple[int, ...] = ()
    """The groups of the process that connected (SO_PEERGROUPS and its own); empty for TCP."""
    tls: bool = False
    """True: what is said is encrypted."""


@dataclass(slots=True)
class Request:
    """One whole request, body included, that has passed every check of framing and of Host and Origin."""

    method: str
    target: bytes
    """As received: path and query, percent-encoded."""
    headers: Headers
    """Names in lower case, values stripped. Host and the framing headers are among them."""
    body: bytes
    host: str
    """The Host header; empty when an HTTP/1.0 client sent none."""
    peer: Peer
    principal: Principal = ANYBODY
    """Who asks; in open mode nobody is asked."""

    @property
    def path(self) -> str:
        """The path percent-decoded, without the query. Bytes that are not UTF-8 become U+FFFD."""
        return decoded_path(self.target)


@dataclass(slots=True)
class Reply:
    """One whole reply. The front door adds Date, Content-Length and Connection; ``headers`` must not hold them."""

    status: int
    headers: Headers
    body: bytes = b""


Endpoint = Callable[[Request], Awaitable[Reply]]
"""Answers a request, or raises a StokerError. It is cancelled when the client leaves."""
Route = Callable[[str, bytes], Endpoint | None]
"""Method and target to the endpoint of the data plane, or None: the control plane's."""


def decoded_path(target: bytes) -> str:
    """The path of a request target, percent-decoded, without the query."""
    path, _, _ = target.partition(b"?")
    return (unquote_to_bytes(path) if b"%" in path else path).decode("utf-8", "replace")


def error_reply(error: StokerError) -> Reply:
    """An error as the client sees it: Fn's JSON, Fn-Call-Id when there was a call, Retry-After when it may help."""
    reply = views.error_reply(error)
    return Reply(reply.status, [("Content-Type", views.JSON_TYPE), *reply.headers], reply.encode())
