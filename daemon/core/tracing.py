"""Traces of calls: what came with a request, what the function is given, the spans of a call. Pure.

Read are W3C Trace Context (``traceparent``), B3 in one header and B3 in several; given to the function are both, with
the ids of the same span, so that what it does becomes a child of its handler's span. In a trigger's call the client's
headers come as ``fn-http-h-...``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Headers = Sequence[tuple[str, str]]

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_B3 = re.compile(r"([0-9a-f]{32}|[0-9a-f]{16})-([0-9a-f]{16})(?:-([01d]))?(?:-[0-9a-f]{16})?")
_ID = re.compile(r"[0-9a-f]{32}|[0-9a-f]{16}")
_H = "fn-http-h-"
_OURS = frozenset(
    {"traceparent", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """The trace that a caller sent."""

    trace_id: str
    """32 or 16 lower-case hexadecimal digits."""
    span_id: str
    """16 digits; empty: a trace without a span yet."""
    sampled: bool | None
    """None: it left that to us."""
    debug: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The trace of one call."""

    trace_id: str
    parent_id: str
    """The caller's span, or empty."""
    span_id: str
    """Of the whole call."""
    handler_id: str
    """Of the function's part of it."""
    sampled: bool

    @property
    def traceparent(self) -> str:
        """W3C's header, naming the handler's span."""
        return f"00-{self.trace_id.zfill(32)}-{self.handler_id}-{'01' if self.sampled else '00'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One span, ready to be sent in any form."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    service: str
    begin_s: float
    """Unix time."""
    length_s: float
    server: bool = False
    """The span of the whole call."""
    error: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)


def parent_of(headers: Headers) -> Parent | None:
    """The trace that came with a call; None: none, or one that cannot be read."""
    found: dict[str, str] = {}
    for name, value in headers:
        plain = name.removeprefix(_H)
        if plain in _OURS and (plain not in found or name != plain):
            found[plain] = value.strip().lower()
    if (match := _TRACEPARENT.fullmatch(found.get("traceparent", ""))) is not None:
        version, trace_id, span_id, flags, rest = match.groups()
        if version != "ff" and (version != "00" or rest is None) and int(trace_id, 16) and int(span_id, 16):
            return Parent(trace_id=trace_id, span_id=span_id, sampled=bool(int(flags, 16) & 1))
    if "b3" in found:
        return _from_b3(found["b3"])
    trace_id, span_id = found.get("x-b3-traceid", ""), found.get("x-b3-spanid", "")
    if not _ID.fullmatch(trace_id) or not int(trace_id, 16):
        return None
    if len(span_id) != 16 or not _ID.fullmatch(span_id):
        span_id = ""
    debug = found.get("x-b3-flags") == "1"
    sampled = {"1": True, "true": True, "0": False, "false": False}.get(found.get("x-b3-sampled", ""))
    return Parent(trace_id=trace_id, span_id=span_id, sampled=True if debug else sampled, debug=debug)


def _from_b3(text: str) -> Parent | None:
    match = _B3.fullmatch(text)
    if match is None or not int(match[1], 16) or not int(match[2], 16):
        return None
    flag = match[3]
    return Parent(trace_id=match[1], span_id=match[2], sampled=None if flag is None else flag != "0", debug=flag == "d")


def with_trace(headers: Headers, context: Context) -> list[tuple[str, str]]:
    """The headers that the function gets: the caller's trace replaced by the call's."""
    out = [(name, value) for name, value in headers if name.removeprefix(_H) not in _OURS]
    # Without prefix in a trigger's call too: that is where FDKs look, and a handler sees these among the client's.
    out += [
        ("traceparent", context.traceparent),
        ("x-b3-traceid", context.trace_id),
        ("x-b3-spanid", context.handler_id),
        ("x-b3-parentspanid", context.span_id),
        ("x-b3-sampled", "1" if context.sampled else "0"),
    ]
    return out


# ---- the two forms in which spans are sent


def zipkin(spans: Sequence[Span]) -> list[dict[str, Any]]:
    """Zipkin's JSON, version 2 (zipkin-api: zipkin2-api.yaml)."""
    made = []
    for span in spans:
        tags = {name: _text(value) for name, value in span.attributes.items()}
        if span.error:
            tags["error"] = span.error
        form: dict[str, Any] = {
            "traceId": span.trace_id,
            "id": span.span_id,
            "name": span.name,
            "timestamp": int(span.begin_s * 1e6),
            "duration": max(1, round(span.length_s * 1e6)),
            "localEndpoint": {"serviceName": span.service},
            "tags": tags,
        }
        if span.parent_id:
            form["parentId"] = span.parent_id
        if span.server:
            form["kind"] = "SERVER"
        made.append(form)
    return made


def otlp(spans: Sequence[Span], *, version: str) -> dict[str, Any]:
    """OTLP's JSON (opentelemetry-proto: collector/trace/v1, JSON mapping: ids in hexadecimal)."""
    services: dict[str, list[dict[str, Any]]] = {}
    for span in spans:
        begin_ns = int(span.begin_s * 1e9)
        form: dict[str, Any] = {
            "traceId": span.trace_id.zfill(32),
            "spanId": span.span_id,
            "parentSpanId": span.parent_id,
            "name": span.name,
            "kind": 2 if span.server else 1,
            "startTimeUnixNano": str(begin_ns),
            "endTimeUnixNano": str(begin_ns + max(0, round(span.length_s * 1e9))),
            "attributes": _attributes(span.attributes),
            "status": {"code": 2, "message": span.error} if span.error else {},
        }
        services.setdefault(span.service, []).append(form)
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes({"service.name": service, "telemetry.sdk.name": "stoker"})},
                "scopeSpans": [{"scope": {"name": "stoker", "version": version}, "spans": forms}],
            }
            for service, forms in services.items()
        ]
    }


def _attributes(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": name, "value": _value(value)} for name, value in values.items()]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    return {"stringValue": str(value)}


def _text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
