"""Metrics: what is counted is what Prometheus reads, and the reference lists all of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.parser import text_string_to_metric_families

from daemon.errors import FunctionTimeout, QueueFull
from daemon.model import Answer
from daemon.telemetry.metrics import BUCKETS_S, METRICS, FunctionGauges, Gauges, Metrics

NAMES = {"F1": ("app", "one"), "F2": ("app", 'two "quoted" \\ \n lines')}
FULL = Gauges(
    version="1.2.3", uptime_s=5.5, draining=True, memory_reserved_mib=3, memory_limit_mib=7, templates=2,
    log_dropped_bytes=11, connections=4, connections_accepted=9, refused=1, timed_out=2, clients_left=3,
    functions=[
        FunctionGauges(
            app="app", function="one", instances={"idle": 2, "busy": 1}, queued=6, pcu_requested=40, pcu_allocated=30,
            pcu_available=29, pcu_in_use=1, pcu_spillover=5,
        )
    ],
    samples=[
        ("stoker_detached_calls", ("app", "one", "queued"), 8), ("stoker_detached_bytes", (), 80),
        ("stoker_detached_oldest_seconds", ("app", "one"), 1.5), ("stoker_detached_accepted_total", (), 9),
        ("stoker_detached_refused_total", (), 1), ("stoker_dead_letters_pruned_total", (), 1),
        ("stoker_detached_attempts_total", ("app", "one", "retried"), 2), ("stoker_dead_letters", ("app", "one"), 3),
        ("stoker_deliveries_total", ("app", "one", "success", "HTTP", "delivered"), 4),
        ("stoker_deliveries_pending", (), 1), ("stoker_spans_total", ("sent",), 5),
        ("stoker_sandbox_level", ("A",), 1), ("stoker_sandbox_mechanism", ("landlock",), 1),
        ("stoker_control_groups", ("1",), 4), ("stoker_memory_kills_total", (), 1), ("stoker_networks", ("veth",), 2),
        ("stoker_relay_ends_total", (), 1),
        ("stoker_frozen_instances", (), 3),
        ("stoker_log_lines_sent_total", (), 7), ("stoker_log_lines_unsent_total", (), 1),
        ("stoker_call_records_total", (), 7), ("stoker_call_records_dropped_total", (), 1),
        ("oci_faas_function_invocation_count_total", ("a", "f", "one", "Sync"), 1),
        ("oci_faas_function_execution_duration_seconds_total", ("a", "f", "one", "Sync"), 1),
        ("oci_faas_function_response_count_total", ("a", "f", "one", "Sync", "Success", ""), 1),
        ("oci_faas_allocated_total_concurrency_bytes", ("a", "f", "one"), 1),
        ("oci_faas_allocated_provisioned_concurrency_bytes", ("a", "f", "one"), 1),
        ("oci_faas_function_detached_deliveries_total", ("a", "f", "one", "Success", "HTTP", "delivered"), 1),
    ],
)  # fmt: skip


def answer(handler_s: float = 0.002, **settings: object) -> Answer:
    return Answer(status=200, headers=[], body=b"", handler_s=handler_s, **settings)  # type: ignore[arg-type]


async def samples(metrics: Metrics, gauges: Gauges = FULL) -> dict[str, float]:
    """``name{label=value,...}`` to value, as the client library's own parser reads our text."""
    text = (await metrics.render(gauges, NAMES.get)).decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            key = f"{sample.name}{{{labels}}}" if labels else sample.name
            assert key not in found, f"twice: {key}"
            found[key] = sample.value
    return found


async def test_calls_are_counted_by_outcome_and_fault() -> None:
    metrics = Metrics()
    for _ in range(3):
        metrics.observe_answer("F1", answer())
    metrics.observe_answer("F1", Answer(status=502, headers=[], body=b""))
    metrics.observe_answer("F1", Answer(status=504, headers=[], body=b""))
    metrics.observe_failure("F1", FunctionTimeout(), 30.0)
    metrics.observe_failure("F1", QueueFull(), 0.0)
    found = await samples(metrics)
    calls = {key: value for key, value in found.items() if key.startswith("stoker_calls_total")}
    assert calls == {
        "stoker_calls_total{app=app,fault=none,function=one,outcome=ok}": 3,
        "stoker_calls_total{app=app,fault=function,function=one,outcome=function-failed}": 1,
        "stoker_calls_total{app=app,fault=function,function=one,outcome=handler-timeout}": 1,
        "stoker_calls_total{app=app,fault=function,function=one,outcome=function-timeout}": 1,
        "stoker_calls_total{app=app,fault=node,function=one,outcome=queue-full}": 1,
    }
    assert metrics.calls_by_outcome() == {
        "ok": 3, "function-failed": 1, "handler-timeout": 1, "function-timeout": 1, "queue-full": 1,
    }  # fmt: skip


async def test_durations_fall_into_the_right_buckets() -> None:
    metrics = Metrics()
    for seconds in (0.0005, 0.00051, 0.3, 1000.0):
        metrics.observe_answer("F1", answer(seconds))
    found = await samples(metrics)

    def bucket(bound: str) -> float:
        return found[f"stoker_call_duration_seconds_bucket{{app=app,function=one,le={bound},phase=handler}}"]

    assert [bucket(b) for b in ("0.0005", "0.001", "0.25", "0.5", "300.0", "+Inf")] == [1, 2, 2, 3, 3, 4]
    assert found["stoker_call_duration_seconds_count{app=app,function=one,phase=handler}"] == 4
    assert found["stoker_call_duration_seconds_sum{app=app,function=one,phase=handler}"] == pytest.approx(1000.30101)
    assert not any("phase=queue" in key for key in found), "nobody waited"


