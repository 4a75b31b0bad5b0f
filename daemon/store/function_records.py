"""SQL about functions and their versions. Used through `daemon.store.records`."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace

from daemon.errors import NotFound
from daemon.model import Function, Version
from daemon.store.shared import APP_NOT_FOUND, FUNCTION_NOT_FOUND, constraints, json_map

Row = sqlite3.Row
Connection = sqlite3.Connection

_FUNCTIONS = (
    "SELECT f.id, f.app_id, f.name, f.annotations AS f_annotations, f.pcu_count, f.shape, f.state AS f_state,"
    " f.state_error, f.freeform_tags, f.defined_tags, f.created_at AS f_created_at, f.updated_at, v.*"
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
    function = replace(function, live=live, state="active", state_error="")
    insert_version(conn, live)
    _put_function(conn, function)
    conn.execute(
        "UPDATE versions SET state = 'ready', error = '' WHERE function_id = ? AND number = ?",
        (function.id, live.number),
    )
    return function


def insert_function(conn: Connection, function: Function) -> None:
    """Store a new function as it is, with its version: one whose first deploy is still to be done.

    Raises:
      Conflict: the name is taken in this app.
      NotFound: the app is gone.
    """
    insert_version(conn, function.live)
    _put_function(conn, function)


def fail_function(conn: Connection, function: Function) -> None:
    """Store that the function's first version did not become ready. Nothing happens if the function is gone."""
    conn.execute(
        "UPDATE functions SET state = ?, state_error = ?, updated_at = ? WHERE id = ?",
        (function.state, function.state_error, function.updated_at, function.id),
    )
    conn.execute(
        "UPDATE versions SET state = 'failed', error = ? WHERE function_id = ? AND number = ?",
        (function.live.error, function.id, function.live.number),
    )


def _put_function(conn: Connection, function: Function) -> None:
    with constraints(APP_NOT_FOUND):
        conn.execute(
            "INSERT INTO functions (id, app_id, name, live_number, shape, created_at, updated_at, annotations,"
            " pcu_count, state, state_error, freeform_tags, defined_tags)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET live_number = excluded.live_number, updated_at = excluded.updated_at,"
            f" {_SETTINGS_EXCLUDED}",
            (
                function.id, function.app_id, function.name, function.live.number, function.shape,
                function.created_at, function.updated_at, *_settings(function),
            ),
        )  # fmt: skip


_SETTING_COLUMNS = ("annotations", "pcu_count", "state", "state_error", "freeform_tags", "defined_tags")
"""What may change without a new version, in the order of `_settings`."""
_SETTINGS_EXCLUDED = ", ".join(f"{column} = excluded.{column}" for column in _SETTING_COLUMNS)
_SETTINGS_GIVEN = ", ".join(f"{column} = ?" for column in _SETTING_COLUMNS)


def _settings(function: Function) -> tuple[str | int, ...]:
    return (
        json_map(function.annotations), function.pcu_count, function.state, function.state_error,
        json_map(function.freeform_tags), json_map(function.defined_tags),
    )  # fmt: skip


def update_function(conn: Connection, function: Function) -> None:
    """Store what may change without a new version: annotations, provisioned concurrency, tags, destinations...

    Raises:
      NotFound: the function is gone.
    """
    changed = conn.execute(
        f"UPDATE functions SET {_SETTINGS_GIVEN}, updated_at = ? WHERE id = ?",
        (*_settings(function), function.updated_at, function.id),
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
        " start, handler, runtime, source, adapter, state, error, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (function_id, number) DO NOTHING",
        (
            version.function_id, version.number, version.image, version.digest, version.memory_mib,
            version.timeout_s, version.idle_timeout_s, json_map(version.config), version.start, version.handler,
            version.runtime, json_map(version.source), version.adapter, version.state, version.error,
            version.created_at,
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
    functions = conn.execute(
        "UPDATE functions SET state = 'failed', state_error = 'the daemon stopped during the deploy'"
        " WHERE state = 'creating'"
    ).rowcount
    return orphans + failed + functions


def forget_versions(conn: Connection, function_id: str) -> None:
    """Forget the versions of a function that was never stored: its first deploy failed."""
    conn.execute(
        "DELETE FROM versions WHERE function_id = ?1 AND NOT EXISTS (SELECT 1 FROM functions WHERE id = ?1)",
        (function_id,),
    )


def prune_versions(conn: Connection, function_id: str, kept: int) -> int:
    """Forget all but the newest ``kept`` ready versions, as many failed ones, and the live one. How many went."""
    return sum(
        conn.execute(
            "DELETE FROM versions WHERE function_id = ?1 AND state = ?3"
            " AND number != (SELECT live_number FROM functions WHERE id = ?1)"
            " AND number NOT IN"
            " (SELECT number FROM versions WHERE function_id = ?1 AND state = ?3 ORDER BY number DESC LIMIT ?2)",
            (function_id, kept, state),
        ).rowcount
        for state in ("ready", "failed")
    )


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
        adapter=row["adapter"],
        handler=row["handler"],
        runtime=row["runtime"],
        source=json.loads(row["source"]),
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
        state=row["f_state"],
        state_error=row["state_error"],
        freeform_tags=json.loads(row["freeform_tags"]),
        defined_tags=json.loads(row["defined_tags"]),
        created_at=row["f_created_at"],
        updated_at=row["updated_at"],
    )
