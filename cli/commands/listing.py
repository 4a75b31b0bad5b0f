"""``stoker ls``: apps, functions, triggers."""

from __future__ import annotations

import click

from cli.options import APP, Settings, common, complete_app, complete_function
from cli.output import structured, table

INVOKE_ENDPOINT = "fnproject.io/fn/invokeEndpoint"
HTTP_ENDPOINT = "fnproject.io/trigger/httpEndpoint"


@click.group(invoke_without_command=True)
@common
@click.pass_context
def ls(ctx: click.Context) -> None:
    """List apps, functions or triggers.

    Without a word after it, lists the apps.

    \b
    Examples:
      stoker ls
      stoker ls functions demo
      stoker ls triggers demo --output json
    """
    if ctx.invoked_subcommand is None:
        _apps(ctx.obj)


@ls.command()
@common
@click.pass_obj
def apps(settings: Settings) -> None:
    """List the apps.

    \b
    Examples:
      stoker ls apps
      stoker ls apps --output json
    """
    _apps(settings)


def _apps(settings: Settings) -> None:
    items = list(settings.api.pages("/v2/apps"))
    if not settings.for_people:
        structured(items, settings.form)
        return
    table(
        ["name", "id", "created"],
        [(item["name"], item["id"], item.get("created_at")) for item in items],
        empty="No apps. Make one with 'stoker create app NAME'.",
    )


@ls.command()
@APP
@common
@click.pass_obj
def functions(settings: Settings, app: str) -> None:
    """List the functions of APP.

    \b
    Examples:
      stoker ls functions demo
      stoker ls functions demo --output yaml
    """
    items = list(settings.api.pages("/v2/fns", [("app_id", settings.api.app(app)["id"])]))
    if not settings.for_people:
        structured(items, settings.form)
        return
    table(
        ["name", "image", "memory", "timeout", "pcu", "id"],
        [
            (
                item["name"],
                item.get("image"),
                f"{item.get('memory')} MiB",
                f"{item.get('timeout')} s",
                (item.get("provisioned_concurrency") or {}).get("count"),
                item["id"],
            )
            for item in items
        ],
        empty=f"No functions in app {app}. Deploy one with 'stoker deploy --app {app}'.",
    )


@ls.command()
@click.argument("app", shell_complete=complete_app)
@click.argument("function", required=False, shell_complete=complete_function)
@common
@click.pass_obj
def triggers(settings: Settings, app: str, function: str | None) -> None:
    """List the triggers of APP, or of one FUNCTION of it.

    \b
    Examples:
      stoker ls triggers demo
      stoker ls triggers demo hello
    """
    api = settings.api
    if function is not None:
        found = api.function(app, function)
        query, names = [("app_id", found["app_id"]), ("fn_id", found["id"])], {found["id"]: function}
    else:
        query = [("app_id", api.app(app)["id"])]
        names = {item["id"]: item["name"] for item in api.pages("/v2/fns", query)}
    items = list(api.pages("/v2/triggers", query))
    if not settings.for_people:
        structured(items, settings.form)
        return
    table(
        ["function", "name", "type", "source", "endpoint"],
        [
            (
                names.get(item["fn_id"], item["fn_id"]),
                item["name"],
                item.get("type"),
                item.get("source"),
                (item.get("annotations") or {}).get(HTTP_ENDPOINT),
            )
            for item in items
        ],
        empty=f"No triggers in app {app}.",
    )
