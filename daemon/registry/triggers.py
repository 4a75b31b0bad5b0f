"""Triggers: create, change, delete, list."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

from daemon.errors import BadRequest, NotFound
from daemon.model import Trigger
from daemon.registry import rules
from daemon.registry.changes import Page, TriggerChange
from daemon.registry.functions import Functions
from daemon.store import records


class Triggers(Functions):
    """The registry's part for triggers."""

    def trigger(self, trigger_id: str) -> Trigger:
        """One trigger.

        Raises:
          NotFound: there is none with this id.
        """
        trigger = self._catalog.triggers.get(trigger_id)
        if trigger is None:
            raise NotFound(records.TRIGGER_NOT_FOUND)
        return trigger

    def trigger_by_source(self, app_id: str, type_: str, source: str) -> Trigger:
        """The trigger of an app that listens at ``source``.

        Raises:
          NotFound: there is none.
        """
        app = self._catalog.app(app_id)
        found = self._catalog.trigger(app.name, source) if app is not None else None
        if found is None or found[1].type != type_:
            raise NotFound(records.TRIGGER_NOT_FOUND)
        return found[1]

    async def triggers(
        self, app_id: str, *, fn_id: str = "", name: str = "", cursor: str = "", limit: int = 30
    ) -> Page[Trigger]:
        """A page of an app's triggers by name; of one function, or with a name. An unknown app has none.

        Raises:
          BadRequest: no app id; bad cursor.
        """
        if not app_id:
            raise BadRequest("Missing App ID on Trigger")
        # Two functions may have triggers of one name: the cursor names both, else the second would be lost.
        after_name, after_id = rules.parse_cursor(cursor, 2)
        found = await self._database.read(
            lambda conn: records.triggers(
                conn, app_id=app_id, fn_id=fn_id, name=name, after=(after_name, after_id), limit=limit
            )
        )
        full = len(found) == limit
        return Page(found, rules.cursor_of(found[-1].name, found[-1].id) if full else "")

    async def create_trigger(self, change: TriggerChange) -> Trigger:
        """Store a new trigger.

        Raises:
          BadRequest, NotFound, Conflict: a rule is broken; no such app or function; source or name are taken.
        """
        if change.id:
            raise BadRequest("ID cannot be provided for Trigger creation")
        if change.created_at:
            raise BadRequest("Trigger Created At Provided for Create")
        if change.updated_at:
            raise BadRequest("Trigger ID Provided for Create")  # sic: Fn's text
        now = self._now_ms()
        trigger = Trigger(
            id=self._ids.new(),
            name=change.name,
            app_id=change.app_id,
            fn_id=change.fn_id,
            source=change.source,
            type=change.type,
            annotations=rules.without_endpoints(change.annotations),
            created_at=now,
            updated_at=now,
        )
        rules.check_trigger(trigger)
        await self._database.write(
            lambda conn: records.insert_trigger(conn, trigger), apply=lambda _: self._catalog.put_trigger(trigger)
        )
        return trigger

    async def update_trigger(self, trigger_id: str, change: TriggerChange) -> Trigger:
        """Merge name, source, function and annotations into the trigger; app and type are not changed.

        Raises:
          BadRequest, NotFound, Conflict: as for a new one.
        """
        if change.id and change.id != trigger_id:
            raise BadRequest("ID in path does not match ID in body")

        def merge(conn: sqlite3.Connection) -> Trigger:
            old = records.trigger(conn, trigger_id)
            new = replace(
                old,
                name=change.name or old.name,
                fn_id=change.fn_id or old.fn_id,
                source=change.source or old.source,
                annotations=rules.merge_annotations(old.annotations, change.annotations),
            )
            rules.check_trigger(new)
            if new == old:
                return old
            new = replace(new, updated_at=max(self._now_ms(), old.updated_at))
            records.update_trigger(conn, new)
            return new

        return await self._database.write(merge, apply=self._catalog.put_trigger)

    async def delete_trigger(self, trigger_id: str) -> None:
        """Delete the trigger.

        Raises:
          NotFound: there is none with this id.
        """
        await self._database.write(
            lambda conn: records.delete_trigger(conn, trigger_id),
            apply=lambda _: self._catalog.drop_trigger(trigger_id),
        )
