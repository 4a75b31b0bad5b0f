"""Stoker's own API but for identity: what its operations take and give."""

from __future__ import annotations

from daemon.bundles.interpreters import Interpreter
from daemon.core.pcu import PcuStatus
from daemon.http.openapi.words import (
    BYTES,
    COUNT,
    COUNTS,
    FLAG,
    NUMBER,
    TEXT,
    TEXTS,
    TIME,
    WHATEVER,
    WHOLE,
    Op,
    Parameter,
    Schema,
    given,
    items,
    many,
    maybe,
    of,
    one_of,
    ref,
    taken,
    text,
    whole,
)
from daemon.http.ops import Connections, InstanceInfo, StartMode
from daemon.logs.lines import LEVELS as LOG_LEVELS
from daemon.sandbox.doctor import LEVELS, Fact

_LENGTHS = ("queue_s", "start_s", "handler_s", "write_s", "total_s")
_DIGEST = text(pattern="^sha256:[0-9a-f]{64}$")
_CALL: dict[str, Schema] = {
    "id": TEXT, "at": TIME, "app_id": TEXT, "app": maybe(TEXT), "function_id": TEXT, "function": TEXT,
    "version": WHOLE, "instance": maybe(WHOLE), "kind": TEXT, "start_kind": maybe(TEXT), "status": WHOLE,
    "error": maybe(TEXT), "fault": TEXT, "detail": TEXT, **dict.fromkeys(_LENGTHS, NUMBER), "bytes_in": COUNT,
    "bytes_out": COUNT, "cpu_s": maybe(NUMBER), "memory_bytes": maybe(COUNT), "caller": maybe(TEXT),
}  # fmt: skip
_STORED_ERROR = given(
    {"message": TEXT, "code": TEXT, "detail?": TEXT, "call_id?": TEXT, "fault": TEXT, "status": WHOLE}
)
_LETTER: dict[str, Schema] = {
    "call_id": TEXT, "app": TEXT, "function": TEXT, "function_id": TEXT, "accepted_at": TIME, "ended_at": TIME,
    "age_s": NUMBER, "attempts": COUNT, "interruptions": COUNT, "bytes": COUNT, "error": maybe(_STORED_ERROR),
    "caller": maybe(TEXT), "redrive_of": maybe(TEXT),
}  # fmt: skip
_QUANTILES = given(
    {"count": COUNT, "mean_s": NUMBER, "p50_s": maybe(NUMBER), "p95_s": maybe(NUMBER), "p99_s": maybe(NUMBER)},
    open_=True,
)
_ADVISED = given({"count": COUNT, "cold": COUNT, "removed": NUMBER, "bytes": COUNT, "reserved_mib": COUNT})

SCHEMAS: dict[str, Schema] = {
    "Bundle": given(
        {
            "image?": TEXT, "images?": many(TEXT), "digest": _DIGEST, "packed_bytes": COUNT, "unpacked_bytes": COUNT,
            "files": COUNT, "runtime": TEXT, "handler": TEXT, "expects": many(TEXT), "layer": TEXT,
            "created_at": TIME, "created?": FLAG,
            "deployed?": many(
                given({"function_id": TEXT, "function": TEXT, "message?": TEXT, "code?": TEXT, "detail?": TEXT})
            ),
        }
    ),
    "Layer": given(
        {"digest": _DIGEST, "packed_bytes": COUNT, "unpacked_bytes": COUNT, "files": COUNT, "created_at": TIME}
    ),
    "Version": given(
        {
            "number": COUNT, "image": TEXT, "digest": TEXT, "memory": COUNT, "timeout": COUNT, "idle_timeout": COUNT,
            "state": TEXT, "error": TEXT, "created_at": TIME, "live": FLAG,
        }
    ),
    "Status": given(
        {
            "id": TEXT, "name": TEXT, "app_id": TEXT, "app": TEXT, "version": ref("Version"), "start": of(StartMode),
            "sandbox": given({"level": one_of(*LEVELS), "missing": many(TEXT)}),
            "network": given({"mode": TEXT}, open_=True),
            "pool": maybe(
                given(
                    {
                        "instances": COUNTS, "queue": COUNT, "memory_mib": COUNT, "first_calls": COUNTS,
                        "reuses": COUNT, "deploying": FLAG, "start_error": TEXT, "pcu": of(PcuStatus),
                    }
                )
            ),
        }
    ),
    "Instance": of(InstanceInfo),
    "Call": given(_CALL),
    "CallWithPhases": given(
        {
            **_CALL, "phases": many(given({"name": TEXT, "begin_s": NUMBER, "length_s": NUMBER})),
            "advice": many(TEXT), "replayable": FLAG,
        }
    ),
    "LogLine": given(
        {
            "at": TIME, "function_id": TEXT, "function": maybe(TEXT), "app": maybe(TEXT), "call_id": TEXT,
            "stream": TEXT, "line": TEXT,
        },
        open_=True,
    ),
    "Point": given(
        {
            "at": NUMBER, "calls": COUNT, "ok": COUNT, "failed": COUNTS, "errors": COUNTS, "starts": COUNTS,
            "cold": COUNT,
            "latency": given(dict.fromkeys(("total", "queue", "start", "handler"), maybe(_QUANTILES))),
            "cpu_s": NUMBER, "bytes_in": COUNT, "bytes_out": COUNT,
            "gauges": {
                "type": "object",
                "additionalProperties": given({"mean": NUMBER, "max": NUMBER, "last": NUMBER}),
            },
        }
    ),
    "DeadLetter": given(_LETTER),
    "DeadLetterWithContent": given(
        {**_LETTER, "headers": many(given({"name": TEXT, "value": TEXT})), "body": TEXT}
    ),
}  # fmt: skip

