"""``stoker explain``."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from cli import explanations
from cli.errors import CliError
from cli.options import Settings, output_option
from cli.output import structured, table

FAULTS = {
    "caller": "the request's",
    "function": "the function's: its code or its settings",
    "node": "nobody's: this machine has no room just now",
    "platform": "ours",
}


def complete_code(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Error codes."""
    return [CompletionItem(code) for code in explanations.known() if code.startswith(incomplete)]


@click.command()
@click.argument("code", required=False, shell_complete=complete_code)
@output_option
@click.pass_obj
def explain(settings: Settings, code: str | None) -> None:
    """Say what an error means, whose fault it is, and what to do.

    CODE is the 'code' of an error reply, OCI's code, an HTTP status, or the message itself. Without it all codes are
    listed. The daemon is not needed.

    \b
    Examples:
      stoker explain function-timeout
      stoker explain FunctionInvokeExecutionFailed
      stoker explain 502
      stoker explain
    """
    codes = explanations.find(code) if code is not None else list(explanations.known())
    if not codes:
        assert code is not None
        close = explanations.similar(code)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise CliError(f"there is no error {code!r}", hint=f"{hint}'stoker explain' lists all codes")
    if not settings.for_people:
        structured({c: explanations.known()[c] for c in codes}, settings.form)
    elif code is None:
        rows = [[c, str(e["status"]), e["fault"], e["when"]] for c, e in explanations.known().items()]
        table(["CODE", "STATUS", "FAULT", "WHEN"], rows)
    else:
        click.echo("\n\n".join(_text(c) for c in codes))


def _text(code: str) -> str:
    entry = explanations.known()[code]
    lines = [
        click.style(f"{code} (HTTP {entry['status']}, OCI {entry['oci_code']})", bold=True),
        f"  {entry['when']}",
        f"  Whose fault: {FAULTS[entry['fault']]}.",
    ]
    if not entry["instance_survives"]:
        lines.append("  The instance that ran the call is killed.")
    return "\n".join([*lines, f"  Next: {entry['next']}"])
