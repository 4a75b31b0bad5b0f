"""Stoker's own endpoints: health, metrics, bundles, versions, logs, instances, numbers of the node.

They are rows of a table like the Fn API's; what they need of the daemon is `Node`. All replies but /metrics and the
logs are JSON. Memory is in MiB, lengths of time in seconds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Protocol

import trio

from daemon import VERSION
from daemon.auth import permissions as perm
from daemon.bundles.interpreters import Interpreters
from daemon.catalog import Catalog
from daemon.core.views import NodeView, PoolView
from daemon.errors import BadRequest
from daemon.http import bodies, bundle_api
from daemon.http.views import ApiReply, ApiRequest, Route, json_bytes, rfc3339
from daemon.logs.book import TAIL_LINES_MAX, LogBook, Tail
from daemon.model import App, Function, Version
from daemon.telemetry.metrics import CONTENT_TYPE, FunctionGauges, Gauges, Metrics

Sample = tuple[str, tuple[str, ...], float]
NDJSON_TYPE = "application/x-ndjson"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceInfo:
    """One instance, as `stoker ps` shows it. ``app`` and ``function`` are names."""

    id: int
    app: str
    function: str
    function_id: str
    version: int
    state: str
    pid: int | None
    start_kind: str
    age_s: float
    idle_s: float | None
    """None unless it is idle."""
    calls: int
    memory_mib: float
    memory_limit_mib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StartMode:
    """How instances of a function's live version are started. ``forkable`` is None while there is no template."""

    setting: str
    """``auto``, ``fork``, ``boot`` or ``exec``."""
    forkable: bool | None
    reason: str
    """Why it is not forkable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connections:
    """What the front door has done."""

    open: int = 0
    accepted: int = 0
    refused: int = 0
    timed_out: int = 0
    clients_left: int = 0


class Facts(Protocol):
    """What everybody who shows or steers the daemon needs of it."""

    @property
    def draining(self) -> bool: ...
    @property
    def uptime_s(self) -> float: ...
    @property
    def catalog(self) -> Catalog: ...
    @property
    def log_book(self) -> LogBook: ...
    @property
    def metrics(self) -> Metrics: ...

    def instances(self) -> list[InstanceInfo]:
        """All that are not gone."""

    def pool(self, function_id: str) -> PoolView | None:
        """One function's instances, queue and PCU; None if it has none."""

    def view(self) -> NodeView:
        """Memory, instances, templates."""

    def connections(self) -> Connections:
        """The front door's numbers."""

    def restart(self, function_id: str) -> int:
        """End the function's idle and starting instances; the floor is filled anew. How many went."""


class Node(Facts, bundle_api.Store, Protocol):
    """What these endpoints need of the daemon."""

    @property
    def interpreters(self) -> Interpreters: ...

    def pools(self) -> dict[str, PoolView]:
        """All functions that have any of that, by their id: what costs as little for all as for one is asked once."""

    def start_mode(self, function: Function) -> StartMode:
        """How its instances are started, and why."""

    async def samples(self) -> list[Sample]:
        """Numbers of other parts of the daemon, for Prometheus: name, labels, value."""

    def sandbox(self) -> dict[str, Any]:
        """The level of what separates functions, and what is missing of it."""

    def network(self, app: App, function_id: str) -> dict[str, Any]:
        """What a function of the app may reach, and what it gets here."""


# -- health, metrics ---------------------------------------------------------------------------------------------------


async def health(node: Node, request: ApiRequest) -> ApiReply:
    """GET /health: 200, or 503 while draining."""
    status = "draining" if node.draining else "ok"
    body = {"status": status, "version": VERSION, "uptime_s": round(node.uptime_s, 3)}
    body["sandbox"] = node.sandbox()["level"]
    return ApiReply(status=503 if node.draining else 200, body=body)


async def metrics(node: Node, request: ApiRequest) -> ApiReply:
    """GET /metrics"""
    now = replace(gauges(node), samples=await node.samples())
    text = await node.metrics.render(now, partial(_names, node.catalog))
    return ApiReply(body=text.decode(), content_type=CONTENT_TYPE)


