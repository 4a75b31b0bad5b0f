"""``stoker logs``."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import Any

import click

from cli import following
from cli.api import api_error
from cli.options import APP, Settings, common, complete_function
from cli.output import clean, inert, structured
from cli.transport import REPLY_S


@click.command()
@APP
@click.argument("function", required=False, shell_complete=complete_function)
@click.option("--follow", "-f", is_flag=True, help="Go on showing lines as they are written.")
@click.option("--call", "call_id", metavar="ID", help="Only the lines of this call.")
@click.option(
    "--tail",
    type=click.IntRange(0, 10_000),
    default=100,
    show_default=True,
    metavar="N",
    help="How many of the last lines to begin with.",
)
@click.option("--text", metavar="TEXT", help="Only lines with this text.")
@click.option("--ignore-case", "-i", is_flag=True, help="Of the ASCII letters in TEXT.")
@click.option(
    "--level", type=click.Choice(["debug", "info", "warning", "error"]), help="Only lines of this level and graver."
)
@click.option("--since", metavar="TIME", help="Only lines after TIME: 15m, 2h, 7d ago, or 2026-11-21T06:00:00Z.")
@click.option("--until", metavar="TIME", help="Only lines before TIME.")
@common
@click.pass_obj
def logs(
    settings: Settings,
    app: str,
    function: str | None,
    follow: bool,
    call_id: str | None,
    tail: int,
    text: str | None,
    ignore_case: bool,
    level: str | None,
    since: str | None,
    until: str | None,
) -> None:
    """Show what a function wrote, or all functions of an app.

    Each line is shown with its time, its call's id and the stream it came from; 'platform' lines are the daemon's
    words about the function. With --output json, one JSON object per line. Following goes on when the daemon comes
    back from a restart, with the lines that came meanwhile; it ends when the function is deleted.

    \b
    Examples:
      stoker logs demo hello
      stoker logs demo hello --follow
      stoker logs demo hello --call 01M7Y00C28R00040J6N8000063 --tail 1000
      stoker logs demo --level error --since 1h
      stoker logs demo -f --text timeout
    """
    filters = [(n, v) for n, v in (("text", text), ("level", level), ("since", since), ("until", until)) if v]
    if ignore_case:
        filters.append(("ignore_case", "true"))
    if function is None or filters or follow:
        _search(settings, app, function, follow, tail, filters + ([("call", call_id)] if call_id else []))
        return
    found = settings.api.function(app, function)
    query = [("tail", str(tail))]
    if call_id:
        query.append(("call", call_id))
    path = f"/stoker/v1/functions/{found['id']}/logs"
    lines = settings.api.transport.lines(path, query=query, timeout_s=REPLY_S)
    if lines.reply.status >= 400:
        raise api_error(lines.reply)
    for raw in lines:
        if raw.strip():
            _show(settings, raw)


def _search(
    settings: Settings, app: str, function: str | None, follow: bool, tail: int, query: list[tuple[str, str]]
) -> None:
    if function is None:
        settings.api.app(app)
        base, query = "/stoker/v1/logs", [("app", app), *query]
        search = base
    else:
        base = f"/stoker/v1/functions/{settings.api.function(app, function)['id']}/logs"
        search = f"{base}/search"
    if not follow:
        data = settings.api.call("GET", search, query=[*query, ("limit", str(max(1, tail)))])
        for item in data["items"]:
            _show(settings, json.dumps(item, ensure_ascii=False).encode(), of_app=function is None)
        if not data["complete"]:
            click.echo("The search took too long and was cut: narrow it with --since or --call.", err=True)
        return
    away = partial(click.echo, "The daemon is away; its lines follow when it is back (Ctrl-C ends this).", err=True)
    for line in following.follow(
        settings.api.transport, f"{base}/stream", query=[*query, ("tail", str(tail))], away=away
    ):
        _show(settings, json.dumps(line, ensure_ascii=False).encode("utf-8", "replace"), of_app=function is None)


def _show(settings: Settings, raw: bytes, *, of_app: bool = False) -> None:
    if settings.form == "json":
        click.echo(inert(raw.decode("utf-8", "replace").rstrip("\n")))
        sys.stdout.flush()
        return
    entry: dict[str, Any] = json.loads(raw)
    if settings.form == "yaml":
        structured([entry], "yaml")
        sys.stdout.flush()
        return
    line = str(entry.get("line", ""))
    head = f"{entry.get('at', '-')} {entry.get('call_id') or '-'} {entry.get('stream', '-')}"
    if of_app:
        head += f" {entry.get('function') or '-'}"
    # A pipe gets the line as it was written; a terminal must not be steered by it.
    if sys.stdout.isatty():
        click.echo(f"{click.style(head, dim=True)} {clean(line)}")
    else:
        sys.stdout.buffer.write(f"{head} {line}\n".encode("utf-8", "replace"))
    sys.stdout.flush()
