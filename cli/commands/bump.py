"""``stoker bump``: raise the version in func.yaml."""

from __future__ import annotations

from pathlib import Path

import click

from cli import funcfile
from cli.options import Settings, output_option
from cli.output import structured


@click.command()
@click.argument("directory", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@click.option("--major", "part", flag_value="major", help="Raise the first part; the others become 0.")
@click.option("--minor", "part", flag_value="minor", help="Raise the second part; the last becomes 0.")
@output_option
@click.pass_obj
def bump(settings: Settings, directory: Path, part: str | None) -> None:
    """Raise the version in func.yaml.

    The last part is raised unless told otherwise. Nothing else in the file is touched: comments and unknown keys stay.

    \b
    Examples:
      stoker bump
      stoker bump --minor functions/hello
    """
    found = funcfile.load(directory)
    version = funcfile.bump(found, part or "patch")
    if settings.for_people:
        click.echo(f"Bumped to version {version}")
    else:
        structured({"function": found.name, "version": version}, settings.form)
