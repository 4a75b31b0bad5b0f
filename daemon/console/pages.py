"""The pages that show something, and the table of all routes of the console."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from daemon.auth import permissions as perm
from daemon.console import actions, charts, function_page
from daemon.console.desk import Desk
from daemon.console.render import duration, page, see_other, size, static, when
from daemon.console.sessions import COOKIE, SESSION_S
from daemon.console.view import PAGES, may, readable, view
from daemon.cures import CURES
from daemon.errors import NotAuthenticated, NotFound, StokerError
from daemon.http import calls_api
from daemon.http.views import ApiReply, ApiRequest, Route
from daemon.telemetry.calls import CallRecord, advice, phases
from daemon.telemetry.recorder import Question, time_of

CALLS_SHOWN = 50
SHOWS = [("", "all"), ("failed", "failed"), ("slow", "the slowest twentieth"), ("cold", "cold starts")]
SINCES = [("", "ever"), ("900", "15 minutes"), ("3600", "an hour"), ("86400", "a day"), ("604800", "a week")]


async def overview(desk: Desk, request: ApiRequest) -> ApiReply:
    """GET /console/: the functions that one may see, by app."""
    hours = await desk.hours()
    apps = []
    for app in sorted(desk.catalog.apps.values(), key=lambda app: app.name):
        known = sorted(desk.catalog.functions_of(app.id), key=lambda function: function.name)
        shown = [function for function in known if readable(request, function.id)]
        allowed = may(request, app.id, read=perm.APP_READ.of_app(), create=perm.FUNCTION_CREATE.of_app())
        if shown or allowed["read"]:
            functions = [_summary(desk, function, hours) for function in shown]
            apps.append({"id": app.id, "name": app.name, "functions": functions, "may": allowed})
    node = None
    if request.access.may(perm.NODE_READ):
        numbers = desk.node.view()
        alive = sum(numbers.instances.values())
        node = {
            "instances": f"{alive} instance{'' if alive == 1 else 's'}",
            "reserved": numbers.used_mib, "limit": numbers.memory_mib,
        }  # fmt: skip
    return view(
        request, "overview.html", here="Functions", apps=apps, done=actions.done(request), node=node,
        functions=sum(len(app["functions"]) for app in apps), compartments=actions.compartments(desk, request),
    )  # fmt: skip


def _summary(desk: Desk, function: Any, hours: dict[str, Any]) -> dict[str, Any]:
    pool = desk.node.pool(function.id)
    hour = hours.get(function.id)
    per_minute = list(hour.per_minute) if hour else []
    calls = hour.calls if hour else 0
    return {
        "id": function.id,
        "name": function.name,
        "state": desk.state_of(function),
        "version": f"{function.live.number} · {function.live.image}",
        "memory_mib": function.live.memory_mib,
        "timeout_s": function.live.timeout_s,
        "pcu": function_page.pcu_text(pool.pcu) if pool else "-",
        "instances": sum(pool.instances.values()) if pool else 0,
        "calls": calls,
        "errors": hour.errors if hour else 0,
        "spark": charts.sparkline(per_minute, label=f"{calls} calls in the last hour, by minute") if calls else "",
    }


async def app_page(desk: Desk, request: ApiRequest) -> ApiReply:
    """GET /console/apps/{app_id}"""
    return await actions.show_app(desk, request, request.params["app_id"])


async def function(desk: Desk, request: ApiRequest) -> ApiReply:
    """GET /console/functions/{id}"""
    return await function_page.show(desk, request, done=actions.done(request))


async def calls(desk: Desk, request: ApiRequest) -> ApiReply:
    """GET /console/calls?function=&show=&since=&before=: calls that have ended, newest first."""
    now = desk.now()
    show = request.first("show") if request.first("show") in dict(SHOWS) else ""
    since = request.first("since") if request.first("since") in dict(SINCES) else ""
    function_id, before = request.first("function"), request.first("before")
    question = Question(
        function_id=function_id, visible=calls_api.visible(desk.catalog, request),
        failed=show == "failed", slow=show == "slow", cold=show == "cold",
        since=now - int(since) if since else 0.0, before_id=before,
        until=time_of(before) + 1.0 if before and time_of(before) else float("inf"),
    )  # fmt: skip
    found = await desk.recent(question, limit=CALLS_SHOWN)
    older = ""
    if found.more and found.records:
        older = f"?function={function_id}&show={show}&since={since}&before={found.records[-1].id}"
    functions = [
        {"id": f.id, "name": f.name, "app": desk.name_of(f.id).partition("/")[0]}
        for f in sorted(desk.catalog.functions.values(), key=lambda f: desk.name_of(f.id))
        if readable(request, f.id)
    ]
    return view(
        request, "calls.html", here="Calls", calls=found.records, now=now,
        apps={app.id: app.name for app in desk.catalog.apps.values()},
        older=older, functions=functions, shows=SHOWS, sinces=SINCES,
        chosen={"function": function_id, "show": show, "since": since},
    )  # fmt: skip


async def call(desk: Desk, request: ApiRequest) -> ApiReply:
    """GET /console/calls/{call_id}: one call with its timeline."""
    call_id = request.params["call_id"]
    record = await desk.calls.get(call_id, at=time_of(call_id))
    if record is None or not (request.principal.may_everything or readable(request, record.function_id)):
        raise NotFound(f"no record of a call {call_id[:64]}")
    known = desk.catalog.function(record.function_id)
    parts = [(name, length) for name, _, length in phases(record)]
    live = known.live if known else None
    return view(
        request, "call.html", here="Calls", call=record, known=known is not None, phases=parts,
        bar=charts.timeline(parts, show=duration), facts=_facts(desk, record),
        advice=" ".join(
            advice(record, timeout_s=live.timeout_s if live else 0.0, memory_mib=live.memory_mib if live else 0)
        ),
        logs=await desk.logs(record.function_id, call_id=record.id),
    )  # fmt: skip


def _facts(desk: Desk, record: CallRecord) -> list[tuple[str, str]]:
    facts = [
        ("Admitted", when(record.at)),
        ("Function", f"{desk.name_of(record.function_id)}, version {record.version}"),
        ("Kind", record.kind),
        ("Start", record.start_kind or "it never got an instance"),
        ("Instance", str(record.instance or "-")),
        ("Status", str(record.status)),
        ("Whose fault", record.fault),
        ("Request", size(record.bytes_in)),
        ("Answer", size(record.bytes_out)),
        ("Processor time", duration(record.cpu_s) if record.cpu_s >= 0 else "-"),
        ("Memory", size(record.memory_bytes) if record.memory_bytes > 0 else "-"),
        ("Caller", record.caller or "-"),
    ]
    return [fact for fact in facts if fact[1] != "none"]


async def instances(desk: Desk, request: ApiRequest) -> ApiReply:
    """GET /console/instances"""
    found = [i for i in desk.node.instances() if readable(request, i.function_id)]
    found.sort(key=lambda i: (i.app, i.function, i.id))
    return view(request, "instances.html", here="Instances", instances=found)


async def dead_letters(desk: Desk, request: ApiRequest) -> ApiReply:
    """GET /console/deadletters"""
    letters = [
        {
            "id": letter.id,
            "at": letter.ended_at / 1000,
            "function_id": letter.function_id,
            "function": desk.name_of(letter.function_id),
            "known": desk.catalog.function(letter.function_id) is not None,
            "why": actions.why(letter.error),
            "attempts": letter.attempts,
            "caller": letter.caller or "-",
            "redrive_of": letter.redrive_of,
            "may": may(request, letter.function_id, change=perm.FUNCTION_UPDATE.of_function()),
        }
        for letter in await desk.dead_letters()
        if request.principal.may_everything or readable(request, letter.function_id)
    ]
    return view(
        request, "deadletters.html", here="Dead letters", done=actions.done(request), letters=letters, now=desk.now(),
    )  # fmt: skip


async def node(desk: Desk, request: ApiRequest) -> ApiReply:
    """GET /console/node: memory, numbers, isolation."""
    numbers = desk.node.view()
    budget = []
    for found in desk.catalog.functions.values():
        if (pool := desk.node.pool(found.id)) and (pool.held_mib or pool.pcu.requested):
            budget.append(
                {
                    "id": found.id,
                    "name": desk.name_of(found.id),
                    "instances": sum(pool.instances.values()),
                    "held_mib": pool.held_mib,
                    "pcu": function_page.pcu_text(pool.pcu),
                }
            )
    connections = desk.node.connections()
    facts = [
        ("Instances", ", ".join(f"{count} {state}" for state, count in numbers.instances.items() if count) or "none"),
        ("Templates", str(numbers.templates)),
        ("Calls that wait", str(numbers.waiting)),
        ("Connections", f"{connections.open} open, {connections.accepted} since the start"),
        ("Requests refused", str(connections.refused)),
        ("Log bytes dropped", size(desk.node.log_book.dropped_bytes)),
    ]
    return view(
        request, "node.html", here="Node", draining=desk.node.draining, uptime_s=desk.node.uptime_s,
        view=numbers, budget=sorted(budget, key=lambda row: str(row["name"])), facts=facts, doctor=_doctor(desk),
    )  # fmt: skip


def _doctor(desk: Desk) -> dict[str, Any]:
    found = desk.diagnosis
    met = "which meets" if found.meets(desk.floor) else "which is below"
    return {
        "summary": f"Level {found.level}, {met} the configured floor {desk.floor}.",
        "rows": [
            {
                "name": fact.name,
                "active": fact.active,
                "protects": fact.protects,
                "instead": ""
                if fact.active
                else ". ".join(text for text in (fact.instead, f"To get it: {fact.how}") if text),
            }
            for fact in found.facts
        ],
    }


async def asset(desk: Desk, request: ApiRequest) -> ApiReply:
    """GET /console/static/{name}"""
    found = static(request.params["name"])
    if found is None:
        raise NotFound(f"no file {request.params['name'][:64]}")
    return found


async def to_overview(desk: Desk, request: ApiRequest) -> ApiReply:
    """GET /console"""
    return see_other("/console/")


async def login(desk: Desk, request: ApiRequest) -> ApiReply:
    """GET /console/login?token=: use a one-time link."""
    secret = desk.sessions.redeem(request.first("token"))
    secure = "; Secure" if request.base_url.startswith("https:") else ""
    # Path=/: the live logs are beside the console, not beneath it.
    cookie = f"{COOKIE}={secret}; Path=/; Max-Age={SESSION_S:.0f}; SameSite=Strict; HttpOnly{secure}"
    return see_other("/console/", headers=[("Set-Cookie", cookie)])


async def make_link(desk: Desk, request: ApiRequest) -> ApiReply:
    """POST /stoker/v1/console/links: a one-time link that signs in as whoever asks; for ``stoker console``."""
    path = f"/console/login?token={desk.sessions.link(request.principal)}"
    return ApiReply(body={"url": f"{request.base_url}{path}", "path": path})


def error_page(error: StokerError) -> ApiReply:
    """An error as a page: who sees it is a person."""
    if isinstance(error, NotAuthenticated):
        return page(
            "message.html", status=error.status, here="", error=None, done="", nav=PAGES, person="", heading="Sign in",
            text="Run 'stoker console' on this machine: it prints a link that signs you in.", detail="",
        )  # fmt: skip
    return page(
        "message.html", status=error.status, here="", error=None, done="", nav=PAGES, person="",
        heading=error.message[:1].upper() + error.message[1:], text=CURES.get(error.code, ""), detail=error.detail,
    )  # fmt: skip


_GET = [
    Route("GET", "/console", to_overview, perm.EVERYBODY),
    Route("GET", "/console/", overview, perm.AUTHENTICATED),
    Route("GET", "/console/login", login, perm.EVERYBODY),
    Route("GET", "/console/static/{name}", asset, perm.EVERYBODY),
    Route("GET", "/console/apps/{app_id}", app_page, perm.APP_READ.of_app("app_id")),
    Route("GET", "/console/functions/{id}", function, perm.FUNCTION_READ.of_function("id")),
    Route("GET", "/console/functions/{id}/advice", function_page.advice_page, perm.FUNCTION_READ.of_function("id")),
    Route("GET", "/console/calls", calls, perm.FUNCTION_READ.somewhere()),
    Route("GET", "/console/calls/{call_id}", call, perm.FUNCTION_READ.somewhere()),
    Route("GET", "/console/instances", instances, perm.FUNCTION_READ.somewhere()),
    Route("GET", "/console/deadletters", dead_letters, perm.FUNCTION_READ.somewhere()),
    Route("GET", "/console/node", node, perm.NODE_READ),
    Route("POST", "/stoker/v1/console/links", make_link, perm.AUTHENTICATED),
]


ROUTES = [
    replace(route, errors=error_page) if route.path.startswith("/console") else route
    for route in [*_GET, *actions.ROUTES]
]
