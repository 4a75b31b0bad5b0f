"""Memory of warm idle instances, beside processes that were spawned on their own."""

from __future__ import annotations

import contextlib
from pathlib import Path

from bench.budgets import Figure
from bench.http1 import Client, burst, check_hello
from bench.measure_cold import FLOOR, idle, set_floor
from bench.peers import official_fdk
from bench.processes import descendants, pss_bytes
from bench.stats import Sample
from bench.stoker import Stoker, invoke_request

MB = 1e6
CALLS_EACH = 5
"""Calls that every instance has answered before it is measured, on average."""
SPAWNED = 10
"""Processes of the official FDK to compare with."""


def instances_mb(stoker: Stoker, function_id: str) -> list[float]:
    """PSS of each of forty instances, with whatever processes each has, after all have answered calls."""
    set_floor(stoker, function_id, FLOOR)
    stoker.wait(lambda: len(idle(stoker, function_id)) >= FLOOR, f"floor of {FLOOR}")
    for _ in range(CALLS_EACH):
        burst(stoker.address, [invoke_request(function_id)] * FLOOR)
    stoker.wait(lambda: len(idle(stoker, function_id)) >= FLOOR, f"{FLOOR} idle instances")
    pids = [int(item["pid"]) for item in idle(stoker, function_id)]
    sizes = [sum(pss_bytes(each) for each in [pid, *descendants(pid)]) / MB for pid in pids]
    set_floor(stoker, function_id, 0)
    stoker.restart(function_id)
    return sizes


def spawned_mb(scratch: Path, source: str, packages: Path | None) -> list[float]:
    """PSS of processes of the official FDK that run the same function, all alive at once, after a few calls."""
    with contextlib.ExitStack() as stack:
        pids = []
        for _ in range(SPAWNED):
            server, target = stack.enter_context(official_fdk(scratch, source, packages=packages))
            with Client(target.address) as client:
                for _ in range(CALLS_EACH):
                    check_hello(client.send(target.request))
            pids.append(server.pid)
        return [pss_bytes(pid) / MB for pid in pids]


def figures(hello: list[float], hello_peer: list[float], numpy: list[float], numpy_peer: list[float]) -> list[Figure]:
    """The rows of the report."""
    peer = f"{SPAWNED} spawned processes of the official FDK"
    note = f"{FLOOR} instances; smaps_rollup; MB = 10^6 bytes; the template that they share is not counted"
    return [
        _row("pss-hello", "PSS per warm idle instance, hello", hello, peer, hello_peer, note),
        _row("pss-numpy", "PSS per warm idle instance, numpy", numpy, peer, numpy_peer, note),
    ]


def _row(key: str, what: str, values: list[float], peer: str, theirs: list[float], note: str) -> Figure:
    ours, spawned = Sample.of(values), Sample.of(theirs)
    return Figure(key, what, "MB", ours, peer, spawned, ours.median / spawned.median, note)
