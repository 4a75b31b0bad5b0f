"""What the pages stand on: the parts of the daemon that they show and change, gathered in one place."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import quote

import trio

from daemon.catalog import Catalog
from daemon.console import history
from daemon.console.history import History, Hour
from daemon.console.sessions import Sessions
from daemon.errors import Conflict
from daemon.http.messages import Route as CallRoute
from daemon.http.ops import Facts
from daemon.logs.tail import Place
from daemon.model import Function
from daemon.registry import Registry
from daemon.sandbox.doctor import Diagnosis
from daemon.store import detached_records, records
from daemon.store.database import Database
from daemon.telemetry.advice import GOAL, Advisor
from daemon.telemetry.calls import CallRecord, rfc3339
from daemon.telemetry.recorder import Found, Question
from daemon.telemetry.series import Series

HOUR_S, WEEK_S = 3600.0, 604_800.0
STEPS = 100
"""Steps of a chart."""
ADVISED_AT_ONCE_MAX = 5_000
"""Most calls of a week that the function's page works advice out from; that of more comes after the page."""
LOG_LINES = 200
"""Lines of log on a page."""
LOG_WAIT_S = 2.0
"""Longest wait for them: a slow disk must not keep the page away."""


class Node(Facts, Protocol):
    """What the pages need of `daemon.node.Node`."""

    @property
    def registry(self) -> Registry: ...
    @property
    def database(self) -> Database: ...


class Calls(Protocol):
    """What they need of `daemon.telemetry.recorder.Recorder`."""

    async def find(self, question: Question, *, limit: int) -> Found: ...
    async def get(self, call_id: str, *, at: float) -> CallRecord | None: ...


class Letters(Protocol):
    """What they need of `daemon.detached.service.Detached`."""

    async def redrive(self, call_ids: Sequence[str]) -> dict[str, str]: ...


@dataclass(slots=True, kw_only=True)
class Desk:
    """Everything that a page can be about."""

    node: Node
    calls: Calls
    letters: Letters
    series: Series
    advisor: Advisor
    diagnosis: Diagnosis
    """What isolates functions on this machine."""
    floor: str
    """The level of isolation below which the daemon does not start."""
    route: CallRoute
    """The data plane's: the console invokes a function as every other client does."""
    sessions: Sessions
    pcu_steps: str = "oci"
    now: Callable[[], float] = field(default=time.time)

    @property
    def catalog(self) -> Catalog:
        """Apps and functions."""
        return self.node.catalog

    def name_of(self, function_id: str) -> str:
        """``app/function``, or the id of one that is gone."""
        function = self.catalog.function(function_id)
        app = self.catalog.app(function.app_id) if function else None
        return f"{app.name}/{function.name}" if app and function else function_id

    def state_of(self, function: Function) -> str:
        """One word about a function."""
        pool = self.node.pool(function.id)
        if not function.live.digest:
            return "no bundle"
        if pool is not None and pool.start_error:
            return "failing"
        return "ready"

    async def logs(self, function_id: str, *, call_id: str = "") -> list[dict[str, Any]]:
        """The last lines of a function or of one of its calls, oldest first."""
        found: list[dict[str, Any]] = []
        if self.catalog.function(function_id) is None:
            return found
        tail = self.node.log_book.tail(function_id, call_id=call_id or None, last=LOG_LINES)
        try:
            with trio.move_on_after(LOG_WAIT_S):
                async for line in tail:
                    found.append(_line(line, self.now()))
        finally:
            tail.close()
        return found

    async def recent(self, question: Question, *, limit: int) -> Found:
        """Calls that have ended, newest first; none where they are not recorded."""
        try:
            return await self.calls.find(question, limit=limit)
        except Conflict:
            return Found(records=[], more=False, scanned=0)

    async def hours(self) -> dict[str, Hour]:
        """The last hour of every function that was called in it; empty where calls are not recorded."""
        until = self.now()
        try:
            found = await self.series.overview(since=until - HOUR_S, until=until)
        except Conflict:
            return {}
        return {function_id: history.hour(minutes, until) for function_id, minutes in found.items() if function_id}

    async def hour(self, function_id: str) -> Hour | None:
        """The last hour of one function; None: it was not called in it, or calls are not recorded."""
        until = self.now()
        try:
            found = await self.series.minutes(function_id, since=until - HOUR_S, until=until)
        except Conflict:
            return None
        return history.hour(found, until) if found else None

    async def history(self, function_id: str, since: float, until: float) -> History | None:
        """A function's series in about a hundred steps; None: calls are not recorded."""
        try:
            points = await self.series.buckets(function_id, since=since, until=until, count=STEPS)
        except Conflict:
            return None
        return history.of(points)

    async def is_advised_at_once(self, function: Function) -> bool:
        """Whether there are so few calls that advice about them need not keep a page waiting."""
        try:
            return await self.advisor.calls(function, since=self.now() - WEEK_S) <= ADVISED_AT_ONCE_MAX
        except Conflict:
            return True

    async def advise(self, function: Function) -> dict[str, Any] | None:
        """What provisioned concurrency would have brought last week (`daemon.telemetry.advice`); None: not recorded."""
        try:
            return await self.advisor.advise(function, since=self.now() - WEEK_S, goal=GOAL)
        except Conflict:
            return None

    def live_logs_url(self, function_id: str, shown: Sequence[dict[str, Any]], began: float) -> str:
        """Where the browser follows a function's log: on from the lines that it shows. ``began``: when those were
        asked for, should there be none."""
        place = Place(rfc3339(began), 0)
        for line in shown:
            place = place.past(line["at"])
        return f"/stoker/v1/functions/{function_id}/logs/stream?after={quote(str(place))}"

    async def images(self) -> list[str]:
        """Names of the bundles that were pushed."""
        rows = await self.node.database.read(records.references)
        return [image for image, _, _ in rows]

    async def dead_letters(self) -> list[detached_records.Letter]:
        """Detached calls that failed for good, newest first."""
        rows = await self.node.database.read(detached_records.dead_letters)
        return rows[::-1]

    async def dead_letter(self, call_id: str) -> detached_records.Letter:
        """One of them.

        Raises:
          NotFound: there is none of this id.
        """
        return await self.node.database.read(lambda conn: detached_records.dead_letter(conn, call_id))

    async def purge(self, call_id: str) -> int:
        """Remove a dead letter."""
        return await self.node.database.write(lambda conn: detached_records.purge(conn, [call_id]))


def clock_of(moment: datetime, now: float) -> str:
    """A moment in the machine's time zone, as all times on the pages are; with the day if that is not today."""
    local, today = moment.astimezone(), datetime.fromtimestamp(now, UTC).astimezone()
    return local.strftime("%H:%M:%S" if local.date() == today.date() else "%Y-%m-%d %H:%M:%S")


def _line(line: Any, now: float) -> dict[str, Any]:
    text = line.get("line", "")
    at = shown = str(line.get("at", ""))
    with contextlib.suppress(ValueError):
        shown = clock_of(datetime.fromisoformat(at), now)
    stream = str(line.get("stream", ""))
    return {
        "text": text if isinstance(text, str) else json.dumps(text),
        "time": shown,
        "at": at,
        "stream": stream if stream in ("stdout", "stderr", "platform") else "",
    }
