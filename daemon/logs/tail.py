"""Following the logs of many functions at once: what was there, then what comes, in order and no line twice."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

import trio

from daemon.logs.book import FOLLOW_LINES_MAX, TAIL_LINES_MAX, LogBook
from daemon.logs.files import Record, form
from daemon.logs.search import Line, LogQuery
from daemon.telemetry.calls import rfc3339


@dataclass(frozen=True, slots=True)
class Place:
    """How far a reader has come: all lines before ``at``, and the first ``count`` of those that bear this time."""

    at: str
    count: int

    def __str__(self) -> str:
        return f"{self.at}/{self.count}"

    def past(self, at: str) -> Place:
        """The place after one more line, of the time ``at``."""
        return Place(at, self.count + 1 if at == self.at else 1)


_PLACE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)/(\d{1,6})")


def place_of(text: str) -> Place | None:
    """A place as `Place` writes it; None: it is none."""
    found = _PLACE.fullmatch(text)
    return Place(found[1], int(found[2])) if found else None


class Watcher:
    """New lines of the functions that are wanted; bounded: a slow reader loses lines and is told how many."""

    def __init__(self, book: LogBook, functions: Callable[[str], bool], query: LogQuery, *, only: str = "") -> None:
        """Begins to watch. ``functions`` says whether a function, by its id, is wanted; ``only``: the id when it is a
        single one, whose deletion is the end. The caller closes it."""
        self._only = only
        self._book = book
        self._functions = functions
        self._query = query
        self._new: deque[tuple[str, Record]] = deque()
        self._missed = 0
        self._ended = False
        self._woken = trio.Event()
        self.since = time.time()
        book.watchers.add(self)

    def offer(self, function_id: str, record: Record) -> None:
        """A new line of any function."""
        if self._query.call_id and record[1] != self._query.call_id:
            return
        if not self._functions(function_id):
            return
        if len(self._new) >= FOLLOW_LINES_MAX:
            self._missed += 1
            return
        self._new.append((function_id, record))
        self._woken.set()

    def end(self) -> None:
        """No more lines will come."""
        self._ended = True
        self._woken.set()

    def gone(self, function_id: str) -> None:
        """A function was deleted."""
        if function_id == self._only:
            self.end()

    def close(self) -> None:
        """Stop watching. Idempotent."""
        self._book.watchers.discard(self)

    async def history(self, function_ids: list[str], last: int, after: Place | None = None) -> list[Line]:
        """The last lines that were there when watching began, oldest first; ``after``: instead, those that a reader
        has missed who had come that far, and if they are too many for one search, the newest of them."""
        if after is not None:
            return await self._missed_since(function_ids, after)
        return await self._before(function_ids, self._query, last) if last else []

    async def _missed_since(self, function_ids: list[str], after: Place) -> list[Line]:
        query = replace(self._query, since=max(self._query.since, after.at))
        found = await self._before(function_ids, query, TAIL_LINES_MAX)
        seen = 0
        while seen < min(after.count, len(found)) and found[seen]["at"] == after.at:
            seen += 1
        if seen == 0 and len(found) >= TAIL_LINES_MAX:
            text = f"lines were left out: more than {TAIL_LINES_MAX} came while nobody read them"
            found.insert(0, _notice(text))
        return found[seen:]

    async def _before(self, function_ids: list[str], query: LogQuery, limit: int) -> list[Line]:
        until = rfc3339(self.since)
        found, _ = await self._book.search(function_ids, replace(query, until=until), limit=limit)
        # Lines of the very millisecond in which it began may be waiting here as well.
        waiting = {(name, *_key(form(record))) for name, record in self._new if rfc3339(record[0]) == until}
        return [line for line in reversed(found) if (line["function_id"], *_key(line)) not in waiting]

    async def lines(self, *, keep_alive_s: float) -> AsyncIterator[Line | None]:
        """The new lines that fit; None when there was none for ``keep_alive_s``. Ends when the daemon drains."""
        while True:
            while self._new:
                function_id, record = self._new.popleft()
                line: Line = {**form(record), "function_id": function_id}
                if self._query.fits(line):
                    yield line
            if self._missed:
                missed, self._missed = self._missed, 0
                text = f"{missed} lines were left out: the reader is too slow"
                yield _notice(text)
            if self._ended:
                return
            self._woken = trio.Event()
            if self._new:
                continue
            with trio.move_on_after(keep_alive_s) as quiet:
                await self._woken.wait()
            if quiet.cancelled_caught:
                yield None


def _notice(text: str) -> Line:
    """A line of ours in between; it is in no file."""
    return {**form((time.time(), "", "", "platform", text)), "function_id": ""}


def _key(line: Line) -> tuple[object, ...]:
    return line["at"], line["call_id"], line["instance"], line["stream"], line["line"]
