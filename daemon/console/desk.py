"""What the pages stand on: the parts of the daemon that they show and change, gathered in one place."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import trio

from daemon.calls import CallRecord
from daemon.catalog import Catalog
from daemon.console.sessions import Sessions
from daemon.core.views import NodeView, PoolView
from daemon.http.messages import Route as CallRoute
from daemon.http.ops import Connections, InstanceInfo
from daemon.logs import LogBook
from daemon.metrics import Metrics
from daemon.model import Function
from daemon.recorder import Found, Question
from daemon.registry import Registry
from daemon.store import detached_records, records
from daemon.store.database import Database

LOG_LINES = 200
"""Lines of log on a page."""
LOG_WAIT_S = 2.0
"""Longest wait for them: a slow disk must not keep the page away."""


class Node(Protocol):
    """What the pages need of `daemon.node.Node`."""

    @property
    def draining(self) -> bool: ...
    @property
    def uptime_s(self) -> float: ...
    @property
    def catalog(self) -> Catalog: ...
    @property
    def registry(self) -> Registry: ...
    @property
    def database(self) -> Database: ...
    @property
    def log_book(self) -> LogBook: ...
    @property
    def metrics(self) -> Metrics: ...

    def instances(self) -> list[InstanceInfo]: ...
    def pool(self, function_id: str) -> PoolView | None: ...
    def view(self) -> NodeView: ...
    def connections(self) -> Connections: ...
    def restart(self, function_id: str) -> int: ...


class Calls(Protocol):
    """What they need of `daemon.recorder.Recorder`."""

    async def find(self, question: Question, *, limit: int) -> Found: ...
    async def get(self, call_id: str, *, at: float) -> CallRecord | None: ...


class Letters(Protocol):
    """What they need of `daemon.detached.Detached`."""

    async def redrive(self, call_ids: Sequence[str]) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """The last hour of one function."""

    calls: int
    errors: int
    cold: int
    per_minute: Sequence[float]
    p50_s: float | None
    p99_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """One function over time, in equal steps; None is a gap. Lengths of time are seconds."""

    times: Sequence[float]
    """Unix time of each step's begin."""
    ok: Sequence[float | None]
    function_errors: Sequence[float | None]
    other_errors: Sequence[float | None]
    cold: Sequence[float | None]
    p50_s: Sequence[float | None]
    p95_s: Sequence[float | None]
    p99_s: Sequence[float | None]
    queue_p95_s: Sequence[float | None]
    start_p95_s: Sequence[float | None]
    handler_p95_s: Sequence[float | None]
    instances: Sequence[float | None]
    busy: Sequence[float | None]
    floor: Sequence[float | None]
    memory_mib: Sequence[float | None]


@dataclass(slots=True, kw_only=True)
class Desk:
    """Everything that a page can be about."""

    node: Node
    calls: Calls
    letters: Letters
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
                    found.append(_line(line))
        finally:
            tail.close()
        return found

    async def hours(self) -> dict[str, Hour]:
        """The last hour of every function that was called in it."""
        return {}

    async def history(self, function_id: str, since: float, until: float) -> History | None:
        """A function's series in about a hundred steps; None: there are no series on this node."""
        return None

    async def advise(self, function_id: str) -> tuple[str, list[tuple[float, float]], float] | None:
        """What provisioned concurrency would bring: a sentence, (count, percent) points, the count advised."""
        return None

    async def doctor(self) -> dict[str, Any] | None:
        """What isolates functions on this machine."""
        return None

    def live_logs_url(self, function_id: str) -> str:
        """Where the browser follows a function's log."""
        return f"/stoker/v1/functions/{function_id}/logs/stream?tail=0"

    async def images(self) -> list[str]:
        """Names of the bundles that were pushed."""
        rows = await self.node.database.read(records.references)
        return [image for image, _, _ in rows]

    async def dead_letters(self) -> list[detached_records.Letter]:
        """Detached calls that failed for good, newest first."""
        rows = await self.node.database.read(detached_records.dead_letters)
        return rows[::-1]

    async def purge(self, call_id: str) -> int:
        """Remove a dead letter."""
        return await self.node.database.write(lambda conn: detached_records.purge(conn, [call_id]))


def _line(line: Any) -> dict[str, Any]:
    text = line.get("line", "")
    at = str(line.get("at", ""))
    stream = str(line.get("stream", ""))
    return {
        "text": text if isinstance(text, str) else json.dumps(text),
        "time": at[11:19] if len(at) > 19 else at,
        "stream": stream if stream in ("stdout", "stderr", "platform") else "",
    }
