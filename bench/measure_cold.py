"""Cold starts: by fork, with imports, a hundred at once, a floor of forty, and a template's own boot.

Every cold call is checked against the daemon's own account of start kinds, so that a hot start or a spare cannot pass
for a fork.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import venvs
from bench.budgets import Figure
from bench.http1 import HELLO_BODY, Client, burst, check_hello
from bench.processes import POLL_S, START_S, BenchError
from bench.stats import Sample, percentile
from bench.stoker import Stoker, deploy_hello, interpreter_of, invoke_request, running, source, starts

NUMPY = ("numpy==2.3.4",)
WEB = ("fastapi==0.120.1", "httpx==0.28.1", "pydantic==2.12.3")
PYTHON_S = 60.0
"""Longest time for a python of its own to import."""
BARE = "`python3 -I -c pass`, same interpreter"
BURST_CALLS = 100
FLOOR = 40
FLOOR_MIB = 128


@dataclass(slots=True)
class Cold:
    """Milliseconds of every single start."""

    fork_ms: list[float] = field(default_factory=list)
    python_ms: list[float] = field(default_factory=list)
    machine_python_ms: list[float] = field(default_factory=list)
    """The interpreter with whatever is installed beside it on this machine."""
    spare_ms: list[float] = field(default_factory=list)
    numpy_ms: list[float] = field(default_factory=list)
    numpy_python_ms: list[float] = field(default_factory=list)
    web_ms: list[float] = field(default_factory=list)
    web_python_ms: list[float] = field(default_factory=list)


def deploy_with_imports(stoker: Stoker) -> dict[str, tuple[str, Path, str]]:
    """The two functions with heavy imports: name to (function id, packages, what to import)."""
    wanted = {
        "numpy": (NUMPY, "fn_numpy.py", "import numpy"),
        "web": (WEB, "fn_web.py", "import fastapi, httpx, pydantic"),
    }
    functions = {}
    for name, (requirements, file, statement) in wanted.items():
        packages = venvs.ensure_target(name, requirements)
        function_id = stoker.deploy(name, source(file), packages=packages)
        check_hello(stoker.call(function_id))
        functions[name] = (function_id, packages, statement)
    return functions


def measure(
    stoker: Stoker, hello: str, heavy: dict[str, tuple[str, Path, str]], *, count: int, heavy_count: int,
    say: Callable[[str], None],
) -> Cold:  # fmt: skip
    """Cold calls and pythons of their own, alternately; the heavy imports a few times, between them."""
    cold = Cold()
    installed = interpreter_of(stoker, hello)
    interpreter = venvs.bare(installed)
    every = max(1, count // heavy_count)
    for number in range(count):
        if number % 20 == 0:
            say(f"cold starts: {number} of {count}")
        cold.python_ms.append(python_ms(interpreter, "pass"))
        cold.fork_ms.append(cold_call_ms(stoker, hello, {"fork"}))
        if number % every == 0:
            cold.machine_python_ms.append(python_ms(installed, "pass"))
            numpy_id, numpy_packages, numpy_statement = heavy["numpy"]
            cold.numpy_ms.append(cold_call_ms(stoker, numpy_id, {"fork"}))
            cold.numpy_python_ms.append(python_ms(interpreter, numpy_statement, numpy_packages))
            web_id, web_packages, web_statement = heavy["web"]
            cold.web_ms.append(cold_call_ms(stoker, web_id, {"fork"}))
            cold.web_python_ms.append(python_ms(interpreter, web_statement, web_packages))
    return cold


def python_ms(interpreter: Path, statement: str, packages: Path | None = None) -> float:
    """From spawning an interpreter that runs the statement to its end."""
    code = f"import sys; sys.path.insert(0, {str(packages)!r}); {statement}" if packages else statement
    began_s = time.perf_counter()
    result = subprocess.run([interpreter, "-I", "-c", code], capture_output=True, text=True, timeout=PYTHON_S)
    took_ms = (time.perf_counter() - began_s) * 1e3
    if result.returncode:
        raise BenchError(f"{code}: {result.stderr[-1000:]}")
    return took_ms


def cold_call_ms(stoker: Stoker, function_id: str, kinds: set[str]) -> float:
    """One call to a function without instances, until its answer is there.

    Raises:
      BenchError: the daemon says that the call was started in another way.
    """
    stoker.restart(function_id)
    before = starts(stoker)
    with Client(stoker.address) as client:
        check_hello_or_not_found(client)  # opens the connection: it is not what is measured
        request = invoke_request(function_id)
        began_s = time.perf_counter()
        reply = client.send(request)
        took_ms = (time.perf_counter() - began_s) * 1e3
    check_hello(reply)
    check_started(stoker, before, kinds)
    return took_ms


def check_started(stoker: Stoker, before: dict[str, int], kinds: set[str]) -> None:
    """Raises BenchError unless the daemon counted calls of these start kinds, and of no other, since ``before``."""
    started = {kind for kind, count in starts(stoker).items() if count > before.get(kind, 0)}
    if not started or not started <= kinds:
        raise BenchError(f"wanted a start by {' or '.join(sorted(kinds))}, the daemon counted {started or 'none'}")


def check_hello_or_not_found(client: Client) -> None:
    """A call to a function that does not exist: cheap, and goes through the data plane."""
    if client.send(invoke_request("none")).status != 404:
        raise BenchError("a function named none exists")


def spare_ms(stoker: Stoker, hello: str) -> float:
    """A call that finds only an instance that was never used: two at once, of which the spare takes one."""
    stoker.restart(hello)
    check_hello(stoker.call(hello))
    stoker.wait(lambda: len(idle(stoker, hello)) >= 2, "spare")
    before = starts(stoker).get("spare", 0)
    times = burst(stoker.address, [invoke_request(hello)] * 2)
    if starts(stoker).get("spare", 0) == before:
        raise BenchError("no call was started on a spare")
    return max(times) * 1e3


def idle(stoker: Stoker, function_id: str) -> list[dict[str, Any]]:
    """The function's instances that can take a call."""
    return [item for item in stoker.instances(function_id) if item["state"] == "idle"]


