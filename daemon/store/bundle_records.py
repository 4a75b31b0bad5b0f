"""SQL about bundles and the names that point at them. Used through `daemon.store.records`."""

from __future__ import annotations

import json
import sqlite3

from daemon.errors import NotFound
from daemon.model import Bundle

Row = sqlite3.Row
Connection = sqlite3.Connection


def set_bundle(conn: Connection, bundle: Bundle) -> None:
    """Remember an unpacked bundle; the same digest again changes nothing."""
    conn.execute(
        "INSERT INTO bundles (digest, packed_bytes, unpacked_bytes, files, runtime, handler_file, handler_name,"
        " expects, layer, created_at, extra) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (digest) DO NOTHING",
        (
            bundle.digest, bundle.packed_bytes, bundle.unpacked_bytes, bundle.files, bundle.runtime,
            bundle.handler_file, bundle.handler_name, json.dumps(list(bundle.expects)), bundle.layer,
            bundle.created_at,
            json.dumps(
                {
                    "adapter": bundle.adapter,
                    "command": list(bundle.command),
                    "environment": dict(bundle.environment),
                }
            ),
        ),
    )  # fmt: skip


def bundle(conn: Connection, digest: str) -> Bundle | None:
    """One bundle, or None."""
    row = conn.execute("SELECT * FROM bundles WHERE digest = ?", (digest,)).fetchone()
    return None if row is None else _bundle(row)


def bundles(conn: Connection) -> list[Bundle]:
    """All bundles, newest first."""
    return [_bundle(row) for row in conn.execute("SELECT * FROM bundles ORDER BY created_at DESC, digest")]


def set_reference(conn: Connection, name: str, digest: str, *, now_ms: int = 0) -> str | None:
    """Make ``name:version`` point at a bundle; what it pointed at before, or None.

    Raises:
      NotFound: there is no such bundle.
    """
    before = resolve(conn, name)
    if bundle(conn, digest) is None:
        raise NotFound(f"no bundle {digest} on this node")
    conn.execute(
        "INSERT INTO refs (name, digest, updated_at) VALUES (?, ?, ?)"
        " ON CONFLICT (name) DO UPDATE SET digest = excluded.digest, updated_at = excluded.updated_at",
        (name, digest, now_ms),
    )
    return before


def resolve(conn: Connection, name: str) -> str | None:
    """The digest that ``name:version`` points at, or None."""
    row = conn.execute("SELECT digest FROM refs WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row[0])


def references(conn: Connection, *, name: str = "") -> list[tuple[str, str, int]]:
    """``(name:version, digest, updated_at)`` by name; of one name (without version) or of all."""
    rows = conn.execute("SELECT name, digest, updated_at FROM refs ORDER BY name").fetchall()
    return [(r[0], r[1], r[2]) for r in rows if not name or r[0] == name or r[0].rpartition(":")[0] == name]


def remove_reference(conn: Connection, name: str) -> str:
    """Forget ``name:version``; the digest it pointed at. Versions that were deployed from it are not touched.

    Raises:
      NotFound: there is no such name.
    """
    row = conn.execute("DELETE FROM refs WHERE name = ? RETURNING digest", (name,)).fetchone()
    if row is None:
        raise NotFound(f"no bundle named {name}")
    return str(row[0])


def digests_in_use(conn: Connection) -> set[str]:
    """Every digest that a name or a version that is not failed points at: what a sweep must keep."""
    rows = conn.execute(
        "SELECT digest FROM refs UNION SELECT digest FROM versions WHERE state != 'failed' AND digest != ''"
    )
    return {row[0] for row in rows}


def forget_bundles(conn: Connection, keep: set[str]) -> list[str]:
    """Forget every bundle not in ``keep``; their digests."""
    gone = [row[0] for row in conn.execute("SELECT digest FROM bundles") if row[0] not in keep]
    conn.executemany("DELETE FROM bundles WHERE digest = ?", [(digest,) for digest in gone])
    return gone


def _bundle(row: Row) -> Bundle:
    extra = json.loads(row["extra"])
    return Bundle(
        adapter=extra.get("adapter", ""),
        command=tuple(extra.get("command", ())),
        environment=extra.get("environment", {}),
        digest=row["digest"],
        packed_bytes=row["packed_bytes"],
        unpacked_bytes=row["unpacked_bytes"],
        files=row["files"],
        runtime=row["runtime"],
        handler_file=row["handler_file"],
        handler_name=row["handler_name"],
        expects=tuple(json.loads(row["expects"])),
        layer=row["layer"],
        created_at=row["created_at"],
    )
