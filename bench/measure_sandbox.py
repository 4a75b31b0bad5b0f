"""What each layer of the sandbox costs: cold start by fork, memory of an instance, a warm call. `scripts/bench --sandbox`.

In one process with the launcher, without HTTP: what is compared is walls, not servers. The variants take turns, so that a
slow minute of the machine slows them all.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import trio

from daemon.config.settings import Limits
from daemon.config.settings import Sandbox as Settings
from daemon.model import LaunchPlan
from daemon.sandbox.walls import Sandbox
from daemon.workers.launcher import Launcher

STARTS = 150
"""Cold starts of each variant."""
CALLS = 2000
"""Warm calls of each variant."""
WARM_INSTANCES = 20
"""Instances whose memory is averaged."""
SOURCE = "def handler(ctx, data=None):\n    return 'hello'\n"
VARIANTS: dict[str, tuple[str, ...]] = {
    "no walls": ("namespaces", "seccomp", "landlock", "capabilities", "rlimits", "no-new-privs"),
    "+ limits, no_new_privs, no capabilities": ("namespaces", "seccomp", "landlock"),
    "+ Landlock": ("namespaces", "seccomp"),
    "+ filter (level C)": ("namespaces",),
    "+ namespaces, no root file system": ("mount", "own-uid"),
    "+ root file system, /tmp, /proc (all)": (),
}


class _Quiet:
    def __getattr__(self, level: str) -> Any:
        return lambda event, **values: None


def main() -> int:
    """Measure and print a table."""
    rows = trio.run(_measure)
    base = rows["no walls"]
    print(f"{'':42} {'cold start, ms':>16} {'ratio':>6} {'warm call, us':>14} {'PSS, MB':>8}")
    for name, row in rows.items():
        ratio = row["cold_ms"] / base["cold_ms"]
        print(
            f"{name:42} {row['cold_ms']:8.2f} / {row['cold_min_ms']:5.2f} {ratio:6.2f} {row['warm_us']:14.0f} "
            f"{row['pss_mb']:8.2f}"
        )
    print("cold start: request to fork until the first answer, median / minimum; without control groups and HTTP")
    return 0


async def _measure() -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="stoker-bench-") as directory:
        async with trio.open_nursery() as nursery:
            launchers = {}
            for number, (name, off) in enumerate(VARIANTS.items()):
                top = Path(directory) / str(number)
                plan = _plan(top)
                limits = Limits()
                walls = Sandbox.probed(limits, Settings(switch_off=off))
                launcher = Launcher(limits, run_dir=top / "run", log=_Quiet(), sandbox=walls)
                launchers[name] = (await nursery.start(launcher.run), plan)
            cold: dict[str, list[float]] = {name: [] for name in VARIANTS}
            for turn in range(STARTS + 5):
                for name, (launcher, plan) in launchers.items():
                    took_ms = await _cold(launcher, plan, turn + 1)
                    if turn >= 5:
                        cold[name].append(took_ms)
            for name, (launcher, plan) in launchers.items():
                rows[name] = {"cold_ms": statistics.median(cold[name]), "cold_min_ms": min(cold[name])}
                rows[name] |= await _warm(launcher, plan)
            nursery.cancel_scope.cancel()
    return rows


def _plan(top: Path) -> LaunchPlan:
    function = top / "bundle" / "function"
    function.mkdir(parents=True)
    (function / "func.py").write_text(SOURCE)
    return LaunchPlan(
        revision="bench.1.1", function_id="bench", function_name="bench", app_id="bench", app_name="bench",
        bundle_dir=str(top / "bundle"), handler_file="func.py", handler_name="handler", interpreter="",
        environment={"PATH": "/usr/bin:/bin"}, memory_mib=128, timeout_s=30,
    )  # fmt: skip


async def _cold(launcher: Launcher, plan: LaunchPlan, number: int) -> float:
    began_s = time.perf_counter()
    async with launcher.launch(plan, instance_id=number, on_boot_output=lambda data: None) as worker:
        await worker.channel.ready()
        await _call(worker)
        took_s = time.perf_counter() - began_s
    os.close(worker.stdout_fd)
    os.close(worker.stderr_fd)
    return took_s * 1e3


async def _call(worker: Any) -> None:
    await worker.channel.call(call_id="b", deadline="2030-01-01T00:00:00Z", headers=[("content-type", "-")], body=b"")


async def _warm(launcher: Launcher, plan: LaunchPlan) -> dict[str, float]:
    """The median of warm calls, and the proportional memory of an instance among `WARM_INSTANCES` after 100 calls."""
    took: list[float] = []
    sizes: list[int] = []
    ready: list[trio.Event] = [trio.Event() for _ in range(WARM_INSTANCES)]
    done = trio.Event()

    async def live(number: int) -> None:
        async with launcher.launch(plan, instance_id=10_000 + number, on_boot_output=lambda data: None) as worker:
            await worker.channel.ready()
            for _ in range(CALLS if number == 0 else 100):
                began_s = time.perf_counter()
                await _call(worker)
                took.append(time.perf_counter() - began_s) if number == 0 else None
            ready[number].set()
            await done.wait()
            sizes.append(_pss_bytes(worker.pid))
        os.close(worker.stdout_fd)
        os.close(worker.stderr_fd)

    async with trio.open_nursery() as nursery:
        for number, event in enumerate(ready):
            nursery.start_soon(live, number)
            await event.wait()
        done.set()
    return {"warm_us": statistics.median(took) * 1e6, "pss_mb": statistics.mean(sizes) / 1e6}


def _pss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0
