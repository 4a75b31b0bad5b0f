"""Users, keys, tokens, groups, policies, compartments: changed in the store, then in memory; and the audit log.

Every change rewrites `daemon.auth.identity.Known` as a whole, in the order of the commits: there are few of these
things, and requests must never see half a change.
"""

from __future__ import annotations

from typing import Any

import trio

from daemon.auth.identity import Identity
from daemon.auth.permissions import Principal
from daemon.auth.tokens import Issuer
from daemon.catalog import Catalog
from daemon.config.settings import Config
from daemon.iam.people import ADMINISTRATORS, ADMINISTRATORS_MAY, BEARER_S_DEFAULT, SESSION_S_DEFAULT, People
from daemon.iam.policies import Policies
from daemon.model import Ids
from daemon.store import iam_records
from daemon.store.database import Database
from daemon.store.iam_records import AuditEvent

__all__ = ["ADMINISTRATORS", "ADMINISTRATORS_MAY", "BEARER_S_DEFAULT", "SESSION_S_DEFAULT", "Iam", "open_iam"]

ISSUER_KEY = "identity.pem"
"""The node's own private key, in the data directory: tokens are signed with it."""
AUDIT_TEXT_CHARS_MAX = 500


class Iam(People, Policies):
    """The only writer of identity. One per daemon."""

    # -- audit

    async def record(
        self, principal: Principal, *, action: str, target: str, outcome: str, source: str, detail: str = ""
    ) -> None:
        """Add to the audit log; on the disk when this returns, even if the client has left."""
        event = AuditEvent(
            at=self._now_ms(),
            principal=principal.id or principal.kind,
            principal_name=principal.name,
            action=action,
            target=target[:AUDIT_TEXT_CHARS_MAX],
            outcome=outcome,
            source=source,
            detail=detail[:AUDIT_TEXT_CHARS_MAX],
        )
        rows_max = self._audit_rows_max
        with trio.CancelScope(shield=True):
            await self._database.write(lambda conn: iam_records.append_audit(conn, event, rows_max=rows_max))

    async def audit(self, *, principal: str, since_ms: int, limit: int) -> list[AuditEvent]:
        """The newest events, oldest first."""
        return await self._database.read(
            lambda conn: iam_records.audit(conn, principal=principal, since_ms=since_ms, limit=limit)
        )


async def open_iam(config: Config, database: Database, catalog: Catalog, ids: Ids, *, log: Any) -> Iam:
    """The service with what is stored. In mode ``iam`` the node's key is there when this returns."""
    path = config.data / ISSUER_KEY
    identity = Identity(catalog, lambda: Issuer.load(path, catalog.tenancy_id), log=log)
    iam = Iam(database, catalog, identity, ids=ids, audit_rows_max=config.auth.audit_rows_max, log=log)
    await iam.load()
    if config.auth.mode == "iam":
        await trio.to_thread.run_sync(lambda: identity.issuer)
    return iam
