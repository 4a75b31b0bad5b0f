"""What a worker prints: lines, tags, limits."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.config.settings import Logs
from daemon.logs.book import FunctionLog, LogBook
from daemon.workers.output import LINE_COST_BYTES, PARTIAL_S, REPORT_S, OutputReader

PATIENCE_S = 60.0
F_SETPIPE_SZ = 1031


class Worker:
    """The worker's side of its two pipes and the daemon's reader of them."""

    def __init__(self, log: FunctionLog) -> None:
        self.log = log
        stdout_fd, self.stdout = os.pipe()
        stderr_fd, self.stderr = os.pipe()
        for fd in (stdout_fd, stderr_fd):
            os.set_blocking(fd, False)
        self.reader = OutputReader(log, instance_id=5, stdout_fd=stdout_fd, stderr_fd=stderr_fd)

    def print(self, text: str | bytes) -> None:
        os.write(self.stdout, text.encode() if isinstance(text, str) else text)

    def lines(self) -> list[tuple[str, str, str]]:
        """(call, stream, line) of all that was logged since the last time."""
        return [(call, stream, line) for _, call, _, stream, line in self.log.take_pending()]

    def close(self) -> None:
        for fd in (self.stdout, self.stderr):
            os.close(fd)


def unwritten(tmp_path: Path, limits: Logs | None = None) -> FunctionLog:
    """A log whose lines stay in memory."""
    return LogBook(tmp_path, limits or Logs()).open("F1")


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    worker = Worker(unwritten(tmp_path))
    yield worker
    worker.reader.close()
    worker.close()


@asynccontextmanager
async def reading(worker: Worker) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.reader.run)
        yield
        nursery.cancel_scope.cancel()


async def settled() -> None:
    """Every task has done all that it can do now. Pipes are read in the loop's next turn."""
    await trio.testing.wait_all_tasks_blocked(0.02)


class TestTagging:
    async def test_output_belongs_to_the_call_that_was_running(self, worker: Worker) -> None:
        async with reading(worker):
            for call in ("C1", "C2", "C3"):
                worker.reader.begin_call(call)
                worker.print(f"out of {call}\n")
                os.write(worker.stderr, f"err of {call}\n".encode())
                if call == "C2":
                    await settled()
            worker.reader.end_call()
            worker.print("outside\n")
            await settled()
        expected = [
            (c, s, f"{w} of {c}") for c in ("C1", "C2", "C3") for s, w in (("stdout", "out"), ("stderr", "err"))
        ]
        assert sorted(worker.lines()) == sorted([*expected, ("", "stdout", "outside")])

    async def test_a_line_without_an_end_is_ended_by_the_next_call(self, worker: Worker) -> None:
        worker.reader.begin_call("C1")
        worker.print("no end")
        worker.reader.begin_call("C2")
        worker.print("a whole line\n")
        worker.reader.end_call()
        assert worker.lines() == [("C1", "stdout", "no end"), ("C2", "stdout", "a whole line")]

    async def test_a_line_without_an_end_is_ended_by_silence(
        self, worker: Worker, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with reading(worker):
            worker.reader.begin_call("C1")
            worker.print("prompt> ")
            await trio.sleep(PARTIAL_S / 2)
            assert worker.lines() == []
            await trio.sleep(PARTIAL_S)
            assert worker.lines() == [("C1", "stdout", "prompt> ")]

    async def test_a_line_without_an_end_is_ended_by_closing(self, worker: Worker) -> None:
        worker.reader.begin_call("C1")
        worker.print("last words")
        worker.reader.close()
        worker.reader.close()
        assert worker.lines() == [("C1", "stdout", "last words")]

    async def test_the_instance_is_named(self, worker: Worker) -> None:
        worker.print("x\n")
        worker.reader.end_call()
        assert worker.log.take_pending()[0][2] == "5"

    async def test_beginning_a_call_costs_little_when_nothing_is_pending(self, worker: Worker) -> None:
        def cost(action: Callable[[], object]) -> float:
            return min(_timed(action) for _ in range(5))

        def read_both() -> None:
            for fd in (worker.stdout, worker.stderr):
                os.get_blocking(fd)
                os.get_blocking(fd)

        # Four system calls and nothing else are the yardstick: the machine's speed cancels out.
        assert cost(lambda: worker.reader.begin_call("C1")) < 3 * cost(read_both)


def _timed(action: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    for _ in range(2000):
        action()
    return time.perf_counter() - began_s


class TestLines:
    async def test_both_pipes_ending_ends_the_reader(self, worker: Worker) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.reader.run)
            worker.print("a\nb")
            os.close(worker.stdout)
            await settled()
            with trio.move_on_after(0.01) as limit:
                await worker.reader.finished()
            assert limit.cancelled_caught, "the other pipe is still open"
            os.close(worker.stderr)
            with trio.fail_after(PATIENCE_S):
                await worker.reader.finished()
        worker.stdout, worker.stderr = os.pipe()  # for the fixture to close
        assert [line for _, _, line in worker.lines()] == ["a", "b"]
        worker.reader.begin_call("C9")  # a call on a worker that is dying must not trip over it

    async def test_closing_ends_the_reader(self, worker: Worker) -> None:
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker.reader.run)
                await settled()
                worker.reader.close()

    async def test_long_lines_are_split_between_characters(self, tmp_path: Path) -> None:
        worker = Worker(unwritten(tmp_path, Logs(line_bytes_max=10)))
        worker.print("0123456789" + "abc\n" + "日本語日本\n" + "xxxxxxxxx\n" + "0123456789\n" + "y" * 25 + "\n")
        worker.reader.end_call()
        lines = [line for _, _, line in worker.lines()]
        assert lines == [
            "0123456789", "abc", "日本語", "日本", "xxxxxxxxx", "0123456789", "y" * 10, "y" * 10, "y" * 5,
        ]  # fmt: skip
        worker.reader.close()
        worker.close()

    async def test_bytes_that_are_not_text_are_replaced(self, worker: Worker) -> None:
        worker.print(b"ok \xff\xfe\xc3(\n\x80\n")
        worker.reader.end_call()
        assert [line for _, _, line in worker.lines()] == ["ok \ufffd\ufffd\ufffd(", "\ufffd"]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=30), max_size=12),
    st.lists(st.integers(1, 9), min_size=1, max_size=20),
)
def test_lines_arrive_whatever_the_pieces(lines: list[str], steps: list[int]) -> None:
    async def main() -> None:
        worker = Worker(unwritten(Path("/nonexistent"), Logs(line_bytes_max=1000)))
        data = "".join(line + "\n" for line in lines).encode()
        at = i = 0
        async with reading(worker):
            while at < len(data):
                step = steps[i % len(steps)]
                worker.print(data[at : at + step])
                for _ in range(3):
                    await trio.lowlevel.checkpoint()  # the reader's turn
                at, i = at + step, i + 1
        worker.reader.end_call()
        assert [line for _, _, line in worker.lines()] == lines
        worker.reader.close()
        worker.close()

    trio.run(main)


