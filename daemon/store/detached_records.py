"""All SQL about detached calls, dead letters and deliveries. Functions of a connection and values.

A call's row is written before its 202 and deleted when it has succeeded; both go with their function (foreign key).
Bodies are read only when a call is run or looked at.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from daemon.errors import NotFound

__all__ = [
    "REDRIVE_HEADER",
    "Changes",
    "Delivery",
    "Letter",
    "StoredCall",
    "apply_changes",
    "content",
    "dead_letter",
    "dead_letters",
    "deliveries",
    "finish_deliveries",
    "insert_call",
    "open_calls",
    "purge",
    "redrive",
    "totals",
]  # fmt: skip

Connection = sqlite3.Connection
Row = sqlite3.Row
Headers = list[tuple[str, str]]

_STORED = "id, function_id, state, accepted_at, due_at, attempts, interruptions, size_bytes, caller"
REDRIVE_HEADER = "stoker-redrive-of"
"""Tells the function which dead letter the call was: it may have done a part of its work then."""

FUNCTION_NOT_FOUND = "Fn not found"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCall:
    """A call that is not over, without its body."""

    id: str
    function_id: str
    state: str
    accepted_at: int
    due_at: int
    attempts: int
    interruptions: int
    size_bytes: int
    caller: str = ""
    """Who called: `daemon.telemetry.calls.caller_text`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A dead letter, without its body."""

    id: str
    function_id: str
    accepted_at: int
    ended_at: int
    attempts: int
    interruptions: int
    size_bytes: int
    error: str
    """JSON: the last error, as its reply would have been."""
    caller: str = ""
    redrive_of: str = ""
    """The dead letter that this call was, when somebody had it run again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A record on its way to a destination."""

    id: str
    function_id: str
    call_id: str
    outcome: str
    """``success`` or ``failure``."""
    destination: str
    """JSON: `daemon.core.detached_settings.Destination.form`."""
    record: str
    """JSON."""
    attempts: int
    due_at: int
    created_at: int


@dataclass(slots=True)
class Changes:
    """What became of calls since the last time, to be stored in one transaction."""

    running: list[str]
    """Ids of calls that have been running for a while."""
    done: list[str]
    """Ids of calls that succeeded, or whose function is gone."""
    queued: list[tuple[str, int, int, int, str]]
    """(id, attempts, interruptions, due at, error) of calls that go back to the queue."""
    dead: list[tuple[str, int, int, int, str]]
    """(id, attempts, interruptions, ended at, error) of new dead letters."""
    deliveries: list[Delivery]


def insert_call(
    conn: Connection,
    *,
    call_id: str,
    function_id: str,
    accepted_at: int,
    size_bytes: int,
    headers: Headers,
    body: bytes,
    caller: str = "",
) -> None:
    """Store an accepted call.

    Raises:
      NotFound: its function is gone.
    """
    try:
        conn.execute(
            "INSERT INTO detached_calls VALUES (?, ?, 'queued', ?, 0, 0, 0, 0, ?, '', ?, ?, ?, '')",
            (call_id, function_id, accepted_at, size_bytes, _text(headers), body, caller),
        )
    except sqlite3.IntegrityError as exc:
        if "FOREIGN KEY" in str(exc):
            raise NotFound(FUNCTION_NOT_FOUND) from exc
        raise


def _text(headers: Headers) -> str:
    return json.dumps(headers, ensure_ascii=False, separators=(",", ":"))


def open_calls(conn: Connection) -> list[StoredCall]:
    """Every call that is not over, oldest first."""
    rows = conn.execute(
        f"SELECT {_STORED} FROM detached_calls WHERE state IN ('queued', 'running') ORDER BY accepted_at, id"
    )
    return [StoredCall(**dict(row)) for row in rows]


def content(conn: Connection, call_id: str) -> tuple[Headers, bytes] | None:
    """Headers and body of a call or dead letter; None: it is gone."""
    row = conn.execute("SELECT headers, body FROM detached_calls WHERE id = ?", (call_id,)).fetchone()
    return None if row is None else ([(name, value) for name, value in json.loads(row[0])], bytes(row[1]))


def apply_changes(
    conn: Connection, changes: Changes, *, letters_max: int, letter_bytes_max: int, oldest_at: int
) -> list[str]:
    """Store what became of calls. Deliveries of functions that are gone are not stored.

    Dead letters beyond the bounds go, the oldest first, and those that ended before ``oldest_at``; their ids.
    """
    one = conn.executemany
    one(
        "UPDATE detached_calls SET state = 'running' WHERE id = ? AND state = 'queued'",
        [(call_id,) for call_id in changes.running],
    )
    one("DELETE FROM detached_calls WHERE id = ?", [(call_id,) for call_id in changes.done])
    one(
        "UPDATE detached_calls SET state = 'queued', attempts = ?2, interruptions = ?3, due_at = ?4, error = ?5"
        " WHERE id = ?1",
        changes.queued,
    )
    one(
        "UPDATE detached_calls SET state = 'dead', attempts = ?2, interruptions = ?3, ended_at = ?4, error = ?5"
        " WHERE id = ?1",
        changes.dead,
    )
    one(
        "INSERT INTO deliveries SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9"
        " WHERE EXISTS (SELECT 1 FROM functions WHERE id = ?2) ON CONFLICT (id) DO NOTHING",
        [_delivery_row(delivery) for delivery in changes.deliveries],
    )
    return _prune(conn, letters_max, letter_bytes_max, oldest_at) if changes.dead else []


def _prune(conn: Connection, letters_max: int, bytes_max: int, oldest_at: int) -> list[str]:
    count, held = conn.execute("SELECT count(*), total(size_bytes) FROM detached_calls WHERE state = 'dead'").fetchone()
    gone: list[str] = []
    for call_id, size, ended_at in conn.execute(
        "SELECT id, size_bytes, ended_at FROM detached_calls WHERE state = 'dead' ORDER BY ended_at, id"
    ):
        if count <= letters_max and held <= bytes_max and ended_at >= oldest_at:
            break
        gone.append(call_id)
        count, held = count - 1, held - size
    conn.executemany("DELETE FROM detached_calls WHERE id = ?", [(call_id,) for call_id in gone])
    return gone


# ---- dead letters

_LETTER = (
    "SELECT id, function_id, accepted_at, ended_at, attempts, interruptions, size_bytes, error, caller, redrive_of"
    " FROM detached_calls"
)


def dead_letters(
    conn: Connection, *, function_ids: Sequence[str] | None = None, after: tuple[int, str] = (0, ""), limit: int = -1
) -> list[Letter]:
    """Dead letters by acceptance, of some functions or of all; ``after`` is time and id of the last one seen."""
    sql, values = f"{_LETTER} WHERE state = 'dead' AND (accepted_at, id) > (?, ?)", [*after]
    if function_ids is not None:
        sql += f" AND function_id IN ({','.join('?' * len(function_ids))})"
        values += function_ids
    rows = conn.execute(f"{sql} ORDER BY accepted_at, id LIMIT ?", (*values, limit))
    return [Letter(**dict(row)) for row in rows]


def dead_letter(conn: Connection, call_id: str) -> Letter:
    """One dead letter.

    Raises:
      NotFound: there is none with this id.
    """
    row = conn.execute(f"{_LETTER} WHERE state = 'dead' AND id = ?", (call_id,)).fetchone()
    if row is None:
        raise NotFound(f"no dead letter {call_id[:64]}")
    return Letter(**dict(row))


def redrive(conn: Connection, call_ids: Iterable[tuple[str, str]], *, now_ms: int) -> list[StoredCall]:
    """Put dead letters back into the queue as new calls that came now, with all their attempts; those that were.

    ``call_ids``: the dead letter's and that of the new call. Another id, since records, logs and receivers of
    destinations know the old one as a call that is over.
    """
    revived = []
    for old_id, new_id in call_ids:
        found = conn.execute("SELECT headers FROM detached_calls WHERE id = ? AND state = 'dead'", (old_id,)).fetchone()
        if found is None:
            continue
        replaced = ("fn-call-id", REDRIVE_HEADER)
        headers = [(name, value) for name, value in json.loads(found[0]) if name not in replaced]
        headers += [("fn-call-id", new_id), (REDRIVE_HEADER, old_id)]
        row = conn.execute(
            "UPDATE detached_calls SET id = ?, redrive_of = id, headers = ?, state = 'queued', accepted_at = ?,"
            f" attempts = 0, interruptions = 0, due_at = 0, ended_at = 0 WHERE id = ? RETURNING {_STORED}",
            (new_id, _text(headers), now_ms, old_id),
        ).fetchone()
        revived.append(StoredCall(**dict(row)))
    return revived


def purge(conn: Connection, call_ids: Iterable[str]) -> int:
    """Delete dead letters; how many were."""
    return sum(
        conn.execute("DELETE FROM detached_calls WHERE id = ? AND state = 'dead'", (call_id,)).rowcount
        for call_id in call_ids
    )


def totals(conn: Connection) -> dict[str, tuple[int, int]]:
    """Dead letters by function: count and bytes."""
    rows = conn.execute(
        "SELECT function_id, count(*), sum(size_bytes) FROM detached_calls WHERE state = 'dead' GROUP BY function_id"
    )
    return {row[0]: (int(row[1]), int(row[2])) for row in rows}


# ---- deliveries


def deliveries(conn: Connection) -> list[Delivery]:
    """All that are on their way, oldest first."""
    return [Delivery(**dict(row)) for row in conn.execute("SELECT * FROM deliveries ORDER BY created_at, id")]


def finish_deliveries(conn: Connection, over: Iterable[str], later: Iterable[tuple[str, int, int]]) -> None:
    """Forget deliveries that arrived or were given up; note (id, attempts, due at) of those to be tried again."""
    conn.executemany("DELETE FROM deliveries WHERE id = ?", [(delivery_id,) for delivery_id in over])
    conn.executemany("UPDATE deliveries SET attempts = ?2, due_at = ?3 WHERE id = ?1", list(later))


def _delivery_row(d: Delivery) -> tuple[str | int, ...]:
    return (d.id, d.function_id, d.call_id, d.outcome, d.destination, d.record, d.attempts, d.due_at, d.created_at)
