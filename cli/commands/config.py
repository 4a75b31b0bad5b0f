"""``stoker config``: configuration values of apps and functions."""

from __future__ import annotations

from typing import Any

import click

from cli.errors import CliError
from cli.groups import Named
from cli.options import APP, FUNCTION, Settings, common
from cli.output import structured, table

PAIRS = click.argument("pairs", metavar="KEY VALUE | KEY=VALUE...", nargs=-1, required=True)
KEYS = click.argument("keys", metavar="KEY...", nargs=-1, required=True)
KEY = click.argument("key")


@click.group()
@common
def config() -> None:
    """Read and change configuration values.

    A function sees the values of its app and its own as environment variables; its own win. A change starts new
    instances with the new values.

    \b
    Examples:
      stoker config set app demo REGION eu
      stoker config set function demo hello GREETING=hi LEVEL=debug
      stoker config get function demo hello GREETING
      stoker config list app demo
    """


@config.group("list", cls=Named)
@common
def list_() -> None:
    """List all values.

    \b
    Examples:
      stoker config list app demo
      stoker config list function demo hello --output json
    """


@config.group("get", cls=Named)
@common
def get() -> None:
    """Print one value.

    \b
    Examples:
      stoker config get app demo REGION
      stoker config get function demo hello GREETING
    """


@config.group("set", cls=Named)
@common
def set_() -> None:
    """Set values.

    \b
    Examples:
      stoker config set app demo REGION eu
      stoker config set function demo hello GREETING=hi LEVEL=debug
    """


@config.group("unset", cls=Named)
@common
def unset() -> None:
    """Remove values.

    \b
    Examples:
      stoker config unset app demo REGION
      stoker config unset function demo hello GREETING LEVEL
    """


@list_.command("app")
@APP
@common
@click.pass_obj
def list_app(settings: Settings, app: str) -> None:
    """List the values of an app.

    \b
    Examples:
      stoker config list app demo
    """
    _list(settings, settings.api.app(app))


@list_.command("function")
@APP
@FUNCTION
@common
@click.pass_obj
def list_function(settings: Settings, app: str, function: str) -> None:
    """List the values of a function, without those of its app.

    \b
    Examples:
      stoker config list function demo hello --output yaml
    """
    _list(settings, settings.api.function(app, function))


@get.command("app")
@APP
@KEY
@common
@click.pass_obj
def get_app(settings: Settings, app: str, key: str) -> None:
    """Print one value of an app.

    \b
    Examples:
      stoker config get app demo REGION
    """
    _get(settings, settings.api.app(app), key, f"app {app}")


@get.command("function")
@APP
@FUNCTION
@KEY
@common
@click.pass_obj
def get_function(settings: Settings, app: str, function: str, key: str) -> None:
    """Print one value of a function.

    \b
    Examples:
      stoker config get function demo hello GREETING
    """
    _get(settings, settings.api.function(app, function), key, f"function {function} of app {app}")


@set_.command("app")
@APP
@PAIRS
@common
@click.pass_obj
def set_app(settings: Settings, app: str, pairs: tuple[str, ...]) -> None:
    """Set values of an app.

    \b
    Examples:
      stoker config set app demo REGION eu
      stoker config set app demo REGION=eu LEVEL=debug
    """
    values = _pairs(pairs)
    _put(settings, "/v2/apps", settings.api.app(app), values, f"app {app}")


@set_.command("function")
@APP
@FUNCTION
@PAIRS
@common
@click.pass_obj
def set_function(settings: Settings, app: str, function: str, pairs: tuple[str, ...]) -> None:
    """Set values of a function.

    \b
    Examples:
      stoker config set function demo hello GREETING hi
    """
    values = _pairs(pairs)
    _put(settings, "/v2/fns", settings.api.function(app, function), values, f"function {function} of app {app}")


@unset.command("app")
@APP
@KEYS
@common
@click.pass_obj
def unset_app(settings: Settings, app: str, keys: tuple[str, ...]) -> None:
    """Remove values of an app.

    \b
    Examples:
      stoker config unset app demo REGION
    """
    _unset(settings, "/v2/apps", settings.api.app(app), keys, f"app {app}")


@unset.command("function")
@APP
@FUNCTION
@KEYS
@common
@click.pass_obj
def unset_function(settings: Settings, app: str, function: str, keys: tuple[str, ...]) -> None:
    """Remove values of a function.

    \b
    Examples:
      stoker config unset function demo hello GREETING
    """
    _unset(settings, "/v2/fns", settings.api.function(app, function), keys, f"function {function} of app {app}")


def _list(settings: Settings, found: dict[str, Any]) -> None:
    values = found.get("config") or {}
    if not settings.for_people:
        structured(values, settings.form)
        return
    table(["key", "value"], sorted(values.items()), empty="No configuration.")


def _get(settings: Settings, found: dict[str, Any], key: str, owner: str) -> None:
    values = found.get("config") or {}
    if key not in values:
        hint = f"there are: {', '.join(sorted(values))}" if values else ""
        raise CliError(f"{owner} has no configuration {key}", hint=hint)
    if settings.for_people:
        click.echo(values[key])
    else:
        structured({key: values[key]}, settings.form)


def _pairs(given: tuple[str, ...]) -> dict[str, str]:
    """``KEY VALUE``, or any number of ``KEY=VALUE``.

    Raises:
      click.UsageError: neither; or an empty value, which the server takes as a removal.
    """
    if len(given) == 2 and "=" not in given[0]:
        values = {given[0]: given[1]}
    else:
        values = {}
        for pair in given:
            key, equals, value = pair.partition("=")
            if not equals or not key:
                raise click.UsageError(f"{pair!r} is not KEY=VALUE")
            values[key] = value
    for key, value in values.items():
        if not value:
            raise click.UsageError(f"the value of {key} is empty; 'stoker config unset' removes a key")
    return values


def _unset(settings: Settings, path: str, found: dict[str, Any], keys: tuple[str, ...], owner: str) -> None:
    missing = [key for key in keys if key not in (found.get("config") or {})]
    if missing:
        raise CliError(f"{owner} has no configuration {', '.join(missing)}")
    # Fn: an empty value in an update removes the key.
    _put(settings, path, found, dict.fromkeys(keys, ""), owner)


def _put(settings: Settings, path: str, found: dict[str, Any], values: dict[str, str], owner: str) -> None:
    made = settings.api.call("PUT", f"{path}/{found['id']}", body={"id": found["id"], "config": values})
    if not settings.for_people:
        structured((made or {}).get("config") or {}, settings.form)
        return
    for key, value in values.items():
        click.echo(f"Set {key} of {owner}" if value else f"Removed {key} of {owner}")
