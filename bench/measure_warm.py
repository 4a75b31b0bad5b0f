"""Warm calls: throughput, latency, and what a call costs the serving process."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench import wrk
from bench.budgets import Figure
from bench.http1 import Address, timed_calls
from bench.peers import Target
from bench.stats import Sample, paired_ratio, percentile

CONNECTIONS = (1, 8, 32)
NAMES = {
    "stoker": "Stoker",
    "gunicorn": "gunicorn (2 workers x 4 threads) + Flask",
    "functions-framework": "functions-framework",
    "uvicorn": "uvicorn, raw ASGI in process (h11, asyncio)",
    "uvicorn-standard": "uvicorn[standard], raw ASGI in process (httptools, uvloop)",
    "quart": "Quart-Trio on Hypercorn, in process",
    "quart-hop": "Quart-Trio on Hypercorn, one pipe hop",
    "fdk": "official FDK on its socket",
}
RATE_PEERS = ("gunicorn", "functions-framework", "uvicorn", "uvicorn-standard", "quart", "quart-hop")
Series = dict[tuple[str, int], list[float]]


@dataclass(slots=True)
class Warm:
    """All rounds of all targets: (target, connections) to one value per round."""

    calls_s: Series = field(default_factory=lambda: defaultdict(list))
    p50_us: Series = field(default_factory=lambda: defaultdict(list))
    p99_us: Series = field(default_factory=lambda: defaultdict(list))
    cpu_us: Series = field(default_factory=lambda: defaultdict(list))


def measure(targets: Sequence[Target], *, rounds: int, seconds: float, scratch: Path, say: object = None) -> Warm:
    """Drive every target at every number of connections, in turn, round after round.

    Targets without a URL (unix sockets) are driven by our own client on one connection.
    """
    warm = Warm()
    script = scratch / "hello.lua"
    for number in range(rounds):
        for connections in CONNECTIONS:
            for target in targets:
                if callable(say):
                    say(f"warm: round {number + 1} of {rounds}, {connections} connections, {target.key}")
                if target.url:
                    _with_wrk(warm, target, connections, seconds, script, first=number == 0)
                elif connections == 1:
                    _with_client(warm, target, seconds)
    return warm


def _with_wrk(warm: Warm, target: Target, connections: int, seconds: float, script: Path, *, first: bool) -> None:
    if first:  # let it start as many workers as this load needs
        wrk.drive(target.url, connections=connections, seconds=1, script=script, server_pid=target.pid)
    load = wrk.drive(target.url, connections=connections, seconds=seconds, script=script, server_pid=target.pid)
    at = target.key, connections
    warm.calls_s[at].append(load.calls_s)
    warm.p50_us[at].append(load.p50_us)
    warm.p99_us[at].append(load.p99_us)
    warm.cpu_us[at].append(load.cpu_us_per_call)


def _with_client(warm: Warm, target: Target, seconds: float) -> None:
    times = timed_calls(target.address, target.request, for_s=seconds, calls_max=100_000)
    at = target.key, 1
    warm.calls_s[at].append(len(times) / sum(times))
    warm.p50_us[at].append(percentile(times, 50) * 1e6)
    warm.p99_us[at].append(percentile(times, 99) * 1e6)


def unix_target(stoker: Target, socket: Path) -> Target:
    """Stoker through its unix socket, to be driven by the client that drives the official FDK."""
    return replace(stoker, key="stoker-unix", address=Address(path=socket), url="")


def figures(warm: Warm) -> list[Figure]:
    """The rows of the report."""
    rows = [_cpu(warm, connections) for connections in (1, 8)]
    for connections in CONNECTIONS:
        rows += [
            _compare(warm.calls_s, f"rate-{connections}-{peer}", f"warm calls/s, {_plural(connections)}", "calls/s",
                     ("stoker", connections), (peer, connections), NAMES[peer])
            for peer in RATE_PEERS
        ]  # fmt: skip
    rows += [
        _compare(warm.p50_us, "p50-1" if peer == "gunicorn" else f"p50-1-{peer}", "warm call p50, 1 connection", "µs",
                 ("stoker", 1), (peer, 1), NAMES[peer])
        for peer in RATE_PEERS
    ]  # fmt: skip
    rows += [
        _compare(warm.p99_us, f"p99-1-{peer}", "warm call p99, 1 connection", "µs", ("stoker", 1), (peer, 1),
                 NAMES[peer])
        for peer in RATE_PEERS
    ]  # fmt: skip
    if ("stoker-unix", 1) in warm.p50_us:
        note = "both over a unix socket, one connection, driven by the bench's own client in Python"
        rows += [
            replace(_compare(series, f"{name}-fdk", f"warm call {name}, unix socket", "µs", ("stoker-unix", 1),
                             ("fdk", 1), NAMES["fdk"]), note=note)
            for name, series in (("p50", warm.p50_us), ("p99", warm.p99_us))
        ]  # fmt: skip
    return rows


def _cpu(warm: Warm, connections: int) -> Figure:
    figure = _compare(
        warm.cpu_us, f"cpu-{connections}", f"daemon CPU per warm call, {_plural(connections)}", "µs",
        ("stoker", connections), ("quart-hop", connections), NAMES["quart-hop"],
    )  # fmt: skip
    return replace(figure, note="utime + stime of the serving process alone, over all calls of a round")


def _plural(connections: int) -> str:
    return f"{connections} connection{'s' if connections > 1 else ''}"


def _compare(
    series: Series, key: str, what: str, unit: str, ours: tuple[str, int], theirs: tuple[str, int], peer: str
) -> Figure:
    return Figure(
        key, what, unit, Sample.of(series[ours]), peer, Sample.of(series[theirs]),
        paired_ratio(series[ours], series[theirs]),
    )  # fmt: skip
