"""``stoker dev``: deploy on save, with what the function prints and how its calls end on one screen."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import click

from cli import appfile, debugging, following
from cli.commands.calls import seconds
from cli.commands.watch import matters
from cli.deployment import Deployment, load
from cli.errors import CliError, Unreachable
from cli.options import Settings, complete_app, url_option
from cli.output import clean
from cli.steps import Steps

DEBOUNCE_MS = 30
"""How long to wait for further changes: an editor writes a file in one or two steps."""
STEP_MS = 10
IDLE_MS = 250
"""How often the watch looks up when nothing changes."""
LONGEST_S = 3700
"""How far back calls may have begun that end now: the longest timeout there is (of detached calls), and some more."""
CALLS_S = 0.5
"""How often ended calls are asked for; the daemon writes them down twice a second."""
CALLS_SHOWN_MAX = 100
"""Most calls shown at once; of a burst, the newest."""
NAMES_MAX = 4
"""Most names of changed files in a line."""
RETRY_S = 1.0
"""Pause before what could not be sent, because the daemon was away, is sent again."""
WORDS_WIDTH = 9


@click.command()
@click.argument("directory", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@click.option(
    "--app",
    "app_name",
    metavar="APP",
    shell_complete=complete_app,
    help="App to deploy to; made if it is absent.  [default: as in app.yaml, else dev]",
)
@click.option("--ignore", "ignored", multiple=True, metavar="PATTERN", help="Besides .fnignore's; may be repeated.")
@click.option("--no-calls", is_flag=True, help="Do not show how calls end.")
@click.option("--debug", is_flag=True, help="Also start an instance under debugpy, for calls that ask for it.")
@click.option(
    "--debug-port",
    type=click.IntRange(0, 65535),
    default=debugging.PORT,
    show_default=True,
    metavar="PORT",
    help="With --debug: where editors attach, on 127.0.0.1 of the daemon's machine; 0: any that is free.",
)
@url_option
@click.pass_obj
def dev(
    settings: Settings,
    directory: Path,
    app_name: str | None,
    ignored: tuple[str, ...],
    no_calls: bool,
    debug: bool,
    debug_port: int,
) -> None:
    """Work on a function: every save puts it into service; its output and its calls are shown here.

    Only the source is sent when the dependencies are unchanged, so new code answers a fraction of a second after the
    save. A version that cannot start is shown with its traceback, and the last good one goes on serving. Ctrl-C ends
    it; the function stays deployed.

    With --debug one instance more runs under debugpy. An editor attaches to it; calls with the header 'Stoker-Debug: 1'
    (stoker invoke --debug) go to it and may take as long as they like; all others go to normal instances.

    \b
    Examples:
      stoker dev hello
      stoker dev --app demo --ignore '*.md'
      stoker dev --debug hello
    """
    app_file = appfile.load(directory) or appfile.load(Path("."))
    name = app_name or (app_file.name if app_file else "dev")
    load(directory, Steps(quiet=True))  # a directory without a function is told before waiting begins
    from watchfiles import watch as changes_in

    screen = _Screen(settings, show_calls=not no_calls, directory=directory, debug_port=debug_port if debug else None)
    top = directory.resolve()
    # The watch begins before the first deploy: what is saved meanwhile must not be missed.
    changes = changes_in(
        top, watch_filter=lambda _, path: matters(top, Path(path), ignored), debounce=DEBOUNCE_MS, step=STEP_MS,
        raise_interrupt=True, yield_on_timeout=True, rust_timeout=IDLE_MS,
    )  # fmt: skip
    next(changes)
    try:
        sent = _deploy(settings, directory, name, app_file, screen, first=True)
        click.echo(click.style(f"Watching {directory}: save to deploy, Ctrl-C to end", dim=True))
        retry_s = 0.0 if sent else time.monotonic() + RETRY_S  # 0: everything was sent
        for changed in changes:
            if changed:
                # Editors save by way of files that are gone by now.
                names = sorted({Path(path).name for _, path in changed if Path(path).exists()}) or ["a file is gone"]
                more = " ..." if len(names) > NAMES_MAX else ""
                screen.say("saved", ", ".join(names[:NAMES_MAX]) + more, "cyan")
            if changed or (retry_s and time.monotonic() >= retry_s):
                again = bool(retry_s) and not changed
                sent = _deploy(settings, directory, name, app_file, screen, first=False, again=again)
                retry_s = 0.0 if sent else time.monotonic() + RETRY_S
    finally:
        screen.close()


def _deploy(
    settings: Settings, directory: Path, app: str, app_file: Any, screen: _Screen, *, first: bool, again: bool = False
) -> bool:
    """False: the daemon is away; with ``again`` that was told before."""
    steps = Steps(quiet=not first)
    document: dict[str, Any] = {"app": app}
    began_s = time.monotonic()
    try:
        found = load(directory, steps)
        Deployment(settings.api, found, directory, steps, document).run(
            app, create=True, refresh=False, app_file=app_file
        )
    except CliError as exc:
        if again and isinstance(exc, Unreachable):
            return False
        screen.say("failed", exc.message, "red")
        for line in (exc.detail or "").rstrip().splitlines():
            screen.say("", line, None)
        if exc.hint:
            screen.say("", exc.hint, None)
        if isinstance(exc, Unreachable):
            screen.say("", "it is sent when the daemon is back", None)
        return not isinstance(exc, Unreachable)
    took_s = time.monotonic() - began_s
    screen.say("live", f"{found.name}, version {document.get('version', '?')}, in {seconds(took_s)}", "green")
    if first:
        screen.say("", str(document["invoke_endpoint"]), None)
        for trigger in document["triggers"]:
            screen.say("", str(trigger["endpoint"]), None)
        screen.say("", f"stoker invoke {app} {found.name}", None)
    screen.follow(str(document["function_id"]))
    return True


class _Screen:
    """One terminal, written to by the deploys, the log's thread and the calls' thread: a line at a time."""

    def __init__(self, settings: Settings, *, show_calls: bool, directory: Path, debug_port: int | None) -> None:
        """``debug_port`` None: nothing is debugged."""
        self._directory, self._debug_port = directory, debug_port
        self._settings = settings
        self._lock = threading.Lock()
        self._show_calls = show_calls
        self._following = ""
        self._left = threading.Event()  # set: what is followed is another function now
        self._debugging: debugging.Session | None = None

    def say(self, word: str, text: str, colour: str | None) -> None:
        """One line: a word of ours and its text."""
        if not word and not text:
            return
        head = click.style(word.ljust(WORDS_WIDTH), fg=colour, bold=bool(colour))
        with self._lock:
            click.echo(f"{head} {clean(text)}")

    def follow(self, function_id: str) -> None:
        """Show this function's output and calls from now on, and debug it, if that is not done already; nothing more of
        another that was followed before it was renamed."""
        if self._following == function_id:
            return
        self.close()
        self._following, self._left = function_id, threading.Event()
        threading.Thread(target=self._logs, args=(function_id, self._left), daemon=True).start()
        if self._show_calls:
            known = {str(item["id"]) for item in self._ended(self._fresh(), function_id) or []}
            threading.Thread(target=self._calls, args=(function_id, known, self._left), daemon=True).start()
        if self._debug_port is not None:
            self._debugging = debugging.Session(
                self._fresh(), self.say, function_id=function_id, directory=self._directory, port=self._debug_port
            )
            self._debugging.start()

    def close(self) -> None:
        """Show nothing more of what is followed. The threads are daemons: they end with the process."""
        self._left.set()
        if self._debugging is not None:
            self._debugging.close()

    def _logs(self, function_id: str, left: threading.Event) -> None:
        path, colours = f"/stoker/v1/functions/{function_id}/logs/stream", {"stderr": "yellow", "platform": "magenta"}
        away = partial(self.say, "away", "the daemon does not answer; going on when it is back", "red")
        with suppress(CliError, ValueError):  # the function was deleted
            for entry in following.follow(
                self._fresh().transport, path, query=[("tail", "0")], away=away, wait=left.wait
            ):
                if left.is_set():
                    return
                stream, text = str(entry.get("stream", "")), entry.get("line", "")
                shown = text if isinstance(text, str) else json.dumps(text)
                self.say(stream, shown, colours.get(stream, "blue"))

    def _calls(self, function_id: str, seen: set[str], left: threading.Event) -> None:
        api = self._fresh()
        while not left.wait(CALLS_S):
            items = self._ended(api, function_id)
            if items is None:
                continue
            for item in reversed(items):
                if item["id"] not in seen:
                    self._show_call(item)
            seen = {str(item["id"]) for item in items}

    def _ended(self, api: Any, function_id: str) -> list[dict[str, Any]] | None:
        """The newest calls that have ended, however long ago they began; None: nobody knows."""
        path, query = f"/stoker/v1/functions/{function_id}/calls", [("since", f"{LONGEST_S}s")]
        try:
            items: list[dict[str, Any]] = api.call("GET", path, query=[*query, ("limit", str(CALLS_SHOWN_MAX))])[
                "items"
            ]
        except (CliError, KeyError, TypeError):
            return None
        return items

    def _show_call(self, item: dict[str, Any]) -> None:
        outcome = item.get("error") or "ok"
        cold = f", {item['start_kind']} start" if item.get("start_kind") not in (None, "reuse") else ""
        text = f"{outcome} in {seconds(item.get('total_s'))}{cold}  {item['id']}"
        self.say("call", text, "red" if item.get("error") else "green")

    def _fresh(self) -> Any:
        """An API of its own: a connection is for one thread."""
        return Settings(url=self._settings.url).api
