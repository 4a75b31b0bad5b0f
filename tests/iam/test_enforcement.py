"""No route is forgotten: each asks for its permission, nothing less opens it, and nobody unknown passes."""

from __future__ import annotations

import hashlib
import importlib
import json
import pkgutil
import time
from dataclasses import replace
from typing import Any

import pytest
import structlog

import daemon.console
import daemon.http
from daemon.auth import permissions as perm
from daemon.auth.identity import LOCAL_GROUP, BearerToken, Identity, Known
from daemon.auth.permissions import ANYBODY, AUTHENTICATED, EVERYBODY, PERMISSIONS, TYPES, At, Principal, Verb
from daemon.auth.policy import Directory, Grants, Policy
from daemon.auth.policy_language import parse_statement
from daemon.auth.tokens import Issuer
from daemon.catalog import Catalog
from daemon.errors import NotAuthenticated, NotFound
from daemon.http.authorise import PUBLIC, CallGate, Gate
from daemon.http.messages import Peer, Request
from daemon.http.routing import Router
from daemon.http.views import ApiReply, ApiRequest, Route
from daemon.model import App, Compartment, Function, Trigger, Version
from tests.iam.signing import key

ROOT, WEB, SHOP = "ocid1.tenancy.oc1..r", "ocid1.compartment.oc1..w", "ocid1.compartment.oc1..s"
APP, FN, TRIGGER = "01M7YEGRJA03Z812W1TQ6CN9Y8", "01M7YEGRJA03Z812W1TQ6CN9Y9", "01M7YEGRJA03Z812W1TQ6CN9YA"
ADA = Principal(kind="user", id="u-ada", name="ada", groups=frozenset({"g"}))
TOKEN = "stk-of-ada"
OK = ApiReply(body="handled")


def tables() -> list[Route]:
    """Every table of routes there is, found by looking and not from a list that somebody must keep."""
    found: dict[tuple[str, str], Route] = {}
    for package in (daemon.http, daemon.console):
        for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            for route in getattr(importlib.import_module(info.name), "ROUTES", []):
                found[route.method, route.path] = route
    return list(found.values())


ALL = tables()
IDS = [f"{route.method} {route.path}" for route in ALL]


class Audit:
    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.events: list[dict[str, Any]] = []

    async def record(self, principal: Principal, **event: Any) -> None:
        self.events.append({"who": principal.name, **event})


def world(*statements: str) -> tuple[Identity, Catalog]:
    catalog = Catalog()
    for compartment in (
        Compartment(id=ROOT, name="root"), Compartment(id=WEB, name="web", parent_id=ROOT),
        Compartment(id=SHOP, name="shop", parent_id=ROOT),
    ):  # fmt: skip
        catalog.put_compartment(compartment)
    catalog.put_app(App(id=APP, name="app", compartment_id=WEB))
    catalog.put_function(
        Function(id=FN, app_id=APP, name="f", live=Version(function_id=FN, number=1, image="f:1", digest=""))
    )
    catalog.put_trigger(Trigger(id=TRIGGER, name="t", app_id=APP, fn_id=FN, source="/t"))
    identity = Identity(catalog, lambda: Issuer(key(9), ROOT), log=structlog.get_logger())
    policy = Policy(id="p", name="p", compartment_id=ROOT, statements=tuple(map(parse_statement, statements)))
    identity.known = Known(
        users={ADA.id: ADA},
        bearer_tokens={hashlib.sha256(TOKEN.encode()).digest(): BearerToken(ADA.id, int(time.time() * 1000) + 10**9)},
        grants=Grants([policy], Directory({"g": "g"}, {}, catalog.compartments)),
    )
    return identity, catalog


