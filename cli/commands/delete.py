"""``stoker delete``: apps, functions, triggers."""

from __future__ import annotations

import sys
from typing import Any

import click

from cli.errors import CliError
from cli.groups import Named
from cli.options import APP, FUNCTION, TRIGGER, Settings, common
from cli.output import count, structured

FORCE = click.option("--force", "-f", is_flag=True, help="Do not ask.")


@click.group(cls=Named)
@common
def delete() -> None:
    """Delete an app, function or trigger.

    \b
    Examples:
      stoker delete trigger demo hello web
      stoker delete function demo hello
      stoker delete app demo --recursive
    """


@delete.command("app")
@APP
@click.option("--recursive", "-r", is_flag=True, help="With all its functions and triggers.")
@FORCE
@common
@click.pass_obj
def delete_app(settings: Settings, app: str, recursive: bool, force: bool) -> None:
    """Delete an app.

    An app that has functions is only deleted with --recursive. Asks first on a terminal, unless --force is given.

    \b
    Examples:
      stoker delete app demo
      stoker delete app demo --recursive --force
    """
    found = settings.api.app(app)
    names = [item["name"] for item in settings.api.pages("/v2/fns", [("app_id", found["id"])])]
    if names and not recursive:
        raise CliError(
            f"app {app} has {count(len(names), 'function')}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}",
            hint=f"delete them, too: stoker delete app {app} --recursive",
        )
    if names:
        _confirm(f"Delete app {app} with {count(len(names), 'function')}?", force)
    settings.api.call("DELETE", f"/v2/apps/{found['id']}")
    _done(settings, found, f"Deleted app {app}")


@delete.command("function")
@APP
@FUNCTION
@FORCE
@common
@click.pass_obj
def delete_function(settings: Settings, app: str, function: str, force: bool) -> None:
    """Delete a function, its versions and its triggers.

    Running calls end normally. Asks first on a terminal, unless --force is given.

    \b
    Examples:
      stoker delete function demo hello
      stoker delete function demo hello --force
    """
    found = settings.api.function(app, function)
    _confirm(f"Delete function {function} of app {app}?", force)
    settings.api.call("DELETE", f"/v2/fns/{found['id']}")
    _done(settings, found, f"Deleted function {function} of app {app}")


@delete.command("trigger")
@APP
@FUNCTION
@TRIGGER
@common
@click.pass_obj
def delete_trigger(settings: Settings, app: str, function: str, trigger: str) -> None:
    """Delete a trigger. The function stays.

    \b
    Examples:
      stoker delete trigger demo hello web
    """
    found = settings.api.trigger(app, function, trigger)
    settings.api.call("DELETE", f"/v2/triggers/{found['id']}")
    _done(settings, found, f"Deleted trigger {trigger} of function {function}")


def _confirm(question: str, force: bool) -> None:
    if not force and sys.stdin.isatty() and not click.confirm(question, err=True):
        raise CliError("nothing was deleted")


def _done(settings: Settings, found: dict[str, Any], text: str) -> None:
    if settings.for_people:
        click.echo(text)
    else:
        structured({"deleted": found["id"], "name": found["name"]}, settings.form)
