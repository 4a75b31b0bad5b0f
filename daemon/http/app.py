"""The control plane's root: one Quart-Trio application over the tables of routes (`fn_api`, `ops`).

Quart carries the bytes; which row answers, refusals and redirects are `daemon.http.routing`'s, so the tables run
without any framework in tests. The data plane's routes are answered here too, by the same endpoints, for a request that
comes on a connection which Hypercorn has already.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any, cast
from urllib.parse import parse_qs

import trio
from quart import Response, request
from quart_trio import QuartTrio

from daemon import errors
from daemon.config.settings import Http
from daemon.errors import StokerError
from daemon.http import views
from daemon.http.flow import FLOW_KEY, Flow, Held, paced
from daemon.http.handover import PEER_KEY
from daemon.http.messages import Reply, Request
from daemon.http.messages import Route as CallRoute
from daemon.http.oci_replies import REQUEST_ID, dressed, is_oci_path
from daemon.http.routing import Gate, Router
from daemon.http.views import ApiReply, ApiRequest, Route

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
QUERY_FIELDS_MAX = 64
"""Most fields of a query string."""
API_BODY_BYTES_MAX = 1024 * 1024
"""Largest body of a management request: far beyond the largest legal function."""


DROP_S, DROP_BYTES_MAX = 1.0, 2**20
"""For how long, and how much of, the body of a stranger's request is read, and thrown away, before he is refused."""
LARGE_BODIES_AT_ONCE = 4
"""Most management requests with a bundle in them that are held in memory at once; further ones wait."""


def make_app(
    tables: Iterable[tuple[Sequence[Route], Any]],
    calls: CallRoute,
    http: Http,
    *,
    url: str,
    log: Any,
    gate: Gate | None = None,
    archive_bytes_max: int = 25 * 2**20,
) -> QuartTrio:
    """The control plane as an ASGI application.

    ``tables``: rows with the service that their handlers get. ``calls``: the data plane's router.
    ``url``: where the TCP listener is reached, for the endpoints told to clients of the unix socket. ``gate``: who may
    do what. ``archive_bytes_max``: largest bundle in the body of a management request (``oci.archive_bytes_max``).
    """
    router = Router(tables, gate)
    large_bodies = trio.CapacityLimiter(LARGE_BODIES_AT_ONCE)
    held = Held()
    archive_body_bytes_max = archive_bytes_max * 4 // 3 + API_BODY_BYTES_MAX
    app = QuartTrio("stoker", static_folder=None)
    app.url_map.merge_slashes = False  # `//x` is not `/x`
    app.config["MAX_CONTENT_LENGTH"] = None  # each route has its own limit, below
    app.config["BODY_TIMEOUT"] = None
    app.config["RESPONSE_TIMEOUT"] = None

    async def everything(path: str = "") -> Response:
        try:
            target: bytes = request.scope["raw_path"]
            if endpoint := calls(request.method, target):
                with held.by_one() as hold:
                    return _from_reply(await endpoint(await _call_request(_target(), http, hold)))
            asked = _api_request(router, http, url)
            if asked.chunks is None and _brings_body(asked) and (refusal := router.refuse_stranger(asked)) is not None:
                await _drop_body(http)
                reply = refusal
            else:
                async with large_bodies if (large := _may_be_large(router)) else nullcontext():
                    with held.by_one() as hold:
                        if asked.chunks is None:
                            bytes_max = archive_body_bytes_max if large else API_BODY_BYTES_MAX
                            asked.body = await _body(bytes_max, http, hold)
                        reply = await router.dispatch(asked)
        except StokerError as exc:
            reply = views.error_reply(exc)
        except Exception:
            log.exception("cannot answer", method=request.method, path=request.path)
            reply = views.error_reply(errors.InternalError())
        if is_oci_path(request.path):
            reply = dressed(reply, request.headers.get(REQUEST_ID, ""))
        return _from_api(reply)

    app.add_url_rule("/", "root", everything, methods=METHODS, provide_automatic_options=False)
    app.add_url_rule("//<path:path>", "doubled", everything, methods=METHODS, provide_automatic_options=False)
    app.add_url_rule("/<path:path>", "everything", everything, methods=METHODS, provide_automatic_options=False)

    async def the_rest(_: Exception) -> Response:
        return await everything()

    # What the rules above do not match: paths with line breaks in them, other methods.
    app.register_error_handler(404, the_rest)
    app.register_error_handler(405, the_rest)
    app.asgi_app = paced(app.asgi_app)  # type: ignore[method-assign,assignment]  # Quart's way to put a layer before the app
    return app