class TestFloods:
    LIMITS = Logs(rate_bytes_s=10_000, burst_bytes=20_000)

    async def test_what_is_over_the_rate_is_dropped_counted_and_told(
        self, tmp_path: Path, autojump_clock: trio.testing.MockClock
    ) -> None:
        worker = Worker(unwritten(tmp_path, self.LIMITS))
        line = "x" * 99 + "\n"
        cost = 99 + LINE_COST_BYTES
        worker.reader.begin_call("C1")
        for _ in range(4):
            worker.print(line * 500)  # 50 kB each: a pipe holds 64 KiB
            worker.reader.begin_call("C1")
        kept = worker.lines()
        texts = [text for _, stream, text in kept if stream == "stdout"]
        burst = -(-20_000 // cost)
        assert texts == ["x" * 99] * burst
        told = [text for _, stream, text in kept if stream == "platform"]
        dropped = 2000 * 100 - burst * 100
        assert worker.log.dropped_bytes == dropped
        assert told
        assert all("over 10000 bytes/s (logs.rate_bytes_s)" in text for text in told)
        await trio.sleep(1)
        worker.print(line * 500)
        worker.reader.begin_call("C2")
        again = [text for _, stream, text in worker.lines() if stream == "stdout"]
        assert abs(len(again) - 10_000 // cost) <= 2, "a second's worth, and no more"
        worker.reader.close()
        worker.close()

    async def test_drops_are_told_at_most_once_a_second_and_all_of_them(
        self, tmp_path: Path, autojump_clock: trio.testing.MockClock
    ) -> None:
        worker = Worker(unwritten(tmp_path, self.LIMITS))
        for _ in range(100):
            worker.print("x" * 99 + "\n" + "y\n" * 20_000)
            worker.reader.begin_call("C1")
            await trio.sleep(REPORT_S / 20)
        worker.reader.close()
        told = [text for _, stream, text in worker.lines() if stream == "platform"]
        assert 4 <= len(told) <= 8  # five seconds
        assert sum(int(text.split()[0]) for text in told) == worker.log.dropped_bytes
        worker.close()

    async def test_silence_earns_no_more_than_the_burst(
        self, tmp_path: Path, autojump_clock: trio.testing.MockClock
    ) -> None:
        worker = Worker(unwritten(tmp_path, self.LIMITS))
        await trio.sleep(3600)
        worker.print(("x" * 99 + "\n") * 600)
        worker.reader.end_call()
        kept = [text for _, stream, text in worker.lines() if stream == "stdout"]
        assert len(kept) == -(-20_000 // (99 + LINE_COST_BYTES))
        worker.reader.close()
        worker.close()

    async def test_empty_lines_are_not_free(self, tmp_path: Path) -> None:
        worker = Worker(unwritten(tmp_path, self.LIMITS))
        worker.print("\n" * 60_000)
        worker.reader.begin_call("C1")
        assert len(worker.lines()) <= 20_000 // LINE_COST_BYTES + 2
        worker.reader.close()
        worker.close()

    async def test_after_a_drop_no_half_line_is_taken_for_a_whole_one(
        self, tmp_path: Path, autojump_clock: trio.testing.MockClock
    ) -> None:
        worker = Worker(unwritten(tmp_path, self.LIMITS))
        async with reading(worker):
            worker.print("a" * 60_000)  # a long line and a bit, then the burst is used up in the middle of this one
            await trio.sleep(10)
            worker.print("rest of the dropped line\nwhole\n")
            await trio.sleep(0.1)
        worker.reader.end_call()
        lines = [text for _, stream, text in worker.lines() if stream == "stdout"]
        assert lines[-1] == "whole"
        assert not any("rest" in line for line in lines)
        worker.reader.close()
        worker.close()

    async def test_a_dropped_line_without_an_end_takes_nothing_of_the_next_call(
        self, tmp_path: Path, autojump_clock: trio.testing.MockClock
    ) -> None:
        worker = Worker(unwritten(tmp_path, self.LIMITS))
        worker.reader.begin_call("C1")
        worker.print("a" * 60_000)
        worker.reader.begin_call("C1")
        await trio.sleep(10)
        worker.reader.begin_call("C2")
        worker.print("of the next call\n")
        worker.reader.end_call()
        assert worker.lines()[-1] == ("C2", "stdout", "of the next call")
        worker.reader.close()
        worker.close()

    async def test_64_mib_of_output_stay_bounded_on_the_disk(self, tmp_path: Path) -> None:
        """A real flood through a real pipe, with the limits that users get."""
        limits = Logs()
        async with LogBook(tmp_path, limits) as book:
            worker = Worker(book.open("F1"))
            fcntl.fcntl(worker.stdout, F_SETPIPE_SZ, 2**16)
            size = 64 * 2**20
            piece = (b"f" * 127 + b"\n") * 512

            def flood() -> None:
                for _ in range(size // len(piece)):
                    os.write(worker.stdout, piece)
                os.close(worker.stdout)
                os.close(worker.stderr)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker.reader.run)
                await trio.to_thread.run_sync(flood)
                with trio.fail_after(PATIENCE_S):
                    await worker.reader.finished()
            worker.reader.close()
        files = list((tmp_path / "F1").iterdir())
        assert len(files) <= limits.files_max
        assert sum(path.stat().st_size for path in files) <= limits.files_max * limits.file_bytes_max
        kept = sum(path.read_bytes().count(b'"stdout"') for path in files)
        assert kept * 128 + book.dropped_bytes == size, "every byte is either kept or counted as dropped"
        assert kept * 128 < size / 4

    async def test_a_flooder_waits_and_others_do_not(self, tmp_path: Path) -> None:
        """While one instance floods without end, another one's lines come through."""
        async with LogBook(tmp_path, Logs(rate_bytes_s=1000, burst_bytes=1000)) as book:
            loud, quiet = Worker(book.open("F1")), Worker(book.open("F2"))
            os.set_blocking(loud.stdout, False)

            async def flood() -> None:
                while True:
                    await trio.lowlevel.wait_writable(loud.stdout)
                    os.write(loud.stdout, b"z" * 4096)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(flood)
                nursery.start_soon(loud.reader.run)
                nursery.start_soon(quiet.reader.run)
                tail = book.tail("F2", follow=True)
                with trio.fail_after(PATIENCE_S):
                    for i in range(3):
                        quiet.print(f"{i}\n")
                        assert (await anext(tail))["line"] == str(i)
                tail.close()
                nursery.cancel_scope.cancel()
            for worker in (loud, quiet):
                worker.reader.close()
                worker.close()
            assert book.flooders == 0
