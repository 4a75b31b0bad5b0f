"""A stand-in for ``docker`` and ``podman`` that answers what the ``fn`` command asks of an engine, and nothing else.

What ``fn`` 0.6.63 asks (reference: fn-contract 4.5, recorded in fn-golden 13): ``version``, ``pull``, ``inspect -f``,
``build``, ``push``, ``run`` and ``stop`` of the server. ``build`` makes a bundle and sends it to the daemon under the
image's name, since ``fn deploy --local`` pushes nothing afterwards; ``push`` looks whether it is there.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from cli import funcfile
from cli.api import Api
from cli.errors import CliError
from cli.steps import Steps

ENGINE_VERSION = "24.0.0"
"""What ``version`` answers: ``fn`` wants 17.5.0 or newer."""
SERVER = "fnproject/fnserver"
_MACHINES = {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}


class Refused(CliError):
    """Something that is not answered; as an engine does, with exit code 125."""

    exit_code = 125


@dataclass(slots=True)
class Words:
    """Options with their values, and what is left."""

    options: dict[str, list[str]] = field(default_factory=dict)
    rest: list[str] = field(default_factory=list)

    def last(self, name: str, otherwise: str = "") -> str:
        """The value that counts when an option is repeated."""
        return self.options.get(name, [otherwise])[-1]


def split(words: Sequence[str], *, valued: set[str], flags: set[str], stop_at_first: bool = False) -> Words:
    """Sort a command line. ``stop_at_first``: what follows the first plain word belongs to it (``run IMAGE ...``).

    Raises:
      Refused: an option that is in neither set.
    """
    found = Words()
    left = list(words)
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=")
        if not word.startswith("-") or word == "-":
            found.rest.append(word)
            if stop_at_first:
                found.rest += left
                break
        elif name in valued:
            if not equals:
                if not left:
                    raise Refused(f"flag needs an argument: {word}")
                value = left.pop(0)
            found.options.setdefault(name, []).append(value)
        elif name in flags:
            found.options.setdefault(name, []).append(value or "true")
        else:
            raise Refused(f"unknown flag: {word}", hint=WHAT_IT_IS)
    return found


WHAT_IT_IS = "this is Stoker's stand-in for a container engine: it answers what the fn command asks, and nothing else"


def answer(settings_api: Api, words: Sequence[str]) -> None:
    """Carry out one command of an engine.

    Raises:
      CliError: it failed.
      Refused: it is not one that ``fn`` uses.
    """
    command, rest = (words[0], list(words[1:])) if words else ("", [])
    if command == "buildx" and rest[:1] == ["build"]:
        command, rest = "build", rest[1:]
    match command:
        case "version" | "--version" | "-v":
            _version(rest)
        case "pull":
            _pull(rest)
        case "inspect":
            _inspect(rest)
        case "build":
            build(settings_api, rest)
        case "push":
            _push(settings_api, rest)
        case "run":
            from cli import shim_server

            shim_server.run(rest)
        case "stop" | "kill" | "rm":
            from cli import shim_server

            shim_server.stop(command, rest)
        case _:
            raise Refused(f"{command or 'no command'!r} is not answered", hint=WHAT_IT_IS)


def _version(words: list[str]) -> None:
    found = split(words, valued={"--format", "-f"}, flags=set())
    template = found.last("--format") or found.last("-f")
    if not template:
        click.echo(f"Stoker's stand-in for a container engine, which says that it is version {ENGINE_VERSION}")
    elif template.strip("'\"").replace(" ", "") in ("{{.Server.Version}}", "{{.Client.Version}}"):
        click.echo(ENGINE_VERSION)
    else:
        raise Refused(f"--format {template} is not answered", hint=WHAT_IT_IS)


def _pull(words: list[str]) -> None:
    from cli.image import is_known

    found = split(words, valued={"--platform"}, flags={"-q", "--quiet"})
    if len(found.rest) != 1:
        raise Refused("'pull' requires exactly 1 argument")
    image = found.rest[0]
    if image.partition(":")[0] == SERVER:
        click.echo(f"{image}: Stoker is the server; there is nothing to pull")
    elif is_known(image):
        click.echo(f"{image}: its place is taken by what this machine has; nothing is pulled")
    else:
        raise CliError(f"cannot pull {image}: no images are pulled, and nothing here stands for it")


def _inspect(words: list[str]) -> None:
    found = split(words, valued={"-f", "--format"}, flags=set())
    template = (found.last("-f") or found.last("--format")).strip("'\"").replace(" ", "")
    if template != "{{.Config.Entrypoint}}" or len(found.rest) != 1:
        raise Refused("only 'inspect -f {{.Config.Entrypoint}} IMAGE' is answered", hint=WHAT_IT_IS)
    click.echo("[]")


def build(api: Api, words: list[str]) -> None:
    """``build``: the Dockerfile and its context become a bundle that the daemon has under the tag.

    Raises:
      CliError: a line of the Dockerfile cannot be honoured, packages cannot be installed, the daemon refuses it.
    """
    from cli import bundle, image
    from cli.push import check_image, daemons_python, upload

    found = split(
        words,
        valued={"-t", "--tag", "-f", "--file", "--build-arg", "--platform", "--progress", "--label", "--target"},
        flags={"--no-cache", "--pull", "-q", "--quiet", "--rm", "--force-rm", "--load", "--push"},
    )
    if "--target" in found.options:
        raise Refused("--target is not supported: the last stage is built")
    if len(found.rest) != 1:
        raise Refused("'build' requires exactly 1 argument: the context's directory")
    directory = Path(found.rest[0])
    if not directory.is_dir():
        raise Refused(f"{directory}: the context must be a directory")
    tag = found.last("-t") or found.last("--tag")
    if not tag:
        raise Refused("a tag is needed: -t NAME:VERSION")
    tag = tag if ":" in tag.rpartition("/")[2] else f"{tag}:latest"
    check_image(tag)
    _check_platform(found.last("--platform"))
    steps = Steps(quiet=False)
    file = Path(found.last("-f") or found.last("--file") or directory / "Dockerfile")
    with (
        image.evaluate(directory, file, _build_args(found.options.get("--build-arg", [])), steps) as made,
        tempfile.TemporaryDirectory(prefix="stoker-") as work,
    ):
        function = _func_file(directory, tag, made.runtime, steps)
        done = bundle.build(
            directory,
            function,
            Path(work) / "bundle.zip",
            steps,
            refresh="--no-cache" in found.options,
            python=daemons_python(api, function.runtime),
            layered=True,
            image=made,
        )
        reply = upload(api, done.path, tag, done.digest, steps, layer=done.layer)
    failures = [outcome for outcome in reply.get("deployed") or [] if outcome.get("code")]
    for outcome in failures:
        steps.warn(
            f"function {outcome.get('function')} was waiting for {tag} but cannot use it: {outcome.get('message')}"
        )
    click.echo(f"Successfully tagged {tag}")


def _func_file(directory: Path, tag: str, runtime: str, steps: Steps) -> funcfile.FuncFile:
    """The directory's func.yaml; without one, what its tag and the Dockerfile say. ``fn`` has run its build lines."""
    if not any((directory / name).is_file() for name in funcfile.FILE_NAMES):
        name = tag.rpartition("/")[2].partition(":")[0]
        return funcfile.FuncFile(path=directory / "func.yaml", name=name, runtime=runtime)
    function = funcfile.load(directory)
    for warning in function.warnings:
        steps.warn(warning)
    function.build = []
    return function


