"""What call records and log destinations show to Prometheus (`metrics.METRICS` describes it), and OCI's metrics.

OCI's names (namespace oci_faas, reference oci-api 2.7) are given twice: as OCI has them in JSON, and in the snake case
and base units that Prometheus wants, prefixed by ``oci_faas_``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from daemon.catalog import Catalog
from daemon.core.views import PoolView
from daemon.errors import leaves
from daemon.logs.sinks import LogSinks
from daemon.ocid import application_ocid, function_ocid
from daemon.telemetry.calls import LEFT, CallRecord
from daemon.telemetry.recorder import Recorder

Sample = tuple[str, tuple[str, ...], float]
Deliveries = Callable[[], Mapping[tuple[str, str, str, str], int]]
"""Deliveries of detached calls by function id, outcome of the call, kind of destination, status."""

OCI_CODES = {error.code: error.oci_code for error in leaves()} | {LEFT: "StatusConnectionClosedWithoutResponse"}
THROTTLED = "TooManyRequests"
FORGET_AT = 4
"""Counts of this many times as many functions as there are may be in memory; a function has two at most."""
UNIT_BYTES = 2**20
"""OCI's megabyte of memory."""


class OciMetrics:
    """Counts by function, from call records; and what is allocated."""

    def __init__(
        self, recorder: Recorder, catalog: Catalog, pools: Callable[[], dict[str, PoolView]], deliveries: Deliveries
    ) -> None:
        self._catalog = catalog
        self._pools = pools
        self._deliveries = deliveries
        self._invocations: Counter[tuple[str, str]] = Counter()
        self._seconds: dict[tuple[str, str], float] = {}
        self._responses: Counter[tuple[str, str, str, str]] = Counter()
        recorder.subscribe(self.add)

    def add(self, records: Sequence[CallRecord]) -> None:
        """Calls have ended."""
        if len(self._seconds) > FORGET_AT * (1 + len(self._catalog.functions)):
            self.forget()  # nobody asks for them, and functions come and go
        sums: dict[tuple[str, str, str], list[float]] = {}
        for record in records:
            known = sums.get(about := (record.function_id, record.kind, record.error))
            if known is None:
                known = sums[about] = [0, 0.0]
            known[0] += 1
            known[1] += record.handler_s
        for (function_id, how, error), (count, seconds) in sums.items():
            kind = "Detached" if how == "detached" else "Sync"
            key = (function_id, kind)
            self._invocations[key] += int(count)
            self._seconds[key] = self._seconds.get(key, 0.0) + seconds
            code = OCI_CODES.get(error, "") if error else ""
            answer = "Success" if not error else "Throttled" if code == THROTTLED else "Error"
            self._responses[*key, answer, code if answer == "Error" else ""] += int(count)

    def forget(self) -> None:
        """Drop the counts of functions that are gone."""
        everything: tuple[dict[Any, Any], ...] = (self._invocations, self._seconds, self._responses)
        for counts in everything:
            for key in [key for key in counts if key[0] not in self._catalog.functions]:
                del counts[key]

    def items(self) -> list[dict[str, Any]]:
        """Each metric and its dimensions by OCI's names."""
        self.forget()
        found = []

        def put(name: str, function_id: str, value: float, unit: str, **dimensions: str) -> None:
            function = self._catalog.function(function_id)
            if function is not None:
                about = {"applicationId": application_ocid(function.app_id), "resourceId": function_ocid(function_id)}
                about |= {"resourceDisplayName": function.name, **dimensions}
                found.append({"name": name, "dimensions": about, "value": value, "unit": unit})

        for (function_id, kind), number in self._invocations.items():
            put("FunctionInvocationCount", function_id, number, "count", invokeType=kind)
            milliseconds = round(self._seconds[function_id, kind] * 1000, 3)
            put("FunctionExecutionDuration", function_id, milliseconds, "ms", invokeType=kind)
        for (function_id, kind, answer, code), number in self._responses.items():
            error = {"ErrorCode": code} if code else {}
            put("FunctionResponseCount", function_id, number, "count", invokeType=kind, responseType=answer, **error)
        for function_id, total, provisioned in self._allocated():
            put("AllocatedTotalConcurrency", function_id, total, "megabytes")
            put("AllocatedProvisionedConcurrency", function_id, provisioned, "megabytes")
        for (function_id, outcome, kind, status), number in self._deliveries().items():
            put("FunctionDetachedDeliveries", function_id, number, "count", responseType=outcome.capitalize(),
                destinationType=kind, status=status)  # fmt: skip
        return found

    def samples(self) -> list[Sample]:
        """The same for Prometheus."""
        self.forget()
        found: list[Sample] = []

        def put(name: str, function_id: str, labels: tuple[str, ...], value: float) -> None:
            function = self._catalog.function(function_id)
            if function is not None:
                about = (application_ocid(function.app_id), function_ocid(function_id), function.name)
                found.append((f"oci_faas_{name}", (*about, *labels), value))

        for (function_id, kind), number in self._invocations.items():
            put("function_invocation_count_total", function_id, (kind,), number)
            put("function_execution_duration_seconds_total", function_id, (kind,), self._seconds[function_id, kind])
        for (function_id, *labels), number in self._responses.items():
            put("function_response_count_total", function_id, tuple(labels), number)
        for function_id, total, provisioned in self._allocated():
            put("allocated_total_concurrency_bytes", function_id, (), total * UNIT_BYTES)
            put("allocated_provisioned_concurrency_bytes", function_id, (), provisioned * UNIT_BYTES)
        for (function_id, outcome, kind, status), number in self._deliveries().items():
            put("function_detached_deliveries_total", function_id, (outcome.capitalize(), kind, status), number)
        return found

    def _allocated(self) -> list[tuple[str, int, int]]:
        """By function: memory in MiB of all its instances, and of its floor."""
        found = []
        for function_id, pool in self._pools().items():
            function = self._catalog.function(function_id)
            if function is not None:
                memory_mib = function.live.memory_mib
                found.append((function_id, pool.held_mib, pool.pcu.allocated * memory_mib))
        return found


class RecordMetrics:
    """Gathers the numbers when they are asked for."""

    def __init__(self, recorder: Recorder, sinks: LogSinks, oci: OciMetrics) -> None:
        self._recorder = recorder
        self._sinks = sinks
        self._oci = oci

    async def samples(self) -> list[Sample]:
        """Everything of this moment."""
        self._recorder.digest()
        return [
            ("stoker_log_lines_sent_total", (), self._sinks.sent),
            ("stoker_log_lines_unsent_total", (), self._sinks.dropped),
            ("stoker_call_records_total", (), self._recorder.recorded),
            ("stoker_call_records_dropped_total", (), self._recorder.dropped),
            *self._oci.samples(),
        ]
