"""The advisor's curve against a simulation of instances, and its answers about a real function."""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.advisor import Curve, curve, recommended
from tests.records.test_calls import MOODY
from tests.records.test_cli import stoker
from tests.system.daemon import Daemon, run_daemon

CALLS = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 25)).map(lambda c: (c[0], c[0] + c[1])), max_size=40)


def simulated(calls: list[tuple[int, int]], *, floor: int, idle_timeout_s: int) -> int:
    """Cold starts of a pool that keeps ``floor`` instances: each instance is followed, the most recently used first."""
    idle = [float("-inf")] * floor  # since when; the least recently used first
    busy: list[int] = []
    cold = 0
    for begin, end in sorted(calls):
        while busy and busy[0] <= begin:
            idle.append(heapq.heappop(busy))
        while idle and len(idle) + len(busy) > floor and begin - idle[0] > idle_timeout_s:
            idle.pop(0)
        if idle:
            idle.pop()
        else:
            cold += 1
        heapq.heappush(busy, end)
    return cold


@given(CALLS, st.integers(0, 30))
def test_the_curve_is_what_a_simulation_of_every_floor_gives(calls: list[tuple[int, int]], idle_s: int) -> None:
    found = curve(calls, idle_timeout_s=idle_s)
    for floor in range(found.peak + 2):
        assert found.cold(floor) == simulated(calls, floor=floor, idle_timeout_s=idle_s), floor
    assert found.cold(found.peak) == 0
    assert found.calls == len(calls)


@given(CALLS, st.integers(0, 30), st.floats(0.01, 1), st.sets(st.integers(1, 12)))
def test_what_is_recommended_is_the_smallest_that_does(
    calls: list[tuple[int, int]], idle_s: int, goal: float, allowed: set[int]
) -> None:
    found = curve(calls, idle_timeout_s=idle_s)
    floor = recommended(found, goal=goal, allowed=sorted(allowed))
    if not calls:
        assert floor == 0
    elif good := [n for n in allowed if found.removed(n) >= goal]:
        assert floor == min(good)
    else:
        assert floor == max(allowed, default=0)


def test_an_example() -> None:
    # Two at once every hundred seconds, idle timeout 30: without a floor every pair is cold.
    calls = [(t + d, t + d + 5) for t in range(0, 1000, 100) for d in (0, 1)]
    found = curve(calls, idle_timeout_s=30)
    assert (found.cold(0), found.cold(1), found.cold(2), found.peak) == (20, 10, 0, 2)
    assert found.removed(1) == 0.5
    assert Curve(0, ()).removed(3) == 1.0


@pytest.mark.processes
def test_advice_about_a_function(tmp_path_factory: pytest.TempPathFactory) -> None:
    data = tmp_path_factory.mktemp("advised") / "data"
    with run_daemon(data, config="pcu:\n  steps: any\n") as daemon:
        function = daemon.deploy("moody", MOODY)
        empty = daemon.api("GET", f"/stoker/v1/functions/{function}/advice")
        assert (empty["calls"], empty["recommended"]["count"]) == (0, 0)
        assert "nothing to advise" in empty["text"]
        daemon.invoke(function, "sleep0.05")
        found = daemon.api("GET", f"/stoker/v1/functions/{function}/advice?since=1h&goal=1")
        assert (found["calls"], found["cold_without_floor"], found["peak"]) == (1, 1, 1)
        assert [row["count"] for row in found["curve"]] == [0, 1]
        assert (found["recommended"]["count"], found["recommended"]["removed"]) == (1, 1.0)
        assert found["text"].startswith("N = 1 would have removed 100 % of 1 cold starts for ")
        assert daemon.request("GET", f"/stoker/v1/functions/{function}/advice?goal=2").status == 400
        shown = stoker(daemon, "advise", "app", "moody", "--goal", "90")
        assert shown.returncode == 0, shown.stderr
        assert "constant:1" in shown.stdout
        assert "█" * 30 in shown.stdout


@pytest.mark.processes
def test_advice_keeps_to_the_counts_that_may_be_set(shared_daemon: Daemon) -> None:
    function = shared_daemon.deploy("moody", MOODY)
    shared_daemon.invoke(function, "x")
    found = shared_daemon.api("GET", f"/stoker/v1/functions/{function}/advice")
    assert (found["best"]["count"], found["recommended"]["count"]) == (1, 40)
    assert "The smallest count that may be set is 40" in found["text"]
