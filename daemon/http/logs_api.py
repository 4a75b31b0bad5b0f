"""Endpoints about logs of one, some or all functions: searching, and following as server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from daemon.auth import permissions as perm
from daemon.catalog import Catalog
from daemon.errors import BadRequest, NotFound
from daemon.http.calls_api import flag, number, one_of, place, point_in_time, readable
from daemon.http.views import ApiReply, ApiRequest, Route
from daemon.logs.book import TAIL_LINES_MAX, LogBook
from daemon.logs.lines import LEVELS, object_of
from daemon.logs.search import Line, LogQuery
from daemon.logs.sinks import LogSinks
from daemon.logs.tail import Place, Watcher, place_of
from daemon.model import App
from daemon.telemetry.calls import rfc3339

KEEP_ALIVE_S = 15.0
"""A follower hears something this often, so that proxies keep the connection, and we notice that it is gone."""
SSE_TYPE = "text/event-stream"
LOG_FORMAT = "stoker.dev/log-format"
"""Annotation of an app: ``JSON`` or ``PLAIN_TEXT``."""
STREAMS = ("stdout", "stderr", "platform")


class LogsService:
    """What these endpoints need of the daemon."""

    def __init__(self, catalog: Catalog, log_book: LogBook, sinks: LogSinks) -> None:
        self.catalog, self.log_book, self.sinks = catalog, log_book, sinks


def _query(request: ApiRequest) -> LogQuery:
    times = {
        name: rfc3339(point_in_time(request.first(name), name)) for name in ("since", "until") if request.first(name)
    }
    return LogQuery(
        call_id=request.first("call"),
        text=request.first("text"),
        ignore_case=flag(request, "ignore_case"),
        level=one_of(request, "level", LEVELS),
        stream=one_of(request, "stream", STREAMS),
        **times,
    )


def _shown(service: LogsService, line: Line) -> dict[str, Any]:
    """A line with the names of its function and app, and as an object where its app's line format is JSON."""
    function = service.catalog.function(line["function_id"])
    app = service.catalog.app(function.app_id) if function else None
    shown = {**line, "app": app.name if app else None, "function": function.name if function else None}
    if app is not None and _is_json(app) and (value := object_of(str(line["line"]))) is not None:
        shown["object"] = value
    return shown


def _is_json(app: App) -> bool:
    """Whether lines that are JSON are shown as objects: OCI's lineFormat, or our annotation for users of Fn's API."""
    return (app.log_format or str(app.annotations.get(LOG_FORMAT, ""))).upper() == "JSON"


def _functions(service: LogsService, app_id: str, function_id: str) -> list[str]:
    if function_id:
        return [function_id]
    if app_id:
        return [function.id for function in service.catalog.functions_of(app_id)]
    return list(service.catalog.functions)


async def search_logs(service: LogsService, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/logs: the newest lines that fit, oldest first. Parameters, all optional: ``app``, ``function``
    (names or ids), ``call``, ``text``, ``ignore_case``, ``level`` (and graver), ``stream``, ``since``, ``until``,
    ``limit``."""
    return await _search(service, request, *place(service.catalog, request))


async def search_function_logs(service: LogsService, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/functions/{id}/logs/search: the same of one function."""
    return await _search(service, request, "", _function(service, request))


def _function(service: LogsService, request: ApiRequest) -> str:
    function = service.catalog.function(request.params["id"])
    if function is None:
        raise NotFound("Fn not found")
    return function.id


async def _search(service: LogsService, request: ApiRequest, app_id: str, function_id: str) -> ApiReply:
    limit = number(request, "limit", 100, 1, TAIL_LINES_MAX)
    ids = [name for name in _functions(service, app_id, function_id) if function_id or readable(request, name)]
    found, complete = await service.log_book.search(ids, _query(request), limit=limit)
    items = [_shown(service, line) for line in reversed(found)]
    return ApiReply(body={"items": items, "complete": complete})


async def stream_logs(service: LogsService, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/logs/stream: follow as server-sent events, each line an event ``line`` with a JSON object.
    Parameters as for searching, and ``tail``: how many old lines come first. A reader that is too slow loses lines and
    is told. Each event has an ``id``: with it as ``after``, or as the header Last-Event-ID as browsers send it, what
    came since then follows instead of old lines, also after a restart of the daemon."""
    return _stream(service, request, *place(service.catalog, request))


async def stream_function_logs(service: LogsService, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/functions/{id}/logs/stream: the same of one function."""
    return _stream(service, request, "", _function(service, request))


def _stream(service: LogsService, request: ApiRequest, app_id: str, function_id: str) -> ApiReply:
    query, last = _query(request), number(request, "tail", 10, 0, TAIL_LINES_MAX)
    after = place_of(request.first("after"))
    if after is None and request.first("after"):
        raise BadRequest("after: must be the id of an event of this stream, such as 2026-11-21T06:00:00.000Z/1")
    after = place_of(request.headers.get("last-event-id", "")) or after
    return ApiReply(
        stream=_events(service, request, app_id, function_id, query, last, after),
        content_type=SSE_TYPE,
        headers=[("Cache-Control", "no-store"), ("X-Accel-Buffering", "no")],
    )


async def _events(
    service: LogsService, request: ApiRequest, app_id: str, function_id: str, query: LogQuery, last: int,
    after: Place | None,
) -> AsyncIterator[bytes]:  # fmt: skip
    catalog = service.catalog

    def wanted(name: str) -> bool:
        if function_id:
            return name == function_id
        function = catalog.function(name)
        return function is not None and app_id in ("", function.app_id) and readable(request, name)

    watcher = Watcher(service.log_book, wanted, query, only=function_id)
    place = after or Place(rfc3339(watcher.since), 0)
    try:
        # An id alone is no event, but a browser keeps it: a reader that never saw a line can come back as well.
        yield f": lines of functions follow\nid: {place}\n\n".encode()
        wished = [name for name in _functions(service, app_id, function_id) if wanted(name)]
        for line in await watcher.history(wished, last, after):
            place = place.past(line["at"]) if line["function_id"] else place
            yield _event(service, line, place)
        async for new in watcher.lines(keep_alive_s=KEEP_ALIVE_S):
            if new is None:
                yield b": nothing new\n\n"
                continue
            place = place.past(new["at"]) if new["function_id"] else place
            yield _event(service, new, place)
    finally:
        watcher.close()


def _event(service: LogsService, line: Line, place: Place) -> bytes:
    data = json.dumps(_shown(service, line), ensure_ascii=False, separators=(",", ":"))
    return b"event: line\ndata: " + data.encode("utf-8", "replace") + f"\nid: {place}\n\n".encode()


async def list_destinations(service: LogsService, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/logs/destinations: where lines are sent to, how many, how many were dropped, what is wrong."""
    return ApiReply(
        body={"items": service.sinks.states(), "sent": service.sinks.sent, "dropped": service.sinks.dropped}
    )


ROUTES = [
    Route("GET", "/stoker/v1/logs/destinations", list_destinations, perm.NODE_READ),
    Route("GET", "/stoker/v1/logs", search_logs, perm.FUNCTION_READ.somewhere()),
    Route("GET", "/stoker/v1/logs/stream", stream_logs, perm.FUNCTION_READ.somewhere()),
    Route("GET", "/stoker/v1/functions/{id}/logs/search", search_function_logs, perm.FUNCTION_READ.of_function("id")),
    Route("GET", "/stoker/v1/functions/{id}/logs/stream", stream_function_logs, perm.FUNCTION_READ.of_function("id")),
]
