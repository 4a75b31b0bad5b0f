"""``stoker init``: the files of a new function, as ``fn init`` makes them, or func.yaml for a handler that is there."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click

from cli import detect, kinds, templates
from cli.errors import CliError
from cli.funcfile import FILE_NAMES, IDLE_TIMEOUT_S_MAX, MEMORY_MIB_MAX, SCHEMA_VERSION, TIMEOUT_S_MAX


@click.command()
@click.argument("name", required=False)
@click.option(
    "--runtime",
    metavar="RUNTIME",
    help="python, python3.N for that interpreter, node, or exec for a program of one's own.  [default: python]",
)
@click.option(
    "--from",
    "source",
    metavar="PATH",
    type=click.Path(path_type=Path, exists=True),
    help="Make func.yaml for a handler that is there: a file, or a directory to be searched.",
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
    runtime: str | None,
    source: Path | None,
    trigger: str | None,
    memory: int,
    timeout: int | None,
    idle_timeout: int | None,
    version: str,
    force: bool,
) -> None:
    """Make the files of a new function.

    Writes func.yaml, the handler (func.py, func.js, func) and requirements.txt or package.json into the new directory
    NAME, or, without NAME, into the current directory, whose name is then the function's.

    --from writes only func.yaml, beside a handler that is there, and finds out what it is written for: Fn, AWS Lambda,
    Google's functions-framework, WSGI (Flask, Django) or ASGI (Starlette, FastAPI, Quart). Nothing is run for that.

    \b
    Examples:
      stoker init --runtime python hello
      stoker init --runtime node --trigger http hello
      stoker init --from lambda_function.py
      stoker init --from shop/app.py --trigger http shop
      stoker init --runtime python3.12 --trigger http --memory 512 hello
      mkdir hello && cd hello && stoker init
    """
    if not re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", version):
        raise click.BadParameter(f"{version!r}: must be like 0.0.1", param_hint="'--version'")
    runtime = runtime or "python"
    found = _found_in(source, runtime) if source is not None else None
    if source is not None:
        directory = source if source.is_dir() else source.parent
        function = name or os.path.basename(os.path.abspath(directory))
    else:
        directory = Path(name) if name else Path(".")
        function = os.path.basename(os.path.abspath(directory))
    if not re.fullmatch(r"[A-Za-z0-9\-_]{1,255}", function):
        raise click.BadParameter(f"{function!r}: use letters, digits, '-' and '_'", param_hint="'NAME'")
    if not re.fullmatch(r"python(3\.[0-9]{1,2})?", runtime) and kinds.family(runtime) not in ("node", "exec"):
        raise click.BadParameter(
            f"{runtime!r}: must be python, python3.N, node, node22 and the like, or exec; for others write func.yaml, "
            "or make it with 'fn init'",
            param_hint="'--runtime'",
        )
    files = {} if found is not None else templates.files(function, runtime)
    yaml = _func_yaml(function, runtime, version, memory, timeout, idle_timeout, trigger, found)
    files = {"func.yaml": (yaml, False), **files}
    there = [f for f in dict.fromkeys((*FILE_NAMES, *files)) if (directory / f).exists()]
    if there and not force:
        raise CliError(
            f"{directory / there[0]} is there already", hint="choose another NAME, or --force to write over it"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for file, (text, executable) in files.items():
            (directory / file).write_text(text, encoding="utf-8")
            if executable:
                (directory / file).chmod(0o755)
    except OSError as exc:
        raise CliError(f"cannot write {exc.filename}: {exc.strerror}") from exc
    if found is not None:
        click.echo(f"{found.file}: {found.why}")
    where = "" if directory == Path(".") else f" {directory}"
    click.echo(f"Function {function} made in {directory}: {', '.join(files)}")
    click.echo(f"Next: stoker deploy --app APP --create-app{where}")


def _found_in(source: Path, runtime: str) -> detect.Found:
    if kinds.family(runtime):
        raise click.UsageError("--from is for Python; for another language write the entrypoint into func.yaml")
    return detect.detect(source) if source.is_dir() else detect.detect(source.parent, source)


def _func_yaml(
    name: str,
    runtime: str,
    version: str,
    memory: int,
    timeout: int | None,
    idle_timeout: int | None,
    trigger: str | None,
    found: detect.Found | None,
) -> str:
    start = templates.start_lines(runtime)
    if found is not None:
        start[-1] = f"entrypoint: /python/bin/fdk /function/{found.file} {found.name}"
    lines = [
        f"schema_version: {SCHEMA_VERSION}",
        f"name: {name}",
        f"version: {version}",
        f"runtime: {runtime}",
        # Stoker builds no image; these keep the directory deployable by fn.
        *start,
        f"memory: {memory}",
    ]
    if timeout is not None:
        lines.append(f"timeout: {timeout}")
    if idle_timeout is not None:
        lines.append(f"idle_timeout: {idle_timeout}")
    if found is not None and found.adapter:
        lines += ["annotations:", f"  stoker.dev/adapter: {found.adapter}"]
        if trigger is not None and found.adapter in ("wsgi", "asgi"):  # all of its routes, at /t/APP/NAME
            lines += ["  stoker.dev/match: prefix", "config:", f"  STOKER_ROOT_PATH: /{name}"]
    if trigger is not None:
        lines += ["triggers:", f"- name: {name}", f"  type: {trigger}", f"  source: /{name}"]
    return "\n".join(lines) + "\n"
