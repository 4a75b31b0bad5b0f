"""``stoker create`` and ``stoker update``: apps, functions, triggers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from cli import detached
from cli.commands.deploy import PCU_OPTION
from cli.deployment import HTTP_ENDPOINT
from cli.funcfile import IDLE_TIMEOUT_S_MAX, MEMORY_MIB_MAX, TIMEOUT_S_MAX
from cli.groups import Named
from cli.options import APP, FUNCTION, TRIGGER, Settings, common, key_json, key_values
from cli.output import structured
from cli.push import check_image

F = TypeVar("F", bound=Callable[..., Any])

CONFIG = click.option(
    "--config",
    "-c",
    "config",
    multiple=True,
    metavar="KEY=VALUE",
    callback=key_values,
    help="A configuration value; may be repeated.",
)
ANNOTATION = click.option(
    "--annotation",
    "annotations",
    multiple=True,
    metavar="KEY=JSON",
    callback=key_json,
    help="An annotation, its value in JSON; may be repeated.",
)
SYSLOG = click.option("--syslog-url", metavar="URL", help="Where the functions' output is sent, too.")
SOURCE_HELP = "Path behind /t/APP that calls the function; begins with '/'."


def _destination(_ctx: click.Context, _param: click.Parameter, text: str | None) -> dict[str, str] | str | None:
    try:
        return None if text is None else detached.destination(text)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


def _detached_timeout(_ctx: click.Context, _param: click.Parameter, text: str | None) -> int | None:
    try:
        return None if text is None else detached.timeout(text)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


def _annotations(annotations: dict[str, Any], timeout_s: int | None, success: Any, failure: Any) -> dict[str, Any]:
    """Those given one by one, with what the options for detached calls mean."""
    meant = {detached.TIMEOUT: timeout_s, detached.ON_SUCCESS: success, detached.ON_FAILURE: failure}
    return {**{key: value for key, value in meant.items() if value is not None}, **annotations}


def settings_options(function: F) -> F:
    """What a function can be given besides its bundle."""
    for option in (
        PCU_OPTION,
        ANNOTATION,
        CONFIG,
        click.option(
            "--on-failure", "on_failure", metavar="WHERE", callback=_destination,
            help="The same for detached calls that failed for good.",
        ),
        click.option(
            "--on-success", "on_success", metavar="WHERE", callback=_destination,
            help="Where the record of a detached call goes: stream:NAME, queue:NAME, notification:NAME, "
            "function:APP/FUNCTION, a URL, or none.",
        ),
        click.option(
            "--detached-timeout", metavar="TIME", callback=_detached_timeout,
            help="Longest a detached call may run: 90, 20m, 1h.  [default: --timeout]",
        ),
        click.option(
            "--idle-timeout", type=click.IntRange(1, IDLE_TIMEOUT_S_MAX), metavar="SECONDS",
            help="How long an unused instance is kept.  [default: 30]",
        ),
        click.option(
            "--timeout", type=click.IntRange(1, TIMEOUT_S_MAX), metavar="SECONDS",
            help="Longest a call may run.  [default: 30]",
        ),
        click.option(
            "--memory", "-m", type=click.IntRange(1, MEMORY_MIB_MAX), metavar="MIB",
            help="Memory of an instance.  [default: 128]",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


@click.group(cls=Named)
@common
def create() -> None:
    """Create an app, function or trigger.

    \b
    Examples:
      stoker create app demo
      stoker create function demo hello hello:0.0.1
      stoker create trigger demo hello web --source /hello
    """


@create.command("app")
@click.argument("name")
@CONFIG
@ANNOTATION
@SYSLOG
@common
@click.pass_obj
def create_app(
    settings: Settings, name: str, config: dict[str, str], annotations: dict[str, Any], syslog_url: str | None
) -> None:
    """Create an app.

    \b
    Examples:
      stoker create app demo
      stoker create app demo --config REGION=eu --config LEVEL=debug
    """
    body = _body(name=name, config=config, annotations=annotations, syslog_url=syslog_url)
    made = settings.api.call("POST", "/v2/apps", body=body)
    _made(settings, made, f"Created app {name}")


@create.command("function")
@APP
@click.argument("name", metavar="FUNCTION")
@click.argument("image", metavar="NAME:VERSION")
@settings_options
@common
@click.pass_obj
def create_function(
    settings: Settings,
    app: str,
    name: str,
    image: str,
    memory: int | None,
    timeout: int | None,
    idle_timeout: int | None,
    detached_timeout: int | None,
    on_success: dict[str, str] | str | None,
    on_failure: dict[str, str] | str | None,
    config: dict[str, str],
    annotations: dict[str, Any],
    provisioned: dict[str, Any] | None,
) -> None:
    """Create a function from a bundle that was pushed.

    \b
    Examples:
      stoker create function demo hello hello:0.0.1
      stoker create function demo hello hello:0.0.1 --memory 256 --timeout 60
      stoker create function demo hello hello:0.0.1 --provisioned-concurrency constant:40
    """
    check_image(image)
    body = _body(
        app_id=settings.api.app(app)["id"],
        name=name,
        image=image,
        memory=memory,
        timeout=timeout,
        idle_timeout=idle_timeout,
        config=config,
        annotations=_annotations(annotations, detached_timeout, on_success, on_failure),
        provisioned_concurrency=provisioned,
    )
    made = settings.api.call("POST", "/v2/fns", body=body)
    _made(settings, made, f"Created function {name} with {image}")


@create.command("trigger")
@APP
@FUNCTION
@click.argument("name", metavar="TRIGGER")
@click.option("--source", metavar="/PATH", required=True, help=SOURCE_HELP)
@click.option("--type", "kind", type=click.Choice(["http"]), default="http", show_default=True, help="Kind of trigger.")
@ANNOTATION
@common
@click.pass_obj
def create_trigger(
    settings: Settings, app: str, function: str, name: str, source: str, kind: str, annotations: dict[str, Any]
) -> None:
    """Create a trigger: an HTTP path that calls a function.

    \b
    Examples:
      stoker create trigger demo hello web --source /hello
    """
    _check_source(source)
    found = settings.api.function(app, function)
    body = _body(
        app_id=found["app_id"], fn_id=found["id"], name=name, type=kind, source=source, annotations=annotations
    )
    made = settings.api.call("POST", "/v2/triggers", body=body)
    endpoint = (made.get("annotations") or {}).get(HTTP_ENDPOINT, "")
    _made(settings, made, f"Created trigger {name} {endpoint}".rstrip())


@click.group(cls=Named)
@common
def update() -> None:
    """Change an app, function or trigger.

    What is not named stays as it is. An empty value of --config removes the key.

    \b
    Examples:
      stoker update function demo hello --memory 512
      stoker update function demo hello hello:0.0.2
      stoker update trigger demo hello web --source /hi
    """


@update.command("app")
@APP
@CONFIG
@ANNOTATION
@SYSLOG
@common
@click.pass_obj
def update_app(
    settings: Settings, app: str, config: dict[str, str], annotations: dict[str, Any], syslog_url: str | None
) -> None:
    """Change an app.

    \b
    Examples:
      stoker update app demo --config REGION=us
    """
    body = _changes(config=config, annotations=annotations, syslog_url=syslog_url)
    found = settings.api.app(app)
    made = settings.api.call("PUT", f"/v2/apps/{found['id']}", body={"id": found["id"], **body})
    _made(settings, made, f"Updated app {app}")


@update.command("function")
@APP
@FUNCTION
@click.argument("image", metavar="[NAME:VERSION]", required=False)
@settings_options
@common
@click.pass_obj
def update_function(
    settings: Settings,
    app: str,
    function: str,
    image: str | None,
    memory: int | None,
    timeout: int | None,
    idle_timeout: int | None,
    detached_timeout: int | None,
    on_success: dict[str, str] | str | None,
    on_failure: dict[str, str] | str | None,
    config: dict[str, str],
    annotations: dict[str, Any],
    provisioned: dict[str, Any] | None,
) -> None:
    """Change a function: its bundle or its settings.

    A change of the bundle, memory, timeouts or configuration makes a new version, which takes over when an instance
    of it is ready; 'stoker rollback' goes back.

    \b
    Examples:
      stoker update function demo hello --memory 512 --timeout 60
      stoker update function demo hello hello:0.0.2
      stoker update function demo hello --provisioned-concurrency none
      stoker update function demo hello --detached-timeout 20m --on-failure queue:failed
    """
    if image is not None:
        check_image(image)
    body = _changes(
        image=image,
        memory=memory,
        timeout=timeout,
        idle_timeout=idle_timeout,
        config=config,
        annotations=_annotations(annotations, detached_timeout, on_success, on_failure),
        provisioned_concurrency=provisioned,
    )
    found = settings.api.function(app, function)
    made = settings.api.call("PUT", f"/v2/fns/{found['id']}", body={"id": found["id"], **body})
    _made(settings, made, f"Updated function {function} of app {app}")


@update.command("trigger")
@APP
@FUNCTION
@TRIGGER
@click.option("--source", metavar="/PATH", help=SOURCE_HELP)
@ANNOTATION
@common
@click.pass_obj
def update_trigger(
    settings: Settings, app: str, function: str, trigger: str, source: str | None, annotations: dict[str, Any]
) -> None:
    """Change a trigger.

    \b
    Examples:
      stoker update trigger demo hello web --source /hi
    """
    if source is not None:
        _check_source(source)
    body = _changes(source=source, annotations=annotations)
    found = settings.api.trigger(app, function, trigger)
    made = settings.api.call("PUT", f"/v2/triggers/{found['id']}", body={"id": found["id"], **body})
    _made(settings, made, f"Updated trigger {trigger} of function {function}")


def _check_source(source: str) -> None:
    if not source.startswith("/"):
        raise click.BadParameter(f"{source!r} must begin with '/'", param_hint="'--source'")


def _body(**values: Any) -> dict[str, Any]:
    """Those that were given."""
    return {key: value for key, value in values.items() if value is not None and value != {}}


def _changes(**values: Any) -> dict[str, Any]:
    """Those that were given; at least one must be."""
    found = _body(**values)
    if not found:
        raise click.UsageError("nothing to change: name what shall be different")
    return found


def _made(settings: Settings, made: Any, text: str) -> None:
    if settings.for_people:
        click.echo(text)
    else:
        structured(made, settings.form)
