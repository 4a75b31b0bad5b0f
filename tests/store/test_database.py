"""The database's promises: durable and ordered writes, snapshots for readers, clear errors for files it cannot use."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio

from daemon.errors import Conflict, InternalError
from daemon.store.database import QUEUE_MAX, READERS_MAX, Database, DatabaseError, migrate
from daemon.store.schema import APPLICATION_ID, MIGRATIONS

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path / "stoker.db")
    await database.write(lambda conn: conn.execute("CREATE TABLE t (n INTEGER PRIMARY KEY)"))
    yield database
    await database.close()


def put(number: int) -> Callable[[sqlite3.Connection], int]:
    def insert(conn: sqlite3.Connection) -> int:
        conn.execute("INSERT INTO t VALUES (?)", (number,))
        return number

    return insert


def numbers(conn: sqlite3.Connection) -> list[int]:
    return [row[0] for row in conn.execute("SELECT n FROM t ORDER BY n")]


class Busy:
    """A write that keeps the writer thread until it is let go."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, conn: sqlite3.Connection) -> None:
        self.begun.set()
        assert self.go.wait(60)


@pytest.mark.parametrize("before", [None, 0o644, 0o664, 0o666])
async def test_no_other_user_reads_it(tmp_path: Path, before: int | None) -> None:
    path = tmp_path / "stoker.db"
    os.chmod(tmp_path, 0o755)
    if before is not None:
        path.touch()
        path.chmod(before)
    old = os.umask(0o022)
    try:
        database = await Database.open(path)
        await database.write(lambda conn: conn.execute("CREATE TABLE t (n INTEGER PRIMARY KEY)"))
    finally:
        os.umask(old)
    try:
        modes = {entry.name: entry.stat().st_mode & 0o777 for entry in os.scandir(tmp_path)}
        assert modes.keys() >= {"stoker.db", "stoker.db-wal", "stoker.db-shm"}
        assert not any(mode & 0o007 for mode in modes.values()), modes
        if before is None:
            assert set(modes.values()) == {0o600}
    finally:
        await database.close()


async def test_settings_that_durability_stands_on(db: Database) -> None:
    def settings(conn: sqlite3.Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "application_id", "user_version")
        return [conn.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    full = 2
    assert await db.write(settings) == ["wal", full, 1, APPLICATION_ID, len(MIGRATIONS)]


async def test_a_write_returns_what_the_function_did_and_readers_see_it(db: Database) -> None:
    assert await db.write(put(7)) == 7
    assert await db.read(numbers) == [7]


async def test_a_write_that_raises_changes_nothing_and_takes_nobody_along(db: Database) -> None:
    busy = Busy()

    def half(conn: sqlite3.Connection) -> None:
        conn.execute("INSERT INTO t VALUES (100)")
        raise Conflict("taken")

    errors: list[BaseException] = []

    async def fail() -> None:
        try:
            await db.write(half)
        except Conflict as exc:
            errors.append(exc)

    async with trio.open_nursery() as nursery:  # all of one group: they wait behind the busy one
        nursery.start_soon(db.write, busy)
        await trio.to_thread.run_sync(busy.begun.wait)
        nursery.start_soon(db.write, put(1))
        nursery.start_soon(fail)
        nursery.start_soon(db.write, put(2))
        await trio.testing.wait_all_tasks_blocked()
        busy.go.set()
    assert [str(error) for error in errors] == ["taken"]
    assert await db.read(numbers) == [1, 2]


async def test_applies_run_in_the_order_of_the_commits_before_the_writers_go_on(db: Database) -> None:
    order: list[tuple[str, int]] = []
    main = threading.get_ident()

    async def write(number: int) -> None:
        def apply(result: int) -> None:
            assert threading.get_ident() == main
            order.append(("applied", result))

        await db.write(put(number), apply=apply)
        order.append(("told", number))

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(write, number)
    applied = [number for what, number in order if what == "applied"]
    rows = await db.read(lambda conn: [r[0] for r in conn.execute("SELECT n FROM t ORDER BY rowid")])
    assert sorted(applied) == rows == list(range(100))
    for number in range(100):
        assert order.index(("applied", number)) < order.index(("told", number))


async def test_no_apply_without_a_commit(db: Database) -> None:
    applied: list[int] = []
    await db.write(put(1), apply=applied.append)
    with pytest.raises(InternalError) as caught:
        await db.write(put(1), apply=applied.append)
    assert "UNIQUE constraint failed" in caught.value.detail
    assert applied == [1]


async def test_cancelled_while_waiting_nothing_happens(db: Database) -> None:
    busy = Busy()
    applied: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(db.write, busy)
        await trio.to_thread.run_sync(busy.begun.wait)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(lambda: db.write(put(1), apply=applied.append))
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        busy.go.set()
    assert await db.read(numbers) == []
    assert applied == []


async def test_cancelled_after_it_began_all_of_it_happens(db: Database) -> None:
    busy = Busy()
    applied: list[int] = []

    def slow(conn: sqlite3.Connection) -> int:
        busy(conn)
        return put(1)(conn)

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: db.write(slow, apply=applied.append))
            await trio.to_thread.run_sync(busy.begun.wait)
            scope.cancel()
    assert scope.cancelled_caught
    busy.go.set()
    await db.write(put(2))  # what comes after it is done after it
    assert await db.read(numbers) == [1, 2]
    assert applied == [1]


