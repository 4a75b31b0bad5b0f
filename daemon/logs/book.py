"""What functions print and what the platform says about them: one log per function, in bounded, rotated files.

A line is one JSON object: ``at`` (RFC 3339, UTC), ``call_id``, ``instance``, ``stream`` (stdout, stderr, platform),
``level`` (debug, info, warning, error, or empty when the line does not say) and ``line``. Lines wait in memory at most
`FLUSH_S` and are written by a thread: the event loop never waits for the disk. A function that writes more than its
rate loses the surplus; how much was lost is a ``platform`` line, and counted.
"""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import trio

from daemon.config import settings as config
from daemon.logs import search as logsearch
from daemon.logs.files import Files, Record, form
from daemon.logs.search import Line, LogQuery

if TYPE_CHECKING:
    from daemon.logs.tail import Watcher

__all__ = ["FunctionLog", "LogBook", "Tail"]

FLUSH_S = 0.1
"""Longest stay of a line in memory."""
PENDING_BYTES_MAX = 8 * 2**20
"""Most output of one function in memory, should the disk be slow; what is over is dropped and counted."""
RECORD_BYTES = 160
"""What one line costs beyond its text, on the disk and in the rate: an empty line is not free."""
FOLLOW_LINES_MAX = 1000
"""Lines a follower may lag behind; then it loses lines and is told how many."""
TAIL_LINES_MAX = 10_000
"""Most old lines that `LogBook.tail` gives."""
SEARCHES_MAX = 2
"""Searches at once; further ones wait."""
COMPLAIN_S = 60.0
"""How often the daemon's log says that lines cannot be written."""


class FunctionLog:
    """The log of one function; made by `LogBook.open`. Its methods are synchronous and touch no file."""

    def __init__(self, directory: Path, limits: config.Logs, book: LogBook) -> None:
        self.function_id = directory.name
        self.book = book
        self.limits = limits
        self.dropped_bytes = 0
        """Output lost since the start: over the rate, or the disk too slow."""
        self._files = Files(directory, limits)
        self._pending: list[Record] = []
        self._pending_bytes = 0
        self._lost_bytes = 0  # since the last platform line that said so
        self._followers: set[Tail] = set()
        self._flushing = trio.Lock()

    def write(self, stream: str, line: str, *, call_id: str = "", instance_id: int | str = "") -> None:
        """Add one line; ``line`` without its line feed."""
        size = len(line) + RECORD_BYTES
        if self._pending_bytes + size > PENDING_BYTES_MAX:
            self.drop(len(line))
            self._lost_bytes += len(line)
            return
        record = (time.time(), call_id, str(instance_id), stream, line)
        self._pending.append(record)
        self._pending_bytes += size
        for follower in self._followers:
            follower.offer(record)
        for watcher in self.book.watchers:
            watcher.offer(self.function_id, record)
        self.book.note(self)

    def platform(self, line: str, *, call_id: str = "", instance_id: int | str = "") -> None:
        """What Stoker itself has to say about the function."""
        self.write("platform", line, call_id=call_id, instance_id=instance_id)

    def platform_output(self, data: bytes, *, instance_id: int | str = "") -> None:
        """Output of a template or of a worker that has no reader yet: lines on stderr, outside of any call."""
        for line in data.decode("utf-8", "replace").removesuffix("\n").split("\n"):
            for i in range(0, max(len(line), 1), self.limits.line_bytes_max):
                self.write("stderr", line[i : i + self.limits.line_bytes_max], instance_id=instance_id)

    def drop(self, size: int) -> None:
        """Count output that is lost."""
        self.dropped_bytes += size

    def take_pending(self) -> list[Record]:
        """The pending lines, which the caller now has to write."""
        if self._lost_bytes and self._pending_bytes < PENDING_BYTES_MAX // 2:
            self._pending.append((time.time(), "", "", "platform", _lost(self._lost_bytes)))
            self._lost_bytes = 0
        records, self._pending, self._pending_bytes = self._pending, [], 0
        if records:
            for sink in self.book.sinks:
                sink(self.function_id, records)
        return records

    async def history(self, last: int, call_id: str | None, follower: Tail | None) -> list[dict[str, str]]:
        """The last lines, oldest first. ``follower`` gets every line that comes after those, and none twice."""
        async with self._flushing:
            records = self.take_pending()
            lines = await trio.to_thread.run_sync(self._append_and_read, records, last, call_id)
            # No checkpoint from here on: a line is either in the file or offered to the follower.
            if follower is not None:
                for record in self._pending:
                    follower.offer(record)
                self._followers.add(follower)
        return lines

    async def settle(self) -> None:
        """Wait until every line written so far is in the files."""
        if self._pending or self._flushing.locked():
            async with self._flushing:
                if records := self.take_pending():
                    await trio.to_thread.run_sync(self.append, records)

    def append(self, records: list[Record]) -> None:
        """Write lines, or lose and count them when the disk is full: functions go on. Blocks."""
        try:
            self._files.append(records)
        except OSError as exc:
            self.lose(records, exc)

    def lose(self, records: list[Record], why: Exception) -> None:
        """They cannot be written."""
        self.drop(sum(len(record[-1]) for record in records))
        self.book.complain(why)

    def _append_and_read(self, records: list[Record], last: int, call_id: str | None) -> list[dict[str, str]]:
        if records:
            self.append(records)
        return self._files.read(last, call_id)

    def leave(self, follower: Tail) -> None:
        """The follower wants no more lines."""
        self._followers.discard(follower)

    def files(self) -> list[Path]:
        """Its files, the newest first; not all need be there."""
        return self._files.paths()

    def end(self) -> None:
        """The function is deleted: followers come to their end."""
        for follower in self._followers:
            follower.end()
        self._followers.clear()


