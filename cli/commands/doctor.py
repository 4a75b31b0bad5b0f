"""``stoker doctor``: what separates functions on this machine, and how to get what is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import click

from cli.errors import CliError, Unreachable
from cli.options import Settings, common
from cli.output import structured

DAEMON = "stokerd"
PROBES_S = 180.0
"""Longest time for the probes of a daemon that is started for them only; they take half a second."""


@click.command()
@click.option("--local", is_flag=True, help="Probe this machine for the present user, whether a daemon runs or not.")
@click.option("--config", metavar="FILE", help="With --local: the daemon's configuration file, for sandbox.floor.")
@common
@click.pass_obj
def doctor(settings: Settings, local: bool, config: str | None) -> None:
    """Say what of the sandbox works, what stands in for what does not, and how to get it.

    What the running daemon found when it started; without one, this machine is probed for the present user. Exits
    with 1 when the level is below sandbox.floor.

    \b
    Examples:
      stoker doctor
      stoker doctor --local
      stoker doctor --output json
    """
    found, source = None, "the running daemon"
    if not local:
        try:
            found = settings.api.call("GET", "/stoker/v1/doctor")
        except Unreachable:
            pass
    if found is None:
        found, source = _probe(config), "this machine, for the present user; no daemon was asked"
    if settings.for_people:
        _show(found, source)
    else:
        structured(found, settings.form)
    if not found.get("met"):
        click.get_current_context().exit(1)


def _probe(config: str | None) -> dict[str, Any]:
    """What ``stokerd --doctor`` says here."""
    beside = os.path.join(os.path.dirname(sys.executable), DAEMON)
    program = beside if os.access(beside, os.X_OK) else shutil.which(DAEMON)
    if program is None:
        raise CliError("cannot probe this machine: stokerd is not installed here", hint="run it where the daemon runs")
    command = [program, "--doctor", "--json", *(["--config", config] if config else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBES_S, check=False)
        found = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise CliError(f"cannot probe this machine: {exc}") from exc
    except ValueError as exc:
        raise CliError("cannot probe this machine: stokerd failed", detail=done.stderr) from exc
    assert isinstance(found, dict)
    return found


def _show(found: dict[str, Any], source: str) -> None:
    facts = found.get("facts") or []
    width = max((len(str(fact.get("name"))) for fact in facts), default=0)
    indent = " " * (width + 6)
    for fact in facts:
        active = bool(fact.get("active"))
        mark = click.style("yes", fg="green") if active else click.style("NO ", fg="red", bold=True)
        click.echo(f"{mark}  {fact.get('name')!s:{width}}  {fact.get('protects')}")
        if not active:
            click.echo(f"{indent} found: {fact.get('detail') or 'it does not work'}")
            click.echo(f"{indent} instead: {fact.get('instead')}")
            click.echo(f"{indent} to get it: {fact.get('how')}")
    met = "met" if found.get("met") else click.style("NOT met", fg="red", bold=True)
    click.echo(f"\nLevel {found.get('level')}, floor {found.get('floor')}: {met} ({source})")
