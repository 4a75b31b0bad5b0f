"""Throughput and latency through wrk, and what the server's process paid for it."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.http1 import HELLO_BODY
from bench.processes import BenchError, cpu_s

SCRIPT = f"""
wrk.method = "POST"
wrk.body = [[{HELLO_BODY.decode()}]]
wrk.headers["Content-Type"] = "application/json"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'BENCH {{"requests":%d,"duration_us":%d,"p50_us":%.1f,"p99_us":%.1f,"status":%d,"broken":%d}}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.status, e.connect + e.read + e.write + e.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of wrk gave."""

    requests: int
    calls_s: float
    p50_us: float
    p99_us: float
    cpu_us_per_call: float
    """CPU of the one server process that was named, per call."""


def find() -> str:
    """Path of wrk.

    Raises:
      BenchError: it is not installed.
    """
    path = shutil.which("wrk")
    if path is None:
        raise BenchError("wrk is not installed; it drives the load. On Debian: apt-get install wrk")
    return path


def version() -> str:
    """The version line of wrk."""
    return subprocess.run([find(), "-v"], capture_output=True, text=True).stdout.splitlines()[0].split(" [")[0]


def drive(url: str, *, connections: int, seconds: float, script: Path, server_pid: int) -> Load:
    """Load a URL from one thread.

    Raises:
      BenchError: wrk failed, or a call did.
    """
    script.write_text(SCRIPT)
    # wrk knows whole seconds only; the exact duration is in its own report.
    whole_s = max(1, round(seconds))
    command = [find(), "-t1", f"-c{connections}", f"-d{whole_s}s", "--timeout", "10s", "-s", str(script), url]
    before_s = cpu_s(server_pid)
    result = subprocess.run(command, capture_output=True, text=True, timeout=whole_s + 30)
    spent_s = cpu_s(server_pid) - before_s
    line = next((line for line in result.stdout.splitlines() if line.startswith("BENCH ")), None)
    if result.returncode or line is None:
        raise BenchError(f"wrk failed: {result.stdout}{result.stderr}")
    report = json.loads(line.removeprefix("BENCH "))
    if report["status"] or report["broken"] or not report["requests"]:
        raise BenchError(f"calls failed under wrk at {url}: {report}")
    return Load(
        requests=report["requests"],
        calls_s=report["requests"] / (report["duration_us"] / 1e6),
        p50_us=report["p50_us"],
        p99_us=report["p99_us"],
        cpu_us_per_call=spent_s * 1e6 / report["requests"],
    )
