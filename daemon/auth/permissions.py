"""What one must be allowed to do for a request: verbs, resource types, permissions, principals. Pure.

The names are those of OCI's policy reference for Functions (reference oci-api 2.10): verbs accumulate, ``inspect <
read < use < manage``, and each operation needs one permission. Bundles are OCI's ``repos``; what has no counterpart
there (instances, metrics, the node itself) is ``stoker-node``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, IntEnum

__all__ = [
    "ANONYMOUS", "ANYBODY", "EVERYBODY", "FAMILIES", "PERMISSIONS", "At", "Permission", "Principal", "Verb", "types_of",
]  # fmt: skip


class Verb(IntEnum):
    """What a statement allows; a verb includes the smaller ones."""

    INSPECT = 1
    READ = 2
    USE = 3
    MANAGE = 4

    def __str__(self) -> str:
        return self.name.lower()


FN_APP = "fn-app"
FN_FUNCTION = "fn-function"
FN_INVOCATION = "fn-invocation"
REPOS = "repos"
STOKER_NODE = "stoker-node"
COMPARTMENTS = "compartments"
USERS = "users"
GROUPS = "groups"
DYNAMIC_GROUPS = "dynamic-groups"
POLICIES = "policies"
AUDIT_EVENTS = "audit-events"

TYPES = (
    FN_APP, FN_FUNCTION, FN_INVOCATION, REPOS, STOKER_NODE,
    COMPARTMENTS, USERS, GROUPS, DYNAMIC_GROUPS, POLICIES, AUDIT_EVENTS,
)  # fmt: skip
"""Every resource type that a statement can name."""
FAMILIES: dict[str, frozenset[str]] = {
    "functions-family": frozenset({FN_APP, FN_FUNCTION, FN_INVOCATION}),
    "all-resources": frozenset(TYPES),
}
"""Names for several types at once."""


def types_of(name: str) -> frozenset[str]:
    """The resource types that a name in a statement stands for; none for an unknown name."""
    return FAMILIES.get(name) or (frozenset({name}) if name in TYPES else frozenset())


class At(Enum):
    """Where the thing is that a request is about."""

    NODE = "node"
    """The tenancy itself."""
    APP = "app"
    FUNCTION = "function"
    TRIGGER = "trigger"
    COMPARTMENT = "compartment"
    SOMEWHERE = "somewhere"
    """In at least one compartment: a list over all of them, which the handler cuts to what the caller may see."""


@dataclass(frozen=True, slots=True)
class Permission:
    """One permission, the verb and type that grant it, and which thing it is asked for.

    A row of a table of routes says ``APP_READ.of_app("app_id")``: ``key`` is the placeholder of its path, else the
    parameter of its query (GET, DELETE), else the member of its JSON body.
    """

    name: str
    """As in OCI: ``FN_APP_READ``. Empty: everybody may, no signature needed."""
    resource: str = ""
    verb: Verb = Verb.INSPECT
    at: At = At.NODE
    key: str = ""

    def of_app(self, key: str = "app_id") -> Permission:
        """For the app whose id ``key`` holds."""
        return replace(self, at=At.APP, key=key)

    def of_function(self, key: str = "fn_id") -> Permission:
        """For the function whose id ``key`` holds."""
        return replace(self, at=At.FUNCTION, key=key)

    def of_trigger(self, key: str = "trigger_id") -> Permission:
        """For the function of the trigger whose id ``key`` holds."""
        return replace(self, at=At.TRIGGER, key=key)

    def in_compartment(self, key: str = "compartment_id") -> Permission:
        """For the compartment whose id ``key`` holds; the root where nothing is given."""
        return replace(self, at=At.COMPARTMENT, key=key)

    def somewhere(self) -> Permission:
        """For any compartment: the handler shows only what ``request.access`` allows."""
        return replace(self, at=At.SOMEWHERE)

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}" if self.resource else self.name.lower() or "none"


EVERYBODY = Permission("")
"""Health and the like: answered without asking who it is."""

AUTHENTICATED = Permission("AUTHENTICATED")
"""Whoever says who he is, whatever the policies."""

APP_LIST = Permission("FN_APP_LIST", FN_APP, Verb.INSPECT)
APP_READ = Permission("FN_APP_READ", FN_APP, Verb.READ)
APP_CREATE = Permission("FN_APP_CREATE", FN_APP, Verb.MANAGE)
APP_UPDATE = Permission("FN_APP_UPDATE", FN_APP, Verb.MANAGE)
APP_DELETE = Permission("FN_APP_DELETE", FN_APP, Verb.MANAGE)
FUNCTION_LIST = Permission("FN_FUNCTION_LIST", FN_FUNCTION, Verb.INSPECT)
FUNCTION_READ = Permission("FN_FUNCTION_READ", FN_FUNCTION, Verb.READ)
FUNCTION_CREATE = Permission("FN_FUNCTION_CREATE", FN_FUNCTION, Verb.MANAGE)
FUNCTION_UPDATE = Permission("FN_FUNCTION_UPDATE", FN_FUNCTION, Verb.MANAGE)
FUNCTION_DELETE = Permission("FN_FUNCTION_DELETE", FN_FUNCTION, Verb.MANAGE)
INVOKE = Permission("FN_INVOCATION", FN_INVOCATION, Verb.USE)
REPO_LIST = Permission("REPOSITORY_INSPECT", REPOS, Verb.INSPECT)
REPO_READ = Permission("REPOSITORY_READ", REPOS, Verb.READ)
REPO_PUSH = Permission("REPOSITORY_MANAGE", REPOS, Verb.MANAGE)
REPO_DELETE = Permission("REPOSITORY_DELETE", REPOS, Verb.MANAGE)
NODE_READ = Permission("STOKER_NODE_READ", STOKER_NODE, Verb.READ)
NODE_USE = Permission("STOKER_NODE_USE", STOKER_NODE, Verb.USE)
NODE_MANAGE = Permission("STOKER_NODE_MANAGE", STOKER_NODE, Verb.MANAGE)
COMPARTMENT_LIST = Permission("COMPARTMENT_INSPECT", COMPARTMENTS, Verb.INSPECT)
COMPARTMENT_MANAGE = Permission("COMPARTMENT_MANAGE", COMPARTMENTS, Verb.MANAGE)
USER_LIST = Permission("USER_INSPECT", USERS, Verb.INSPECT)
USER_MANAGE = Permission("USER_MANAGE", USERS, Verb.MANAGE)
GROUP_LIST = Permission("GROUP_INSPECT", GROUPS, Verb.INSPECT)
GROUP_MANAGE = Permission("GROUP_MANAGE", GROUPS, Verb.MANAGE)
DYNAMIC_GROUP_LIST = Permission("DYNAMIC_GROUP_INSPECT", DYNAMIC_GROUPS, Verb.INSPECT)
DYNAMIC_GROUP_MANAGE = Permission("DYNAMIC_GROUP_MANAGE", DYNAMIC_GROUPS, Verb.MANAGE)
POLICY_LIST = Permission("POLICY_READ", POLICIES, Verb.INSPECT)
POLICY_MANAGE = Permission("POLICY_MANAGE", POLICIES, Verb.MANAGE)
AUDIT_READ = Permission("AUDIT_EVENT_READ", AUDIT_EVENTS, Verb.READ)

PERMISSIONS: dict[str, Permission] = {
    value.name: value for value in list(globals().values()) if isinstance(value, Permission) and value.resource
}
"""All of them by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who asks."""

    kind: str
    """``anybody`` (open mode), ``anonymous``, ``local`` (the unix socket), ``user`` or ``function``."""
    id: str = ""
    """OCID of the user or function."""
    name: str = ""
    """For people: in the audit log and in messages."""
    groups: frozenset[str] = frozenset()
    """Ids of the groups and dynamic groups it is a member of."""
    compartment_id: str = ""
    """Of a function."""
    may_everything: bool = False
    """No policy is asked."""


ANYBODY = Principal(kind="anybody", name="anybody", may_everything=True)
"""Every caller in open mode."""
ANONYMOUS = Principal(kind="anonymous", name="anonymous")
"""A caller of a public function or trigger who did not say who he is."""
