"""Statements and whether they allow something: pure, default deny, explains itself.

A statement says who may do what where, under which conditions (`daemon.auth.policy_language` reads OCI's sentences).
Several statements add up; nothing takes a right away, as in OCI.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from daemon.auth.permissions import Permission, Principal, Verb, types_of
from daemon.model import Compartment

__all__ = [
    "Combined", "Condition", "Decision", "Directory", "Grants", "Location", "Name", "Policy", "Statement", "Subject",
    "Target", "holds",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Name:
    """A thing named by its name or, after the word ``id``, by its OCID."""

    text: str
    is_id: bool = False

    def __str__(self) -> str:
        return f"id {self.text}" if self.is_id else self.text


@dataclass(frozen=True, slots=True)
class Subject:
    """Who: ``any-user``, ``group``, ``dynamic-group`` or ``service`` and names."""

    kind: str
    names: tuple[Name, ...] = ()

    def __str__(self) -> str:
        return " ".join([self.kind, ", ".join(map(str, self.names))]).rstrip()


@dataclass(frozen=True, slots=True)
class Location:
    """Where: the tenancy, or a compartment by its path of names (from the policy's own) or its OCID."""

    tenancy: bool
    path: tuple[str, ...] = ()
    id: str = ""

    def __str__(self) -> str:
        return "tenancy" if self.tenancy else f"compartment {f'id {self.id}' if self.id else ':'.join(self.path)}"


@dataclass(frozen=True, slots=True)
class Condition:
    """``variable = 'value'``, ``!=``; a pattern has ``*`` for any characters."""

    variable: str
    equal: bool
    value: str
    pattern: bool = False

    def __str__(self) -> str:
        quote = "/" if self.pattern else "'"
        return f"{self.variable} {'=' if self.equal else '!='} {quote}{self.value}{quote}"


@dataclass(frozen=True, slots=True)
class Combined:
    """``all {...}`` or ``any {...}`` of conditions."""

    all: bool
    parts: tuple[Condition | Combined, ...]

    def __str__(self) -> str:
        return f"{'all' if self.all else 'any'} {{{', '.join(map(str, self.parts))}}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One sentence, taken apart."""

    text: str
    """As written."""
    subject: Subject
    verb: Verb | None
    resource: str = ""
    """A type or family; empty with ``permissions``."""
    permissions: frozenset[str] = frozenset()
    """Names, for the form ``to {FN_APP_READ, ...}``; ``verb`` is None then."""
    location: Location
    where: Condition | Combined | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Statements under a name, attached to a compartment: they reach no further than that."""

    id: str
    name: str
    compartment_id: str
    statements: tuple[Statement, ...]
    description: str = ""
    created_at: int = 0


@dataclass(frozen=True, slots=True)
class Target:
    """What a request is about."""

    compartments: tuple[str, ...]
    """The compartment that it is in and all above, the tenancy last."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """``target.*`` and ``request.*`` of conditions."""


@dataclass(frozen=True, slots=True)
class Directory:
    """What names in statements stand for. Names of groups and compartments match in any case."""

    groups: Mapping[str, str]
    """Casefolded name to id."""
    dynamic_groups: Mapping[str, str]
    compartments: Mapping[str, Compartment]
    """By id."""

    def find_compartment(self, start: str, location: Location) -> str:
        """The id of the compartment that a statement in a policy at ``start`` speaks of, or ""."""
        if location.tenancy:
            known = self.compartments.get(start)
            return start if known is not None and not known.parent_id else ""
        if location.id:
            found = location.id
        else:
            at = self.compartments.get(start)
            path = list(location.path)
            if at is not None and at.name.casefold() == path[0].casefold():
                path.pop(0)  # the policy's own compartment, by its name
            found = start
            for name in path:
                found = self._child(found, name)
        return found if start in self._above(found) else ""

    def _child(self, parent: str, name: str) -> str:
        wanted = name.casefold()
        children = (c for c in self.compartments.values() if c.parent_id == parent)
        return next((c.id for c in children if c.name.casefold() == wanted), "")

    def _above(self, compartment_id: str) -> list[str]:
        found = []
        while (compartment := self.compartments.get(compartment_id)) is not None:
            found.append(compartment.id)
            compartment_id = compartment.parent_id
        return found


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer and why."""

    allowed: bool
    why: str
    policy: str = ""
    statement: str = ""
    """Of the statement that allowed it."""
    others: tuple[tuple[str, str, str], ...] = ()
    """Policy, statement and why it does not allow this, for each one that does not."""


@dataclass(frozen=True, slots=True)
class _Grant:
    """A statement with its names looked up once."""

    policy: Policy
    statement: Statement
    any_user: bool
    groups: frozenset[str]
    types: frozenset[str]
    compartment: str
    """Empty: there is none of that name."""

    def refusal(self, principal: Principal, permission: Permission, target: Target) -> str:
        """Why this does not allow it; empty: it does."""
        statement = self.statement
        if not (self.any_user or self.groups & principal.groups):
            if statement.subject.kind == "service":
                return "it speaks of a service, and there is none of those here"
            if not self.groups and not self.any_user:
                return f"there is no {statement.subject}"
            return f"{principal.name or 'the caller'} is not in {statement.subject}"
        if statement.verb is None:
            if permission.name not in statement.permissions:
                return f"{permission.name} is not among the permissions it lists"
        elif permission.resource not in self.types:
            return f"it is about {statement.resource}, not {permission.resource}"
        elif statement.verb < permission.verb:
            return f"{statement.verb} does not include {permission.name}, which needs {permission.verb}"
        if not self.compartment:
            return f"there is no {statement.location} here"
        if self.compartment not in target.compartments:
            return f"the target is not in {statement.location}"
        if statement.where is not None and (why := _unmet(statement.where, target.variables)):
            return why
        return ""


class Grants:
    """All policies, ready to be asked. Immutable: made anew at every change."""

    def __init__(self, policies: Iterable[Policy], directory: Directory) -> None:
        self._grants = [_resolve(policy, s, directory) for policy in policies for s in policy.statements]
        self._of = lru_cache(maxsize=1024)(self._relevant)

    def allow(self, principal: Principal, permission: Permission, target: Target) -> bool:
        """May it? Default deny."""
        if principal.may_everything:
            return True
        relevant = self._of(principal.groups, permission.name, permission.resource, permission.verb)
        return any(not grant.refusal(principal, permission, target) for grant in relevant)

    def allow_somewhere(self, principal: Principal, permission: Permission) -> bool:
        """May it in any compartment, under whatever condition?"""
        if principal.may_everything:
            return True
        relevant = self._of(principal.groups, permission.name, permission.resource, permission.verb)
        return any(grant.compartment for grant in relevant)

    def explain(self, principal: Principal, permission: Permission, target: Target) -> Decision:
        """May it, and why: the statement that allows it, or what each one lacks."""
        if principal.may_everything:
            return Decision(True, f"{principal.name} may do everything: no policy is asked")
        others: list[tuple[str, str, str]] = []
        for grant in self._grants:
            why = grant.refusal(principal, permission, target)
            if not why:
                return Decision(True, "allowed by a statement", grant.policy.name, grant.statement.text, tuple(others))
            others.append((grant.policy.name, grant.statement.text, why))
        return Decision(False, "no statement allows it" if others else "there are no statements", others=tuple(others))

    def _relevant(self, groups: frozenset[str], name: str, resource: str, verb: Verb) -> Sequence[_Grant]:
        """The grants whose subject and verb fit: all that depends on neither place nor condition."""
        return [
            grant
            for grant in self._grants
            if (grant.any_user or grant.groups & groups)
            and (
                name in grant.statement.permissions
                if grant.statement.verb is None
                else resource in grant.types and grant.statement.verb >= verb
            )
        ]


def _resolve(policy: Policy, statement: Statement, directory: Directory) -> _Grant:
    subject = statement.subject
    known = {"group": directory.groups, "dynamic-group": directory.dynamic_groups}.get(subject.kind, {})
    ids = set(known.values())
    groups = {
        found
        for name in subject.names
        if (found := (name.text if name.text in ids else "") if name.is_id else known.get(name.text.casefold(), ""))
    }
    return _Grant(
        policy=policy,
        statement=statement,
        any_user=subject.kind == "any-user",
        groups=frozenset(groups),
        types=types_of(statement.resource),
        compartment=directory.find_compartment(policy.compartment_id, statement.location),
    )


def holds(where: Condition | Combined, variables: Mapping[str, str]) -> bool:
    """Is the condition met? A variable that this request does not have meets none, ``!=`` neither (as in OCI)."""
    return not _unmet(where, variables)


def _unmet(where: Condition | Combined, variables: Mapping[str, str]) -> str:
    """Why a condition is not met; empty: it is."""
    if isinstance(where, Combined):
        whys = [_unmet(part, variables) for part in where.parts]
        if where.all:
            return next((why for why in whys if why), "")
        return "" if "" in whys else "; ".join(whys)
    value = variables.get(where.variable)
    if value is None:
        return f"{where.variable} is not known for this request"
    if _matches(where, value) == where.equal:
        return ""
    return f"{where.variable} is {value!r}, and the condition is {where}"


def _matches(condition: Condition, value: str) -> bool:
    wanted, value = condition.value.casefold(), value.casefold()
    if not condition.pattern or "*" not in wanted:
        return value == wanted
    first, *middle, last = wanted.split("*")
    if not (value.startswith(first) and value.endswith(last) and len(value) >= len(first) + len(last)):
        return False
    at, end = len(first), len(value) - len(last)
    for part in middle:  # the earliest place is the best one: no backtracking
        at = value.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True
