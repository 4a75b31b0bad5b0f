"""Endpoints for charts and advice: time series of a function or of the node, the advisor, OCI's metrics."""

from __future__ import annotations

import time
from typing import Any

from daemon.auth import permissions as perm
from daemon.catalog import Catalog
from daemon.core.points import STEPS_S
from daemon.errors import BadRequest, NotFound, leaves
from daemon.http.calls_api import point_in_time
from daemon.http.views import ApiReply, ApiRequest, Route
from daemon.model import Function
from daemon.telemetry.advice import GOAL, Advisor
from daemon.telemetry.record_metrics import OciMetrics
from daemon.telemetry.series import Series, step_for

SPAN_S = 3600.0
"""What a series shows when nothing is said."""
ADVICE_SPAN_S = 7 * 86_400.0
FAULTS = {error.code: error.fault for error in leaves()} | {"client-left": "caller"}


class SeriesService:
    """What these endpoints need of the daemon."""

    def __init__(self, catalog: Catalog, series: Series, advisor: Advisor, oci: OciMetrics) -> None:
        self.catalog, self.series, self.advisor, self.oci = catalog, series, advisor, oci


def _function(service: SeriesService, request: ApiRequest) -> Function:
    function = service.catalog.function(request.params["id"])
    if function is None:
        raise NotFound("Fn not found")
    return function


async def node_series(service: SeriesService, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/series: all functions together. Parameters: ``since``, ``until`` (``1h`` ago, or a time), ``step``
    (1, 60, 3600 seconds; else what suits the span). Every step has a point: calls, ok, failed by fault, errors by code,
    starts by kind, latency by phase with percentiles, gauges (instances by state, queue, PCUs, memory)."""
    return await _series(service, request, "")


async def function_series(service: SeriesService, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/functions/{id}/series: the same of one function."""
    return await _series(service, request, _function(service, request).id)


async def summary(service: SeriesService, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/functions/{id}/summary?since=1h: one function in one point, as in its series: calls, errors,
    starts, latency by phase with percentiles over the whole span, means and highest gauges."""
    function = _function(service, request)
    until = time.time()
    since = point_in_time(request.first("since"), "since") if request.first("since") else until - SPAN_S
    if since >= until:
        raise BadRequest("since: must be in the past")
    point = await service.series.total(function.id, since=since, until=until)
    return ApiReply(body={"since": since, "until": until, "total": point.form(int(since), FAULTS)})


async def _series(service: SeriesService, request: ApiRequest, function_id: str) -> ApiReply:
    until = point_in_time(request.first("until"), "until") if request.first("until") else time.time()
    since = point_in_time(request.first("since"), "since") if request.first("since") else until - SPAN_S
    if since >= until:
        raise BadRequest("since: must be before until")
    text = request.first("step") or "auto"
    if text != "auto" and text not in map(str, STEPS_S):
        raise BadRequest(f"step: must be auto, {', '.join(map(str, STEPS_S))} (seconds), not {text[:100]!r}")
    step_s = step_for(until - since) if text == "auto" else int(text)
    points = await service.series.points(function_id, step_s=step_s, since=since, until=until)
    body = {"step_s": step_s, "points": [point.form(at, FAULTS) for at, point in points]}
    return ApiReply(body=body)


async def advice(service: SeriesService, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/functions/{id}/advice?since=7d&goal=0.95: how many instances to keep warm: what each floor
    would have done to the cold starts since then, its memory, and the smallest that removes that part of them."""
    function = _function(service, request)
    since = point_in_time(request.first("since"), "since") if request.first("since") else time.time() - ADVICE_SPAN_S
    try:
        goal = float(request.first("goal") or GOAL)
    except ValueError:
        goal = -1.0
    if not 0 < goal <= 1:
        raise BadRequest(f"goal: must be a number above 0, at most 1, not {request.first('goal')[:100]!r}")
    return ApiReply(body=await service.advisor.advise(function, since=since, goal=goal))


async def oci_metrics(service: SeriesService, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/metrics/oci: the metrics of OCI's namespace ``oci_faas`` by their own names, with their
    dimensions: counts since the daemon's start, and present values."""
    items: list[dict[str, Any]] = service.oci.items()
    return ApiReply(body={"namespace": "oci_faas", "items": items})


ROUTES = [
    Route("GET", "/stoker/v1/series", node_series, perm.NODE_READ),
    Route("GET", "/stoker/v1/metrics/oci", oci_metrics, perm.NODE_READ),
    Route("GET", "/stoker/v1/functions/{id}/series", function_series, perm.FUNCTION_READ.of_function("id")),
    Route("GET", "/stoker/v1/functions/{id}/summary", summary, perm.FUNCTION_READ.of_function("id")),
    Route("GET", "/stoker/v1/functions/{id}/advice", advice, perm.FUNCTION_READ.of_function("id")),
]
