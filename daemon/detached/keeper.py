"""Stores what became of detached calls, many in one transaction, beside the calls themselves.

Only a call that has run for `MARK_S` is marked as running in the store: most end before, and save the write. The mark
serves to count runs that ended with the daemon.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import trio

from daemon.config.detached import Detached as Settings
from daemon.core.detached import Call, State
from daemon.errors import StokerError
from daemon.store import detached_records as records
from daemon.store.database import Database
from daemon.store.detached_records import Changes, Delivery

MARK_S = 0.25
"""A call that runs longer is marked as running in the store."""
STORE_AGAIN_S = 1.0
"""Pause after the store refused, by a full disk for instance."""
LAST_WRITE_S = 10.0
"""Longest wait for the store when the daemon stops."""
DETAIL_CHARS_MAX = 4096
"""Longest detail of an error that is kept: the end of a traceback."""


class Keeper:
    """What is to be stored. All methods but `run`, `store` and `finish` are synchronous and may be called any time."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        *,
        on_stored: Callable[[Sequence[Delivery]], None],
        log: Any,
    ) -> None:
        """``on_stored`` is called after each write, with the records that are now to be delivered."""
        self.pruned = 0
        """Dead letters that went because there were too many, or they were too old."""
        self._database = database
        self._settings = settings
        self._on_stored = on_stored
        self._log = log
        self._changes = _nothing()
        self._unmarked: deque[tuple[float, Call]] = deque()
        self._wake = trio.Event()

    @property
    def backlog(self) -> int:
        """Ends of calls that are not stored yet."""
        return len(self._changes.done) + len(self._changes.dead) + len(self._changes.queued)

    def started(self, call: Call) -> None:
        """It runs now."""
        self._unmarked.append((trio.current_time() + MARK_S, call))
        self.wake()

    def done(self, call: Call) -> None:
        """It is over and nothing of it is kept."""
        self._changes.done.append(call.id)
        self.wake()

    def queued(self, call: Call, due_at: int, error: StokerError | None) -> None:
        """It goes back to the queue."""
        text = error_text(error) if error is not None else ""
        self._changes.queued.append((call.id, call.attempts, call.interruptions, due_at, text))
        self.wake()

    def dead(self, call: Call, error: StokerError) -> None:
        """It is a dead letter."""
        now_ms = time.time_ns() // 1_000_000
        self._changes.dead.append((call.id, call.attempts, call.interruptions, now_ms, error_text(error)))
        self.wake()

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Records that are stored together with the ends that they tell of."""
        self._changes.deliveries += deliveries
        self.wake()

    def wake(self) -> None:
        """There is something to do."""
        self._wake.set()

    async def run(self) -> NoReturn:
        """Store until cancelled; then `finish` is to be called."""
        while True:
            self._wake = trio.Event()
            self._mark()
            if _anything(self._changes):
                try:
                    await self.store()
                except StokerError as exc:
                    self._log.error("cannot store what became of detached calls", error=str(exc))
                    await trio.sleep(STORE_AGAIN_S)
                continue
            with trio.move_on_at(self._unmarked[0][0] if self._unmarked else float("inf")):
                await self._wake.wait()

    async def finish(self) -> None:
        """Store the rest, within a limit, even if cancelled."""
        with trio.move_on_after(LAST_WRITE_S, shield=True) as limit:
            try:
                await self.store()
            except StokerError as exc:
                self._log.error("cannot store what became of detached calls: some will run again", error=str(exc))
        if limit.cancelled_caught:
            self._log.error("cannot store what became of detached calls in time: some will run again")

    async def store(self) -> None:
        """Store all changes so far.

        Raises:
          InternalError: the disk refuses; they are kept for the next time.
        """
        if not _anything(self._changes):
            return
        changes, self._changes = self._changes, _nothing()
        stored = False

        def after(gone: list[str]) -> None:
            nonlocal stored
            stored = True
            if gone:
                self.pruned += len(gone)
                self._log.warning("dead letters went: too many, or too old", count=len(gone), first=gone[0])
            self._on_stored(changes.deliveries)

        settings = self._settings
        oldest_at = int((time.time() - settings.dead_letter_age_s_max) * 1000)
        try:
            # Shielded: after a cancelled wait nobody would know whether it happened.
            with trio.CancelScope(shield=True):
                await self._database.write(
                    lambda conn: records.apply_changes(
                        conn, changes, letters_max=settings.dead_letters_max,
                        letter_bytes_max=settings.dead_letter_bytes_max, oldest_at=oldest_at,
                    ),
                    apply=after,
                )  # fmt: skip
        finally:
            if not stored:  # older before newer: the later word on a call counts
                self._changes = _joined(changes, self._changes)

    def _mark(self) -> None:
        now_s = trio.current_time()
        while self._unmarked and (self._unmarked[0][0] <= now_s or self._unmarked[0][1].state is not State.RUNNING):
            call = self._unmarked.popleft()[1]
            if call.state is State.RUNNING:
                self._changes.running.append(call.id)


def error_text(error: StokerError) -> str:
    """An error as it is stored and shown: its JSON, with whose fault it is."""
    form = {**error.to_json(), "fault": error.fault, "status": error.status}
    form.pop("call_id", None)
    if "detail" in form:
        form["detail"] = form["detail"][-DETAIL_CHARS_MAX:]
    return json.dumps(form, ensure_ascii=False, separators=(",", ":"))


def _nothing() -> Changes:
    return Changes([], [], [], [], [])


def _anything(changes: Changes) -> bool:
    return bool(changes.running or changes.done or changes.queued or changes.dead or changes.deliveries)


def _joined(first: Changes, then: Changes) -> Changes:
    return Changes(
        first.running + then.running, first.done + then.done, first.queued + then.queued, first.dead + then.dead,
        first.deliveries + then.deliveries,
    )  # fmt: skip
