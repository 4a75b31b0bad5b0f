"""``stoker invoke``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from cli import debugging, explanations
from cli.errors import CliError
from cli.options import Settings, common, complete_app, complete_function, key_values
from cli.output import structured
from cli.transport import CALL_S, Reply


@click.command()
@click.argument("app", required=False, shell_complete=complete_app)
@click.argument("function", required=False, shell_complete=complete_function)
@click.option(
    "--local",
    metavar="DIR",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Run the handler in DIR once, here, without a daemon.",
)
@click.option(
    "--config",
    "-c",
    multiple=True,
    metavar="KEY=VALUE",
    callback=key_values,
    help="With --local: configuration besides func.yaml's; may be repeated.",
)
@click.option(
    "--data",
    "-d",
    metavar="TEXT",
    help="Body of the call; @PATH takes a file. Without it: standard input, unless that is a terminal.",
)
@click.option(
    "--content-type", metavar="TYPE", default="text/plain", show_default=True, help="Content-Type of the body."
)
@click.option(
    "--header", "-H", "headers", multiple=True, metavar="'NAME: VALUE'", help="A further header; may be repeated."
)
@click.option("--display-call-id", is_flag=True, help="Print 'Call ID: ...' on standard error.")
@click.option(
    "--debug", is_flag=True, help="Have the instance of 'stoker dev --debug' answer; wait for it without a limit."
)
@click.option("--detached", is_flag=True, help="Do not wait for the answer; print the call's id.")
@common
@click.pass_obj
def invoke(
    settings: Settings,
    app: str | None,
    function: str | None,
    local: Path | None,
    config: dict[str, str],
    data: str | None,
    content_type: str,
    headers: tuple[str, ...],
    display_call_id: bool,
    debug: bool,
    detached: bool,
) -> int:
    """Call a function and print its answer.

    The answer's bytes go to standard output as they are. An error goes to standard error and gives exit code 1.

    \b
    Examples:
      stoker invoke demo hello
      echo '{"name": "Ada"}' | stoker invoke demo hello --content-type application/json
      stoker invoke demo hello -d '{"name": "Ada"}'
      stoker invoke demo resize -d @photo.jpg --content-type image/jpeg > small.jpg
      stoker invoke demo report --detached
      stoker invoke --local hello -d '{"name": "Ada"}'
    """
    body = _body(data)
    sent = [("Content-Type", content_type), *(_header(text) for text in headers)]
    if local is not None:
        if app is not None:
            raise click.UsageError("--local runs the function in DIR: leave APP and FUNCTION out")
        return _locally(settings, local, body, sent, config)
    if app is None or function is None:
        raise click.UsageError("APP and FUNCTION are missing; or run a function here with --local DIR")
    if config:
        raise click.UsageError("--config is for --local; 'stoker config set' changes a deployed function's")
    if detached:
        sent.append(("Fn-Invoke-Type", "detached"))
    if debug:
        sent.append(debugging.HEADER)
    found = settings.api.function(app, function)
    # A connection of its own goes straight to the data plane.
    reply = settings.api.transport.request(
        "POST",
        f"/invoke/{found['id']}",
        headers=sent,
        body=body,
        timeout_s=debugging.CALL_S if debug else CALL_S,
        fresh=True,
    )
    if not settings.for_people:
        structured(_document(reply), settings.form)
        return 0 if reply.status < 400 else 1
    call_id = reply.header("fn-call-id")
    if reply.status >= 400:
        raise _failure(reply, app, function)
    if display_call_id or detached:
        click.echo(f"Call ID: {call_id}", err=not detached)
    _show(reply.body)
    return 0


def _locally(
    settings: Settings, directory: Path, body: bytes, headers: list[tuple[str, str]], config: dict[str, str]
) -> int:
    from cli import funcfile
    from cli import local as runs
    from cli.steps import Steps

    outcome = runs.invoke(
        directory, funcfile.load(directory), body=body, headers=headers, config=config, steps=Steps(quiet=True)
    )
    if not settings.for_people:
        structured(_document(Reply(outcome.status, outcome.headers, outcome.body)), settings.form)
        return 0 if outcome.status < 400 else 1
    if outcome.status >= 400:
        what = "cannot be imported" if outcome.at_import else "failed"
        raise CliError(f"the function in {directory} {what} (status {outcome.status})", detail=outcome.traceback)
    _show(outcome.body)
    return 0


def _show(body: bytes) -> None:
    out = sys.stdout.buffer
    out.write(body)
    if body and not body.endswith(b"\n") and sys.stdout.isatty():
        out.write(b"\n")  # the prompt starts on a line of its own; a pipe gets the bytes alone
    out.flush()


def _body(data: str | None) -> bytes:
    if data is None:
        return b"" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read()
    if not data.startswith("@"):
        return data.encode("utf-8", "surrogateescape")
    try:
        with open(data[1:], "rb") as file:
            return file.read()
    except OSError as exc:
        raise CliError(f"cannot read {data[1:]}: {exc.strerror}") from exc


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name or not all(c.isalnum() or c in "!#$%&'*+-.^_`|~" for c in name) or not name.isascii():
        raise click.BadParameter(f"{text!r} is not 'NAME: VALUE'", param_hint="'--header'")
    if any(ord(c) < 32 and c != "\t" for c in value):
        raise click.BadParameter(f"the value of {name} holds a control character", param_hint="'--header'")
    return name, value.strip()


def _document(reply: Reply) -> dict[str, Any]:
    """What ``fn invoke --output json`` prints, and the call's id."""
    document: dict[str, Any] = {"status_code": reply.status, "call_id": reply.header("fn-call-id")}
    headers: dict[str, list[str]] = {}
    for name, value in reply.headers:
        headers.setdefault(name, []).append(value)
    document["headers"] = headers
    try:
        document["body"] = reply.body.decode()
    except UnicodeDecodeError:
        import base64

        document["body_base64"] = base64.b64encode(reply.body).decode()
    return document


def _failure(reply: Reply, app: str, function: str) -> CliError:
    from cli.api import api_error

    error = api_error(reply, prefix=f"cannot invoke {app}/{function}: ", about=True)
    if error.call_id and not error.hint:
        logs = f"stoker logs {app} {function} --call {error.call_id}"
        cure = explanations.cure(error.code).replace("stoker logs APP FN --call ID", logs)
        error.hint = cure.replace("APP FN", f"{app} {function}")
        if logs not in error.hint:
            error.hint = f"{error.hint} '{logs}' shows what it wrote".lstrip()
    return error