def burst_ms(stoker: Stoker, hello: str) -> tuple[float, float]:
    """A hundred calls at once to a function without instances: milliseconds to the first answer and to the last."""
    stoker.restart(hello)
    times = burst(stoker.address, [invoke_request(hello, HELLO_BODY)] * BURST_CALLS)
    if len(times) != BURST_CALLS:
        raise BenchError(f"{len(times)} of {BURST_CALLS} calls were answered")
    return times[0] * 1e3, times[-1] * 1e3


def floor_ms(stoker: Stoker, function_id: str) -> tuple[float, float]:
    """From asking for a floor of forty until the first, and until all, are ready; milliseconds.

    The daemon is asked again and again, which costs it time and blurs the figure by the time of one answer.
    """
    set_floor(stoker, function_id, 0)
    stoker.restart(function_id)
    began_s = time.perf_counter()
    set_floor(stoker, function_id, FLOOR)
    first_s = 0.0
    while time.perf_counter() - began_s < START_S:
        available = stoker.status(function_id)["pool"]["pcu"]["available"]
        now_s = time.perf_counter() - began_s
        if available and not first_s:
            first_s = now_s
        if available >= FLOOR:
            return first_s * 1e3, now_s * 1e3
        time.sleep(POLL_S)
    raise BenchError(f"{available} of {FLOOR} PCUs after {START_S:g} s")


def set_floor(stoker: Stoker, function_id: str, count: int) -> None:
    """Ask for provisioned concurrency, or for none."""
    wanted = {"strategy": "CONSTANT", "count": count} if count else {"strategy": "NONE"}
    stoker.api("PUT", f"/v2/fns/{function_id}", {"provisioned_concurrency": wanted})