def request_for(route: Route, *, authorization: str = f"Bearer {TOKEN}", **members: Any) -> ApiRequest:
    """A request that this route would take, about things that exist."""
    ids = {At.APP: APP, At.FUNCTION: FN, At.TRIGGER: TRIGGER, At.COMPARTMENT: WEB}
    value, name = ids.get(route.permission.at, "x"), route.permission.key
    path = route.path
    for placeholder in [part.split("}")[0] for part in path.split("{")[1:]]:
        path = path.replace("{" + placeholder + "}", value if placeholder.split(":")[0] == name else "x")
    in_body = route.method in ("POST", "PUT")
    headers = [("authorization", authorization)] if authorization else []
    return ApiRequest(
        method=route.method,
        path=path,
        query={} if in_body or not name else {name: [value]},
        body=json.dumps({name: value} if name else {}).encode() if in_body else b"",
        target=path.encode(),
        headers=dict(headers),
        raw_headers=headers,
        peer=Peer(unix=False, address="192.0.2.1"),
        **members,
    )


async def ask(route: Route, identity: Identity, request: ApiRequest) -> ApiReply:
    async def handler(service: Any, request: ApiRequest) -> ApiReply:
        return OK

    gate = Gate(Audit(identity), enforce=True)  # type: ignore[arg-type]
    return await Router([([replace(route, handler=handler, errors=None)], None)], gate).dispatch(request)


def test_the_tables_are_found() -> None:
    assert len(ALL) > 80
    assert {"/v2/apps", "/stoker/v1/iam/users", "/health", "/stoker/v1/bundles", "/console/"} <= {r.path for r in ALL}


@pytest.mark.parametrize("route", ALL, ids=IDS)
def test_each_route_knows_what_it_is_about(route: Route) -> None:
    """A key that neither path nor query nor body has would ask for the permission in nothing."""
    permission = route.permission
    assert permission in (EVERYBODY, AUTHENTICATED) or permission.name in PERMISSIONS
    assert bool(permission.key) == (permission.at not in (At.NODE, At.SOMEWHERE))
    if "{fn_id}" in route.path or "/functions/{id}" in route.path or "{app_id}" in route.path:
        assert permission.at in (At.FUNCTION, At.APP), "it is about one thing and must ask for that"
        assert "{" + permission.key + "}" in route.path


@pytest.mark.parametrize("route", ALL, ids=IDS)
async def test_each_route_opens_with_its_permission_and_not_with_less(route: Route) -> None:
    nobody, _ = world()
    public = route.permission == EVERYBODY
    for authorization in ("", "Bearer no", "Signature x"):
        reply = await ask(route, nobody, request_for(route, authorization=authorization))
        assert reply.status == (200 if public else 401), authorization
    if public or route.permission == AUTHENTICATED:
        assert (await ask(route, nobody, request_for(route))) is OK
        return
    assert (await ask(route, nobody, request_for(route))).status == 404
    resource, needed = route.permission.resource, route.permission.verb
    for verb in Verb:
        some, _ = world(f"Allow group g to {verb} {resource} in tenancy")
        reply = await ask(route, some, request_for(route))
        assert (reply is OK) == (verb >= needed), verb
        assert reply.status in (200, 404)
    others, _ = world(*(f"Allow group g to manage {other} in tenancy" for other in TYPES if other != resource))
    assert (await ask(route, others, request_for(route))).status == 404
    elsewhere, _ = world(f"Allow group g to manage {resource} in compartment shop")
    assert (await ask(route, elsewhere, request_for(route)) is OK) == (route.permission.at is At.SOMEWHERE)
    if route.permission.at in (At.APP, At.FUNCTION, At.TRIGGER, At.COMPARTMENT):
        here, _ = world(f"Allow group g to manage {resource} in compartment web")
        assert (await ask(route, here, request_for(route))) is OK


