"""``stoker init``: the files of a new function, as ``fn init --runtime python`` makes them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click

from cli.errors import CliError
from cli.funcfile import FILE_NAMES, IDLE_TIMEOUT_S_MAX, MEMORY_MIB_MAX, SCHEMA_VERSION, TIMEOUT_S_MAX

HANDLER = '''import io
import json
import logging

from fdk import response


def handler(ctx, data: io.BytesIO = None):
    """Greet the one who is named in the body, a JSON object such as {"name": "Ada"}."""
    name = "World"
    try:
        name = json.loads(data.getvalue()).get("name", name)
    except (ValueError, AttributeError) as exc:
        logging.getLogger().info("no name in the body: %s", exc)

    return response.Response(
        ctx,
        response_data=json.dumps({"message": f"Hello {name}"}),
        headers={"Content-Type": "application/json"},
    )
'''


@click.command()
@click.argument("name", required=False)
@click.option(
    "--runtime",
    metavar="RUNTIME",
    default="python",
    show_default=True,
    help="python, or python3.N for that interpreter.",
)
@click.option("--trigger", type=click.Choice(["http"]), help="Give it a trigger: /t/APP/NAME calls it.")
@click.option(
    "--memory",
    type=click.IntRange(1, MEMORY_MIB_MAX),
    default=256,
    show_default=True,
    metavar="MIB",
    help="Memory of an instance.",
)
@click.option("--timeout", type=click.IntRange(1, TIMEOUT_S_MAX), metavar="SECONDS", help="Longest a call may run.")
@click.option(
    "--idle-timeout",
    type=click.IntRange(1, IDLE_TIMEOUT_S_MAX),
    metavar="SECONDS",
    help="How long an unused instance is kept.",
)
@click.option(
    "--version", "version", metavar="X.Y.Z", default="0.0.1", show_default=True, help="Version to begin with."
)
@click.option("--force", is_flag=True, help="Write over files that are there.")
def init(
    name: str | None,
    runtime: str,
    trigger: str | None,
    memory: int,
    timeout: int | None,
    idle_timeout: int | None,
    version: str,
    force: bool,
) -> None:
    """Make the files of a new function.

    Writes func.yaml, func.py and requirements.txt into the new directory NAME, or, without NAME, into the current
    directory, whose name is then the function's.

    \b
    Examples:
      stoker init --runtime python hello
      stoker init --runtime python3.12 --trigger http --memory 512 hello
      mkdir hello && cd hello && stoker init
    """
    if not re.fullmatch(r"python(3\.[0-9]{1,2})?", runtime):
        raise click.BadParameter(f"{runtime!r}: must be python or python3.N", param_hint="'--runtime'")
    if not re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", version):
        raise click.BadParameter(f"{version!r}: must be like 0.0.1", param_hint="'--version'")
    directory = Path(name) if name else Path(".")
    function = os.path.basename(os.path.abspath(directory))
    if not re.fullmatch(r"[A-Za-z0-9\-_]{1,255}", function):
        raise click.BadParameter(f"{function!r}: use letters, digits, '-' and '_'", param_hint="'NAME'")
    files = {
        "func.yaml": _func_yaml(function, runtime, version, memory, timeout, idle_timeout, trigger),
        "func.py": HANDLER,
        "requirements.txt": "fdk>=0.1.128",
    }
    there = [f for f in dict.fromkeys((*FILE_NAMES, *files)) if (directory / f).exists()]
    if there and not force:
        raise CliError(
            f"{directory / there[0]} is there already", hint="choose another NAME, or --force to write over it"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (directory / file).write_text(text, encoding="utf-8")
    except OSError as exc:
        raise CliError(f"cannot write {exc.filename}: {exc.strerror}") from exc
    where = f" {directory}" if name else ""
    click.echo(f"Function {function} made in {directory}: {', '.join(files)}")
    click.echo(f"Next: stoker deploy --app APP --create-app{where}")


def _func_yaml(
    name: str,
    runtime: str,
    version: str,
    memory: int,
    timeout: int | None,
    idle_timeout: int | None,
    trigger: str | None,
) -> str:
    minor = runtime.removeprefix("python") or "3.12"
    lines = [
        f"schema_version: {SCHEMA_VERSION}",
        f"name: {name}",
        f"version: {version}",
        f"runtime: {runtime}",
        # Stoker builds no image; these two keep the directory deployable by fn.
        f"build_image: fnproject/python:{minor}-dev",
        f"run_image: fnproject/python:{minor}",
        "entrypoint: /python/bin/fdk /function/func.py handler",
        f"memory: {memory}",
    ]
    if timeout is not None:
        lines.append(f"timeout: {timeout}")
    if idle_timeout is not None:
        lines.append(f"idle_timeout: {idle_timeout}")
    if trigger is not None:
        lines += ["triggers:", f"- name: {name}", f"  type: {trigger}", f"  source: /{name}"]
    return "\n".join(lines) + "\n"
