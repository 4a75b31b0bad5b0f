"""The built-in time series, and the metrics with OCI's names."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config.settings import Records
from daemon.core.points import Point, percentile
from daemon.telemetry.calls import CallRecord
from daemon.telemetry.metrics import METRICS
from daemon.telemetry.recorder import Recorder
from daemon.telemetry.series import Series
from tests.records.test_calls import MOODY
from tests.records.test_syslog import program
from tests.services.world import SilentLog
from tests.system.daemon import HELLO, ROOT, Daemon, eventually, run_daemon

LENGTHS = st.floats(1e-6, 300)


def record(handler_s: float, queue_s: float = 0.0, error: str = "", start_s: float = 0.0) -> CallRecord:
    return CallRecord(
        "C", "F", "A", "f", 1, 1, "sync", "fork" if start_s else "reuse", 0.0, queue_s, start_s, 0.0, 0.0, 0.0,
        handler_s, 0.0, 502 if error else 200, error, "function" if error else "none", "", 1, 2, 0.5, 0, "",
    )  # fmt: skip


def total(points: list[dict[str, Any]], name: str) -> int:
    return sum(point[name] for point in points)


# -- points


@given(st.lists(LENGTHS, min_size=1, max_size=60), st.sampled_from([50, 95, 99]))
def test_percentiles_are_right_within_a_bucket(values: list[float], percent: int) -> None:
    point = Point()
    for value in values:
        point.add(record(value))
    exact = sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]
    found = percentile(point.warm, percent)
    assert found is not None
    assert 0.9 < found / exact < 1.1


@given(
    st.lists(st.tuples(LENGTHS, st.floats(0, 5), st.sampled_from(["", "function-failed"])), max_size=30),
    st.integers(0, 30),
)
def test_points_add_up(calls: list[tuple[float, float, str]], cut: int) -> None:
    whole, first, second = Point(), Point(), Point()
    for i, (handler_s, queue_s, error) in enumerate(calls):
        for point in (whole, first if i < cut else second):
            point.add(record(handler_s, queue_s, error))
            point.sample({"busy": i})
    stored = msgpack.unpackb(msgpack.packb(second.packed()), strict_map_key=False)
    first.merge(Point.unpacked(stored))
    a, b = whole.form(0, {}), first.form(0, {})
    for phase in ("total", "queue", "handler"):
        for form in (a, b):
            if form["latency"][phase]:
                form["latency"][phase]["mean_s"] = round(form["latency"][phase]["mean_s"], 6)
    assert {**a, "cpu_s": round(a["cpu_s"], 3)} == {**b, "cpu_s": round(b["cpu_s"], 3)}
    assert a["calls"] == len(calls)


def test_the_phases_of_warm_and_cold_calls() -> None:
    point = Point()
    point.add(record(0.001))
    point.add(record(0.001, queue_s=0.1, start_s=0.05))
    form = point.form(0, {})
    latency = form["latency"]
    assert [latency[phase]["count"] for phase in ("total", "queue", "start", "handler")] == [2, 1, 1, 2]
    assert latency["total"]["p99_s"] == pytest.approx(0.101, rel=0.1)
    assert latency["handler"]["p99_s"] == pytest.approx(0.001, rel=0.1)
    assert (form["cold"], form["starts"]) == (1, {"reuse": 1, "fork": 1})


# -- a daemon


@pytest.mark.processes
def test_what_happened_is_in_the_series(shared_daemon: Daemon) -> None:
    function = shared_daemon.deploy("moody", MOODY)
    for body in ("a", "b", "raise"):
        shared_daemon.invoke(function, body)
    for step in (1, 60, 3600):
        series = shared_daemon.api("GET", f"/stoker/v1/functions/{function}/series?since=10m&step={step}")
        points = series["points"]
        assert series["step_s"] == step
        times = [point["at"] for point in points]
        assert times == list(range(times[0], times[-1] + 1, step))
        assert (total(points, "calls"), total(points, "ok")) == (3, 2)
        assert sum((Counter(point["errors"]) for point in points), Counter()) == {"function-failed": 1}
        assert sum((Counter(point["failed"]) for point in points), Counter()) == {"function": 1}
        assert sum(point["latency"]["handler"]["count"] for point in points if point["latency"]["handler"]) == 3

    def gauges() -> dict[str, Any]:
        points = shared_daemon.api("GET", f"/stoker/v1/functions/{function}/series?since=1m&step=1")["points"]
        found: dict[str, Any] = points[-2]["gauges"]
        return found if found.get("idle", {}).get("last") else {}

    sampled = eventually(gauges, what="instances are sampled")
    assert {"busy", "idle", "starting", "queue", "pcu_requested", "memory_bytes"} <= sampled.keys()
    node = shared_daemon.api("GET", "/stoker/v1/series?since=10m")
    assert node["step_s"] == 60
    assert total(node["points"], "calls") >= 3
    assert any(point["gauges"].get("idle") for point in node["points"])


async def test_buckets_and_the_overview(tmp_path: Path) -> None:
    recorder = Recorder(Records(), log=SilentLog())
    series = Series(recorder, Records(), dict, log=SilentLog())
    now = int(time.time())
    async with recorder.opened(tmp_path / "records.db"):
        series.add(
            [record(0.01)._replace(function_id=name, at=float(now - age)) for name in "FG" for age in range(600)]
        )
        buckets = await series.buckets("F", since=now - 599.0, until=float(now), count=60)
        assert len(buckets) == 60
        assert sum(point.calls for _, point in buckets) == 600
        whole = await series.overview(since=now - 3600.0, until=float(now))
        assert {name: sum(point.calls for point in minutes.values()) for name, minutes in whole.items()} == {
            "F": 600, "G": 600, "": 1200,
        }  # fmt: skip
        assert len(await series.buckets("F", since=now - 86_400.0 * 30, until=float(now))) <= 100


@pytest.mark.processes
def test_asking_for_series_wrongly(shared_daemon: Daemon) -> None:
    for query, text in (("step=7", "step: must be auto, 1, 60, 3600"), ("since=1h&until=2h", "since: must be before")):
        reply = shared_daemon.request("GET", f"/stoker/v1/series?{query}")
        assert (reply.status, text in reply.json["message"]) == (400, True)
    assert shared_daemon.request("GET", "/stoker/v1/functions/none/series").status == 404
    assert len(shared_daemon.api("GET", "/stoker/v1/series?since=30d&step=1")["points"]) <= 2000


@pytest.mark.processes
def test_series_survive_a_kill_and_add_up_after_it(data: Path) -> None:
    with run_daemon(data) as daemon:
        function = daemon.deploy("hello", HELLO)
        for _ in range(5):
            daemon.invoke(function)
        assert total(daemon.api("GET", f"/stoker/v1/functions/{function}/series")["points"], "calls") == 5
        daemon.process.send_signal(signal.SIGKILL)
        daemon.process.wait()
    with run_daemon(data) as daemon:
        daemon.invoke(function)
        for step in (1, 3600):
            points = daemon.api("GET", f"/stoker/v1/functions/{function}/series?step={step}&since=30m")["points"]
            assert total(points, "calls") == 6


@pytest.mark.processes
def test_ocis_metrics(shared_daemon: Daemon) -> None:
    function = shared_daemon.deploy("moody", MOODY)
    for body in ("a", "raise"):
        shared_daemon.invoke(function, body)
    eventually(lambda: shared_daemon.api("GET", f"/stoker/v1/calls?function={function}"))
    items = shared_daemon.api("GET", "/stoker/v1/metrics/oci")["items"]
    mine = [item for item in items if item["dimensions"]["resourceDisplayName"] == "moody"]
    by_name: dict[str, list[Any]] = {}
    for item in mine:
        assert item["dimensions"]["resourceId"].startswith("ocid1.fnfunc.")
        assert item["dimensions"]["applicationId"].startswith("ocid1.fnapp.")
        by_name.setdefault(item["name"], []).append(item)
    assert by_name.keys() >= {
        "FunctionInvocationCount", "FunctionExecutionDuration", "FunctionResponseCount", "AllocatedTotalConcurrency",
        "AllocatedProvisionedConcurrency",
    }  # fmt: skip
    answers = {
        (i["dimensions"]["responseType"], i["dimensions"].get("ErrorCode")) for i in by_name["FunctionResponseCount"]
    }
    assert answers == {("Success", None), ("Error", "FunctionInvokeExecutionFailed")}
    assert by_name["AllocatedTotalConcurrency"][0]["value"] >= 128
    text = shared_daemon.request("GET", "/metrics").body.decode()
    assert re.search(
        r'oci_faas_function_response_count_total\{.*error_code="FunctionInvokeExecutionFailed".*\} \d', text
    )


@pytest.mark.processes
def test_promtool_accepts_the_metrics(shared_daemon: Daemon) -> None:
    promtool = program("promtool", "prometheus")
    function = shared_daemon.deploy("hello", HELLO)
    shared_daemon.invoke(function)
    text = shared_daemon.request("GET", "/metrics").body
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_the_grafana_dashboard_uses_metrics_that_exist() -> None:
    board = json.loads((ROOT / "docs/reference/grafana-dashboard.json").read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    assert len(expressions) >= 10
    known = {doc.name for doc in METRICS}
    used = set()
    for expression in expressions:
        used |= set(re.findall(r"\b((?:stoker|oci_faas)_\w+)", expression))
    assert {re.sub("_(bucket|sum|count)$", "", name) if name not in known else name for name in used} <= known
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


@given(
    st.lists(
        st.tuples(
            st.floats(0, 100), st.floats(0, 2), st.sampled_from(["", "function-failed", "queue-full"]),
            st.dictionaries(st.sampled_from(["idle", "busy"]), st.floats(0, 9)),
        ),
        max_size=20,
    )
)  # fmt: skip
def test_absorbing_what_is_stored_is_merging_it(calls: list[tuple[float, float, str, dict[str, float]]]) -> None:
    merged, absorbed = Point(), Point()
    for handler_s, queue_s, error, gauges in calls:
        point = Point()
        point.add(record(1.0)._replace(handler_s=handler_s, queue_s=queue_s, error=error))
        point.sample(gauges)
        packed = msgpack.unpackb(msgpack.packb(point.packed()), strict_map_key=False)
        merged.merge(Point.unpacked(packed))
        absorbed.absorb(packed)
    assert absorbed.packed() == merged.packed()
