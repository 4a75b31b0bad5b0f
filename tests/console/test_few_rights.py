"""The console of somebody with few rights, in mode ``iam``: he sees and does there what his policies allow, no more."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.console.test_signed_in import Browser
from tests.iam.node import Node, run_node
from tests.system.daemon import bundle, eventually

pytestmark = pytest.mark.processes

SOURCE = """
def handler(ctx, data=None):
    print("secret words of", ctx.FnName())
    if data.getvalue() == b"fail":
        raise ValueError("on purpose")
    return "fine"
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with run_node(tmp_path_factory.mktemp("few") / "data", config="auth: {mode: iam}\n") as node:
        for name in ("shop", "bank"):
            made = node.local("POST", "/stoker/v1/iam/compartments", {"name": name})
            app = node.local("POST", "/v2/apps", {"name": f"{name}-app", "compartment_id": made["id"]})["id"]
            image = f"{name}-fn:1"
            node.local("PUT", f"/stoker/v1/bundles/{image}", bundle(SOURCE))
            fn = {"app_id": app, "name": f"{name}-fn", "image": image}
            id_ = node.local("POST", "/v2/fns", fn)["id"]
            assert node.send("POST", f"/invoke/{id_}", b"", local=True).status == 200
            failed = {"fn-invoke-type": "detached"}
            assert node.send("POST", f"/invoke/{id_}", b"fail", failed, local=True).status == 202
        eventually(lambda: len(node.local("GET", "/stoker/v1/deadletters")["items"]) == 2)
        for number, (user, statements) in enumerate(
            {
                "reader": ["read functions-family in compartment shop"],
                "owner": ["manage functions-family in compartment shop"],
                "nobody": [],
            }.items()
        ):
            node.user(user, number)
            node.local("POST", "/stoker/v1/iam/groups", {"name": user})
            node.local("PUT", f"/stoker/v1/iam/groups/{user}/members/{user}")
            if statements:
                node.policy(user, *[f"Allow group {user} to {text}" for text in statements])
        yield node


def signed_in(node: Node, user: str) -> Browser:
    browser = Browser(node)
    reply = node.signed(user, "POST", "/stoker/v1/console/links")
    assert reply.status == 200, reply.body
    assert browser.get(reply.json["path"]).status == 303
    return browser


def ids(node: Node, name: str) -> tuple[str, str, str, str]:
    """App, function, an ended call and a dead letter of one of the two."""
    app = node.local("GET", f"/v2/apps?name={name}-app")["items"][0]["id"]
    function = node.local("GET", f"/v2/fns?app_id={app}")["items"][0]["id"]
    call = node.local("GET", f"/stoker/v1/functions/{function}/calls")["items"][0]["id"]
    letter = node.local("GET", f"/stoker/v1/functions/{function}/deadletters")["items"][0]["call_id"]
    return app, function, call, letter


PAGES = ("/console/", "/console/calls", "/console/instances", "/console/deadletters")


@pytest.mark.parametrize("user", ["reader", "owner"])
def test_every_page_is_cut_to_what_he_may_see(node: Node, user: str) -> None:
    browser = signed_in(node, user)
    app, function, call, letter = ids(node, "shop")
    own = (f"/console/apps/{app}", f"/console/functions/{function}", f"/console/calls/{call}")
    for path in (*PAGES, *own):
        reply = browser.get(path)
        text = reply.body.decode()
        assert reply.status == 200, (path, text)
        assert "shop" in text, path
        assert "bank" not in text, path
        assert "/console/node" not in text, path
    assert browser.get("/console/node").status == 404
    app, function, call, letter = ids(node, "bank")
    for path in (f"apps/{app}", f"functions/{function}", f"calls/{call}", f"calls/{letter}"):
        reply = browser.get(f"/console/{path}")
        assert reply.status == 404, path
        assert b"bank" not in reply.body
    listed = browser.get(f"/console/calls?function={function}").body.decode()
    assert call not in listed


def test_who_may_see_nothing_sees_nothing(node: Node) -> None:
    browser = signed_in(node, "nobody")
    page = browser.get("/console/")
    assert page.status == 200
    assert b"may not see" in page.body
    assert b"shop" not in page.body
    assert b"bank" not in page.body
    assert b"Create app" not in page.body
    for path in PAGES[1:]:
        assert browser.get(path).status == 404, path