async def test_the_phases_of_a_cold_call_are_apart() -> None:
    metrics = Metrics()
    metrics.observe_answer("F1", answer(0.002, queue_s=0.009, start_s=0.007, start_kind="fork"))
    metrics.observe_answer("F1", answer(0.002, start_kind="reuse"))
    found = await samples(metrics)
    sums = {
        p: found[f"stoker_call_duration_seconds_sum{{app=app,function=one,phase={p}}}"]
        for p in ("queue", "start", "handler")
    }
    assert sums == {"queue": 0.009, "start": 0.007, "handler": 0.004}
    assert found["stoker_starts_total{kind=fork}"] == found["stoker_starts_total{kind=reuse}"] == 1
    assert found["stoker_starts_total{kind=exec}"] == 0
    assert metrics.starts_by_kind() == {"reuse": 1, "spare": 0, "fork": 1, "boot": 0, "exec": 0}


async def test_the_gauges_of_the_node_are_shown() -> None:
    found = await samples(Metrics())
    expected = {
        "stoker_info{version=1.2.3}": 1, "stoker_uptime_seconds": 5.5, "stoker_draining": 1, "stoker_templates": 2,
        "stoker_memory_reserved_bytes": 3 * 2**20, "stoker_memory_limit_bytes": 7 * 2**20,
        "stoker_log_dropped_bytes_total": 11, "stoker_connections": 4, "stoker_connections_accepted_total": 9,
        "stoker_http_refused_total": 1, "stoker_http_timed_out_total": 2, "stoker_clients_left_total": 3,
        "stoker_instances{app=app,function=one,state=idle}": 2, "stoker_instances{app=app,function=one,state=busy}": 1,
        "stoker_queued_calls{app=app,function=one}": 6, "stoker_pcu_requested{app=app,function=one}": 40,
        "stoker_pcu_allocated{app=app,function=one}": 30, "stoker_pcu_available{app=app,function=one}": 29,
        "stoker_pcu_in_use{app=app,function=one}": 1, "stoker_pcu_spillover_total{app=app,function=one}": 5,
    }  # fmt: skip
    assert {key: found.get(key) for key in expected} == expected


async def test_a_deleted_function_has_no_series_and_the_node_keeps_its_calls() -> None:
    metrics = Metrics()
    metrics.observe_answer("F1", answer())
    metrics.observe_answer("gone", answer())
    metrics.forget("F1")
    found = await samples(metrics, Gauges())
    assert not [key for key in found if "function=" in key]
    assert metrics.calls_by_outcome() == {"ok": 2}
    metrics.forget("F1")
    assert metrics.calls_by_outcome() == {"ok": 2}


async def test_odd_names_survive_the_text_format() -> None:
    metrics = Metrics()
    metrics.observe_answer("F2", answer())
    assert f"stoker_calls_total{{app=app,fault=none,function={NAMES['F2'][1]},outcome=ok}}" in await samples(metrics)


async def test_every_metric_is_in_the_reference_and_the_other_way_round() -> None:
    metrics = Metrics()
    metrics.observe_answer("F1", answer(queue_s=1.0, start_s=1.0))
    text = (await metrics.render(FULL, NAMES.get)).decode()
    shown = {}
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert family.samples, f"{name} is never shown"
        shown[name] = (family.type, labels)
    described = {doc.name: (doc.kind, set(doc.labels)) for doc in metrics.describe()}
    assert shown == described
    assert all(doc.help.endswith(".") for doc in METRICS)
    assert len({doc.name for doc in METRICS}) == len(METRICS)


@given(st.lists(st.floats(0, 1000), max_size=300))
@settings(max_examples=100, deadline=None)
def test_quantiles_are_exact(values: list[float]) -> None:
    metrics = Metrics()
    for value in values:
        metrics.observe_answer("F1", answer(value))
    found = metrics.quantiles()
    assert found["calls"] == len(values)
    for percent in (50, 95, 99):
        expected = sorted(values)[math.ceil(len(values) * percent / 100) - 1] if values else None
        assert found[f"p{percent}_s"] == expected


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=50))
@settings(max_examples=100, deadline=None)
def test_our_histogram_counts_as_the_library_does(values: list[float]) -> None:
    registry = CollectorRegistry()
    theirs = Histogram("h", "help", buckets=BUCKETS_S, registry=registry)
    metrics = Metrics()
    for value in values:
        theirs.observe(value)
        metrics.observe_answer("F1", answer(value))
    ((_, _, phases),) = metrics._series(NAMES.get)
    expected = [s.value for f in registry.collect() for s in f.samples if s.name == "h_bucket"]
    assert [count for _, count in phases["handler"].buckets()] == expected


def test_counting_a_call_costs_less_than_one_counter_and_one_histogram_of_the_library() -> None:
    registry = CollectorRegistry()
    counter = Counter("c", "help", ["outcome"], registry=registry).labels("ok")
    histogram = Histogram("h", "help", ["phase"], buckets=BUCKETS_S, registry=registry).labels("handler")
    metrics, one = Metrics(), answer()

    def library() -> None:
        counter.inc()
        histogram.observe(0.002)

    assert cost(lambda: metrics.observe_answer("F1", one)) < cost(library)


def cost(action: Callable[[], None]) -> float:
    times = []
    for _ in range(5):
        began_s = time.perf_counter()
        for _ in range(5000):
            action()
        times.append(time.perf_counter() - began_s)
    return min(times)
