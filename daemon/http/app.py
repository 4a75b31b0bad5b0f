"""The control plane's root: one Quart-Trio application over the tables of routes (`fn_api`, `ops`).

Quart carries the bytes; which row answers, refusals and redirects are `daemon.http.routing`'s, so the tables run
without any framework in tests. The data plane's routes are answered here too, by the same endpoints, for a request that
comes on a connection which Hypercorn has already.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any
from urllib.parse import parse_qs

import trio
from quart import Response, request
from quart_trio import QuartTrio

from daemon import errors
from daemon.config import Http
from daemon.errors import StokerError
from daemon.http.handover import PEER_KEY
from daemon.http.messages import Reply, Request, error_reply
from daemon.http.messages import Route as CallRoute
from daemon.http.routing import Gate, Router
from daemon.http.views import ApiReply, ApiRequest, Route

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
QUERY_FIELDS_MAX = 64
"""Most fields of a query string."""
API_BODY_BYTES_MAX = 1024 * 1024
"""Largest body of a management request: far beyond the largest legal function."""


def make_app(
    tables: Iterable[tuple[Sequence[Route], Any]],
    calls: CallRoute,
    http: Http,
    *,
    url: str,
    log: Any,
    gate: Gate | None = None,
) -> QuartTrio:
    """The control plane as an ASGI application.

    ``tables``: rows with the service that their handlers get. ``calls``: the data plane's router.
    ``url``: where the TCP listener is reached, for the endpoints told to clients of the unix socket. ``gate``: who may
    do what.
    """
    router = Router(tables, gate)
    app = QuartTrio("stoker", static_folder=None)
    app.url_map.merge_slashes = False  # `//x` is not `/x`
    app.config["MAX_CONTENT_LENGTH"] = None  # each route has its own limit, below
    app.config["BODY_TIMEOUT"] = None
    app.config["RESPONSE_TIMEOUT"] = None

    async def everything(path: str = "") -> Response:
        try:
            target: bytes = request.scope["raw_path"]
            if endpoint := calls(request.method, target):
                return _from_reply(await endpoint(await _call_request(_target(), http)))
            return _from_api(await router.dispatch(await _api_request(router, http, url)))
        except StokerError as exc:
            return _from_reply(error_reply(exc))
        except Exception:
            log.exception("cannot answer", method=request.method, path=request.path)
            return _from_reply(error_reply(errors.InternalError()))

    app.add_url_rule("/", "root", everything, methods=METHODS, provide_automatic_options=False)
    app.add_url_rule("/<path:path>", "everything", everything, methods=METHODS, provide_automatic_options=False)
    return app


def _target() -> bytes:
    """Path and query as received."""
    path: bytes = request.scope["raw_path"]
    query: bytes = request.scope["query_string"]
    return path + b"?" + query if query else path


def _raw_headers() -> list[tuple[str, str]]:
    """As received: Quart would join what came twice."""
    return [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in request.scope["headers"]]


async def _call_request(target: bytes, http: Http) -> Request:
    headers = _raw_headers()
    body = await _body(http.body_bytes_max, http)
    return Request(
        method=request.method,
        target=target,
        headers=headers,
        body=body,
        host=request.headers.get("Host", ""),
        peer=_peer(),
    )


async def _api_request(router: Router, http: Http, url: str) -> ApiRequest:
    found = router.match(request.method, request.path)
    streams = found is not None and found.route.streams
    query = request.query_string.decode("latin-1")
    peer = _peer()
    # Through the unix socket the Host header says nothing about where functions can be called.
    here = url if peer.unix else f"{request.scheme}://{request.headers.get('Host', 'localhost')}"
    base_url = http.public_url.rstrip("/") or here
    return ApiRequest(
        method=request.method,
        path=request.path,
        query=_query(query),
        query_string=query,
        headers={name.lower(): value for name, value in request.headers.items()},
        body=b"" if streams else await _body(API_BODY_BYTES_MAX, http),
        chunks=_chunks(http) if streams else None,
        base_url=base_url,
        peer=peer,
        target=_target(),
        raw_headers=_raw_headers(),
    )


def _query(text: str) -> dict[str, list[str]]:
    try:
        return parse_qs(text, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX)
    except ValueError as exc:
        raise errors.BadRequest("bad query string", detail=f"at most {QUERY_FIELDS_MAX} fields are allowed") from exc


def _peer() -> Any:
    scope: Any = request.scope  # the member is ours, not ASGI's
    return scope[PEER_KEY]


async def _chunks(http: Http) -> AsyncIterator[bytes]:
    """The body as it comes.

    Raises:
      RequestTimeout: nothing came for ``http.body_s``.
    """
    body = aiter(request.body)
    while True:
        with trio.move_on_after(http.body_s) as limit:
            try:
                chunk = await anext(body)
            except StopAsyncIteration:
                return
        if limit.cancelled_caught:
            raise errors.RequestTimeout(detail=f"nothing came for {http.body_s:g} s")
        yield chunk


async def _body(bytes_max: int, http: Http) -> bytes:
    parts, size = [], 0
    async for chunk in _chunks(http):
        size += len(chunk)
        if size > bytes_max:
            raise errors.RequestTooLarge(detail=f"more than {bytes_max} bytes")
        parts.append(chunk)
    return b"".join(parts)


def _from_reply(reply: Reply) -> Response:
    response = Response(reply.body, status=reply.status)
    del response.headers["Content-Type"]
    for name, value in reply.headers:
        response.headers.add(name, value)
    return response


def _from_api(reply: ApiReply) -> Response:
    response = Response(reply.stream if reply.stream is not None else reply.encode(), status=reply.status)
    if (kind := reply.type()) is not None:
        response.headers["Content-Type"] = kind
    else:
        del response.headers["Content-Type"]
    for name, value in reply.headers:
        response.headers.add(name, value)
    return response
