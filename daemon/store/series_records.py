"""SQL of the time series in the file of call records (`daemon.store.record_file`)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

import msgpack

from daemon.core.points import Point

_pack = msgpack.Packer(use_bin_type=True).pack

Key = tuple[int, str, int]
"""Step in seconds, function id (empty: the node), Unix time at which the step begins."""


def add(conn: sqlite3.Connection, deltas: Mapping[Key, Point]) -> None:
    """Add to what is stored of each step."""
    rows = []
    for key, delta in deltas.items():
        known = conn.execute("SELECT data FROM series WHERE step_s = ? AND function_id = ? AND at = ?", key).fetchone()
        point = delta
        if known is not None:
            point = Point.unpacked(msgpack.unpackb(known[0], raw=False, strict_map_key=False))
            point.merge(delta)
        rows.append((*key, _pack(point.packed())))
    conn.executemany("INSERT OR REPLACE INTO series (step_s, function_id, at, data) VALUES (?, ?, ?, ?)", rows)


def between(conn: sqlite3.Connection, *, step_s: int, function_id: str, since: int, until: int) -> dict[int, Point]:
    """The points that begin within a span, by their begin."""
    rows = conn.execute(
        "SELECT at, data FROM series WHERE step_s = ? AND function_id = ? AND at BETWEEN ? AND ? ORDER BY at",
        (step_s, function_id, since, until),
    )
    return {at: Point.unpacked(msgpack.unpackb(data, raw=False, strict_map_key=False)) for at, data in rows}


def packed_between(
    conn: sqlite3.Connection, *, step_s: int, function_id: str, since: int, until: int
) -> list[tuple[int, list[Any]]]:
    """The same as they are stored, for `Point.absorb`, oldest first."""
    rows = conn.execute(
        "SELECT at, data FROM series WHERE step_s = ? AND function_id = ? AND at BETWEEN ? AND ? ORDER BY at",
        (step_s, function_id, since, until),
    )
    return [(at, msgpack.unpackb(data, raw=False, strict_map_key=False)) for at, data in rows]


def of_all(conn: sqlite3.Connection, *, step_s: int, since: int, until: int) -> dict[str, dict[int, Point]]:
    """The points of every function that begin within a span, by function and begin."""
    rows = conn.execute(
        "SELECT function_id, at, data FROM series WHERE step_s = ? AND at BETWEEN ? AND ? ORDER BY at",
        (step_s, since, until),
    )
    found: dict[str, dict[int, Point]] = {}
    for function_id, at, data in rows:
        point = Point.unpacked(msgpack.unpackb(data, raw=False, strict_map_key=False))
        found.setdefault(function_id, {})[at] = point
    return found


def trim(conn: sqlite3.Connection, kept: Iterable[tuple[int, int]], *, rows_max: int) -> None:
    """Remove points of a step (seconds) that began before a time; then the oldest while there are too many."""
    for step_s, before in kept:
        conn.execute("DELETE FROM series WHERE step_s = ? AND at < ?", (step_s, before))
        over = conn.execute("SELECT count(*) FROM series WHERE step_s = ?", (step_s,)).fetchone()[0] - rows_max
        if over > 0:
            conn.execute(
                "DELETE FROM series WHERE step_s = ? AND at <= "
                "(SELECT at FROM series WHERE step_s = ? ORDER BY at LIMIT 1 OFFSET ?)",
                (step_s, step_s, over - 1),
            )
