"""``stoker deploy`` and its steps ``build`` and ``push``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from cli import bundle, funcfile, pcu
from cli.api import Api, Json
from cli.errors import ApiError, CliError
from cli.options import Settings, common, complete_app, key_values, output_option
from cli.output import structured
from cli.push import check_image, daemons_python, upload
from cli.steps import Steps

INVOKE_ENDPOINT = "fnproject.io/fn/invokeEndpoint"
HTTP_ENDPOINT = "fnproject.io/trigger/httpEndpoint"

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
    found = _load(directory, steps)
    steps.say(f"Building {found.image}")
    made = bundle.build(directory, found, target, steps, refresh=no_cache)
    if settings.for_people:
        steps.say(f"{target} is ready: {made.digest}")
        steps.say(f"Next: stoker push {target} {found.image}")
    else:
        structured(
            {**_bundle_document(made), "image": found.image, "path": str(target), "steps": steps.finished},
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
            found = _load(source, steps)
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
@click.option("--app", "app_name", metavar="APP", required=True, shell_complete=complete_app, help="App to deploy to.")
@click.option("--create-app", is_flag=True, help="Create the app if there is none of that name.")
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
    app_name: str,
    create_app: bool,
    provisioned: dict[str, Any] | None,
    config: dict[str, str],
    bump: bool,
    no_cache: bool,
) -> int:
    """Bundle a function, send it, and put it into service.

    DIR (default: the current directory) holds func.yaml, func.py and requirements.txt. The new version takes over
    when an instance of it is ready; if it does not become ready, the old version goes on serving, the traceback is
    shown and the exit code is 1. Dependencies are resolved once and cached.

    \b
    Examples:
      stoker deploy --app demo --create-app hello
      stoker deploy --app demo --provisioned-concurrency constant:40
      stoker deploy --app demo --config GREETING=hi --bump
      stoker deploy --app demo --output json
    """
    steps = Steps(quiet=not settings.for_people)
    document: dict[str, Any] = {"app": app_name}
    try:
        found = _load(directory, steps)
        document["function"] = found.name
        steps.say(f"Deploying {found.name} to app {app_name}")
        if bump:
            steps.say(f"  version {funcfile.bump(found)}")
        if provisioned is not None:
            found.provisioned_concurrency = provisioned
        found.config.update(config)
        _Deployment(settings.api, found, directory, steps, document).run(app_name, create=create_app, refresh=no_cache)
    except CliError as exc:
        if settings.for_people:
            raise
        structured({**document, "ok": False, "error": exc.to_dict(), "steps": steps.finished}, settings.form)
        return 1
    if not settings.for_people:
        structured(
            {**document, "ok": True, "seconds": round(steps.elapsed_s, 3), "steps": steps.finished}, settings.form
        )
        return 0
    steps.say(f"{found.name} is live ({steps.elapsed_s:.2f} s)")
    for trigger in document["triggers"]:
        steps.say(f"  {trigger['endpoint']}")
    steps.say(f"  {document['invoke_endpoint']}")
    steps.say(f"Next: stoker invoke {app_name} {found.name}")
    return 0


class _Deployment:
    """One deploy; fills ``document`` as it goes."""

    def __init__(
        self, api: Api, found: funcfile.FuncFile, directory: Path, steps: Steps, document: dict[str, Any]
    ) -> None:
        self._api = api
        self._found = found
        self._directory = directory
        self._steps = steps
        self._document = document

    def run(self, app_name: str, *, create: bool, refresh: bool) -> None:
        # Ask for the app first: a wrong name or a daemon that is down is told before minutes of resolving.
        app = self._app(app_name, create=create)
        existing = self._api.find_function(app, self._found.name)
        self._check_config(app, existing)
        with tempfile.TemporaryDirectory(prefix="stoker-") as work:
            path = Path(work) / "bundle.zip"
            python = daemons_python(self._api, self._found.runtime)
            made = bundle.build(
                self._directory, self._found, path, self._steps, refresh=refresh, python=python, layered=True
            )
            self._document["bundle"] = _bundle_document(made)
            upload(self._api, made.path, self._found.image, made.digest, self._steps, layer=made.layer)
        function = self._release(app, existing)
        self._document.update(
            function_id=function["id"],
            image=function.get("image"),
            invoke_endpoint=self._invoke_endpoint(function),
            triggers=[self._trigger(function, spec) for spec in self._found.triggers],
        )

    def _app(self, name: str, *, create: bool) -> Json:
        if not create:
            try:
                return self._api.app(name)
            except CliError as exc:
                exc.hint = f"add --create-app to make it; {exc.hint}" if "not found" in exc.message else exc.hint
                raise
        app = self._api.find_app(name)
        if app is None:
            with self._steps.step("app") as step:
                try:
                    app = self._api.call("POST", "/v2/apps", body={"name": name})
                    step.done(f"{name} created")
                except ApiError as exc:
                    if exc.status != 409:
                        raise
                    app = self._api.app(name)  # another deploy made it meanwhile
                    step.done(f"{name} is there")
        assert isinstance(app, dict)
        return app

    def _check_config(self, app: Json, existing: Json | None) -> None:
        """``expects.config``: every required key must have a value somewhere."""
        given = {**(app.get("config") or {}), **((existing or {}).get("config") or {}), **self._found.config}
        missing = [key for key in self._found.required_config if not given.get(key)]
        if missing:
            raise CliError(
                f"{self._found.path.name}: expects.config: required configuration is missing: {', '.join(missing)}",
                hint=f"add --config {missing[0]}=VALUE, or set it for the app: "
                f"stoker config set app {app['name']} {missing[0]} VALUE",
            )

    def _release(self, app: Json, existing: Json | None) -> Json:
        """Create or update the function; returns when the new version serves."""
        found = self._found
        body: Json = {"image": found.image}
        for key, value in (
            ("memory", found.memory),
            ("timeout", found.timeout),
            ("idle_timeout", found.idle_timeout),
            ("config", found.config),
            ("annotations", found.annotations),
            ("provisioned_concurrency", found.provisioned_concurrency),
        ):
            if value:
                body[key] = value
        with self._steps.step("release") as step:
            step.status("starting an instance of the new version")
            try:
                if existing is None:
                    body = {"app_id": app["id"], "name": found.name, **body}
                    function = self._api.call("POST", "/v2/fns", body=body)
                else:
                    function = self._api.call("PUT", f"/v2/fns/{existing['id']}", body={"id": existing["id"], **body})
            except ApiError as exc:
                raise self._explained(exc, existing) from exc
            status = self._status(function["id"])
            live = status.get("version") if isinstance(status.get("version"), dict) else {}
            number = (live or {}).get("number")
            if number is not None:
                self._document["version"] = number
            start = status.get("start") if isinstance(status.get("start"), dict) else {}
            slow = ""
            if start and start.get("forkable") is False:
                self._document["start"] = {"forkable": False, "reason": start.get("reason", "")}
                slow = f"; its workers start as processes of their own: {start.get('reason', '')}"
            step.done((f"version {number} is ready" if number is not None else f"{found.image} is ready") + slow)
        assert isinstance(function, dict)
        return function

    def _explained(self, exc: ApiError, existing: Json | None) -> ApiError:
        if exc.code == "deploy-failed":
            exc.hint = "the old version goes on serving; mend the function and deploy again" if existing else (
                "mend the function and deploy again")  # fmt: skip
        return exc

    def _status(self, function_id: str) -> Json:
        try:
            status = self._api.call("GET", f"/stoker/v1/functions/{function_id}")
        except ApiError:
            return {}
        return status if isinstance(status, dict) else {}

    def _invoke_endpoint(self, function: Json) -> str:
        known = (function.get("annotations") or {}).get(INVOKE_ENDPOINT)
        return str(known or f"{self._api.transport.endpoint}/invoke/{function['id']}")

    def _trigger(self, function: Json, spec: funcfile.TriggerSpec) -> Json:
        body: Json = {
            "app_id": function["app_id"],
            "fn_id": function["id"],
            "name": spec.name,
            "type": spec.type,
            "source": spec.source,
        }
        with self._steps.step("trigger") as step:
            known = self._api.find_trigger(function, spec.name)
            if known is None:
                made = self._api.call("POST", "/v2/triggers", body=body)
            elif known.get("source") == spec.source:
                made = known
            else:
                made = self._api.call("PUT", f"/v2/triggers/{known['id']}", body={"id": known["id"], **body})
            step.done(f"{spec.name} at {spec.source}")
        endpoint = (made.get("annotations") or {}).get(HTTP_ENDPOINT)
        fallback = f"{self._api.transport.endpoint}/t/{self._document['app']}{spec.source}"
        return {"name": spec.name, "source": spec.source, "endpoint": endpoint or fallback}


def _load(directory: Path, steps: Steps) -> funcfile.FuncFile:
    found = funcfile.load(directory)
    for warning in found.warnings:
        steps.warn(warning)
    return found


def _bundle_document(made: bundle.Bundle) -> Json:
    return {
        "digest": made.digest,
        "packed_bytes": made.packed_bytes,
        "unpacked_bytes": made.unpacked_bytes,
        "files": made.files,
    }
