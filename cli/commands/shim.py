"""``stoker shim``: a stand-in for docker and podman, for the fn command."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import sys
from pathlib import Path

import click

from cli.errors import CliError
from cli.options import Settings, url_option

NAMES = ("docker", "podman")
MARK = "# Made by 'stoker shim install'."


def _default() -> Path:
    return Path(os.path.expanduser("~")) / ".stoker" / "shim"


@click.group()
def shim() -> None:
    """Let the fn command work without a container engine.

    fn asks an engine, docker or podman, to build images and to run its server. The stand-in answers that: a build
    becomes a bundle at the daemon, and 'fn start' starts stokerd. It answers nothing else, so it does not belong on the
    PATH of people who use a real engine for other things.

    \b
    Examples:
      stoker shim install
      PATH=~/.stoker/shim:$PATH fn deploy --app demo --create-app --local
      stoker shim uninstall
    """


@shim.command()
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
def install(directory: Path | None) -> None:
    """Write the commands docker and podman into DIR (default: ~/.stoker/shim).

    \b
    Examples:
      stoker shim install
      stoker shim install ~/bin
    """
    target = (directory or _default()).expanduser().absolute()
    _check_not_ours(target)
    root = Path(__file__).resolve().parents[2]
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            text = (
                f"#!/bin/sh\n{MARK}\n"
                f"PYTHONPATH={shlex.quote(str(root))}${{PYTHONPATH:+:$PYTHONPATH}} "
                f'exec {shlex.quote(sys.executable)} -m cli shim run {name} "$@"\n'
            )
            partial = target / f".{name}.partial"
            partial.write_text(text, encoding="utf-8")
            partial.chmod(0o755)
            partial.replace(target / name)
    except OSError as exc:
        raise CliError(f"cannot write into {target}: {exc.strerror}") from exc
    click.echo(f"{' and '.join(NAMES)} are in {target}")
    first = shutil.which("docker")
    if first is None or Path(first).parent != target:
        click.echo(f"Next: export PATH={shlex.quote(str(target))}:$PATH")


@shim.command()
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
def uninstall(directory: Path | None) -> None:
    """Remove them again.

    \b
    Examples:
      stoker shim uninstall
    """
    target = (directory or _default()).expanduser().absolute()
    _check_not_ours(target)
    gone = [name for name in NAMES if (target / name).exists()]
    for name in gone:
        (target / name).unlink()
    click.echo(f"removed {' and '.join(gone)} from {target}" if gone else f"there is nothing of the kind in {target}")


@shim.command(
    hidden=True,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []},
)
@click.argument("name", type=click.Choice(NAMES))
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@url_option
@click.pass_obj
def run(settings: Settings, name: str, words: tuple[str, ...]) -> None:
    """Answer one command of an engine: what the installed commands call.

    \b
    Examples:
      stoker shim run docker version --format '{{.Server.Version}}'
    """
    from cli import shim as engine

    engine.answer(settings.api, words)


def _check_not_ours(target: Path) -> None:
    """Never write over, or remove, an engine that somebody installed."""
    for name in NAMES:
        path = target / name
        if path.is_symlink() or (path.exists() and not _is_made_by_us(path)):
            raise CliError(f"{path} is there already, and is not Stoker's", hint="name another directory")


def _is_made_by_us(path: Path) -> bool:
    if not stat.S_ISREG(path.stat().st_mode):
        return False
    with open(path, "rb") as file:
        return MARK.encode() in file.read(200)