def _names(catalog: Catalog, function_id: str) -> tuple[str, str] | None:
    function = catalog.function(function_id)
    app = catalog.app(function.app_id) if function else None
    return (app.name, function.name) if app and function else None


def gauges(node: Node) -> Gauges:
    """The node's numbers of this moment, for Prometheus."""
    view, connections, pools = node.view(), node.connections(), node.pools()
    return Gauges(
        version=VERSION,
        uptime_s=node.uptime_s,
        draining=node.draining,
        functions=[
            gauge
            for function in node.catalog.functions.values()
            if (gauge := _gauges_of(node, function, pools.get(function.id)))
        ],
        memory_reserved_mib=view.used_mib,
        memory_limit_mib=view.memory_mib,
        templates=view.templates,
        log_dropped_bytes=node.log_book.dropped_bytes,
        connections=connections.open,
        connections_accepted=connections.accepted,
        refused=connections.refused,
        timed_out=connections.timed_out,
        clients_left=connections.clients_left,
    )


def _gauges_of(node: Node, function: Function, pool: PoolView | None) -> FunctionGauges | None:
    app = node.catalog.app(function.app_id)
    if app is None or pool is None:
        return None
    return FunctionGauges(
        app=app.name,
        function=function.name,
        instances=pool.instances,
        queued=pool.queue,
        pcu_requested=pool.pcu.requested,
        pcu_allocated=pool.pcu.allocated,
        pcu_available=pool.pcu.available,
        pcu_in_use=pool.pcu.in_use,
        pcu_spillover=pool.pcu.spillover,
    )


