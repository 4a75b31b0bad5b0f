"""``stoker calls``, ``stoker call`` and ``stoker replay``."""

from __future__ import annotations

import shutil
import sys
from typing import Any

import click

from cli.api import api_error
from cli.errors import CliError
from cli.options import APP, Settings, common, complete_function
from cli.output import clean, count, pairs, size, structured, table

P95 = "p95"
BAR_COLUMNS_MAX = 100


def seconds(value: float | None) -> str:
    """A short length of time for people: ``850 us``, ``12.3 ms``, ``4.56 s``."""
    if value is None:
        return "-"
    if value < 0.001:
        return f"{value * 1e6:.0f} us"
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"


@click.command()
@APP
@click.argument("function", required=False, shell_complete=complete_function)
@click.option("--failed", is_flag=True, help="Only calls that ended in an error.")
@click.option("--cold", is_flag=True, help="Only calls that were the first of their instance.")
@click.option(
    "--slow",
    is_flag=False,
    flag_value=P95,
    default=None,
    metavar="[SECONDS]",
    help="Only calls that took longer than SECONDS; without a number, the slowest twentieth.",
)
@click.option("--since", metavar="TIME", help="Only calls after TIME: 15m, 2h, 7d ago, or 2026-11-21T06:00:00Z.")
@click.option("--until", metavar="TIME", help="Only calls before TIME.")
@click.option("--error", metavar="CODE", help="Only calls that ended in this error.")
@click.option("--kind", type=click.Choice(["sync", "detached", "trigger"]), help="Only calls of this kind.")
@click.option(
    "--limit", "-n", type=click.IntRange(1, 1000), default=50, show_default=True, metavar="N", help="How many, at most."
)
@common
@click.pass_obj
def calls(
    settings: Settings,
    app: str,
    function: str | None,
    failed: bool,
    cold: bool,
    slow: str | None,
    since: str | None,
    until: str | None,
    error: str | None,
    kind: str | None,
    limit: int,
) -> None:
    """List the calls of an app, or of one function, that have ended; newest first.

    \b
    Examples:
      stoker calls demo
      stoker calls demo hello --failed --since 1h
      stoker calls demo hello --slow
      stoker calls demo hello --slow 0.5 --output json
    """
    query = [("limit", str(limit))]
    query += [(name, "true") for name, wanted in (("failed", failed), ("cold", cold)) if wanted]
    if slow == P95:
        query.append(("slow", "true"))
    elif slow is not None:
        query.append(("longer_s", _number(slow)))
    query += [
        (name, value) for name, value in (("since", since), ("until", until), ("error", error), ("kind", kind)) if value
    ]
    if function:
        found = settings.api.function(app, function)
        page = settings.api.call("GET", f"/stoker/v1/functions/{found['id']}/calls", query=query)
    else:
        settings.api.app(app)
        page = settings.api.call("GET", "/stoker/v1/calls", query=[("app", app), *query])
    items = page.get("items") or []
    if not settings.for_people:
        structured(items, settings.form)
        return
    table(
        [
            "id",
            "at",
            *([] if function else ["function"]),
            "version",
            "outcome",
            "time",
            "queue",
            "start",
            "kind",
            "memory",
        ],
        [
            (
                item.get("id"),
                item.get("at"),
                *([] if function else [item.get("function")]),
                item.get("version"),
                item.get("error") or "ok",
                seconds(item.get("total_s")),
                seconds(item.get("queue_s")) if item.get("queue_s") else None,
                item.get("start_kind"),
                item.get("kind"),
                size(item["memory_bytes"]) if item.get("memory_bytes") else None,
            )
            for item in items
        ],
        empty="No calls that fit. Records are kept as long as records.age_s_max and records.bytes_max say.",
    )
    if page.get("slow_s"):
        click.echo(f"Slow is {seconds(page['slow_s'])} or more: the slowest twentieth of those that fit.", err=True)
    if page.get("next_cursor"):
        click.echo(f"There are older ones: --limit, or --until {items[-1].get('at')}.", err=True)


def _number(text: str) -> str:
    try:
        if float(text) >= 0:
            return text
    except ValueError:
        pass
    raise click.BadParameter(f"{text!r} is not a number of seconds", param_hint="--slow")