async def test_the_queue_is_bounded_and_everybody_gets_a_turn(db: Database) -> None:
    busy = Busy()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(db.write, busy)
        await trio.to_thread.run_sync(busy.begun.wait)
        for number in range(QUEUE_MAX + 50):
            nursery.start_soon(db.write, put(number))
        await trio.testing.wait_all_tasks_blocked()
        assert db._jobs.qsize() == QUEUE_MAX - 1  # the busy one has a place too
        busy.go.set()
    assert len(await db.read(numbers)) == QUEUE_MAX + 50
    assert db._places.value == QUEUE_MAX


async def test_readers_do_not_wait_for_the_writer_and_see_whole_writes(db: Database) -> None:
    busy = Busy()

    def half_done(conn: sqlite3.Connection) -> None:
        put(1)(conn)
        busy(conn)
        put(2)(conn)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(db.write, half_done)
        await trio.to_thread.run_sync(busy.begun.wait)
        assert await db.read(numbers) == []
        busy.go.set()
    assert await db.read(numbers) == [1, 2]


async def test_a_read_sees_one_snapshot(db: Database) -> None:
    begun, go = threading.Event(), threading.Event()

    def twice(conn: sqlite3.Connection) -> tuple[list[int], list[int]]:
        first = numbers(conn)
        begun.set()
        assert go.wait(60)
        return first, numbers(conn)

    seen: list[tuple[list[int], list[int]]] = []

    async def look() -> None:
        seen.append(await db.read(twice))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await trio.to_thread.run_sync(begun.wait)
        await db.write(put(1))
        go.set()
    assert seen == [([], [])]


async def test_a_reader_cannot_write(db: Database) -> None:
    with pytest.raises(InternalError, match="internal server error") as caught:
        await db.read(put(1))
    assert "readonly" in caught.value.detail
    assert await db.read(numbers) == []


async def test_many_readers_share_few_connections(db: Database) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(40):
            nursery.start_soon(db.read, numbers)
    assert 1 <= len(db._readers) <= READERS_MAX


async def test_closing_finishes_what_waits_and_then_refuses(tmp_path: Path) -> None:
    path = tmp_path / "stoker.db"
    db = await Database.open(path)
    await db.write(lambda conn: conn.execute("CREATE TABLE t (n INTEGER PRIMARY KEY)"))
    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(db.write, put(number))
        await trio.testing.wait_all_tasks_blocked()
        await db.close()
    await db.close()  # harmless
    for refused in (db.write(put(99)), db.read(numbers)):
        with pytest.raises(InternalError) as caught:
            await refused
        assert "is closed" in caught.value.detail
    again = await Database.open(path)
    assert await again.read(numbers) == list(range(10))
    await again.close()
    assert os.listdir(tmp_path) == ["stoker.db"], "the log is folded in when all are gone"


