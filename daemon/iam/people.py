"""Users, their keys and tokens, groups."""

from __future__ import annotations

import hashlib
import secrets
import sqlite3

import trio

from daemon.auth import tokens
from daemon.auth.policy_language import PolicySyntaxError, parse_rule
from daemon.errors import BadRequest
from daemon.iam.base import Base, check_name, check_room, description_of
from daemon.store import iam_records
from daemon.store.iam_records import ApiKey, Group, PolicyRow, TokenRow, User

ADMINISTRATORS = "Administrators"
ADMINISTRATORS_MAY = f"Allow group {ADMINISTRATORS} to manage all-resources in tenancy"
KEYS_PER_USER_MAX = 10
"""Most API keys of one user (OCI allows three)."""
TOKENS_PER_USER_MAX = 50
"""Most bearer tokens of one user that have not expired."""
BEARER_S_DEFAULT, BEARER_S_MAX = 30 * 86_400, 366 * 86_400
"""For how long a bearer token is good."""
SESSION_S_DEFAULT, SESSION_S_MAX = 3600, 86_400
"""The same of a session token."""
BEARER_PREFIX = "stk-"


class People(Base):
    """The service's part for users and groups."""

    # -- users

    async def add_user(
        self, name: str, *, description: str = "", public_key: str = "", administrator: bool = False
    ) -> User:
        """Store a new user, perhaps with a first key, perhaps as an administrator.

        Raises:
          BadRequest, Conflict: a bad name or key; the name is taken.
        """
        check_name("name", name)
        check_room(len(self.all.users), "users")
        now = self._now_ms()
        user = User(id=self.new_ocid("user"), name=name, description=description_of(description), created_at=now)
        key = _key_of(user.id, public_key, now) if public_key else None
        group_id, policy_id = self.new_ocid("group"), self.new_ocid("policy")

        def change(conn: sqlite3.Connection) -> None:
            iam_records.insert_user(conn, user)
            if key is not None:
                iam_records.insert_key(conn, key)
            if administrator:
                self._make_administrator(conn, user.id, group_id, policy_id, now)

        await self.change(change)
        return user

    def _make_administrator(
        self, conn: sqlite3.Connection, user_id: str, group_id: str, policy_id: str, now: int
    ) -> None:
        """Put the user into the group of administrators, which is made, with its policy, for the first one."""
        stored = iam_records.everything(conn)
        known = [group.id for group in stored.groups if group.name.casefold() == ADMINISTRATORS.casefold()]
        if not known:
            group = Group(id=group_id, name=ADMINISTRATORS, description="They may do everything", created_at=now)
            iam_records.insert_group(conn, group)
        if not any(ADMINISTRATORS_MAY in policy.statements for policy in stored.policies):
            policy = PolicyRow(
                id=policy_id,
                name=ADMINISTRATORS,
                compartment_id=self._catalog.tenancy_id,
                statements=(ADMINISTRATORS_MAY,),
                description="Made with the first administrator",
                created_at=now,
            )
            iam_records.insert_policy(conn, policy)
        iam_records.insert_member(conn, known[0] if known else group_id, user_id)

    async def remove_user(self, name: str) -> None:
        """Delete a user with his keys, tokens and memberships. Raises NotFound."""
        user_id = self.user(name).id
        await self.change(lambda conn: iam_records.delete(conn, "users", id=user_id))

    async def add_key(self, user_name: str, public_key: str) -> ApiKey:
        """Store a public key of a user.

        Raises:
          BadRequest, NotFound, Conflict: not a good key, or too many; no such user; he has it already.
        """
        user = self.user(user_name)
        if sum(key.user_id == user.id for key in self.all.keys) >= KEYS_PER_USER_MAX:
            raise BadRequest(f"{user.name} has {KEYS_PER_USER_MAX} keys; revoke one first")
        key = _key_of(user.id, public_key, self._now_ms())
        await self.change(lambda conn: iam_records.insert_key(conn, key))
        return key

    async def remove_key(self, user_name: str, fingerprint: str) -> None:
        """Revoke a key: the next request that is signed with it is refused, and the user's sessions of the console end,
        since it may have opened them. Raises NotFound."""
        user_id = self.user(user_name).id
        await self.change(lambda conn: iam_records.delete(conn, "api_keys", user_id=user_id, fingerprint=fingerprint))
        self.revoked(user_id)

    async def add_token(
        self, user_name: str, *, ttl_s: int = BEARER_S_DEFAULT, description: str = ""
    ) -> tuple[TokenRow, str]:
        """Issue a bearer token: its row, and the token itself, which is not kept.

        Raises:
          BadRequest, NotFound: a bad lifetime, or too many; no such user.
        """
        user, now = self.user(user_name), self._now_ms()
        check_ttl(ttl_s, BEARER_S_MAX)
        if sum(t.user_id == user.id and t.expires_at > now for t in self.all.tokens) >= TOKENS_PER_USER_MAX:
            raise BadRequest(f"{user.name} has {TOKENS_PER_USER_MAX} tokens; revoke one first")
        token = BEARER_PREFIX + secrets.token_urlsafe(32)
        row = TokenRow(
            id=self._ids.new(),
            user_id=user.id,
            digest=hashlib.sha256(token.encode()).digest(),
            description=description_of(description),
            created_at=now,
            expires_at=now + ttl_s * 1000,
        )

        def change(conn: sqlite3.Connection) -> None:
            iam_records.prune_tokens(conn, now)
            iam_records.insert_token(conn, row)

        await self.change(change)
        return row, token

    async def remove_token(self, user_name: str, token_id: str) -> None:
        """Revoke a bearer token, and end the user's sessions of the console. Raises NotFound."""
        user_id = self.user(user_name).id
        await self.change(lambda conn: iam_records.delete(conn, "bearer_tokens", user_id=user_id, id=token_id))
        self.revoked(user_id)

    async def open_session(self, user_name: str, public_key: str, *, ttl_s: int = SESSION_S_DEFAULT) -> str:
        """A session token for requests signed with this key. It cannot be revoked but by removing the user.

        Raises:
          BadRequest, NotFound: a bad key or lifetime; no such user.
        """
        user = self.user(user_name)
        check_ttl(ttl_s, SESSION_S_MAX)
        key = tokens.load_public_key(public_key)
        if key.key_size > 4096:
            raise BadRequest("public_key: a session key has at most 4096 bits")  # the token holds it
        issuer = await trio.to_thread.run_sync(lambda: self.identity.issuer)  # the first use may make its key
        return issuer.issue(
            subject=user.id, kind="session", key=key, now_s=self._now_ms() / 1000, ttl_s=ttl_s, claims={}
        )

    # -- groups

    async def add_group(self, name: str, *, description: str = "", rule: str = "") -> Group:
        """Store a group; with a rule a dynamic one, of the functions that the rule matches.

        Raises:
          BadRequest, Conflict: a bad name or rule; the name is taken.
        """
        check_name("name", name)
        check_room(len(self.all.groups), "groups")
        if rule:
            try:
                parse_rule(rule)
            except PolicySyntaxError as exc:
                raise BadRequest(f"rule: {exc}", detail=exc.pointed()) from None
        kind = "dynamicgroup" if rule else "group"
        group = Group(
            id=self.new_ocid(kind),
            name=name,
            description=description_of(description),
            rule=rule,
            created_at=self._now_ms(),
        )
        await self.change(lambda conn: iam_records.insert_group(conn, group))
        return group

    async def remove_group(self, name: str) -> None:
        """Delete a group; statements that name it then allow nobody. Raises NotFound."""
        group_id = self.group(name).id
        await self.change(lambda conn: iam_records.delete(conn, "groups", id=group_id))

    async def add_member(self, group_name: str, user_name: str) -> None:
        """Put a user into a group.

        Raises:
          BadRequest, NotFound: it is a dynamic group; no such group or user.
        """
        group, user = self.group(group_name), self.user(user_name)
        if group.rule:
            raise BadRequest(f"{group.name} is a dynamic group: its rule says who is in it")
        await self.change(lambda conn: iam_records.insert_member(conn, group.id, user.id))

    async def remove_member(self, group_name: str, user_name: str) -> None:
        """Take a user out of a group. Raises NotFound."""
        group, user = self.group(group_name), self.user(user_name)
        await self.change(lambda conn: iam_records.delete(conn, "members", group_id=group.id, user_id=user.id))


def _key_of(user_id: str, public_key: str, now: int) -> ApiKey:
    key = tokens.load_public_key(public_key)
    return ApiKey(
        user_id=user_id, fingerprint=tokens.fingerprint(key), public_key=tokens.public_pem(key), created_at=now
    )


def check_ttl(ttl_s: int, highest: int) -> None:
    if not 60 <= ttl_s <= highest:
        raise BadRequest(f"ttl_s: must be 60 to {highest} seconds, not {ttl_s}")