def _target() -> bytes:
    """Path and query as received."""
    path: bytes = request.scope["raw_path"]
    query: bytes = request.scope["query_string"]
    return path + b"?" + query if query else path


def _raw_headers() -> list[tuple[str, str]]:
    """As received: Quart would join what came twice."""
    return [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in request.scope["headers"]]


async def _call_request(target: bytes, http: Http, hold: Callable[[int], None]) -> Request:
    headers = _raw_headers()
    body = await _body(http.body_bytes_max, http, hold)
    return Request(
        method=request.method,
        target=target,
        headers=headers,
        body=body,
        host=request.headers.get("Host", ""),
        peer=_peer(),
    )


def _path() -> str:
    """The path for routing: a client of OCI whose endpoint ends with a slash asks for ``//20260325/...``."""
    path: str = request.path
    return path[1:] if path.startswith("//") and is_oci_path(path) else path


def _may_be_large(router: Router) -> bool:
    """Whether this request may carry a bundle, and does not say that it is small."""
    found = router.match(request.method, _path())
    if found is None or not found.route.carries_bundle:
        return False
    length = request.headers.get("Content-Length", "")
    return not (length.isdecimal() and len(length) < 10 and int(length) <= API_BODY_BYTES_MAX)


def _api_request(router: Router, http: Http, url: str) -> ApiRequest:
    """The request without its body, which is still to come."""
    found = router.match(request.method, _path())
    streams = found is not None and found.route.streams
    query = request.query_string.decode("latin-1")
    peer = _peer()
    # Through the unix socket the Host header says nothing about where functions can be called.
    here = url if peer.unix else f"{'https' if peer.tls else 'http'}://{request.headers.get('Host', 'localhost')}"
    base_url = http.public_url.rstrip("/") or here
    return ApiRequest(
        method=request.method,
        path=_path(),
        query=_query(query),
        query_string=query,
        headers={name.lower(): value for name, value in request.headers.items()},
        chunks=_chunks(http) if streams else None,
        base_url=base_url,
        peer=peer,
        target=_target(),
        raw_headers=_raw_headers(),
    )


def _brings_body(asked: ApiRequest) -> bool:
    return asked.headers.get("content-length", "0") != "0" or "transfer-encoding" in asked.headers


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
    body, scope = aiter(request.body), cast(Any, request.scope)
    flow: Flow = scope[FLOW_KEY]
    while True:
        with trio.move_on_after(http.body_s) as limit:
            try:
                chunk = await anext(body)
            except StopAsyncIteration:
                return
        if limit.cancelled_caught:
            raise errors.RequestTimeout(detail=f"nothing came for {http.body_s:g} s")
        flow.taken(len(chunk))
        yield chunk


async def _body(bytes_max: int, http: Http, hold: Callable[[int], None]) -> bytes:
    """The whole body; ``hold`` counts it.

    Raises:
      QueueFull: all requests together hold too much.
      RequestTooLarge: it is longer than ``bytes_max``.
      RequestTimeout: it took longer than ``http.body_s`` for each MiB begun.
    """
    parts, size, began_s = [], 0, trio.current_time()
    with trio.move_on_after(http.body_s) as limit:
        async for chunk in _chunks(http):
            size += len(chunk)
            hold(len(chunk))
            if size > bytes_max:
                raise errors.RequestTooLarge(detail=f"more than {bytes_max} bytes")
            limit.deadline = began_s + http.body_s * (1 + size // 2**20)
            parts.append(chunk)
        return b"".join(parts)
    raise errors.RequestTimeout(detail=f"{size} bytes came in {trio.current_time() - began_s:.0f} s")


async def _drop_body(http: Http) -> None:
    """Take what is on its way of a body that nobody wants, or its sender would hear of a reset and not our answer."""
    size = 0
    with trio.move_on_after(min(http.body_s, DROP_S)):
        async for chunk in _chunks(http):
            size += len(chunk)
            if size > DROP_BYTES_MAX:
                return


def _from_reply(reply: Reply) -> Response:
    response = Response(reply.body, status=reply.status)
    del response.headers["Content-Type"]
    for name, value in reply.headers:
        response.headers.add(name, _text(value))
    return response


def _text(value: str) -> str:
    """What Quart, which writes headers in UTF-8, must be given for the bytes that a function answered."""
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value


def _from_api(reply: ApiReply) -> Response:
    response = Response(reply.stream if reply.stream is not None else reply.encode(), status=reply.status)
    if (kind := reply.type()) is not None:
        response.headers["Content-Type"] = kind
    else:
        del response.headers["Content-Type"]
    for name, value in reply.headers:
        response.headers.add(name, value)
    return response
