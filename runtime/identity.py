"""The function's resource principal: token and key in files of this instance alone, as OCI's signers want them.

The daemon sends them before the first call and sends the token again in good time; the files are replaced in place, so
that a signer that reads them again never finds half of one (reference oci-api section 5).
"""

from __future__ import annotations

import os
import traceback
from typing import Any

DIRECTORY = ".oci-rp"
"""Inside the instance's own temporary directory."""


def take(frame: dict[str, Any]) -> None:
    """Write the files and tell the function of them by its environment. A full disk is told, and nothing else."""
    directory = os.path.join(os.environ.get("TMPDIR") or "/tmp", DIRECTORY)
    token, key = os.path.join(directory, "rpst"), os.path.join(directory, "private.pem")
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        _replace(key, frame["key"])
        _replace(token, frame["token"])
    except OSError:
        traceback.print_exc()
        return
    os.environ["OCI_RESOURCE_PRINCIPAL_VERSION"] = "2.2"
    os.environ["OCI_RESOURCE_PRINCIPAL_RPST"] = token
    os.environ["OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM"] = key
    os.environ["OCI_RESOURCE_PRINCIPAL_REGION"] = frame["region"]
    os.environ["STOKER_ENDPOINT"] = frame["endpoint"]


def _replace(path: str, text: str) -> None:
    partial = f"{path}.new"
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
    os.replace(partial, path)