def restarts(scratch: Path, count: int) -> tuple[list[float], list[float]]:
    """Daemons started one after another on one data directory: milliseconds until ready, and of the first call.

    A daemon that was just started has no template, so its first call waits for one to boot.
    """
    ready_ms, boot_ms = [], []
    with running(scratch, name="restarts") as stoker:
        hello = deploy_hello(stoker)
    for _ in range(count):
        with running(scratch, name="restarts") as stoker:
            ready_ms.append(stoker.ready_s * 1e3)
            before = starts(stoker)
            began_s = time.perf_counter()
            reply = stoker.call(hello)
            boot_ms.append((time.perf_counter() - began_s) * 1e3)
            check_hello(reply)
            check_started(stoker, before, {"boot"})
    return ready_ms, boot_ms


def figures(
    cold: Cold,
    *,
    bursts: Sequence[tuple[float, float]],
    floors: Sequence[tuple[float, float]],
    ready_ms: Sequence[float],
    boot_ms: Sequence[float],
) -> list[Figure]:
    """The rows of the report."""
    fork = Sample.of(cold.fork_ms)
    python = Sample.of(cold.python_ms)
    fork_p99, python_p99 = percentile(cold.fork_ms, 99), percentile(cold.python_ms, 99)
    one = "one cold start by fork (median)"
    rows = [
        _over("cold-fork", "cold start by fork, hello, p50", cold.fork_ms, BARE, python,
              note="alternately; connection open before; every start kind checked with the daemon; the bare python is a "
              "fresh virtual environment's, without the .pth files of the machine's own"),
        _over("cold-installed-python", "cold start by fork, hello, p50", cold.fork_ms,
              "the same with the machine's own site-packages", Sample.of(cold.machine_python_ms)),
        Figure("cold-fork-p99", "cold start by fork, hello, p99", "ms", _one(fork_p99, len(cold.fork_ms)),
               "its own p50", fork, fork_p99 / fork.median),
        Figure("cold-python-p99", "cold start by fork, hello, p99, beside a bare python", "ms",
               _one(fork_p99, len(cold.fork_ms)), f"{BARE}, p99", _one(python_p99, len(cold.python_ms)),
               fork_p99 / python_p99),
        _over("cold-numpy", "cold start by fork, function importing numpy", cold.numpy_ms, one, fork),
        _over("cold-numpy-import", "cold start by fork, function importing numpy", cold.numpy_ms,
              "importing it in a fresh python", Sample.of(cold.numpy_python_ms)),
        _over("cold-web", "cold start by fork, function importing fastapi + httpx + pydantic", cold.web_ms, one, fork),
        _over("cold-web-import", "cold start by fork, function importing fastapi + httpx + pydantic", cold.web_ms,
              "importing them in a fresh python", Sample.of(cold.web_python_ms)),
        _over("burst-100", f"{BURST_CALLS} simultaneous calls to a cold function: all answered",
              [last for _, last in bursts], one, fork),
        _over("burst-first", f"{BURST_CALLS} simultaneous calls to a cold function: first answered",
              [first for first, _ in bursts], one, fork),
        _over("pcus-40", f"{FLOOR} PCUs asked for: all ready", [last for _, last in floors], one, fork),
        _over("pcus-first", f"{FLOOR} PCUs asked for: first ready", [first for first, _ in floors], one, fork,
              note="includes the management request that asks for them, and the one that sees it"),
        _over("boot", "first call after a start of the daemon: its template boots first", boot_ms, BARE, python),
        _over("start", "daemon start until it is ready, one function deployed", ready_ms, BARE, python),
    ]  # fmt: skip
    if cold.spare_ms:
        rows.append(_over("cold-spare", "two calls at once, one of them on a spare: both answered", cold.spare_ms, one,
                          fork))  # fmt: skip
    return rows


def _over(
    key: str, what: str, values: Sequence[float], peer: str, theirs: Sample, *, note: str = "", unit: str = "ms"
) -> Figure:
    ours = Sample.of(values)
    return Figure(key, what, unit, ours, peer, theirs, ours.median / theirs.median, note)


def _one(value: float, count: int) -> Sample:
    return Sample(value, value, value, count)
