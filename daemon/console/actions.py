"""What the console's forms do. A form that was taken is answered by 303 to a page, a refused one by that page again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from daemon.auth import permissions as perm
from daemon.console import forms, function_page
from daemon.console.desk import Desk
from daemon.console.render import see_other
from daemon.console.sessions import COOKIE
from daemon.console.view import may, readable, view
from daemon.errors import BadRequest, NotFound, StokerError
from daemon.http.messages import Request
from daemon.http.views import ApiReply, ApiRequest, Route
from daemon.registry.changes import AppChange, FunctionChange

DONE = {
    "settings": "Saved: a new version answers calls.",
    "rollback": "Rolled back.",
    "restart": "Idle instances were told to leave.",
    "app": "The app was created.",
    "app-deleted": "The app was deleted.",
    "config": "The configuration was saved.",
    "function": "The function was created.",
    "deleted": "The function was deleted.",
    "redriven": "The call is in the queue again.",
    "purged": "The dead letter was removed.",
    "nothing": "Nothing was changed.",
}
"""What a page says after a form was taken, by the word in its address: nothing of the address itself is shown."""


def done(request: ApiRequest) -> str:
    """The sentence for ``?done=``."""
    return DONE.get(request.first("done"), "")


def why(error: str) -> str:
    """A stored error (JSON) in a line."""
    try:
        found = json.loads(error)
    except ValueError:
        return error[:300]
    return str(found.get("message") or found.get("code") or "")[:300] if isinstance(found, dict) else ""


# -- a function


async def settings(desk: Desk, request: ApiRequest) -> ApiReply:
    """POST /console/functions/{id}/settings"""
    fields = forms.parse(request)
    function = desk.node.registry.function(request.params["id"])
    try:
        config = forms.pairs(fields, "config")
        forms.check_unchanged(fields, function_page.fields_of(function))
        change = FunctionChange(
            memory_mib=forms.whole(fields, "memory", low=1, high=1 << 20),
            timeout_s=forms.whole(fields, "timeout", low=1, high=86_400),
            idle_timeout_s=forms.whole(fields, "idle_timeout", low=1, high=86_400),
            pcu_count=forms.whole(fields, "pcu", low=0, high=100_000),
            config=forms.merged(function.live.config, config),
        )
        updated = await desk.node.registry.update_function(function.id, change)
    except StokerError as error:
        return await function_page.show(desk, request, error=error, fields=fields)
    same = updated.live.number == function.live.number and updated.pcu_count == function.pcu_count
    return _back(f"functions/{function.id}", "nothing" if same else "settings")


async def rollback(desk: Desk, request: ApiRequest) -> ApiReply:
    """POST /console/functions/{id}/rollback"""
    fields = forms.parse(request)
    number = forms.whole(fields, "version", low=1, high=2**31 - 1)
    return await _on_function(desk, request, "rollback", lambda id_: desk.node.registry.rollback(id_, number))


async def restart(desk: Desk, request: ApiRequest) -> ApiReply:
    """POST /console/functions/{id}/restart"""
    forms.parse(request)
    function = desk.node.registry.function(request.params["id"])
    desk.node.restart(function.id)
    return _back(f"functions/{function.id}", "restart")


async def delete(desk: Desk, request: ApiRequest) -> ApiReply:
    """POST /console/functions/{id}/delete: its name must be typed."""
    fields = forms.parse(request)
    function = desk.node.registry.function(request.params["id"])
    try:
        if fields.get("confirm", "").strip() != function.name:
            raise BadRequest(f"confirm: type the function's name, {function.name}, to delete it")
        await desk.node.registry.delete_function(function.id)
    except StokerError as error:
        return await function_page.show(desk, request, error=error)
    return _back("", "deleted")


async def _on_function(desk: Desk, request: ApiRequest, word: str, act: Callable[[str], Any]) -> ApiReply:
    function = desk.node.registry.function(request.params["id"])
    try:
        await act(function.id)
    except StokerError as error:
        return await function_page.show(desk, request, error=error)
    return _back(f"functions/{function.id}", word)


async def invoke(desk: Desk, request: ApiRequest) -> ApiReply:
    """POST /console/functions/{id}/invoke: call it as every other client does, and show the answer."""
    fields = forms.parse(request)
    function = desk.node.registry.function(request.params["id"])
    sent = {"body": fields.get("body", ""), "headers": fields.get("headers", ""), "kind": fields.get("kind", "sync")}
    try:
        pairs = forms.pairs(fields, "headers", separator=":")
    except StokerError as error:
        return await function_page.show(desk, request, error=error, sent=sent)
    headers = [(name.lower(), value) for name, value in pairs.items()]
    if sent["kind"] == "detached":
        headers.append(("fn-invoke-type", "detached"))
    endpoint = desk.route("POST", f"/invoke/{function.id}".encode())
    if endpoint is None:
        raise NotFound("Fn not found")
    body = sent["body"].replace("\r\n", "\n").encode()
    began_s = time.perf_counter()
    call = Request("POST", f"/invoke/{function.id}".encode(), headers, body, "console", request.peer, request.principal)
    try:
        reply = await endpoint(call)
    except StokerError as error:
        return await function_page.show(desk, request, error=error, sent=sent)
    text = reply.body.decode("utf-8", "replace")
    shown = function_page.BODY_SHOWN_CHARS
    answer = {
        "status": reply.status,
        "headers": reply.headers,
        "body": text[:shown],
        "cut": len(text) > shown,
        "bytes": len(reply.body),
        "took_s": time.perf_counter() - began_s,
        "call_id": next((value for name, value in reply.headers if name.lower() == "fn-call-id"), ""),
    }
    return await function_page.show(desk, request, sent=sent, answer=answer)


# -- an app


async def show_app(
    desk: Desk, request: ApiRequest, app_id: str, *, error: StokerError | None = None,
    fields: dict[str, str] | None = None,
) -> ApiReply:  # fmt: skip
    """The page of an app."""
    app = desk.node.registry.app(app_id)
    typed = fields or {}
    allowed = may(
        request, app.id, change=perm.APP_UPDATE.of_app(), delete=perm.APP_DELETE.of_app(),
        create=perm.FUNCTION_CREATE.of_app(),
    )  # fmt: skip
    functions = [f for f in desk.catalog.functions_of(app.id) if readable(request, f.id)]
    return view(
        request, "app.html", here="Functions", error=error, may=allowed,
        done=done(request), app=app, config=typed.get("config", forms.text_of(app.config)),
        config_kept=forms.unwritable(app.config), seen=forms.mark({"config": forms.text_of(app.config)}),
        images=await desk.images() if request.access.may(perm.REPO_LIST) else [],
        functions=sorted(functions, key=lambda f: f.name), empty=not desk.catalog.functions_of(app.id),
        fields={key: typed.get(key, "") for key in ("name", "image", "memory", "timeout")},
    )  # fmt: skip


def compartments(desk: Desk, request: ApiRequest) -> list[tuple[str, str]]:
    """Id and name of those that one may create an app in, the root first."""
    known = desk.catalog.compartments.values()
    allowed = [c for c in known if request.access.may(perm.APP_CREATE.in_compartment(), c.id)]
    allowed.sort(key=lambda c: (bool(c.parent_id), c.name))
    return [(c.id, c.name) for c in allowed]


async def create_app(desk: Desk, request: ApiRequest) -> ApiReply:
    """POST /console/apps"""
    fields = forms.parse(request)
    compartment = fields.get("compartment", "")
    request.access.require(perm.APP_CREATE.in_compartment(), compartment)
    change = AppChange(name=fields.get("name", "").strip(), compartment_id=compartment)
    app = await desk.node.registry.create_app(change)
    return _back(f"apps/{app.id}", "app")


async def app_config(desk: Desk, request: ApiRequest) -> ApiReply:
    """POST /console/apps/{app_id}/config"""
    fields = forms.parse(request)
    app = desk.node.registry.app(request.params["app_id"])
    try:
        config = forms.merged(app.config, forms.pairs(fields, "config"))
        forms.check_unchanged(fields, {"config": forms.text_of(app.config)})
        await desk.node.registry.update_app(app.id, AppChange(config=config))
    except StokerError as error:
        return await show_app(desk, request, app.id, error=error, fields=fields)
    return _back(f"apps/{app.id}", "config")


async def delete_app(desk: Desk, request: ApiRequest) -> ApiReply:
    """POST /console/apps/{app_id}/delete: only an empty one."""
    forms.parse(request)
    app = desk.node.registry.app(request.params["app_id"])
    if desk.catalog.functions_of(app.id):
        raise BadRequest(f"app {app.name} has functions: delete them first")
    await desk.node.registry.delete_app(app.id)
    return _back("", "app-deleted")


async def create_function(desk: Desk, request: ApiRequest) -> ApiReply:
    """POST /console/apps/{app_id}/functions: from a bundle that was pushed."""
    fields = forms.parse(request)
    app = desk.node.registry.app(request.params["app_id"])
    try:
        function = await desk.node.registry.create_function(
            FunctionChange(
                app_id=app.id,
                name=fields.get("name", "").strip(),
                image=fields.get("image", ""),
                memory_mib=forms.whole(fields, "memory", low=1, high=1 << 20),
                timeout_s=forms.whole(fields, "timeout", low=1, high=86_400),
            )
        )
    except StokerError as error:
        return await show_app(desk, request, app.id, error=error, fields=fields)
    return _back(f"functions/{function.id}", "function")


# -- dead letters, signing out


async def redrive(desk: Desk, request: ApiRequest) -> ApiReply:
    """POST /console/deadletters/{call_id}/redrive"""
    forms.parse(request)
    await _letter(desk, request)
    await desk.letters.redrive([request.params["call_id"]])
    return _back("deadletters", "redriven")


async def purge(desk: Desk, request: ApiRequest) -> ApiReply:
    """POST /console/deadletters/{call_id}/delete"""
    forms.parse(request)
    await _letter(desk, request)
    await desk.purge(request.params["call_id"])
    return _back("deadletters", "purged")


async def _letter(desk: Desk, request: ApiRequest) -> None:
    """Make sure that there is such a dead letter and that one may change its function."""
    letter = await desk.dead_letter(request.params["call_id"])
    if not request.principal.may_everything:
        request.access.require(perm.FUNCTION_UPDATE.of_function(), letter.function_id)


async def logout(desk: Desk, request: ApiRequest) -> ApiReply:
    """POST /console/logout"""
    forms.parse(request)
    desk.sessions.end(forms.cookies(request).get(COOKIE, ""))
    return see_other("/console/", headers=[("Set-Cookie", f"{COOKIE}=; Path=/; Max-Age=0; SameSite=Strict; HttpOnly")])


def _back(path: str, word: str) -> ApiReply:
    return see_other(f"/console/{path}?done={word}")


_FUNCTION = "/console/functions/{id}"
ROUTES = [
    Route("POST", f"{_FUNCTION}/settings", settings, perm.FUNCTION_UPDATE.of_function("id")),
    Route("POST", f"{_FUNCTION}/rollback", rollback, perm.FUNCTION_UPDATE.of_function("id")),
    Route("POST", f"{_FUNCTION}/restart", restart, perm.FUNCTION_UPDATE.of_function("id")),
    Route("POST", f"{_FUNCTION}/delete", delete, perm.FUNCTION_DELETE.of_function("id")),
    Route("POST", f"{_FUNCTION}/invoke", invoke, perm.INVOKE.of_function("id")),
    Route("POST", "/console/apps", create_app, perm.APP_CREATE.somewhere()),
    Route("POST", "/console/apps/{app_id}/config", app_config, perm.APP_UPDATE.of_app("app_id")),
    Route("POST", "/console/apps/{app_id}/delete", delete_app, perm.APP_DELETE.of_app("app_id")),
    Route("POST", "/console/apps/{app_id}/functions", create_function, perm.FUNCTION_CREATE.of_app("app_id")),
    Route("POST", "/console/deadletters/{call_id}/redrive", redrive, perm.FUNCTION_UPDATE.somewhere()),
    Route("POST", "/console/deadletters/{call_id}/delete", purge, perm.FUNCTION_UPDATE.somewhere()),
    Route("POST", "/console/logout", logout, perm.AUTHENTICATED),
]
