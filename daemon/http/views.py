"""The control plane without a framework: a request, a reply, a row of a table of routes, the model as JSON.

The forms of apps, functions and triggers have exactly the members of the Fn server, left out where it leaves
them out (reference fn-contract 1.2 to 1.4 and 1.8). ``provisioned_concurrency`` and ``compartment_id`` are ours, there
only when set.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from daemon.auth.permissions import ANYBODY, Permission, Principal
from daemon.errors import StokerError
from daemon.model import App, Function, Trigger

FN_ENDPOINT = "fnproject.io/fn/invokeEndpoint"
TRIGGER_ENDPOINT = "fnproject.io/trigger/httpEndpoint"
JSON_TYPE = "application/json; charset=utf-8"
TEXT_TYPE = "text/plain; charset=utf-8"
HTML_TYPE = "text/html; charset=utf-8"


class Access:
    """What the sender of a request may do, for handlers that show a part of a list or touch a second thing.

    This one, of open mode, allows everything; `daemon.http.authorise` has the other.
    """

    def may(self, permission: Permission, value: str = "") -> bool:
        """Whether he has this permission for the thing with this id; ``permission.at`` says what kind of thing."""
        return True

    def require(self, permission: Permission, value: str = "") -> None:
        """Raises NotFound when `may` says no."""


EVERYTHING = Access()


@dataclass(slots=True, kw_only=True)
class ApiRequest:
    """A request of the control plane, routed or still to be routed."""

    method: str
    path: str
    """Percent-decoded, without the query."""
    params: dict[str, str] = field(default_factory=dict)
    """What the route's placeholders matched; filled in by the router."""
    query: dict[str, list[str]] = field(default_factory=dict)
    """Decoded; a name may come more than once."""
    query_string: str = ""
    """As received, without the ``?``; for redirects."""
    headers: dict[str, str] = field(default_factory=dict)
    """Lower-case names."""
    body: bytes = b""
    """The whole body; empty for a route that streams."""
    chunks: AsyncIterable[bytes] | None = None
    """The body piece by piece, for a route with ``streams``."""
    base_url: str = "http://127.0.0.1:8080"
    """Scheme and host for endpoint URLs, no trailing slash: ``http.public_url`` or from the Host header."""
    peer: Any = None
    """Who is at the other end (``frontdoor.Peer``), where known."""
    principal: Principal = ANYBODY
    """Who asks; in open mode nobody is asked."""
    access: Access = EVERYTHING
    """What the principal may do."""
    session: str = ""
    """The secret of the console's session that the principal is known by."""
    target: bytes = b""
    """Path and query as received: what a signature is over."""
    raw_headers: list[tuple[str, str]] = field(default_factory=list)
    """As received, with what came more than once; lower-case names."""

    def first(self, name: str, default: str = "") -> str:
        """The first value of a query parameter."""
        values = self.query.get(name)
        return values[0] if values else default


@dataclass(slots=True, kw_only=True)
class ApiReply:
    """What goes back: a JSON value, text, or a stream of bytes."""

    status: int = 200
    body: Any = None
    """A JSON value; a ``str`` is sent as it is with ``content_type``; None: no body."""
    headers: list[tuple[str, str]] = field(default_factory=list)
    content_type: str | None = None
    """None: JSON for a JSON body, nothing for no body."""
    stream: AsyncIterable[bytes] | None = None
    newline: bool = False
    """End the JSON with a line feed, as Fn does for errors."""

    def type(self) -> str | None:
        """The Content-Type to send, or None."""
        if self.content_type is not None:
            return self.content_type
        return JSON_TYPE if self.body is not None else None

    def encode(self) -> bytes:
        """The body's bytes; compact JSON. Not for a stream."""
        if self.body is None:
            return b""
        if isinstance(self.body, str):
            return self.body.encode()
        return json_bytes(self.body) + (b"\n" if self.newline else b"")


Handler = Callable[[Any, ApiRequest], Awaitable[ApiReply]]


