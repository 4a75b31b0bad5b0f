"""Makes the descriptions: each row of the tables of routes with what it takes and gives. Pure.

A row without an entry in `fn`, `node`, `iam` or `oci`, or an entry without a row, is an error: nothing is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from daemon import VERSION
from daemon.http import (
    calls_api,
    debug_api,
    detached_api,
    doctor_api,
    fn_api,
    iam_api,
    logs_api,
    oci_api,
    openapi_api,
    ops,
    series_api,
)
from daemon.http.openapi import fn, iam, node, oci
from daemon.http.openapi.words import (
    BYTES,
    JSON,
    TEXT,
    WHATEVER,
    Op,
    Parameter,
    Schema,
    given,
    header,
    maybe,
    one_of,
    ref,
)
from daemon.http.views import Route

__all__ = ["NAMES", "described", "document", "openapi_path", "rendered"]

NAMES = ("native", "oci-20181201", "oci-20260325")
"""The descriptions that there are."""

_PLACEHOLDER = re.compile(r"\{([a-z_]+)(?::path)?\}")
_ALWAYS = {
    400: "The request breaks a rule; the message names the field and what is allowed.",
    401: "Nobody we know (`auth.mode: iam`).",
    403: "Sent by a page of another site, or to a name that is not this node's.",
    404: "There is no such thing, or the caller may not do this (`auth.mode: iam`): they look alike.",
    408: "The request did not come in time.",
    413: "The body is too large.",
    431: "The headers are too large.",
    500: "A fault of the node.",
}
_SOMETIMES = {
    405: "Not this method.",
    409: "It collides with what is there: a name that is taken, a change under way.",
    412: "if-match does not match the etag.",
    422: "The version does not start; the message has the traceback.",
    429: "Too many calls are running or waiting.",
    502: "The function failed.",
    503: "No room, or the node is stopping; try again.",
    504: "The function took too long.",
    507: "The disk is full.",
}
_ANSWER_HEADERS = {
    "etag": "for if-match",
    "opc-work-request-id": "what to ask whether it is done",
    "opc-next-page": "there are more: give it as `page`",
}
_ERROR = given({"message": TEXT, "code": TEXT, "detail?": TEXT, "call_id?": TEXT})
_OCI_ERROR = given({"code": TEXT, "message": TEXT})
_SECURITY = {
    "signature": {
        "type": "http", "scheme": "signature",
        "description": "OCI's signed requests: draft-cavage-http-signatures with rsa-sha256",
    },
    "bearer": {"type": "http", "scheme": "bearer", "description": "a token of `stoker iam token`"},
}  # fmt: skip

_NATIVE: Sequence[tuple[str, Sequence[Route]]] = (
    ("Fn API version 2", fn_api.ROUTES),
    ("Node", ops.ROUTES),
    ("Node", doctor_api.ROUTES),
    ("Node", openapi_api.ROUTES),
    ("Calls", calls_api.ROUTES),
    ("Logs", logs_api.ROUTES),
    ("Series", series_api.ROUTES),
    ("Detached calls", detached_api.ROUTES),
    ("Debugging", debug_api.ROUTES),
    ("Identity", iam_api.ROUTES),
)
_OWN = {("GET", "/stoker/v1/openapi/{name}"): Op(gives=given({"openapi": TEXT}, open_=True))}
_CALL_REFUSALS = (405, 429, 502, 503, 504)
_CALL_HEADERS = (
    header("Fn-Invoke-Type", "`detached`: 202 as soon as the call is stored; anything else: wait for the answer"),
)
_CALLS: dict[tuple[str, str], tuple[str, str, Op]] = {
    ("POST", "/invoke/{function_id}"): (
        "invoke",
        "Call a function: the body goes in, the answer comes back.",
        Op(
            gives=WHATEVER, empty=(202,), answers_as=("*/*",), takes=BYTES, takes_as=("application/octet-stream",),
            may_be_empty=True, parameters=_CALL_HEADERS, refuses=_CALL_REFUSALS,
        ),
    ),
}  # fmt: skip
_OCI_CALL = Op(
    gives=WHATEVER, empty=(202,), answers_as=("*/*",), takes=BYTES,
    takes_as=("application/octet-stream", JSON), may_be_empty=True,
    parameters=(
        header("fn-invoke-type", "`detached`: 202 as soon as the call is stored", one_of("sync", "detached")),
        header("fn-intent", "how the function shall read the body", one_of("httprequest", "cloudevent")),
        header("is-dry-run", "`true`: 200 without running it", one_of("true", "false", "True", "False")),
    ),
    refuses=(409, *_CALL_REFUSALS),
)  # fmt: skip


def document(name: str) -> Schema:
    """A description as a JSON value.

    Raises:
      KeyError: not one of `NAMES`.
    """
    if name == "native":
        described_ops = {**fn.OPERATIONS, **node.OPERATIONS, **iam.OPERATIONS, **_OWN}
        paths = _Paths(oci=False)
        for tag, rows in _NATIVE:
            for route in rows:
                paths.add_route(route, _taken_out(described_ops, _key(route)), tag)
        _all_used(described_ops)
        for (method, path), (id_, says, op) in _CALLS.items():
            paths.add(method, path, op, id_=id_, says=says, tag="Calls", permission="use fn-invocation")
        title, schemas = "Stoker", {**fn.SCHEMAS, **node.SCHEMAS, **iam.SCHEMAS, "Error": _ERROR}
        says = "The Fn API version 2 and Stoker's own API. The console's pages are for browsers, and not described."
    else:
        version = {f"oci-{version}": version for version in (oci.CLASSIC, oci.NEWER)}[name]
        described_ops = oci.operations(version)
        paths = _Paths(oci=True)
        for route in oci_api.ROUTES:
            if route.path.startswith(f"/{version}/"):
                op = _taken_out(described_ops, (route.method, openapi_path(route.path).removeprefix(f"/{version}")))
                paths.add_route(route, op, "Functions")
        _all_used(described_ops)
        paths.add(
            "POST", f"/{version}/functions/{{function_id}}/actions/invoke", _OCI_CALL, id_="InvokeFunction",
            says="Call a function: the body goes in, the answer comes back.", tag="Functions",
            permission="use fn-invocation",
        )  # fmt: skip
        title, schemas = f"OCI Functions, {version}", {**oci.schemas(version), "Error": _OCI_ERROR}
        says = "OCI's Functions API as Stoker answers it, for unmodified clients of OCI."
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": VERSION, "description": says, "license": {"name": "Apache-2.0"}},
        "servers": [{"url": "http://127.0.0.1:8080"}],
        "security": [{}, *({scheme: []} for scheme in _SECURITY)],
        "paths": paths.made,
        "components": {"schemas": schemas, "responses": _refusals(), "securitySchemes": _SECURITY},
    }


def _refusals() -> Schema:
    error = {JSON: {"schema": ref("Error")}}
    return {str(status): {"description": says, "content": error} for status, says in (_ALWAYS | _SOMETIMES).items()}


def rendered(name: str) -> str:
    """The same as text, as it is in docs/reference."""
    return json.dumps(document(name), indent=1, ensure_ascii=False) + "\n"


def described(route: Route) -> str:
    """The handler's docstring without its first words, where these repeat method and path; else its name."""
    words = (route.handler.__doc__ or "").strip()
    head = f"{route.method} {route.path}"
    return words.removeprefix(head).lstrip(": .\n") or route.handler.__name__.replace("_", " ")


