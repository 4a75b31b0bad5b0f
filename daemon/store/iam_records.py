"""SQL about users, keys, tokens, groups, policies, compartments, and the audit log."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from daemon.errors import Conflict, NotFound
from daemon.model import Compartment

Connection = sqlite3.Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A person or program that signs requests."""

    id: str
    name: str
    description: str = ""
    created_at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """The public half of a key."""

    user_id: str
    fingerprint: str
    public_key: str
    created_at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """A bearer token, by its digest."""

    id: str
    user_id: str
    digest: bytes
    description: str = ""
    created_at: int = 0
    expires_at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Users by name; a dynamic group has a ``rule`` instead."""

    id: str
    name: str
    description: str = ""
    rule: str = ""
    """Empty: an ordinary group."""
    created_at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRow:
    """A policy as written."""

    id: str
    name: str
    compartment_id: str
    statements: tuple[str, ...]
    description: str = ""
    created_at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """Who did what."""

    id: int = 0
    at: int
    principal: str
    principal_name: str
    action: str
    target: str
    outcome: str
    source: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Everything:
    """All of identity, as `daemon.iam` keeps it in memory."""

    users: list[User]
    keys: list[ApiKey]
    tokens: list[TokenRow]
    groups: list[Group]
    members: list[tuple[str, str]]
    """Group and user."""
    policies: list[PolicyRow]
    compartments: list[Compartment]


@contextmanager
def _told(taken: str, missing: str = "not found") -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError as exc:
        if "UNIQUE" in str(exc):
            raise Conflict(taken) from exc
        if "FOREIGN KEY" in str(exc):
            raise NotFound(missing) from exc
        raise


def everything(conn: Connection) -> Everything:
    """All of it, in one snapshot."""
    select = conn.execute
    return Everything(
        users=[
            User(id=r["id"], name=r["name"], description=r["description"], created_at=r["created_at"])
            for r in select("SELECT * FROM users ORDER BY name")
        ],
        keys=[
            ApiKey(
                user_id=r["user_id"],
                fingerprint=r["fingerprint"],
                public_key=r["public_key"],
                created_at=r["created_at"],
            )
            for r in select("SELECT * FROM api_keys ORDER BY created_at, fingerprint")
        ],
        tokens=[
            TokenRow(
                id=r["id"],
                user_id=r["user_id"],
                digest=r["digest"],
                description=r["description"],
                created_at=r["created_at"],
                expires_at=r["expires_at"],
            )
            for r in select("SELECT * FROM bearer_tokens ORDER BY id")
        ],
        groups=[
            Group(
                id=r["id"],
                name=r["name"],
                description=r["description"],
                rule=r["rule"] or "",
                created_at=r["created_at"],
            )
            for r in select("SELECT * FROM groups ORDER BY name")
        ],
        members=[(r["group_id"], r["user_id"]) for r in select("SELECT * FROM members")],
        policies=[
            PolicyRow(
                id=r["id"],
                name=r["name"],
                compartment_id=r["compartment_id"],
                statements=tuple(json.loads(r["statements"])),
                description=r["description"],
                created_at=r["created_at"],
            )
            for r in select("SELECT * FROM policies ORDER BY name")
        ],
        compartments=[
            Compartment(
                id=r["id"],
                name=r["name"],
                parent_id=r["parent_id"] or "",
                description=r["description"],
                created_at=r["created_at"],
            )
            for r in select("SELECT * FROM compartments ORDER BY name, id")
        ],
    )


def insert_user(conn: Connection, user: User) -> None:
    """Store a new user. Raises Conflict when the name is taken (in any case of letters)."""
    with _told(f"user {user.name!r} already exists"):
        conn.execute(
            "INSERT INTO users (id, name, description, created_at) VALUES (?, ?, ?, ?)",
            (user.id, user.name, user.description, user.created_at),
        )


def insert_key(conn: Connection, key: ApiKey) -> None:
    """Store a public key. Raises Conflict when the user has it already, NotFound without the user."""
    with _told("the user has this key already", "user not found"):
        conn.execute(
            "INSERT INTO api_keys (user_id, fingerprint, public_key, created_at) VALUES (?, ?, ?, ?)",
            (key.user_id, key.fingerprint, key.public_key, key.created_at),
        )


def insert_token(conn: Connection, token: TokenRow) -> None:
    """Store a bearer token's digest; NotFound without the user."""
    with _told("the token is known", "user not found"):
        conn.execute(
            "INSERT INTO bearer_tokens (id, user_id, digest, description, created_at, expires_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (token.id, token.user_id, token.digest, token.description, token.created_at, token.expires_at),
        )


