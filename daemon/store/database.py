"""SQLite with one writer: every change is a function run by one thread inside a transaction that is on disk
when it is acknowledged (WAL, ``synchronous=FULL``).

Waiting writes are committed together, since the fsync is what costs; each has a savepoint of its own, so
that one that fails takes nobody along. What follows from a change in memory (the catalog, the scheduler) is
given as ``apply``: it runs in the Trio thread after the commit, in the order of the commits, before the
writer is told, and even if the writer has gone away meanwhile. Readers have connections of their own and
never wait for the writer.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import trio

from daemon.errors import InternalError, StokerError
from daemon.store.schema import APPLICATION_ID, MIGRATIONS

T = TypeVar("T")
Transaction = Callable[[sqlite3.Connection], T]

QUEUE_MAX = 256
"""Writes that may wait for the writer; further ones wait in their own task until there is a place."""
GROUP_MAX = 64
"""Writes committed together."""
CACHE_KIB = 512
"""Pages that a connection keeps; SQLite's own 2 MiB for each of eight would be a fifth of the daemon. The kernel has
them too."""
READERS_MAX = 4
"""Reads at once, each on a connection of its own."""
BUSY_S = 2.0
"""How long to wait for a lock that another program (the sqlite3 shell, a backup) holds on the file."""
COMPLAIN_S = 60.0
"""How often the log says that the file cannot be used, for each reason."""


FULL_BYTES = 65_536
"""A disk with less room than this is full: SQLite takes 32 KiB at a time for what it shares between connections."""
MOVED = "the file was moved or deleted while it was in use"


class DatabaseError(Exception):
    """The file cannot be used; the text names it, says why, and what can be done."""


class _Job(Generic[T]):
    __slots__ = ("apply", "done", "error", "fn", "result", "state")

    def __init__(self, fn: Transaction[T], apply: Callable[[T], None] | None) -> None:
        self.fn, self.apply = fn, apply
        self.done = trio.Event()
        self.result: T | None = None
        self.error: BaseException | None = None
        self.state = "waiting"


class Database:
    """An open database. Made by `open`."""

    def __init__(self, path: Path, writer: sqlite3.Connection, log: Any = None) -> None:
        self._path = path
        self._writer = writer
        self._log = log
        self._told_s: dict[str, float] = {}
        found = os.stat(path)
        self._file = found.st_dev, found.st_ino
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._places = trio.Semaphore(QUEUE_MAX)
        self._readers: list[sqlite3.Connection] = []
        self._limiter = trio.CapacityLimiter(READERS_MAX)
        self._token = trio.lowlevel.current_trio_token()
        self._claim = threading.Lock()  # a job is either begun by the thread or given up by its task, never both
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="store-writer", daemon=True)

    @classmethod
    async def open(cls, path: Path, *, log: Any = None) -> Database:
        """Open or make the database and bring it to the present schema. The caller closes it, and holds the lock that
        keeps a second daemon away from the data directory. ``log`` is told when the file cannot be used any more.

        Raises:
          DatabaseError: unreadable, read-only, not a database of ours, damaged, newer, or no room on the disk.
        """
        db = cls(path, await trio.to_thread.run_sync(_prepare, path), log)
        db._thread.start()
        return db

    async def write(self, fn: Transaction[T], *, apply: Callable[[T], None] | None = None) -> T:
        """Run ``fn(connection)`` in a transaction; it is durable when this returns.

        ``fn`` may touch nothing but the connection: it runs in another thread, and once more if the group
        that it was in could not be committed. ``apply(result)`` runs here after the commit (see above) and
        must not fail. If the caller is cancelled before ``fn`` has begun, nothing happens; after that, all
        of it happens.

        Raises:
          StokerError: what ``fn`` raised, or InternalError when the disk refuses.
        """
        await self._places.acquire()
        if self._closed:
            self._places.release()
            raise InternalError(detail=f"{self._path} is closed")
        job = _Job(fn, apply)
        self._jobs.put(job)
        try:
            await job.done.wait()
        except trio.Cancelled:
            with self._claim:
                if job.state == "waiting":
                    job.state = "given up"
            raise
        if job.error is not None:
            raise job.error
        return job.result  # type: ignore[return-value]  # set by the thread: fn's own result

    async def read(self, fn: Transaction[T]) -> T:
        """Run ``fn(connection)`` on one unchanging snapshot of the database, beside the writer.

        Raises:
          StokerError: what ``fn`` raised, or InternalError when the disk refuses.
        """
        if self._closed:
            raise InternalError(detail=f"{self._path} is closed")
        return await trio.to_thread.run_sync(self._read, fn, limiter=self._limiter)

    def _read(self, fn: Transaction[T]) -> T:
        try:
            try:
                conn = self._readers.pop()
            except IndexError:  # at most READERS_MAX times: the limiter
                self._check_place()
                conn = _connect(self._path, readonly=True)
            try:
                conn.execute("BEGIN")
                return fn(conn)
            finally:
                if conn.in_transaction:
                    conn.execute("ROLLBACK")
                self._readers.append(conn)  # list.append and pop are atomic
        except sqlite3.Error as exc:
            raise self._failure("read", exc) from exc

    # ---- the writer thread

    def _work(self) -> None:
        open_ = True
        while open_:
            group = [self._jobs.get()]
            while len(group) < GROUP_MAX and group[-1] is not None:
                try:
                    group.append(self._jobs.get_nowait())
                except queue.Empty:
                    break
            open_ = group[-1] is not None
            jobs = [job for job in group if job is not None]
            self._commit([job for job in jobs if self._begin(job)])
            if jobs:
                with contextlib.suppress(trio.RunFinishedError):
                    self._token.run_sync_soon(self._finish, jobs)

    def _begin(self, job: _Job[Any]) -> bool:
        with self._claim:
            if job.state == "waiting":
                job.state = "begun"
            return job.state == "begun"

    def _commit(self, jobs: list[_Job[Any]]) -> None:
        """Run the jobs in one transaction; if that cannot be committed, each in one of its own."""
        if not jobs or self._try(jobs):
            return
        for job in jobs:
            self._try([job], last=True)

    def _try(self, jobs: list[_Job[Any]], *, last: bool = False) -> bool:
        conn = self._writer
        try:
            self._check_place()
            conn.execute("BEGIN IMMEDIATE")
            for job in jobs:
                job.result = job.error = None
                conn.execute("SAVEPOINT one")
                try:
                    job.result = job.fn(conn)
                except sqlite3.OperationalError:
                    raise  # full, I/O, locked: SQLite may have rolled back everything already
                except BaseException as exc:
                    job.error = self._failure("write", exc) if isinstance(exc, sqlite3.Error) else exc
                    conn.execute("ROLLBACK TO one")  # fails if SQLite rolled back everything: then as above
                conn.execute("RELEASE one")
            conn.execute("COMMIT")
            return True
        except sqlite3.Error as exc:
            with contextlib.suppress(sqlite3.Error):
                if conn.in_transaction:
                    conn.execute("ROLLBACK")
            if last or len(jobs) == 1:
                for job in jobs:
                    job.error = self._failure("write", exc)
                return True
            return False

    def _check_place(self) -> None:
        """What is written to a file without a name is gone with the process: it must not be acknowledged."""
        try:
            found = os.stat(self._path)
        except OSError as exc:
            raise sqlite3.OperationalError(f"{MOVED} ({exc.strerror})") from exc
        if (found.st_dev, found.st_ino) != self._file:
            raise sqlite3.OperationalError(f"{MOVED} (another file is there)")

    def _finish(self, jobs: list[_Job[Any]]) -> None:
        for job in jobs:
            self._places.release()
            if job.state == "begun" and job.error is None and job.apply is not None:
                job.apply(job.result)
            job.done.set()

    def _failure(self, act: str, exc: BaseException) -> StokerError:
        cure = (
            f"; {_way_out(exc, self._path)}"
            if isinstance(exc, sqlite3.OperationalError | sqlite3.DatabaseError)
            else ""
        )
        reason, now_s = f"cannot {act} {self._path}: {_reason(exc)}{cure}", time.monotonic()
        if self._log is not None and now_s - self._told_s.get(reason, float("-inf")) >= COMPLAIN_S:
            self._told_s[reason] = now_s
            self._log.error("the database refuses", error=reason)
        return InternalError(detail=reason)

    async def close(self) -> None:
        """Finish the writes that are waiting, then let go of the file. Nothing may be asked afterwards."""
        if self._closed:
            return
        self._closed = True
        with trio.CancelScope(shield=True):
            self._jobs.put(None)
            await trio.to_thread.run_sync(self._thread.join)
            for reader in range(READERS_MAX):  # none is reading any more
                await self._limiter.acquire_on_behalf_of(reader)
        for conn in self._readers:
            conn.close()
        with contextlib.suppress(sqlite3.Error):  # all is in the log already; this only tidies it away
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._writer.close()


def keep_private(path: Path) -> None:
    """See to it that no other user reads a database: it holds what functions are configured with and were sent.

    Before the file is opened: closing any descriptor of it would drop SQLite's locks. The files beside it get its mode
    from SQLite. The data directory may be one that was there before, open to everybody.
    """
    with contextlib.suppress(OSError):  # what cannot be used is told by whoever uses it
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    for name in (path, f"{path}-wal", f"{path}-shm"):
        with contextlib.suppress(OSError):
            mode = stat.S_IMODE(os.stat(name).st_mode)
            if mode & 0o007:
                os.chmod(name, mode & ~0o007)  # the group stays: somebody may have let it make copies


def _prepare(path: Path) -> sqlite3.Connection:
    """The writer's connection, checked and migrated."""
    keep_private(path)
    try:
        conn = _connect(path, readonly=False)
        try:
            _check(conn, path)
            migrate(conn)
            # SQLite also opens a file that it may only read, even for BEGIN IMMEDIATE: a write tells.
            conn.execute(f"PRAGMA user_version={len(MIGRATIONS)}")
        except BaseException:
            conn.close()
            raise
        return conn
    except sqlite3.Error as exc:
        raise DatabaseError(f"cannot use {path}: {_reason(exc)}; {_way_out(exc, path)}") from exc


