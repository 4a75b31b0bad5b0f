"""Which row answers, and what a request gets that no row fits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.auth.permissions import APP_DELETE, APP_READ, APP_UPDATE, AUTHENTICATED, EVERYBODY, PERMISSIONS
from daemon.errors import Conflict, InternalError, QueueTimeout
from daemon.http import fn_api
from daemon.http.routing import Router, compile_path
from daemon.http.views import ApiReply, ApiRequest, Route
from tests.control.world import World


async def echo(service: Any, request: ApiRequest) -> ApiReply:
    return ApiReply(body=[service, request.params])


async def busy(service: Any, request: ApiRequest) -> ApiReply:
    raise QueueTimeout(detail="64 of 64", call_id="C1")


ROUTES = [
    Route("GET", "/a/{id}", echo, APP_READ),
    Route("GET", "/a/{id}/b", echo, APP_READ),
    Route("PUT", "/x/{name:path}:{version}", echo, APP_UPDATE),
    Route("GET", "/busy", busy, APP_READ),
    Route("DELETE", "/a/{id}", echo, APP_DELETE),
]
ROUTER = Router(
    [(ROUTES, "one"), ([Route("GET", "/a/{other}", echo, EVERYBODY), Route("GET", "/b.c", echo, EVERYBODY)], "two")]
)


async def ask(method: str, path: str, query: str = "") -> ApiReply:
    return await ROUTER.dispatch(ApiRequest(method=method, path=path, query_string=query))


@pytest.mark.parametrize(
    ("method", "path", "service", "params"),
    [
        ("GET", "/a/1", "one", {"id": "1"}),
        ("GET", "/a/é b", "one", {"id": "é b"}),
        ("GET", "/a/1\n", "one", {"id": "1\n"}),
        ("DELETE", "/a/1", "one", {"id": "1"}),
        ("GET", "/a/1/b", "one", {"id": "1"}),
        ("PUT", "/x/reg/n:1:2", "one", {"name": "reg/n:1", "version": "2"}),
        ("GET", "/b.c", "two", {}),
    ],
)
async def test_the_first_row_that_fits_answers(method: str, path: str, service: str, params: dict[str, str]) -> None:
    assert (await ask(method, path)).body == [service, params]


@pytest.mark.parametrize("path", ["/", "/a", "/a//b", "/a/1/c", "/bxc", "/B.c", "a/1", "", "/x/n"])
async def test_an_unknown_path(path: str) -> None:
    reply = await ask("GET", path)
    assert (reply.status, reply.encode()) == (
        404,
        b'{"message":"Path not found: GET %s","code":"not-found"}' % path.encode(),
    )


async def test_a_known_path_with_another_method() -> None:
    reply = await ask("POST", "/a/1")
    assert (reply.status, reply.encode()) == (
        405,
        b'{"message":"Method not allowed: POST /a/1","code":"method-not-allowed"}',
    )
    assert ("Allow", "DELETE, GET") in reply.headers


@pytest.mark.parametrize(
    ("method", "path", "query", "status", "location", "body"),
    [
        ("GET", "/a/1/", "", 301, "/a/1", '<a href="/a/1">Moved Permanently</a>.\n\n'),
        ("GET", "/a/1/", "x=1&y=%20", 301, "/a/1?x=1&y=%20", None),
        ("POST", "/a/1/", "", 307, "/a/1", ""),
        ("PUT", "/a/1/", "q", 307, "/a/1?q", ""),
        ("GET", '/a/"><b>/', "", 301, "/a/%22%3E%3Cb%3E", None),
        ("GET", "/a/é\r\nX: y/", "", 301, "/a/%C3%A9%0D%0AX:%20y", None),
    ],
)
async def test_a_trailing_slash_is_redirected(
    method: str, path: str, query: str, status: int, location: str, body: str | None
) -> None:
    reply = await ask(method, path, query)
    assert (reply.status, dict(reply.headers)["Location"]) == (status, location)
    assert (reply.type() or "") == ("text/html; charset=utf-8" if method == "GET" else "")
    if body is not None:
        assert reply.encode().decode() == body


@pytest.mark.parametrize("path", ["/a/1//", "//", "/nope/", "//evil.example/", "/a//"])
async def test_what_is_not_redirected(path: str) -> None:
    assert (await ask("GET", path)).status == 404


async def test_errors_become_replies() -> None:
    reply = await ask("GET", "/busy")
    assert (reply.status, reply.headers) == (503, [("Retry-After", "15"), ("Fn-Call-Id", "C1")])
    assert reply.encode().endswith(b'"detail":"64 of 64","call_id":"C1"}\n')


async def test_bugs_are_not_hidden() -> None:
    async def bug(service: Any, request: ApiRequest) -> ApiReply:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await Router([([Route("GET", "/", bug, EVERYBODY)], None)]).dispatch(ApiRequest(method="GET", path="/"))


@given(st.text(max_size=30))
def test_placeholders_take_whole_segments(value: str) -> None:
    found = compile_path("/a/{id}/c").fullmatch(f"/a/{value}/c")
    assert (found is not None and found["id"] == value) == (value != "" and "/" not in value)


def test_every_route_has_a_permission_and_a_docstring_that_names_it() -> None:
    for route in fn_api.ROUTES:
        assert route.permission == AUTHENTICATED or PERMISSIONS[route.permission.name].verb == route.permission.verb
        assert route.handler.__doc__
        assert compile_path(route.path)
    assert len({(r.method, r.path) for r in fn_api.ROUTES}) == len(fn_api.ROUTES) == 21


@pytest.mark.parametrize(
    ("text", "items"),
    [("", 30), ("2", 2), ("0", 30), ("-1", 30), ("x", 30), ("1000", 100), ("٤", 30), ("9" * 5000, 30)],
)
def test_items_per_page(text: str, items: int) -> None:
    assert fn_api.per_page(ApiRequest(method="GET", path="/", query={"per_page": [text]})) == items


async def test_paging_sees_every_item_once(w: World) -> None:
    app = (await w.send("POST", "/v2/apps", {"name": "app"})).body["id"]
    for number in range(7):
        fn = {"name": f"f{number}", "app_id": app, "image": "i"}
        fn_id = (await w.send("POST", "/v2/fns", fn)).body["id"]
        trigger = {"name": "same", "app_id": app, "fn_id": fn_id, "type": "http", "source": f"/{number}"}
        await w.send("POST", "/v2/triggers", trigger)
    for what, name in (("fns", "name"), ("triggers", "source")):
        seen, cursor = [], ""
        while True:
            page = (await w.send("GET", f"/v2/{what}?app_id={app}&per_page=3&cursor={cursor}")).body
            seen += [item[name] for item in page["items"]]
            if not (cursor := page.get("next_cursor", "")):
                break
        assert sorted(seen) == sorted({f"f{n}" if what == "fns" else f"/{n}" for n in range(7)})
        assert len(seen) == 7


async def test_triggers_are_found_by_source(w: World) -> None:
    app = (await w.send("POST", "/v2/apps", {"name": "app"})).body["id"]
    fn = (await w.send("POST", "/v2/fns", {"name": "f", "app_id": app, "image": "i"})).body["id"]
    trigger = {"name": "t", "app_id": app, "fn_id": fn, "type": "http", "source": "/a/b"}
    made = (await w.send("POST", "/v2/triggers", trigger)).body
    base = f"/v2/runner/apps/{app}/triggerBySource"
    assert (await w.send("GET", f"{base}/http//a/b")).body == made
    for path in (f"{base}/http/a/b", f"{base}/kafka//a/b", "/v2/runner/apps/x/triggerBySource/http//a/b"):
        assert (await w.send("GET", path)).body["message"] == "Trigger not found"


async def test_the_disk_refuses_and_nothing_changes(w: World) -> None:
    """A full disk in the middle of a change: 500 that says so, catalog and store as before."""
    app = (await w.send("POST", "/v2/apps", {"name": "app"})).body["id"]
    pages = await w.database.write(lambda conn: conn.execute("PRAGMA page_count").fetchone()[0])
    await w.database.write(lambda conn: conn.execute(f"PRAGMA max_page_count={pages}").fetchone())
    reply = await w.send("PUT", f"/v2/apps/{app}", {"config": {"k": "x" * 100_000}})
    assert (reply.status, reply.body["code"]) == (500, "internal-error")
    assert "database or disk is full" in reply.body["detail"]
    assert w.deployer.reconfigured == []
    await w.assert_catalog_is_what_is_stored()
    with pytest.raises(InternalError):
        await w.push("f:1" + "x" * 9000)
    assert (await w.send("GET", f"/v2/apps/{app}")).body.get("config") is None


async def test_conflicts_are_conflicts(w: World) -> None:
    assert Conflict.status == 409
    await w.send("POST", "/v2/apps", {"name": "app"})
    assert (await w.send("POST", "/v2/apps", {"name": "app"})).status == 409