def prune_tokens(conn: Connection, now_ms: int) -> None:
    """Forget tokens that have expired."""
    conn.execute("DELETE FROM bearer_tokens WHERE expires_at <= ?", (now_ms,))


def insert_group(conn: Connection, group: Group) -> None:
    """Store a group. Raises Conflict when the name is taken, by a group of either kind."""
    with _told(f"group {group.name!r} already exists"):
        conn.execute(
            "INSERT INTO groups (id, name, description, rule, created_at) VALUES (?, ?, ?, ?, ?)",
            (group.id, group.name, group.description, group.rule or None, group.created_at),
        )


def insert_member(conn: Connection, group_id: str, user_id: str) -> None:
    """Put a user into a group; nothing changes if he is in it."""
    with _told("", "group or user not found"):
        conn.execute("INSERT OR IGNORE INTO members (group_id, user_id) VALUES (?, ?)", (group_id, user_id))


def insert_policy(conn: Connection, policy: PolicyRow) -> None:
    """Store a policy. Raises Conflict when the name is taken, NotFound without the compartment."""
    with _told(f"policy {policy.name!r} already exists", "Compartment not found"):
        conn.execute(
            "INSERT INTO policies (id, compartment_id, name, description, statements, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (
                policy.id, policy.compartment_id, policy.name, policy.description,
                json.dumps(policy.statements, ensure_ascii=False), policy.created_at,
            ),
        )  # fmt: skip


def update_policy(conn: Connection, policy_id: str, statements: tuple[str, ...]) -> None:
    """Replace the statements of a policy."""
    text = json.dumps(statements, ensure_ascii=False)
    if not conn.execute("UPDATE policies SET statements = ? WHERE id = ?", (text, policy_id)).rowcount:
        raise NotFound("policy not found")


def insert_compartment(conn: Connection, compartment: Compartment) -> None:
    """Store a compartment. Raises Conflict when its parent has one of that name, NotFound without the parent."""
    with _told(f"compartment {compartment.name!r} already exists there", "Compartment not found"):
        conn.execute(
            "INSERT INTO compartments (id, parent_id, name, description, created_at) VALUES (?, ?, ?, ?, ?)",
            (
                compartment.id, compartment.parent_id, compartment.name, compartment.description,
                compartment.created_at,
            ),
        )  # fmt: skip


def delete(conn: Connection, what: str, **key: Any) -> None:
    """Delete one row of ``users``, ``api_keys``, ``bearer_tokens``, ``groups``, ``members``, ``policies`` or
    ``compartments`` by its key.

    Raises:
      NotFound: it is not there.
      Conflict: something is in it.
    """
    where = " AND ".join(f"{column} = ?" for column in key)
    try:
        count = conn.execute(f"DELETE FROM {what} WHERE {where}", tuple(key.values())).rowcount
    except sqlite3.IntegrityError as exc:
        raise Conflict(f"{what.rstrip('s')} is not empty") from exc
    if not count:
        raise NotFound(f"{what.rstrip('s').replace('_', ' ')} not found")


def append_audit(conn: Connection, event: AuditEvent, *, rows_max: int) -> None:
    """Add to the audit log; beyond ``rows_max`` the oldest go."""
    row = conn.execute(
        "INSERT INTO audit (at, principal, principal_name, action, target, outcome, source, detail)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            event.at, event.principal, event.principal_name, event.action, event.target, event.outcome, event.source,
            event.detail,
        ),
    )  # fmt: skip
    conn.execute("DELETE FROM audit WHERE id <= ?", ((row.lastrowid or 0) - rows_max,))


def audit(conn: Connection, *, principal: str = "", since_ms: int = 0, limit: int = 100) -> list[AuditEvent]:
    """The newest events, oldest first; of one principal by name or id."""
    sql, values = "SELECT * FROM audit WHERE at >= ?", [since_ms]
    texts: list[Any] = []
    if principal:
        sql, texts = sql + " AND (principal_name = ? COLLATE NOCASE OR principal = ?)", [principal, principal]
    rows = conn.execute(f"{sql} ORDER BY id DESC LIMIT ?", (*values, *texts, limit)).fetchall()
    return [AuditEvent(**dict(row)) for row in reversed(rows)]