_TEXT_AS = ("text/plain",)
_NDJSON, _SSE = ("application/x-ndjson",), ("text/event-stream",)
_FN = "/stoker/v1/functions/{id}"
_SINCE = Parameter("since", TEXT, "``15m``, ``2h``, ``7d`` ago, RFC 3339, or seconds since the epoch")
_UNTIL = Parameter("until", TEXT, "the same")
_FLAG = {"enum": ["true", "false", "1", "0"]}
_PLACE = (
    Parameter("app", TEXT, "name or id"),
    Parameter("function", TEXT, "name (then the app too) or id"),
)
_CALLS = (
    Parameter("failed", _FLAG), Parameter("error", TEXT, "a code"), Parameter("kind", TEXT),
    Parameter("caller", TEXT), Parameter("cold", _FLAG), Parameter("longer_s", {"type": "number", "minimum": 0}),
    Parameter("slow", _FLAG, "the slowest twentieth of those that fit"), _SINCE, _UNTIL,
    Parameter("limit", whole(1, 1000), "50 without"), Parameter("cursor", TEXT),
)  # fmt: skip
_LOGS = (
    Parameter("call", TEXT, "of this call"), Parameter("text", TEXT, "that is in the line"),
    Parameter("ignore_case", _FLAG), Parameter("level", one_of(*LOG_LEVELS), "this one and graver"),
    Parameter("stream", one_of("stdout", "stderr", "platform")), _SINCE, _UNTIL,
)  # fmt: skip
_LINES = Parameter("limit", whole(1, 10_000), "100 without")
_TAIL = Parameter("tail", whole(0, 10_000), "how many old lines come first")
_SERIES = (_SINCE, _UNTIL, Parameter("step", one_of("auto", "1", "60", "3600"), "seconds"))
_LETTERS = (Parameter("cursor", TEXT), Parameter("limit", whole(1, 100), "100 without"))
_FOUND = given({"items": many(ref("Call")), "next_cursor?": TEXT, "scanned": COUNT, "slow_s?": NUMBER})
_SEARCHED = given({"items": many(ref("LogLine")), "complete": FLAG})
_SERIES_FORM = given({"step_s": COUNT, "points": many(ref("Point"))})
_CHOICE = taken({"calls?": {"type": "array", "items": TEXT, "maxItems": 1000}})
_ZIP = ("application/zip", "application/octet-stream")

