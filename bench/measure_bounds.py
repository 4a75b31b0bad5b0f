"""How late a deadline is, and how long the slow things take: deploying, and starting the daemon."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench import stoker as stokers
from bench.budgets import Figure
from bench.http1 import check_hello
from bench.measure_cold import BARE, WEB
from bench.processes import BenchError, end_processes, with_mark
from bench.stats import Sample
from bench.stoker import Stoker, bundle, dumps, source

REQUIREMENTS = WEB
TIMEOUT_S = 1
DEPLOY_S = 300.0
"""Longest time for one deploy."""
GONE_S = 5.0
"""How long grandchildren may go on before the bench gives up and ends them itself."""


def deploy_stuck(stoker: Stoker) -> str:
    """A function that never ends by itself; its id."""
    return stoker.deploy("stuck", source("fn_stuck.py"), timeout=TIMEOUT_S)


def overrun_ms(stoker: Stoker, stuck: str, *, grandchildren: bool) -> float:
    """Milliseconds from the deadline until the caller has its 504 and nothing of the call runs any more.

    Counted from the moment the call is sent, to a warm instance: what the call spends on its way in counts as overrun.
    """
    mark = f"bench-{secrets.token_hex(8)}"
    # A new version comes with a fresh idle instance, its canary; the last round's was killed.
    stoker.api("PUT", f"/v2/fns/{stuck}", {"config": {"ROUND": mark}})
    stoker.wait(lambda: any(item["state"] == "idle" for item in stoker.instances(stuck)), "idle instance")
    order = dumps({"grandchildren": grandchildren, "mark": mark})
    began_s = time.perf_counter()
    reply = stoker.call(stuck, order)
    answered_s = time.perf_counter() - began_s
    if reply.status != 504:
        raise BenchError(f"a call beyond its deadline was answered {reply.status} {reply.body[:500]!r}")
    while left := with_mark(mark):
        if time.perf_counter() - began_s > TIMEOUT_S + GONE_S:
            end_processes(left)
            raise BenchError(f"{len(left)} grandchildren still ran {GONE_S:g} s after the deadline")
    gone_s = time.perf_counter() - began_s
    return (max(answered_s, gone_s if grandchildren else 0.0) - TIMEOUT_S) * 1e3


def save_ms(stoker: Stoker, number: int) -> float:
    """From a changed source to the answer of the version that has it, over the management API; milliseconds."""
    text = source("fn_hello.py") + f"\nREVISION = {number}\n"
    began_s = time.perf_counter()
    image = stoker.push("saved", bundle(text))
    function_id = stoker.update("saved", image)
    check_hello(stoker.call(function_id))
    return (time.perf_counter() - began_s) * 1e3


def deploys_s(stoker: Stoker, scratch: Path, count: int) -> tuple[list[float], float]:
    """Seconds of ``stoker deploy`` with a changed source and unchanged dependencies, and of the first one.

    The first resolves and installs the dependencies; its time depends on the network.
    """
    home = scratch / "deployed"
    home.mkdir()
    (home / "func.yaml").write_text(
        "schema_version: 20180708\nname: deployed\nversion: 0.0.1\nruntime: python\n"
        "entrypoint: /python/bin/fdk /function/func.py handler\nmemory: 128\n"
    )
    (home / "requirements.txt").write_text("fdk\n" + "\n".join(REQUIREMENTS) + "\n")
    times = [_deploy_s(stoker, home, scratch, number) for number in range(count + 1)]
    return times[1:], times[0]


def _deploy_s(stoker: Stoker, home: Path, scratch: Path, number: int) -> float:
    (home / "func.py").write_text(source("fn_web.py") + f"\nREVISION = {number}\n")
    command = [sys.executable, "-m", "cli", "deploy", "--url", stoker.url, "--app", "bench", str(home)]
    env = {**os.environ, "XDG_CACHE_HOME": str(scratch / "cache"), "PYTHONPATH": str(stokers.ROOT)}
    began_s = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True, timeout=DEPLOY_S, env=env, cwd=home)
    took_s = time.perf_counter() - began_s
    if result.returncode:
        raise BenchError(f"{' '.join(command)}: {result.stdout[-1000:]}{result.stderr[-2000:]}")
    return took_s


def figures(
    *, loops: Sequence[float], grandchildren: Sequence[float], saves: Sequence[float],
    deploys: tuple[Sequence[float], float], python_ms: Sequence[float],
) -> list[Figure]:  # fmt: skip
    """The rows of the report."""
    python = Sample.of(python_ms)
    saved, again, first = Sample.of(saves), Sample.of(deploys[0]), Sample.of([deploys[1]])
    return [
        Figure("overrun-loop", "deadline overrun, busy loop", "ms", Sample.of(loops),
               note="until the caller has its 504"),
        Figure("overrun-grandchildren", "deadline overrun, grandchildren that ignore signals", "ms",
               Sample.of(grandchildren), note="until the caller has its 504 and no grandchild is left"),
        Figure("redeploy", "changed source: push + update + first call, over the API", "ms", saved,
               BARE, python, saved.median / python.median),
        Figure("deploy", "`stoker deploy`, changed source, unchanged dependencies", "s", again,
               "the first deploy, which resolves and installs them", first, again.median / first.median,
               note=f"the command from its start to its end, with {' '.join(REQUIREMENTS)}"),
    ]  # fmt: skip
