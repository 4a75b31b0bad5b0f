"""Tables of routes without a framework: which row, redirects and refusals with Fn's texts, errors as replies."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from daemon.errors import MethodNotAllowed, NotFound, StokerError
from daemon.http.views import HTML_TYPE, ApiReply, ApiRequest, Route, error_reply, location

_PLACEHOLDER = re.compile(r"\{([a-z_]+)(:path)?\}")


@dataclass(frozen=True, slots=True)
class Match:
    """A route that fits a path, what its placeholders took, and the service that its handler is given."""

    route: Route
    service: Any
    params: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Row:
    pattern: re.Pattern[str]
    route: Route
    service: Any


def compile_path(path: str) -> re.Pattern[str]:
    """``/v2/apps/{app_id}`` as an expression for whole paths; ``{name:path}`` takes slashes too."""
    pattern, end = "", 0
    for found in _PLACEHOLDER.finditer(path):
        pattern += re.escape(path[end : found.start()])
        pattern += f"(?P<{found[1]}>{'.+' if found[2] else '[^/]+'})"
        end = found.end()
    return re.compile(pattern + re.escape(path[end:]), re.DOTALL)


class Gate(Protocol):
    """What stands before the rows (`daemon.http.authorise.Gate`)."""

    def meet(self, request: ApiRequest, route: Route | None) -> None:
        """Before the body is read: raise a StokerError if this is nobody we know."""

    def admit(self, request: ApiRequest, route: Route | None) -> None:
        """Let the request pass, or raise a StokerError."""

    async def done(self, request: ApiRequest, route: Route, reply: ApiReply) -> None:
        """Told how it was answered."""


class Router:
    """Finds the row of a request in several tables; the first that fits wins."""

    def __init__(self, tables: Iterable[tuple[Sequence[Route], Any]], gate: Gate | None = None) -> None:
        """``tables``: rows with the service that their handlers get as the first argument. ``gate``: asked before and
        told after each request, so that no row can be forgotten; None (tests): everybody may everything."""
        self._gate = gate
        self._rows = [_Row(compile_path(route.path), route, service) for routes, service in tables for route in routes]

    def match(self, method: str, path: str) -> Match | None:
        """The row for this method and path, or None."""
        for row in self._rows:
            if row.route.method == method and (found := row.pattern.fullmatch(path)):
                return Match(row.route, row.service, found.groupdict())
        return None

    def knows(self, path: str) -> bool:
        """Does any row, of whatever method, have this path?"""
        return any(row.pattern.fullmatch(path) for row in self._rows)

    def methods(self, path: str) -> list[str]:
        """What may be done with this path."""
        return sorted({row.route.method for row in self._rows if row.pattern.fullmatch(path)})

    def refuse_stranger(self, request: ApiRequest) -> ApiReply | None:
        """What a request gets whatever its body is, since nobody we know sends it; None: the body is worth reading."""
        if self._gate is None:
            return None
        found = self.match(request.method, request.path)
        try:
            self._gate.meet(request, found.route if found is not None else None)
        except StokerError as exc:
            return ((found.route.errors if found is not None else None) or error_reply)(exc)
        return None

    async def dispatch(self, request: ApiRequest) -> ApiReply:
        """Answer a request: by its row, or by a redirect or refusal. A StokerError of a handler becomes its reply."""
        found = self.match(request.method, request.path)
        gate = self._gate
        if found is None:
            if gate is not None:
                try:
                    gate.admit(request, None)
                except StokerError as exc:
                    return error_reply(exc)
            return self.refuse(request)
        request.params = found.params
        try:
            if gate is not None:
                gate.admit(request, found.route)
            reply = await found.route.handler(found.service, request)
        except StokerError as exc:
            reply = (found.route.errors or error_reply)(exc)
        if gate is not None:
            await gate.done(request, found.route, reply)
        return reply

    def refuse(self, request: ApiRequest) -> ApiReply:
        """What a request gets that no row fits: a redirect to the path without its slash, 405 or 404."""
        path = request.path
        if not self.knows(path):
            trimmed = path.rstrip("/")
            if path.endswith("/") and trimmed == path[:-1] and trimmed and self.knows(trimmed):
                return redirect(request.method, trimmed, request.query_string)
            reply = error_reply(NotFound(f"Path not found: {request.method} {path}"))
        else:
            reply = error_reply(MethodNotAllowed(f"Method not allowed: {request.method} {path}"))
            reply.headers.append(("Allow", ", ".join(self.methods(path))))  # RFC 9110 section 15.5.6
        reply.newline = False  # Fn ends its other errors with one, these two not
        return reply


def redirect(method: str, path: str, query: str) -> ApiReply:
    """Fn's answer to a trailing slash: 301 for GET, else 307, which keeps the method (gin: RedirectTrailingSlash)."""
    target = location(path, query)
    headers = [("Location", target)]
    if method != "GET":
        return ApiReply(status=307, headers=headers)
    escaped = target.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&#34;")
    page = f'<a href="{escaped}">Moved Permanently</a>.\n\n'
    return ApiReply(status=301, body=page, content_type=HTML_TYPE, headers=headers)