@click.command()
@click.argument("call_id", metavar="ID")
@common
@click.pass_obj
def call(settings: Settings, call_id: str) -> None:
    """Show one call: its phases as a bar, what it printed, and what to do next.

    The id is in the reply's header Fn-Call-Id, in 'stoker calls' and at each line of 'stoker logs'.

    \b
    Examples:
      stoker call 01M7Y00C28R00040J6N8000063
      stoker call 01M7Y00C28R00040J6N8000063 --output json
    """
    found = settings.api.call("GET", f"/stoker/v1/calls/{call_id}")
    logs = _logs_of(settings, found)
    if not settings.for_people:
        structured({**found, "logs": logs}, settings.form)
        return
    outcome = "ok" if not found.get("error") else f"{found['error']} (fault: {found.get('fault')})"
    memory = size(found["memory_bytes"]) if found.get("memory_bytes") else None
    pairs(
        [
            ("call", found.get("id")),
            (
                "function",
                f"{found.get('app') or found.get('app_id')}/{found.get('function')}, version {found.get('version')}",
            ),
            ("at", found.get("at")),
            ("outcome", f"{outcome}, status {found.get('status')}"),
            ("kind", found.get("kind")),
            ("instance", f"{found['instance']} ({found.get('start_kind')})" if found.get("instance") else "none"),
            ("caller", found.get("caller")),
            ("bytes", f"{size(found.get('bytes_in') or 0)} in, {size(found.get('bytes_out') or 0)} out"),
            ("memory, cpu", f"{memory or '-'}, {seconds(found.get('cpu_s'))}"),
            ("time", seconds(found.get("total_s"))),
        ]
    )
    click.echo()
    for line in bar(found.get("phases") or [], float(found.get("total_s") or 0), _columns()):
        click.echo(line)
    if found.get("detail"):
        click.echo(f"\n{click.style('detail', bold=True)}")
        click.echo("\n".join(f"  {clean(line)}" for line in str(found["detail"]).splitlines()))
    click.echo(f"\n{click.style('logs', bold=True)}")
    for entry in logs:
        click.echo(f"  {entry.get('at')} {str(entry.get('stream', '')).ljust(8)} {clean(str(entry.get('line', '')))}")
    if not logs:
        click.echo("  (it printed nothing)")
    if found.get("advice"):
        click.echo(f"\n{click.style('what to do next', bold=True)}")
        for text in found["advice"]:
            click.echo(f"  * {_named(str(text), found)}")
    if found.get("replayable"):
        click.echo(f"\nThe request was recorded: 'stoker replay {call_id}' runs it again.")


def _named(text: str, found: dict[str, Any]) -> str:
    """Commands in advice with the real names."""
    return text.replace("APP FN", f"{found.get('app') or 'APP'} {found.get('function') or 'FN'}")


def _logs_of(settings: Settings, found: dict[str, Any]) -> list[dict[str, Any]]:
    import json

    query = [("call", str(found.get("id"))), ("tail", "1000")]
    reply = settings.api.transport.request("GET", f"/stoker/v1/functions/{found.get('function_id')}/logs", query=query)
    if reply.status >= 400:  # the function is gone, and its logs with it
        return []
    return [json.loads(line) for line in reply.body.splitlines() if line.strip()]


def _columns() -> int:
    return max(20, min(BAR_COLUMNS_MAX, shutil.get_terminal_size().columns) - 34)


def bar(phases: list[dict[str, Any]], total_s: float, columns: int) -> list[str]:
    """One line per phase: name, length, share, and where in the call it lay."""
    lines = []
    for phase in phases:
        length_s, begin_s = float(phase["length_s"]), float(phase["begin_s"])
        share = length_s / total_s if total_s > 0 else 1.0
        first = min(columns - 1, round(columns * begin_s / total_s)) if total_s > 0 else 0
        width = max(1, min(columns - first, round(columns * share)))
        drawn = (" " * first + "█" * width).ljust(columns)
        lines.append(f"  {phase['name']:<9}{seconds(length_s):>10}{share:>6.0%}  │{drawn}│")
    return lines


@click.command()
@click.argument("call_id", metavar="ID")
@common
@click.pass_obj
def replay(settings: Settings, call_id: str) -> None:
    """Run a call again with the same headers and body, and print the function's answer.

    The function's annotation stoker.dev/record-bodies must have been true when the call came.

    \b
    Examples:
      stoker update function demo hello --annotation stoker.dev/record-bodies=true
      stoker replay 01M7Y00C28R00040J6N8000063
    """
    found = settings.api.call("GET", f"/stoker/v1/calls/{call_id}")
    path = f"/stoker/v1/functions/{found['function_id']}/calls/{call_id}/replay"
    reply = settings.api.transport.request("POST", path, timeout_s=3600)
    if reply.status >= 400 and reply.header("stoker-replay-of") == "":
        raise api_error(reply)
    sys.stdout.buffer.write(reply.body)
    sys.stdout.buffer.flush()
    again = reply.header("fn-call-id")
    what = f"replay of {call_id} as call {again}: status {reply.status}, {count(len(reply.body), 'byte')}"
    click.echo(("\n" if reply.body and not reply.body.endswith(b"\n") else "") + what, err=True)
    if reply.status >= 400:
        raise CliError(f"the function answered with status {reply.status}", hint=f"stoker call {again}")
