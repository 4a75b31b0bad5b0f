"""Commands about the node: ``ps``, ``stats``, ``runtimes``, ``bundles``, ``version``."""

from __future__ import annotations

from typing import Any

import click

from cli import __version__
from cli.errors import CliError
from cli.options import Settings, common, complete_app, complete_function
from cli.output import duration, pairs, short_digest, size, structured, table


@click.command()
@click.argument("app", required=False, shell_complete=complete_app)
@click.argument("function", required=False, shell_complete=complete_function)
@common
@click.pass_obj
def ps(settings: Settings, app: str | None, function: str | None) -> None:
    """List the instances that run: all, or those of APP, or of one FUNCTION of it.

    START is how an instance came to be: fork (from its version's template), spare (forked ahead of demand), boot
    (the template had to be started first), exec (a process of its own).

    \b
    Examples:
      stoker ps
      stoker ps demo
      stoker ps demo hello --output json
    """
    query = [("app", app)] if app else []
    if function:
        query.append(("function", function))
    items = (settings.api.call("GET", "/stoker/v1/instances", query=query) or {}).get("items") or []
    if not settings.for_people:
        structured(items, settings.form)
        return
    table(
        ["id", "function", "version", "state", "pid", "start", "age", "idle", "calls", "memory"],
        [
            (
                item.get("id"),
                f"{item.get('app')}/{item.get('function')}",
                item.get("version"),
                item.get("state"),
                item.get("pid"),
                item.get("start_kind"),
                duration(item.get("age_s")),
                duration(item.get("idle_s")),
                item.get("calls"),
                _memory(item.get("memory_mib"), item.get("memory_limit_mib")),
            )
            for item in items
        ],
        empty="No instances. They are started by calls, and by provisioned concurrency.",
    )


def _memory(used: float | None, limit: float | None) -> str:
    shown = "-" if used is None else f"{used:.1f}"
    return f"{shown}/{limit:g} MiB" if limit is not None else f"{shown} MiB"


@click.command()
@common
@click.pass_obj
def stats(settings: Settings) -> None:
    """Show calls, starts, latency and memory of the node.

    \b
    Examples:
      stoker stats
      stoker stats --output json
    """
    data = settings.api.call("GET", "/stoker/v1/stats") or {}
    if not settings.for_people:
        structured(data, settings.form)
        return
    pairs(_flat(data))


def _flat(data: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """``{"calls": {"ok": 3}}`` as ``calls.ok  3``."""
    found: list[tuple[str, Any]] = []
    for key, value in data.items():
        if isinstance(value, dict) and value:
            found += _flat(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", round(value, 6) if isinstance(value, float) else value))
    return found


@click.command()
@common
@click.pass_obj
def runtimes(settings: Settings) -> None:
    """List what the daemon's machine has to run functions.

    'runtime: python' in func.yaml is the daemon's own interpreter; 'runtime: python3.12' picks one of these.
    'runtime: node' takes whatever Node there is, 'runtime: node22' that version. Go and other programs that
    are in the bundle need nothing.

    \b
    Examples:
      stoker runtimes
      stoker runtimes --output yaml
    """
    items = (settings.api.call("GET", "/stoker/v1/runtimes") or {}).get("items") or []
    if not settings.for_people:
        structured(items, settings.form)
        return
    rows = [(item.get("name"), item.get("version"), item.get("path")) for item in items]
    table(["name", "version", "path"], rows, empty="Nothing found.")


@click.command()
@click.argument("name", required=False)
@common
@click.pass_obj
def bundles(settings: Settings, name: str | None) -> None:
    """List the bundles that the daemon keeps, or those called NAME.

    \b
    Examples:
      stoker bundles
      stoker bundles hello --output json
    """
    query = [("name", name)] if name else []
    items = (settings.api.call("GET", "/stoker/v1/bundles", query=query) or {}).get("items") or []
    if not settings.for_people:
        structured(items, settings.form)
        return
    table(
        ["image", "digest", "packed", "unpacked", "files", "runtime"],
        [
            (
                item.get("image") or ", ".join(item.get("images") or []),
                short_digest(str(item.get("digest", ""))),
                size(item.get("packed_bytes") or 0),
                size(item.get("unpacked_bytes") or 0),
                item.get("files"),
                item.get("runtime"),
            )
            for item in items
        ],
        empty="No bundles. 'stoker push' and 'stoker deploy' send them.",
    )


@click.command()
@common
@click.pass_obj
def version(settings: Settings) -> None:
    """Print the versions of the command and of the daemon.

    \b
    Examples:
      stoker version
      stoker version --output json
    """
    data: dict[str, Any] = {"client": __version__}
    try:
        found = settings.api.call("GET", "/version") or {}
        data.update(server=found.get("stoker"), fn_api=found.get("version"))
    except CliError as exc:
        data.update(server=None, error=exc.message)
    if not settings.for_people:
        structured(data, settings.form)
        return
    click.echo(f"stoker {__version__}")
    if data["server"] is None and "error" in data:
        click.echo(f"daemon: {data['error']}", err=True)
    else:
        click.echo(f"daemon {data['server'] or '(not Stoker)'}, Fn API {data['fn_api'] or '-'}")
