"""What the parts of the service share: what is stored, in memory; look-up by name; the way every change takes."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric import rsa

from daemon import ocid
from daemon.auth import tokens
from daemon.auth.identity import BearerToken, DynamicGroup, Identity, Key, Known
from daemon.auth.permissions import Principal
from daemon.auth.policy import Directory, Grants, Policy
from daemon.auth.policy_language import parse_rule, parse_statement
from daemon.catalog import Catalog
from daemon.errors import BadRequest, NotFound
from daemon.model import Compartment, Ids
from daemon.store import iam_records
from daemon.store.database import Database
from daemon.store.iam_records import ApiKey, Everything, Group, PolicyRow, User

T = TypeVar("T")

THINGS_MAX = 10_000
"""Most users, and most groups, policies and compartments each: all are kept in memory."""
DESCRIPTION_CHARS_MAX = 400
_name = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]{0,99}").fullmatch


class Base:
    """State of the service. One object; its methods are in the parts."""

    def __init__(
        self,
        database: Database,
        catalog: Catalog,
        identity: Identity,
        *,
        ids: Ids,
        audit_rows_max: int,
        log: Any,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """``audit_rows_max`` is ``auth.audit_rows_max``."""
        self.identity = identity
        self.all = Everything(users=[], keys=[], tokens=[], groups=[], members=[], policies=[], compartments=[])
        """What is stored."""
        self.revoked: Callable[[str], None] = lambda user_id: None
        """Called with a user's id when a key or token of his was revoked."""
        self._database = database
        self._catalog = catalog
        self._ids = ids
        self._audit_rows_max = audit_rows_max
        self._log = log
        self._now_ms = now_ms
        self._public_keys: dict[str, rsa.RSAPublicKey] = {}

    async def load(self) -> None:
        """Read everything, once at start."""
        self._apply(await self._database.read(iam_records.everything))

    async def change(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``change`` and take over what is stored then."""

        def both(conn: sqlite3.Connection) -> tuple[T, Everything]:
            result = change(conn)
            return result, iam_records.everything(conn)

        result, _ = await self._database.write(both, apply=lambda pair: self._apply(pair[1]))
        return result

    def _apply(self, stored: Everything) -> None:
        catalog = self._catalog
        for compartment_id in catalog.compartments.keys() - {c.id for c in stored.compartments}:
            catalog.drop_compartment(compartment_id)
        for compartment in stored.compartments:
            catalog.put_compartment(compartment)
        groups_of: dict[str, set[str]] = {}
        for group_id, user_id in stored.members:
            groups_of.setdefault(user_id, set()).add(group_id)
        users = {
            user.id: Principal(kind="user", id=user.id, name=user.name, groups=frozenset(groups_of.get(user.id, ())))
            for user in stored.users
        }
        directory = Directory(
            groups={g.name.casefold(): g.id for g in stored.groups if not g.rule},
            dynamic_groups={g.name.casefold(): g.id for g in stored.groups if g.rule},
            compartments={c.id: c for c in stored.compartments},
        )
        pems = {key.public_key for key in stored.keys}
        self._public_keys = {pem: key for pem, key in self._public_keys.items() if pem in pems}
        self.identity.known = Known(
            users=users,
            keys={
                f"{catalog.tenancy_id}/{key.user_id}/{key.fingerprint}": Key(self._loaded(key), key.user_id)
                for key in stored.keys
            },
            bearer_tokens={row.digest: BearerToken(row.user_id, row.expires_at) for row in stored.tokens},
            dynamic_groups=[DynamicGroup(g.id, parse_rule(g.rule)) for g in stored.groups if g.rule],
            grants=Grants([_policy(row) for row in stored.policies], directory),
        )
        self.all = stored

    def _loaded(self, key: ApiKey) -> rsa.RSAPublicKey:
        loaded = self._public_keys.get(key.public_key)
        if loaded is None:
            loaded = self._public_keys[key.public_key] = tokens.load_public_key(key.public_key)
        return loaded

    # -- look-up: by OCID or by name

    def user(self, name: str) -> User:
        """Raises NotFound."""
        return _found(self.all.users, name, "user")

    def group(self, name: str) -> Group:
        """Raises NotFound."""
        return _found(self.all.groups, name, "group")

    def policy(self, name: str) -> PolicyRow:
        """Raises NotFound."""
        return _found(self.all.policies, name, "policy")

    def compartment(self, name: str) -> Compartment:
        """By OCID, or by its path of names beneath the root: ``prod:web``; "" and ``root`` are the tenancy.

        Raises:
          NotFound: there is none.
        """
        tenancy_id = self._catalog.tenancy_id
        if name in ("", tenancy_id, "root"):
            return self._catalog.compartments[tenancy_id]
        if (known := self._catalog.compartments.get(name)) is not None:
            return known
        at = tenancy_id
        for part in name.split(":"):
            found = [c for c in self.all.compartments if c.parent_id == at and c.name.casefold() == part.casefold()]
            if not found:
                raise NotFound(f"compartment {name[:200]!r} not found")
            at = found[0].id
        return self._catalog.compartments[at]

    def new_ocid(self, kind: str) -> str:
        return ocid.make(kind, self._ids.new(), regional=False)


Named = TypeVar("Named", User, Group, PolicyRow)


def _found(things: list[Named], name: str, kind: str) -> Named:
    wanted = name.casefold()
    for thing in things:
        if name == thing.id or wanted == thing.name.casefold():
            return thing
    raise NotFound(f"{kind} {name[:200]!r} not found")


def _policy(row: PolicyRow) -> Policy:
    return Policy(
        id=row.id,
        name=row.name,
        compartment_id=row.compartment_id,
        statements=tuple(parse_statement(text) for text in row.statements),
    )


def check_name(member: str, name: str) -> None:
    """Raises BadRequest."""
    if not _name(name):
        raise BadRequest(f"{member}: must be 1 to 100 of A-Z a-z 0-9 . _ @ + -, not {name[:120]!r}")


def check_room(count: int, what: str) -> None:
    """Raises BadRequest."""
    if count >= THINGS_MAX:
        raise BadRequest(f"there are {THINGS_MAX} {what}: no more are allowed")


def description_of(text: str) -> str:
    """Raises BadRequest."""
    if len(text) > DESCRIPTION_CHARS_MAX:
        raise BadRequest(f"description: at most {DESCRIPTION_CHARS_MAX} characters")
    return text