def _lost(size: int) -> str:
    return f"{size} bytes of output were dropped: they came faster than the disk takes them"


class LogBook:
    """All function logs of a node. Use it as ``async with``: that runs the flushing task, and flushes at the end."""

    def __init__(self, root: Path, limits: config.Logs, *, log: Any = None) -> None:
        self._root = root
        self._limits = limits
        self._log = log
        self._logs: dict[str, FunctionLog] = {}
        self._dirty: dict[FunctionLog, None] = {}
        self._wake = trio.Event()
        self._searching = trio.CapacityLimiter(SEARCHES_MAX)
        self._nursery_manager: Any = None
        self._dropped_bytes = 0  # of logs that are gone
        self._told_s = float("-inf")
        self.watchers: set[Watcher] = set()
        """Those who are told of every line of every function at once; see `daemon.logs.tail`."""
        self.sinks: list[Callable[[str, Sequence[Record]], None]] = []
        """Called with a function's id and its new lines, some at a time, on the event loop; must be quick."""
        self.flooders = 0
        """Readers that drop output just now; they share the pace at which they may do so."""

    async def __aenter__(self) -> LogBook:
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)  # once, at the start
        self._nursery_manager = trio.open_nursery()
        nursery = await self._nursery_manager.__aenter__()
        nursery.start_soon(self._run)
        self._nursery = nursery
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._nursery.cancel_scope.cancel(reason="the log book is closed")
        try:
            handled: bool | None = await self._nursery_manager.__aexit__(kind, error, trace)
        finally:
            with trio.CancelScope(shield=True):  # the last words of the functions; bounded by PENDING_BYTES_MAX
                await self._flush_all()
        return handled

    def open(self, function_id: str) -> FunctionLog:
        """The log of a function, made at its first use. Touches no file yet."""
        log = self._logs.get(function_id)
        if log is None:
            log = self._logs[function_id] = FunctionLog(self._directory(function_id), self._limits, self)
        return log

    async def remove(self, function_id: str) -> None:
        """The function is deleted: end its followers, remove its files."""
        log = self._logs.pop(function_id, None)
        if log is not None:
            self._dropped_bytes += log.dropped_bytes
            log.end()
            self._dirty.pop(log, None)
        for watcher in self.watchers:
            watcher.gone(function_id)
        directory = self._directory(function_id)
        await trio.to_thread.run_sync(partial(shutil.rmtree, directory, ignore_errors=True))

    def sweep(self, keep: set[str]) -> int:
        """Remove the files of functions not in ``keep``: deleted when the daemon died. How many. Blocks."""
        left = [path for path in self._root.iterdir() if path.name not in keep and path.name not in self._logs]
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
        return len(left)

    def tail(self, function_id: str, *, call_id: str | None = None, last: int = 100, follow: bool = False) -> Tail:
        """The last lines, oldest first, of one call if ``call_id`` is given; then the new ones as they come."""
        return Tail(self.open(function_id), call_id=call_id, last=min(last, TAIL_LINES_MAX), follow=follow)

    async def search(self, function_ids: Iterable[str], query: LogQuery, *, limit: int) -> tuple[list[Line], bool]:
        """The newest lines that fit, newest first, and whether everything could be looked through in time."""
        opened = [self.open(function_id) for function_id in function_ids]
        for log in opened:
            await log.settle()
        logs = [(log.function_id, log.files()) for log in opened]
        return await trio.to_thread.run_sync(
            partial(logsearch.search, logs, query, limit=min(limit, TAIL_LINES_MAX)), limiter=self._searching
        )

    def end_followers(self) -> None:
        """The daemon drains: every follower comes to its end after the lines that it has."""
        for watcher in self.watchers:
            watcher.end()
        for log in self._logs.values():
            log.end()

    @property
    def dropped_bytes(self) -> int:
        """Output of all functions that was lost since the start."""
        return self._dropped_bytes + sum(log.dropped_bytes for log in self._logs.values())

    async def flush(self) -> None:
        """Write what is in memory, and give it to the sinks."""
        await self._flush_all()

    def _directory(self, function_id: str) -> Path:
        if not function_id.isalnum():
            raise ValueError(f"not a function id: {function_id!r}")
        return self._root / function_id

    def note(self, log: FunctionLog) -> None:
        """The log has lines to write."""
        self._dirty[log] = None
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            await trio.sleep(FLUSH_S / 2)  # let lines gather: one write for all of them
            self._wake = trio.Event()
            await self._flush_all()

    async def _flush_all(self) -> None:
        dirty, self._dirty = list(self._dirty), {}
        work, locked = [], []
        try:
            for log in dirty:
                try:
                    log._flushing.acquire_nowait()
                except trio.WouldBlock:  # it is being read or flushed: next time
                    self.note(log)
                    continue
                locked.append(log)
                if records := log.take_pending():
                    work.append((log, records))
            if work:
                try:
                    await trio.to_thread.run_sync(self._append_all, work)
                except RuntimeError as exc:  # no thread to be had: too many processes, or no memory
                    for log, records in work:
                        log.lose(records, exc)
        finally:
            for log in locked:
                log._flushing.release()

    def _append_all(self, work: list[tuple[FunctionLog, list[Record]]]) -> None:
        for log, records in work:
            log.append(records)

    def complain(self, error: Exception) -> None:
        """Lines could not be written. Said now and then, not for each: the daemon's log may be on the same disk."""
        now_s = time.monotonic()
        if self._log is not None and now_s - self._told_s >= COMPLAIN_S:
            self._told_s = now_s
            self._log.error("cannot write logs of functions: their output is lost, and counted", error=str(error))


