"""Identity over HTTP: users, keys, tokens, groups, policies, compartments, why something is allowed, the audit log."""

from __future__ import annotations

from typing import Any

from daemon.auth import permissions as perm
from daemon.auth.permissions import At, Permission, Principal, Verb, types_of
from daemon.errors import BadRequest, NotFound
from daemon.http import bodies
from daemon.http.authorise import where
from daemon.http.bodies import Members
from daemon.http.views import ApiReply, ApiRequest, Route, rfc3339
from daemon.iam import BEARER_S_DEFAULT, SESSION_S_DEFAULT, Iam
from daemon.model import Compartment
from daemon.store.iam_records import ApiKey, Group, PolicyRow, TokenRow, User

AUDIT_MAX = 1000
"""Most events of one reply."""
SECONDS_MAX = 2**31 - 1


def _members(request: ApiRequest, *known: str) -> Members:
    """The body's members; ours are strict: an unknown one is a mistake."""
    raw = bodies.parse(request.body)
    if unknown := sorted(raw.keys() - set(known)):
        raise BadRequest(f"{unknown[0][:100]}: unknown member; known: {', '.join(known)}")
    return Members(raw)


def _flag(members: dict[str, Any], name: str) -> bool:
    value = members.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadRequest(f"{name}: must be true or false")
    return bool(value)


def _texts(request: ApiRequest, name: str) -> list[str]:
    value = bodies.parse(request.body).get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BadRequest(f"{name}: must be a list of strings")
    return value


# -- forms


def _user_form(iam: Iam, user: User) -> dict[str, Any]:
    groups = {group.id: group.name for group in iam.all.groups}
    return {
        "id": user.id,
        "name": user.name,
        "description": user.description,
        "created_at": rfc3339(user.created_at),
        "groups": sorted(groups[group_id] for group_id, user_id in iam.all.members if user_id == user.id),
        "keys": [_key_form(iam, key) for key in iam.all.keys if key.user_id == user.id],
        "tokens": [_token_form(token) for token in iam.all.tokens if token.user_id == user.id],
    }


def _key_form(iam: Iam, key: ApiKey) -> dict[str, Any]:
    return {
        "fingerprint": key.fingerprint,
        "key_id": f"{iam.identity.catalog.tenancy_id}/{key.user_id}/{key.fingerprint}",
        "created_at": rfc3339(key.created_at),
    }


def _token_form(token: TokenRow) -> dict[str, Any]:
    return {
        "id": token.id,
        "description": token.description,
        "created_at": rfc3339(token.created_at),
        "expires_at": rfc3339(token.expires_at),
    }


def _group_form(iam: Iam, group: Group) -> dict[str, Any]:
    form: dict[str, Any] = {
        "id": group.id,
        "name": group.name,
        "description": group.description,
        "created_at": rfc3339(group.created_at),
    }
    if group.rule:
        return {**form, "rule": group.rule}
    names = {user.id: user.name for user in iam.all.users}
    return {**form, "members": sorted(names[user] for of, user in iam.all.members if of == group.id)}


def _policy_form(iam: Iam, policy: PolicyRow) -> dict[str, Any]:
    return {
        "id": policy.id,
        "name": policy.name,
        "description": policy.description,
        "compartment_id": policy.compartment_id,
        "compartment": iam.identity.catalog.compartments[policy.compartment_id].name,
        "statements": list(policy.statements),
        "created_at": rfc3339(policy.created_at),
    }


def _compartment_form(iam: Iam, compartment: Compartment) -> dict[str, Any]:
    catalog = iam.identity.catalog
    above = [catalog.compartments[id_].name for id_ in catalog.ancestry(compartment.id)]
    return {
        "id": compartment.id,
        "name": compartment.name,
        "path": ":".join(reversed(above[:-1])) or "root",
        "parent_id": compartment.parent_id,
        "description": compartment.description,
        "created_at": rfc3339(compartment.created_at),
    }


# -- who am I


