"""Who may do what, enforced in one place for each plane: `Gate` in the router of the tables, `CallGate` before a call.

In ``auth.mode: open`` there is no `CallGate` at all, and the `Gate` only keeps the audit log. In ``auth.mode: iam``
every request but health says who sends it, and what no policy allows looks as if it were not there: 404, as in OCI.
"""

from __future__ import annotations

import hmac
import json
from base64 import b64encode
from collections.abc import AsyncIterable, AsyncIterator
from hashlib import sha256
from typing import Any, Protocol

from daemon import ocid
from daemon.auth import permissions as perm
from daemon.auth.identity import Identity
from daemon.auth.permissions import ANONYMOUS, ANYBODY, AUTHENTICATED, EVERYBODY, At, Permission, Principal
from daemon.catalog import Catalog
from daemon.console.sessions import COOKIE, FORM_COOKIE, form_token
from daemon.errors import BadRequest, NotAuthenticated, NotFound
from daemon.http.messages import Peer, Request
from daemon.http.views import Access, ApiReply, ApiRequest, Route
from daemon.iam import Iam
from daemon.model import Function, Trigger

__all__ = ["PUBLIC", "CallGate", "Gate", "is_public"]

PUBLIC = "stoker.dev/public"
"""Annotation of a function or trigger: ``true`` lets everybody call it, unsigned."""
CONSOLE_PATHS = "/console/"
DECISIONS_MAX = 4096
"""Decisions about calls that are remembered until anything changes."""

_MISSING = {
    At.APP: "App not found",
    At.FUNCTION: "Fn not found",
    At.TRIGGER: "Trigger not found",
    At.COMPARTMENT: "Compartment not found",
    At.NODE: "Resource is not authorized or not found",
    At.SOMEWHERE: "Resource is not authorized or not found",
}
"""What a refusal says: the same as when the thing does not exist."""


class Sessions(Protocol):
    """Who is signed in to the console."""

    def principal(self, session: str) -> Principal | None:
        """Whose session that is; None: nobody's."""


class PrincipalAccess(Access):
    """What one principal may do."""

    def __init__(self, identity: Identity, principal: Principal) -> None:
        self._identity = identity
        self._principal = principal

    def may(self, permission: Permission, value: str = "") -> bool:
        """Whether a policy allows it for the thing with this id (OCID or ours)."""
        identity, principal = self._identity, self._principal
        if principal.may_everything:
            return True
        if permission.at is At.SOMEWHERE:
            return identity.known.grants.allow_somewhere(principal, permission)
        place = where(identity.catalog, permission.at, value)
        return place is not None and identity.may(
            principal, permission, identity.target_of(principal, permission, **place)
        )

    def require(self, permission: Permission, value: str = "") -> None:
        """Raises NotFound when `may` says no."""
        if not self.may(permission, value):
            raise NotFound(_MISSING[permission.at])


def where(catalog: Catalog, at: At, value: str) -> dict[str, str] | None:
    """Which thing is meant, for `Identity.target_of`; None: there is none."""
    if at is At.APP:
        known = value if catalog.app(value) is not None else ocid.id_of(value, ocid.APPLICATION)
        return {"app_id": known} if known else None
    if at is At.FUNCTION:
        known = value if catalog.function(value) is not None else ocid.id_of(value, ocid.FUNCTION)
        return {"function_id": known} if known else None
    if at is At.TRIGGER:
        trigger = catalog.triggers.get(value)
        return {"function_id": trigger.fn_id} if trigger is not None else None
    if at is At.COMPARTMENT:
        return {"compartment_id": value}
    return {}