def _build_args(values: list[str]) -> dict[str, str]:
    """``K=V``, or ``K`` for the environment's."""
    found = {}
    for value in values:
        name, equals, text = value.partition("=")
        if equals:
            found[name] = text
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def _check_platform(wanted: str) -> None:
    ours = _MACHINES.get(platform.machine(), f"linux/{platform.machine()}")
    platforms = [part.strip() for part in wanted.split(",") if part.strip()]
    if platforms and ours not in platforms:
        raise Refused(f"--platform {wanted}: functions run on this machine, which is {ours}")


def _push(api: Api, words: list[str]) -> None:
    found = split(words, valued=set(), flags={"-q", "--quiet", "-a", "--all-tags"})
    if len(found.rest) != 1:
        raise Refused("'push' requires exactly 1 argument")
    tag = found.rest[0] if ":" in found.rest[0].rpartition("/")[2] else f"{found.rest[0]}:latest"
    name = tag.rpartition(":")[0]
    items = (api.call("GET", "/stoker/v1/bundles", query=[("name", name)]) or {}).get("items") or []
    for item in items:
        if tag in (item.get("images") or [item.get("image")]):
            click.echo(f"{tag}: the daemon at {api.transport.endpoint} has it, digest: {item.get('digest')}")
            return
    raise CliError(f"an image does not exist locally with the tag: {tag}", hint="'fn build' makes it")
