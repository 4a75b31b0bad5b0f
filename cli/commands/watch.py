"""``stoker watch``: deploy again whenever a file changes."""

from __future__ import annotations

from pathlib import Path

import click

from cli import appfile
from cli.deployment import Deployment, load
from cli.errors import CliError
from cli.ignore import FILE_NAME, Ignore
from cli.options import Settings, complete_app, url_option
from cli.steps import Steps

DEBOUNCE_MS_MAX = 60_000
"""Longest pause that may be asked for."""
IDLE_MS = 250
"""How often the watch looks up when nothing changes; its first look is when it has begun."""


@click.command()
@click.argument("directory", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@click.option(
    "--app",
    "app_name",
    metavar="APP",
    shell_complete=complete_app,
    help="App to deploy to.  [default: as in app.yaml]",
)
@click.option("--create-app", is_flag=True, help="Create the app if there is none of that name.")
@click.option(
    "--debounce",
    type=click.IntRange(1, DEBOUNCE_MS_MAX),
    default=300,
    show_default=True,
    metavar="MS",
    help="How long to wait for further changes.",
)
@click.option("--ignore", "ignored", multiple=True, metavar="PATTERN", help="Besides .fnignore's; may be repeated.")
@url_option
@click.pass_obj
def watch(
    settings: Settings, directory: Path, app_name: str | None, create_app: bool, debounce: int, ignored: tuple[str, ...]
) -> None:
    """Deploy a function now, and again whenever a file of it changes.

    What .fnignore and --ignore name is not looked at, nor are caches and version control. A deploy that fails is shown
    and the old version goes on serving; the next change is the next try. Ctrl-C ends it.

    \b
    Examples:
      stoker watch --app demo hello
      stoker watch --app demo --ignore '*.md' --debounce 500
    """
    app_file = appfile.load(directory) or appfile.load(Path("."))
    name = app_name or (app_file.name if app_file else "")
    if not name:
        raise click.UsageError("--app is missing, and there is no app.yaml that names one")
    load(directory, Steps(quiet=True))  # a directory without a function is told before waiting begins
    from watchfiles import Change
    from watchfiles import watch as changes_in

    top = directory.resolve()

    def wanted(_change: Change, path: str) -> bool:
        return matters(top, Path(path), ignored)

    def deploy() -> None:
        steps = Steps(quiet=False)
        document: dict[str, object] = {"app": name}
        try:
            found = load(directory, steps)
            steps.say(f"Deploying {found.name} to app {name}")
            Deployment(settings.api, found, directory, steps, document).run(
                name, create=create_app, refresh=False, app_file=app_file
            )
            steps.say(f"{found.name} is live ({steps.elapsed_s:.2f} s)")
        except CliError as exc:
            exc.show()

    # The watch begins before the first deploy: what is saved meanwhile must not be missed.
    with_changes = changes_in(
        top, watch_filter=wanted, debounce=debounce, step=min(50, debounce), raise_interrupt=True,
        yield_on_timeout=True, rust_timeout=IDLE_MS,
    )  # fmt: skip
    next(with_changes)
    deploy()
    click.echo(f"Watching {directory} (Ctrl-C ends it)")
    for changes in with_changes:
        if changes:
            deploy()


def matters(top: Path, path: Path, more: tuple[str, ...]) -> bool:
    """Whether a change of this path is one of the function: it, and every directory above it, is not ignored."""
    try:
        relative = path.relative_to(top)
    except ValueError:
        return False
    try:
        text = (top / FILE_NAME).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        text = ""
    if relative.as_posix() == FILE_NAME:
        return True
    ignore = Ignore("\n".join([text, *more, "node_modules/", "Dockerfile-fn-tmp*", "*.partial"]))
    parts = relative.parts
    return not any(
        ignore.ignores("/".join(parts[: n + 1]), directory=n + 1 < len(parts) or path.is_dir())
        for n in range(len(parts))
    )
