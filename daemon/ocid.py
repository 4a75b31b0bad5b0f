"""OCIDs: our ids as OCI's clients name them, and back. Pure and deterministic: nothing is stored, nothing looked up.

``ocid1.<kind>.oc1.<region>.<unique>`` (OCI: Resource Identifiers). The unique part is our id, 26 characters of
Crockford base32, in lower case. Things of a region (applications, functions...) name ours, ``stoker``; things of the
identity service have no region, as in OCI.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

REALM: Final = "oc1"
REGION: Final = "stoker"
"""The region in OCIDs of this kind of server. It never changes: OCIDs must not either."""
APPLICATION: Final = "fnapp"
FUNCTION: Final = "fnfunc"
WORK_REQUEST: Final = "fnworkrequest"
TENANCY_OCID: Final = "ocid1.tenancy.oc1..stoker"
"""The tenancy, which is also the root compartment, where nothing else has been set up."""

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")
_OCID = re.compile(rf"ocid1\.([a-z0-9]{{1,32}})\.{REALM}\.(?:{REGION})?\.([0-9a-hjkmnp-tv-z]{{26}})")
_ANY = re.compile(r"ocid1\.([a-z0-9]{1,32})\.[a-z0-9]{1,32}\.[a-z0-9-]{0,64}\.[A-Za-z0-9_.-]{1,255}")
"""The form of every OCID, whoever made it; some have a part for future use before the last one."""


def make(kind: str, id_: str, *, regional: bool = True) -> str:
    """The OCID of the thing with this id. ``regional``: False for tenancies, compartments, users, groups...

    Raises:
      ValueError: not one of our ids.
    """
    if not _ID.fullmatch(id_):
        raise ValueError(f"not an id: {id_[:100]!r}")
    return f"ocid1.{kind}.{REALM}.{REGION if regional else ''}.{id_.lower()}"


def derived_id(text: str) -> str:
    """An id that depends on a text alone: for what has a name but no id, such as a Python that was found here."""
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")
    return "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))


def application_ocid(app_id: str) -> str:
    """The OCID of an app."""
    return make(APPLICATION, app_id)


def function_ocid(function_id: str) -> str:
    """The OCID of a function."""
    return make(FUNCTION, function_id)


def parse(ocid: str, kind: str = "") -> str:
    """The id in an OCID that `make` gave; with ``kind`` it must be of that kind.

    Raises:
      ValueError: not one of ours.
    """
    match = _OCID.fullmatch(ocid)
    if match is None or (kind and match[1] != kind):
        raise ValueError(f"not an OCID of this node: {ocid[:300]!r}")
    return match[2].upper()


def id_of(text: str, kind: str) -> str:
    """The id that a client means: by OCID of that kind, or by the id itself as the Fn API shows it; "" for neither."""
    if _ID.fullmatch(text):
        return text
    try:
        return parse(text, kind)
    except ValueError:
        return ""


def kind_of(ocid: str) -> str:
    """The kind in any well-formed OCID, ours or not; "" if it is not well-formed."""
    match = _ANY.fullmatch(ocid)
    return match[1] if match else ""
