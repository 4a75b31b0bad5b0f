"""The console in ``auth.mode: iam``: a link signs in as who made it, and then one sees and does what one may."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest

from tests.iam.node import Node, run_node
from tests.system.daemon import HELLO, Reply, bundle

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with run_node(tmp_path_factory.mktemp("signed") / "data", config="auth: {mode: iam}\n") as node:
        app = node.local("POST", "/v2/apps", {"name": "shop"})["id"]
        node.local("PUT", "/stoker/v1/bundles/hello:1", bundle(HELLO))
        node.local("POST", "/v2/fns", {"app_id": app, "name": "hello", "image": "hello:1"})
        yield node


class Browser:
    def __init__(self, node: Node) -> None:
        self.node = node
        self.cookies: dict[str, str] = {}
        self._token = ""

    def sign_in(self) -> Reply:
        link = self.node.local("POST", "/stoker/v1/console/links", {})
        reply = self.get(link["path"])
        assert (reply.status, reply.headers["location"]) == (303, "/console/")
        assert "HttpOnly" in reply.headers["set-cookie"]
        assert "SameSite=Strict" in reply.headers["set-cookie"]
        return reply

    def get(self, path: str) -> Reply:
        return self._take(self.node.send("GET", path, headers=self._headers()))

    def post(self, path: str, fields: dict[str, str]) -> Reply:
        token = self._token or self.cookies.get("stoker_form", "")
        body = urlencode({"stoker_form": token, **fields}).encode()
        headers = {**self._headers(), "content-type": "application/x-www-form-urlencoded"}
        return self._take(self.node.send("POST", path, body, headers))

    def _headers(self) -> dict[str, str]:
        return {"cookie": "; ".join(f"{k}={v}" for k, v in self.cookies.items())} if self.cookies else {}

    def _take(self, reply: Reply) -> Reply:
        if cookie := reply.headers.get("set-cookie"):
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value
        if found := re.search(rb'name="stoker_form" value="(\w+)"', reply.body):
            self._token = found[1].decode()
        return reply


def test_nobody_gets_in_without_a_link(node: Node) -> None:
    browser = Browser(node)
    for path in ("/console/", "/console/node", "/console/functions/x", "/console/calls"):
        reply = browser.get(path)
        assert reply.status == 401
        assert b"stoker console" in reply.body
        assert b"shop" not in reply.body
    assert browser.post("/console/apps", {"name": "evil"}).status == 401
    assert browser.get("/console/static/console.css").status == 200
    assert node.send("POST", "/stoker/v1/console/links", b"{}").status == 401
    assert browser.get("/console/login?token=guessed").status == 403


def test_a_link_signs_in_once_and_forms_work(node: Node) -> None:
    browser = Browser(node)
    browser.sign_in()
    page = browser.get("/console/").body.decode()
    (function,) = set(re.findall(r'href="(/console/functions/\w+)"', page))
    assert browser.get(function).status == 200
    reply = browser.post(f"{function}/invoke", {"body": "Ada", "headers": ""})
    assert reply.status == 200
    assert "hello" in reply.body.decode()
    assert browser.post("/console/apps", {"name": "made"}).status == 303
    other = Browser(node)
    other.cookies = {"stoker_session": "x" * 43}
    assert other.get("/console/").status == 401


def test_a_session_is_for_the_console_alone(node: Node) -> None:
    browser = Browser(node)
    browser.sign_in()
    for method, path in (("GET", "/v2/apps"), ("GET", "/stoker/v1/instances"), ("POST", "/v2/apps")):
        reply = node.send(method, path, b"", {"cookie": f"stoker_session={browser.cookies['stoker_session']}"})
        assert reply.status == 401, path
    function = re.findall(r"/console/functions/(\w+)", browser.get("/console/").body.decode())[0]
    stolen = {"cookie": f"stoker_session={browser.cookies['stoker_session']}"}
    assert node.send("POST", f"/invoke/{function}", b"", stolen).status == 401


def test_a_session_is_not_for_scripts(node: Node) -> None:
    """But for those of its own pages, which know the token."""
    browser = Browser(node)
    browser.sign_in()
    page = browser.get("/console/").body.decode()
    (token,) = set(re.findall(r'name="stoker_form" value="(\w+)"', page))
    cookie = {"cookie": f"stoker_session={browser.cookies['stoker_session']}"}
    person = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    for how in ({"sec-fetch-mode": "cors", "sec-fetch-dest": "empty"}, {**person, "sec-fetch-dest": "iframe"}):
        assert node.send("GET", "/console/", headers={**cookie, **how}).status == 401
        assert node.send("GET", "/console/?stoker_form=guessed", headers={**cookie, **how}).status == 401
        assert node.send("GET", f"/console/?stoker_form={token}", headers={**cookie, **how}).status == 200
    reply = node.send("GET", "/console/", headers={**cookie, **person})
    assert (reply.status, reply.headers["cross-origin-opener-policy"]) == (200, "same-origin")
    assert "stoker_form" not in browser.cookies, "the session's token needs no cookie"


def test_signing_out(node: Node) -> None:
    browser = Browser(node)
    browser.sign_in()
    browser.get("/console/")
    secret = browser.cookies["stoker_session"]
    assert browser.post("/console/logout", {}).status == 303
    browser.cookies["stoker_session"] = secret
    assert browser.get("/console/").status == 401


SHOWS_HEADERS = """
import json

def handler(ctx, data=None):
    return json.dumps([dict(ctx.Headers()), dict(ctx.HTTPHeaders())])
"""


def test_a_public_page_of_a_function_does_not_get_its_readers_session(node: Node) -> None:
    browser = Browser(node)
    browser.sign_in()
    public = {"annotations": {"stoker.dev/public": True}}
    function = node.deploy("other", "page", SHOWS_HEADERS, **public)
    app = node.local("GET", "/v2/apps?name=other")["items"][0]["id"]
    trigger = {"name": "p", "app_id": app, "fn_id": function, "type": "http", "source": "/p", **public}
    node.local("POST", "/v2/triggers", trigger)
    browser.cookies["own"] = "kept"
    for reply in (browser.get("/t/other/p"), browser.post(f"/invoke/{function}", {})):
        assert reply.status == 200, reply.body
        assert b"own=kept" in reply.body
        assert b"stoker_session" not in reply.body


def test_sessions_end_with_what_opened_them(node: Node) -> None:
    node.user("eve")
    token = node.local("POST", "/stoker/v1/iam/users/eve/tokens", {})
    links = [node.signed("eve", "POST", "/stoker/v1/console/links", {}).json["path"] for _ in range(3)]
    first, second, third = Browser(node), Browser(node), Browser(node)
    first.get(links[0])
    assert first.get("/console/").status == 200
    node.local("DELETE", f"/stoker/v1/iam/users/eve/tokens/{token['id']}")
    assert first.get("/console/").status == 401, "the token may have been what opened it"
    assert second.get(links[1]).status == 403
    second.get(node.signed("eve", "POST", "/stoker/v1/console/links", {}).json["path"])
    assert second.get("/console/").status == 200
    fingerprint = node.local("GET", "/stoker/v1/iam/users/eve")["keys"][0]["fingerprint"]
    node.local("DELETE", f"/stoker/v1/iam/users/eve/keys/{fingerprint}")
    assert second.get("/console/").status == 401
    assert third.get(links[2]).status == 403
