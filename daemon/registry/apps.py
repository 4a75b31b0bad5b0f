"""Apps: create, change, delete, list."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import trio

from daemon.core.detached_settings import is_traced
from daemon.core.limit_settings import network_of
from daemon.errors import BadRequest, Conflict, NotFound
from daemon.model import App
from daemon.registry import rules
from daemon.registry.base import Base
from daemon.registry.changes import AppChange, Page, given
from daemon.store import records


class Apps(Base):
    """The registry's part for apps."""

    def app(self, app_id: str) -> App:
        """One app.

        Raises:
          NotFound: there is none with this id.
        """
        app = self._catalog.app(app_id)
        if app is None:
            raise NotFound(records.APP_NOT_FOUND)
        return app

    async def apps(self, *, name: str = "", cursor: str = "", limit: int = 30) -> Page[App]:
        """A page of apps by name, or the one with a name.

        Raises:
          BadRequest: bad cursor.
        """
        (after,) = rules.parse_cursor(cursor, 1)
        found = await self._database.read(lambda conn: records.apps(conn, name=name, after=after, limit=limit))
        return Page(found, rules.cursor_of(found[-1].name) if len(found) == limit else "")

    async def create_app(self, change: AppChange) -> App:
        """Store a new app.

        Raises:
          BadRequest, Conflict, NotFound: a rule is broken; the name is taken; there is no such compartment.
        """
        if change.id:
            raise BadRequest("App ID cannot be supplied on create")
        now = self._now_ms()
        app = App(
            id=self._ids.new(),
            name=change.name,
            compartment_id=self._compartment(change.compartment_id),
            config=dict(change.config or {}),
            annotations=rules.without_endpoints(change.annotations),
            syslog_url=change.syslog_url or "",
            shape=change.shape,
            cloud=dict(change.cloud or {}),
            created_at=now,
            updated_at=now,
            **_settings(change),
        )
        rules.check_app(app)

        def insert(conn: sqlite3.Connection) -> None:
            rules.check_count("application-count", len(self._catalog.apps), self._counts.application_count_max)
            records.insert_app(conn, app)

        await self._database.write(insert, apply=lambda _: self._catalog.put_app(app))
        return app

    def _compartment(self, compartment_id: str) -> str:
        """As it is stored: empty for the root.

        Raises:
          NotFound: there is none with this id.
        """
        if compartment_id and compartment_id not in self._catalog.compartments:
            raise NotFound(records.COMPARTMENT_NOT_FOUND)
        return compartment_id

    async def update_app(self, app_id: str, change: AppChange) -> App:
        """Merge the change into the app. Its functions go on with new instances if its config changed.

        Raises:
          BadRequest, NotFound, Conflict, InvalidFunction: a rule is broken; no such app; another name; a function's
            required config would be missing.
        """
        if change.id and change.id != app_id:
            raise BadRequest("App ID in path does not match ID in body")

        def merge(conn: sqlite3.Connection) -> tuple[App, App]:
            old = records.app(conn, app_id)
            if change.expect is not None:
                change.expect(old)
            if change.name and change.name != old.name:
                raise Conflict("Could not update - name is immutable")
            new = replace(
                old,
                **_settings(change),
                compartment_id=self._compartment(change.compartment_id) or old.compartment_id,
                cloud={**old.cloud, **(change.cloud or {})},
                config=rules.new_config(old.config, change.config, replaces=change.replaces_config),
                annotations=rules.merge_annotations(old.annotations, change.annotations),
                syslog_url=old.syslog_url if change.syslog_url is None else change.syslog_url,
            )
            rules.check_app(new)
            if new == old:
                return old, old
            if old.config.keys() - new.config.keys():
                _check_functions(conn, new)
            new = replace(new, updated_at=max(self._now_ms(), old.updated_at))
            records.update_app(conn, new)
            return old, new

        # Shielded, and both are short: a client that leaves must not leave the functions with the old config.
        with trio.CancelScope(shield=True):
            old, new = await self._database.write(merge, apply=lambda both: self._catalog.put_app(both[1]))
            settings = (is_traced, network_of)
            if new.config != old.config or any(of(new.annotations) != of(old.annotations) for of in settings):
                await self._deploys.reconfigure(new)
        return new

    async def delete_app(
        self, app_id: str, *, only_empty: bool = False, expect: Callable[[App], None] | None = None
    ) -> None:
        """Delete the app with all its functions and triggers.

        Raises:
          NotFound: there is none with this id.
          Conflict: ``only_empty``, and it has functions.
        """

        def forget(function_ids: list[str]) -> None:
            self._catalog.drop_app(app_id)
            for function_id in function_ids:
                self._deploys.forget(function_id)

        def delete(conn: sqlite3.Connection) -> list[str]:
            if expect is not None:
                expect(records.app(conn, app_id))
            return records.delete_app(conn, app_id, only_empty=only_empty)

        await self._database.write(delete, apply=forget)


def _settings(change: AppChange) -> dict[str, Any]:
    """The members that need no merging."""
    return given(
        freeform_tags=change.freeform_tags,
        defined_tags=change.defined_tags,
        log_format=change.log_format,
    )


def _check_functions(conn: sqlite3.Connection, app: App) -> None:
    """A key was taken out of the app's config: does a function's bundle require it?"""
    for function in records.functions(conn, app_id=app.id):
        bundle = records.bundle(conn, function.live.digest)
        if bundle is not None:
            rules.check_expected(bundle.expects, app.config, function.live.config, function.name)
