"""RSA keys and the tokens that this daemon issues: session tokens and resource principals. No network, no HTTP.

A token is a JWT signed with RS256 by the node's own key (``identity.pem`` in the data directory). It names the public
half of the key that requests are to be signed with, in the claim ``jwk``, as OCI's do. Which algorithm a token is
checked with follows from that key; what its header says is only compared.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from daemon.errors import BadRequest

__all__ = ["InvalidToken", "Issuer", "Token", "fingerprint", "load_public_key", "new_key", "private_pem", "public_pem"]

KEY_BITS = 2048
KEY_BITS_MAX = 8192
PEM_CHARS_MAX = 16 * 2**10
"""Longest public key that is looked at."""
TOKEN_CHARS_MAX = 8 * 2**10
AUDIENCE = "stoker"
_HEADER = {"alg": "RS256", "typ": "JWT"}
_PKCS1 = padding.PKCS1v15()
_SHA256 = hashes.SHA256()


class InvalidToken(Exception):
    """The token is not one that may be used now; the text says why, for the log only."""


def new_key() -> rsa.RSAPrivateKey:
    """A new RSA key. Takes some 50 ms: not for the event loop."""
    return rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)


def private_pem(key: rsa.RSAPrivateKey) -> str:
    """The private key as PKCS#8 PEM, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def public_pem(key: rsa.RSAPublicKey) -> str:
    """The public half as PEM (SubjectPublicKeyInfo)."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def fingerprint(key: rsa.RSAPublicKey) -> str:
    """OCI's name of a key: MD5 of its DER SubjectPublicKeyInfo, hex pairs with colons. A name, not a protection."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = hashlib.md5(der, usedforsecurity=False).hexdigest()
    return ":".join(digest[i : i + 2] for i in range(0, len(digest), 2))


def load_public_key(pem: str) -> rsa.RSAPublicKey:
    """A public key out of PEM.

    Raises:
      BadRequest: not PEM, not RSA, too short or too long; a private key, which must not be sent.
    """
    if "PRIVATE KEY" in pem:
        raise BadRequest("public_key: this is a private key; keep it, and send the public half (openssl rsa -pubout)")
    try:
        if len(pem) > PEM_CHARS_MAX:
            raise ValueError
        key = serialization.load_pem_public_key(pem.encode())
    except Exception:  # cryptography raises several kinds, and new ones with new versions
        raise BadRequest("public_key: must be a public key in PEM form (-----BEGIN PUBLIC KEY-----)") from None
    if not isinstance(key, rsa.RSAPublicKey) or not KEY_BITS <= key.key_size <= KEY_BITS_MAX:
        raise BadRequest(f"public_key: must be an RSA key of {KEY_BITS} to {KEY_BITS_MAX} bits")
    return key


@dataclass(frozen=True, slots=True)
class Token:
    """A token that was checked."""

    subject: str
    """OCID of the user or function."""
    kind: str
    """``session`` or ``res_sp``."""
    key: rsa.RSAPublicKey
    """What requests must be signed with."""
    expires_s: float


class Issuer:
    """Signs tokens with the node's key, and knows its own again."""

    def __init__(self, key: rsa.RSAPrivateKey, tenancy_id: str) -> None:
        self._key = key
        self._public = key.public_key()
        self._tenancy_id = tenancy_id

    @classmethod
    def load(cls, path: Path, tenancy_id: str) -> Issuer:
        """With the key in this file; it is made, readable for nobody else, if it is not there.

        Raises:
          OSError, ValueError: it cannot be read or written, or holds something else.
        """
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            key = new_key()
            partial = path.with_suffix(".partial")
            partial.unlink(missing_ok=True)
            fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "w") as file:
                file.write(private_pem(key))
                file.flush()
                os.fsync(fd)
            partial.rename(path)
            return cls(key, tenancy_id)
        loaded = serialization.load_pem_private_key(data, None)
        if not isinstance(loaded, rsa.RSAPrivateKey):
            raise ValueError(f"{path}: not an RSA key")
        return cls(loaded, tenancy_id)

    def issue(
        self, *, subject: str, kind: str, key: rsa.RSAPublicKey, now_s: float, ttl_s: float, claims: dict[str, Any]
    ) -> str:
        """A token for ``subject``, for requests signed with ``key``. ``claims`` are added."""
        numbers = key.public_numbers()
        jwk = {
            "kid": AUDIENCE,
            "kty": "RSA",
            "alg": "RS256",
            "use": "sig",
            "n": _int64(numbers.n),
            "e": _int64(numbers.e),
        }
        payload = {
            **claims,
            "iss": self._tenancy_id,
            "aud": AUDIENCE,
            "sub": subject,
            "ttype": kind,
            "tenant": self._tenancy_id,
            "iat": int(now_s),
            "exp": int(now_s + ttl_s),
            "jwk": json.dumps(jwk, separators=(",", ":")),
        }
        signed = f"{_json64(_HEADER)}.{_json64(payload)}"
        return f"{signed}.{_b64(self._key.sign(signed.encode(), _PKCS1, _SHA256))}"

    def check(self, token: str, *, now_s: float) -> Token:
        """What a token says, if it is ours and has not expired.

        Raises:
          InvalidToken: it is not, or it has.
        """
        if len(token) > TOKEN_CHARS_MAX:
            raise InvalidToken("too long")
        signed, _, signature = token.rpartition(".")
        try:
            self._public.verify(_unb64(signature), signed.encode("ascii"), _PKCS1, _SHA256)
            header, payload = (json.loads(_unb64(part)) for part in signed.split("."))
            if header != _HEADER:
                raise InvalidToken("not a header of ours")
            if payload["iss"] != self._tenancy_id or payload["aud"] != AUDIENCE:
                raise InvalidToken("another issuer or audience")
            if not payload["exp"] > now_s:
                raise InvalidToken("expired")
            jwk = json.loads(payload["jwk"])
            key = rsa.RSAPublicNumbers(_int_of(jwk["e"]), _int_of(jwk["n"])).public_key()
            return Token(payload["sub"], payload["ttype"], key, float(payload["exp"]))
        except InvalidSignature:
            raise InvalidToken("not signed by this node") from None
        except (ValueError, KeyError, TypeError, UnicodeError) as exc:
            raise InvalidToken(f"malformed: {type(exc).__name__}") from None


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    padded = text.encode("ascii") + b"=" * (-len(text) % 4)
    try:
        return binascii.a2b_base64(padded.translate(_URLSAFE), strict_mode=True)
    except binascii.Error as exc:
        raise ValueError("not base64url") from exc


_URLSAFE = bytes.maketrans(b"-_+/", b"+/  ")


def _json64(value: Any) -> str:
    return _b64(json.dumps(value, separators=(",", ":")).encode())


def _int64(number: int) -> str:
    return _b64(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def _int_of(text: str) -> int:
    return int.from_bytes(_unb64(text), "big")