async def whoami(iam: Iam, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/iam: who the caller is, and the tenancy."""
    principal = request.principal
    groups = sorted(group.name for group in iam.all.groups if group.id in principal.groups)
    return ApiReply(
        body={
            "tenancy_id": iam.identity.catalog.tenancy_id,
            "principal": {"kind": principal.kind, "id": principal.id, "name": principal.name, "groups": groups},
            "endpoint": request.base_url,
        }
    )


# -- users


async def list_users(iam: Iam, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/iam/users: with keys (public halves' fingerprints), tokens (not the tokens) and groups."""
    return ApiReply(body={"items": [_user_form(iam, user) for user in iam.all.users]})


async def get_user(iam: Iam, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/iam/users/{user}: by name or OCID."""
    return ApiReply(body=_user_form(iam, iam.user(request.params["user"])))


async def add_user(iam: Iam, request: ApiRequest) -> ApiReply:
    """POST /stoker/v1/iam/users ``{name, description, public_key, administrator}``; only the name is required."""
    members = _members(request, "name", "description", "public_key", "administrator")
    administrator = _flag(bodies.parse(request.body), "administrator")
    if administrator:  # or whoever may make users could make himself anything
        request.access.require(perm.GROUP_MANAGE)
        request.access.require(perm.POLICY_MANAGE)
    user = await iam.add_user(
        members.text("name"),
        description=members.text("description"),
        public_key=members.text("public_key"),
        administrator=administrator,
    )
    return ApiReply(body=_user_form(iam, user))


async def remove_user(iam: Iam, request: ApiRequest) -> ApiReply:
    """DELETE /stoker/v1/iam/users/{user}: with keys, tokens and memberships."""
    await iam.remove_user(request.params["user"])
    return ApiReply(status=204)


async def add_key(iam: Iam, request: ApiRequest) -> ApiReply:
    """POST /stoker/v1/iam/users/{user}/keys ``{public_key}``: PEM; the private half never comes here."""
    key = await iam.add_key(request.params["user"], _members(request, "public_key").text("public_key"))
    return ApiReply(body=_key_form(iam, key))


async def remove_key(iam: Iam, request: ApiRequest) -> ApiReply:
    """DELETE /stoker/v1/iam/users/{user}/keys/{fingerprint}: the next request signed with it is refused."""
    await iam.remove_key(request.params["user"], request.params["fingerprint"])
    return ApiReply(status=204)


async def add_token(iam: Iam, request: ApiRequest) -> ApiReply:
    """POST /stoker/v1/iam/users/{user}/tokens ``{ttl_s, description}``: a bearer token, shown this once."""
    members = _members(request, "ttl_s", "description")
    row, token = await iam.add_token(
        request.params["user"],
        ttl_s=members.whole("ttl_s", 0, SECONDS_MAX) or BEARER_S_DEFAULT,
        description=members.text("description"),
    )
    return ApiReply(body={**_token_form(row), "token": token})


async def remove_token(iam: Iam, request: ApiRequest) -> ApiReply:
    """DELETE /stoker/v1/iam/users/{user}/tokens/{token_id}"""
    await iam.remove_token(request.params["user"], request.params["token_id"])
    return ApiReply(status=204)


async def open_session(iam: Iam, request: ApiRequest) -> ApiReply:
    """POST /stoker/v1/iam/users/{user}/sessions ``{public_key, ttl_s}``: a session token for that key."""
    members = _members(request, "public_key", "ttl_s")
    token = await iam.open_session(
        request.params["user"],
        members.text("public_key"),
        ttl_s=members.whole("ttl_s", 0, SECONDS_MAX) or SESSION_S_DEFAULT,
    )
    return ApiReply(body={"token": token})


# -- groups


async def list_groups(iam: Iam, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/iam/groups"""
    return ApiReply(body={"items": [_group_form(iam, group) for group in iam.all.groups if not group.rule]})


async def add_group(iam: Iam, request: ApiRequest) -> ApiReply:
    """POST /stoker/v1/iam/groups ``{name, description}``"""
    members = _members(request, "name", "description")
    group = await iam.add_group(members.text("name"), description=members.text("description"))
    return ApiReply(body=_group_form(iam, group))


async def remove_group(iam: Iam, request: ApiRequest) -> ApiReply:
    """DELETE /stoker/v1/iam/groups/{group}: statements that name it allow nobody from then on."""
    await iam.remove_group(_group_of(iam, request, dynamic=False))
    return ApiReply(status=204)


async def add_member(iam: Iam, request: ApiRequest) -> ApiReply:
    """PUT /stoker/v1/iam/groups/{group}/members/{user}"""
    await iam.add_member(request.params["group"], request.params["user"])
    return ApiReply(status=204)


async def remove_member(iam: Iam, request: ApiRequest) -> ApiReply:
    """DELETE /stoker/v1/iam/groups/{group}/members/{user}"""
    await iam.remove_member(request.params["group"], request.params["user"])
    return ApiReply(status=204)


async def list_dynamic_groups(iam: Iam, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/iam/dynamic-groups"""
    return ApiReply(body={"items": [_group_form(iam, group) for group in iam.all.groups if group.rule]})


async def add_dynamic_group(iam: Iam, request: ApiRequest) -> ApiReply:
    """POST /stoker/v1/iam/dynamic-groups ``{name, rule, description}``: the functions that the rule matches."""
    members = _members(request, "name", "rule", "description")
    if not members.text("rule"):
        raise BadRequest("rule: must be given, for example ALL {resource.type = 'fnfunc'}")
    group = await iam.add_group(
        members.text("name"), description=members.text("description"), rule=members.text("rule")
    )
    return ApiReply(body=_group_form(iam, group))


async def remove_dynamic_group(iam: Iam, request: ApiRequest) -> ApiReply:
    """DELETE /stoker/v1/iam/dynamic-groups/{group}"""
    await iam.remove_group(_group_of(iam, request, dynamic=True))
    return ApiReply(status=204)


def _group_of(iam: Iam, request: ApiRequest, *, dynamic: bool) -> str:
    group = iam.group(request.params["group"])
    if bool(group.rule) != dynamic:  # the permission was asked for the other kind
        raise NotFound(f"{'dynamic group' if dynamic else 'group'} {group.name!r} not found")
    return group.id


# -- policies, compartments


async def list_policies(iam: Iam, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/iam/policies"""
    return ApiReply(body={"items": [_policy_form(iam, policy) for policy in iam.all.policies]})


async def add_policy(iam: Iam, request: ApiRequest) -> ApiReply:
    """POST /stoker/v1/iam/policies ``{name, statements, compartment, description}``: [the language](policies.md)."""
    members = _members(request, "name", "statements", "compartment", "description")
    policy = await iam.add_policy(
        members.text("name"),
        _texts(request, "statements"),
        compartment=members.text("compartment"),
        description=members.text("description"),
    )
    return ApiReply(body=_policy_form(iam, policy))


async def update_policy(iam: Iam, request: ApiRequest) -> ApiReply:
    """PUT /stoker/v1/iam/policies/{policy} ``{statements}``"""
    _members(request, "statements")
    policy = await iam.update_policy(request.params["policy"], _texts(request, "statements"))
    return ApiReply(body=_policy_form(iam, policy))


async def remove_policy(iam: Iam, request: ApiRequest) -> ApiReply:
    """DELETE /stoker/v1/iam/policies/{policy}"""
    await iam.remove_policy(request.params["policy"])
    return ApiReply(status=204)


async def list_compartments(iam: Iam, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/iam/compartments"""
    return ApiReply(body={"items": [_compartment_form(iam, compartment) for compartment in iam.all.compartments]})


async def add_compartment(iam: Iam, request: ApiRequest) -> ApiReply:
    """POST /stoker/v1/iam/compartments ``{name, parent, description}``: the parent by path or OCID."""
    members = _members(request, "name", "parent", "description")
    compartment = await iam.add_compartment(
        members.text("name"), parent=members.text("parent"), description=members.text("description")
    )
    return ApiReply(body=_compartment_form(iam, compartment))


async def remove_compartment(iam: Iam, request: ApiRequest) -> ApiReply:
    """DELETE /stoker/v1/iam/compartments/{compartment}: an empty one."""
    await iam.remove_compartment(request.params["compartment"])
    return ApiReply(status=204)


# -- explain, audit


async def explain(iam: Iam, request: ApiRequest) -> ApiReply:
    """POST /stoker/v1/iam/explain ``{user|function, permission|verb+resource, of_app|of_function|compartment}``.

    Says which statement allows it, or why none does. ``permission`` is a name such as ``FN_INVOCATION``.
    """
    members = _members(
        request, "user", "function", "permission", "verb", "resource", "of_app", "of_function", "compartment"
    )
    principal = _principal_of(iam, members)
    identity = iam.identity
    place: dict[str, str] | None = {}
    for name, at in (("of_function", At.FUNCTION), ("of_app", At.APP)):
        if members.text(name):
            place = where(identity.catalog, at, members.text(name))
            break
    else:
        if members.text("compartment"):
            place = {"compartment_id": iam.compartment(members.text("compartment")).id}
    permissions = _permissions_of(members)
    replies = []
    for permission in permissions:
        target = None if place is None else identity.target_of(principal, permission, **place)
        if target is None:
            raise NotFound("there is no such app or function")
        decision = identity.known.grants.explain(principal, permission, target)
        replies.append(
            {
                "permission": permission.name,
                "allowed": decision.allowed,
                "why": decision.why,
                "policy": decision.policy,
                "statement": decision.statement,
                "others": [{"policy": p, "statement": s, "why": w} for p, s, w in decision.others],
            }
        )
    return ApiReply(body={"principal": principal.name, "items": replies})


def _principal_of(iam: Iam, members: Members) -> Principal:
    if members.text("user"):
        return iam.identity.known.users[iam.user(members.text("user")).id]
    found = iam.identity.function_principal(members.text("function")) if members.text("function") else None
    if found is None:
        raise BadRequest("user or function: one of them must be given, and be there")
    return found


def _permissions_of(members: Members) -> list[Permission]:
    if name := members.text("permission").upper():
        if name not in perm.PERMISSIONS:
            raise BadRequest(f"permission: unknown; known: {', '.join(perm.PERMISSIONS)}")
        return [perm.PERMISSIONS[name]]
    verb, resource = members.text("verb").upper(), members.text("resource").lower()
    if verb not in Verb.__members__ or not types_of(resource):
        raise BadRequest("verb and resource, or permission: must be given, for example use and fn-invocation")
    types = types_of(resource)
    return [p for p in perm.PERMISSIONS.values() if p.resource in types and p.verb <= Verb[verb]]


async def list_audit(iam: Iam, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/audit?principal=&since_ms=&limit=100: who changed what, oldest first."""
    limit, since = request.first("limit") or "100", request.first("since_ms") or "0"
    if not (limit.isascii() and limit.isdecimal() and len(limit) < 6 and 1 <= int(limit) <= AUDIT_MAX):
        raise BadRequest(f"limit: must be 1 to {AUDIT_MAX}, not {limit[:100]!r}")
    if not (since.isascii() and since.isdecimal() and len(since) < 16):
        raise BadRequest(f"since_ms: must be milliseconds since the epoch, not {since[:100]!r}")
    events = await iam.audit(principal=request.first("principal"), since_ms=int(since), limit=int(limit))
    items = [
        {
            "at": rfc3339(event.at),
            "principal": event.principal,
            "name": event.principal_name,
            "action": event.action,
            "target": event.target,
            "outcome": event.outcome,
            "source": event.source,
            "detail": event.detail,
        }
        for event in events
    ]
    return ApiReply(body={"items": items})


_IAM = "/stoker/v1/iam"

ROUTES = [
    Route("GET", _IAM, whoami, perm.AUTHENTICATED),
    Route("GET", f"{_IAM}/users", list_users, perm.USER_LIST),
    Route("POST", f"{_IAM}/users", add_user, perm.USER_MANAGE),
    Route("GET", f"{_IAM}/users/{{user}}", get_user, perm.USER_LIST),
    Route("DELETE", f"{_IAM}/users/{{user}}", remove_user, perm.USER_MANAGE),
    Route("POST", f"{_IAM}/users/{{user}}/keys", add_key, perm.USER_MANAGE),
    Route("DELETE", f"{_IAM}/users/{{user}}/keys/{{fingerprint}}", remove_key, perm.USER_MANAGE),
    Route("POST", f"{_IAM}/users/{{user}}/tokens", add_token, perm.USER_MANAGE),
    Route("DELETE", f"{_IAM}/users/{{user}}/tokens/{{token_id}}", remove_token, perm.USER_MANAGE),
    Route("POST", f"{_IAM}/users/{{user}}/sessions", open_session, perm.USER_MANAGE),
    Route("GET", f"{_IAM}/groups", list_groups, perm.GROUP_LIST),
    Route("POST", f"{_IAM}/groups", add_group, perm.GROUP_MANAGE),
    Route("DELETE", f"{_IAM}/groups/{{group}}", remove_group, perm.GROUP_MANAGE),
    Route("PUT", f"{_IAM}/groups/{{group}}/members/{{user}}", add_member, perm.GROUP_MANAGE),
    Route("DELETE", f"{_IAM}/groups/{{group}}/members/{{user}}", remove_member, perm.GROUP_MANAGE),
    Route("GET", f"{_IAM}/dynamic-groups", list_dynamic_groups, perm.DYNAMIC_GROUP_LIST),
    Route("POST", f"{_IAM}/dynamic-groups", add_dynamic_group, perm.DYNAMIC_GROUP_MANAGE),
    Route("DELETE", f"{_IAM}/dynamic-groups/{{group}}", remove_dynamic_group, perm.DYNAMIC_GROUP_MANAGE),
    Route("GET", f"{_IAM}/policies", list_policies, perm.POLICY_LIST),
    Route("POST", f"{_IAM}/policies", add_policy, perm.POLICY_MANAGE),
    Route("PUT", f"{_IAM}/policies/{{policy}}", update_policy, perm.POLICY_MANAGE),
    Route("DELETE", f"{_IAM}/policies/{{policy}}", remove_policy, perm.POLICY_MANAGE),
    Route("GET", f"{_IAM}/compartments", list_compartments, perm.COMPARTMENT_LIST),
    Route("POST", f"{_IAM}/compartments", add_compartment, perm.COMPARTMENT_MANAGE),
    Route("DELETE", f"{_IAM}/compartments/{{compartment}}", remove_compartment, perm.COMPARTMENT_MANAGE),
    Route("POST", f"{_IAM}/explain", explain, perm.POLICY_LIST),
    Route("GET", "/stoker/v1/audit", list_audit, perm.AUDIT_READ),
]
