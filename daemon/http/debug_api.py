"""The endpoint of debugging: a session lasts as long as its events are read."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from daemon.auth import permissions as perm
from daemon.errors import NotFound
from daemon.http.calls_api import number
from daemon.http.views import ApiReply, ApiRequest, Route
from daemon.workers.debugging import Debugging, Session

PORT_MAX = 65_535


async def debug(debugging: Debugging, request: ApiRequest) -> ApiReply:
    """POST /stoker/v1/functions/{id}/debug?port=: start an instance under debugpy that answers the calls with the
    header ``Stoker-Debug: 1``, its timeout suspended, for as long as this reply is read. It is lines of JSON, ``event``
    being starting, ready, failed, exited, ended or alive. ``port``: where editors attach, on loopback; 0: any.
    Refused in mode ``iam`` without ``auth.debugging``."""
    port = number(request, "port", 0, 0, PORT_MAX)
    function = debugging.function(request.params["id"])
    if function is None:
        raise NotFound("Fn not found")
    return ApiReply(
        stream=_lines(debugging.open(function, port=port)),
        content_type="application/x-ndjson",
        headers=[("Cache-Control", "no-store")],
    )


async def _lines(session: Session) -> AsyncIterator[bytes]:
    async for event in session.read():
        yield json.dumps(event).encode() + b"\n"


ROUTES = [Route("POST", "/stoker/v1/functions/{id}/debug", debug, perm.FUNCTION_UPDATE.of_function("id"))]
