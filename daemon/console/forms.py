"""What a page's form sent: fields with their limits, and proof that a page of ours sent it."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl

from daemon.console.sessions import FORM_COOKIE, form_token
from daemon.errors import BadRequest, Conflict, Forbidden
from daemon.http.views import ApiRequest

TOKEN = FORM_COOKIE
"""Name of the hidden field, and of the cookie that it must be equal to where there is no session (double submit)."""
MARK = "stoker_seen"
"""Name of the hidden field with what the form was made from."""
FIELDS_MAX = 64
FORM_TYPE = "application/x-www-form-urlencoded"


def cookies(request: ApiRequest) -> dict[str, str]:
    """The request's cookies; none when they cannot be read."""
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(request.headers.get("cookie", "")).items()}
    except CookieError:
        return {}


def token_of(request: ApiRequest) -> tuple[str, list[tuple[str, str]]]:
    """The form token of this browser, and the header that sets it when it had none.

    In a session it is the session's. Without one (mode ``open``) it is a cookie's: a page of another origin can
    neither read nor set that (SameSite=Strict), so it cannot send a form whose field equals it. The front door's check
    of Origin stands before it; this one does not depend on it.
    """
    if request.session:
        return form_token(request.session), []
    known = cookies(request).get(TOKEN, "")
    if len(known) >= 32:
        return known, []
    fresh = secrets.token_urlsafe(24)
    return fresh, [("Set-Cookie", f"{TOKEN}={fresh}; Path=/console/; SameSite=Strict; HttpOnly")]


def parse(request: ApiRequest) -> dict[str, str]:
    """The fields of a form.

    Raises:
      BadRequest: it is not a form, or has too many fields.
      Forbidden: it was not sent by a page that this browser got from here.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != FORM_TYPE:
        raise BadRequest("not a form", detail=f"Content-Type must be {FORM_TYPE}")
    try:
        pairs = parse_qsl(request.body.decode(), keep_blank_values=True, max_num_fields=FIELDS_MAX)
    except ValueError as exc:
        raise BadRequest("form cannot be read", detail=str(exc)) from exc
    fields = dict(pairs)
    expected = form_token(request.session) if request.session else cookies(request).get(TOKEN, "")
    if not expected or not hmac.compare_digest(fields.pop(TOKEN, "").encode(), expected.encode()):
        raise Forbidden("this form is too old, or was not sent by the console", detail="load the page again")
    return fields


def whole(fields: dict[str, str], name: str, *, low: int, high: int) -> int:
    """A whole number.

    Raises:
      BadRequest: names the field and what is allowed.
    """
    text = fields.get(name, "").strip()
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and low <= int(text) <= high):
        raise BadRequest(f"{name}: must be a whole number from {low} to {high}, not {text[:40]!r}")
    return int(text)


def pairs(fields: dict[str, str], name: str, *, separator: str = "=") -> dict[str, str]:
    """``KEY=VALUE`` lines (or ``Name: value``, by ``separator``); empty ones do not count.

    Raises:
      BadRequest: a line is neither.
    """
    found: dict[str, str] = {}
    for line in fields.get(name, "").splitlines():
        if not line.strip():
            continue
        key, there, value = line.partition(separator)
        if not there or not key.strip():
            raise BadRequest(f"{name}: each line must be KEY{separator}VALUE, not {line[:60]!r}")
        found[key.strip()] = value.strip() if separator == ":" else value
    return found


def text_of(config: Mapping[str, str]) -> str:
    """A configuration as the lines of a form, without what cannot be one (`unwritable`)."""
    left_out = unwritable(config)
    return "\n".join(f"{key}={value}" for key, value in sorted(config.items()) if key not in left_out)


def unwritable(config: Mapping[str, str]) -> list[str]:
    """Keys that a line of the form cannot hold: a value of several lines (a certificate, say) would come back as
    something else, an empty one as a deletion. A form leaves them as they are."""
    return sorted(
        key
        for key, value in config.items()
        if not value or f"{key}={value}".splitlines() != [f"{key}={value}"] or "=" in key or key != key.strip()
    )


def merged(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    """The change that makes ``old`` become ``new``: an empty value removes a key, as on Fn. What the form could not
    show stays, unless it names it."""
    kept = set(unwritable(old))
    return {**{key: "" for key in old if key not in new and key not in kept}, **new}


def mark(fields: Mapping[str, str]) -> str:
    """What a form showed when it was made: it goes with the form, so that a change of somebody else is noticed."""
    return hashlib.sha256(json.dumps(sorted(fields.items())).encode()).hexdigest()[:32]


def check_unchanged(sent: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Refuse a form that was made from what is not so any more, and would undo the change of somebody else.

    A form without a mark is taken as it is; so is one that asks for what is so already (it was sent twice).

    Raises:
      Conflict: names what is different now.
    """
    typed = {key: sent.get(key, "").replace("\r\n", "\n").strip() for key in now}
    if sent.get(MARK, "") in ("", mark(now)) or typed == {key: value.strip() for key, value in now.items()}:
        return
    others = [f"{key}: {value}" for key, value in now.items() if typed[key] != value.strip()]
    raise Conflict(
        "somebody else changed this since the page was loaded; save again to put what is typed here in its place",
        detail="It is now\n" + "\n".join(others),
    )
