"""What can go wrong, as the user sees it: one sentence that says what and why, then what to do next.

Exit codes: 0 done, 1 it failed, 2 wrong usage (click's ``UsageError``), 130 interrupted.
"""

from __future__ import annotations

import errno
from typing import IO, Any

import click

from cli import explanations
from cli.output import clean


class CliError(click.ClickException):
    """A failure with an optional block of detail (a traceback, pip's last lines) and a next step."""

    exit_code = 1

    def __init__(self, message: str, *, detail: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.detail = detail
        self.hint = hint

    def show(self, file: IO[Any] | None = None) -> None:
        """Print ``Error: message``, the detail, and ``Next: hint`` on standard error."""
        # Messages and tracebacks of a function are among them: they must not steer the terminal.
        click.echo(f"{click.style('Error:', fg='red', bold=True)} {clean(self.message)}", file=file, err=True)
        if self.detail:
            click.echo(clean(self.detail.rstrip("\n")), file=file, err=True)
        if self.hint:
            click.echo(f"Next: {clean(self.hint)}", file=file, err=True)

    def to_dict(self) -> dict[str, Any]:
        """The same for ``--output json``."""
        body: dict[str, Any] = {"message": self.message}
        if self.detail:
            body["detail"] = self.detail
        if self.hint:
            body["hint"] = self.hint
        return body


_ROOM = {errno.ENOSPC, errno.EDQUOT}
_RIGHTS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}


def of_the_machine(exc: OSError) -> CliError | None:
    """The error to show for one that is the disk's or its rights', as of a cache in a home that is read-only; None for
    any other: that is a bug."""
    no_temporary = exc.errno == errno.ENOENT and exc.filename is None  # tempfile names the directories that it tried
    if exc.errno not in _ROOM | _RIGHTS and not no_temporary:
        return None
    mend = "make room on its disk" if exc.errno in _ROOM else "make it writable"
    return CliError(
        f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc.strerror),
        hint=f"{mend}, or name other places: XDG_CACHE_HOME for the cache, TMPDIR for temporary files",
    )


class Unreachable(CliError):
    """No daemon answers at the address."""


class ApiError(CliError):
    """The daemon answered with an error: its status, and ``code``, ``message``, ``detail`` of the body."""

    def __init__(
        self, message: str, *, status: int, code: str = "", detail: str = "", call_id: str = "", hint: str = ""
    ) -> None:
        super().__init__(message, detail=detail, hint=hint)
        self.status = status
        self.code = code
        self.call_id = call_id

    def show(self, file: IO[Any] | None = None) -> None:
        """As `CliError.show`; where nobody knows a nearer next step, the one of the error's code."""
        self.hint = self.hint or _next_step(self.code)
        super().show(file)

    def to_dict(self) -> dict[str, Any]:
        """The same for ``--output json``."""
        self.hint = self.hint or _next_step(self.code)
        body = {**super().to_dict(), "status": self.status}
        if self.code:
            body["code"] = self.code
        if self.call_id:
            body["call_id"] = self.call_id
        return body


def _next_step(code: str) -> str:
    """What to do about the daemon's error; nothing where its message says all that there is to say."""
    return "" if code in ("bad-request", "conflict") else explanations.cure(code)
