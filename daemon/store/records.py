"""All SQL about what Stoker keeps. Functions of a connection and values; `daemon.store.database` runs them.

A broken constraint is told as the Fn server tells it: the name is taken, the app is gone.
"""

from __future__ import annotations

import json
import sqlite3

from daemon.catalog import Catalog
from daemon.errors import BadRequest, NotFound
from daemon.model import Trigger
from daemon.store.app_records import app, apps, compartments, delete_app, insert_app, update_app
from daemon.store.bundle_records import (
    bundle,
    bundles,
    digests_in_use,
    forget_bundles,
    references,
    remove_reference,
    resolve,
    set_bundle,
    set_reference,
)
from daemon.store.function_records import (
    delete_function,
    fail_function,
    fail_version,
    forget_versions,
    function,
    functions,
    insert_function,
    insert_version,
    last_number,
    previous_ready,
    prune_versions,
    save_function,
    sweep_building,
    update_function,
    version,
    versions,
)
from daemon.store.shared import (
    APP_EXISTS,
    APP_NOT_FOUND,
    COMPARTMENT_NOT_FOUND,
    FUNCTION_EXISTS,
    FUNCTION_NOT_FOUND,
    FUNCTION_OF_ANOTHER_APP,
    TRIGGER_EXISTS,
    TRIGGER_NOT_FOUND,
    TRIGGER_SOURCE_EXISTS,
    constraints,
    json_map,
)

__all__ = [
    "APP_EXISTS", "APP_NOT_FOUND", "COMPARTMENT_NOT_FOUND", "FUNCTION_EXISTS", "FUNCTION_NOT_FOUND",
    "FUNCTION_OF_ANOTHER_APP", "TRIGGER_EXISTS", "TRIGGER_NOT_FOUND", "TRIGGER_SOURCE_EXISTS",
    "app",
    "apps",
    "bundle",
    "bundles",
    "compartments",
    "delete_app",
    "delete_function",
    "delete_trigger",
    "digests_in_use",
    "fail_function",
    "fail_version",
    "fill_catalog",
    "forget_bundles",
    "forget_versions",
    "function",
    "functions",
    "insert_app",
    "insert_function",
    "insert_trigger",
    "insert_version",
    "last_number",
    "previous_ready",
    "prune_versions",
    "references",
    "remove_reference",
    "resolve",
    "save_function",
    "set_bundle",
    "set_reference",
    "sweep_building",
    "trigger",
    "triggers",
    "update_app",
    "update_function",
    "update_trigger",
    "version",
    "versions",
]  # fmt: skip

Row = sqlite3.Row
Connection = sqlite3.Connection


def fill_catalog(conn: Connection, catalog: Catalog) -> None:
    """Make the catalog equal to what is stored."""
    catalog.load(apps(conn), functions(conn), triggers(conn), compartments(conn))


# ---- triggers


def trigger(conn: Connection, trigger_id: str) -> Trigger:
    """One trigger.

    Raises:
      NotFound: there is none with this id.
    """
    row = conn.execute("SELECT * FROM triggers WHERE id = ?", (trigger_id,)).fetchone()
    if row is None:
        raise NotFound(TRIGGER_NOT_FOUND)
    return _trigger(row)


def triggers(
    conn: Connection,
    *,
    app_id: str = "",
    fn_id: str = "",
    name: str = "",
    after: tuple[str, str] = ("", ""),
    limit: int = -1,
) -> list[Trigger]:
    """Triggers by name and id; ``after`` is that pair of the last one already seen."""
    sql, values = "SELECT * FROM triggers WHERE (name, id) > (?, ?)", [*after]
    for column, value in (("app_id", app_id), ("fn_id", fn_id), ("name", name)):
        if value:
            sql, values = f"{sql} AND {column} = ?", [*values, value]
    return [_trigger(row) for row in conn.execute(f"{sql} ORDER BY name, id LIMIT ?", (*values, limit))]


def insert_trigger(conn: Connection, trigger: Trigger) -> None:
    """Store a new trigger.

    Raises:
      NotFound: the app or the function is not there.
      BadRequest: the function is another app's.
      Conflict: source or name are taken.
    """
    _check_owner(conn, trigger)
    with constraints(FUNCTION_NOT_FOUND):
        conn.execute(
            "INSERT INTO triggers (id, app_id, fn_id, name, type, source, annotations, created_at, updated_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                trigger.id, trigger.app_id, trigger.fn_id, trigger.name, trigger.type, trigger.source,
                json_map(trigger.annotations), trigger.created_at, trigger.updated_at,
            ),
        )  # fmt: skip


def update_trigger(conn: Connection, trigger: Trigger) -> None:
    """Store what may change of a trigger; errors as for a new one."""
    _check_owner(conn, trigger)
    with constraints(FUNCTION_NOT_FOUND):
        conn.execute(
            "UPDATE triggers SET name = ?, fn_id = ?, source = ?, annotations = ?, updated_at = ? WHERE id = ?",
            (
                trigger.name, trigger.fn_id, trigger.source, json_map(trigger.annotations), trigger.updated_at,
                trigger.id,
            ),
        )  # fmt: skip


def delete_trigger(conn: Connection, trigger_id: str) -> None:
    """Delete a trigger.

    Raises:
      NotFound: there is none with this id.
    """
    if not conn.execute("DELETE FROM triggers WHERE id = ?", (trigger_id,)).rowcount:
        raise NotFound(TRIGGER_NOT_FOUND)


def _check_owner(conn: Connection, trigger: Trigger) -> None:
    app(conn, trigger.app_id)
    if function(conn, trigger.fn_id).app_id != trigger.app_id:
        raise BadRequest(FUNCTION_OF_ANOTHER_APP)


def _trigger(row: Row) -> Trigger:
    return Trigger(
        id=row["id"],
        name=row["name"],
        app_id=row["app_id"],
        fn_id=row["fn_id"],
        type=row["type"],
        source=row["source"],
        annotations=json.loads(row["annotations"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
