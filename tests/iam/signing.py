"""Signs requests as OCI's clients do, by the book and not by our code, so that tests can also do it wrong."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from daemon.auth import tokens

ROOT = Path(__file__).parents[2]
GENERIC = ("date", "(request-target)", "host")
WITH_BODY = (*GENERIC, "content-length", "content-type", "x-content-sha256")
SDK = "oci==2.189.0"


@lru_cache
def key(number: int = 0) -> rsa.RSAPrivateKey:
    """One of a few keys: making one takes a while."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@dataclass
class Signer:
    """A key id and its private key."""

    key_id: str
    private: rsa.RSAPrivateKey = field(default_factory=key)

    def sign(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        *,
        host: str = "127.0.0.1",
        at_s: float | None = None,
        names: Iterable[str] | None = None,
        extra: dict[str, str] | None = None,
        authorization: str = 'Signature algorithm="rsa-sha256",headers="{headers}",keyId="{key_id}",'
        'signature="{signature}",version="1"',
    ) -> dict[str, str]:
        """The headers of a signed request, in lower case."""
        headers = {"host": host, "date": formatdate(at_s, usegmt=True)}
        if method in ("POST", "PUT", "PATCH"):
            digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
            headers |= {
                "content-length": str(len(body)), "content-type": "application/json", "x-content-sha256": digest,
            }  # fmt: skip
        headers |= extra or {}
        listed = list(names if names is not None else (WITH_BODY if "content-length" in headers else GENERIC))
        lines = [
            f"{n}: {method.lower()} {target}" if n == "(request-target)" else f"{n}: {headers.get(n, '')}"
            for n in listed
        ]
        signature = self.private.sign("\n".join(lines).encode(), padding.PKCS1v15(), hashes.SHA256())
        headers["authorization"] = authorization.format(
            headers=" ".join(listed), key_id=self.key_id, signature=base64.b64encode(signature).decode()
        )
        return headers

    @property
    def public_pem(self) -> str:
        return tokens.public_pem(self.private.public_key())


@lru_cache
def sdk_python() -> Path:
    """The interpreter of an environment with Oracle's SDK, made once; skips where the registry is unreachable."""
    python = ROOT / ".venv-oci-new" / "bin" / "python"
    probe = [str(python), "-c", "import oci; print(oci.__version__)"]
    if python.exists() and subprocess.run(probe, capture_output=True).returncode == 0:
        return python
    subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True, capture_output=True)
    done = subprocess.run(
        [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", SDK], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"cannot install {SDK}: {done.stderr[-300:]}")
    return python
