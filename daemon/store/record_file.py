"""What is recorded of calls, in a SQLite file of its own: much is written to it, and losing it loses no function.

Records lie in blocks, packed and compressed: one row per flush instead of one per call, since a row costs the writer
more than a warm call costs the daemon. A block knows its time, and for each function in it how many calls it holds, how
many failed and the longest, so that a search opens only blocks that may have what it looks for. Small blocks are merged
while they are young.

The file is not the store of what was acknowledged: it is written without waiting for the disk (``synchronous=NORMAL``:
consistent after a crash of the machine, complete after one of the daemon), and one that is damaged is set aside.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import msgpack
import trio

from daemon.errors import InternalError
from daemon.store.database import keep_private
from daemon.telemetry.calls import CallRecord

T = TypeVar("T")

APPLICATION_ID = 0x53544F52
"""``STOR``."""
SCHEMA_VERSION = 1
"""A file of another version is set aside: its content is not worth a migration."""
BUSY_S = 2.0
CACHE_KIB = 512
"""Pages that a connection keeps; SQLite's own 2 MiB for each of eight would be a fifth of the daemon. The kernel has
them too."""
READERS_MAX = 2
"""Searches at once."""
MERGE_CALLS_MAX = 256
"""A block with fewer calls takes the next flush in, too,"""
MERGE_S = 60.0
"""if it is not older than this."""
VACUUM_PAGES = 256
"""Pages given back to the file system at each trimming."""

TABLES = (
    """
    CREATE TABLE blocks (
        id INTEGER PRIMARY KEY,
        first_at REAL NOT NULL,
        last_at REAL NOT NULL,
        calls INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        data BLOB NOT NULL
    ) STRICT
    """,
    "CREATE INDEX blocks_by_time ON blocks (last_at, first_at)",
    """
    CREATE TABLE block_functions (
        function_id TEXT NOT NULL,
        block_id INTEGER NOT NULL REFERENCES blocks (id) ON DELETE CASCADE,
        app_id TEXT NOT NULL,
        calls INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        longest_s REAL NOT NULL,
        PRIMARY KEY (function_id, block_id)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX block_functions_by_block ON block_functions (block_id)",
    """
    CREATE TABLE bodies (
        call_id TEXT PRIMARY KEY,
        function_id TEXT NOT NULL,
        at REAL NOT NULL,
        headers TEXT NOT NULL,
        body BLOB NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX bodies_by_time ON bodies (at)",
    """
    CREATE TABLE series (
        step_s INTEGER NOT NULL,
        function_id TEXT NOT NULL,
        at INTEGER NOT NULL,
        data BLOB NOT NULL,
        PRIMARY KEY (step_s, function_id, at)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX series_by_time ON series (step_s, at)",
)


class RecordFile:
    """The open file. Made by `open`. Writes go one at a time, through a thread; so do reads, beside them."""

    def __init__(self, path: Path, writer: sqlite3.Connection) -> None:
        self._path = path
        self._writer = writer
        self._readers: list[sqlite3.Connection] = []
        self._reading = trio.CapacityLimiter(READERS_MAX)
        self._writing = trio.CapacityLimiter(1)
        self._closed = False

    @classmethod
    async def open(cls, path: Path, *, log: Any) -> RecordFile:
        """Open or make the file. One that cannot be used is renamed and a new one begun: calls go on.

        Raises:
          OSError: the directory cannot be written.
        """
        return cls(path, await trio.to_thread.run_sync(_open, path, log))

    async def write(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``fn(connection)`` in a transaction, in a thread.

        Raises:
          InternalError: the file cannot be written; the transaction left nothing.
        """
        return await self._in_thread(self._write, fn, self._writing)

    async def _in_thread(
        self, act: Callable[[Callable[[sqlite3.Connection], T]], T], fn: Callable[[sqlite3.Connection], T],
        limiter: trio.CapacityLimiter,
    ) -> T:  # fmt: skip
        try:
            return await trio.to_thread.run_sync(act, fn, limiter=limiter)
        except RuntimeError as exc:  # "can't start new thread": the machine has no more processes or memory to give
            raise InternalError(detail=f"cannot use {self._path}: {exc}") from exc

    def _write(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        conn = self._writer
        try:
            conn.execute("BEGIN IMMEDIATE")
            try:
                result = fn(conn)
                conn.execute("COMMIT")
            except BaseException:
                if conn.in_transaction:
                    conn.execute("ROLLBACK")
                raise
        except sqlite3.Error as exc:
            raise InternalError(detail=f"cannot write {self._path}: {exc}{_way_out(exc)}") from exc
        return result

    async def read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``fn(connection)`` on one unchanging snapshot, in a thread.

        Raises:
          InternalError: the file cannot be read.
        """
        return await self._in_thread(self._read, fn, self._reading)

    def _read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        try:
            try:
                conn = self._readers.pop()
            except IndexError:
                conn = _connect(self._path, readonly=True)
            try:
                conn.execute("BEGIN")
                return fn(conn)
            finally:
                if conn.in_transaction:
                    conn.execute("ROLLBACK")
                self._readers.append(conn)
        except sqlite3.Error as exc:
            raise InternalError(detail=f"cannot read {self._path}: {exc}{_way_out(exc)}") from exc

    async def close(self) -> None:
        """Let go of the file."""
        if self._closed:
            return
        self._closed = True
        with trio.CancelScope(shield=True):
            await self._writing.acquire()
            for reader in range(READERS_MAX):
                await self._reading.acquire_on_behalf_of(reader)
        for conn in self._readers:
            conn.close()
        with contextlib.suppress(sqlite3.Error):
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._writer.close()


def _way_out(exc: sqlite3.Error) -> str:
    if "malformed" in str(exc) or "not a database" in str(exc):
        return "; restart stokerd: it sets the file aside and begins a new one"
    return ""


def _open(path: Path, log: Any) -> sqlite3.Connection:
    try:
        return _prepare(path)
    except sqlite3.Error as exc:
        reason = str(exc)
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}")
    log.error(
        "call records cannot be read: set aside, and begun anew",
        path=str(path), reason=reason, kept_as=str(aside),
        what_now=f"nothing has to be done; remove {aside.name}, or look into it with the sqlite3 shell",
    )  # fmt: skip
    os.replace(path, aside)
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{path}{suffix}", f"{aside}{suffix}")
    return _prepare(path)


def _prepare(path: Path) -> sqlite3.Connection:
    keep_private(path)
    conn = _connect(path, readonly=False)
    try:
        owner = conn.execute("PRAGMA application_id").fetchone()[0]
        version = conn.execute("PRAGMA user_version").fetchone()[0]
        tables = conn.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if tables and (owner, version) != (APPLICATION_ID, SCHEMA_VERSION):
            raise sqlite3.DatabaseError(f"it is of another program or version (schema {version})")
        if not tables:
            conn.execute("BEGIN IMMEDIATE")
            for statement in TABLES:
                conn.execute(statement)
            conn.execute(f"PRAGMA application_id={APPLICATION_ID}")
            conn.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            conn.execute("COMMIT")
        # A full check of a large file takes seconds; damage mostly shows where the file is used at once: at its ends.
        conn.execute("SELECT sum(length(data)) FROM (SELECT data FROM blocks ORDER BY id DESC LIMIT 100)").fetchone()
        conn.execute("SELECT count(*) FROM block_functions").fetchone()
        conn.execute("SELECT max(at) FROM series").fetchone()
    except BaseException:
        conn.close()
        raise
    return conn


def _connect(path: Path, *, readonly: bool) -> sqlite3.Connection:
    # A reader never makes the file: one that was moved away would be begun anew.
    where = f"file:{quote(os.fsencode(path))}?mode={'rw' if readonly else 'rwc'}"
    conn = sqlite3.connect(where, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        if not readonly:
            conn.execute("PRAGMA auto_vacuum=INCREMENTAL")  # counts only before the first table
            conn.execute("PRAGMA journal_mode=WAL")
            conn.execute("PRAGMA journal_size_limit=16777216")
        conn.execute("PRAGMA synchronous=NORMAL")
        conn.execute("PRAGMA foreign_keys=ON")
        conn.execute("PRAGMA trusted_schema=OFF")
        conn.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        conn.execute(f"PRAGMA query_only={'ON' if readonly else 'OFF'}")
    except BaseException:
        conn.close()
        raise
    return conn


# -- calls


def pack(records: Sequence[CallRecord]) -> bytes:
    """Records as a block's data."""
    packer = msgpack.Packer(use_bin_type=True)
    # One by one: the packer does not let go of the interpreter while it works, and the event loop wants it.
    parts = [packer.pack_array_header(len(records)), *[packer.pack(record) for record in records]]
    return zlib.compress(b"".join(parts), 1)


def unpack(data: bytes) -> list[CallRecord]:
    """The records of a block, in the order of their end."""
    rows: list[Any] = msgpack.unpackb(zlib.decompress(data), raw=False)
    return [CallRecord(*row) for row in rows]


def add_calls(conn: sqlite3.Connection, records: Sequence[CallRecord]) -> None:
    """Store records: a new block, or into the last one if that is small and young."""
    last = conn.execute("SELECT id, first_at, calls, data FROM blocks ORDER BY id DESC LIMIT 1").fetchone()
    if last is not None and last[2] < MERGE_CALLS_MAX and abs(records[0].at - last[1]) < MERGE_S:
        records = [*unpack(last[3]), *records]
        conn.execute("DELETE FROM blocks WHERE id = ?", (last[0],))
    data = pack(records)
    times = [record.at for record in records]
    cursor = conn.execute(
        "INSERT INTO blocks (first_at, last_at, calls, bytes, data) VALUES (?, ?, ?, ?, ?)",
        (min(times), max(times), len(records), len(data), data),
    )
    functions: dict[tuple[str, str], list[float]] = {}
    for record in records:
        sums = functions.get(about := (record.function_id, record.app_id))
        if sums is None:
            sums = functions[about] = [0, 0, 0.0]
        sums[0] += 1
        if record.error:
            sums[1] += 1
        if (total_s := record.queue_s + record.handler_s + record.write_s) > sums[2]:
            sums[2] = total_s
    conn.executemany(
        "INSERT INTO block_functions (function_id, block_id, app_id, calls, failed, longest_s)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        [(function, cursor.lastrowid, app, *sums) for (function, app), sums in functions.items()],
    )


def blocks(
    conn: sqlite3.Connection,
    *,
    app_id: str = "",
    function_id: str = "",
    failed: bool = False,
    longer_s: float = 0.0,
    since: float = 0.0,
    until: float = float("inf"),
) -> Iterator[list[CallRecord]]:
    """The blocks that may hold what is asked for, newest first, one by one."""
    where, values = ["b.last_at >= ?", "b.first_at <= ?"], [since, min(until, 1e12)]
    about = ["TRUE"]
    if function_id:
        about.append("f.function_id = ?")
        values.append(function_id)  # type: ignore[arg-type]
    if app_id:
        about.append("f.app_id = ?")
        values.append(app_id)  # type: ignore[arg-type]
    if failed:
        about.append("f.failed > 0")
    if longer_s > 0:
        about.append("f.longest_s >= ?")
        values.append(longer_s)
    if len(about) > 1:
        chosen = f"SELECT 1 FROM block_functions f WHERE f.block_id = b.id AND {' AND '.join(about)}"
        where.append(f"EXISTS ({chosen})")
    sql = f"SELECT b.data FROM blocks b WHERE {' AND '.join(where)} ORDER BY b.id DESC"
    for (data,) in conn.execute(sql, values):
        yield unpack(data)


def calls_of(conn: sqlite3.Connection, *, function_id: str, since: float) -> int:
    """How many calls of a function the blocks hold that end after a time (Unix)."""
    row = conn.execute(
        "SELECT total(f.calls) FROM block_functions f JOIN blocks b ON b.id = f.block_id"
        " WHERE f.function_id = ? AND b.last_at >= ?",
        (function_id, since),
    ).fetchone()
    return int(row[0])


def call(conn: sqlite3.Connection, call_id: str, *, came: float, slack_s: float, blocks_max: int) -> CallRecord | None:
    """One record; ``came`` is when its id was made (Unix time), right within ``slack_s``.

    Mostly it ran at once. A detached call may have waited, and may have run more than once: the last time counts.
    """
    for until in (came + slack_s, float("inf")):
        for number, found in enumerate(blocks(conn, since=came - slack_s, until=until)):
            for record in reversed(found):
                if record.id == call_id:
                    return record
            if number >= blocks_max:
                break
    return None


def note_writes(conn: sqlite3.Connection, writes: dict[str, float]) -> None:
    """Set ``write_s`` of calls in the last blocks: their clients were slow to take the reply."""
    rows = conn.execute("SELECT id, data FROM blocks ORDER BY id DESC LIMIT 8").fetchall()
    for block_id, data in rows:
        records = unpack(data)
        if not any(record.id in writes for record in records):
            continue
        changed = [record._replace(write_s=writes.get(record.id, record.write_s)) for record in records]
        data = pack(changed)
        conn.execute("UPDATE blocks SET data = ?, bytes = ? WHERE id = ?", (data, len(data), block_id))
        conn.executemany(
            "UPDATE block_functions SET longest_s = max(longest_s, ?) WHERE function_id = ? AND block_id = ?",
            [(record.total_s, record.function_id, block_id) for record in changed if record.id in writes],
        )


def trim_calls(conn: sqlite3.Connection, *, before: float, bytes_max: int) -> int:
    """Remove blocks that are too old, then the oldest while there are too many bytes; how many calls went."""
    gone = 0
    held = conn.execute("SELECT total(bytes) FROM blocks").fetchone()[0]
    old = conn.execute("SELECT id, last_at, calls, bytes FROM blocks ORDER BY id").fetchall()
    for block_id, last_at, calls, size in old:
        if last_at >= before and held <= bytes_max:
            break
        conn.execute("DELETE FROM blocks WHERE id = ?", (block_id,))
        held -= size
        gone += calls
    return gone


def counted(conn: sqlite3.Connection) -> dict[str, Any]:
    """How much is stored."""
    calls, size, oldest = conn.execute("SELECT total(calls), total(bytes), min(first_at) FROM blocks").fetchone()
    bodies, body_bytes = conn.execute("SELECT count(*), total(length(body)) FROM bodies").fetchone()
    return {"calls": int(calls), "bytes": int(size), "oldest": oldest, "bodies": bodies, "body_bytes": int(body_bytes)}


# -- bodies


def add_bodies(conn: sqlite3.Connection, rows: Sequence[tuple[str, str, float, str, bytes]], *, bytes_max: int) -> None:
    """Store request bodies (call id, function id, Unix time, headers as JSON, body); the oldest make room."""
    conn.executemany(
        "INSERT OR REPLACE INTO bodies (call_id, function_id, at, headers, body) VALUES (?, ?, ?, ?, ?)", rows
    )
    held = conn.execute("SELECT total(length(body) + length(headers)) FROM bodies").fetchone()[0]
    if held <= bytes_max:
        return
    for call_id, size in conn.execute(
        "SELECT call_id, length(body) + length(headers) FROM bodies ORDER BY at LIMIT 10000"
    ).fetchall():
        conn.execute("DELETE FROM bodies WHERE call_id = ?", (call_id,))
        held -= size
        if held <= bytes_max:
            break


def body(conn: sqlite3.Connection, call_id: str) -> tuple[str, str, bytes] | None:
    """Function id, headers as JSON and body of a recorded request."""
    row = conn.execute("SELECT function_id, headers, body FROM bodies WHERE call_id = ?", (call_id,)).fetchone()
    return None if row is None else (row[0], row[1], bytes(row[2]))


def trim_bodies(conn: sqlite3.Connection, *, before: float) -> None:
    """Remove old bodies."""
    conn.execute("DELETE FROM bodies WHERE at < ?", (before,))


def give_back(conn: sqlite3.Connection) -> None:
    """Return some free pages to the file system. Not inside a transaction's snapshot of others: it is short."""
    conn.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
