"""What every answer of the OCI API has in common: ``opc-request-id``, and errors as OCI tells them.

Whatever refuses a request (the gate, the router, a handler, a limit) tells it in our form; at the edge, for OCI's
paths alone, it is put into OCI's words: ``{"code", "message"}`` with the code of `daemon.errors` (reference oci-api
1.8, 2.5).
"""

from __future__ import annotations

import json
import re
import secrets
from typing import Any

from daemon import errors
from daemon.errors import StokerError
from daemon.http.messages import Reply
from daemon.http.views import JSON_TYPE, ApiReply

VERSIONS = ("20181201", "20260325")
REQUEST_ID = "opc-request-id"
OCI_CODES = {error.code: error.oci_code for error in errors.leaves()}
PATH_NOT_FOUND = "NotFound"
_PATH = re.compile(rb"/{1,2}(?:20181201|20260325)/")
_SENT_ID = re.compile(r"[!-~]{1,200}")
"""What is echoed of a client's own id."""
DETAIL_CHARS_MAX = 8000
"""Longest detail (a traceback) in a message."""


def is_oci(target: bytes) -> bool:
    """Whether a path, as received, is one of the OCI API."""
    return _PATH.match(target) is not None


def is_oci_path(path: str) -> bool:
    """The same for a decoded path."""
    return _PATH.match(path.encode("utf-8", "replace")) is not None


def request_id(sent: str) -> str:
    """The id of a request: the client's own, if it sent one, then ours (``in/HEX32/HEX32``, as OCI has it)."""
    first = sent if _SENT_ID.fullmatch(sent) else secrets.token_hex(16).upper()
    return f"{first.partition('/')[0]}/{secrets.token_hex(16).upper()}/{secrets.token_hex(16).upper()}"


def oci_error(status: int, code: str, text: str, sent_id: str, headers: list[tuple[str, str]]) -> ApiReply:
    """An error in OCI's form."""
    kept = [(name, value) for name, value in headers if name.lower() not in ("content-type", REQUEST_ID)]
    return ApiReply(
        status=status, body={"code": code, "message": text}, headers=[*kept, (REQUEST_ID, request_id(sent_id))]
    )


def dressed(reply: ApiReply, sent_id: str) -> ApiReply:
    """A reply of the control plane as OCI's clients expect it."""
    body = reply.body
    if reply.status >= 400 and isinstance(body, dict) and "message" in body:
        return oci_error(reply.status, *_told(reply.status, body), sent_id, reply.headers)
    if not any(name == REQUEST_ID for name, _ in reply.headers):
        reply.headers.append((REQUEST_ID, request_id(sent_id)))
    return reply


def _told(status: int, body: dict[str, Any]) -> tuple[str, str]:
    """Code and message of an error in our form."""
    message, detail = str(body["message"]), str(body.get("detail", ""))[:DETAIL_CHARS_MAX]
    code = "PayloadTooLarge" if status == 413 else OCI_CODES.get(str(body.get("code")), "InternalServerError")
    if status == 404 and message.startswith("Path not found"):
        code = PATH_NOT_FOUND
    return code, f"{message}: {detail}" if detail else message


def error_reply(error: StokerError, sent_id: str) -> Reply:
    """An error on the way of a call (the data plane)."""
    _, text = _told(error.status, error.to_json())
    code = error.oci_code
    headers = [("Content-Type", JSON_TYPE), (REQUEST_ID, sent_id)]
    if error.call_id:
        headers.append(("Fn-Call-Id", error.call_id))
    if error.retry_after_s is not None:
        headers.append(("Retry-After", str(error.retry_after_s)))
    return Reply(error.status, headers, json.dumps({"code": code, "message": text}, ensure_ascii=False).encode())


def refusal(error: StokerError, sent_id: str) -> Reply:
    """The same for one that was refused before it was known whose call it is."""
    return error_reply(error, request_id(sent_id))
