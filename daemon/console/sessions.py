"""Who is signed in to the console: one-time links and the sessions that they open. In memory: a restart signs out.

A link is made for a principal that has already proved who it is (over the unix socket, or by a signed request), works
once, for a minute. What the browser then has is a random number; only its SHA-256 is kept here.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from daemon.auth.permissions import Principal
from daemon.errors import Forbidden, QueueFull

COOKIE = "stoker_session"
FORM_COOKIE = "stoker_form"
"""Of the form token (`daemon.console.forms`). Functions neither get these two cookies nor set them."""
LINK_S = 60.0
"""How long a link can be used."""
SESSION_S = 12 * 3600.0
"""How long a session lasts."""
SESSIONS_MAX = 256
"""Sessions at once; beyond it the oldest one ends."""
LINKS_MAX = 64
"""Links that wait to be used."""


@dataclass(frozen=True, slots=True)
class _Entry:
    principal: Principal
    until_s: float


class Sessions:
    """All links and sessions of a node."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """``clock``: monotonic seconds."""
        self._clock = clock
        self._links: dict[bytes, _Entry] = {}
        self._sessions: dict[bytes, _Entry] = {}

    def link(self, principal: Principal) -> str:
        """A token that opens a session as this principal, once.

        Raises:
          QueueFull: too many links wait to be used.
        """
        self._forget_old(self._links)
        if len(self._links) >= LINKS_MAX:
            raise QueueFull("too many sign-in links are open", detail=f"{LINKS_MAX} at once; each lasts {LINK_S:g} s")
        return self._add(self._links, principal, LINK_S)

    def redeem(self, token: str) -> str:
        """Use a link; the new session's secret, for the cookie.

        Raises:
          Forbidden: it was used before, is too old, or never was one.
        """
        self._forget_old(self._links)
        entry = self._links.pop(_digest(token), None)
        if entry is None:
            raise Forbidden("this sign-in link was used before or is too old", detail="make a new one: stoker console")
        self._forget_old(self._sessions)
        while len(self._sessions) >= SESSIONS_MAX:
            del self._sessions[next(iter(self._sessions))]
        return self._add(self._sessions, entry.principal, SESSION_S)

    def principal(self, secret: str) -> Principal | None:
        """Whose session this is; None: nobody's, or it has ended."""
        entry = self._sessions.get(_digest(secret))
        return entry.principal if entry is not None and self._clock() < entry.until_s else None

    def end_all(self, principal_id: str) -> None:
        """End every session and link of a principal: what it proved itself with was revoked."""
        for where in (self._links, self._sessions):
            for key in [key for key, entry in where.items() if entry.principal.id == principal_id]:
                del where[key]

    def end(self, secret: str) -> None:
        """Sign out. Idempotent."""
        self._sessions.pop(_digest(secret), None)

    def _add(self, where: dict[bytes, _Entry], principal: Principal, length_s: float) -> str:
        secret = secrets.token_urlsafe(32)
        where[_digest(secret)] = _Entry(principal, self._clock() + length_s)
        return secret

    def _forget_old(self, where: dict[bytes, _Entry]) -> None:
        now_s = self._clock()
        for key in [key for key, entry in where.items() if entry.until_s <= now_s]:
            del where[key]


def form_token(secret: str) -> str:
    """What only pages of this session know: it goes with their forms, and with what their script asks for."""
    return hmac.new(secret.encode("utf-8", "surrogatepass"), b"form", "sha256").hexdigest()


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
