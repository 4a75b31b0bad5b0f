"""The console on a real daemon, as a browser without JavaScript uses it: pages, forms, and what must be refused."""

from __future__ import annotations

import html
import re
import time
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlencode

import pytest

from bench.measure_console import fill
from daemon.console.desk import ADVISED_AT_ONCE_MAX
from tests.system.daemon import HELLO, Daemon, Reply, bundle, eventually, run_daemon

pytestmark = pytest.mark.processes

PRINTS = """
import sys
def handler(ctx, data=None):
    print("<script>alert(1)</script> printed")
    print("a complaint", file=sys.stderr)
    return "answer & <b>" + ctx.Config().get("GREETING", "")
"""


class Browser:
    """Cookies, forms, redirects."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.cookies: dict[str, str] = {}

    def get(self, path: str) -> Reply:
        return self._take(self.daemon.request("GET", path, headers=self._headers()))

    def send(self, path: str, fields: dict[str, str], *, token: str | None = None) -> Reply:
        body = {"stoker_form": self.cookies.get("stoker_form", "") if token is None else token, **fields}
        headers = {**self._headers(), "Content-Type": "application/x-www-form-urlencoded"}
        reply = self._take(self.daemon.request("POST", path, urlencode(body), headers))
        return self.get(reply.headers["location"]) if reply.status == 303 else reply

    def _headers(self) -> dict[str, str]:
        return {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())} if self.cookies else {}

    def _take(self, reply: Reply) -> Reply:
        if cookie := reply.headers.get("set-cookie"):
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value
        return reply


class Balance(HTMLParser):
    """Every element that is opened is closed, in order; ids are there once."""

    VOID = frozenset({"meta", "link", "input", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.labelled: set[str] = set()
        self.fields: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if values.get("id"):
            self.ids.append(str(values["id"]))
        if tag == "label" and values.get("for"):
            self.labelled.add(str(values["for"]))
        if tag in ("input", "select", "textarea") and values.get("type") not in ("hidden", "radio"):
            self.fields.append(str(values.get("id")))
        assert not values.get("style"), f"inline style on {tag}"
        assert not any(name.startswith("on") for name in values), f"inline script on {tag}"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def checked(reply: Reply, status: int = 200) -> str:
    """The text of a page that is as every page must be."""
    text = reply.body.decode()
    assert reply.status == status, text
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert reply.headers["x-content-type-options"] == "nosniff"
    balance = Balance()
    balance.feed(text)
    assert balance.open == []
    assert len(balance.ids) == len(set(balance.ids))
    assert set(balance.fields) <= balance.labelled, "every field has a label"
    return text


@pytest.fixture
def browser(shared_daemon: Daemon) -> Browser:
    return Browser(shared_daemon)


@pytest.fixture
def app_id(shared_daemon: Daemon, request: pytest.FixtureRequest) -> str:
    return shared_daemon.app(f"console-{request.node.name[:20].replace('_', '-').strip('-')}")


def test_a_function_from_bundle_to_deletion_by_forms_alone(browser: Browser, shared_daemon: Daemon) -> None:
    shared_daemon.push(bundle(PRINTS), "prints:1")
    checked(browser.get("/console/"))
    page = checked(browser.send("/console/apps", {"name": "forms"}))
    assert "The app was created." in page
    (app_id,) = re.findall(r'action="/console/apps/(\w+)/functions"', page)
    fields = {"name": "prints", "image": "prints:1", "memory": "128", "timeout": "30"}
    page = checked(browser.send(f"/console/apps/{app_id}/functions", fields))
    assert "The function was created." in page
    (here,) = set(re.findall(r'action="(/console/functions/\w+)/settings', page))
    page = checked(browser.send(f"{here}/invoke", {"body": "x", "headers": "Content-Type: text/plain", "kind": "sync"}))
    assert "answer &amp; &lt;b&gt;" in page
    page = checked(browser.get(here))
    assert "&lt;script&gt;alert(1)&lt;/script&gt; printed" in page
    assert "<script>alert" not in page
    settings = {"memory": "256", "timeout": "20", "idle_timeout": "40", "pcu": "0", "config": "GREETING=hi\nB=2"}
    page = checked(browser.send(f"{here}/settings", settings))
    assert "Saved: a new version answers calls." in page
    assert "answer &amp; &lt;b&gt;hi" in checked(browser.send(f"{here}/invoke", {"body": "", "headers": ""}))
    page = checked(browser.send(f"{here}/settings", {**settings, "config": "B=2"}))
    assert "GREETING" not in html.unescape(re.findall(r'name="config"[^>]*>([^<]*)<', page)[0])
    assert "Nothing was changed." in checked(browser.send(f"{here}/settings", {**settings, "config": "B=2"}))
    page = checked(browser.send(f"{here}/rollback", {"version": "1"}))
    assert "Rolled back." in page
    assert 'value="128"' in page
    assert "Idle instances were told to leave." in checked(browser.send(f"{here}/restart", {}))
    assert "type the function&#39;s name" in checked(browser.send(f"{here}/delete", {"confirm": "other"}), 400)
    assert "The function was deleted." in checked(browser.send(f"{here}/delete", {"confirm": "prints"}))
    assert "The app was deleted." in checked(browser.send(f"/console/apps/{app_id}/delete", {}))


def test_what_is_wrong_is_told_with_what_was_typed(browser: Browser, shared_daemon: Daemon) -> None:
    function_id = shared_daemon.deploy("typed", HELLO)
    browser.get("/console/")
    settings = {"memory": "128", "timeout": "30", "idle_timeout": "30", "pcu": "7", "config": ""}
    page = checked(browser.send(f"/console/functions/{function_id}/settings", settings), 400)
    assert "must be a positive multiple of 40, not 7" in page
    assert re.search(r'name="pcu"[^>]* value="7"', page)
    page = checked(browser.send(f"/console/functions/{function_id}/settings", {**settings, "memory": "lots"}), 400)
    assert "memory: must be a whole number" in page
    page = checked(browser.send(f"/console/functions/{function_id}/invoke", {"headers": "no colon"}), 400)
    assert "headers: each line must be KEY:VALUE" in page


def test_a_call_and_its_page(browser: Browser, shared_daemon: Daemon) -> None:
    function_id = shared_daemon.deploy("fails", "def handler(ctx, data=None):\n    raise ValueError('<oh no>')\n")
    browser.get("/console/")
    page = checked(browser.send(f"/console/functions/{function_id}/invoke", {"body": "", "headers": ""}))
    (call_id,) = set(re.findall(r'href="/console/calls/(\w+)"', page))
    page = checked(browser.get(f"/console/calls/{call_id}"))
    assert "function-failed" in page
    assert "The handler raised an exception" in page
    assert "&lt;oh no&gt;" in page
    assert call_id in checked(browser.get(f"/console/calls?function={function_id}&show=failed"))
    assert call_id not in checked(browser.get("/console/calls?function=01ARZ3NDEKTSV4RRFFQ69G5FAV"))
    checked(browser.get("/console/calls/01ARZ3NDEKTSV4RRFFQ69G5FAV"), 404)


def test_forms_of_others_are_refused(browser: Browser, shared_daemon: Daemon) -> None:
    checked(browser.send("/console/apps", {"name": "evil"}, token=""), 403)
    browser.get("/console/")
    checked(browser.send("/console/apps", {"name": "evil"}, token="guessed" * 8), 403)
    headers = {"Origin": "http://evil.example", "Content-Type": "application/x-www-form-urlencoded"}
    reply = shared_daemon.request("POST", "/console/apps", "name=evil", headers)
    assert reply.status == 403
    assert "evil" not in {app["name"] for app in shared_daemon.api("GET", "/v2/apps")["items"]}


@pytest.mark.parametrize(
    "path", ["instances", "deadletters", "node", "calls", "functions/none", "apps/none", "static/none"]
)
def test_every_page_is_a_page(browser: Browser, path: str) -> None:
    checked(browser.get(f"/console/{path}"), 404 if path.endswith("none") else 200)


def test_static_files_and_the_way_there(browser: Browser) -> None:
    assert browser.get("/console").headers["location"] == "/console/"
    for name, kind in (("console.css", "text/css"), ("console.js", "text/javascript"), ("icon.svg", "image/svg+xml")):
        reply = browser.get(f"/console/static/{name}")
        assert (reply.status, reply.headers["content-type"].partition(";")[0]) == (200, kind)
    assert browser.get("/console/static/..%2fpages.py").status == 404


def test_a_page_does_not_wait_for_advice_about_many_calls(tmp_path: Path) -> None:
    with run_daemon(tmp_path / "data") as daemon:
        function = daemon.deploy("busy", HELLO)
    calls = ADVISED_AT_ONCE_MAX + 1000
    fill(tmp_path / "data" / "records.db", function, calls=calls, until=time.time())
    with run_daemon(tmp_path / "data") as daemon:
        page = daemon.request("GET", f"/console/functions/{function}").body.decode()
        assert f"{calls:,}" in page  # of the last hour: from the series
        assert f'data-later="/console/functions/{function}/advice?stoker_form=' in page
        assert "would have removed" not in page
        advice = daemon.request("GET", f"/console/functions/{function}/advice").body.decode()
        assert "would have removed" in advice
        assert '<section class="card" id="advice"' in advice


def test_what_the_settings_form_cannot_show_stays(browser: Browser, shared_daemon: Daemon) -> None:
    pem = "-----BEGIN-----\nA=1\n-----END-----"
    function_id = shared_daemon.deploy("kept", HELLO, config={"PEM": pem, "PLAIN": "1"})
    page = checked(browser.get(f"/console/functions/{function_id}"))
    assert "BEGIN" not in page
    assert re.search(r"kept as they are[^<]*<span[^>]*>PEM</span>", page)
    settings = {"memory": "128", "timeout": "30", "idle_timeout": "30", "pcu": "0", "config": "PLAIN=2"}
    checked(browser.send(f"/console/functions/{function_id}/settings", settings))
    assert shared_daemon.api("GET", f"/v2/fns/{function_id}")["config"] == {"PEM": pem, "PLAIN": "2"}


def test_the_change_of_another_is_not_undone_unseen(browser: Browser, shared_daemon: Daemon) -> None:
    function_id = shared_daemon.deploy("shared", HELLO)
    page = checked(browser.get(f"/console/functions/{function_id}"))
    seen = re.findall(r'name="stoker_seen" value="(\w+)"', page)[0]
    shared_daemon.api("PUT", f"/v2/fns/{function_id}", {"timeout": 77})
    settings = {"memory": "256", "timeout": "30", "idle_timeout": "30", "pcu": "0", "config": ""}
    page = checked(browser.send(f"/console/functions/{function_id}/settings", {**settings, "stoker_seen": seen}), 409)
    assert "somebody else changed this" in page
    assert "timeout: 77" in page
    assert shared_daemon.api("GET", f"/v2/fns/{function_id}")["timeout"] == 77
    again = re.findall(r'name="stoker_seen" value="(\w+)"', page)[0]
    page = checked(browser.send(f"/console/functions/{function_id}/settings", {**settings, "stoker_seen": again}))
    assert shared_daemon.api("GET", f"/v2/fns/{function_id}")["timeout"] == 30


def test_log_lines_have_the_times_of_the_machine(tmp_path: Path) -> None:
    with run_daemon(tmp_path / "data", env={"TZ": "XYZ-05:30"}) as daemon:  # five and a half hours ahead of UTC
        function_id = daemon.deploy("prints", PRINTS)
        daemon.invoke(function_id, "x")
        (line,) = eventually(lambda: daemon.api("GET", "/stoker/v1/logs?app=app&stream=stdout")["items"][-1:])
        page = checked(daemon.request("GET", f"/console/functions/{function_id}"))
    (shown,) = re.findall(r'<div class="line stdout"><time>([^<]*)</time>', page)[-1:]
    ahead = datetime.fromisoformat(line["at"]).astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert shown.endswith(ahead.strftime("%H:%M:%S"))
    assert "XYZ, UTC+05:30" in page
