"""Detached calls over HTTP: what waits, dead letters, the secret of a function's webhooks. A table of routes.

Dead letters hold what callers sent: everything about them is asked for by function, with rights on that function.
"""

from __future__ import annotations

import base64
import json
import sqlite3
import time
from dataclasses import dataclass
from typing import Any

import trio

from daemon.auth import permissions as perm
from daemon.catalog import Catalog
from daemon.core.detached import State
from daemon.core.detached_settings import parse
from daemon.detached.destinations import Outbox
from daemon.detached.service import Detached
from daemon.errors import BadRequest, NotFound
from daemon.http import bodies
from daemon.http.views import ApiReply, ApiRequest, Route, page_form, rfc3339
from daemon.model import Function
from daemon.registry import rules
from daemon.store import detached_records as records
from daemon.store.database import Database
from daemon.store.detached_records import Letter

PAGE_MAX = 100
CALLS_MAX = 1000
"""Most dead letters redriven or purged by one request; a client goes on until none is left."""


@dataclass(slots=True)
class DetachedService:
    """What these endpoints need of the daemon."""

    catalog: Catalog
    database: Database
    detached: Detached
    outbox: Outbox


async def overview(service: DetachedService, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/detached: what waits and runs on the node."""
    book, outbox = service.detached.book, service.outbox
    dead = await service.database.read(records.totals)
    waiting = [call for call in book if call.state is State.QUEUED]
    oldest_s = min((call.accepted_s for call in waiting), default=None)
    body = {
        "waiting": len(waiting),
        "running": book.running,
        "bytes": book.size_bytes,
        "oldest_s": None if oldest_s is None else round(max(0.0, trio.current_time() - oldest_s), 3),
        "accepted": service.detached.accepted,
        "refused": service.detached.refused,
        "dead_letters": sum(count for count, _ in dead.values()),
        "dead_letter_bytes": sum(size for _, size in dead.values()),
        "deliveries_pending": outbox.pending,
        "limits": {"calls": book.policy.queue_max, "bytes": book.policy.queue_bytes_max},
    }
    return ApiReply(body=body)


async def of_function(service: DetachedService, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/functions/{id}/detached: settings in force, and what waits and runs."""
    function = _function(service, request)
    settings, node = parse(function.annotations), service.detached.settings
    calls = [call for call in service.detached.book if call.function_id == function.id]
    dead = (await service.database.read(records.totals)).get(function.id, (0, 0))
    body = {
        "timeout": settings.timeout_s or function.live.timeout_s,
        "on_success": settings.on_success.form() if settings.on_success else {"kind": "NONE"},
        "on_failure": settings.on_failure.form() if settings.on_failure else {"kind": "NONE"},
        "attempts": settings.retry.attempts or node.attempts,
        "backoff_s": settings.retry.backoff_s or node.backoff_s,
        "backoff_s_max": settings.retry.backoff_s_max or node.backoff_s_max,
        "waiting": sum(call.state is State.QUEUED for call in calls),
        "running": sum(call.state is State.RUNNING for call in calls),
        "dead_letters": dead[0],
        "dead_letter_bytes": dead[1],
    }
    return ApiReply(body=body)


async def webhook_secret(service: DetachedService, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/functions/{id}/webhook-secret: what receivers of its records check signatures with."""
    return ApiReply(body={"secret": service.outbox.secret(_function(service, request).id)})


async def list_all(service: DetachedService, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/deadletters?cursor=&limit=: of all functions, oldest first, without their bodies."""
    return await _page(service, request, None)


async def list_letters(service: DetachedService, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/functions/{id}/deadletters?cursor=&limit=: oldest first, without their bodies."""
    return await _page(service, request, [_function(service, request).id])


async def _page(service: DetachedService, request: ApiRequest, function_ids: list[str] | None) -> ApiReply:
    text = request.first("limit") or str(PAGE_MAX)
    if not (text.isascii() and text.isdecimal() and 0 < int(text[:9]) <= PAGE_MAX):
        raise BadRequest(f"limit: must be a number from 1 to {PAGE_MAX}, not {text[:100]!r}")
    at, call_id = rules.parse_cursor(request.first("cursor"), 2)
    if not (at or "0").isdecimal() or len(at) > 15:
        raise BadRequest("Invalid cursor", detail="use the next_cursor of the page before")
    letters = await service.database.read(
        lambda conn: records.dead_letters(
            conn, function_ids=function_ids, after=(int(at or "0"), call_id), limit=int(text)
        )
    )
    last = letters[-1] if len(letters) == int(text) else None
    cursor = rules.cursor_of(str(last.accepted_at), last.id) if last else ""
    return ApiReply(body=page_form([_form(service, letter) for letter in letters], cursor))


async def get_letter(service: DetachedService, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/functions/{id}/deadletters/{call_id}: with headers and body (base64)."""
    function, call_id = _function(service, request), request.params["call_id"]

    def read(conn: sqlite3.Connection) -> tuple[Letter, tuple[records.Headers, bytes] | None]:
        return records.dead_letter(conn, call_id), records.content(conn, call_id)

    letter, content = await service.database.read(read)
    if letter.function_id != function.id or content is None:
        raise NotFound(f"no dead letter {call_id[:64]} of function {function.name}")
    headers, body = content
    form = _form(service, letter)
    form["headers"] = [{"name": name, "value": value} for name, value in headers]
    form["body"] = base64.b64encode(body).decode()
    return ApiReply(body=form)


async def redrive(service: DetachedService, request: ApiRequest) -> ApiReply:
    """POST /stoker/v1/functions/{id}/deadletters/redrive ``{"calls": [...]}``: run them again; without calls: all.

    Each is a new call: ``calls`` has its id by that of the old one. At most `CALLS_MAX` at a time; ``more`` says
    whether there are others.
    """
    ids, more = await _chosen(service, request)
    calls = await service.detached.redrive(ids)
    return ApiReply(body={"redriven": len(calls), "calls": calls, "more": more})


async def purge(service: DetachedService, request: ApiRequest) -> ApiReply:
    """POST /stoker/v1/functions/{id}/deadletters/purge ``{"calls": [...]}``: delete them; without calls: all."""
    ids, more = await _chosen(service, request)
    purged = await service.database.write(lambda conn: records.purge(conn, ids))
    return ApiReply(body={"purged": purged, "more": more})


async def _chosen(service: DetachedService, request: ApiRequest) -> tuple[list[str], bool]:
    """The ids that a request means, all of this function; NotFound for one that is not there."""
    function = _function(service, request)
    asked = bodies.parse(request.body).get("calls") if request.body.strip() else None
    if asked is None:
        letters = await service.database.read(
            lambda conn: records.dead_letters(conn, function_ids=[function.id], limit=CALLS_MAX + 1)
        )
        return [letter.id for letter in letters[:CALLS_MAX]], len(letters) > CALLS_MAX
    if not isinstance(asked, list) or len(asked) > CALLS_MAX or not all(isinstance(one, str) for one in asked):
        raise BadRequest(f"calls: must be a list of up to {CALLS_MAX} call ids")
    ids: list[str] = list(dict.fromkeys(asked))

    def check(conn: sqlite3.Connection) -> None:
        for call_id in ids:
            if records.dead_letter(conn, call_id).function_id != function.id:
                raise NotFound(f"no dead letter {call_id[:64]} of function {function.name}")

    await service.database.read(check)
    return ids, False


def _function(service: DetachedService, request: ApiRequest) -> Function:
    function = service.catalog.function(request.params["id"])
    if function is None:
        raise NotFound("Fn not found")
    return function


def _form(service: DetachedService, letter: Letter) -> dict[str, Any]:
    function = service.catalog.function(letter.function_id)
    app = service.catalog.app(function.app_id) if function else None
    return {
        "call_id": letter.id,
        "app": app.name if app else "",
        "function": function.name if function else "",
        "function_id": letter.function_id,
        "accepted_at": rfc3339(letter.accepted_at),
        "ended_at": rfc3339(letter.ended_at),
        "age_s": round(max(0.0, time.time() - letter.ended_at / 1000), 3),
        "attempts": letter.attempts,
        "interruptions": letter.interruptions,
        "bytes": letter.size_bytes,
        "error": json.loads(letter.error) if letter.error else None,
        "caller": letter.caller or None,
        "redrive_of": letter.redrive_of or None,
    }


_READ, _UPDATE = perm.FUNCTION_READ.of_function("id"), perm.FUNCTION_UPDATE.of_function("id")
_BASE = "/stoker/v1/functions/{id}/deadletters"
ROUTES = [
    Route("GET", "/stoker/v1/detached", overview, perm.NODE_READ),
    Route("GET", "/stoker/v1/deadletters", list_all, perm.NODE_READ),
    Route("GET", "/stoker/v1/functions/{id}/detached", of_function, _READ),
    Route("GET", "/stoker/v1/functions/{id}/webhook-secret", webhook_secret, _UPDATE),
    Route("GET", _BASE, list_letters, _READ),
    Route("POST", f"{_BASE}/redrive", redrive, _UPDATE),
    Route("POST", f"{_BASE}/purge", purge, _UPDATE),
    # What a caller sent is more than what a function is: whoever may change the function may see it.
    Route("GET", f"{_BASE}/{{call_id}}", get_letter, _UPDATE),
]