async def stats(node: Node, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/stats"""
    view = node.view()
    body = {
        "version": VERSION,
        "uptime_s": round(node.uptime_s, 3),
        "draining": node.draining,
        "apps": len(node.catalog.apps),
        "functions": len(node.catalog.functions),
        "memory": {"limit_mib": view.memory_mib, "reserved_mib": view.used_mib},
        "instances": view.instances,
        "templates": view.templates,
        "waiting": view.waiting,
        "calls": node.metrics.calls_by_outcome(),
        "starts": node.metrics.starts_by_kind(),
        "latency": node.metrics.quantiles(),
        "connections": asdict(node.connections()),
        "log_dropped_bytes": node.log_book.dropped_bytes,
    }
    return ApiReply(body=body)


async def runtimes(node: Node, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/runtimes"""
    found = await trio.to_thread.run_sync(node.interpreters.found)  # the first time it runs each of them
    found += await trio.to_thread.run_sync(node.interpreters.programs)
    return ApiReply(body={"items": [asdict(interpreter) for interpreter in found]})


# -- functions ---------------------------------------------------------------------------------------------------------


async def get_status(node: Node, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/functions/{id}"""
    return ApiReply(body=status_form(node, node.registry.function(request.params["id"])))


def status_form(node: Node, function: Function) -> dict[str, Any]:
    """What a function is, which version is live, and what runs."""
    app = node.registry.app(function.app_id)
    pool = node.pool(function.id)
    return {
        "id": function.id,
        "name": function.name,
        "app_id": app.id,
        "app": app.name,
        "version": version_form(function.live, live=True),
        "start": asdict(node.start_mode(function)),
        "sandbox": node.sandbox(),
        "network": node.network(app, function.id),
        "pool": _pool_form(pool) if pool is not None else None,
    }


def _pool_form(pool: PoolView) -> dict[str, Any]:
    starts = dict(pool.starts)
    reuses = starts.pop("reuse", 0)
    return {
        "instances": pool.instances,
        "queue": pool.queue,
        "memory_mib": pool.held_mib,
        "first_calls": starts,
        "reuses": reuses,
        "deploying": bool(pool.prepared),
        "start_error": pool.start_error,
        "pcu": asdict(pool.pcu),
    }


def version_form(version: Version, *, live: bool) -> dict[str, Any]:
    """A version as clients see it."""
    return {
        "number": version.number,
        "image": version.image,
        "digest": version.digest,
        "memory": version.memory_mib,
        "timeout": version.timeout_s,
        "idle_timeout": version.idle_timeout_s,
        "state": version.state,
        "error": version.error,
        "created_at": rfc3339(version.created_at),
        "live": live,
    }


async def list_versions(node: Node, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/functions/{id}/versions: newest first."""
    function = node.registry.function(request.params["id"])
    versions = await node.registry.versions(function.id)
    live = function.live.number if function.state == "active" else 0  # of one that failed none serves
    return ApiReply(body={"items": [version_form(v, live=v.number == live) for v in versions]})


async def rollback(node: Node, request: ApiRequest) -> ApiReply:
    """POST /stoker/v1/functions/{id}/rollback ``{"version": n}``; without one: to the ready version before."""
    number = bodies.parse(request.body).get("version") if request.body.strip() else None
    if number is not None and (not isinstance(number, int) or isinstance(number, bool) or not 0 < number < 2**31):
        raise BadRequest(f"version: must be a version's number, not {number!r}")
    function = await node.registry.rollback(request.params["id"], number)
    return ApiReply(body=status_form(node, function))


async def restart(node: Node, request: ApiRequest) -> ApiReply:
    """POST /stoker/v1/functions/{id}/restart: end the idle and starting instances; the next call starts a new one."""
    function = node.registry.function(request.params["id"])
    return ApiReply(body={"retired": node.restart(function.id)})


async def logs(node: Node, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/functions/{id}/logs?call=&tail=100&follow=true: one JSON object per line."""
    function = node.registry.function(request.params["id"])
    tail = node.log_book.tail(
        function.id,
        call_id=request.first("call") or None,
        last=_number(request, "tail", 100, TAIL_LINES_MAX),
        follow=_flag(request, "follow") and not node.draining,
    )
    return ApiReply(stream=_lines(tail), content_type=NDJSON_TYPE)


async def _lines(tail: Tail) -> AsyncIterator[bytes]:
    try:
        async for line in tail:
            yield json_bytes(line) + b"\n"
    finally:
        tail.close()


def _number(request: ApiRequest, name: str, default: int, highest: int) -> int:
    text = request.first(name) or str(default)
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) <= highest):
        raise BadRequest(f"{name}: must be a number from 0 to {highest}, not {text[:100]!r}")
    return int(text)


def _flag(request: ApiRequest, name: str) -> bool:
    text = request.first(name, "false").lower()
    if text not in ("true", "false", "1", "0"):
        raise BadRequest(f"{name}: must be true or false, not {text[:100]!r}")
    return text in ("true", "1")


async def list_instances(node: Node, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/instances?app=&function=: names or ids; of the functions that the caller may read."""
    app, function = request.first("app"), request.first("function")
    items = []
    for instance in node.instances():
        known = node.catalog.function(instance.function_id)
        if app and app not in (instance.app, known.app_id if known else ""):
            continue
        if function and function not in (instance.function, instance.function_id):
            continue
        if request.access.may(perm.FUNCTION_READ.of_function(), instance.function_id):
            items.append(asdict(instance))
    return ApiReply(body={"items": items})


ROUTES = [
    Route("GET", "/health", health, perm.EVERYBODY),
    Route("GET", "/metrics", metrics, perm.NODE_READ),
    Route("GET", "/stoker/v1/stats", stats, perm.NODE_READ),
    Route("GET", "/stoker/v1/runtimes", runtimes, perm.NODE_READ),
    Route("GET", "/stoker/v1/instances", list_instances, perm.FUNCTION_READ.somewhere()),
    *bundle_api.ROUTES,
    Route("GET", "/stoker/v1/functions/{id}", get_status, perm.FUNCTION_READ.of_function("id")),
    Route("GET", "/stoker/v1/functions/{id}/versions", list_versions, perm.FUNCTION_READ.of_function("id")),
    Route("POST", "/stoker/v1/functions/{id}/rollback", rollback, perm.FUNCTION_UPDATE.of_function("id")),
    Route("POST", "/stoker/v1/functions/{id}/restart", restart, perm.FUNCTION_UPDATE.of_function("id")),
    Route("GET", "/stoker/v1/functions/{id}/logs", logs, perm.FUNCTION_READ.of_function("id")),
]