@dataclass(frozen=True, slots=True)
class Route:
    """One row: which requests, who answers, and what one must be allowed to do.

    ``path`` has placeholders: ``{name}`` matches one segment, ``{name:path}`` any characters, slashes too.
    """

    method: str
    path: str
    handler: Handler
    permission: Permission
    streams: bool = False
    """True: the body is not read; the handler takes it from ``request.chunks``."""
    errors: Callable[[StokerError], ApiReply] | None = None
    """How errors of this row are told, those of the gate before it too; None: as Fn does."""
    carries_bundle: bool = False
    """True: the body may be as large as a bundle in base64 (`daemon.http.app`)."""


def error_reply(error: StokerError) -> ApiReply:
    """Any error as a reply: Fn's ``message``, our ``code``, what happened here as ``detail``."""
    headers = [("Retry-After", str(error.retry_after_s))] if error.retry_after_s is not None else []
    if error.status == 401:  # RFC 9110 section 15.5.2
        headers.append(("WWW-Authenticate", 'Signature realm="stoker", Bearer realm="stoker"'))
    if error.call_id:
        headers.append(("Fn-Call-Id", error.call_id))
    return ApiReply(status=error.status, body=error.to_json(), headers=headers, newline=True)


def json_bytes(value: Any) -> bytes:
    """Compact JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def rfc3339(at_ms: int) -> str:
    """Milliseconds since the epoch as RFC 3339 in UTC with three decimals (fn: api/common/time.go)."""
    whole = datetime.fromtimestamp(at_ms // 1000, UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{at_ms % 1000:03d}Z"


def app_form(app: App) -> dict[str, Any]:
    """An app as Fn shows it: empty members are left out."""
    form: dict[str, Any] = {"id": app.id, "name": app.name}
    if app.compartment_id:
        form["compartment_id"] = app.compartment_id
    if app.config:
        form["config"] = dict(app.config)
    if app.annotations:
        form["annotations"] = dict(app.annotations)
    if app.syslog_url:
        form["syslog_url"] = app.syslog_url
    if app.shape:
        form["shape"] = app.shape
    form["created_at"] = rfc3339(app.created_at)
    form["updated_at"] = rfc3339(app.updated_at)
    return form


def function_form(function: Function, base_url: str, *, created: bool = False) -> dict[str, Any]:
    """A function as Fn shows it. An empty ``config`` is ``{}`` in the reply to its creation, null after."""
    live = function.live
    empty: dict[str, str] | None = {} if created else None
    annotations = dict(function.annotations)
    annotations[FN_ENDPOINT] = f"{base_url}/invoke/{function.id}"
    form: dict[str, Any] = {
        "id": function.id,
        "name": function.name,
        "app_id": function.app_id,
        "image": live.image,
        "memory": live.memory_mib,
        "timeout": live.timeout_s,
        "idle_timeout": live.idle_timeout_s,
        "config": dict(live.config) or empty,
        "annotations": annotations,
    }
    if function.shape:
        form["shape"] = function.shape
    if function.pcu_count:
        form["provisioned_concurrency"] = {"strategy": "CONSTANT", "count": function.pcu_count}
    form["created_at"] = rfc3339(function.created_at)
    form["updated_at"] = rfc3339(function.updated_at)
    return form


def trigger_form(trigger: Trigger, app_name: str, base_url: str) -> dict[str, Any]:
    """A trigger as Fn shows it, with the URL that calls it."""
    annotations = dict(trigger.annotations)
    annotations[TRIGGER_ENDPOINT] = f"{base_url}/t/{app_name}{trigger.source}"
    return {
        "id": trigger.id,
        "name": trigger.name,
        "app_id": trigger.app_id,
        "fn_id": trigger.fn_id,
        "created_at": rfc3339(trigger.created_at),
        "updated_at": rfc3339(trigger.updated_at),
        "type": trigger.type,
        "source": trigger.source,
        "annotations": annotations,
    }


def page_form(items: list[dict[str, Any]], next_cursor: str) -> dict[str, Any]:
    """A page of a list; ``next_cursor`` only when the page is full."""
    page: dict[str, Any] = {"next_cursor": next_cursor} if next_cursor else {}
    page["items"] = items
    return page


def location(path: str, query: str) -> str:
    """A relative URL for a Location header."""
    quoted = quote(path, safe="/:@!$&'()*+,;=~-._")
    return f"{quoted}?{query}" if query else quoted
