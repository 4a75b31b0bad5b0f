"""The descriptions of the HTTP APIs, served by the node itself."""

from __future__ import annotations

from daemon.auth import permissions as perm
from daemon.errors import NotFound
from daemon.http.views import ApiReply, ApiRequest, Route


async def describe(_: object, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/openapi/{name}: this API in the terms of OpenAPI 3.1: `native`, `oci-20181201`, `oci-20260325`."""
    from daemon.http.openapi import build  # only who asks pays for it

    name = request.params["name"].removesuffix(".json")
    if name not in build.NAMES:
        raise NotFound(f"no description {name[:100]!r}; there are {', '.join(build.NAMES)}")
    return ApiReply(body=build.document(name))


ROUTES = [Route("GET", "/stoker/v1/openapi/{name}", describe, perm.AUTHENTICATED)]
