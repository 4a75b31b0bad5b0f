"""Following the logs of many functions at once: what was there, then what comes, in order and no line twice."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import trio

from daemon.calls import rfc3339
from daemon.logs import FOLLOW_LINES_MAX, LogBook, Record, form
from daemon.logsearch import Line, LogQuery


class Watcher:
    """New lines of the functions that are wanted; bounded: a slow reader loses lines and is told how many."""

    def __init__(self, book: LogBook, functions: Callable[[str], bool], query: LogQuery) -> None:
        """Begins to watch. ``functions`` says whether a function, by its id, is wanted; the caller closes it."""
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

    def close(self) -> None:
        """Stop watching. Idempotent."""
        self._book.watchers.discard(self)

    async def history(self, function_ids: list[str], last: int) -> list[Line]:
        """The last lines that were there when watching began, oldest first."""
        if not last:
            return []
        until = rfc3339(self.since)
        found, _ = await self._book.search(function_ids, replace(self._query, until=until), limit=last)
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
                yield {**form((time.time(), "", "", "platform", text)), "function_id": ""}
            if self._ended:
                return
            self._woken = trio.Event()
            if self._new:
                continue
            with trio.move_on_after(keep_alive_s) as quiet:
                await self._woken.wait()
            if quiet.cancelled_caught:
                yield None


def _key(line: Line) -> tuple[object, ...]:
    return line["at"], line["call_id"], line["instance"], line["stream"], line["line"]
