"""Counts calls and shows them to Prometheus.

A call pays about half a microsecond here: it adds to plain numbers. What Prometheus reads is made of them when it asks,
in a thread, together with the numbers of instances, memory and connections of that moment (`Gauges`).

`METRICS` is the list of everything that is shown: the families are built from it, and so is docs/reference/metrics.md.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from daemon.errors import FunctionFailed, HandlerTimeout, StokerError
from daemon.model import Answer

CONTENT_TYPE = CONTENT_TYPE_LATEST
BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the duration histograms: half the fastest call to the longest timeout."""
RECENT_CALLS = 4096
"""The quantiles of `Metrics.quantiles` are of this many last calls."""
PHASES = ("queue", "start", "handler")
START_KINDS = ("reuse", "spare", "fork", "boot", "exec")
OK = ("ok", "none")


@dataclass(frozen=True, slots=True)
class MetricDoc:
    """One metric: an entry of the reference."""

    name: str
    kind: str
    """``counter``, ``gauge`` or ``histogram``."""
    labels: tuple[str, ...]
    help: str


_FN = ("app", "function")
_OCI = ("application_id", "resource_id", "resource_display_name")
METRICS = (
    MetricDoc("stoker_info", "gauge", ("version",), "Always 1; the label is Stoker's version."),
    MetricDoc("stoker_uptime_seconds", "gauge", (), "Time since the daemon was ready."),
    MetricDoc(
        "stoker_control_groups", "gauge", ("version",),
        "Control groups of instances and templates. version: 2, 1, or 0 where there are none.",
    ),
    MetricDoc(
        "stoker_memory_kills_total", "counter", (),
        "Instances and templates that ended because their control group was full of memory.",
    ),
    MetricDoc("stoker_frozen_instances", "gauge", (), "Idle instances that are frozen (limits.freeze_s)."),
    MetricDoc(
        "stoker_networks", "gauge", ("method",),
        "Networks of function versions that are connected. method: how (network.method).",
    ),
    MetricDoc(
        "stoker_relay_ends_total", "counter", (),
        "Programs that carried a network's packets (pasta, slirp4netns) and ended by themselves.",
    ),
    MetricDoc("stoker_sandbox_level", "gauge", ("level",), "1 for the level of the sandbox: A (all) to D (nothing)."),
    MetricDoc(
        "stoker_sandbox_mechanism", "gauge", ("name",),
        "1 for each mechanism of the sandbox that is active, 0 for those that are not; names as in `stoker doctor`.",
    ),
    MetricDoc("stoker_draining", "gauge", (), "1 while the daemon lets running calls finish and takes no new ones."),
    MetricDoc(
        "stoker_calls_total", "counter", (*_FN, "outcome", "fault"),
        "Calls answered. outcome: ok or the code of the error; fault: none, caller, function, node or platform.",
    ),
    MetricDoc(
        "stoker_call_duration_seconds", "histogram", (*_FN, "phase"),
        "Time of calls by phase. queue: waiting for an instance; start: of that, for one that was being started; "
        "handler: from the request to the answer of the worker. A call that found an idle instance has only handler.",
    ),
    MetricDoc(
        "stoker_starts_total", "counter", ("kind",),
        "Calls by how they got their instance: reuse (hot start), spare, fork, boot, exec (cold starts).",
    ),
    MetricDoc("stoker_instances", "gauge", (*_FN, "state"), "Instances: starting, idle, busy, stopping, killing."),
    MetricDoc("stoker_queued_calls", "gauge", _FN, "Calls that wait for an instance."),
    MetricDoc("stoker_pcu_requested", "gauge", _FN, "Provisioned concurrency asked for: the floor of instances."),
    MetricDoc("stoker_pcu_allocated", "gauge", _FN, "Instances of the floor that are ready or busy."),
    MetricDoc("stoker_pcu_available", "gauge", _FN, "Instances of the floor that would take a call at once."),
    MetricDoc("stoker_pcu_in_use", "gauge", _FN, "Instances of the floor that hold a call."),
    MetricDoc(
        "stoker_pcu_spillover_total", "counter", _FN, "Calls that ran on demand because the whole floor was busy.",
    ),
    MetricDoc("stoker_memory_reserved_bytes", "gauge", (), "Memory reserved by instances and templates."),
    MetricDoc("stoker_memory_limit_bytes", "gauge", (), "The node's memory budget for functions (limits.memory_mib)."),
    MetricDoc("stoker_templates", "gauge", (), "Templates that are loaded."),
    MetricDoc(
        "stoker_log_dropped_bytes_total", "counter", (), "Output of functions that was not kept (logs.rate_bytes_s).",
    ),
    MetricDoc("stoker_log_lines_sent_total", "counter", (), "Lines sent to syslog destinations and the journal."),
    MetricDoc(
        "stoker_log_lines_unsent_total", "counter", (), "Lines that were to be sent there and were dropped.",
    ),
    MetricDoc("stoker_call_records_total", "counter", (), "Records of calls that were written."),
    MetricDoc(
        "stoker_call_records_dropped_total", "counter", (),
        "Records of calls that were lost: they came faster than they could be written, or the disk refused them.",
    ),
    MetricDoc(
        "oci_faas_function_invocation_count_total", "counter", (*_OCI, "invoke_type"),
        "OCI's FunctionInvocationCount: calls that ended. invoke_type: Sync, Detached.",
    ),
    MetricDoc(
        "oci_faas_function_execution_duration_seconds_total", "counter", (*_OCI, "invoke_type"),
        "OCI's FunctionExecutionDuration, summed up: divide its increase by that of the count.",
    ),
    MetricDoc(
        "oci_faas_function_response_count_total", "counter", (*_OCI, "invoke_type", "response_type", "error_code"),
        "OCI's FunctionResponseCount. response_type: Success, Error (with OCI's error_code), Throttled.",
    ),
    MetricDoc(
        "oci_faas_allocated_total_concurrency_bytes", "gauge", _OCI,
        "OCI's AllocatedTotalConcurrency: memory of all instances.",
    ),
    MetricDoc(
        "oci_faas_allocated_provisioned_concurrency_bytes", "gauge", _OCI,
        "OCI's AllocatedProvisionedConcurrency: memory of the floor's instances.",
    ),
    MetricDoc(
        "oci_faas_function_detached_deliveries_total", "counter",
        (*_OCI, "response_type", "destination_type", "status"),
        "OCI's FunctionDetachedDeliveries. response_type: Success, Failure.",
    ),
    MetricDoc("stoker_connections", "gauge", (), "Open client connections."),
    MetricDoc("stoker_connections_accepted_total", "counter", (), "Client connections accepted."),
    MetricDoc(
        "stoker_http_refused_total", "counter", (),
        "Requests that broke a rule of HTTP or a limit, or named a wrong Host.",
    ),
    MetricDoc(
        "stoker_http_timed_out_total", "counter", (), "Connections cut because their client was too slow.",
    ),
    MetricDoc("stoker_clients_left_total", "counter", (), "Calls cancelled because their client had gone."),
    MetricDoc("stoker_detached_calls", "gauge", (*_FN, "state"), "Detached calls that are not over: queued, running."),
    MetricDoc("stoker_detached_bytes", "gauge", (), "What they hold in the store (detached.queue_bytes_max)."),
    MetricDoc("stoker_detached_oldest_seconds", "gauge", _FN, "Age of the oldest detached call that waits."),
    MetricDoc("stoker_detached_accepted_total", "counter", (), "Detached calls accepted."),
    MetricDoc("stoker_detached_refused_total", "counter", (), "Detached calls refused: the queue was full."),
    MetricDoc(
        "stoker_detached_attempts_total", "counter", (*_FN, "outcome"),
        "Runs of detached calls. outcome: succeeded, retried (failed, to be run again), dead-letter (failed for good), "
        "put-back (there was no room).",
    ),
    MetricDoc("stoker_dead_letters", "gauge", _FN, "Dead letters."),
    MetricDoc("stoker_dead_letters_pruned_total", "counter", (), "Dead letters that went: too many, or too old."),
    MetricDoc(
        "stoker_deliveries_total", "counter", (*_FN, "outcome", "destination", "status"),
        "Records of detached calls by outcome of the call (success, failure), kind of destination, and status: "
        "delivered, failed (given up), dropped (too many were waiting).",
    ),
    MetricDoc(
        "stoker_spans_total", "counter", ("status",),
        "Spans of traced calls: sent, or dropped (too many, or not taken). Only with tracing.endpoint.",
    ),
    MetricDoc("stoker_deliveries_pending", "gauge", (), "Records that wait or are being delivered."),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionGauges:
    """The numbers of one function at this moment."""

    app: str
    function: str
    instances: Mapping[str, int] = field(default_factory=dict)
    """By state."""
    queued: int = 0
    pcu_requested: int = 0
    pcu_allocated: int = 0
    pcu_available: int = 0
    pcu_in_use: int = 0
    pcu_spillover: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """The numbers of the node at this moment."""

    version: str = ""
    uptime_s: float = 0.0
    draining: bool = False
    functions: Sequence[FunctionGauges] = ()
    memory_reserved_mib: int = 0
    memory_limit_mib: int = 0
    templates: int = 0
    log_dropped_bytes: int = 0
    connections: int = 0
    connections_accepted: int = 0
    refused: int = 0
    timed_out: int = 0
    clients_left: int = 0
    samples: Sequence[tuple[str, tuple[str, ...], float]] = ()
    """Of other parts of the daemon: name (one of `METRICS`), label values, value."""


class _Histogram:
    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_s += seconds

    def copy(self) -> _Histogram:
        """The numbers of this moment."""
        other = _Histogram()
        other.counts, other.sum_s = list(self.counts), self.sum_s
        return other

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts with their upper bounds, as the text format wants them."""
        total, result = 0, []
        for bound, count in zip([*map(str, BUCKETS_S), "+Inf"], self.counts, strict=True):
            total += count
            result.append((bound, float(total)))
        return result


class _Calls:
    """What is counted for one function."""

    __slots__ = ("outcomes", "phases")

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.phases = {phase: _Histogram() for phase in PHASES}


_Series = tuple[tuple[str, str], dict[tuple[str, str], int], dict[str, _Histogram]]
"""App and function name; count by outcome and fault; histogram by phase."""


class Metrics:
    """All numbers of a node. Used on the event loop only; `render` does its long part in a thread."""

    def __init__(self) -> None:
        self._functions: dict[str, _Calls] = {}
        self._retired: Counter[tuple[str, str]] = Counter()  # outcomes of functions that are gone
        self._starts: Counter[str] = Counter(dict.fromkeys(START_KINDS, 0))
        self._recent: deque[float] = deque(maxlen=RECENT_CALLS)

    def observe_answer(self, function_id: str, answer: Answer) -> None:
        """Count a call that the function answered. The hot path of every call."""
        calls = self._functions.get(function_id)
        if calls is None:
            calls = self._functions[function_id] = _Calls()
        calls.outcomes[OK if answer.status == 200 else _outcome(answer.status)] += 1
        self._starts[answer.start_kind] += 1
        phases = calls.phases
        phases["handler"].add(answer.handler_s)
        if answer.queue_s:
            phases["queue"].add(answer.queue_s)
        if answer.start_s:
            phases["start"].add(answer.start_s)
        self._recent.append(answer.queue_s + answer.handler_s)

    def observe_failure(self, function_id: str, error: StokerError, total_s: float) -> None:
        """Count a call that ended in an error after ``total_s``: time in the queue if the node had no room for it."""
        calls = self._functions.get(function_id)
        if calls is None:
            calls = self._functions[function_id] = _Calls()
        calls.outcomes[error.code, error.fault] += 1
        calls.phases["queue" if error.fault == "node" else "handler"].add(total_s)
        self._recent.append(total_s)

    def forget(self, function_id: str) -> None:
        """The function is deleted: drop its series. The node's totals keep its calls."""
        calls = self._functions.pop(function_id, None)
        if calls is not None:
            self._retired.update(calls.outcomes)

    def calls_by_outcome(self) -> dict[str, int]:
        """Calls of all functions since the start."""
        totals: Counter[str] = Counter()
        for outcomes in [self._retired, *(calls.outcomes for calls in self._functions.values())]:
            for (outcome, _), count in outcomes.items():
                totals[outcome] += count
        return dict(totals)

    def starts_by_kind(self) -> dict[str, int]:
        """Answered calls by how they got their instance."""
        return dict(self._starts)

    def quantiles(self) -> dict[str, float | int | None]:
        """Duration of the last calls, queue and handler together: ``calls``, ``p50_s``, ``p95_s``, ``p99_s``.

        Exact (nearest rank) over the last `RECENT_CALLS`; None before the first call.
        """
        ordered = sorted(self._recent)
        result: dict[str, float | int | None] = {"calls": len(ordered)}
        for percent in (50, 95, 99):
            rank = math.ceil(len(ordered) * percent / 100) - 1
            result[f"p{percent}_s"] = ordered[rank] if ordered else None
        return result

    async def render(self, gauges: Gauges, names: Callable[[str], tuple[str, str] | None]) -> bytes:
        """Everything in Prometheus' text format (`CONTENT_TYPE`).

        ``names`` gives app and function name of a function id, None once it is deleted: then its series are dropped.
        """
        collector = _Snapshot(gauges, self._series(names), dict(self._starts))
        return await trio.to_thread.run_sync(collector.text)

    def _series(self, names: Callable[[str], tuple[str, str] | None]) -> list[_Series]:
        """Copies of the numbers by (app, function): what is counted goes on meanwhile."""
        series = []
        for function_id in list(self._functions):
            name = names(function_id)
            if name is None:
                self.forget(function_id)
                continue
            calls = self._functions[function_id]
            phases: dict[str, _Histogram] = {}
            for phase, histogram in calls.phases.items():
                if any(histogram.counts):
                    phases[phase] = histogram.copy()
            series.append((name, dict(calls.outcomes), phases))
        return series

    @staticmethod
    def describe() -> list[MetricDoc]:
        """Every metric, for the reference; those of the process come from the client library."""
        process = ProcessCollector(registry=None).collect()
        return [*METRICS, *(MetricDoc(_name(m), m.type, (), m.documentation) for m in process)]


def _outcome(status: int) -> tuple[str, str]:
    error = HandlerTimeout if status == 504 else FunctionFailed  # all that the Fn contract allows besides 200
    return error.code, error.fault


def _name(metric: Metric) -> str:
    return f"{metric.name}_total" if metric.type == "counter" else metric.name


class _Snapshot(Collector):
    """The numbers of one moment as metric families."""

    def __init__(
        self,
        gauges: Gauges,
        series: list[_Series],
        starts: dict[str, int],
    ) -> None:
        self._gauges = gauges
        self._series = series
        self._starts = starts

    def text(self) -> bytes:
        """The text of all families."""
        registry = CollectorRegistry()
        registry.register(self)
        ProcessCollector(registry=registry)
        return generate_latest(registry)

    def describe(self) -> list[Metric]:
        """Nothing: keeps the registry from collecting once just to learn the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        families = {doc.name: _FAMILIES[doc.kind](doc.name, doc.help, labels=doc.labels) for doc in METRICS}
        self._add_node(families)
        self._add_calls(families)
        for gauges in self._gauges.functions:
            _add_function(families, gauges)
        for name, labels, value in self._gauges.samples:
            families[name].add_metric(labels, value)
        return iter(families.values())

    def _add_node(self, families: dict[str, Any]) -> None:
        gauges = self._gauges
        families["stoker_info"].add_metric([gauges.version], 1)
        for name, value in (
            ("stoker_uptime_seconds", gauges.uptime_s),
            ("stoker_draining", int(gauges.draining)),
            ("stoker_memory_reserved_bytes", gauges.memory_reserved_mib * 2**20),
            ("stoker_memory_limit_bytes", gauges.memory_limit_mib * 2**20),
            ("stoker_templates", gauges.templates),
            ("stoker_log_dropped_bytes_total", gauges.log_dropped_bytes),
            ("stoker_connections", gauges.connections),
            ("stoker_connections_accepted_total", gauges.connections_accepted),
            ("stoker_http_refused_total", gauges.refused),
            ("stoker_http_timed_out_total", gauges.timed_out),
            ("stoker_clients_left_total", gauges.clients_left),
        ):
            families[name].add_metric([], value)

    def _add_calls(self, families: dict[str, Any]) -> None:
        for kind, count in self._starts.items():
            families["stoker_starts_total"].add_metric([kind], count)
        for name, outcomes, phases in self._series:
            for (outcome, fault), count in outcomes.items():
                families["stoker_calls_total"].add_metric([*name, outcome, fault], count)
            for phase, histogram in phases.items():
                families["stoker_call_duration_seconds"].add_metric(
                    [*name, phase], buckets=histogram.buckets(), sum_value=histogram.sum_s
                )


def _add_function(families: dict[str, Any], gauges: FunctionGauges) -> None:
    name = [gauges.app, gauges.function]
    for state, count in gauges.instances.items():
        families["stoker_instances"].add_metric([*name, state], count)
    families["stoker_queued_calls"].add_metric(name, gauges.queued)
    if gauges.pcu_requested or gauges.pcu_spillover:
        families["stoker_pcu_requested"].add_metric(name, gauges.pcu_requested)
        families["stoker_pcu_allocated"].add_metric(name, gauges.pcu_allocated)
        families["stoker_pcu_available"].add_metric(name, gauges.pcu_available)
        families["stoker_pcu_in_use"].add_metric(name, gauges.pcu_in_use)
        families["stoker_pcu_spillover_total"].add_metric(name, gauges.pcu_spillover)


_FAMILIES: dict[str, Callable[..., Any]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}
