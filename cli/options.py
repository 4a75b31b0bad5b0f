"""What every command shares: the address and output options, the settings they fill, completion of names."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cli.errors import CliError
from cli.output import FORMATS

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from cli.api import Api

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(slots=True)
class Settings:
    """The options given before or after the command's name; the later one wins."""

    url: str | None = None
    output: str | None = None
    _api: Api | None = field(default=None, init=False)

    @property
    def api(self) -> Api:
        """The daemon's API; the first use finds the address."""
        if self._api is None:
            from cli.api import Api
            from cli.transport import Transport, find_endpoint

            self._api = Api(Transport(find_endpoint(self.url, os.environ)))
        return self._api

    @property
    def form(self) -> str:
        """``table``, ``json`` or ``yaml``."""
        return self.output or "table"

    @property
    def for_people(self) -> bool:
        """Whether a table is wanted."""
        return self.form == "table"


def _store(name: str) -> Callable[[click.Context, click.Parameter, str | None], None]:
    def callback(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
        if value is not None:
            setattr(ctx.ensure_object(Settings), name, value)

    return callback


def url_option(function: F) -> F:
    """``--url``: where the daemon is."""
    return click.option(
        "--url",
        metavar="URL",
        expose_value=False,
        callback=_store("url"),
        help="Daemon's address: http://HOST:PORT or unix:/PATH.",
    )(function)


def output_option(function: F) -> F:
    """``--output``: for people or for scripts."""
    return click.option(
        "--output",
        type=click.Choice(FORMATS),
        expose_value=False,
        callback=_store("output"),
        help="Form of the result.  [default: table]",
    )(function)


def common(function: F) -> F:
    """``--url`` and ``--output``."""
    return url_option(output_option(function))


def key_values(_ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Callback of a repeatable KEY=VALUE option."""
    found = {}
    for value in values:
        key, equals, rest = value.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{value!r} is not KEY=VALUE", param=param)
        found[key] = rest
    return found


def key_json(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    """Callback of a repeatable KEY=JSON option, as ``fn`` takes annotations."""
    import json

    found: dict[str, Any] = {}
    for key, text in key_values(ctx, param, values).items():
        try:
            found[key] = json.loads(text)
        except ValueError:
            raise click.BadParameter(
                f"the value of {key} is not JSON: {text!r} (a string needs quotes: '{key}=\"{text}\"')", param=param
            ) from None
    return found


def complete_app(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """App names from the daemon; nothing when it does not answer."""
    return _names(ctx, incomplete, lambda api: "/v2/apps", lambda api: [])


def complete_function(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Function names of the app that was typed before."""

    def query(api: Api) -> list[tuple[str, str]]:
        return [("app_id", api.app(str(ctx.params.get("app")))["id"])]

    return _names(ctx, incomplete, lambda api: "/v2/fns", query)


def complete_trigger(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Trigger names of the function that was typed before."""

    def query(api: Api) -> list[tuple[str, str]]:
        function = api.function(str(ctx.params.get("app")), str(ctx.params.get("function")))
        return [("app_id", function["app_id"]), ("fn_id", function["id"])]

    return _names(ctx, incomplete, lambda api: "/v2/triggers", query)


def _names(
    ctx: click.Context,
    incomplete: str,
    path: Callable[[Api], str],
    query: Callable[[Api], list[tuple[str, str]]],
) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    # Option callbacks do not run while completing, so a --url typed before is taken from the parameters.
    settings = Settings(url=_typed_url(ctx))
    try:
        items = list(settings.api.pages(path(settings.api), query(settings.api)))
    except CliError:
        return []
    return [CompletionItem(item["name"]) for item in items if item["name"].startswith(incomplete)]


def _typed_url(ctx: click.Context) -> str | None:
    settings = ctx.find_object(Settings)
    return settings.url if settings else None


APP = click.argument("app", shell_complete=complete_app)
FUNCTION = click.argument("function", shell_complete=complete_function)
TRIGGER = click.argument("trigger", shell_complete=complete_trigger)
