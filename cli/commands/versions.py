"""``stoker versions`` and ``stoker rollback``."""

from __future__ import annotations

from typing import Any

import click

from cli.errors import ApiError
from cli.options import APP, FUNCTION, Settings, common
from cli.output import short_digest, structured, table


@click.command()
@APP
@FUNCTION
@common
@click.pass_obj
def versions(settings: Settings, app: str, function: str) -> None:
    """List the versions of a function.

    A version is one bundle with one set of settings. '*' marks the one that answers calls; a failed one is shown
    with the last line of its error, --output json has the whole traceback.

    \b
    Examples:
      stoker versions demo hello
      stoker versions demo hello --output json
    """
    found = settings.api.function(app, function)
    reply = settings.api.call("GET", f"/stoker/v1/functions/{found['id']}/versions") or {}
    items: list[dict[str, Any]] = reply.get("items") or []
    if not settings.for_people:
        structured(items, settings.form)
        return
    table(
        ["live", "version", "image", "digest", "memory", "timeout", "state", "created", "error"],
        [
            (
                "*" if item.get("live") else " ",
                item.get("number"),
                item.get("image"),
                short_digest(str(item.get("digest") or "")),
                f"{item.get('memory')} MiB",
                f"{item.get('timeout')} s",
                item.get("state"),
                item.get("created_at"),
                (str(item.get("error") or "").strip().splitlines() or [""])[-1],
            )
            for item in items
        ],
        empty="No versions.",
    )


@click.command()
@APP
@FUNCTION
@click.argument("version", type=click.IntRange(1), metavar="[VERSION]", required=False)
@common
@click.pass_obj
def rollback(settings: Settings, app: str, function: str, version: int | None) -> None:
    """Put an earlier version of a function back into service.

    Without VERSION, the one before the live one that was ready. It takes over when an instance of it is ready.

    \b
    Examples:
      stoker rollback demo hello
      stoker rollback demo hello 3
    """
    found = settings.api.function(app, function)
    body = {} if version is None else {"version": version}
    try:
        status = settings.api.call("POST", f"/stoker/v1/functions/{found['id']}/rollback", body=body) or {}
    except ApiError as exc:
        exc.hint = exc.hint or f"'stoker versions {app} {function}' lists what there is"
        raise
    if not settings.for_people:
        structured(status, settings.form)
        return
    live = status.get("version")
    number = live.get("number") if isinstance(live, dict) else live
    click.echo(f"Function {function} of app {app} is back at version {number or version}")