class Gate:
    """Before and after every request of the control plane."""

    def __init__(self, iam: Iam, *, enforce: bool) -> None:
        """``enforce``: ``auth.mode`` is ``iam``."""
        self._iam = iam
        self._identity = iam.identity
        self._enforce = enforce
        self.sessions: Sessions | None = None
        """The console's: a browser cannot sign, so its pages take a cookie instead."""

    def meet(self, request: ApiRequest, route: Route | None) -> None:
        """Refuse who is nobody we know before his body takes memory, or a place that others wait for.

        Raises:
          NotAuthenticated: nobody we know.
        """
        if not self._enforce or (route is not None and route.permission == EVERYBODY):
            return
        if self._in_session(request) is None:
            self._identity.identify_before_body(request.method, request.target, request.raw_headers, peer=request.peer)

    def admit(self, request: ApiRequest, route: Route | None) -> None:
        """Find out who asks, and whether he may; ``route`` None: there is nothing at that path.

        Raises:
          NotAuthenticated: nobody we know.
          NotFound: he may not, or there is no such thing: nobody shall be able to tell.
          BadRequest: it is not clear which thing is meant.
        """
        if not self._enforce or (route is not None and route.permission == EVERYBODY):
            return
        identity = self._identity
        if (known := self._in_session(request)) is not None:
            principal = known
        elif request.chunks is not None:
            principal, signed_hash = identity.identify_before_body(
                request.method, request.target, request.raw_headers, peer=request.peer
            )
            if signed_hash:
                request.chunks = _as_signed(request.chunks, signed_hash)
        else:
            principal = identity.identify(
                request.method, request.target, request.raw_headers, peer=request.peer, body=request.body
            )
        request.principal = principal
        request.access = access = PrincipalAccess(identity, principal)
        if route is None or route.permission == AUTHENTICATED or principal.may_everything:
            return
        access.require(route.permission, value_of(route, request))

    def _in_session(self, request: ApiRequest) -> Principal | None:
        """Who a browser is signed in as, for the console's own paths; the guard has refused other sites' pages.

        Pages that functions serve have the console's origin, so its session counts only where a person goes to a page,
        in a tab of its own, or where a page of the session asks: it knows the token. (Fetch Metadata: W3C, sent by all
        browsers since 2023; without it a request is taken for a person's.)
        """
        if self.sessions is None or "authorization" in request.headers:
            return None
        if not request.path.startswith(CONSOLE_PATHS):
            streams_logs = request.path.startswith("/stoker/v1/functions/") and request.path.endswith("/logs/stream")
            if not (streams_logs and request.method == "GET"):
                return None
        for part in request.headers.get("cookie", "").split(";"):
            name, _, value = part.strip().partition("=")
            if name == COOKIE and (principal := self.sessions.principal(value)) is not None:
                if not _by_a_person(request) and not hmac.compare_digest(
                    request.first(FORM_COOKIE).encode(), form_token(value).encode()
                ):
                    return None
                request.session = value
                return self._as_now(principal)
        return None

    def _as_now(self, principal: Principal) -> Principal | None:
        """Who signed in, as he is now: he may have been taken out of a group, or be gone."""
        if principal.kind == "user":
            return self._identity.known.users.get(principal.id)
        return self._identity.function_principal(principal.id) if principal.kind == "function" else principal

    async def done(self, request: ApiRequest, route: Route, reply: ApiReply) -> None:
        """Keep in the audit log what changed something, or was to change something and was refused."""
        if request.method in ("GET", "HEAD") or route.permission.resource in ("", perm.FN_INVOCATION):
            return
        peer: Peer | None = request.peer
        if request.principal is perm.ANYBODY and self._enforce:
            return  # not authenticated: whoever floods us shall not push the history out
        source = "" if peer is None else peer.address or f"unix uid {peer.uid}"
        await self._iam.record(
            request.principal,
            action=f"{request.method} {route.path}",
            target=request.path,
            outcome=str(reply.status),
            source=source,
            detail=_message(reply) if reply.status >= 400 else "",
        )


def _by_a_person(request: ApiRequest) -> bool:
    """Whether a browser asks because somebody goes to a page, not for a script or something within a page."""
    mode, destination = request.headers.get("sec-fetch-mode"), request.headers.get("sec-fetch-dest")
    return mode in (None, "navigate") and destination in (None, "document")


def _message(reply: ApiReply) -> str:
    return str(reply.body.get("message", "")) if isinstance(reply.body, dict) else ""


