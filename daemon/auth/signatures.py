"""OCI's signed requests, up to the public key: what was signed, and whether enough of it. Pure.

The rules are those of reference oci-api 3.2 (OCI: Request Signatures; draft-cavage-http-signatures). Nothing here says
to a client which rule it broke: `NotSigned` carries that for the daemon's own log.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from calendar import timegm
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["CLOCK_SKEW_S", "NotSigned", "Signed", "body_hash", "cure", "read"]

AUTHORIZATION_BYTES_MAX = 12 * 2**10
"""Longest Authorization header; one with a session token has about 3 KB."""
CLOCK_SKEW_S = 300
"""How far the date of a request may be from our clock. It is also for how long a copied request can be sent again: the
scheme has no other protection against that, and legitimate equal requests of one second are equal byte for byte."""
PARAMETERS_MAX = 16
SIGNED_MAX = 32
"""Most parameters of the header, and most names in ``headers``."""
BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})
BODY_HEADERS = ("content-length", "content-type", "x-content-sha256")

_well_formed = re.compile(r'\s*(?:[A-Za-z]+="[^"\\]*"(?:\s*,\s*|\s*$))+').fullmatch
_parameters = re.compile(r'([A-Za-z]+)="([^"\\]*)"').findall
_date = re.compile(
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (\d\d) (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) (\d{4})"
    r" (\d\d):(\d\d):(\d\d) GMT"
).fullmatch
_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTHS = {name: n for n, name in enumerate(_NAMES, 1)}


class NotSigned(Exception):
    """The request is not signed as it must be; the text says why, for the log only."""


_CURES = (
    ("from our clock", "set the client's clock, or this machine's, by NTP"),
    ("no key", "stoker iam user ls shows who has keys; stoker iam key rotate makes a new one"),
    ("bearer token", "make a new one with stoker iam token USER"),
    ("token", "make a new one with stoker iam session USER"),
    ("no Authorization header", "sign the request, send a bearer token, or use the unix socket"),
    ("signature is not", "give the client the private key that belongs to its keyId"),
)


def cure(why: str) -> str:
    """What whoever runs the node can do about a `NotSigned`; for the log, as ``why`` is."""
    return next((text for sign, text in _CURES if sign in why), "sign as OCI's SDKs do: docs/how-to/security.md")


@dataclass(frozen=True, slots=True)
class Signed:
    """What the signature of a request must be over, and who is said to have made it."""

    key_id: str
    signature: bytes
    message: bytes
    body_hash: str
    """The signed ``x-content-sha256``; empty where the request has no body."""


def read(method: str, target: bytes, headers: Sequence[tuple[str, str]], *, now_s: float, body: bytes | None) -> Signed:
    """Take a signed request apart and check all but the signature itself.

    ``target`` is the request target as received; ``headers`` have lower-case names. With ``body`` None it is still to
    come: the caller must compare it with ``body_hash``.

    Raises:
      NotSigned: a rule is broken.
    """
    values: dict[str, str] = {}
    twice = set()
    for name, value in headers:
        if name in values:
            twice.add(name)
        values[name] = value
    authorization = values.get("authorization")
    if authorization is None:
        raise NotSigned("no Authorization header")
    if "authorization" in twice:
        raise NotSigned("two Authorization headers")
    parameters = _read_parameters(authorization)
    try:
        key_id, listed, encoded = parameters["keyId"], parameters["headers"], parameters["signature"]
        algorithm = parameters["algorithm"]
    except KeyError as exc:
        raise NotSigned(f"no {exc.args[0]} in the Authorization header") from None
    # It follows from the key, which is RSA. Nothing that a request says may choose another.
    if algorithm != "rsa-sha256":
        raise NotSigned(f"algorithm {algorithm[:40]!r}")
    if parameters.get("version", "1") != "1":
        raise NotSigned("version of the signature")
    names = listed.split(" ")
    if len(names) > SIGNED_MAX or len(set(names)) != len(names):
        raise NotSigned("a header is signed twice, or too many are")
    signed_hash = _check_required(method, names, values, body)
    _check_date(values, names, now_s)
    lines = []
    for name in names:
        if name == "(request-target)":
            lines.append(f"(request-target): {method.lower()} {target.decode('latin-1')}")
        elif name not in values or name in twice:
            raise NotSigned(f"signed header {name[:40]!r} is missing or there twice")
        else:
            lines.append(f"{name}: {values[name]}")
    try:
        signature = binascii.a2b_base64(encoded, strict_mode=True)
    except (ValueError, binascii.Error):
        raise NotSigned("the signature is not base64") from None
    return Signed(key_id, signature, "\n".join(lines).encode("latin-1"), signed_hash)


def _read_parameters(authorization: str) -> dict[str, str]:
    """The parameters of ``Authorization: Signature a="b",c="d"``."""
    if len(authorization) > AUTHORIZATION_BYTES_MAX:
        raise NotSigned("the Authorization header is too long")
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() != "signature":
        raise NotSigned("another scheme than Signature")
    pairs = _parameters(rest)
    found = dict(pairs)
    if len(found) != len(pairs) or len(pairs) > PARAMETERS_MAX or not _well_formed(rest):
        raise NotSigned("malformed Authorization header")
    return found


def _check_required(method: str, names: list[str], values: dict[str, str], body: bytes | None) -> str:
    """The names that must be signed are, and the body is the one that was; returns its signed hash."""
    if "(request-target)" not in names or "host" not in names:
        raise NotSigned("(request-target) and host must be signed")
    if "transfer-encoding" in values:
        raise NotSigned("a signed request must have a length, not chunks")
    if method in BODY_METHODS:
        if missing := [name for name in BODY_HEADERS if name not in names]:
            raise NotSigned(f"{missing[0]} must be signed")
    elif "x-content-sha256" not in names:
        if values.get("content-length", "0") != "0" or body:
            raise NotSigned("a body that is not signed")
        return ""
    signed_hash = values.get("x-content-sha256", "")
    if body is not None:
        if values.get("content-length", "0") != str(len(body)):
            raise NotSigned("content-length is not the body's")
        if body_hash(body) != signed_hash:
            raise NotSigned("x-content-sha256 is not the body's")
    return signed_hash


def _check_date(values: dict[str, str], names: list[str], now_s: float) -> None:
    name = "x-date" if "x-date" in values else "date"
    if name not in names:
        raise NotSigned(f"{name} must be signed")
    at_s = _seconds(values.get(name, ""))
    if at_s is None:
        raise NotSigned(f"{name} is not a date of HTTP")
    if abs(now_s - at_s) > CLOCK_SKEW_S:
        raise NotSigned(f"{name} is {now_s - at_s:+.0f} s from our clock; {CLOCK_SKEW_S} s are allowed")


@lru_cache(maxsize=256)
def _seconds(text: str) -> int | None:
    """RFC 1123, as in ``Thu, 05 Jan 2014 21:31:40 GMT``: seconds since the epoch; None: not a date."""
    match = _date(text)
    if match is None:
        return None
    day, month, year, hour, minute, second = (
        int(match[1]), _MONTHS[match[2]], int(match[3]), int(match[4]), int(match[5]), int(match[6]))  # fmt: skip
    if not (1 <= day <= 31 and year >= 1970 and hour < 24 and minute < 60 and second < 61):
        return None
    return timegm((year, month, day, hour, minute, second))


_EMPTY_HASH = base64.b64encode(hashlib.sha256(b"").digest()).decode()


def body_hash(body: bytes) -> str:
    """What ``x-content-sha256`` must be for a body."""
    return base64.b64encode(hashlib.sha256(body).digest()).decode() if body else _EMPTY_HASH
