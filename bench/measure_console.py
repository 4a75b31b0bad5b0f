"""How long the console's page of one function takes with a hundred thousand of its calls recorded within the last hour."""

from __future__ import annotations

import http.client
import random
import sqlite3
import time
from pathlib import Path
from urllib.parse import urlsplit

from bench import stoker as stokers
from bench.budgets import Figure
from bench.processes import BenchError
from bench.stats import Sample
from daemon.core.points import STEPS_S, Point
from daemon.store import record_file, series_records
from daemon.telemetry.calls import CallRecord

CALLS = 100_000
SPAN_S = 3500.0
BLOCK = 300
"""Calls in a block, as of a daemon that is called 600 times a second."""
DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def call_id(at: float, tail: int) -> str:
    """An id as the daemon makes them, for a moment (Unix time)."""
    number, text = int(at * 1000) << 80 | tail, ""
    for _ in range(26):
        text = DIGITS[number & 31] + text
        number >>= 5
    return text


def fill(path: Path, function_id: str, *, calls: int, until: float) -> None:
    """Write calls and their series into a file of records that no daemon has open: one in a hundred cold, one failed."""
    rng = random.Random(1)
    batch: list[CallRecord] = []
    points: dict[series_records.Key, Point] = {}
    conn = sqlite3.connect(path, isolation_level=None)
    conn.execute("BEGIN")
    for i in range(calls):
        at = until - SPAN_S + SPAN_S * i / calls
        cold, failed = rng.random() < 0.01, rng.random() < 0.01
        start_s = 0.005 if cold else 0.0
        record = CallRecord(
            call_id(at, i), function_id, "app", "hello", 1, 1 + i % 7, "sync", "fork" if cold else "reuse", at, start_s,
            start_s, 0.0, start_s / 2, start_s / 2, rng.lognormvariate(-6, 1), 0.0, 502 if failed else 200,
            "function-failed" if failed else "", "function" if failed else "none", "", 10, 20, 0.001, 5_000_000,
            "127.0.0.1",
        )  # fmt: skip
        batch.append(record)
        for step_s in STEPS_S:
            points.setdefault((step_s, function_id, int(at) - int(at) % step_s), Point()).add(record)
        if len(batch) == BLOCK:
            record_file.add_calls(conn, batch)
            batch = []
    if batch:
        record_file.add_calls(conn, batch)
    series_records.add(conn, points)
    conn.execute("COMMIT")
    conn.close()


def page(*, rounds: int, scratch: Path) -> Figure:
    """Milliseconds from the request to the last byte of the page, client on the same machine."""
    with stokers.running(scratch, name="console") as daemon:
        function = stokers.deploy_hello(daemon)
    fill(scratch / "console" / "records.db", function, calls=CALLS, until=time.time())
    times = []
    with stokers.running(scratch, name="console") as daemon:
        where = urlsplit(daemon.target(function).url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
        for number in range(rounds + 1):
            began_s = time.perf_counter()
            connection.request("GET", f"/console/functions/{function}")
            reply = connection.getresponse()
            reply.read()
            if reply.status != 200:
                raise BenchError(f"the console answers {reply.status}")
            if number:  # the first one loads the templates
                times.append((time.perf_counter() - began_s) * 1e3)
        connection.close()
    return Figure(
        "console-page", f"console: page of a function with {CALLS:,} recorded calls", "ms", Sample.of(times),
        note="wanted: 150 ms or less; all calls within the last hour; the first view, which loads the templates, left out",
    )  # fmt: skip
