"""``stoker status``: is a function healthy, how often called, how slow and why, what would more instances bring?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from cli.commands.calls import seconds
from cli.errors import CliError
from cli.options import APP, FUNCTION, Settings, common
from cli.output import clean, count, pairs, structured

FAILING = 0.05
"""POLICY: a function of whose calls more than this part failed is said to fail."""
SLOW_MAX = 1000
"""Of so many slow calls, the newest, the slowest is named."""
PHASES = ("queue", "start", "handler")


@click.command()
@APP
@FUNCTION
@click.option("--since", metavar="TIME", default="1h", show_default=True, help="Look at calls after TIME: 15m, 2h, 7d.")
@common
@click.pass_obj
def status(settings: Settings, app: str, function: str, since: str) -> None:
    """Say how a function is: healthy, how often called, how slow and why.

    Also how many instances are warm. Then what to look at next: the newest call that failed, one of the slowest, and
    what more warm instances would bring.

    \b
    Examples:
      stoker status demo hello
      stoker status demo hello --since 24h
      stoker status demo hello --output json
    """
    api = settings.api
    path = f"/stoker/v1/functions/{api.function(app, function)['id']}"
    data: dict[str, Any] = {"status": api.call("GET", path)}
    try:
        data["summary"] = api.call("GET", f"{path}/summary", query=[("since", since)])
        for name, most in (("failed", 1), ("slow", SLOW_MAX)):
            query = [(name, "true"), ("since", since), ("limit", str(most))]
            data[name] = api.call("GET", f"{path}/calls", query=query)["items"]
        data["slow"] = sorted(data["slow"], key=lambda call: -call["total_s"])[:1]
        data["advice"] = api.call("GET", f"{path}/advice")
    except CliError as exc:
        if getattr(exc, "code", "") != "conflict":
            raise
        data["not_recorded"] = exc.message  # records.enabled is false
    data["verdict"] = verdict(data)
    if not settings.for_people:
        structured(data, settings.form)
        return
    click.echo(f"{app}/{function} {clean(data['verdict'])}\n")
    pairs(_lines(data))
    for line in _next(data, app, function):
        click.echo(line)


def verdict(data: dict[str, Any]) -> str:
    """How it is, in a few words."""
    pool = data["status"].get("pool") or {}
    if pool.get("start_error"):
        return "cannot start"
    total = (data.get("summary") or {}).get("total")
    if total is None:
        return "can start; its calls are not recorded, so no more is known"
    if not total["calls"]:
        return "was not called in this time"
    failed = total["calls"] - total["ok"]
    share = failed / total["calls"]
    if share > FAILING:
        return f"fails: {share:.0%} of its calls did"
    return "is healthy" if not failed else f"is healthy, but for {count(failed, 'call')} that failed"


def _lines(data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    now, version = data["status"], data["status"]["version"]
    memory_timeout = f"{version['memory']} MiB, timeout {version['timeout']} s"
    yield "version", f"{version['number']} ({version['image']}), {memory_timeout}"
    pool = now.get("pool") or {}
    if pool.get("start_error"):
        yield "cannot start", clean(str(pool["start_error"]).strip().splitlines()[-1])
    if summary := data.get("summary"):
        yield from _calls(summary)
    there = [f"{n} {state}" for state, n in (pool.get("instances") or {}).items() if n]
    pcu = pool.get("pcu") or {}
    floor = f"; provisioned {pcu['allocated']} of {pcu['requested']}" if pcu.get("requested") else "; none provisioned"
    waiting = f"; {count(pool['queue'], 'call')} waiting" if pool.get("queue") else ""
    yield "instances", (", ".join(there) or "none") + floor + waiting
    if trouble := (now.get("network") or {}).get("trouble"):
        yield "network", f"reaches nothing outside now: {clean(str(trouble))}; the daemon tries again by itself"


def _calls(summary: dict[str, Any]) -> Iterator[tuple[str, str]]:
    total = summary["total"]
    minutes = max(1.0, (summary["until"] - summary["since"]) / 60)
    yield "calls", f"{total['calls']:,}, {_rate(total['calls'] / minutes)} a minute"
    if total["errors"]:
        errors = sorted(total["errors"].items(), key=lambda item: -int(item[1]))
        faults = ", ".join(f"{fault}'s {n}" for fault, n in total["failed"].items())
        yield "failed", f"{', '.join(f'{clean(code)} {n}' for code, n in errors)} (whose fault: {faults})"
    latency = total["latency"]
    if whole := latency.get("total"):
        yield "time", f"half below {seconds(whole['p50_s'])}, 95 % below {seconds(whole['p95_s'])}, {_why(latency)}"
    for phase in PHASES:
        if found := latency.get(phase):
            half, most = seconds(found["p50_s"]), seconds(found["p95_s"])
            yield f"  {phase}", f"half below {half}, 95 % below {most}, of {count(found['count'], 'call')}"
    if total["cold"]:
        yield "cold starts", f"{total['cold']:,} ({total['cold'] / total['calls']:.1%})"


def _rate(value: float) -> str:
    """Three digits, and no exponent: ``0.033``, ``6.67``, ``1,667``."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.001 or not value else f"{value:.4f}"


def _why(latency: dict[str, Any]) -> str:
    """Where the time goes: sums of seconds by phase, the biggest first."""
    spent = {name: found["mean_s"] * found["count"] for name in PHASES if (found := latency.get(name))}
    spent["queue"] = max(0.0, spent.get("queue", 0.0) - spent.get("start", 0.0))  # a start is part of the wait
    everything = sum(spent.values())
    words = {"queue": "waiting for an instance", "start": "starting one", "handler": "its own code"}
    parts = [(value / everything, words[name]) for name, value in spent.items() if value > 0.01 * everything]
    return "of it " + ", ".join(f"{part:.0%} {word}" for part, word in sorted(parts, reverse=True))


def _next(data: dict[str, Any], app: str, function: str) -> Iterator[str]:
    steps = []
    for call in data.get("failed") or []:
        steps.append(f"the newest call that failed ({clean(call['error'] or '')}): stoker call {call['id']}")
    for call in data.get("slow") or []:
        steps.append(f"one of the slowest ({seconds(call['total_s'])}): stoker call {call['id']}")
    advice = data.get("advice") or {}
    if advice.get("cold_without_floor"):
        steps.append(f"{advice['text']} stoker advise {app} {function}")
    if steps:
        yield "\nnext"
    for step in steps:
        yield f"  * {step}"
