"""All SQL about what Stoker keeps. Functions of a connection and values; `daemon.store.database` runs them.

A broken constraint is told as the Fn server tells it: the name is taken, the app is gone.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace

from daemon.catalog import Catalog
from daemon.errors import BadRequest, NotFound
from daemon.model import Function, Trigger, Version
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
    "fail_version",
    "fill_catalog",
    "forget_bundles",
    "forget_versions",
    "function",
    "functions",
    "insert_app",
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


# ---- functions and versions

_FUNCTIONS = (
    "SELECT f.id, f.app_id, f.name, f.annotations AS f_annotations, f.pcu_count, f.shape,"
    " f.created_at AS f_created_at, f.updated_at, v.*"
    " FROM functions f JOIN versions v ON v.function_id = f.id AND v.number = f.live_number"
)


def function(conn: Connection, function_id: str) -> Function:
    """One function with its live version.

    Raises:
      NotFound: there is none with this id.
    """
    row = conn.execute(f"{_FUNCTIONS} WHERE f.id = ?", (function_id,)).fetchone()
    if row is None:
        raise NotFound(FUNCTION_NOT_FOUND)
    return _function(row)


def functions(
    conn: Connection, *, app_id: str = "", name: str = "", after: str = "", limit: int = -1
) -> list[Function]:
    """Functions by name, bytewise, of one app or of all."""
    sql, values = f"{_FUNCTIONS} WHERE f.name > ?", [after]
    if app_id:
        sql, values = sql + " AND f.app_id = ?", [*values, app_id]
    if name:
        sql, values = sql + " AND f.name = ?", [*values, name]
    return [_function(row) for row in conn.execute(f"{sql} ORDER BY f.name, f.id LIMIT ?", (*values, limit))]


def save_function(conn: Connection, function: Function) -> Function:
    """Make ``function`` what is stored, new or changed, and its ``live`` version the one that serves, ready.

    The flip of a deploy: the function's row and its version's state change together. Returns what is stored.

    Raises:
      Conflict: the name is taken in this app.
      NotFound: the app, or the version that should be flipped to, is gone.
    """
    live = replace(function.live, state="ready", error="")
    insert_version(conn, live)
    with constraints(APP_NOT_FOUND):
        conn.execute(
            "INSERT INTO functions"
            " (id, app_id, name, live_number, annotations, pcu_count, shape, created_at, updated_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET live_number = excluded.live_number,"
            " annotations = excluded.annotations, pcu_count = excluded.pcu_count, updated_at = excluded.updated_at",
            (
                function.id, function.app_id, function.name, live.number, json_map(function.annotations),
                function.pcu_count, function.shape, function.created_at, function.updated_at,
            ),
        )  # fmt: skip
    conn.execute(
        "UPDATE versions SET state = 'ready', error = '' WHERE function_id = ? AND number = ?",
        (function.id, live.number),
    )
    return replace(function, live=live)


def update_function(conn: Connection, function: Function) -> None:
    """Store what may change without a new version: annotations and provisioned concurrency.

    Raises:
      NotFound: the function is gone.
    """
    changed = conn.execute(
        "UPDATE functions SET annotations = ?, pcu_count = ?, updated_at = ? WHERE id = ?",
        (json_map(function.annotations), function.pcu_count, function.updated_at, function.id),
    ).rowcount
    if not changed:
        raise NotFound(FUNCTION_NOT_FOUND)


def delete_function(conn: Connection, function_id: str) -> None:
    """Delete a function with its versions and triggers.

    Raises:
      NotFound: there is none with this id.
    """
    conn.execute("DELETE FROM versions WHERE function_id = ?", (function_id,))
    if not conn.execute("DELETE FROM functions WHERE id = ?", (function_id,)).rowcount:
        raise NotFound(FUNCTION_NOT_FOUND)


def insert_version(conn: Connection, version: Version) -> None:
    """Store a version as it is; one that is already there stays as it is (a rollback goes to an old one)."""
    conn.execute(
        "INSERT INTO versions (function_id, number, image, digest, memory_mib, timeout_s, idle_timeout_s, config,"
        " start, state, error, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (function_id, number) DO NOTHING",
        (
            version.function_id, version.number, version.image, version.digest, version.memory_mib,
            version.timeout_s, version.idle_timeout_s, json_map(version.config), version.start, version.state,
            version.error, version.created_at,
        ),
    )  # fmt: skip


def fail_version(conn: Connection, function_id: str, number: int, error: str) -> None:
    """Mark a version that was being built as failed; one that was ready once stays ready."""
    conn.execute(
        "UPDATE versions SET state = 'failed', error = ? WHERE function_id = ? AND number = ? AND state = 'building'",
        (error, function_id, number),
    )


def version(conn: Connection, function_id: str, number: int) -> Version | None:
    """One version, in whatever state."""
    row = conn.execute("SELECT * FROM versions WHERE function_id = ? AND number = ?", (function_id, number)).fetchone()
    return None if row is None else _version(row)


def versions(conn: Connection, function_id: str) -> list[Version]:
    """All versions of a function, newest first."""
    rows = conn.execute("SELECT * FROM versions WHERE function_id = ? ORDER BY number DESC", (function_id,))
    return [_version(row) for row in rows]


def last_number(conn: Connection, function_id: str) -> int:
    """The highest number that a version of the function ever got and still has; 0 when it has none."""
    row = conn.execute("SELECT max(number) FROM versions WHERE function_id = ?", (function_id,)).fetchone()
    return int(row[0] or 0)


def previous_ready(conn: Connection, function_id: str, before: int) -> Version | None:
    """The newest ready version older than ``before``: where a rollback goes."""
    row = conn.execute(
        "SELECT * FROM versions WHERE function_id = ? AND number < ? AND state = 'ready' ORDER BY number DESC LIMIT 1",
        (function_id, before),
    ).fetchone()
    return None if row is None else _version(row)


def sweep_building(conn: Connection) -> int:
    """At start: what was being built when the daemon went is failed, or gone with its function. How many."""
    orphans = conn.execute("DELETE FROM versions WHERE function_id NOT IN (SELECT id FROM functions)").rowcount
    failed = conn.execute(
        "UPDATE versions SET state = 'failed', error = 'the daemon stopped during the deploy' WHERE state = 'building'"
    ).rowcount
    return orphans + failed


def forget_versions(conn: Connection, function_id: str) -> None:
    """Forget the versions of a function that was never stored: its first deploy failed."""
    conn.execute(
        "DELETE FROM versions WHERE function_id = ?1 AND NOT EXISTS (SELECT 1 FROM functions WHERE id = ?1)",
        (function_id,),
    )


def prune_versions(conn: Connection, function_id: str, kept: int) -> int:
    """Forget all but the newest ``kept`` versions of a function and its live one. How many went."""
    return conn.execute(
        "DELETE FROM versions WHERE function_id = ?1 AND state != 'building'"
        " AND number != (SELECT live_number FROM functions WHERE id = ?1)"
        " AND number NOT IN"
        " (SELECT number FROM versions WHERE function_id = ?1 ORDER BY number DESC LIMIT ?2)",
        (function_id, kept),
    ).rowcount


def _version(row: Row) -> Version:
    return Version(
        function_id=row["function_id"],
        number=row["number"],
        image=row["image"],
        digest=row["digest"],
        memory_mib=row["memory_mib"],
        timeout_s=row["timeout_s"],
        idle_timeout_s=row["idle_timeout_s"],
        config=json.loads(row["config"]),
        start=row["start"],
        state=row["state"],
        error=row["error"],
        created_at=row["created_at"],
    )


def _function(row: Row) -> Function:
    return Function(
        id=row["id"],
        app_id=row["app_id"],
        name=row["name"],
        live=_version(row),
        annotations=json.loads(row["f_annotations"]),
        pcu_count=row["pcu_count"],
        shape=row["shape"],
        created_at=row["f_created_at"],
        updated_at=row["updated_at"],
    )


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
