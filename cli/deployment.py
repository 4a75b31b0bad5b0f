"""One deploy, step by step: app, bundle, upload, release, triggers. What ``deploy``, ``watch`` and the shim share."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from cli import bundle, contexts, funcfile
from cli.api import Api, Json
from cli.appfile import AppFile
from cli.errors import ApiError, CliError
from cli.push import daemons_python, upload
from cli.steps import Steps

INVOKE_ENDPOINT = "fnproject.io/fn/invokeEndpoint"
CONFLICT = 409
HTTP_ENDPOINT = "fnproject.io/trigger/httpEndpoint"


class Deployment:
    """One deploy; fills ``document`` as it goes."""

    def __init__(
        self, api: Api, found: funcfile.FuncFile, directory: Path, steps: Steps, document: dict[str, Any]
    ) -> None:
        self._api = api
        self._found = found
        self._directory = directory
        self._steps = steps
        self._document = document

    def run(self, app_name: str, *, create: bool, refresh: bool, app_file: AppFile | None = None) -> None:
        """Carry it out. ``app_file``: what the app is to be like.

        Raises:
          CliError: a step failed; what served before goes on serving.
        """
        # Ask for the app first: a wrong name or a daemon that is down is told before minutes of resolving.
        app = find_or_create_app(self._api, app_name, app_file, self._steps, create=create)
        existing = self._api.find_function(app, self._found.name)
        self._check_config(app, existing)
        with tempfile.TemporaryDirectory(prefix="stoker-") as work:
            path = Path(work) / "bundle.zip"
            python = daemons_python(self._api, self._found.runtime)
            made = bundle.build(
                self._directory, self._found, path, self._steps, refresh=refresh, python=python, layered=True
            )
            self._document["bundle"] = bundle_document(made)
            upload(self._api, made.path, self._found.image, made.digest, self._steps, layer=made.layer)
        function = self._release(app, existing)
        self._document.update(
            function_id=function["id"],
            image=function.get("image"),
            invoke_endpoint=self._invoke_endpoint(function),
            triggers=[self._trigger(function, spec) for spec in self._found.triggers],
        )

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
            slow += self._short_floor(status)
            step.done((f"version {number} is ready" if number is not None else f"{found.image} is ready") + slow)
        assert isinstance(function, dict)
        return function

    def _explained(self, exc: ApiError, existing: Json | None) -> ApiError:
        if exc.code == "deploy-failed":
            mend = "mend the function and deploy again"
            if "ModuleNotFoundError" in exc.detail:
                mend = "name what is not found in requirements.txt (or correct the import) and deploy again"
            exc.hint = f"the old version goes on serving; {mend}" if existing and self._serves(existing) else mend
        return exc

    def _serves(self, function: Json) -> bool:
        """Whether a version of the function is in service: not if all its deploys failed."""
        try:
            found = self._api.call("GET", f"/stoker/v1/functions/{function['id']}/versions") or {}
        except ApiError:
            return False
        return any(version.get("live") for version in found.get("items") or [])

    def _short_floor(self, status: Json) -> str:
        """What to say of provisioned concurrency that the node has not the room for; empty: nothing."""
        pool = status.get("pool")
        pcu = pool.get("pcu") if isinstance(pool, dict) else None
        if not isinstance(pcu, dict) or pcu.get("state") != "partial":
            return ""
        self._document["provisioned_concurrency"] = pcu
        return f"; provisioned concurrency is granted in part: {pcu.get('reason', '')}"

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
            try:
                if known is None:
                    made = self._api.call("POST", "/v2/triggers", body=body)
                elif known.get("source") == spec.source:
                    made = known
                else:
                    made = self._api.call("PUT", f"/v2/triggers/{known['id']}", body={"id": known["id"], **body})
            except ApiError as exc:
                if exc.status == CONFLICT:
                    exc.hint = self._holder(function, spec) or exc.hint
                raise
            step.done(f"{spec.name} at {spec.source}")
        endpoint = (made.get("annotations") or {}).get(HTTP_ENDPOINT)
        fallback = f"{self._api.transport.endpoint}/t/{self._document['app']}{spec.source}"
        return {"name": spec.name, "source": spec.source, "endpoint": endpoint or fallback}

    def _holder(self, function: Json, spec: funcfile.TriggerSpec) -> str:
        """Which other function has the trigger's source, and how to free it; empty: none has it."""
        for other in self._api.pages("/v2/triggers", [("app_id", function["app_id"])]):
            if other.get("source") == spec.source and other.get("fn_id") != function["id"]:
                holder = self._api.call("GET", f"/v2/fns/{other['fn_id']}")["name"]
                app = self._document["app"]
                return (
                    f"{spec.source} of app {app} is a trigger of function {holder}: choose another source, or free it "
                    f"with 'stoker delete trigger {app} {holder} {other['name']}'"
                )
        return ""


def load(directory: Path, steps: Steps) -> funcfile.FuncFile:
    """The directory's func.yaml, its warnings told.

    Raises:
      FuncFileError: names the file, the line, the field and what is allowed.
    """
    found = funcfile.load(directory)
    found.registry = contexts.registry(os.environ)
    for warning in found.warnings:
        steps.warn(warning)
    return found


def bundle_document(made: bundle.Bundle) -> Json:
    """A bundle in the JSON form of a deploy's or build's result."""
    return {
        "digest": made.digest,
        "packed_bytes": made.packed_bytes,
        "unpacked_bytes": made.unpacked_bytes,
        "files": made.files,
    }


def _has(now: Any, wanted: Any) -> bool:
    """Whether a PUT of ``wanted`` would change nothing: maps are merged."""
    if isinstance(wanted, dict):
        return all((now or {}).get(key) == value for key, value in wanted.items())
    return bool(now == wanted)


def find_or_create_app(api: Api, name: str, file: AppFile | None, steps: Steps, *, create: bool) -> Json:
    """The app of this name; made if it is absent and ``create``, brought in line with its app file as ``fn`` does.

    Raises:
      CliError: there is none.
    """
    settings = file.settings() if file is not None and file.name == name else {}
    if create:
        app = api.find_app(name)
    else:
        try:
            app = api.app(name)
        except CliError as exc:
            exc.hint = f"add --create-app to make it; {exc.hint}" if "not found" in exc.message else exc.hint
            raise
    if app is None:
        with steps.step("app") as step:
            try:
                app = api.call("POST", "/v2/apps", body={"name": name, **settings})
                step.done(f"{name} created")
            except ApiError as exc:
                if exc.status != 409:
                    raise
                app = api.app(name)  # another deploy made it meanwhile
                step.done(f"{name} is there")
    elif not all(_has(app.get(key), value) for key, value in settings.items()):
        with steps.step("app") as step:
            app = api.call("PUT", f"/v2/apps/{app['id']}", body={"id": app["id"], "name": name, **settings})
            step.done(f"{name} updated from {file.path.name if file else 'its file'}")
    assert isinstance(app, dict)
    return app
