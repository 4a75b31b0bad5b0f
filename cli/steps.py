"""The steps of a long command: one plain line each with its time; a live spinner or bar only on a terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from cli.output import clean

if TYPE_CHECKING:
    from rich.progress import Progress

NAME_WIDTH = 12


class Step:
    """One step while it runs."""

    def __init__(self, name: str, *, quiet: bool, live: bool) -> None:
        self.name = name
        self.text = ""
        self._quiet = quiet
        self._live = live
        self._progress: Progress | None = None
        self._task: Any = None

    def status(self, text: str, *, total: int | None = None) -> None:
        """Say what is being done; with ``total``, ``advance`` moves a bar. Only seen on a terminal."""
        if not self._live:
            return
        if self._progress is None:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn

            bar = [BarColumn(), DownloadColumn()] if total is not None else []
            columns = [SpinnerColumn(), TextColumn("{task.description}"), *bar]
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._progress.add_task(self.name, total=total)
            self._progress.start()
        from rich.markup import escape

        self._progress.update(self._task, description=escape(f"{self.name}: {clean(text)}"))

    def advance(self, count: int) -> None:
        """Move the bar."""
        if self._progress is not None:
            self._progress.advance(self._task, count)

    def line(self, text: str) -> None:
        """A line of what is going on underneath (an installer's words): the spinner's text, or a plain line."""
        if self._live:
            self.status(text)
        elif not self._quiet:
            click.echo(f"    {clean(text)}", err=True)

    def done(self, text: str) -> None:
        """What came of it; printed with the time when the step ends."""
        self.text = text

    def stop(self) -> None:
        """Take the spinner away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class Steps:
    """Runs steps one after the other and keeps what came of each."""

    def __init__(self, *, quiet: bool) -> None:
        """``quiet``: print no lines (the result is JSON or YAML)."""
        self._quiet = quiet
        self._live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and "NO_COLOR" not in os.environ
        self._start_s = time.monotonic()
        self.finished: list[dict[str, Any]] = []

    @property
    def elapsed_s(self) -> float:
        """Since the first step began."""
        return time.monotonic() - self._start_s

    def say(self, text: str) -> None:
        """A plain line on standard output, for people only."""
        if not self._quiet:
            click.echo(text)

    def warn(self, text: str) -> None:
        """A warning, on standard error."""
        click.echo(f"{click.style('Warning:', fg='yellow')} {clean(text)}", err=True)

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """One step; a failure is printed as its end, too."""
        step = Step(name, quiet=self._quiet, live=self._live)
        start_s = time.monotonic()
        try:
            yield step
        except BaseException:
            step.stop()
            self._finish(step, "failed", time.monotonic() - start_s)
            raise
        step.stop()
        self._finish(step, step.text, time.monotonic() - start_s)

    def _finish(self, step: Step, text: str, seconds: float) -> None:
        self.finished.append({"step": step.name, "result": text, "seconds": round(seconds, 3)})
        if not self._quiet:
            click.echo(f"  {step.name.ljust(NAME_WIDTH)}  {clean(text)} ({seconds:.2f} s)")
