"""Headers from the client to the function and back, exactly as the Fn server maps them. Pure.

Two ways in: ``/invoke`` (the function sees the client's headers; what it answers is the body of a 200) and an HTTP
trigger (the function sees an HTTP request folded into ``Fn-Http-*`` headers and decides the whole reply). Rules:
reference fn-contract 2.1 to 2.4; fn: api/server/runner_httptrigger.go, api/agent/agent.go. The function receives what
Fn's HTTP client would put on its socket, Go's additions included, since functions can see them.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NoReturn

from daemon.console.sessions import COOKIE, FORM_COOKIE
from daemon.errors import FunctionFailed, HandlerTimeout, InvalidResponse
from daemon.http.messages import Headers, Reply
from daemon.model import Answer

__all__ = ["invoke_headers", "invoke_reply", "trigger_headers", "trigger_reply"]

HOP_BY_HOP = frozenset(
    {
        "connection",
        "proxy-connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Dropped both ways, and ``te`` too unless it says trailers (fn: api/common/io_utils.go)."""
_NOT_TO_FUNCTION = HOP_BY_HOP | {"host", "content-length", "fn-call-id", "fn-deadline"}
_NOT_TO_TRIGGER = HOP_BY_HOP | {"host", "content-type"}
_OF_THE_ORIGIN = {"clear-site-data", "cross-origin-opener-policy", "service-worker-allowed"}
"""What speaks for a whole origin, the console's pages included, or puts a page into one window group with them."""
_NOT_TO_CLIENT = HOP_BY_HOP | {"content-length", "date", "fn-call-id", "te"} | _OF_THE_ORIGIN
"""What the front door sets itself, what would break its framing, and what one function must not say for all."""

_H = "fn-http-h-"
_is_name = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_bad_value = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]").search
_OUR_COOKIES = frozenset({COOKIE, FORM_COOKIE})
_sets_ours = re.compile(rf"[\s=]*(?:{COOKIE}|{FORM_COOKIE})\s*(?:[=;]|$)").match
"""Of a Set-Cookie value. The equals sign: a browser takes ``=a=b`` for a cookie without a name, and sends ``a=b``."""


def invoke_headers(headers: Headers, *, call_id: str, body: bytes) -> Headers:
    """What the function receives for ``POST /invoke``: ``headers`` (lower-case names) as Fn passes them on.

    Fn-Deadline is not among them: it is known when an instance is won.
    """
    out = _begin(body)
    agent = encoding = False
    for pair in headers:
        name, value = pair
        if name in _NOT_TO_FUNCTION or (name == "te" and value != "trailers"):
            continue
        if name == "user-agent":
            agent = True
        elif name == "accept-encoding":
            encoding = True
        elif name == "cookie":
            pair = (name, _without_ours(value))
            if value and not pair[1]:
                continue
        out.append(pair)
    return _finish(out, call_id, agent=agent, encoding=encoding)


def trigger_headers(headers: Headers, *, call_id: str, method: str, url: str, body: bytes) -> Headers:
    """What the function receives for an HTTP trigger: the request folded into ``Fn-Http-*`` headers.

    ``url`` is absolute, the query as sent.
    """
    out = _begin(body)
    for name, value in headers:
        if name == "content-type":
            out.append((name, value))
        elif name == "cookie":
            if (left := _without_ours(value)) or not value:
                out.append((_H + name, left))
        elif name not in _NOT_TO_TRIGGER and (name != "te" or value == "trailers"):
            out.append((_H + name, value))
    out.append(("fn-http-method", method))
    out.append(("fn-http-request-url", url))
    out.append(("fn-intent", "httprequest"))
    return _finish(out, call_id, agent=False, encoding=False)


def _without_ours(cookies: str) -> str:
    """A Cookie header without the console's: its pages have the origin of functions, and a function that was given its
    reader's session could act in his name."""
    if not any(name in cookies for name in _OUR_COOKIES):
        return cookies
    kept = [part for part in cookies.split(";") if part.partition("=")[0].strip() not in _OUR_COOKIES]
    return ";".join(kept).strip()


def _begin(body: bytes) -> Headers:
    # Go sends every body chunked, since it does not know its length, and says that an empty one is empty.
    return [("host", "localhost"), ("transfer-encoding", "chunked") if body else ("content-length", "0")]


def _finish(out: Headers, call_id: str, *, agent: bool, encoding: bool) -> Headers:
    out.append(("fn-call-id", call_id))
    if not agent:
        out.append(("user-agent", "Go-http-client/1.1"))
    if not encoding:
        out.append(("accept-encoding", "gzip"))
    return out