def openapi_path(path: str) -> str:
    """A route's path with placeholders as OpenAPI has them."""
    return _PLACEHOLDER.sub(r"{\1}", path)


def _key(route: Route) -> tuple[str, str]:
    return route.method, openapi_path(route.path)


def _taken_out(ops: dict[tuple[str, str], Op], key: tuple[str, str]) -> Op:
    if key not in ops:
        raise KeyError(f"{key[0]} {key[1]} is not described: add it to a module of daemon/http/openapi")
    return ops.pop(key)


def _all_used(left: Mapping[tuple[str, str], Op]) -> None:
    if left:
        raise KeyError(f"described, but in no table of routes: {sorted(left)}")


class _Paths:
    """The member ``paths`` of a description."""

    def __init__(self, *, oci: bool) -> None:
        self.made: dict[str, Schema] = {}
        self._everywhere = (header("opc-request-id", "an id of the client's own"),) if oci else ()
        self._oci = oci
        self._known: dict[str, str] = {}

    def add_route(self, route: Route, op: Op, tag: str) -> None:
        says = " ".join(described(route).split())
        id_ = says.partition(":")[0] if self._oci else route.handler.__name__
        self.add(
            route.method, openapi_path(route.path), op, id_=id_, says=says, tag=tag, permission=str(route.permission)
        )

    def add(self, method: str, path: str, op: Op, *, id_: str, says: str, tag: str, permission: str) -> None:
        """``permission``: in auth.mode iam."""
        # Two rows with differently named placeholders at the same place are one path in OpenAPI.
        path = self._known.setdefault(_PLACEHOLDER.sub("{}", path), path)
        ids = {operation["operationId"] for there in self.made.values() for operation in there.values()}
        operation: Schema = {
            "operationId": id_ if id_ not in ids else f"{id_}_{len(ids)}",
            "summary": says,
            "tags": [tag],
            "x-permission": permission,
            "parameters": [
                *(Parameter(found, _segment(path, found), required=True, place="path").form()
                  for found in _PLACEHOLDER.findall(path)),
                *(parameter.form() for parameter in (*op.parameters, *self._everywhere)),
            ],
        }  # fmt: skip
        if op.takes is not None:
            # As on Fn, null is an object without members; OCI refuses it.
            takes = op.takes if self._oci or JSON not in op.takes_as else maybe(op.takes)
            operation["requestBody"] = {
                "required": not op.may_be_empty, "content": {kind: {"schema": takes} for kind in op.takes_as},
            }  # fmt: skip
        operation["responses"] = self._responses(op)
        self.made.setdefault(path, {})[method.lower()] = operation

    def _responses(self, op: Op) -> Schema:
        good: Schema = {"description": "Done."}
        if op.gives is not None:
            good["content"] = {kind: {"schema": op.gives} for kind in op.answers_as}
        names = [*op.headers, *(["opc-request-id"] if self._oci else [])]
        if names:
            good["headers"] = {
                name: {"schema": TEXT, "description": _ANSWER_HEADERS.get(name, "the id of this request")}
                for name in names
            }
        made = {str(status): good for status in (op.status, *op.also)}
        made |= {str(status): {"description": "Accepted: stored, and run later."} for status in op.empty}
        for status in sorted({*_ALWAYS, *op.refuses}):
            made.setdefault(str(status), {"$ref": f"#/components/responses/{status}"})
        return made


def _segment(path: str, name: str) -> Schema:
    """What a placeholder may be: something without a slash, but for names of bundles and sources of triggers."""
    return TEXT if name in ("source", "image") or "bundles" in path else {**TEXT, "pattern": "^[^/]+$"}
