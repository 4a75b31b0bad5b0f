"""The Fn server's API version 2 as a table of routes (reference fn-contract section 1)."""

from __future__ import annotations

from dataclasses import replace

from daemon import FN_VERSION, VERSION
from daemon.auth import permissions as perm
from daemon.errors import NotFound
from daemon.http import bodies
from daemon.http.routing import Router
from daemon.http.views import (
    TEXT_TYPE,
    ApiReply,
    ApiRequest,
    Route,
    app_form,
    function_form,
    page_form,
    trigger_form,
)
from daemon.model import App, Trigger
from daemon.registry import Registry, rules

PER_PAGE, PER_PAGE_MAX = 30, 100


async def dispatch(registry: Registry, request: ApiRequest) -> ApiReply:
    """Answer a request of this API alone."""
    return await Router([(ROUTES, registry)]).dispatch(request)


def per_page(request: ApiRequest) -> int:
    """How many items a page has: 30, or what is asked for, up to 100; anything odd counts as not asked (as on Fn)."""
    text = request.first("per_page")
    asked = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
    return min(asked, PER_PAGE_MAX) or PER_PAGE


async def ping(registry: Registry, request: ApiRequest) -> ApiReply:
    """GET /"""
    return ApiReply(body={"goto": "https://github.com/fnproject/fn", "hello": "world!"})


async def version(registry: Registry, request: ApiRequest) -> ApiReply:
    """GET /version: ``fn version`` reads it."""
    return ApiReply(body={"version": FN_VERSION, "stoker": VERSION})


async def list_apps(registry: Registry, request: ApiRequest) -> ApiReply:
    """GET /v2/apps: those that the caller may see"""
    limit, cursor, shown = per_page(request), request.first("cursor"), list[App]()
    while True:
        page = await registry.apps(name=request.first("name"), cursor=cursor, limit=limit)
        shown += [app for app in page.items if request.access.may(perm.APP_LIST.of_app(), app.id)]
        cursor = page.next_cursor
        if not cursor or len(shown) >= limit:
            break
    if len(shown) >= limit:  # a cursor is a name: that of one that was shown, and of no other
        shown = shown[:limit]
        cursor = rules.cursor_of(shown[-1].name)
    return ApiReply(body=page_form([app_form(app) for app in shown], cursor))


async def create_app(registry: Registry, request: ApiRequest) -> ApiReply:
    """POST /v2/apps: Fn's members, and ours: ``compartment_id`` (the root without it)."""
    change = bodies.app_change(request.body)
    compartment_id = bodies.Members(bodies.parse(request.body)).text("compartment_id")
    return ApiReply(body=app_form(await registry.create_app(replace(change, compartment_id=compartment_id))))


async def get_app(registry: Registry, request: ApiRequest) -> ApiReply:
    """GET /v2/apps/{app_id}"""
    return ApiReply(body=app_form(registry.app(request.params["app_id"])))


async def update_app(registry: Registry, request: ApiRequest) -> ApiReply:
    """PUT /v2/apps/{app_id}"""
    change = bodies.app_change(request.body)
    return ApiReply(body=app_form(await registry.update_app(request.params["app_id"], change)))


async def delete_app(registry: Registry, request: ApiRequest) -> ApiReply:
    """DELETE /v2/apps/{app_id}"""
    await registry.delete_app(request.params["app_id"])
    return _deleted()


async def list_functions(registry: Registry, request: ApiRequest) -> ApiReply:
    """GET /v2/fns"""
    page = await registry.functions(
        request.first("app_id"),
        name=request.first("name"),
        cursor=request.first("cursor"),
        limit=per_page(request),
    )
    return ApiReply(body=page_form([function_form(f, request.base_url) for f in page.items], page.next_cursor))


async def create_function(registry: Registry, request: ApiRequest) -> ApiReply:
    """POST /v2/fns: replies when the function serves."""
    function = await registry.create_function(bodies.function_change(request.body))
    return ApiReply(body=function_form(function, request.base_url, created=True))


async def get_function(registry: Registry, request: ApiRequest) -> ApiReply:
    """GET /v2/fns/{fn_id}"""
    return ApiReply(body=function_form(registry.function(request.params["fn_id"]), request.base_url))


async def update_function(registry: Registry, request: ApiRequest) -> ApiReply:
    """PUT /v2/fns/{fn_id}: replies when the new version serves."""
    change = bodies.function_change(request.body)
    function = await registry.update_function(request.params["fn_id"], change)
    return ApiReply(body=function_form(function, request.base_url))


async def delete_function(registry: Registry, request: ApiRequest) -> ApiReply:
    """DELETE /v2/fns/{fn_id}"""
    await registry.delete_function(request.params["fn_id"])
    return _deleted()


async def list_triggers(registry: Registry, request: ApiRequest) -> ApiReply:
    """GET /v2/triggers"""
    page = await registry.triggers(
        request.first("app_id"),
        fn_id=request.first("fn_id"),
        name=request.first("name"),
        cursor=request.first("cursor"),
        limit=per_page(request),
    )
    return ApiReply(body=page_form([_trigger_form(registry, t, request) for t in page.items], page.next_cursor))


