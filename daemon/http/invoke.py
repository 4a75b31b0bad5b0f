"""The endpoints that run functions: ``/invoke/{id}``, ``/t/{app}{source}`` and OCI's ``.../actions/invoke``.

They know nothing of connections: the front door calls them for the data plane, the control plane for the rare request
that comes to it on a connection of its own.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

from daemon import ocid
from daemon.auth.permissions import ANYBODY
from daemon.catalog import Catalog
from daemon.errors import BadRequest, MethodNotAllowed, NotFound, StokerError
from daemon.http import gateway, oci_replies
from daemon.http.messages import Endpoint, Headers, Reply, Request, Route, decoded_path, error_reply
from daemon.model import Answer, Function, Ids, Trigger

__all__ = ["Calls", "DetachedCalls", "make_route"]

_oci_invoke = re.compile(r"//?(?:20181201|20260325)/functions/([^/]+)/actions/invoke").fullmatch

_OCI_HEADERS = {
    "fn-invoke-type": ("sync", "detached"),
    "fn-intent": ("httprequest", "cloudevent"),
    "is-dry-run": ("true", "false"),
}
"""Headers of InvokeFunction and what they may say (reference oci-api 1.3)."""
_is_sent_id = re.compile(r"[!-.0-~]{1,200}").fullmatch

KNOWN_TARGETS_MAX = 4096
"""Targets whose endpoints are remembered: one function has many, by their query."""


class Calls(Protocol):
    """What the invoker offers."""

    async def invoke(
        self, function_id: str, *, call_id: str, headers: Headers, body: bytes, kind: str = "sync", caller: Any = None
    ) -> Answer:
        """Run one call. Raises StokerError."""
        ...


class DetachedCalls(Protocol):
    """What `daemon.detached.service` offers."""

    async def accept(
        self, function_id: str, *, call_id: str, headers: Headers, body: bytes, caller: Any = None
    ) -> None:
        """Store a call that nobody waits for. Raises StokerError when it is not accepted."""
        ...


class CallGate(Protocol):
    """Who may call what (`daemon.http.authorise.CallGate`)."""

    def check(self, request: Request, function: Function, trigger: Trigger | None = None) -> None:
        """Let a call pass and fill in ``request.principal``, or raise a StokerError."""

    def check_stranger(self, request: Request) -> None:
        """The path names nothing: raise, if this client may not even be told so."""


def make_route(
    catalog: Catalog, invoker: Calls, ids: Ids, detached: DetachedCalls, gate: CallGate | None = None
) -> Route:
    """The router of the data plane: method and raw target to an endpoint, None for the control plane's.

    ``gate`` None: everybody may call everything.
    """

    known: dict[bytes, Endpoint] = {}

    def route(method: str, target: bytes) -> Endpoint | None:
        if (endpoint := known.get(target)) is not None and method == "POST":
            return endpoint
        if target.startswith(b"/invoke/"):
            path = decoded_path(target)
            function_id = path[8:]
            if not function_id or "/" in function_id:
                return _refusal(NotFound(f"Path not found: {method} {path}"))
            if method != "POST":
                return _only_post(MethodNotAllowed(f"Method not allowed: {method} {path}"))
            endpoint = invocation(function_id)
            if function_id in catalog.functions:  # else anybody could fill it
                if len(known) >= KNOWN_TARGETS_MAX:
                    known.clear()
                known[target] = endpoint
            return endpoint
        if target.startswith(b"/t/"):
            return trigger(method, decoded_path(target))
        if target.startswith((b"/20", b"//20")) and (match := _oci_invoke(decoded_path(target))) and method == "POST":
            function_id = ocid.id_of(match[1], ocid.FUNCTION)
            endpoint = oci_invocation(function_id)
            if function_id in catalog.functions:
                if len(known) >= KNOWN_TARGETS_MAX:
                    known.clear()
                known[target] = endpoint
            return endpoint
        return None

    def invocation(function_id: str) -> Endpoint:
        async def invoke(request: Request) -> Reply:
            if function_id not in catalog.functions:
                if gate is not None:
                    gate.check_stranger(request)
                raise NotFound("Fn not found")
            if gate is not None:
                gate.check(request, catalog.functions[function_id])
            call_id = ids.new()
            headers, body = request.headers, request.body
            out = gateway.invoke_headers(headers, call_id=call_id, body=body)
            try:
                for name, value in headers:
                    if name == "fn-invoke-type" and value.lower() == "detached":
                        await detached.accept(
                            function_id, call_id=call_id, headers=out, body=body, caller=caller_of(request)
                        )
                        return Reply(202, [("Fn-Call-Id", call_id)])
                answer = await invoker.invoke(
                    function_id, call_id=call_id, headers=out, body=body, caller=caller_of(request)
                )
                return gateway.invoke_reply(answer, call_id=call_id)
            except StokerError as error:
                error.call_id = call_id
                return error_reply(error)

        return invoke

    def oci_invocation(function_id: str) -> Endpoint:
        """OCI's InvokeFunction: as `invocation`, with OCI's headers, dry runs and forms of errors."""

        async def invoke(request: Request) -> Reply:
            call_id = ids.new()
            headers, body = request.headers, request.body
            sent_id = ""
            asked = None
            for name, value in headers:
                if name == "opc-request-id":
                    sent_id = value
                elif name in _OCI_HEADERS:
                    asked = {**(asked or {}), name: value.strip().lower()}
            request_id = _request_id(sent_id, call_id)
            try:
                function = catalog.functions.get(function_id)
                if gate is not None:
                    if function is None:
                        gate.check_stranger(request)
                    else:
                        gate.check(request, function)
                    headers = request.headers  # without the credentials now
                if function is None:
                    raise NotFound
                out = gateway.invoke_headers(headers, call_id=call_id, body=body)
                if asked is not None:
                    done = await oci_special(function_id, asked, call_id, out, request)
                    if done is not None:
                        done.headers.append((oci_replies.REQUEST_ID, request_id))
                        return done
                answer = await invoker.invoke(
                    function_id, call_id=call_id, headers=out, body=body, caller=caller_of(request)
                )
                reply = gateway.invoke_reply(answer, call_id=call_id)
                reply.headers.append((oci_replies.REQUEST_ID, request_id))
                return reply
            except StokerError as error:
                if isinstance(error, NotFound):  # gone and forbidden must look alike
                    error = NotFound("Authorization failed or requested resource not found.")
                error.call_id = call_id
                return oci_replies.error_reply(error, request_id)

        return invoke

    async def oci_special(
        function_id: str, asked: dict[str, str], call_id: str, out: Headers, request: Request
    ) -> Reply | None:
        """Answer a dry run or a detached call; None: it is to be run as any other.

        Raises:
          BadRequest: a header has a value that OCI does not know.
        """
        for name, value in asked.items():
            if value not in _OCI_HEADERS[name]:
                raise BadRequest(f"{name} must be one of {', '.join(_OCI_HEADERS[name])}, not {value[:100]!r}")
        if asked.get("is-dry-run") == "true":  # the SDK writes True with a capital
            return Reply(200, [("Content-Type", "application/octet-stream"), ("Fn-Call-Id", call_id)])
        if asked.get("fn-invoke-type") == "detached":
            await detached.accept(
                function_id, call_id=call_id, headers=out, body=request.body, caller=caller_of(request)
            )
            return Reply(202, [("Fn-Call-Id", call_id)])
        return None

    def trigger(method: str, path: str) -> Endpoint:
        app_name, slash, source = path[3:].partition("/")
        if not app_name:
            return _refusal(NotFound(f"Path not found: {method} {path}"))

        async def call(request: Request) -> Reply:
            found = catalog.trigger(app_name, slash + source or "/")
            if found is None:
                if gate is not None:
                    gate.check_stranger(request)
                    raise NotFound("Trigger not found")
                raise NotFound("Trigger not found" if catalog.app_named(app_name) else "App not found")
            if gate is not None:
                gate.check(request, catalog.functions[found[1].fn_id], found[1])
            call_id = ids.new()
            out = gateway.trigger_headers(
                request.headers,
                call_id=call_id,
                method=request.method,
                url=f"{'https' if request.peer.tls else 'http'}://{request.host}{request.target.decode('latin-1')}",
                body=request.body,
            )
            try:
                answer = await invoker.invoke(
                    found[1].fn_id, call_id=call_id, headers=out, body=request.body, kind="trigger",
                    caller=caller_of(request),
                )  # fmt: skip
                return gateway.trigger_reply(answer, call_id=call_id)
            except StokerError as error:
                error.call_id = call_id
                return error_reply(error)

        return call

    return route


def _request_id(sent: str, call_id: str) -> str:
    """``opc-request-id`` of a call: what the client sent (its first part), then the call's id, as logs have it."""
    first = sent.partition("/")[0]
    return f"{first}/{call_id}/{call_id}" if _is_sent_id(first) else f"/{call_id}/{call_id}"


def caller_of(request: Request) -> Any:
    """Who is named in the call's record: the principal, or in open mode the other end of the connection."""
    return request.peer if request.principal is ANYBODY else request.principal


def _refusal(error: StokerError) -> Endpoint:
    async def refuse(request: Request) -> Reply:
        raise error

    return refuse


def _only_post(error: StokerError) -> Endpoint:
    async def refuse(request: Request) -> Reply:
        reply = error_reply(error)
        reply.headers.append(("Allow", "POST"))  # RFC 9110 section 15.5.6
        return reply

    return refuse
