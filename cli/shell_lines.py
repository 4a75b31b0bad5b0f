"""RUN lines of a Dockerfile that can be honoured without its image: packages, tidying up, and a few build tools."""

from __future__ import annotations

import glob
import os
import re
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cli import deps, requirements
from cli.dockerfile import Instruction, expand
from cli.errors import CliError
from cli.steps import Steps

if TYPE_CHECKING:
    from cli.image import Stage

_HARMLESS = {
    "chown", "adduser", "addgroup", "useradd", "groupadd", "usermod", "true", ":", "ldconfig", "sync", "ls", "pwd",
}  # fmt: skip
"""What a function cannot see: owners and users are the sandbox's."""
_TOOLS = {
    "go": ("apt install golang-go", {"mod", "build", "test", "vet", "get", "version", "env"}),
    "mvn": ("apt install maven", None),
    "dotnet": ("the .NET SDK", None),
}
"""Build tools that are run on this machine, in the stage's directory: how to install them, which of their commands."""
_SYSTEM = {"apt-get", "apt", "apk", "yum", "dnf", "microdnf", "rpm", "dpkg", "yum-config-manager"}
SYSTEM_PACKAGES = "STOKER_SYSTEM_PACKAGES"
"""Environment variable: ``installed`` says that the machine has what package managers would install in the image."""
_PIP_FLAGS = {
    "--no-cache", "--no-cache-dir", "--upgrade", "-U", "--no-compile", "--disable-pip-version-check", "-q", "--quiet",
    "--user", "--no-warn-script-location", "--break-system-packages", "-v", "--root-user-action=ignore",
    "--no-input", "--force-reinstall", "--prefer-binary",
}  # fmt: skip
_PIP_OPTIONS = {"-i", "--index-url", "--extra-index-url", "--find-links", "-f", "--trusted-host"}
_PIP_ITSELF = re.compile(r"(pip|setuptools|wheel)([=<>~!\[].*)?", re.IGNORECASE)
SITE = "/usr/local/lib/python/site-packages"
"""Stands for wherever pip of the image would install without ``--target``."""


def run(stage: Stage, instruction: Instruction, steps: Steps) -> None:
    """Honour a RUN.

    Raises:
      DockerfileError: it cannot be; names the part and the reason.
      CliError: a tool failed, with its last lines.
    """
    if set(instruction.flags) - {"mount", "network", "security"}:
        raise instruction.refuse(f"--{sorted(instruction.flags)[0]} is not supported")
    if instruction.words is not None:
        _part(stage, instruction, list(instruction.words), steps)
        return
    for part in re.split(r"&&", instruction.text):
        text = part.strip()
        name = text.split(" ", 1)[0]
        if name in _HARMLESS and not re.search(r"[;|`<>]", text):
            continue
        if re.search(r"[;|`<>&]|\$\(", text):
            raise instruction.refuse(f"{text!r} needs a shell in the image: there is none")
        try:
            words = shlex.split(expand(text, stage.variables))
        except ValueError as exc:
            raise instruction.refuse(f"cannot be split into words ({exc})") from exc
        if words:
            _part(stage, instruction, words, steps)


def _part(stage: Stage, instruction: Instruction, words: list[str], steps: Steps) -> None:
    name, rest = words[0], words[1:]
    if name in ("python", "python3") and rest[:2] == ["-m", "pip"]:
        name, rest = "pip", rest[2:]
    if name in _HARMLESS:
        return
    if name in ("pip", "pip3"):
        _pip(stage, instruction, rest)
    elif name == "npm":
        _npm(stage, instruction, rest)
    elif name == "rm":
        _rm(stage, instruction, rest)
    elif name == "mkdir":
        for target in (word for word in rest if not word.startswith("-")):
            stage.real(target).mkdir(parents=True, exist_ok=True)
    elif name == "chmod":
        _chmod(stage, rest)
    elif name in _TOOLS:
        _tool(stage, instruction, words, steps)
    elif name in _SYSTEM:
        if rest[:1] in (["clean"], ["autoclean"]):
            return
        if os.environ.get(SYSTEM_PACKAGES) == "installed":
            steps.warn(f"passed over, {SYSTEM_PACKAGES} says that it is done on this machine: {shlex.join(words)}")
            return
        raise instruction.refuse(
            f"{name} would install into an image, and there is none",
            hint="install it on this machine (Debian: apt install ...), then remove the line from the Dockerfile "
            f"or set {SYSTEM_PACKAGES}=installed",
        )
    else:
        raise instruction.refuse(
            f"{name!r} would run in the image, and there is none",
            hint="what can be honoured: pip install, npm install, go, mvn, rm, mkdir, chmod, chown",
        )


