"""What call records cost the warm path, and how fast a million log lines are searched."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

from bench import stoker as stokers
from bench import wrk
from bench.budgets import Figure
from bench.stats import Sample, paired_ratio
from daemon.logs.files import form
from daemon.logs.search import LogQuery, search

CONNECTIONS = 8
OFF = {"STOKER_RECORDS_ENABLED": "false"}
LINES = 1_000_000
FILES = 8
"""As many functions; their files are searched one after the other."""
SEARCHES = {
    "a word that is there once": LogQuery(text="needle-in-the-hay"),
    "a word that is not there": LogQuery(text="nothing of that kind"),
    "the same, whatever the case": LogQuery(text="Nothing Of That Kind", ignore_case=True),
    "a call": LogQuery(call_id="01M7Y00C28R00040J6N8999999"),
}


def records(*, rounds: int, seconds: float, scratch: Path) -> Figure:
    """Warm calls/s of two daemons, one that records calls and one that does not, in turn, round after round."""
    script = scratch / "hello.lua"
    rates: dict[str, list[float]] = {"on": [], "off": []}
    with contextlib.ExitStack() as stack:
        targets = {}
        for name, environment in (("on", {}), ("off", OFF)):
            daemon = stack.enter_context(stokers.running(scratch, name=f"records-{name}", environment=environment))
            targets[name] = daemon.target(stokers.deploy_hello(daemon))
        for number in range(rounds + 1):
            # Each goes first every other round: whoever comes second finds a warmer machine.
            for name in ("on", "off") if number % 2 else ("off", "on"):
                target = targets[name]
                load = wrk.drive(
                    target.url, connections=CONNECTIONS, seconds=seconds, script=script, server_pid=target.pid
                )
                if number:  # the first round only warms up
                    rates[name].append(load.calls_s)
    return Figure(
        "rate-records", f"warm calls/s with call records, {CONNECTIONS} connections", "calls/s", Sample.of(rates["on"]),
        "Stoker without call records", Sample.of(rates["off"]), paired_ratio(rates["on"], rates["off"]),
        note="two daemons of the same run, records.enabled false in the other; wanted: a ratio of 0.95 or more",
    )  # fmt: skip


def write_lines(directory: Path) -> list[tuple[str, list[Path]]]:
    """A million lines as functions' logs have them; about 210 MB."""
    logs = []
    for number in range(FILES):
        path = directory / f"log-{number}.jsonl"
        with path.open("w") as file:
            for i in range(number, LINES, FILES):
                text = (
                    f"INFO request {i} of user {i * 7919 % 10007} took {i % 997} ms, cache {'hit' if i % 3 else 'miss'}"
                )
                if i == LINES // 2:
                    text += " needle-in-the-hay"
                line = form((1.7e9 + i / 1000, f"01M7Y00C28R00040J6N8{i:06d}", "7", "stdout", text))
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        logs.append((f"F{number}", [path]))
    return logs


def log_search(*, rounds: int, scratch: Path) -> list[Figure]:
    """Milliseconds of the slowest kind of search."""
    directory = scratch / "lines"
    directory.mkdir()
    logs = write_lines(directory)
    times: dict[str, list[float]] = {name: [] for name in SEARCHES}
    for number in range(rounds + 1):
        for name, query in SEARCHES.items():
            began_s = time.perf_counter()
            search(logs, query, limit=100)
            if number:
                times[name].append((time.perf_counter() - began_s) * 1e3)
    for _, [path] in logs:
        path.unlink()
    slowest = max(times, key=lambda name: sorted(times[name])[len(times[name]) // 2])
    note = "wanted: 300 ms or less; files in the page cache, no index; the slowest kind of search: "
    return [Figure("log-search", "search in a million log lines", "ms", Sample.of(times[slowest]), note=note + slowest)]