def forms(page: str) -> set[str]:
    """What the forms of a page are sent to."""
    return {re.sub(r"#.*", "", target) for target in re.findall(r'<form method="post" action="([^"]+)"', page)}


def test_a_reader_gets_no_forms_and_cannot_send_any(node: Node) -> None:
    browser = signed_in(node, "reader")
    app, function, _, letter = ids(node, "shop")
    seen = set()
    for path in (*PAGES, f"/console/apps/{app}", f"/console/functions/{function}"):
        seen |= forms(browser.get(path).body.decode())
    assert seen == {"/console/logout"}
    sent = {
        f"functions/{function}/settings": {"memory": "256", "timeout": "9", "idle_timeout": "9", "pcu": "0"},
        f"functions/{function}/rollback": {"version": "1"},
        f"functions/{function}/restart": {},
        f"functions/{function}/delete": {"confirm": "shop-fn"},
        f"functions/{function}/invoke": {"body": "", "headers": ""},
        "apps": {"name": "mine"},
        f"apps/{app}/config": {"config": "A=1"},
        f"apps/{app}/delete": {},
        f"apps/{app}/functions": {"name": "x", "image": "shop-fn:1", "memory": "128", "timeout": "9"},
        f"deadletters/{letter}/redrive": {},
        f"deadletters/{letter}/delete": {},
    }
    for path, fields in sent.items():
        assert browser.post(f"/console/{path}", fields).status == 404, path
    assert node.local("GET", f"/v2/fns/{function}")["memory"] == 128
    assert len(node.local("GET", "/stoker/v1/deadletters")["items"]) == 2


def test_an_owner_does_what_he_may_where_he_may(node: Node) -> None:
    browser = signed_in(node, "owner")
    _, function, _, letter = ids(node, "shop")
    page = browser.get(f"/console/functions/{function}").body.decode()
    assert {f"/console/functions/{function}/{word}" for word in ("settings", "restart", "delete", "invoke")} <= forms(
        page
    )
    fields = {"memory": "256", "timeout": "9", "idle_timeout": "9", "pcu": "0", "config": ""}
    assert browser.post(f"/console/functions/{function}/settings", fields).status == 303
    assert browser.post(f"/console/functions/{function}/invoke", {"body": "", "headers": ""}).status == 200
    assert "Create app" in browser.get("/console/").body.decode()
    compartments = {c["name"]: c["id"] for c in node.local("GET", "/stoker/v1/iam/compartments")["items"]}
    assert browser.post("/console/apps", {"name": "new", "compartment": compartments["shop"]}).status == 303
    for elsewhere in ("", compartments["bank"], "ocid1.compartment.none"):
        assert browser.post("/console/apps", {"name": "newer", "compartment": elsewhere}).status == 404
    assert browser.post(f"/console/deadletters/{letter}/delete", {}).status == 303
    *_, others = ids(node, "bank")
    for word in ("redrive", "delete"):
        assert browser.post(f"/console/deadletters/{others}/{word}", {}).status == 404
    other_app, other, *_ = ids(node, "bank")
    assert browser.post(f"/console/functions/{other}/restart", {}).status == 404
    assert browser.post(f"/console/apps/{other_app}/config", {"config": "A=1"}).status == 404


def test_a_list_of_calls_tells_nothing_of_others_not_even_how_many(node: Node) -> None:
    app = node.local("GET", "/v2/apps?name=shop-app")["items"][0]["id"]
    function = node.local("GET", f"/v2/fns?app_id={app}")["items"][0]["id"]
    own = node.local("GET", f"/stoker/v1/functions/{function}/calls?limit=1000")["items"]
    reply = node.signed("reader", "GET", "/stoker/v1/calls?slow=true&limit=1000")
    assert reply.status == 200
    assert reply.json["scanned"] == len(own)
    assert reply.json["slow_s"] in {item["total_s"] for item in own}
    assert node.local("GET", "/stoker/v1/calls?limit=1000")["scanned"] > len(own)
