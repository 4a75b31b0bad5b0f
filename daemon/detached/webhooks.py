"""Signs what is sent to HTTP destinations, as the Standard Webhooks specification says; its libraries verify it.

Each function has a secret of its own, derived from one key of the node, so that a receiver that knows the secret of one
function cannot pretend to be another.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from pathlib import Path

KEY_FILE = "webhook.key"
KEY_BYTES = 32


def load_key(directory: Path) -> bytes:
    """The node's key, made at the first use; only the daemon's user can read it.

    Raises:
      OSError: the directory cannot be read or written.
    """
    path = directory / KEY_FILE
    try:
        key = path.read_bytes()
        if len(key) == KEY_BYTES:
            return key
    except FileNotFoundError:
        pass
    key = os.urandom(KEY_BYTES)
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(fd, key)
        os.fsync(fd)
    finally:
        os.close(fd)
    partial.rename(path)
    return key


def secret(key: bytes, function_id: str) -> str:
    """A function's secret in the form that the libraries take: ``whsec_`` and base64."""
    return "whsec_" + base64.b64encode(_derived(key, function_id)).decode()


def headers(key: bytes, function_id: str, *, message_id: str, at_s: int, body: bytes) -> list[tuple[str, str]]:
    """The three headers of a signed message. ``at_s``: seconds since the epoch."""
    signed = f"{message_id}.{at_s}.".encode() + body
    signature = base64.b64encode(hmac.digest(_derived(key, function_id), signed, "sha256")).decode()
    return [
        ("webhook-id", message_id),
        ("webhook-timestamp", str(at_s)),
        ("webhook-signature", f"v1,{signature}"),
    ]


def _derived(key: bytes, function_id: str) -> bytes:
    return hmac.digest(key, b"stoker webhook " + function_id.encode(), hashlib.sha256)
