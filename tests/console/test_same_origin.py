"""A function's page has the console's origin. What its script may try in the browser of somebody who is signed in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.iam.node import Node, run_node
from tests.system.daemon import eventually

pytestmark = [pytest.mark.processes, pytest.mark.slow]

HOSTILE = """
from fdk import response

def handler(ctx, data=None):
    headers = {"Service-Worker-Allowed": "/", "Cross-Origin-Opener-Policy": "same-origin", "Clear-Site-Data": '"*"'}
    headers["Content-Type"] = "text/javascript" if "worker" in ctx.RequestURL() else "text/html"
    return response.Response(ctx, response_data="/* or */ <p>a page</p>", headers=headers)
"""
READS = """async (path) => {
  const told = async (text) => { try { return String(await text()); } catch (error) { return "refused: " + error; } };
  return {
    fetched: await told(async () => (await fetch(path)).text()),
    asked: await told(() => new Promise((done) => {
      const request = new XMLHttpRequest();
      request.onloadend = () => done(request.responseText);
      request.open("GET", path);
      request.send();
    })),
    framed: await told(() => new Promise((done) => {
      const frame = document.createElement("iframe");
      frame.onload = () => done(frame.contentDocument ? frame.contentDocument.body.innerText : "refused");
      frame.src = path;
      document.body.append(frame);
    })),
  };
}"""
OPENS = "(path) => { window.victim = window.open(path); }"
LOOKS = """() => {
  const {victim} = window;
  try { return victim.closed ? "closed" : victim.document.body.innerText; } catch (error) { return "refused"; }
}"""
POSTS = """async () => {
  document.cookie = "stoker_form=" + "x".repeat(32) + "; path=/console/apps";
  const body = "stoker_form=" + "x".repeat(32) + "&name=stolen";
  const headers = {"Content-Type": "application/x-www-form-urlencoded"};
  return (await fetch("/console/apps", {method: "POST", body, headers})).status;
}"""
SUBMITS = """() => {
  const form = document.createElement("form");
  form.method = "post";
  form.action = "/console/apps";
  for (const [name, value] of [["stoker_form", "x".repeat(32)], ["name", "stolen"]]) {
    const field = document.createElement("input");
    field.name = name;
    field.value = value;
    form.append(field);
  }
  document.body.append(form);
  form.submit();
}"""
WORKS = """async () => {
  try { return (await navigator.serviceWorker.register("/t/evil/p?worker", {scope: "/"})).scope; }
  catch (error) { return "refused"; }
}"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with run_node(tmp_path_factory.mktemp("origin") / "data") as node:
        public = {"annotations": {"stoker.dev/public": True}}
        function = node.deploy("evil", "page", HOSTILE, **public)
        app = node.local("GET", "/v2/apps?name=evil")["items"][0]["id"]
        trigger = {"name": "p", "app_id": app, "fn_id": function, "type": "http", "source": "/p", **public}
        node.local("POST", "/v2/triggers", trigger)
        node.deploy("secrets", "vault-seven", HOSTILE)
        yield node


@pytest.fixture
def page(chromium: Any, node: Node) -> Iterator[Any]:
    """Signed in, and then on the hostile page."""
    context = chromium.new_context()
    page = context.new_page()
    page.goto(node.url + node.local("POST", "/stoker/v1/console/links", {})["path"])
    assert "secrets" in page.inner_text("body"), "signed in"
    yield page
    context.close()


def vault(node: Node) -> str:
    app = node.local("GET", "/v2/apps?name=secrets")["items"][0]["id"]
    return str(node.local("GET", f"/v2/fns?app_id={app}")["items"][0]["id"])


def test_it_reads_no_page_and_no_log(page: Any, node: Node) -> None:
    page.goto(f"{node.url}/t/evil/p")
    page.evaluate("history.replaceState(null, '', '/console/looks-like-ours')")
    for path in ("/console/", f"/console/functions/{vault(node)}"):
        found = page.evaluate(READS, path)
        assert [how for how, text in found.items() if "secrets" in text or "vault-seven" in text] == [], path
    assert page.evaluate(f"fetch('/stoker/v1/functions/{vault(node)}/logs/stream').then((r) => r.status)") == 401
    assert page.evaluate("fetch('/console/').then((r) => r.status)") == 401


def test_it_has_no_hold_of_a_window_with_the_console(page: Any, node: Node) -> None:
    page.goto(f"{node.url}/t/evil/p")
    with page.context.expect_page() as opened:
        page.evaluate(OPENS, "/console/")
    opened.value.wait_for_load_state()
    assert "secrets" in opened.value.inner_text("body"), "the person sees it, and so would who can read the window"
    assert page.evaluate(LOOKS) in ("closed", "refused")


def test_it_sends_no_form_and_keeps_no_worker(page: Any, node: Node) -> None:
    page.goto(f"{node.url}/t/evil/p")
    assert page.evaluate(WORKS) == "refused"
    assert page.evaluate(POSTS) == 401
    with page.expect_navigation():
        page.evaluate(SUBMITS)
    assert "not sent by the console" in page.inner_text("body")
    assert node.local("GET", "/v2/apps?name=stolen")["items"] == []


def test_the_consoles_own_pages_go_on_working(page: Any, node: Node) -> None:
    page.goto(f"{node.url}/console/functions/{vault(node)}")
    page.get_by_role("button", name="Follow live").click()
    page.get_by_role("button", name="Following: stop").wait_for()
    assert eventually(lambda: page.locator("button[data-live]").get_attribute("aria-pressed") == "true")
    page.goto(f"{node.url}/console/")
    page.locator("input[name=name]").first.fill("made-here")
    with page.expect_navigation():
        page.locator("form[action='/console/apps'] button").click()
    assert node.local("GET", "/v2/apps?name=made-here")["items"]