def invoke_reply(answer: Answer, *, call_id: str) -> Reply:
    """The client's reply to ``POST /invoke``: status 200 whatever the handler set, all of the function's headers.

    Raises:
      FunctionFailed, HandlerTimeout, InvalidResponse: the FDK's status says so.
    """
    if answer.status != 200:
        _refuse(answer.status)
    shown, typed = _shown(tuple(answer.headers))
    headers: Headers = [("Fn-Call-Id", call_id), *shown]
    if not typed and answer.body:
        headers.append(("Content-Type", sniffed_type(answer.body)))
    return Reply(200, headers, answer.body)


@lru_cache(maxsize=64)  # of at most limits.response_header_bytes_max each
def _shown(headers: tuple[tuple[str, str], ...]) -> tuple[Headers, bool]:
    """A function's headers as the client sees them, and whether Content-Type is among them."""
    found: Headers = []
    for name, value in headers:
        shown = canonical(name)
        if shown is None or _bad_value(value) or (shown == "Set-Cookie" and _sets_ours(value)):
            continue
        found.append((shown, value))
    return found, any(name == "Content-Type" for name, _ in found)


def trigger_reply(answer: Answer, *, call_id: str) -> Reply:
    """The client's reply from an HTTP trigger: status and headers are the function's, by ``Fn-Http-*``.

    Raises:
      FunctionFailed, HandlerTimeout, InvalidResponse: the FDK's status, or the function's own, says so.
    """
    if answer.status != 200:
        _refuse(answer.status)
    headers: Headers = [("Fn-Call-Id", call_id)]
    status, typed = 200, False
    for name, value in answer.headers:
        lower = name.lower()
        if lower.startswith(_H):
            lower = lower[len(_H) :]
        elif lower == "fn-http-status":
            status = _status(value)
            continue
        elif lower != "content-type":
            continue
        shown = canonical(lower)
        if shown is None or _bad_value(value) or (shown == "Set-Cookie" and _sets_ours(value)):
            continue
        if shown == "Content-Type":
            typed = True
        headers.append((shown, value))
    if not typed and answer.body:
        headers.append(("Content-Type", sniffed_type(answer.body)))
    return Reply(status, headers, answer.body)


def _refuse(status: int) -> NoReturn:
    if status == 502:
        raise FunctionFailed
    if status == 504:
        raise HandlerTimeout
    raise InvalidResponse(detail=f"status {status}; an FDK may answer 200, 502 or 504")


def _status(text: str) -> int:
    """The function's own status. 1xx would leave the client waiting for another one."""
    if not (text.isascii() and text.isdigit()) or int(text[:10]) == 0:
        return 200
    status = int(text[:10])
    if not 200 <= status <= 999:
        raise InvalidResponse(detail=f"Fn-Http-Status {status}; it must be 200 to 999")
    return status


@lru_cache(maxsize=1024)
def canonical(name: str) -> str | None:
    """A function's header name as the client sees it (``content-type`` -> ``Content-Type``), None: it is dropped."""
    if name.lower() in _NOT_TO_CLIENT or not _is_name(name):
        return None
    return "-".join(part[:1].upper() + part[1:].lower() for part in name.split("-"))


_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"%PDF-", "application/pdf"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"PK\x03\x04", "application/zip"),
    (b"\x1f\x8b\x08", "application/x-gzip"),
    (b"\x00asm", "application/wasm"),
)
_TAGS = rb"!DOCTYPE HTML|HTML|HEAD|SCRIPT|IFRAME|H1|DIV|FONT|TABLE|A|STYLE|TITLE|B|BODY|BR|P|!--"
_markup = re.compile(rb"[\t\n\x0c\r ]*<(?:" + _TAGS + rb")[ >]", re.IGNORECASE).match
_binary = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]").search


def sniffed_type(body: bytes) -> str:
    """A Content-Type for a body that came without: Go's net/http does this too, from the first 512 bytes.

    Source: WHATWG MIME Sniffing, sections 7.1 and 7.2; the common types only.
    """
    start = body[:512]
    for signature, kind in _SIGNATURES:
        if start.startswith(signature):
            return kind
    if start[:4] == b"RIFF" and start[8:14] == b"WEBPVP":
        return "image/webp"
    if _markup(start):
        return "text/html; charset=utf-8"
    if start.lstrip(b"\t\n\x0c\r ").startswith(b"<?xml"):
        return "text/xml; charset=utf-8"
    return "application/octet-stream" if _binary(start) else "text/plain; charset=utf-8"
