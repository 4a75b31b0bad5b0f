"""The client's side of debugging: keep a session open, and say how an editor attaches to it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cli.api import api_error
from cli.errors import CliError

HEADER = ("Stoker-Debug", "1")
"""Calls with this header go to the debugged instance."""
PORT = 5678
"""Where editors look for debugpy when nothing else is said."""
EVENT_S = 30.0
"""A session that has said nothing for so long, not even that it is alive, is over."""
CALL_S = 86_400.0
"""How long a call to it may take."""
AGAIN_S = 1.0
"""Pause before a broken session is begun again: the daemon was restarted, perhaps."""

Say = Callable[[str, str, str | None], None]


class Session:
    """A debugging session, in a thread of its own from `start` until `close`."""

    def __init__(self, api: Any, say: Say, *, function_id: str, directory: Path, port: int) -> None:
        """``api``: for this thread alone. ``say(word, text, colour)``: shows a line."""
        self._api, self._say = api, say
        self._path = f"/stoker/v1/functions/{function_id}/debug"
        self._directory, self._port = directory.resolve(), port
        self._closed = threading.Event()
        self._told = ""

    def start(self) -> None:
        """Begin. The thread is a daemon: it ends with the process, and the session with its connection."""
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        """Show nothing more."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._follow()
            except CliError as exc:
                self._failed(exc)
            self._closed.wait(AGAIN_S)

    def _follow(self) -> None:
        lines = self._api.transport.lines(
            self._path, query=[("port", str(self._port))], timeout_s=EVENT_S, method="POST"
        )
        if lines.reply.status >= 400:
            raise api_error(lines.reply)
        for raw in lines:
            if self._closed.is_set():
                return
            try:
                event = json.loads(raw)
            except ValueError:
                continue
            self._show(event)

    def _failed(self, exc: CliError) -> None:
        """Once: it is tried again and again."""
        text = exc.message + (f"\n{exc.detail}" if exc.detail else "")
        if text != self._told:
            self._told = text
            for number, line in enumerate(text.splitlines()):
                self._say("" if number else "debug", line, None if number else "red")

    def _show(self, event: dict[str, Any]) -> None:
        kind = event.get("event")
        if kind == "starting" and self._told != "attach":
            self._told = "attach"
            self._port = int(event["port"])  # the same one again, should the session break
            self._say(
                "debug", f"attach an editor to {event['host']}:{event['port']}; VS Code's launch.json:", "magenta"
            )
            self._say("", launch_json(event, self._directory), None)
            self._say("", f"calls with the header {HEADER[0]}: {HEADER[1]} go to it: stoker invoke --debug", None)
        elif kind == "ready":
            self._say("debug", f"instance {event['instance']} is ready", "magenta")
        elif kind == "failed":
            self._say("debug", "the debugged instance cannot start", "red")
            for line in str(event.get("detail", "")).rstrip().splitlines():
                self._say("", line, None)
        elif kind == "exited":
            self._say("debug", f"the debugged instance ended: {event.get('detail')}", "red")


def launch_json(event: dict[str, Any], directory: Path) -> str:
    """A configuration of VS Code that attaches to a session, on one line."""
    return json.dumps(
        {
            "name": "stoker", "type": "debugpy", "request": "attach",
            "connect": {"host": event["host"], "port": event["port"]},
            "pathMappings": [{"localRoot": str(directory), "remoteRoot": event["remote_root"]}],
        }
    )  # fmt: skip