def _pip(stage: Stage, instruction: Instruction, words: list[str]) -> None:
    if words[:1] == ["cache"]:
        return
    if words[:1] != ["install"]:
        raise instruction.refuse(f"only 'pip install' can be honoured, not 'pip {' '.join(words[:1])}'")
    found, target, at = requirements.Requirements(), SITE, 1
    while at < len(words):
        word = words[at]
        value = words[at + 1] if at + 1 < len(words) else ""
        if word in ("-r", "--requirement", "-c", "--constraint", "-t", "--target", *_PIP_OPTIONS):
            at += 1
        elif word.startswith(("--requirement=", "--constraint=", "--target=", "--index-url=", "--extra-index-url=")):
            word, _, value = word.partition("=")
        if word in ("-r", "--requirement", "-c", "--constraint"):
            _read(stage, instruction, found, value, constraint=word in ("-c", "--constraint"))
        elif word in ("-t", "--target"):
            target = stage.path(value)
        elif word in _PIP_OPTIONS:
            if word != "--trusted-host":
                found.options.append(f"{word} {value}")
        elif word.startswith("-"):
            if word not in _PIP_FLAGS:
                raise instruction.refuse(f"pip's option {word} is not supported")
        elif word.startswith((".", "/")) or "://" in word:
            raise instruction.refuse(f"pip install {word} is not supported", hint="name it in requirements.txt")
        elif not _PIP_ITSELF.fullmatch(word) and not word.lower().startswith("fdk"):
            found.lines.append(word)
        at += 1
    before = stage.packages.get(target)
    if before is not None:
        for kind in ("lines", "options", "constraints", "local"):
            getattr(found, kind)[:0] = getattr(before, kind)
    stage.packages[target] = found


def _read(
    stage: Stage, instruction: Instruction, found: requirements.Requirements, name: str, *, constraint: bool
) -> None:
    path = stage.real(name)
    if not path.is_file():
        raise instruction.refuse(f"there is no {name} in the image at this point: nothing has copied it")
    read = requirements.read(path)
    if constraint:
        found.constraints += [*read.lines, *read.constraints]
    else:
        found.lines += read.lines
        found.constraints += read.constraints
    found.options += read.options
    found.local += read.local


def _npm(stage: Stage, instruction: Instruction, words: list[str]) -> None:
    plain = [word for word in words if not word.startswith("-")]
    if plain[:1] == ["cache"]:
        return
    if plain[:1] not in (["install"], ["i"], ["ci"]) or "-g" in words or "--global" in words:
        raise instruction.refuse("only 'npm install' and 'npm ci' can be honoured")
    if len(plain) > 1:
        raise instruction.refuse(f"npm install {plain[1]} is not supported", hint="name it in package.json")
    where = stage.real(".")
    if not (where / "package.json").is_file():
        raise instruction.refuse("there is no package.json at this point: nothing has copied it")
    kept = Path(tempfile.mkdtemp(prefix="npm-", dir=stage.root.parent))
    for name in ("package.json", "package-lock.json", "npm-shrinkwrap.json", ".npmrc"):
        if (where / name).is_file():
            shutil.copyfile(where / name, kept / name)
    stage.modules[stage.path("node_modules")] = kept


def _rm(stage: Stage, instruction: Instruction, words: list[str]) -> None:
    for word in words:
        if word.startswith(("-", "~")):
            continue
        path = stage.path(word)
        if path == "/":
            raise instruction.refuse("it would remove everything")
        for place in [place for place in stage.modules if place == path or place.startswith(path + "/")]:
            del stage.modules[place]
        for place in [place for place in stage.packages if place == path or place.startswith(path + "/")]:
            del stage.packages[place]
        for match in glob.glob(str(stage.root / path.lstrip("/")), include_hidden=True):
            if os.path.isdir(match) and not os.path.islink(match):
                shutil.rmtree(match, ignore_errors=True)
            else:
                os.unlink(match)


def _chmod(stage: Stage, words: list[str]) -> None:
    plain = [word for word in words if word not in ("-R", "-v", "-f", "--recursive")]
    if len(plain) < 2:
        return
    mode = plain[0]
    on = bool(re.fullmatch(r"[ugoa]*\+[rw]*x[rw]*", mode)) or bool(re.fullmatch(r"0?[1357][0-7]{2}", mode))
    off = bool(re.fullmatch(r"[ua]?-[rw]*x[rw]*", mode)) or bool(re.fullmatch(r"0?[0246][0-7]{2}", mode))
    if not on and not off:
        return
    for word in plain[1:]:
        for match in glob.glob(str(stage.real(word))):
            if os.path.isfile(match):
                os.chmod(match, 0o755 if on else 0o644)


def _tool(stage: Stage, instruction: Instruction, words: list[str], steps: Steps) -> None:
    install, allowed = _TOOLS[words[0]]
    program = shutil.which(words[0])
    if program is None:
        raise instruction.refuse(f"there is no {words[0]} on this machine", hint=install)
    if allowed is not None and words[1:2] and words[1] not in allowed:
        raise instruction.refuse(f"'{words[0]} {words[1]}' is not supported")
    if outside := [word for word in words[1:] if word.startswith("/") or ".." in word.split("/")]:
        raise instruction.refuse(f"{outside[0]} is a path of the image", hint="use paths relative to WORKDIR")
    where = stage.real(".")
    where.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **{k: v for k, v in stage.environment.items() if k not in ("PATH", "HOME")}}
    with steps.step("build") as step:
        step.status(" ".join(words))
        confined = [path, "--no-new-privs", "--"] if (path := shutil.which("setpriv")) else []
        code, tail = deps._run([*confined, program, *words[1:]], where, environment, step.line)
        if code != 0:
            raise CliError(
                f"{instruction.file} line {instruction.line}: {' '.join(words)} ended with exit code {code}",
                detail="\n".join(tail),
            )
        step.done(" ".join(words))
