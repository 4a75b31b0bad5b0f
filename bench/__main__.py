"""The command line of the bench."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import (
    measure_bounds,
    measure_cold,
    measure_console,
    measure_dev,
    measure_exec,
    measure_memory,
    measure_records,
    measure_sandbox,
    measure_warm,
    peers,
    stoker,
    wrk,
)
from bench.budgets import Figure, as_json, unmeasured
from bench.chart import svg
from bench.machine import conditions
from bench.processes import BenchError
from bench.table import BUDGET_HEADER, HEADER, page, plain_table, rows, summary

ROOT = Path(__file__).parents[1]
NOTES = Path(__file__).with_name("notes.md")
"""Where the time goes: from profiles, by hand."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How often and how long everything is measured."""

    rounds: int
    seconds: float
    """Of load per target, number of connections and round."""
    cold: int
    cold_heavy: int
    slow: int
    """Repetitions of what takes long: deploys, starts, deadlines."""


FULL = Plan(rounds=5, seconds=3, cold=150, cold_heavy=25, slow=5)
QUICK = Plan(rounds=2, seconds=1, cold=20, cold_heavy=4, slow=2)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the report; returns the exit code."""
    args = _parser().parse_args(argv)
    if args.sandbox:
        return measure_sandbox.main()
    plan = QUICK if args.quick else FULL
    load = os.getloadavg()[0]
    try:
        wrk.find()
        with tempfile.TemporaryDirectory(prefix="stoker-bench-", ignore_cleanup_errors=True) as scratch:
            figures, sandbox = measure(plan, Path(scratch))
    except BenchError as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return 1
    if missing := unmeasured(figures):
        print(f"bench: no figure for {', '.join(missing)}", file=sys.stderr)
        return 1
    print(plain_table(BUDGET_HEADER, rows(figures, budgeted=True)))
    print(plain_table(HEADER, rows(figures, budgeted=False)))
    print(summary(figures))
    command = "scripts/bench" + (" --quick" if args.quick else "")
    where = conditions(
        command=command, sandbox=sandbox, rounds=plan.rounds, seconds=plan.seconds, load_before=load
    )  # fmt: skip
    write(figures, where, Path(args.output))
    return 0


def write(figures: list[Figure], where: dict[str, object], output: Path) -> None:
    """Write the page, the picture and the raw figures under ``output`` (the repository)."""
    reference, results = output / "docs/reference", output / "bench/results"
    reference.mkdir(parents=True, exist_ok=True)
    results.mkdir(parents=True, exist_ok=True)
    (reference / "performance.md").write_text(page(figures, where, notes=NOTES.read_text()))
    (reference / "performance.svg").write_text(svg(figures))
    document = {"conditions": where, "figures": [as_json(figure) for figure in figures]}
    (results / "latest.json").write_text(json.dumps(document, indent=1) + "\n")
    for path in (reference / "performance.md", reference / "performance.svg", results / "latest.json"):
        _say(f"wrote {path}")


def measure(plan: Plan, scratch: Path) -> tuple[list[Figure], str]:
    """Every figure of the report, and the state of the sandbox.

    Raises:
      BenchError: something could not be measured; nothing is reported then, rather than a part.
    """
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(stoker.running(scratch))
        hello = stoker.deploy_hello(daemon)
        warm = _warm(daemon, hello, plan, scratch)
        heavy = measure_cold.deploy_with_imports(daemon)
        cold = measure_cold.measure(daemon, hello, heavy, count=plan.cold, heavy_count=plan.cold_heavy, say=_say)
        figures = measure_warm.figures(warm)
        _say("records: with and without; log search")
        figures.append(measure_records.records(rounds=plan.rounds, seconds=plan.seconds, scratch=scratch))
        figures += measure_records.log_search(rounds=plan.slow, scratch=scratch)
        _say("console: a function with many calls")
        figures.append(measure_console.page(rounds=plan.slow, scratch=scratch))
        _say("programs: the official FDK under Stoker and alone")
        figures += measure_exec.measure(daemon, rounds=plan.rounds, seconds=plan.seconds, scratch=scratch)
        figures += _cold(daemon, hello, cold, plan, scratch)
        figures += _memory(daemon, hello, heavy, scratch)
        figures += _bounds(daemon, cold.python_ms, plan, scratch)
        _say("stoker dev: saves")
        figures.append(measure_dev.figure(measure_dev.saves_ms(daemon, scratch, 2 * plan.slow)))
        daemon.call(hello)
        return figures, stoker.sandbox_of(daemon, hello)


def _warm(daemon: stoker.Stoker, hello: str, plan: Plan, scratch: Path) -> measure_warm.Warm:
    with peers.running(scratch) as targets:
        ours = daemon.target(hello)
        everybody = [ours, *targets.values(), measure_warm.unix_target(ours, daemon.socket)]
        return measure_warm.measure(everybody, rounds=plan.rounds, seconds=plan.seconds, scratch=scratch, say=_say)


def _cold(daemon: stoker.Stoker, hello: str, cold: measure_cold.Cold, plan: Plan, scratch: Path) -> list[Figure]:
    _say("cold: spares, bursts, floors, restarts of the daemon")
    cold.spare_ms += [measure_cold.spare_ms(daemon, hello) for _ in range(plan.slow)]
    bursts = [measure_cold.burst_ms(daemon, hello) for _ in range(plan.slow)]
    floors = [measure_cold.floor_ms(daemon, hello) for _ in range(plan.slow)]
    measure_cold.set_floor(daemon, hello, 0)
    ready_ms, boot_ms = measure_cold.restarts(scratch, plan.slow)
    return measure_cold.figures(cold, bursts=bursts, floors=floors, ready_ms=ready_ms, boot_ms=boot_ms)


def _memory(daemon: stoker.Stoker, hello: str, heavy: dict[str, tuple[str, Path, str]], scratch: Path) -> list[Figure]:
    _say("memory: forty instances, and spawned processes")
    numpy, packages, _ = heavy["numpy"]
    return measure_memory.figures(
        measure_memory.instances_mb(daemon, hello),
        measure_memory.spawned_mb(scratch, "fn_hello.py", None),
        measure_memory.instances_mb(daemon, numpy),
        measure_memory.spawned_mb(scratch, "fn_numpy.py", packages),
    )


def _bounds(daemon: stoker.Stoker, python_ms: list[float], plan: Plan, scratch: Path) -> list[Figure]:
    _say("bounds: deadlines, deploys, starts")
    stuck = measure_bounds.deploy_stuck(daemon)
    deploys = measure_bounds.deploys_s(daemon, scratch, plan.slow)
    return measure_bounds.figures(
        loops=[measure_bounds.overrun_ms(daemon, stuck, grandchildren=False) for _ in range(plan.slow)],
        grandchildren=[measure_bounds.overrun_ms(daemon, stuck, grandchildren=True) for _ in range(plan.slow)],
        saves=[measure_bounds.save_ms(daemon, number) for number in range(plan.slow)],
        deploys=deploys,
        python_ms=python_ms,
    )


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description="Measure every budget of the design beside peers.")
    parser.add_argument("--quick", action="store_true", help="few and short rounds: to see that it works")
    parser.add_argument("--sandbox", action="store_true", help="only what each layer of the sandbox costs, as a table")
    parser.add_argument(
        "--output", default=str(ROOT), metavar="DIR", help="where docs/reference and bench/results are (this clone)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