def value_of(route: Route, request: ApiRequest) -> str:
    """The id that a route's permission speaks of: from its path, else the query, else the body.

    Raises:
      BadRequest: it is there twice or is no string: another reader could take another one.
    """
    key = route.permission.key
    if not key or route.permission.at in (At.NODE, At.SOMEWHERE):
        return ""
    if key in request.params:
        return request.params[key]
    if request.method in ("GET", "HEAD", "DELETE"):
        values = request.query.get(key, [])
        if len(values) > 1:
            raise BadRequest(f"{key}: more than once in the query")
        return values[0] if values else ""
    value = _member(request.body, key)
    if value is not None and not isinstance(value, str):
        raise BadRequest(f"{key}: must be a string")
    return value or ""


def _member(body: bytes, key: str) -> Any:
    """A member of a JSON object, its name in any case of letters, and only once."""

    def only_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if sum(name.casefold() == key.casefold() for name, _ in pairs) > 1:
            raise BadRequest(f"{key}: more than once in the body")
        return dict(pairs)

    try:
        document = json.loads(body, object_pairs_hook=only_once) if body.strip() else None
    except (ValueError, RecursionError):
        raise BadRequest("Invalid JSON") from None
    if not isinstance(document, dict):
        return None
    return next((value for name, value in document.items() if name.casefold() == key.casefold()), None)


async def _as_signed(chunks: AsyncIterable[bytes], signed_hash: str) -> AsyncIterator[bytes]:
    """The body as it comes; at its end an error if it was not what was signed."""
    digest = sha256()
    async for chunk in chunks:
        digest.update(chunk)
        yield chunk
    if not hmac.compare_digest(b64encode(digest.digest()), signed_hash.encode("latin-1", "replace")):
        raise NotAuthenticated


class CallGate:
    """Before every call, in ``auth.mode: iam``."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._decisions: dict[tuple[str, str], tuple[Any, ...]] = {}

    def check(self, request: Request, function: Function, trigger: Trigger | None = None) -> None:
        """Let a call pass, or raise. The principal is then known, and the credentials are taken out of the headers.

        Raises:
          NotAuthenticated: nobody we know.
          NotFound: he may not call it.
        """
        if is_public(function if trigger is None else trigger):
            request.principal = ANONYMOUS  # an Authorization header is then the function's own affair
            return
        principal = request.principal
        if principal is ANYBODY:  # else it is known: the console calls in the name of who is signed in
            principal = self._identity.identify(
                request.method, request.target, request.headers, peer=request.peer, body=request.body
            )
        if not self._may_call(principal, function):
            raise NotFound("Fn not found" if trigger is None else "Trigger not found")
        request.principal = principal
        # The function must not get what it could use in the caller's name.
        request.headers = [pair for pair in request.headers if pair[0] != "authorization"]

    def check_stranger(self, request: Request) -> None:
        """For a path that names nothing: only who may be told so is.

        Raises:
          NotAuthenticated: nobody we know.
        """
        self._identity.identify(request.method, request.target, request.headers, peer=request.peer, body=request.body)

    def _may_call(self, principal: Principal, function: Function) -> bool:
        if principal.may_everything:
            return True
        identity = self._identity
        app = identity.catalog.app(function.app_id)
        basis = (identity.known, principal, function, app)
        key = (principal.id, function.id)
        decision = self._decisions.get(key)
        # Whatever changes is replaced as a whole, so a decision is good as long as these are the same objects.
        if decision is not None and all(a is b for a, b in zip(decision, basis, strict=False)):
            return bool(decision[-1])
        target = identity.target_of(principal, perm.INVOKE, function_id=function.id)
        allowed = identity.may(principal, perm.INVOKE, target)
        if len(self._decisions) >= DECISIONS_MAX:
            self._decisions.clear()
        self._decisions[key] = (*basis, allowed)
        return allowed


def is_public(thing: Function | Trigger) -> bool:
    """Whether its owner lets everybody call it."""
    return thing.annotations.get(PUBLIC) is True