OPERATIONS: dict[tuple[str, str], Op] = {
    ("GET", "/health"): Op(
        gives=given({"status": one_of("ok", "draining"), "version": TEXT, "uptime_s": NUMBER, "sandbox": TEXT}),
        also=(503,),
    ),
    ("GET", "/metrics"): Op(gives=TEXT, answers_as=_TEXT_AS),
    ("GET", "/stoker/v1/stats"): Op(
        gives=given(
            {
                "version": TEXT, "uptime_s": NUMBER, "draining": FLAG, "apps": COUNT, "functions": COUNT,
                "memory": given({"limit_mib": COUNT, "reserved_mib": COUNT}), "instances": COUNTS, "templates": COUNT,
                "waiting": COUNT, "calls": COUNTS, "starts": COUNTS,
                "latency": given({"calls": COUNT, **dict.fromkeys(("p50_s", "p95_s", "p99_s"), maybe(NUMBER))}),
                "connections": of(Connections), "log_dropped_bytes": COUNT,
            }
        )
    ),
    ("GET", "/stoker/v1/runtimes"): Op(gives=items(of(Interpreter))),
    ("GET", "/stoker/v1/doctor"): Op(
        gives=given(
            {"level": one_of(*LEVELS), "facts": many(of(Fact)), "floor": one_of(*LEVELS), "met": FLAG}
        )
    ),
    ("GET", "/stoker/v1/instances"): Op(
        gives=items(ref("Instance")), parameters=(Parameter("app", TEXT), Parameter("function", TEXT))
    ),
    # bundles
    ("GET", "/stoker/v1/layers/{digest}"): Op(gives=given({"digest": _DIGEST})),
    ("PUT", "/stoker/v1/layers/{digest}"): Op(
        gives=ref("Layer"), takes=BYTES, takes_as=_ZIP, refuses=(409, 422, 507)
    ),
    ("GET", "/stoker/v1/bundles"): Op(gives=items(ref("Bundle")), parameters=(Parameter("name", TEXT),)),
    ("GET", "/stoker/v1/bundles/{digest}"): Op(gives=ref("Bundle")),
    ("PUT", "/stoker/v1/bundles/{image}"): Op(
        gives=ref("Bundle"), takes=BYTES, takes_as=_ZIP, may_be_empty=True, refuses=(409, 422, 507),
        parameters=(Parameter("digest", TEXT, "instead of a body: a further name for a bundle that is here"),),
    ),
    ("DELETE", "/stoker/v1/bundles/{image}"): Op(status=204, refuses=(409,)),
    # functions
    ("GET", _FN): Op(gives=ref("Status")),
    ("GET", f"{_FN}/versions"): Op(gives=items(ref("Version"))),
    ("POST", f"{_FN}/rollback"): Op(
        gives=ref("Status"), takes=taken({"version?": whole(1, 2**31 - 1)}), may_be_empty=True, refuses=(409, 422, 503)
    ),
    ("POST", f"{_FN}/restart"): Op(gives=given({"retired": COUNT})),
    ("GET", f"{_FN}/logs"): Op(
        gives=TEXT, answers_as=_NDJSON,
        parameters=(Parameter("call", TEXT), Parameter("tail", whole(0, 10_000)), Parameter("follow", _FLAG)),
    ),
    # calls
    ("GET", "/stoker/v1/calls"): Op(gives=_FOUND, parameters=(*_PLACE, *_CALLS), refuses=(409,)),
    ("GET", "/stoker/v1/calls/{call_id}"): Op(gives=ref("CallWithPhases"), refuses=(409,)),
    ("GET", "/stoker/v1/records"): Op(
        gives=given(
            {
                "calls": COUNT, "bytes": COUNT, "oldest": maybe(NUMBER), "bodies": COUNT, "body_bytes": COUNT,
                "dropped": COUNT, "dropped_bodies": COUNT,
            }
        ),
        refuses=(409,),
    ),
    ("GET", f"{_FN}/calls"): Op(gives=_FOUND, parameters=_CALLS, refuses=(409,)),
    ("GET", f"{_FN}/calls/{{call_id}}"): Op(gives=ref("CallWithPhases"), refuses=(409,)),
    ("POST", f"{_FN}/calls/{{call_id}}/replay"): Op(
        gives=WHATEVER, answers_as=("*/*",), refuses=(409, 429, 502, 503, 504)
    ),
    # logs
    ("GET", "/stoker/v1/logs/destinations"): Op(
        gives=given(
            {
                "items": many(
                    given({"url": TEXT, "sent": COUNT, "dropped": COUNT, "queued": COUNT, "error": maybe(TEXT)})
                ),
                "sent": COUNT, "dropped": COUNT,
            }
        )
    ),
    ("GET", "/stoker/v1/logs"): Op(gives=_SEARCHED, parameters=(*_PLACE, *_LOGS, _LINES)),
    ("GET", "/stoker/v1/logs/stream"): Op(gives=TEXT, answers_as=_SSE, parameters=(*_PLACE, *_LOGS, _TAIL)),
    ("GET", f"{_FN}/logs/search"): Op(gives=_SEARCHED, parameters=(*_LOGS, _LINES)),
    ("GET", f"{_FN}/logs/stream"): Op(gives=TEXT, answers_as=_SSE, parameters=(*_LOGS, _TAIL)),
    # series
    ("GET", "/stoker/v1/series"): Op(gives=_SERIES_FORM, parameters=_SERIES, refuses=(409,)),
    ("GET", "/stoker/v1/metrics/oci"): Op(
        gives=given(
            {
                "namespace": one_of("oci_faas"),
                "items": many(given({"name": TEXT, "dimensions": TEXTS, "value": NUMBER, "unit": TEXT})),
            }
        )
    ),
    ("GET", f"{_FN}/series"): Op(gives=_SERIES_FORM, parameters=_SERIES, refuses=(409,)),
    ("GET", f"{_FN}/summary"): Op(
        gives=given({"since": NUMBER, "until": NUMBER, "total": ref("Point")}), parameters=(_SINCE,), refuses=(409,)
    ),
    ("GET", f"{_FN}/advice"): Op(
        gives=given(
            {
                "function_id": TEXT, "since": NUMBER, "until": NUMBER, "calls": COUNT, "complete": FLAG,
                "cold_recorded": COUNT, "cold_start_s": maybe(NUMBER), "cold_without_floor": COUNT, "peak": COUNT,
                "idle_timeout_s": COUNT, "instance_bytes": COUNT, "memory_mib": COUNT, "present": COUNT,
                "goal": NUMBER, "best": _ADVISED, "recommended": _ADVISED, "curve": many(_ADVISED), "text": TEXT,
            }
        ),
        parameters=(_SINCE, Parameter("goal", {"type": "number", "exclusiveMinimum": 0, "maximum": 1})),
        refuses=(409,),
    ),
    # debugging
    ("POST", f"{_FN}/debug"): Op(
        gives=TEXT, answers_as=_NDJSON, refuses=(409, 429, 502, 503),
        parameters=(Parameter("port", whole(0, 65535), "where editors attach; 0: any"),),
    ),
    # detached calls
    ("GET", "/stoker/v1/detached"): Op(
        gives=given(
            {
                "waiting": COUNT, "running": COUNT, "bytes": COUNT, "oldest_s": maybe(NUMBER), "accepted": COUNT,
                "refused": COUNT, "dead_letters": COUNT, "dead_letter_bytes": COUNT, "deliveries_pending": COUNT,
                "limits": given({"calls": COUNT, "bytes": COUNT}),
            }
        )
    ),
    ("GET", f"{_FN}/detached"): Op(
        gives=given(
            {
                "timeout": COUNT, "on_success": given({"kind": TEXT}, open_=True),
                "on_failure": given({"kind": TEXT}, open_=True), "attempts": COUNT, "backoff_s": NUMBER,
                "backoff_s_max": NUMBER, "waiting": COUNT, "running": COUNT, "dead_letters": COUNT,
                "dead_letter_bytes": COUNT,
            }
        )
    ),
    ("GET", f"{_FN}/webhook-secret"): Op(gives=given({"secret": TEXT})),
    ("GET", "/stoker/v1/deadletters"): Op(gives=items(ref("DeadLetter"), cursor=True), parameters=_LETTERS),
    ("GET", f"{_FN}/deadletters"): Op(gives=items(ref("DeadLetter"), cursor=True), parameters=_LETTERS),
    ("GET", f"{_FN}/deadletters/{{call_id}}"): Op(gives=ref("DeadLetterWithContent")),
    ("POST", f"{_FN}/deadletters/redrive"): Op(
        gives=given({"redriven": COUNT, "calls": TEXTS, "more": FLAG}), takes=_CHOICE, may_be_empty=True, refuses=(429,)
    ),
    ("POST", f"{_FN}/deadletters/purge"): Op(
        gives=given({"purged": COUNT, "more": FLAG}), takes=_CHOICE, may_be_empty=True
    ),
}  # fmt: skip
