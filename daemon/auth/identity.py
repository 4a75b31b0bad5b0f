"""Who sent a request: by its signature, by a bearer token, or by the unix socket's peer credentials.

Everything is in memory (`Known`, replaced as a whole at every change): a call costs one look-up, one hash and one RSA
verification (some 40 µs). Whatever is wrong, the client hears the same 401; the reason goes to the daemon's log.
"""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from daemon import ocid
from daemon.auth import signatures
from daemon.auth.permissions import Permission, Principal
from daemon.auth.policy import Combined, Condition, Directory, Grants, Target, holds
from daemon.auth.signatures import NotSigned
from daemon.auth.tokens import InvalidToken, Issuer, Token
from daemon.catalog import Catalog
from daemon.errors import NotAuthenticated

__all__ = ["LOCAL_GROUP", "BearerToken", "DynamicGroup", "Identity", "Key", "Known"]

LOCAL_GROUP = "stoker"
"""Members of this group of the system may do everything through the unix socket, like root and the daemon's user."""
TOKENS_MAX = 1024
"""Session tokens and resource principals whose check is remembered."""
COMPLAINTS_PER_S = 5
"""Most refused requests that are logged per second: anybody can cause them."""
_PKCS1 = padding.PKCS1v15()
_SHA256 = hashes.SHA256()


@dataclass(frozen=True, slots=True)
class Key:
    """A user's public key."""

    public: rsa.RSAPublicKey
    user_id: str


@dataclass(frozen=True, slots=True)
class BearerToken:
    """What is known of a bearer token; not the token."""

    user_id: str
    expires_at: int


@dataclass(frozen=True, slots=True)
class DynamicGroup:
    """Functions that a rule matches."""

    id: str
    rule: Condition | Combined