class Tail:
    """Lines of a log as an asynchronous iterator of maps. A follower must be closed."""

    def __init__(self, log: FunctionLog, *, call_id: str | None, last: int, follow: bool) -> None:
        self._log = log
        self._call_id = call_id
        self._last = last
        self._follow = follow
        self._lines: deque[dict[str, str]] | None = None  # None: nothing read yet
        self._new: deque[Record] = deque()
        self._woken = trio.Event()
        self._missed = 0
        self._ended = False

    def offer(self, record: Record) -> None:
        """A new line; it is dropped and counted if this reader is too far behind."""
        if self._call_id is not None and record[1] != self._call_id:
            return
        if len(self._new) >= FOLLOW_LINES_MAX:
            self._missed += 1
            return
        self._new.append(record)
        self._woken.set()

    def end(self) -> None:
        """No more lines will come."""
        self._ended = True
        self._woken.set()

    def __aiter__(self) -> Tail:
        return self

    async def __anext__(self) -> dict[str, str]:
        if self._lines is None:
            follower = self if self._follow else None
            self._lines = deque(await self._log.history(self._last, self._call_id, follower))
        if self._lines:
            return self._lines.popleft()
        while self._follow:
            if self._new:
                return form(self._new.popleft())
            if self._missed:
                missed, self._missed = self._missed, 0
                return form((time.time(), "", "", "platform", f"{missed} lines were left out: the reader is too slow"))
            if self._ended:
                break
            self._woken = trio.Event()
            await self._woken.wait()
        self.close()
        raise StopAsyncIteration

    def close(self) -> None:
        """Stop following. Idempotent."""
        self._ended = True
        self._log.leave(self)
