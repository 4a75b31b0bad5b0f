"""``stoker deadletter``: detached calls that failed for good: look at them, run them again, delete them."""

from __future__ import annotations

import base64
import sys
from typing import Any

import click

from cli.errors import CliError
from cli.options import APP, FUNCTION, Settings, common, complete_app, complete_function
from cli.output import clean, count, duration, pairs, size, structured, table

CALLS = click.argument("calls", metavar="[CALL_ID]...", nargs=-1)
ALL = click.option("--all", "every", is_flag=True, help="All dead letters of the function.")


@click.group()
@common
def deadletter() -> None:
    """Look at detached calls that failed for good, run them again, or delete them.

    \b
    Examples:
      stoker deadletter ls
      stoker deadletter show demo report 01HZX3V9T6W8Q4Y2K5N7P0R1SM
      stoker deadletter redrive demo report --all
      stoker deadletter purge demo report --all
    """


@deadletter.command("ls")
@click.argument("app", required=False, shell_complete=complete_app)
@click.argument("function", required=False, shell_complete=complete_function)
@common
@click.pass_obj
def list_letters(settings: Settings, app: str | None, function: str | None) -> None:
    """List dead letters, oldest first: all, or those of APP, or of one FUNCTION of it.

    \b
    Examples:
      stoker deadletter ls
      stoker deadletter ls demo report --output json
    """
    path = "/stoker/v1/deadletters"
    if app and function:
        path = f"/stoker/v1/functions/{settings.api.function(app, function)['id']}/deadletters"
    elif app:
        settings.api.app(app)  # a name that does not exist is not an empty list
    items = [item for item in settings.api.pages(path) if not app or item.get("app") == app]
    if not settings.for_people:
        structured(items, settings.form)
        return
    table(
        ["call", "function", "age", "attempts", "size", "error"],
        [
            (
                item.get("call_id"),
                f"{item.get('app')}/{item.get('function')}",
                duration(item.get("age_s")),
                item.get("attempts"),
                size(item.get("bytes") or 0),
                _error(item),
            )
            for item in items
        ],
        empty="No dead letters.",
    )


def _error(item: dict[str, Any]) -> str:
    error = item.get("error") or {}
    first = str(error.get("detail") or "").partition("\n")[0]
    return f"{error.get('code', '-')}: {first[:60]}" if first else str(error.get("code", "-"))


@deadletter.command()
@APP
@FUNCTION
@click.argument("call", metavar="CALL_ID")
@click.option("--body", "only_body", is_flag=True, help="Write the call's body, and nothing else.")
@common
@click.pass_obj
def show(settings: Settings, app: str, function: str, call: str, only_body: bool) -> None:
    """Show a dead letter: why it failed, what was sent.

    \b
    Examples:
      stoker deadletter show demo report 01HZX3V9T6W8Q4Y2K5N7P0R1SM
      stoker deadletter show demo report 01HZX3V9T6W8Q4Y2K5N7P0R1SM --body > body.bin
    """
    found = settings.api.function(app, function)
    item = settings.api.call("GET", f"/stoker/v1/functions/{found['id']}/deadletters/{call}")
    body = base64.b64decode(item.get("body") or "")
    if only_body:
        sys.stdout.buffer.write(body)
        return
    if not settings.for_people:
        structured(item, settings.form)
        return
    error = item.get("error") or {}
    pairs(
        [
            ("Call", item.get("call_id")),
            ("Function", f"{item.get('app')}/{item.get('function')}"),
            ("Accepted", item.get("accepted_at")),
            ("Ended", item.get("ended_at")),
            ("Attempts", item.get("attempts")),
            ("Error", f"{error.get('code', '-')} ({error.get('fault', '-')}): {error.get('message', '')}"),
        ]
    )
    if error.get("detail"):
        click.echo("\n" + clean(str(error["detail"])))
    click.echo()
    for header in item.get("headers") or []:
        click.echo(clean(f"{header.get('name')}: {header.get('value')}"))
    click.echo()
    click.echo(_readable(body))


def _readable(body: bytes) -> str:
    try:
        return clean(body.decode()) if body else "(no body)"
    except UnicodeDecodeError:
        return f"({size(len(body))} that are not text: --body writes them)"


@deadletter.command()
@APP
@FUNCTION
@CALLS
@ALL
@common
@click.pass_obj
def redrive(settings: Settings, app: str, function: str, calls: tuple[str, ...], every: bool) -> None:
    """Put dead letters back into the queue, with all their attempts. Each is a new call, with an id of its own.

    \b
    Examples:
      stoker deadletter redrive demo report 01HZX3V9T6W8Q4Y2K5N7P0R1SM
      stoker deadletter redrive demo report --all
    """
    number, made = _act(settings, app, function, calls, every, "redrive", "redriven")
    if settings.for_people:
        click.echo(f"Put {count(number, 'call')} back into the queue")
        if calls:
            for old_id, new_id in made.items():
                click.echo(clean(f"{old_id} is now {new_id}"))


@deadletter.command()
@APP
@FUNCTION
@CALLS
@ALL
@common
@click.pass_obj
def purge(settings: Settings, app: str, function: str, calls: tuple[str, ...], every: bool) -> None:
    """Delete dead letters.

    \b
    Examples:
      stoker deadletter purge demo report 01HZX3V9T6W8Q4Y2K5N7P0R1SM
      stoker deadletter purge demo report --all
    """
    number, _ = _act(settings, app, function, calls, every, "purge", "purged")
    if settings.for_people:
        click.echo(f"Deleted {count(number, 'dead letter')}")


def _act(
    settings: Settings, app: str, function: str, calls: tuple[str, ...], every: bool, verb: str, member: str
) -> tuple[int, dict[str, str]]:
    """How many, and of redriven calls the new ids by the old ones."""
    if bool(calls) == every:
        raise CliError("say which: one or more call ids, or --all", hint="'stoker deadletter ls' lists them")
    found = settings.api.function(app, function)
    body = {"calls": list(calls)} if calls else {}
    number, made = 0, dict[str, str]()
    while True:
        reply = settings.api.call("POST", f"/stoker/v1/functions/{found['id']}/deadletters/{verb}", body=body)
        number += int(reply.get(member) or 0)
        made |= reply.get("calls") or {}
        if not reply.get("more"):
            break
    if not settings.for_people:
        structured({member: number, **({"calls": made} if made else {})}, settings.form)
    return number, made