_NO_GRANTS = Grants((), Directory({}, {}, {}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """All that requests are checked against, at one moment."""

    users: Mapping[str, Principal] = field(default_factory=dict)
    """By OCID."""
    keys: Mapping[str, Key] = field(default_factory=dict)
    """By the whole ``keyId``: tenancy, user, fingerprint."""
    bearer_tokens: Mapping[bytes, BearerToken] = field(default_factory=dict)
    """By the SHA-256 of the token."""
    dynamic_groups: Sequence[DynamicGroup] = ()
    grants: Grants = _NO_GRANTS


class Peer(Protocol):
    """Who is at the other end of a connection (`daemon.http.messages.Peer`)."""

    @property
    def unix(self) -> bool: ...
    @property
    def uid(self) -> int | None: ...
    @property
    def groups(self) -> tuple[int, ...]: ...
    @property
    def address(self) -> str: ...


class Identity:
    """Tells who asks, and whether he may. One per daemon."""

    def __init__(
        self, catalog: Catalog, load_issuer: Callable[[], Issuer], *, log: Any, clock: Callable[[], float] = time.time
    ) -> None:
        """``load_issuer`` is called when the first token is asked for or shown: it may have to make a key."""
        self.catalog = catalog
        self._load_issuer = load_issuer
        self._issuer: Issuer | None = None
        self.known = Known()
        """Replaced at every change; see `daemon.iam`."""
        self._log = log
        self._clock = clock
        self._tokens: OrderedDict[str, Token] = OrderedDict()
        self._complaints = (0, 0)
        self._uid = os.geteuid()

    @property
    def issuer(self) -> Issuer:
        """Signs and checks tokens."""
        if self._issuer is None:
            self._issuer = self._load_issuer()
        return self._issuer

    # -- who

    def identify(
        self,
        method: str,
        target: bytes,
        headers: Sequence[tuple[str, str]],
        *,
        peer: Peer | None,
        body: bytes | None,
    ) -> Principal:
        """Who sent this request; ``body`` None: it is still to come, see `identify_before_body`.

        Raises:
          NotAuthenticated: nobody who may be told from anybody.
        """
        return self._identify(method, target, headers, peer, body)[0]

    def identify_before_body(
        self, method: str, target: bytes, headers: Sequence[tuple[str, str]], *, peer: Peer | None
    ) -> tuple[Principal, str]:
        """As `identify`, for a body that is streamed: with the hash that the body must turn out to have, or ""."""
        return self._identify(method, target, headers, peer, None)

    def _identify(
        self,
        method: str,
        target: bytes,
        headers: Sequence[tuple[str, str]],
        peer: Peer | None,
        body: bytes | None,
    ) -> tuple[Principal, str]:
        scheme = next((value[:7].lower() for name, value in headers if name == "authorization"), "")
        # POLICY: who shows credentials is who they say, even on the socket where he could do more without.
        if not scheme and peer is not None and peer.unix and (local := self._local(peer)) is not None:
            return local, ""
        try:
            if scheme == "bearer ":
                return self._bearer(headers), ""
            signed = signatures.read(method, target, headers, now_s=self._clock(), body=body)
            public, principal = self._key(signed.key_id)
            try:
                public.verify(signed.signature, signed.message, _PKCS1, _SHA256)
            except InvalidSignature:
                raise NotSigned(f"the signature is not {principal.name}'s over this request") from None
            return principal, signed.body_hash
        except NotSigned as why:
            self._complain(str(why), method, target, peer)
            raise NotAuthenticated from None

    def _key(self, key_id: str) -> tuple[rsa.RSAPublicKey, Principal]:
        if key_id.startswith("ST$"):
            token = self._token(key_id[3:])
            return token.key, self._bearer_of(token)
        key = self.known.keys.get(key_id)
        if key is None:
            raise NotSigned(f"no key {key_id[:300]!r}")
        return key.public, self.known.users[key.user_id]

    def _token(self, text: str) -> Token:
        now_s = self._clock()
        token = self._tokens.get(text)
        if token is None or token.expires_s <= now_s:
            self._tokens.pop(text, None)
            try:
                token = self.issuer.check(text, now_s=now_s)
            except InvalidToken as why:
                raise NotSigned(f"token: {why}") from None
            self._tokens[text] = token
            if len(self._tokens) > TOKENS_MAX:
                self._tokens.popitem(last=False)
        return token

    def _bearer_of(self, token: Token) -> Principal:
        """Whoever a token was issued to, if he is still there."""
        principal = (
            self.known.users.get(token.subject) if token.kind == "session" else self.function_principal(token.subject)
        )
        if principal is None:
            raise NotSigned(f"token of {token.subject}, which is gone")
        return principal

    def _bearer(self, headers: Sequence[tuple[str, str]]) -> Principal:
        shown = [value[7:].strip() for name, value in headers if name == "authorization"]
        known = self.known
        found = known.bearer_tokens.get(hashlib.sha256(shown[0].encode("latin-1", "replace")).digest())
        if len(shown) != 1 or found is None:
            raise NotSigned("no such bearer token")
        if found.expires_at <= self._clock() * 1000:
            raise NotSigned(f"bearer token of {known.users[found.user_id].name} has expired")
        return known.users[found.user_id]

    def _local(self, peer: Peer) -> Principal | None:
        """The unix socket: root, the daemon's own user, and members of the group ``stoker``."""
        uid = peer.uid
        if uid is None or not (uid in (0, self._uid) or _local_gid() in peer.groups):
            return None
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:
            name = str(uid)
        return Principal(kind="local", id=f"uid:{uid}", name=name, may_everything=True)

    def _complain(self, why: str, method: str, target: bytes, peer: Peer | None) -> None:
        second, count = self._complaints
        now = int(self._clock())
        count = count + 1 if second == now else 1
        self._complaints = (now, count)
        if count <= COMPLAINTS_PER_S:
            address = "" if peer is None else peer.address or f"uid {peer.uid}"
            self._log.info(
                "not authenticated",
                why=why,
                what_now=signatures.cure(why),
                method=method,
                target=target[:200].decode("latin-1"),
                client=address,
            )

    def function_principal(self, function_ocid: str) -> Principal | None:
        """A function as the one who asks, with the dynamic groups whose rules match it; None: it is gone."""
        function = self.catalog.function(ocid.id_of(function_ocid, ocid.FUNCTION))
        app = self.catalog.app(function.app_id) if function is not None else None
        if function is None or app is None:
            return None
        compartment_id = self.catalog.compartment_of(app)
        variables = {
            "resource.type": "fnfunc",
            "resource.id": ocid.function_ocid(function.id),
            "resource.name": function.name,
            "resource.app.id": ocid.application_ocid(app.id),
            "resource.compartment.id": compartment_id,
        }
        groups = frozenset(group.id for group in self.known.dynamic_groups if holds(group.rule, variables))
        return Principal(
            kind="function",
            id=variables["resource.id"],
            name=f"{app.name}/{function.name}",
            groups=groups,
            compartment_id=compartment_id,
        )

    # -- may he

    def target_of(
        self, principal: Principal, permission: Permission, *, compartment_id: str = "", app_id: str = "",
        function_id: str = "",
    ) -> Target | None:  # fmt: skip
        """The thing that a request is about as conditions see it; None: there is no such thing.

        Of the three the innermost one given counts; none: the tenancy.
        """
        catalog = self.catalog
        variables: dict[str, str] = {}
        if function_id:
            function = catalog.function(function_id)
            if function is None:
                return None
            app_id = function.app_id
            variables["target.function.id"] = _ocid(ocid.FUNCTION, function.id)
            variables["target.function.name"] = function.name
        if app_id:
            app = catalog.app(app_id)
            if app is None:
                return None
            compartment_id = catalog.compartment_of(app)
            variables["target.app.id"] = _ocid(ocid.APPLICATION, app.id)
            variables["target.app.name"] = app.name
        compartment_id = compartment_id or catalog.tenancy_id
        above = catalog.ancestry(compartment_id)
        if not above:
            return None
        variables["target.compartment.id"] = compartment_id
        variables["target.compartment.name"] = catalog.compartments[compartment_id].name
        variables["request.permission"] = permission.name
        variables["request.principal.id"] = principal.id
        if principal.kind == "function":
            variables["request.principal.type"] = "fnfunc"
            variables["request.principal.compartment.id"] = principal.compartment_id
        else:
            variables["request.principal.type"] = "user"
            variables["request.user.id"] = principal.id
            variables["request.user.name"] = principal.name
        return Target(above, variables)

    def may(self, principal: Principal, permission: Permission, target: Target | None) -> bool:
        """Does a policy allow it? Nothing is allowed where there is nothing."""
        return principal.may_everything or (
            target is not None and self.known.grants.allow(principal, permission, target)
        )


def _ocid(kind: str, id_: str) -> str:
    try:
        return ocid.make(kind, id_)
    except ValueError:
        return id_


def _local_gid() -> int | None:
    try:
        return grp.getgrnam(LOCAL_GROUP).gr_gid
    except KeyError:
        return None
