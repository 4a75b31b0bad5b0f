"""SQL about work requests of the OCI API."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass

Connection = sqlite3.Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A line of a work request's log, or an error of it (then with ``code``)."""

    at: int
    message: str
    code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkRequest:
    """One operation that its client does not wait for."""

    id: str
    operation: str
    """``CREATE_FUNCTION``, ``UPDATE_APPLICATION``..."""
    status: str
    """``ACCEPTED``, ``IN_PROGRESS``, ``SUCCEEDED`` or ``FAILED``."""
    compartment_id: str
    resource_type: str
    """``function`` or ``application``."""
    resource_id: str
    """Our id."""
    errors: tuple[Entry, ...] = ()
    logs: tuple[Entry, ...] = ()
    accepted_at: int = 0
    started_at: int = 0
    finished_at: int = 0
    """0: not yet."""


def put_work_request(conn: Connection, request: WorkRequest, *, kept: int) -> None:
    """Store a work request, new or changed; of finished ones only the newest ``kept`` stay."""
    conn.execute(
        "INSERT OR REPLACE INTO work_requests VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            request.id, request.operation, request.status, request.compartment_id, request.resource_type,
            request.resource_id, _entries(request.errors), _entries(request.logs), request.accepted_at,
            request.started_at, request.finished_at,
        ),
    )  # fmt: skip
    conn.execute(
        "DELETE FROM work_requests WHERE finished_at != 0 AND id <="
        " (SELECT id FROM work_requests ORDER BY id DESC LIMIT 1 OFFSET ?)",
        (kept,),
    )


def work_request(conn: Connection, id_: str) -> WorkRequest | None:
    """One of them, or None."""
    row = conn.execute("SELECT * FROM work_requests WHERE id = ?", (id_,)).fetchone()
    return None if row is None else _work_request(row)


def work_requests(conn: Connection) -> list[WorkRequest]:
    """All of them, oldest first."""
    return [_work_request(row) for row in conn.execute("SELECT * FROM work_requests ORDER BY id")]


def sweep_work_requests(conn: Connection, *, now_ms: int) -> int:
    """At start: what was under way when the daemon went has failed. How many."""
    error = _entries((Entry(at=now_ms, message="the daemon stopped during the operation", code="InternalServerError"),))
    return conn.execute(
        "UPDATE work_requests SET status = 'FAILED', errors = ?, finished_at = ? WHERE finished_at = 0",
        (error, now_ms),
    ).rowcount


def _entries(entries: tuple[Entry, ...]) -> str:
    return json.dumps([[entry.at, entry.message, entry.code] for entry in entries], ensure_ascii=False)


def _read(text: str) -> tuple[Entry, ...]:
    return tuple(Entry(at=at, message=message, code=code) for at, message, code in json.loads(text))


def _work_request(row: sqlite3.Row) -> WorkRequest:
    return WorkRequest(
        id=row["id"],
        operation=row["operation"],
        status=row["status"],
        compartment_id=row["compartment_id"],
        resource_type=row["resource_type"],
        resource_id=row["resource_id"],
        errors=_read(row["errors"]),
        logs=_read(row["logs"]),
        accepted_at=row["accepted_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
    )
