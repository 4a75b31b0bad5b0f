"""Function logs: kept, bounded, tagged, followed."""

from __future__ import annotations

import json
import os
import resource
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from daemon.config.settings import Logs
from daemon.logs.book import FLUSH_S, FOLLOW_LINES_MAX, PENDING_BYTES_MAX, RECORD_BYTES, LogBook, Tail

PATIENCE_S = 60.0


def lines_in(directory: Path) -> list[dict[str, str]]:
    """All lines of all files, oldest first."""
    files = sorted(directory.iterdir(), key=lambda path: path.name, reverse=True)
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


async def all_of(tail: Tail) -> list[str]:
    return [line["line"] async for line in tail]


async def take(tail: Tail, count: int) -> list[str]:
    with trio.fail_after(PATIENCE_S):
        return [(await anext(tail))["line"] for _ in range(count)]


@pytest.fixture
async def book(tmp_path: Path) -> AsyncIterator[LogBook]:
    async with LogBook(tmp_path / "logs", Logs()) as book:
        yield book


class TestKeeping:
    async def test_a_line_is_in_the_file_soon(self, book: LogBook, tmp_path: Path) -> None:
        log = book.open("F1")
        log.write("stdout", "hello", call_id="C1", instance_id=7)
        log.platform("killed")
        path = tmp_path / "logs/F1/log.jsonl"
        with trio.fail_after(PATIENCE_S):
            while not path.exists():  # noqa: ASYNC110  # no event tells it
                await trio.sleep(0.005)
        first, second = lines_in(path.parent)
        at = first.pop("at")
        assert first == {"call_id": "C1", "instance": "7", "stream": "stdout", "level": "", "line": "hello"}
        assert (second["stream"], second["line"], second["call_id"], second["instance"]) == (
            "platform",
            "killed",
            "",
            "",
        )
        assert at.endswith("Z")
        assert len(at) == len("2026-01-01T00:00:00.000Z")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700

    async def test_it_waits_in_memory_no_longer_than_promised(
        self, tmp_path: Path, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with LogBook(tmp_path, Logs()) as book:
            log = book.open("F1")
            log.write("stdout", "hello")
            await trio.sleep(FLUSH_S)
            assert log.take_pending() == [], "the flushing task has taken it"
        assert [line["line"] for line in lines_in(tmp_path / "F1")] == ["hello"]

    async def test_the_last_words_are_written_at_the_end(self, tmp_path: Path) -> None:
        async with LogBook(tmp_path, Logs()) as book:
            for name in ("F1", "F2"):
                book.open(name).write("stderr", "last words")
        assert [line["line"] for name in ("F1", "F2") for line in lines_in(tmp_path / name)] == ["last words"] * 2

    async def test_any_text_survives(self, book: LogBook) -> None:
        texts = [
            "",
            "ünïcödé 日本 🔥",
            "tab\t nul\0 esc\x1b[31m",
            '{"line": "x"}',
            "a\u2028b\x85c\x0bd",
            "\ufffd",
            "x" * 16384,
        ]
        for text in texts:
            book.open("F1").write("stdout", text)
        assert await all_of(book.tail("F1")) == texts

    async def test_boot_output_is_cut_into_lines(self, book: LogBook) -> None:
        book.open("F1").platform_output(b"one\n\ntwo \xff\x0bx\n" + b"y" * 20_000, instance_id=3)
        lines = [line async for line in book.tail("F1")]
        assert [line["line"] for line in lines] == ["one", "", "two \ufffd\x0bx", "y" * 16384, "y" * (20_000 - 16384)]
        assert {(line["stream"], line["instance"]) for line in lines} == {("stderr", "3")}

    async def test_a_name_is_no_path(self, book: LogBook) -> None:
        for name in ("../x", "", "a/b", ".", "a\0"):
            with pytest.raises(ValueError, match="not a function id"):
                book.open(name)

    async def test_a_link_in_place_of_the_file_is_not_followed(self, book: LogBook, tmp_path: Path) -> None:
        victim = tmp_path / "victim"
        victim.write_text("unharmed")
        (tmp_path / "logs/F1").mkdir()
        (tmp_path / "logs/F1/log.jsonl").symlink_to(victim)
        book.open("F1").write("stdout", "x")
        with trio.fail_after(PATIENCE_S):
            while not book.dropped_bytes:  # noqa: ASYNC110  # a thread counts it
                await trio.sleep(0.005)
        assert victim.read_text() == "unharmed"

    async def test_a_line_cut_by_a_crash_spoils_no_other(self, book: LogBook, tmp_path: Path) -> None:
        directory = tmp_path / "logs/F1"
        directory.mkdir()
        (directory / "log.jsonl").write_text(
            '{"at":"2026","call_id":"","instance":"","stream":"stdout","line":"a"}\n{"at":"20'
        )
        book.open("F1").write("stdout", "b")
        assert await all_of(book.tail("F1")) == ["a", "b"]

    async def test_removing_ends_followers_and_files(self, book: LogBook, tmp_path: Path) -> None:
        book.open("F1").write("stdout", "x")
        tail = book.tail("F1", follow=True)
        assert await take(tail, 1) == ["x"]
        await book.remove("F1")
        assert await all_of(tail) == []
        assert not (tmp_path / "logs/F1").exists()
        await book.remove("F1")
        assert await all_of(book.tail("F1")) == []

    async def test_sweeping_removes_the_logs_of_functions_that_are_gone(self, book: LogBook, tmp_path: Path) -> None:
        for name in ("kept", "gone"):
            (tmp_path / "logs" / name).mkdir()
            (tmp_path / "logs" / name / "log.jsonl").touch()
        book.open("open").write("stdout", "x")
        assert await all_of(book.tail("open")) == ["x"]
        assert book.sweep({"kept"}) == 1
        assert sorted(os.listdir(tmp_path / "logs")) == ["kept", "open"]


class TestBounds:
    LIMITS = Logs(file_bytes_max=4000, files_max=3)

    async def test_files_rotate_and_never_grow_beyond_their_bound(self, tmp_path: Path) -> None:
        async with LogBook(tmp_path, self.LIMITS) as book:
            log = book.open("F1")
            for i in range(400):
                log.write("stdout", f"line {i}")
                if i % 50 == 0:
                    await all_of(book.tail("F1", last=0))  # forces the lines into the files
                    assert all(path.stat().st_size <= 4000 for path in (tmp_path / "F1").iterdir())
        assert sorted(path.name for path in (tmp_path / "F1").iterdir()) == ["log.jsonl", "log.jsonl.1", "log.jsonl.2"]
        kept = [line["line"] for line in lines_in(tmp_path / "F1")]
        assert kept == [f"line {i}" for i in range(400 - len(kept), 400)], "the newest, whole, in order"
        assert all(path.stat().st_size <= 4000 for path in (tmp_path / "F1").iterdir())

    async def test_one_file_is_enough_if_it_has_to_be(self, tmp_path: Path) -> None:
        async with LogBook(tmp_path, Logs(file_bytes_max=1000, files_max=1)) as book:
            for i in range(50):
                book.open("F1").write("stdout", f"line {i}")
        assert [path.name for path in (tmp_path / "F1").iterdir()] == ["log.jsonl"]
        assert lines_in(tmp_path / "F1")[-1]["line"] == "line 49"

    async def test_a_line_longer_than_a_file_is_kept_alone(self, tmp_path: Path) -> None:
        async with LogBook(tmp_path, Logs(file_bytes_max=1000, files_max=2)) as book:
            book.open("F1").write("stdout", "x" * 5000)
            book.open("F1").write("stdout", "y")
        assert [len(line["line"]) for line in lines_in(tmp_path / "F1")] == [5000, 1]

    async def test_memory_is_bounded_when_the_disk_is_slow(self, tmp_path: Path) -> None:
        book = LogBook(tmp_path, Logs())  # not entered: nobody writes, as with a disk that hangs
        log = book.open("F1")
        size = 10_000
        for _ in range(2 * PENDING_BYTES_MAX // size):
            log.write("stdout", "x" * size)
        kept = log.take_pending()
        assert sum(len(record[-1]) + RECORD_BYTES for record in kept) <= PENDING_BYTES_MAX
        assert log.dropped_bytes == book.dropped_bytes == 2 * PENDING_BYTES_MAX // size * size - size * len(kept)


class TestTail:
    async def test_the_last_lines_oldest_first_over_all_files(self, tmp_path: Path) -> None:
        async with LogBook(tmp_path, TestBounds.LIMITS) as book:
            for i in range(60):
                book.open("F1").write("stdout", f"line {i}")
            for count in (0, 1, 3, 40):
                assert await all_of(book.tail("F1", last=count)) == [f"line {i}" for i in range(60 - count, 60)]

    async def test_one_call_only(self, book: LogBook) -> None:
        log = book.open("F1")
        for i in range(10):
            log.write("stdout", f"{i} C2 mentions another", call_id=f"C{i % 3}")
        log.platform("of no call")
        assert await all_of(book.tail("F1", call_id="C2")) == [f"{i} C2 mentions another" for i in (2, 5, 8)]
        assert await all_of(book.tail("F1", call_id="C2", last=1)) == ["8 C2 mentions another"]

    async def test_following_misses_nothing_and_repeats_nothing(self, tmp_path: Path) -> None:
        """A writer that never stops, followers that join at any moment."""
        async with LogBook(tmp_path, Logs()) as book:
            log = book.open("F1")
            stop = False

            async def write() -> None:
                i = 0
                while not stop:
                    log.write("stdout", str(i))
                    i += 1
                    await trio.sleep(0.0002)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(write)
                for _ in range(25):
                    tail = book.tail("F1", follow=True, last=10_000)
                    await take(tail, 1)
                    got = [int(line) for line in await take(tail, 300)]
                    tail.close()
                    assert got == list(range(1, 301))
                    await trio.sleep(0.003)
                stop = True

    async def test_a_follower_of_one_call_sees_only_that(self, book: LogBook) -> None:
        log = book.open("F1")
        tail = book.tail("F1", call_id="C1", follow=True)
        async with trio.open_nursery() as nursery:

            async def write() -> None:
                await trio.testing.wait_all_tasks_blocked(0.05)
                for i in range(4):
                    log.write("stdout", str(i), call_id=f"C{i % 2}")

            nursery.start_soon(write)
            assert await take(tail, 2) == ["1", "3"]
        tail.close()

    async def test_a_slow_follower_is_told_what_it_missed(self, book: LogBook) -> None:
        log = book.open("F1")
        log.write("stdout", "first")
        tail = book.tail("F1", follow=True)
        assert await take(tail, 1) == ["first"]
        for i in range(FOLLOW_LINES_MAX + 50):
            log.write("stdout", str(i))
        got = await take(tail, FOLLOW_LINES_MAX + 1)
        assert got[:-1] == [str(i) for i in range(FOLLOW_LINES_MAX)]
        assert got[-1] == "50 lines were left out: the reader is too slow"
        log.write("stdout", "after")
        assert await take(tail, 1) == ["after"]
        tail.close()

    async def test_a_follower_that_leaves_is_forgotten(self, book: LogBook) -> None:
        log = book.open("F1")
        with trio.move_on_after(0.01) as scope:
            async for _ in (tail := book.tail("F1", follow=True)):
                pytest.fail("there is no line")
        assert scope.cancelled_caught
        tail.close()
        log.write("stdout", "x")
        assert await all_of(tail) == []

    async def test_drain_ends_the_followers_after_what_they_have(self, book: LogBook) -> None:
        log = book.open("F1")
        log.write("stdout", "a")
        tail = book.tail("F1", follow=True)
        assert await take(tail, 1) == ["a"]
        log.write("stdout", "b")
        book.end_followers()
        assert await all_of(tail) == ["b"]


async def test_a_full_disk_stops_nobody(tmp_path: Path) -> None:
    told: list[str] = []

    class Log:
        def error(self, event: str, **_: object) -> None:
            told.append(event)

    async with LogBook(tmp_path, Logs(), log=Log()) as book:
        (tmp_path / "F1").write_text("a file where the directory should be")
        book.open("F1").write("stdout", "lost")
        book.open("F2").write("stdout", "kept")
        with trio.fail_after(PATIENCE_S):
            while not (told and (tmp_path / "F2").exists()):  # noqa: ASYNC110  # a thread does it
                await trio.sleep(0.005)
        assert told == ["cannot write logs of functions: their output is lost, and counted"]
        assert book.dropped_bytes == 4
    assert os.listdir(tmp_path / "F2") == ["log.jsonl"]


async def test_what_is_there_can_be_read_on_a_full_disk_and_the_line_that_was_cut_swallows_no_other(
    tmp_path: Path,
) -> None:
    told: list[str] = []

    class Log:
        def error(self, event: str, **_: object) -> None:
            told.append(event)

    async with LogBook(tmp_path, Logs(), log=Log()) as book:
        log = book.open("F1")
        log.write("stdout", "before")
        assert await all_of(book.tail("F1")) == ["before"]
        size = (tmp_path / "F1/log.jsonl").stat().st_size
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))  # like a full disk: 20 bytes, then an error
        try:
            for number in range(5):
                log.write("stdout", f"lost {number}")
                assert await all_of(book.tail("F1")) == ["before"]
            await log.settle()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert book.dropped_bytes == 5 * len("lost 0")
        assert len(told) == 1, "not one line of the daemon's log for each"
        log.write("stdout", "after")
        assert await all_of(book.tail("F1")) == ["before", "after"]