async def test_a_refusal_looks_as_if_the_thing_were_not_there() -> None:
    denied, _ = world()
    allowed, _ = world("Allow group g to manage functions-family in tenancy")
    for method, path, permission in [
        ("GET", "/a/{app_id}", perm.APP_READ.of_app()), ("GET", "/f/{fn_id}", perm.FUNCTION_READ.of_function()),
        ("GET", "/t/{trigger_id}", perm.FUNCTION_READ.of_trigger()),
    ]:  # fmt: skip
        route = Route(method, path, None, permission)  # type: ignore[arg-type]
        refused = await ask(route, denied, request_for(route))
        missing = request_for(route)
        missing.path = path.split("{")[0] + "01M7YEGRJA03Z812W1TQ6CN000"
        assert (await ask(route, allowed, missing)).encode() == refused.encode()


async def test_what_could_be_read_in_two_ways_is_refused() -> None:
    identity, _ = world("Allow group g to manage functions-family in compartment web")
    create = Route("POST", "/v2/fns", None, perm.FUNCTION_CREATE.of_app())  # type: ignore[arg-type]
    for body in (
        f'{{"app_id": "{APP}", "APP_ID": "other"}}',
        f'{{"app_id": "x", "app_id": "{APP}"}}',
        '{"app_id": [1]}',
        "{",
    ):
        request = request_for(create)
        request.body = body.encode()
        assert (await ask(create, identity, request)).status == 400, body
    listing = Route("GET", "/v2/fns", None, perm.FUNCTION_LIST.of_app())  # type: ignore[arg-type]
    request = request_for(listing)
    request.query = {"app_id": [APP, "other"]}
    assert (await ask(listing, identity, request)).status == 400
    for nothing in ({}, {"app_id": [""]}):
        request.query = nothing
        assert (await ask(listing, identity, request)).status == 404


async def test_the_audit_log_knows_who_changed_what_and_who_was_refused() -> None:
    identity, _ = world("Allow group g to manage fn-app in compartment web")
    audit = Audit(identity)

    async def handler(service: Any, request: ApiRequest) -> ApiReply:
        return OK

    routes = [
        Route("DELETE", "/v2/apps/{app_id}", handler, perm.APP_DELETE.of_app()),
        Route("POST", "/users", handler, perm.USER_MANAGE),
        Route("GET", "/users", handler, perm.USER_LIST),
    ]
    router = Router([(routes, None)], Gate(audit, enforce=True))  # type: ignore[arg-type]
    await router.dispatch(request_for(routes[0]))
    await router.dispatch(request_for(routes[1]))
    await router.dispatch(request_for(routes[2]))
    await router.dispatch(request_for(routes[0], authorization=""))
    assert [(e["who"], e["action"], e["outcome"], e["source"]) for e in audit.events] == [
        ("ada", "DELETE /v2/apps/{app_id}", "200", "192.0.2.1"),
        ("ada", "POST /users", "404", "192.0.2.1"),
    ]