# ---- files that cannot be used


async def refused(path: Path) -> str:
    with pytest.raises(DatabaseError) as caught:
        await Database.open(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


async def test_not_a_database(tmp_path: Path) -> None:
    path = tmp_path / "stoker.db"
    path.write_bytes(b"Dear diary, this is not SQLite. " * 200)
    assert "file is not a database; restore a copy" in await refused(path)
    assert path.read_bytes().startswith(b"Dear diary")


async def test_a_damaged_database(tmp_path: Path) -> None:
    path = tmp_path / "stoker.db"
    await (await Database.open(path)).close()
    raw = bytearray(path.read_bytes())
    raw[4096 : 4096 * 6] = b"\xff" * 4096 * 5
    path.write_bytes(raw)
    assert "malformed" in await refused(path)


async def test_another_programs_database(tmp_path: Path) -> None:
    path = tmp_path / "stoker.db"
    conn = sqlite3.connect(path)
    conn.execute("CREATE TABLE birds (name TEXT)")
    conn.commit()
    conn.close()
    assert "database of another program; choose another --data" in await refused(path)


async def test_a_newer_database(tmp_path: Path) -> None:
    path = tmp_path / "stoker.db"
    await (await Database.open(path)).close()
    conn = sqlite3.connect(path)
    conn.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    conn.close()
    text = await refused(path)
    assert f"newer Stoker (schema {len(MIGRATIONS) + 1}, this one knows up to {len(MIGRATIONS)})" in text


async def test_no_such_directory(tmp_path: Path) -> None:
    assert "unable to open database file" in await refused(tmp_path / "nowhere" / "stoker.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
async def test_a_file_that_may_not_be_written(tmp_path: Path) -> None:
    path = tmp_path / "stoker.db"
    await (await Database.open(path)).close()
    path.chmod(0o400)
    assert "must be writable by the user that runs stokerd" in await refused(path)


async def test_a_locked_file_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "stoker.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode=EXCLUSIVE")
    other.execute("CREATE TABLE x (y)")
    try:
        assert "locked" in await refused(path)
    finally:
        other.close()


async def test_nothing_is_acknowledged_in_a_file_that_was_moved_away_and_none_is_begun_in_its_place(
    tmp_path: Path,
) -> None:
    told: list[str] = []

    class Log:
        def error(self, event: str, *, error: str) -> None:
            told.append(error)

    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "stoker.db"
    db = await Database.open(path, log=Log())
    await db.write(lambda conn: conn.execute("CREATE TABLE t (n INTEGER PRIMARY KEY)"))
    await db.write(put(1))
    path.rename(tmp_path / "elsewhere")
    for _ in range(3):
        with pytest.raises(InternalError) as caught:
            await db.write(put(2))
        assert "was moved or deleted while it was in use" in caught.value.detail
        assert "put it back where it was" in caught.value.detail
        with pytest.raises(InternalError, match="internal server error"):
            await db.read(numbers)
    assert not path.exists(), "no empty database in its place"
    assert [text.split()[1] for text in told] == ["write", "read"], "told once each, not for every request"

    path.write_bytes(b"")
    with pytest.raises(InternalError) as caught:
        await db.write(put(2))
    assert "another file is there" in caught.value.detail
    path.unlink()

    (tmp_path / "elsewhere").rename(path)
    await db.write(put(3))
    assert await db.read(numbers) == [1, 3]
    await db.close()


# ---- a disk without room


async def test_a_full_disk_fails_the_write_and_nothing_else(db: Database) -> None:
    """SQLite's own limit gives the same error as the disk's end, and can be lifted again."""
    for number in range(10):
        await db.write(put(number))
    pages = await db.write(lambda conn: conn.execute("PRAGMA page_count").fetchone()[0])
    await db.write(lambda conn: conn.execute("CREATE TABLE big (b BLOB)"))
    await db.write(lambda conn: conn.execute(f"PRAGMA max_page_count={pages + 8}").fetchone())
    applied: list[object] = []

    async def grow(outcomes: list[str]) -> None:
        try:
            await db.write(lambda conn: conn.execute("INSERT INTO big VALUES (zeroblob(500000))"), apply=applied.append)
        except InternalError as exc:
            outcomes.append(exc.detail)

    outcomes: list[str] = []
    busy = Busy()
    async with trio.open_nursery() as nursery:  # in one group with writes that fit
        nursery.start_soon(db.write, busy)
        await trio.to_thread.run_sync(busy.begun.wait)
        nursery.start_soon(db.write, put(20))
        nursery.start_soon(grow, outcomes)
        nursery.start_soon(db.write, put(21))
        await trio.testing.wait_all_tasks_blocked()
        busy.go.set()
    assert len(outcomes) == 1
    assert "stoker.db: database or disk is full" in outcomes[0]
    assert applied == []
    assert await db.read(numbers) == [*range(10), 20, 21]
    await db.write(lambda conn: conn.execute("PRAGMA max_page_count=1000000").fetchone())
    await grow(outcomes)
    assert len(applied) == 1


ON_A_SMALL_DISK = """
import sys, trio
from pathlib import Path
from daemon.errors import InternalError
from daemon.store.database import Database, DatabaseError

def fill(path):
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as exc:
            print(exc.strerror)

async def main(directory):
    db = await Database.open(directory / "stoker.db")
    await db.write(lambda conn: conn.execute("CREATE TABLE t (n INTEGER, b BLOB)"))
    fill(directory / "filler")
    try:
        await db.write(lambda conn: conn.execute("INSERT INTO t VALUES (1, zeroblob(200000))"))
    except InternalError as exc:
        print("refused:", exc.detail)
    try:
        await Database.open(directory / "second.db")
    except DatabaseError as exc:
        print("cannot open:", exc)
    (directory / "filler").unlink()
    await db.write(lambda conn: conn.execute("INSERT INTO t VALUES (2, zeroblob(200000))"))
    print(await db.read(lambda conn: [row[0] for row in conn.execute("SELECT n FROM t")]))
    await db.close()

trio.run(main, Path(sys.argv[1]))
"""


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """In a mount namespace of its own, on a tmpfs of 3 MB."""
    mount = f"mount -t tmpfs -o size=3m tmpfs {tmp_path}"
    enter = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*enter, mount], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces here: cannot mount a small disk")
    result = subprocess.run(
        [*enter, f'{mount} && exec "$0" -c "$1" {tmp_path}', sys.executable, ON_A_SMALL_DISK],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=60,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    full, refused, cannot_open, kept = result.stdout.splitlines()
    assert full == "No space left on device"
    assert refused == f"refused: cannot write {tmp_path}/stoker.db: database or disk is full; " + (
        "make room on its disk and try again; nothing that was acknowledged is lost"
    )
    assert cannot_open.startswith(f"cannot open: cannot use {tmp_path}/second.db: ")
    assert kept == "[2]", "with room again it works again, without a restart"


# ---- migrations


def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    conn = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    migrate(conn)
    before = list(conn.iterdump())
    broken = [*MIGRATIONS, ("CREATE TABLE extra (n INTEGER)", "INSERT INTO nowhere VALUES (1)")]
    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        migrate(conn, broken)
    assert conn.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
    assert list(conn.iterdump()) == before
    migrate(conn, [*MIGRATIONS, ("CREATE TABLE extra (n INTEGER)",)])
    assert conn.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS) + 1
    conn.close()


def test_migrations_run_once(tmp_path: Path) -> None:
    conn = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    migrate(conn)
    migrate(conn)
    conn.close()
