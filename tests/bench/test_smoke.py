"""One tiny round of the bench against a real daemon, without peers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench import measure_bounds, measure_cold, measure_exec, stoker
from bench.http1 import Address, timed_calls
from bench.processes import BenchError, cpu_s


@pytest.mark.slow
@pytest.mark.processes
def test_stoker_can_be_measured(tmp_path: Path) -> None:
    with stoker.running(tmp_path) as daemon:
        hello = stoker.deploy_hello(daemon)
        target = daemon.target(hello)
        before_s = cpu_s(daemon.pid)
        assert len(timed_calls(target.address, target.request, for_s=60, calls_max=200)) == 200
        assert cpu_s(daemon.pid) >= before_s
        fronts = [Address(path=daemon.socket)] * 2
        assert measure_exec.calls_s(fronts, target.request, for_s=0.1) > 0
        with pytest.raises(BenchError):
            measure_exec.calls_s(fronts, stoker.invoke_request("none"), for_s=0.1)
        assert measure_cold.cold_call_ms(daemon, hello, {"fork"}) > 0
        first_ms, last_ms = measure_cold.burst_ms(daemon, hello)
        assert 0 < first_ms <= last_ms
        stuck = measure_bounds.deploy_stuck(daemon)
        measure_bounds.overrun_ms(daemon, stuck, grandchildren=True)
        assert "rlimits" in stoker.sandbox_of(daemon, hello)


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_wrk_counts_calls_and_what_they_cost(tmp_path: Path) -> None:
    from bench import wrk

    with stoker.running(tmp_path) as daemon:
        target = daemon.target(stoker.deploy_hello(daemon))
        load = wrk.drive(target.url, connections=2, seconds=1, script=tmp_path / "w.lua", server_pid=daemon.pid)
    assert load.requests > 0
    assert load.calls_s > 0
    assert 0 < load.p50_us <= load.p99_us
    assert load.cpu_us_per_call > 0