class TestCalls:
    def call(self, **members: Any) -> Request:
        return Request(
            "POST",
            b"/invoke/x",
            [("authorization", f"Bearer {TOKEN}"), ("a", "b")],
            b"",
            "h",
            Peer(unix=False),
            **members,
        )

    def function(self, catalog: Catalog, **annotations: Any) -> Function:
        function = replace(catalog.functions[FN], annotations=annotations)
        catalog.put_function(function)
        return function

    def test_use_of_invocations_is_needed_and_credentials_are_taken_out(self) -> None:
        denied, catalog = world("Allow group g to manage fn-function in tenancy")
        with pytest.raises(NotFound, match="Fn not found"):
            CallGate(denied).check(self.call(), catalog.functions[FN])
        allowed, catalog = world("Allow group g to use fn-invocation in compartment web")
        request = self.call()
        CallGate(allowed).check(request, catalog.functions[FN])
        assert (request.principal, request.headers) == (ADA, [("a", "b")])

    def test_a_remembered_decision_ends_with_any_change(self) -> None:
        identity, catalog = world(
            "Allow group g to use fn-invocation in compartment web where target.function.name = 'f'"
        )
        gate = CallGate(identity)
        gate.check(self.call(), catalog.functions[FN])
        gate.check(self.call(), catalog.functions[FN])
        catalog.put_app(replace(catalog.apps[APP], compartment_id=SHOP))
        with pytest.raises(NotFound):
            gate.check(self.call(), catalog.functions[FN])
        catalog.put_app(replace(catalog.apps[APP], compartment_id=WEB))
        gate.check(self.call(), catalog.functions[FN])
        catalog.put_function(replace(catalog.functions[FN], name="g"))
        with pytest.raises(NotFound):
            gate.check(self.call(), catalog.functions[FN])
        catalog.put_function(replace(catalog.functions[FN], name="f"))
        identity.known = replace(identity.known, grants=Grants([], Directory({}, {}, {})))
        with pytest.raises(NotFound):
            gate.check(self.call(), catalog.functions[FN])

    def test_public_ones_need_nothing_and_keep_their_headers(self) -> None:
        identity, catalog = world()
        request = self.call()
        CallGate(identity).check(request, self.function(catalog, **{PUBLIC: True}))
        assert request.principal.kind == "anonymous"
        assert request.headers[0] == ("authorization", f"Bearer {TOKEN}")
        for other in ("true", 1, None, [True]):
            with pytest.raises(NotFound):
                CallGate(identity).check(self.call(), self.function(catalog, **{PUBLIC: other}))

    def test_a_public_function_does_not_make_its_triggers_public_nor_the_other_way_round(self) -> None:
        identity, catalog = world()
        trigger = catalog.triggers[TRIGGER]
        with pytest.raises(NotFound, match="Trigger not found"):
            CallGate(identity).check(self.call(), self.function(catalog, **{PUBLIC: True}), trigger)
        function = self.function(catalog)
        CallGate(identity).check(self.call(), function, replace(trigger, annotations={PUBLIC: True}))
        with pytest.raises(NotFound):
            CallGate(identity).check(self.call(), function)


class TestWhoIsLocal:
    def who(self, peer: Peer, *, headers: Any = ()) -> Principal | None:
        identity, _ = world()
        try:
            return identity.identify("GET", b"/", list(headers), peer=peer, body=b"")
        except NotAuthenticated:
            return None

    def test_root_the_daemons_user_and_the_group(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import grp
        import os

        monkeypatch.setattr(os, "geteuid", lambda: 4242)
        entry = grp.struct_group((LOCAL_GROUP, "x", 777, []))
        monkeypatch.setattr(grp, "getgrnam", lambda name: {LOCAL_GROUP: entry}[name])
        assert self.who(Peer(unix=True, uid=0)) is not None
        assert self.who(Peer(unix=True, uid=4242)) is not None
        assert self.who(Peer(unix=True, uid=5, groups=(5, 777))) is not None
        assert self.who(Peer(unix=True, uid=5, groups=(5, 778))) is None
        assert self.who(Peer(unix=True, uid=None)) is None
        assert self.who(Peer(unix=False, uid=0, groups=(777,))) is None

    def test_who_shows_credentials_is_who_they_say(self) -> None:
        local = Peer(unix=True, uid=0)
        assert self.who(local, headers=[("authorization", f"Bearer {TOKEN}")]) is ADA
        assert self.who(local, headers=[("authorization", "Bearer wrong")]) is None

    def test_bearer_tokens(self) -> None:
        tcp = Peer(unix=False, address="192.0.2.1")
        good = ("authorization", f"Bearer {TOKEN}")
        assert self.who(tcp, headers=[good]) is ADA
        assert self.who(tcp, headers=[good, good]) is None
        assert self.who(tcp, headers=[("authorization", f"Bearer {TOKEN}x")]) is None
        assert self.who(tcp, headers=[("authorization", "Bearer ")]) is None


def test_open_mode_asks_nobody() -> None:
    request = ApiRequest(method="DELETE", path="/x")
    Gate(Audit(world()[0]), enforce=False).admit(request, Route("DELETE", "/x", None, perm.APP_DELETE))  # type: ignore[arg-type]
    assert request.principal is ANYBODY
    assert request.access.may(perm.APP_DELETE, "x")
