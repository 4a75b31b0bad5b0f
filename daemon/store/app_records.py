"""SQL about compartments and apps. Used through `daemon.store.records`."""

from __future__ import annotations

import json
import sqlite3

from daemon.errors import Conflict, NotFound
from daemon.model import App, Compartment
from daemon.store.shared import APP_NOT_FOUND, COMPARTMENT_NOT_FOUND, constraints, json_map

Row = sqlite3.Row
Connection = sqlite3.Connection


def compartments(conn: Connection) -> list[Compartment]:
    """All compartments, the root among them."""
    return [
        Compartment(
            id=row["id"],
            name=row["name"],
            parent_id=row["parent_id"] or "",
            description=row["description"],
            created_at=row["created_at"],
        )
        for row in conn.execute("SELECT * FROM compartments ORDER BY name, id")
    ]


def app(conn: Connection, app_id: str) -> App:
    """One app.

    Raises:
      NotFound: there is none with this id.
    """
    row = conn.execute("SELECT * FROM apps WHERE id = ?", (app_id,)).fetchone()
    if row is None:
        raise NotFound(APP_NOT_FOUND)
    return _app(row)


def apps(conn: Connection, *, name: str = "", after: str = "", limit: int = -1) -> list[App]:
    """Apps by name, bytewise; those after a name, or the one with a name. A negative limit: all."""
    sql, values = "SELECT * FROM apps WHERE name > ?", [after]
    if name:
        sql, values = sql + " AND name = ?", [after, name]
    return [_app(row) for row in conn.execute(f"{sql} ORDER BY name LIMIT ?", (*values, limit))]


def insert_app(conn: Connection, app: App) -> None:
    """Store a new app.

    Raises:
      Conflict: the name is taken.
      NotFound: its compartment is gone.
    """
    with constraints(COMPARTMENT_NOT_FOUND):
        conn.execute(
            "INSERT INTO apps"
            " (id, name, compartment_id, config, annotations, syslog_url, shape, freeform_tags, defined_tags,"
            " log_format, cloud, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                app.id, app.name, app.compartment_id or None, json_map(app.config), json_map(app.annotations),
                app.syslog_url, app.shape, json_map(app.freeform_tags), json_map(app.defined_tags), app.log_format,
                json_map(app.cloud), app.created_at, app.updated_at,
            ),
        )  # fmt: skip


def update_app(conn: Connection, app: App) -> None:
    """Store what may change of an app; its name does not.

    Raises:
      NotFound: its compartment is gone.
    """
    with constraints(COMPARTMENT_NOT_FOUND):
        conn.execute(
            "UPDATE apps SET compartment_id = ?, config = ?, annotations = ?, syslog_url = ?, freeform_tags = ?,"
            " defined_tags = ?, log_format = ?, cloud = ?, updated_at = ? WHERE id = ?",
            (
                app.compartment_id or None, json_map(app.config), json_map(app.annotations), app.syslog_url,
                json_map(app.freeform_tags), json_map(app.defined_tags), app.log_format, json_map(app.cloud),
                app.updated_at, app.id,
            ),
        )  # fmt: skip


def delete_app(conn: Connection, app_id: str, *, only_empty: bool = False) -> list[str]:
    """Delete an app with its functions, versions and triggers; the ids of the functions.

    Raises:
      NotFound: there is none with this id.
      Conflict: ``only_empty``, and it has functions.
    """
    ids = [row[0] for row in conn.execute("SELECT id FROM functions WHERE app_id = ?", (app_id,))]
    if only_empty and ids:
        raise Conflict(f"the application has {len(ids)} function{'s' * (len(ids) > 1)}: delete them first")
    conn.execute("DELETE FROM versions WHERE function_id IN (SELECT id FROM functions WHERE app_id = ?)", (app_id,))
    if not conn.execute("DELETE FROM apps WHERE id = ?", (app_id,)).rowcount:
        raise NotFound(APP_NOT_FOUND)
    return ids


def _app(row: Row) -> App:
    return App(
        id=row["id"],
        name=row["name"],
        compartment_id=row["compartment_id"] or "",
        config=json.loads(row["config"]),
        annotations=json.loads(row["annotations"]),
        syslog_url=row["syslog_url"],
        shape=row["shape"],
        freeform_tags=json.loads(row["freeform_tags"]),
        defined_tags=json.loads(row["defined_tags"]),
        log_format=row["log_format"],
        cloud=json.loads(row["cloud"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
