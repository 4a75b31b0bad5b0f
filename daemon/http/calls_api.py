"""Endpoints about calls that have ended: lists, one with its timeline, replays."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Protocol

from daemon.auth import permissions as perm
from daemon.catalog import Catalog
from daemon.errors import BadRequest, NotFound
from daemon.http.messages import Headers
from daemon.http.views import ApiReply, ApiRequest, Route
from daemon.model import Answer, Ids
from daemon.telemetry.calls import KINDS, CallRecord, form, summary_form
from daemon.telemetry.recorder import LIST_MAX, Question, Recorder, time_of

_AGO = re.compile(r"(\d{1,9})(ms|s|m|h|d|w)")
_AGO_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_BREAK = re.compile(r"[^!-~]")


class Invoker(Protocol):
    """What a replay needs."""

    async def invoke(
        self, function_id: str, *, call_id: str, headers: Headers, body: bytes, kind: str = "sync", caller: Any = None
    ) -> Answer:
        """Run one call. Raises StokerError."""
        ...


class CallsService:
    """What these endpoints need of the daemon."""

    def __init__(self, catalog: Catalog, recorder: Recorder, invoker: Invoker, ids: Ids) -> None:
        self.catalog, self.recorder, self.invoker, self.ids = catalog, recorder, invoker, ids


# -- query parameters


def point_in_time(text: str, name: str) -> float:
    """``15m``, ``2h``, ``7d`` ago, RFC 3339, or Unix seconds, as Unix time.

    Raises:
      BadRequest: none of these.
    """
    if found := _AGO.fullmatch(text):
        return time.time() - int(found[1]) * _AGO_S[found[2]]
    try:
        if text.replace(".", "", 1).isdecimal() and text.isascii() and len(text) < 20:
            return float(text)
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise BadRequest(
            f"{name}: must be a length of time such as 15m, 2h or 7d, or a time such as 2026-11-21T06:00:00Z, "
            f"not {text[:100]!r}"
        ) from None


def flag(request: ApiRequest, name: str) -> bool:
    """A yes-or-no parameter.

    Raises:
      BadRequest: neither.
    """
    text = request.first(name, "false").lower()
    if text not in ("true", "false", "1", "0"):
        raise BadRequest(f"{name}: must be true or false, not {text[:100]!r}")
    return text in ("true", "1")


def number(request: ApiRequest, name: str, default: int, lowest: int, highest: int) -> int:
    """A whole number.

    Raises:
      BadRequest: not one, or outside of its range.
    """
    text = request.first(name) or str(default)
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and lowest <= int(text) <= highest):
        raise BadRequest(f"{name}: must be a number from {lowest} to {highest}, not {text[:100]!r}")
    return int(text)


def one_of(request: ApiRequest, name: str, allowed: tuple[str, ...]) -> str:
    """One of some words, or empty.

    Raises:
      BadRequest: another word.
    """
    text = request.first(name)
    if text and text not in allowed:
        raise BadRequest(f"{name}: must be one of {', '.join(allowed)}, not {text[:100]!r}")
    return text


def readable(request: ApiRequest, function_id: str) -> bool:
    """Whether the caller may read a function: in lists over several, the others are left out."""
    return bool(request.access.may(perm.FUNCTION_READ.of_function(), function_id))


def visible(catalog: Catalog, request: ApiRequest) -> frozenset[str] | None:
    """The functions whose calls the caller may see; None: all, those of deleted ones as well."""
    if request.principal.may_everything:
        return None
    return frozenset(name for name in catalog.functions if readable(request, name))


def place(catalog: Catalog, request: ApiRequest) -> tuple[str, str]:
    """App id and function id of the parameters ``app`` and ``function``, names or ids; empty where not given.

    Raises:
      NotFound: there is no such app or function.
      BadRequest: the name of a function without its app.
    """
    app_text, function_text = request.first("app"), request.first("function")
    app = catalog.app_named(app_text) or catalog.app(app_text) if app_text else None
    if app_text and app is None:
        raise NotFound("App not found")
    if not function_text:
        return (app.id if app else "", "")
    found = catalog.function(function_text)
    if found is None and app is not None:
        found = next((f for f in catalog.functions_of(app.id) if f.name == function_text), None)
    elif found is None:
        raise BadRequest("function: the name of a function needs its app, too")
    if found is None or (app is not None and found.app_id != app.id):
        raise NotFound("Fn not found")
    return found.app_id, found.id


# -- handlers


async def list_calls(service: CallsService, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/calls: those that have ended, newest first. Parameters, all optional: ``app``, ``function`` (names
    or ids), ``failed``, ``error`` (a code), ``kind``, ``caller``, ``cold``, ``longer_s``, ``slow`` (the slowest
    twentieth of those that fit), ``since``, ``until`` (``15m``, ``2h``... ago, or a time), ``limit``, ``cursor``."""
    app_id, function_id = place(service.catalog, request)
    return await _listed(service, request, app_id, function_id)


