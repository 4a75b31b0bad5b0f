"""The record of a finished detached call, as its destination gets it: a CloudEvents 1.0 JSON object. Pure.

The layout is described in docs/reference/invocation-record.md; members are only ever added.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from daemon.errors import StokerError
from daemon.model import Answer, App, Function

TYPES = {"success": "dev.stoker.function.succeeded", "failure": "dev.stoker.function.failed"}
CONTENT_TYPE = "application/cloudevents+json"
DETAIL_CHARS_MAX = 4096

Headers = Sequence[tuple[str, str]]


def invocation_record(
    app: App,
    function: Function,
    *,
    call_id: str,
    attempts: int,
    accepted_at: int,
    began_at: int,
    ended_at: int,
    headers: Headers,
    body: bytes,
    answer: Answer | None,
    error: StokerError | None,
    payload_bytes_max: int,
) -> dict[str, Any]:
    """The record. Times are milliseconds since the epoch, ``began_at`` 0 for a call that never ran."""
    outcome = "success" if error is None else "failure"
    record: dict[str, Any] = {
        "specversion": "1.0",
        "id": f"{call_id}.{outcome}",
        "source": f"/apps/{app.name}/functions/{function.name}",
        "type": TYPES[outcome],
        "subject": call_id,
        "time": rfc3339(ended_at),
        "datacontenttype": "application/json",
    }
    if trace := _first(headers, "traceparent"):
        record["traceparent"] = trace
    record["data"] = {
        "applicationId": app.id,
        "applicationName": app.name,
        "functionId": function.id,
        "functionName": function.name,
        "functionVersion": function.live.number,
        "callId": call_id,
        "redriveOf": _first(headers, "stoker-redrive-of") or None,
        "invokeType": "detached",
        "status": outcome,
        "attempts": attempts,
        "acceptedAt": rfc3339(accepted_at),
        "startedAt": rfc3339(began_at) if began_at else None,
        "endedAt": rfc3339(ended_at),
        "error": None if error is None else _error(error),
        "request": payload(_first(headers, "content-type"), body, payload_bytes_max),
        "response": None
        if answer is None
        else payload(_first(answer.headers, "content-type"), answer.body, payload_bytes_max),
    }
    return record


def payload(content_type: str, body: bytes, bytes_max: int) -> dict[str, Any]:
    """A body in a record: text as it is, anything else in base64, cut at ``bytes_max``."""
    form: dict[str, Any] = {"contentType": content_type, "bytes": len(body), "truncated": len(body) > bytes_max}
    kept = body[:bytes_max]
    try:
        # A cut in the middle of a character is not binary data.
        form["body"] = _cut_text(kept) if form["truncated"] else kept.decode("utf-8")
    except UnicodeDecodeError:
        form["bodyBase64"] = base64.b64encode(kept).decode()
    return form


def _cut_text(kept: bytes) -> str:
    for back in range(4):
        try:
            return kept[: len(kept) - back].decode("utf-8")
        except UnicodeDecodeError:
            continue
    return kept.decode("utf-8")  # raises: it was not text


def encode(record: dict[str, Any]) -> str:
    """As it is stored and sent."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"))


def rfc3339(at_ms: int) -> str:
    """Milliseconds since the epoch in UTC."""
    return f"{datetime.fromtimestamp(at_ms // 1000, UTC):%Y-%m-%dT%H:%M:%S}.{at_ms % 1000:03d}Z"


def _error(error: StokerError) -> dict[str, Any]:
    return {
        "code": error.code,
        "message": error.message,
        "detail": error.detail[-DETAIL_CHARS_MAX:],
        "fault": error.fault,
        "status": error.status,
    }


def _first(headers: Headers, name: str) -> str:
    return next((value for key, value in headers if key.lower() == name), "")