def _connect(path: Path, *, readonly: bool) -> sqlite3.Connection:
    # A reader never makes the file: one that was moved away would be begun anew.
    where = f"file:{quote(os.fsencode(path))}?mode={'rw' if readonly else 'rwc'}"
    conn = sqlite3.connect(where, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        mode = conn.execute("PRAGMA journal_mode").fetchone()[0]
        if mode != "wal" and not readonly:
            mode = conn.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise sqlite3.OperationalError("this file system has no shared memory for SQLite's write-ahead log")
        conn.execute("PRAGMA synchronous=FULL")
        conn.execute("PRAGMA foreign_keys=ON")
        conn.execute("PRAGMA trusted_schema=OFF")
        conn.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        conn.execute(f"PRAGMA query_only={'ON' if readonly else 'OFF'}")
    except BaseException:
        conn.close()
        raise
    conn.row_factory = sqlite3.Row
    return conn


def _check(conn: sqlite3.Connection, path: Path) -> None:
    """Refuse a file that is damaged, not ours, or newer than this program."""
    damage = conn.execute("PRAGMA quick_check(1)").fetchone()[0]
    if damage != "ok":
        raise sqlite3.DatabaseError(f"database disk image is malformed ({damage})")
    owner = conn.execute("PRAGMA application_id").fetchone()[0]
    version = conn.execute("PRAGMA user_version").fetchone()[0]
    tables = conn.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if owner not in (0, APPLICATION_ID) or (owner == 0 and tables):
        raise DatabaseError(f"{path} is a database of another program; choose another --data")
    if version > len(MIGRATIONS):
        raise DatabaseError(
            f"{path} was written by a newer Stoker (schema {version}, this one knows up to {len(MIGRATIONS)}); "
            "install that version again, or restore a copy of the data directory from before the update"
        )


def migrate(conn: sqlite3.Connection, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> None:
    """Run the migrations that the file has not seen yet, each in one transaction: all of it or nothing."""
    for number, statements in enumerate(migrations, start=1):
        if conn.execute("PRAGMA user_version").fetchone()[0] >= number:
            continue
        conn.execute("BEGIN IMMEDIATE")
        try:
            conn.execute(f"PRAGMA application_id={APPLICATION_ID}")
            for statement in statements:
                conn.execute(statement)
            conn.execute(f"PRAGMA user_version={number}")
            conn.execute("COMMIT")
        except BaseException:
            if conn.in_transaction:
                conn.execute("ROLLBACK")
            raise


def _reason(exc: BaseException) -> str:
    return str(exc) or type(exc).__name__


def _way_out(exc: BaseException, path: Path) -> str:
    text = str(exc)
    if "not a database" in text or "malformed" in text:
        return (
            f"restore a copy, or save what can be read with: sqlite3 {path} .recover | sqlite3 {path}.new; "
            "or move it away to start empty"
        )
    if "readonly" in text or "unable to open" in text:
        return "the file and its directory must be writable by the user that runs stokerd"
    if MOVED in text:
        return "put it back where it was and restart stokerd; until then nothing can be changed"
    if "I/O" in text and _is_full(path):  # no room for the shared memory beside it
        return "the disk is full: make room on its disk and try again; nothing that was acknowledged is lost"
    if "full" in text:
        return "make room on its disk and try again; nothing that was acknowledged is lost"
    if "locked" in text:
        return f"another program holds it for more than {BUSY_S:g} s; end that program"
    return "see the log of the machine for its disk"


def _is_full(path: Path) -> bool:
    try:
        found = os.statvfs(path.parent)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < FULL_BYTES or not (found.f_favail or not found.f_files)