async def create_trigger(registry: Registry, request: ApiRequest) -> ApiReply:
    """POST /v2/triggers"""
    trigger = await registry.create_trigger(bodies.trigger_change(request.body))
    return ApiReply(body=_trigger_form(registry, trigger, request))


async def get_trigger(registry: Registry, request: ApiRequest) -> ApiReply:
    """GET /v2/triggers/{trigger_id}"""
    return ApiReply(body=_trigger_form(registry, registry.trigger(request.params["trigger_id"]), request))


async def update_trigger(registry: Registry, request: ApiRequest) -> ApiReply:
    """PUT /v2/triggers/{trigger_id}"""
    change = bodies.trigger_change(request.body)
    if change.fn_id:  # it may go to another function
        request.access.require(perm.FUNCTION_UPDATE.of_function(), change.fn_id)
    trigger = await registry.update_trigger(request.params["trigger_id"], change)
    return ApiReply(body=_trigger_form(registry, trigger, request))


async def delete_trigger(registry: Registry, request: ApiRequest) -> ApiReply:
    """DELETE /v2/triggers/{trigger_id}"""
    await registry.delete_trigger(request.params["trigger_id"])
    return _deleted()


async def trigger_by_source(registry: Registry, request: ApiRequest) -> ApiReply:
    """GET /v2/runner/apps/{app_id}/triggerBySource/{type}/{source}: of Fn's load balancer.

    As on Fn the slash before ``source`` is part of the route: a trigger at ``/t1`` is asked for as ``//t1``.
    """
    params = request.params
    trigger = registry.trigger_by_source(params["app_id"], params["type"], params["source"])
    return ApiReply(body=_trigger_form(registry, trigger, request))


async def gone(registry: Registry, request: ApiRequest) -> ApiReply:
    """Calls and their logs: Fn took them out; 410 without a body."""
    return ApiReply(status=410)


def _deleted() -> ApiReply:
    return ApiReply(status=204, content_type=TEXT_TYPE)


def _trigger_form(registry: Registry, trigger: Trigger, request: ApiRequest) -> dict[str, object]:
    app = registry.catalog.app(trigger.app_id)
    if app is None:
        raise NotFound("App not found")  # deleted since the trigger was read
    return trigger_form(trigger, app.name, request.base_url)


ROUTES = [
    Route("GET", "/", ping, perm.AUTHENTICATED),
    Route("GET", "/version", version, perm.AUTHENTICATED),
    Route("GET", "/v2/apps", list_apps, perm.APP_LIST.somewhere()),
    Route("POST", "/v2/apps", create_app, perm.APP_CREATE.in_compartment()),
    Route("GET", "/v2/apps/{app_id}", get_app, perm.APP_READ.of_app()),
    Route("PUT", "/v2/apps/{app_id}", update_app, perm.APP_UPDATE.of_app()),
    Route("DELETE", "/v2/apps/{app_id}", delete_app, perm.APP_DELETE.of_app()),
    Route("GET", "/v2/fns", list_functions, perm.FUNCTION_LIST.of_app()),
    Route("POST", "/v2/fns", create_function, perm.FUNCTION_CREATE.of_app()),
    Route("GET", "/v2/fns/{fn_id}", get_function, perm.FUNCTION_READ.of_function()),
    Route("PUT", "/v2/fns/{fn_id}", update_function, perm.FUNCTION_UPDATE.of_function()),
    Route("DELETE", "/v2/fns/{fn_id}", delete_function, perm.FUNCTION_DELETE.of_function()),
    Route("GET", "/v2/fns/{fn_id}/calls", gone, perm.FUNCTION_READ.of_function()),
    Route("GET", "/v2/fns/{fn_id}/calls/{call_id}", gone, perm.FUNCTION_READ.of_function()),
    Route("GET", "/v2/fns/{fn_id}/calls/{call_id}/log", gone, perm.FUNCTION_READ.of_function()),
    Route("GET", "/v2/triggers", list_triggers, perm.FUNCTION_LIST.of_app()),
    Route("POST", "/v2/triggers", create_trigger, perm.FUNCTION_UPDATE.of_function()),
    Route("GET", "/v2/triggers/{trigger_id}", get_trigger, perm.FUNCTION_READ.of_trigger()),
    Route("PUT", "/v2/triggers/{trigger_id}", update_trigger, perm.FUNCTION_UPDATE.of_trigger()),
    Route("DELETE", "/v2/triggers/{trigger_id}", delete_trigger, perm.FUNCTION_UPDATE.of_trigger()),
    Route(
        "GET",
        "/v2/runner/apps/{app_id}/triggerBySource/{type}/{source:path}",
        trigger_by_source,
        perm.FUNCTION_READ.of_app(),
    ),
]
"""Method, path, handler, and the permission that the caller needs."""
