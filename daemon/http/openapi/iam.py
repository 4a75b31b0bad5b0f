"""Identity: what its operations take and give."""

from __future__ import annotations

from daemon.auth.permissions import PERMISSIONS
from daemon.http.openapi.words import (
    FLAG,
    TEXT,
    TIME,
    Op,
    Parameter,
    Schema,
    given,
    items,
    many,
    ref,
    taken,
    text,
    whole,
)

_NAME = text(shortest=1, longest=100, pattern=r"^[A-Za-z0-9_][A-Za-z0-9._@+-]*$")
_SAYS = text(longest=400)
_SECONDS = whole(0, 2**31 - 1)
_TOKEN = {"id": TEXT, "description": TEXT, "created_at": TIME, "expires_at": TIME}
_PEM = text()


def _strict(schema: Schema) -> Schema:
    """Ours refuse members that they do not know."""
    return {**schema, "additionalProperties": False}


SCHEMAS: dict[str, Schema] = {
    "Key": given({"fingerprint": TEXT, "key_id": TEXT, "created_at": TIME}),
    "Token": given(_TOKEN),
    "User": given(
        {
            "id": TEXT, "name": TEXT, "description": TEXT, "created_at": TIME, "groups": many(TEXT),
            "keys": many(ref("Key")), "tokens": many(ref("Token")),
        }
    ),
    "Group": given({"id": TEXT, "name": TEXT, "description": TEXT, "created_at": TIME, "members": many(TEXT)}),
    "DynamicGroup": given({"id": TEXT, "name": TEXT, "description": TEXT, "created_at": TIME, "rule": TEXT}),
    "Policy": given(
        {
            "id": TEXT, "name": TEXT, "description": TEXT, "compartment_id": TEXT, "compartment": TEXT,
            "statements": many(TEXT), "created_at": TIME,
        }
    ),
    "Compartment": given(
        {"id": TEXT, "name": TEXT, "path": TEXT, "parent_id": TEXT, "description": TEXT, "created_at": TIME}
    ),
    "AuditEvent": given(
        {
            "at": TIME, "principal": TEXT, "name": TEXT, "action": TEXT, "target": TEXT, "outcome": TEXT,
            "source": TEXT, "detail": TEXT,
        }
    ),
}  # fmt: skip

_IAM = "/stoker/v1/iam"
_USER = f"{_IAM}/users/{{user}}"
_MAKES = (409,)
_EXPLAINED = given(
    {
        "permission": TEXT, "allowed": FLAG, "why": TEXT, "policy": TEXT, "statement": TEXT,
        "others": many(given({"policy": TEXT, "statement": TEXT, "why": TEXT})),
    }
)  # fmt: skip
_QUESTION = {
    "user?": TEXT, "function?": TEXT, "permission?": {"enum": list(PERMISSIONS)}, "verb?": TEXT, "resource?": TEXT,
    "of_app?": TEXT, "of_function?": TEXT, "compartment?": TEXT,
}  # fmt: skip

OPERATIONS: dict[tuple[str, str], Op] = {
    ("GET", _IAM): Op(
        gives=given(
            {
                "tenancy_id": TEXT,
                "principal": given({"kind": TEXT, "id": TEXT, "name": TEXT, "groups": many(TEXT)}),
                "endpoint": TEXT,
            }
        )
    ),
    ("GET", f"{_IAM}/users"): Op(gives=items(ref("User"))),
    ("POST", f"{_IAM}/users"): Op(
        gives=ref("User"), refuses=_MAKES,
        takes=_strict(taken({"name": _NAME, "description?": _SAYS, "public_key?": _PEM, "administrator?": FLAG})),
    ),
    ("GET", _USER): Op(gives=ref("User")),
    ("DELETE", _USER): Op(status=204),
    ("POST", f"{_USER}/keys"): Op(gives=ref("Key"), takes=_strict(taken({"public_key": _PEM})), refuses=_MAKES),
    ("DELETE", f"{_USER}/keys/{{fingerprint}}"): Op(status=204),
    ("POST", f"{_USER}/tokens"): Op(
        gives=given({**_TOKEN, "token": TEXT}), takes=_strict(taken({"ttl_s?": _SECONDS, "description?": _SAYS}))
    ),
    ("DELETE", f"{_USER}/tokens/{{token_id}}"): Op(status=204),
    ("POST", f"{_USER}/sessions"): Op(
        gives=given({"token": TEXT}), takes=_strict(taken({"public_key": _PEM, "ttl_s?": _SECONDS}))
    ),
    ("GET", f"{_IAM}/groups"): Op(gives=items(ref("Group"))),
    ("POST", f"{_IAM}/groups"): Op(
        gives=ref("Group"), takes=_strict(taken({"name": _NAME, "description?": _SAYS})), refuses=_MAKES
    ),
    ("DELETE", f"{_IAM}/groups/{{group}}"): Op(status=204),
    ("PUT", f"{_IAM}/groups/{{group}}/members/{{user}}"): Op(status=204),
    ("DELETE", f"{_IAM}/groups/{{group}}/members/{{user}}"): Op(status=204),
    ("GET", f"{_IAM}/dynamic-groups"): Op(gives=items(ref("DynamicGroup"))),
    ("POST", f"{_IAM}/dynamic-groups"): Op(
        gives=ref("DynamicGroup"), refuses=_MAKES,
        takes=_strict(taken({"name": _NAME, "rule": TEXT, "description?": _SAYS})),
    ),
    ("DELETE", f"{_IAM}/dynamic-groups/{{group}}"): Op(status=204),
    ("GET", f"{_IAM}/policies"): Op(gives=items(ref("Policy"))),
    ("POST", f"{_IAM}/policies"): Op(
        gives=ref("Policy"), refuses=_MAKES,
        takes=_strict(
            taken({"name": _NAME, "statements": many(TEXT), "compartment?": TEXT, "description?": _SAYS})
        ),
    ),
    ("PUT", f"{_IAM}/policies/{{policy}}"): Op(gives=ref("Policy"), takes=_strict(taken({"statements": many(TEXT)}))),
    ("DELETE", f"{_IAM}/policies/{{policy}}"): Op(status=204),
    ("GET", f"{_IAM}/compartments"): Op(gives=items(ref("Compartment"))),
    ("POST", f"{_IAM}/compartments"): Op(
        gives=ref("Compartment"), refuses=_MAKES,
        takes=_strict(taken({"name": _NAME, "parent?": TEXT, "description?": _SAYS})),
    ),
    ("DELETE", f"{_IAM}/compartments/{{compartment}}"): Op(status=204, refuses=(409,)),
    ("POST", f"{_IAM}/explain"): Op(
        gives=given({"principal": TEXT, "items": many(_EXPLAINED)}), takes=_strict(taken(_QUESTION))
    ),
    ("GET", "/stoker/v1/audit"): Op(
        gives=items(ref("AuditEvent")),
        parameters=(
            Parameter("principal", TEXT, "OCID or name"),
            Parameter("since_ms", whole(0, 10**15 - 1), "milliseconds since the epoch"),
            Parameter("limit", whole(1, 1000), "100 without"),
        ),
    ),
}  # fmt: skip
