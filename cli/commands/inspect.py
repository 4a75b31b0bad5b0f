"""``stoker inspect``: everything about one thing."""

from __future__ import annotations

from typing import Any

import click

from cli.errors import CliError
from cli.groups import Named
from cli.options import APP, FUNCTION, TRIGGER, Settings, common
from cli.output import structured

PROPERTY = click.argument("prop", metavar="[PROPERTY]", required=False)


@click.group(cls=Named)
@common
def inspect() -> None:
    """Show everything about an app, function or trigger.

    Prints JSON, or YAML with --output yaml. PROPERTY picks one value, its parts joined with dots.

    \b
    Examples:
      stoker inspect app demo
      stoker inspect function demo hello config.GREETING
      stoker inspect trigger demo hello hello
    """


@inspect.command()
@APP
@PROPERTY
@common
@click.pass_obj
def app(settings: Settings, app: str, prop: str | None) -> None:
    """Show an app.

    \b
    Examples:
      stoker inspect app demo
      stoker inspect app demo id
    """
    _show(settings, settings.api.app(app), prop)


@inspect.command()
@APP
@FUNCTION
@PROPERTY
@click.option(
    "--status", is_flag=True, help="Show how it runs: live version, instances, queue, provisioned concurrency."
)
@click.option("--endpoint", is_flag=True, help="Print only the URL that invokes it.")
@common
@click.pass_obj
def function(settings: Settings, app: str, function: str, prop: str | None, status: bool, endpoint: bool) -> None:
    """Show a function, or how it runs.

    \b
    Examples:
      stoker inspect function demo hello
      stoker inspect function demo hello --status
      stoker inspect function demo hello --status pool.pcu.available
      stoker inspect function demo hello --endpoint
    """
    found = settings.api.function(app, function)
    if endpoint:
        _endpoint(found, "fnproject.io/fn/invokeEndpoint")
        return
    if status:
        found = settings.api.call("GET", f"/stoker/v1/functions/{found['id']}")
    _show(settings, found, prop)


@inspect.command()
@APP
@FUNCTION
@TRIGGER
@PROPERTY
@click.option("--endpoint", is_flag=True, help="Print only the URL that calls it.")
@common
@click.pass_obj
def trigger(settings: Settings, app: str, function: str, trigger: str, prop: str | None, endpoint: bool) -> None:
    """Show a trigger.

    \b
    Examples:
      stoker inspect trigger demo hello hello
      curl $(stoker inspect trigger demo hello hello --endpoint)
    """
    found = settings.api.trigger(app, function, trigger)
    if endpoint:
        _endpoint(found, "fnproject.io/trigger/httpEndpoint")
        return
    _show(settings, found, prop)


def _endpoint(found: dict[str, Any], annotation: str) -> None:
    click.echo((found.get("annotations") or {}).get(annotation, ""))


def _show(settings: Settings, found: Any, prop: str | None) -> None:
    value = _pick(found, prop) if prop else found
    if isinstance(value, str) and settings.for_people:
        click.echo(value)  # bare, so that a script can use it
        return
    structured(value, "yaml" if settings.form == "yaml" else "json")


def _pick(found: Any, path: str) -> Any:
    """The value at a path of keys joined with dots; a key may hold dots itself (annotations do).

    Raises:
      CliError: there is none; lists what there is.
    """
    if not path:
        return found
    if isinstance(found, list) and path.partition(".")[0].isdigit():
        number, _, rest = path.partition(".")
        if int(number) < len(found):
            return _pick(found[int(number)], rest)
    if isinstance(found, dict):
        for key in sorted(found, key=len, reverse=True):
            if path == key or path.startswith(f"{key}."):
                return _pick(found[key], path[len(key) + 1 :])
    known = ", ".join(found) if isinstance(found, dict) else ""
    raise CliError(f"there is no property {path!r}", hint=f"there are: {known}" if known else "")
