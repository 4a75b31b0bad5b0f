"""``stoker dev`` on a real daemon: a save is live, a mistake is shown and harms nothing, output and calls are seen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.debug.dap import Editor
from tests.system.daemon import PATIENCE_S, ROOT, Daemon, eventually

pytestmark = pytest.mark.processes

SOURCE = """
import sys

def handler(ctx, data=None):
    print("printed NUMBER")
    if data.getvalue() == b"fail":
        raise ValueError("on purpose")
    return "number NUMBER"
"""


RETURN_LINE = 8


class Session:
    """A running ``stoker dev``; what it showed goes to a file."""

    def __init__(self, daemon: Daemon, directory: Path, *more: str) -> None:
        self.daemon = daemon
        self.source = directory / "func.py"
        self.shown = directory.parent / "shown"
        environment = {
            **os.environ, "STOKER_URL": daemon.url, "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": str(directory.parent / "cache"), "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        with self.shown.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cli", "dev", "--app", "devs", *more, str(directory)],
                env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def sees(self, text: str, *, times: int = 1) -> None:
        eventually(lambda: self.shown.read_text().count(text) >= times, what=f"{text!r} in\n{self.shown.read_text()}")

    def call(self, body: str = "") -> str:
        app = self.daemon.api("GET", "/v2/apps?name=devs")["items"][0]["id"]
        function = self.daemon.api("GET", f"/v2/fns?app_id={app}&name=work")["items"][0]["id"]
        return self.daemon.invoke(function, body).body.decode()


@pytest.fixture
def session(shared_daemon: Daemon, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Session]:
    directory = tmp_path / "work"
    directory.mkdir()
    (directory / "func.yaml").write_text("schema_version: 20180708\nname: work\nversion: 0.0.1\nruntime: python\n")
    (directory / "func.py").write_text(SOURCE.replace("NUMBER", "1"))
    made = Session(shared_daemon, directory, *getattr(request, "param", ()))
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait(PATIENCE_S)


def test_save_break_mend_and_leave(session: Session) -> None:
    session.sees("Watching")
    assert session.call() == "number 1"
    session.sees("printed 1")
    session.sees("call      ok in ")

    session.source.write_text(SOURCE.replace("NUMBER", "2"))
    session.sees("saved     func.py")
    session.sees("work, version 2, in ")
    assert session.call() == "number 2"

    session.source.write_text("def handler(\n")
    session.sees("SyntaxError: '(' was never closed")
    session.sees("the old version goes on serving")
    assert session.call() == "number 2"

    session.source.write_text(SOURCE.replace("NUMBER", "3"))
    session.sees("live      ", times=3)
    assert session.call() == "number 3"
    session.call("fail")
    session.sees("function-failed in ")
    session.sees("fn - ERROR - on purpose")

    session.process.send_signal(signal.SIGINT)
    assert session.process.wait(PATIENCE_S) == 130


def test_long_calls_are_seen_and_a_renamed_function_is_followed(session: Session) -> None:
    session.sees("Watching")
    session.source.write_text("import time\ndef handler(ctx, data=None):\n    time.sleep(6)\n")
    session.sees("live      work, ", times=2)
    session.call()
    session.sees("call      ok in ")  # though it began long before it could be asked for
    session.source.write_text(SOURCE.replace("NUMBER", "2"))
    session.sees("live      work, ", times=3)
    yaml = session.source.parent / "func.yaml"
    yaml.write_text(yaml.read_text().replace("name: work", "name: other"))
    session.sees("live      other, version ")
    app = session.daemon.api("GET", "/v2/apps?name=devs")["items"][0]["id"]
    function = session.daemon.api("GET", f"/v2/fns?app_id={app}&name=other")["items"][0]["id"]

    def called() -> bool:  # the log is followed from a moment after the deploy on
        session.daemon.invoke(function, "")
        return "printed 2" in session.shown.read_text()

    eventually(called, what="output of the function by its new name")
    session.sees("call      ok in ", times=2)


def test_a_daemon_that_comes_back_is_followed_again(tmp_path: Path) -> None:
    from tests.system.daemon import run_daemon

    directory = tmp_path / "work"
    directory.mkdir()
    (directory / "func.yaml").write_text("schema_version: 20180708\nname: work\nversion: 0.0.1\nruntime: python\n")
    (directory / "func.py").write_text(SOURCE.replace("NUMBER", "1"))
    with run_daemon(tmp_path / "data") as daemon:
        session = Session(daemon, directory)
        try:
            session.sees("Watching")
            port = daemon.port
            daemon.stop()
            session.source.write_text(SOURCE.replace("NUMBER", "2"))
            session.sees("cannot reach the daemon")
            with run_daemon(tmp_path / "data", "--listen", f"127.0.0.1:{port}") as again:
                session.daemon = again  # what was saved meanwhile is sent without another save
                session.sees("version 2, in ")
                end_s = time.monotonic() + PATIENCE_S
                while "printed 2" not in session.shown.read_text() and time.monotonic() < end_s:
                    session.call()  # the log stream is opened anew within a second
                session.sees("printed 2")
        finally:
            session.process.kill()
            session.process.wait(PATIENCE_S)


@pytest.mark.parametrize("session", [("--debug", "--debug-port", "0")], indirect=True)
def test_an_editor_attaches_and_stops_a_call(session: Session) -> None:
    session.sees("debug     instance ")
    (line,) = [line.strip() for line in session.shown.read_text().splitlines() if '"attach"' in line]
    launch = json.loads(line)
    (mapping,) = launch["pathMappings"]
    assert mapping["localRoot"] == str(session.source.parent)
    with Editor(launch["connect"]["port"]) as editor:
        editor.attach(mapping["localRoot"], mapping["remoteRoot"], file=str(session.source), lines=[RETURN_LINE])
        with subprocess.Popen(
            [sys.executable, "-m", "cli", "invoke", "--debug", "devs", "work"],
            env={**os.environ, "STOKER_URL": session.daemon.url, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        ) as call:  # fmt: skip
            thread, frames = editor.stopped()
            assert frames[0]["source"]["path"] == str(session.source)
            assert editor.value(frames[0], "data.getvalue()") == "b''"
            assert session.call() == "number 1"  # without the header: another instance
            editor.ask("continue", threadId=thread)
            assert call.communicate(timeout=PATIENCE_S)[0] == b"number 1"
    session.sees(", debug start")
