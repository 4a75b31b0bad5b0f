"""What detached calls and their deliveries show to Prometheus (`daemon.telemetry.metrics.METRICS` describes it)."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

import trio

from daemon.catalog import Catalog
from daemon.core.detached import State
from daemon.detached.destinations import Outbox
from daemon.detached.service import Detached
from daemon.errors import InternalError
from daemon.store import detached_records as records
from daemon.store.database import Database

Sample = tuple[str, tuple[str, ...], float]


class DetachedMetrics:
    """Gathers the numbers when they are asked for."""

    def __init__(self, database: Database, catalog: Catalog, detached: Detached, outbox: Outbox) -> None:
        self._database = database
        self._catalog = catalog
        self._detached = detached
        self._outbox = outbox

    async def samples(self) -> list[Sample]:
        """Everything of this moment; nothing of functions that are gone."""
        detached, outbox = self._detached, self._outbox
        found: list[Sample] = [
            ("stoker_detached_bytes", (), detached.book.size_bytes),
            ("stoker_detached_accepted_total", (), detached.accepted),
            ("stoker_detached_refused_total", (), detached.refused),
            ("stoker_dead_letters_pruned_total", (), detached.keeper.pruned),
            ("stoker_deliveries_pending", (), outbox.pending),
        ]
        now_s = trio.current_time()
        states: Counter[tuple[str, str]] = Counter()
        oldest_s: dict[str, float] = {}
        for call in detached.book:
            states[call.function_id, call.state.value] += 1
            if call.state is State.QUEUED:
                oldest_s[call.function_id] = max(oldest_s.get(call.function_id, 0.0), now_s - call.accepted_s)
        for (function_id, state), number in states.items():
            self._add(found, "stoker_detached_calls", function_id, (state,), number)
        for function_id, age_s in oldest_s.items():
            self._add(found, "stoker_detached_oldest_seconds", function_id, (), age_s)
        for (function_id, outcome), number in detached.outcomes.items():
            self._add(found, "stoker_detached_attempts_total", function_id, (outcome,), number)
        for (function_id, *labels), number in outbox.counts.items():
            self._add(found, "stoker_deliveries_total", function_id, tuple(labels), number)
        # Who watches the node must see its other numbers also while the database cannot be read.
        with suppress(InternalError):
            for function_id, (number, _) in (await self._database.read(records.totals)).items():
                self._add(found, "stoker_dead_letters", function_id, (), number)
        return found

    def _add(self, found: list[Sample], name: str, function_id: str, labels: tuple[str, ...], value: float) -> None:
        function = self._catalog.function(function_id)
        app = self._catalog.app(function.app_id) if function else None
        if function is not None and app is not None:
            found.append((name, (app.name, function.name, *labels), value))
