"""``stoker deploy`` and its steps ``build`` and ``push``."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from cli import appfile, bundle, funcfile, pcu
from cli.api import Json
from cli.deployment import Deployment, bundle_document, load
from cli.errors import CliError
from cli.options import Settings, common, complete_app, key_values, output_option
from cli.output import structured
from cli.push import check_image, daemons_python, upload
from cli.steps import Steps

DIRECTORY = click.argument(
    "directory", metavar="[DIR]", default=".", type=click.Path(path_type=Path, file_okay=True, exists=False)
)
NO_CACHE = click.option("--no-cache", is_flag=True, help="Resolve the dependencies again even if they are cached.")


def parse_pcu(_ctx: click.Context, param: click.Parameter, value: str | None) -> dict[str, Any] | None:
    """Callback of ``--provisioned-concurrency``."""
    if value is None:
        return None
    try:
        return pcu.parse(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param=param) from None


PCU_OPTION = click.option(
    "--provisioned-concurrency",
    "provisioned",
    metavar="SPEC",
    callback=parse_pcu,
    help="Instances always kept started: constant:40, none, OCI's JSON, or file://PATH of one of these.",
)


@click.command()
@DIRECTORY
@click.option(
    "-o",
    "target",
    metavar="ZIP",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write the bundle.",
)
@NO_CACHE
@output_option
@click.pass_obj
def build(settings: Settings, directory: Path, target: Path, no_cache: bool) -> None:
    """Make the bundle of a function.

    The bundle is a ZIP with the source in function/ and the dependencies of requirements.txt in python/. The same
    input gives the same bytes. The daemon is not needed.

    \b
    Examples:
      stoker build -o hello.zip
      stoker build functions/hello -o /tmp/hello.zip
      stoker build hello -o hello.zip --output json
    """
    steps = Steps(quiet=not settings.for_people)
    found = load(directory, steps)
    steps.say(f"Building {found.image}")
    made = bundle.build(directory, found, target, steps, refresh=no_cache)
    if settings.for_people:
        steps.say(f"{target} is ready: {made.digest}")
        steps.say(f"Next: stoker push {target} {found.image}")
    else:
        structured(
            {**bundle_document(made), "image": found.image, "path": str(target), "steps": steps.finished},
            settings.form,
        )


@click.command()
@click.argument("source", metavar="ZIP|DIR", type=click.Path(path_type=Path, exists=True))
@click.argument("image", metavar="[NAME:VERSION]", required=False)
@NO_CACHE
@common
@click.pass_obj
def push(settings: Settings, source: Path, image: str | None, no_cache: bool) -> int:
    """Send a bundle to the daemon under a name.

    A directory is bundled first; its NAME:VERSION may be left out when func.yaml says it. 'stoker create function
    APP FUNCTION NAME:VERSION', or 'fn create function', then has something to name. A function that was made before
    its bundle was there starts to run now.

    \b
    Examples:
      stoker push hello.zip hello:0.0.1
      stoker push functions/hello
      stoker push hello.zip team/hello:1.2 --output json
    """
    steps = Steps(quiet=not settings.for_people)
    if image is None and not source.is_dir():
        raise click.UsageError("NAME:VERSION is missing: a ZIP does not say it")
    with tempfile.TemporaryDirectory(prefix="stoker-") as work:
        path, digest, layer = source, "", None
        if source.is_dir():
            found = load(source, steps)
            image = image or found.image
            python = daemons_python(settings.api, found.runtime)
            made = bundle.build(
                source, found, Path(work) / "bundle.zip", steps, refresh=no_cache, python=python, layered=True
            )
            path, digest, layer = made.path, made.digest, made.layer
        assert image is not None
        check_image(image)
        reply = upload(settings.api, path, image, digest, steps, layer=layer)
    outcomes = reply.get("deployed") or []
    if not settings.for_people:
        structured({**reply, "steps": steps.finished}, settings.form)
    else:
        steps.say(f"{image} is {reply.get('digest', digest)}")
        for outcome in outcomes:
            failure = (
                f"cannot use it: {outcome.get('message')}" if outcome.get("code") else "was waiting for it and runs it"
            )
            steps.say(f"  function {outcome.get('function')} {failure}")
    return 1 if any(outcome.get("code") for outcome in outcomes) else 0


@click.command()
@DIRECTORY
@click.option(
    "--app",
    "app_name",
    metavar="APP",
    shell_complete=complete_app,
    help="App to deploy to.  [default: as in app.yaml]",
)
@click.option("--create-app", is_flag=True, help="Create the app if there is none of that name.")
@click.option("--all", "every", is_flag=True, help="Deploy every function below DIR.")
@PCU_OPTION
@click.option(
    "--config",
    "-c",
    "config",
    multiple=True,
    metavar="KEY=VALUE",
    callback=key_values,
    help="Configuration besides func.yaml's; may be repeated.",
)
@click.option(
    "--bump/--no-bump", default=False, help="Raise the last part of func.yaml's version first.  [default: no-bump]"
)
@NO_CACHE
@common
@click.pass_obj
def deploy(
    settings: Settings,
    directory: Path,
    app_name: str | None,
    create_app: bool,
    every: bool,
    provisioned: dict[str, Any] | None,
    config: dict[str, str],
    bump: bool,
    no_cache: bool,
) -> int:
    """Bundle a function, send it, and put it into service.

    DIR (default: the current directory) holds func.yaml, func.py and requirements.txt. The new version takes over
    when an instance of it is ready; if it does not become ready, the old version goes on serving, the traceback is
    shown and the exit code is 1. Dependencies are resolved once and cached.

    An app.yaml in DIR or the current directory names the app and gives it configuration, annotations and syslog_url.
    With --all, every directory below DIR that has a func.yaml is deployed; one that fails does not stop the others.

    \b
    Examples:
      stoker deploy --app demo --create-app hello
      stoker deploy --app demo --provisioned-concurrency constant:40
      stoker deploy --app demo --config GREETING=hi --bump
      stoker deploy --all --create-app functions
      stoker deploy --app demo --output json
    """
    steps = Steps(quiet=not settings.for_people)
    app_file = appfile.load(directory) or appfile.load(Path("."))
    for warning in app_file.warnings if app_file else ():
        steps.warn(warning)
    name = app_name or (app_file.name if app_file else "")
    if not name:
        raise click.UsageError("--app is missing, and there is no app.yaml that names one")
    options = _Options(provisioned, config, bump, no_cache, create_app, app_file)
    if not every:
        document = _one(settings, directory, name, steps, options)
        if not settings.for_people:
            structured(document, settings.form)
        return 0 if document["ok"] else 1
    documents = []
    for found in appfile.functions_under(directory):
        documents.append(_one(settings, found, name, steps, options, goes_on=True))
        steps = Steps(quiet=not settings.for_people)
    failed = [document for document in documents if not document["ok"]]
    if not settings.for_people:
        structured({"app": name, "ok": not failed, "functions": documents}, settings.form)
    elif failed:
        names = ", ".join(str(document.get("function", "?")) for document in failed)
        raise CliError(f"{len(failed)} of {len(documents)} functions could not be deployed: {names}")
    return 1 if failed else 0


@dataclass(frozen=True, slots=True)
class _Options:
    provisioned: dict[str, Any] | None
    config: dict[str, str]
    bump: bool
    no_cache: bool
    create_app: bool
    app_file: appfile.AppFile | None


def _one(
    settings: Settings, directory: Path, app_name: str, steps: Steps, options: _Options, *, goes_on: bool = False
) -> Json:
    """Deploy one function; its document. For people an error is raised, or with ``goes_on`` only shown."""
    document: Json = {"app": app_name}
    try:
        found = load(directory, steps)
        document["function"] = found.name
        steps.say(f"Deploying {found.name} to app {app_name}")
        if options.bump:
            steps.say(f"  version {funcfile.bump(found)}")
        if options.provisioned is not None:
            found.provisioned_concurrency = options.provisioned
        found.config.update(options.config)
        Deployment(settings.api, found, directory, steps, document).run(
            app_name, create=options.create_app, refresh=options.no_cache, app_file=options.app_file
        )
    except CliError as exc:
        document.update(ok=False, error=exc.to_dict(), steps=steps.finished)
        if settings.for_people:
            if not goes_on:
                raise
            exc.show()
        return document
    document.update(ok=True, seconds=round(steps.elapsed_s, 3), steps=steps.finished)
    steps.say(f"{found.name} is live ({steps.elapsed_s:.2f} s)")
    for trigger in document["triggers"]:
        steps.say(f"  {trigger['endpoint']}")
    steps.say(f"  {document['invoke_endpoint']}")
    steps.say(f"Next: stoker invoke {app_name} {found.name}")
    return document
