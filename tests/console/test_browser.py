"""The console in Chromium: nothing sticks out, nothing is logged, the rules of axe hold, forms and live logs work.

The browser is the system's (Debian: ``apt install chromium``); axe-core comes from npm. What is not to be had is a
skip that says so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.measure_console import fill
from tests.system.daemon import PATIENCE_S, Daemon, run_daemon

pytestmark = [pytest.mark.processes, pytest.mark.slow]

AXE = "axe-core@4.10.3"
PICTURES = os.environ.get("STOKER_PICTURES", "")
"""A directory: pictures of the pages are left there, for the manual."""
SOURCE = """
import sys, time
def handler(ctx, data=None):
    text = data.getvalue().decode()
    print("asked for", text or "nothing")
    if text == "fail":
        raise ValueError("on purpose")
    time.sleep(0.002)
    return "answer to " + text
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with run_daemon(tmp_path_factory.mktemp("console") / "data") as running:
        first = running.deploy("greeter", SOURCE, app="shop", memory=128)
        running.deploy("resize", SOURCE, app="shop", memory=256)
        running.deploy("report", SOURCE, app="office", memory=512)
        running.api("PUT", f"/v2/fns/{first}", {"provisioned_concurrency": {"strategy": "CONSTANT", "count": 40}})
        if PICTURES:  # an hour before these calls, so that the charts have something to show
            fill(running.data / "records.db", first, calls=3000, until=time.time() - 60)
        for n in range(40):
            running.invoke(first, "fail" if n % 13 == 5 else f"call {n}")
        yield running


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script, or empty when npm cannot get it."""
    directory = tmp_path_factory.mktemp("axe")
    npm = shutil.which("npm")
    if npm is None:
        return ""
    done = subprocess.run(
        [npm, "pack", "--silent", AXE], cwd=directory, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    if done.returncode != 0:
        return ""
    subprocess.run(["tar", "xzf", done.stdout.split()[-1]], cwd=directory, check=True)
    return (directory / "package" / "axe.min.js").read_text()


def pages(daemon: Daemon) -> dict[str, str]:
    function = daemon.deployed.get("greeter", "")
    app = daemon.api("GET", "/v2/apps?name=shop")["items"][0]["id"]
    function = function or daemon.api("GET", f"/v2/fns?app_id={app}&name=greeter")["items"][0]["id"]
    calls = daemon.api("GET", f"/stoker/v1/functions/{function}/calls?failed=true")["items"]
    return {
        "overview": "/console/",
        "app": f"/console/apps/{app}",
        "function": f"/console/functions/{function}",
        "advice": f"/console/functions/{function}/advice",
        "calls": "/console/calls",
        "call": f"/console/calls/{calls[0]['id']}",
        "instances": "/console/instances",
        "deadletters": "/console/deadletters",
        "node": "/console/node",
        "missing": "/console/functions/none",
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 480])
def test_every_page_fits_is_quiet_and_keeps_the_rules(
    chromium: Any, daemon: Daemon, axe: str, scheme: str, width: int
) -> None:
    context = chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}, bypass_csp=True)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    for name, path in pages(daemon).items():
        page.goto(daemon.url + path)
        if name != "missing":
            assert said == [], name
        said.clear()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} is wider than the window"
        if axe:
            page.evaluate(axe)
            found = page.evaluate("axe.run()")
            wrong = [
                (rule["id"], rule["help"], [node["html"][:200] for node in rule["nodes"]])
                for rule in found["violations"]
            ]
            assert wrong == [], f"{name}: {wrong}"
            assert len(found["passes"]) > 10
        if PICTURES:
            page.screenshot(path=str(Path(PICTURES) / f"console-{name}-{scheme}-{width}.png"), full_page=True)
    context.close()
    if not axe:
        pytest.skip("the pages fit and are quiet; axe-core could not be had from npm, so its rules were not looked at")


def test_names_of_any_length_fit_the_smallest_window(chromium: Any, daemon: Daemon) -> None:
    app = daemon.app("a" * 255)
    function = {"app_id": app, "name": "n" * 255, "image": next(iter(daemon.deployed)), "memory": 128}
    made = daemon.api("POST", "/v2/fns", function)["id"]
    daemon.invoke(made)
    page = chromium.new_page(viewport={"width": 320, "height": 800})
    for path in ("/console/", f"/console/apps/{app}", f"/console/functions/{made}", "/console/calls", "/console/node"):
        page.goto(daemon.url + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 320, path
    page.close()
    daemon.api("DELETE", f"/v2/fns/{made}")
    daemon.api("DELETE", f"/v2/apps/{app}")


def test_the_policy_of_the_pages_stops_foreign_script(chromium: Any, daemon: Daemon) -> None:
    page = chromium.new_page()
    page.goto(f"{daemon.url}/console/")
    page.evaluate("window.ran = false")
    page.evaluate(
        "const s = document.createElement('script'); s.textContent = 'window.ran = true'; document.body.append(s)"
    )
    assert page.evaluate("window.ran") is False
    page.close()


def test_a_function_is_used_by_keyboard_and_mouse(chromium: Any, daemon: Daemon) -> None:
    page = chromium.new_page()
    page.goto(f"{daemon.url}/console/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    page.get_by_role("link", name="greeter").click()
    page.get_by_label("Body").fill("by hand")
    page.get_by_role("button", name="Invoke", exact=True).click()
    assert "answer to by hand" in page.locator(".answer").inner_text()
    page.get_by_label("Memory (MiB)").fill("256")
    page.get_by_role("button", name="Save settings").click()
    assert "a new version answers calls" in page.get_by_role("status").inner_text()
    page.get_by_role("button", name="Roll back to 1").click()
    assert "Rolled back" in page.get_by_role("status").inner_text()
    page.close()


def test_what_is_printed_shows_as_it_comes(chromium: Any, daemon: Daemon) -> None:
    page = chromium.new_page()
    path = pages(daemon)["function"]
    page.goto(daemon.url + path)
    button = page.get_by_role("button", name="Follow live")
    button.click()
    page.get_by_role("button", name="Following: stop").wait_for()
    function_id = path.rpartition("/")[2]
    for n in range(200):  # the stream is open when the first of these is shown
        daemon.invoke(function_id, f"live {n}")
        if page.locator("#log-lines", has_text=f"live {n}").count():
            break
    else:
        pytest.fail("no line came")
    page.get_by_role("button", name="Following: stop").click()
    page.get_by_role("button", name="Follow live").wait_for()
    page.close()