async def list_function_calls(service: CallsService, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/functions/{id}/calls: the same of one function."""
    function = service.catalog.function(request.params["id"])
    if function is None:
        raise NotFound("Fn not found")
    return await _listed(service, request, function.app_id, function.id)


async def _listed(service: CallsService, request: ApiRequest, app_id: str, function_id: str) -> ApiReply:
    limit = number(request, "limit", 50, 1, LIST_MAX)
    until = request.first("until")
    cursor = request.first("cursor")
    question = Question(
        app_id=app_id if not function_id else "",
        function_id=function_id,
        visible=None if function_id else visible(service.catalog, request),
        failed=flag(request, "failed"),
        error=request.first("error"),
        kind=one_of(request, "kind", KINDS),
        caller=request.first("caller"),
        cold=flag(request, "cold"),
        longer_s=_seconds(request, "longer_s"),
        slow=flag(request, "slow"),
        since=point_in_time(request.first("since"), "since") if request.first("since") else 0.0,
        until=point_in_time(until, "until") if until else _before(cursor),
        before_id=cursor,
    )
    found = await service.recorder.find(question, limit=limit)
    items = [_with_app(service, record, summary_form(record)) for record in found.records]
    body: dict[str, Any] = {"items": items}
    if found.more and found.records:
        body["next_cursor"] = found.records[-1].id
    body["scanned"] = found.scanned
    if found.slow_s is not None:
        body["slow_s"] = round(found.slow_s, 6)
    return ApiReply(body=body)


def _before(cursor: str) -> float:
    return time_of(cursor) + 1.0 if cursor and time_of(cursor) else float("inf")


def _seconds(request: ApiRequest, name: str) -> float:
    text = request.first(name) or "0"
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise BadRequest(f"{name}: must be seconds, 0 or more, not {text[:100]!r}")
    return value


def _with_app(service: CallsService, record: CallRecord, shown: dict[str, Any]) -> dict[str, Any]:
    app = service.catalog.app(record.app_id)
    shown["app"] = app.name if app else None
    return shown


async def get_call(service: CallsService, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/functions/{id}/calls/{call_id}: one call with its phases and what to do next."""
    record = await _record(service, request)
    function = service.catalog.function(record.function_id)
    live = function.live if function else None
    shown = form(
        record, timeout_s=live.timeout_s if live else 0.0, memory_mib=live.memory_mib if live else 0
    )  # fmt: skip
    shown["replayable"] = await service.recorder.body(record.id) is not None
    return ApiReply(body=_with_app(service, record, shown))


async def find_call(service: CallsService, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/calls/{call_id}: the same, whichever function it was of."""
    return await get_call(service, request)


async def _record(service: CallsService, request: ApiRequest) -> CallRecord:
    call_id = request.params["call_id"]
    record = await service.recorder.get(call_id, at=time_of(call_id))
    function_id = request.params.get("id", "")
    if (
        record is None
        or (function_id and record.function_id != function_id)
        or not (function_id or readable(request, record.function_id))
    ):
        raise NotFound("Call not found", detail="it is not recorded (yet), or its record was too old")
    return record


async def replay(service: CallsService, request: ApiRequest) -> ApiReply:
    """POST /stoker/v1/functions/{id}/calls/{call_id}/replay: run a call again with the same headers and body, when the
    function's annotation ``stoker.dev/record-bodies`` was true. The reply is what the function answers. It takes
    the right to call the function and the right to see its calls."""
    function_id = request.params["id"]
    # The answer may tell what the request was, which perhaps somebody else sent: it is for who may see calls.
    request.access.require(perm.FUNCTION_READ.of_function(), function_id)
    kept = await service.recorder.body(request.params["call_id"])
    if kept is None or kept[0] != function_id:
        raise NotFound(
            "the request of this call was not recorded",
            detail="its annotation stoker.dev/record-bodies must be true; records.bodies_bytes_max bounds them",
        )
    _, headers, body = kept
    call_id = service.ids.new()
    again = [(name, call_id if name.lower() == "fn-call-id" else value) for name, value in headers]
    answer = await service.invoker.invoke(
        function_id, call_id=call_id, headers=again, body=body, caller=request.peer if not request.principal.id else
        request.principal,
    )  # fmt: skip
    shown = [(name, value) for name, value in answer.headers if name.lower() == "content-type"]
    return ApiReply(
        status=answer.status,
        stream=_once(answer.body),
        content_type=(shown[0][1] if shown else "application/octet-stream"),
        headers=[("Fn-Call-Id", call_id), ("Stoker-Replay-Of", _BREAK.sub("", request.params["call_id"]))],
    )


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def counted(service: CallsService, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/records: how many calls are recorded, since when, how many were dropped."""
    return ApiReply(body=await service.recorder.counted())


ROUTES = [
    Route("GET", "/stoker/v1/calls", list_calls, perm.FUNCTION_READ.somewhere()),
    Route("GET", "/stoker/v1/calls/{call_id}", find_call, perm.FUNCTION_READ.somewhere()),
    Route("GET", "/stoker/v1/records", counted, perm.NODE_READ),
    Route("GET", "/stoker/v1/functions/{id}/calls", list_function_calls, perm.FUNCTION_READ.of_function("id")),
    Route("GET", "/stoker/v1/functions/{id}/calls/{call_id}", get_call, perm.FUNCTION_READ.of_function("id")),
    Route("POST", "/stoker/v1/functions/{id}/calls/{call_id}/replay", replay, perm.INVOKE.of_function("id")),
]
