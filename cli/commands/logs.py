"""``stoker logs``."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from cli.api import api_error
from cli.errors import Unreachable
from cli.options import APP, FUNCTION, Settings, common
from cli.output import clean, structured
from cli.transport import REPLY_S


@click.command()
@APP
@FUNCTION
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
@common
@click.pass_obj
def logs(settings: Settings, app: str, function: str, follow: bool, call_id: str | None, tail: int) -> None:
    """Show what a function wrote.

    Each line is shown with its time, its call's id and the stream it came from; 'platform' lines are the daemon's
    words about the function. With --output json, one JSON object per line.

    \b
    Examples:
      stoker logs demo hello
      stoker logs demo hello --follow
      stoker logs demo hello --call 01M7Y00C28R00040J6N8000063 --tail 1000
    """
    found = settings.api.function(app, function)
    query = [("tail", str(tail))]
    if call_id:
        query.append(("call", call_id))
    if follow:
        query.append(("follow", "true"))
    path = f"/stoker/v1/functions/{found['id']}/logs"
    lines = settings.api.transport.lines(path, query=query, timeout_s=None if follow else REPLY_S)
    if lines.reply.status >= 400:
        raise api_error(lines.reply)
    for raw in lines:
        if raw.strip():
            _show(settings, raw)
    if follow:
        raise Unreachable("the daemon ended the log stream", hint="run the command again when it is back")


def _show(settings: Settings, raw: bytes) -> None:
    if settings.form == "json":
        click.echo(raw.decode("utf-8", "replace").rstrip("\n"))
        sys.stdout.flush()
        return
    entry: dict[str, Any] = json.loads(raw)
    if settings.form == "yaml":
        structured([entry], "yaml")
        sys.stdout.flush()
        return
    line = str(entry.get("line", ""))
    head = f"{entry.get('at', '-')} {entry.get('call_id') or '-'} {entry.get('stream', '-')}"
    # A pipe gets the line as it was written; a terminal must not be steered by it.
    if sys.stdout.isatty():
        click.echo(f"{click.style(head, dim=True)} {clean(line)}")
    else:
        sys.stdout.buffer.write(f"{head} {line}\n".encode("utf-8", "replace"))
    sys.stdout.flush()
