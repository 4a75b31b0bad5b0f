"""What a function's bundle is made of besides its source: ``build:`` lines, packages, and what is to be started.

Python handlers need nothing of this; Node, prebuilt binaries, JARs, commands of one's own and Dockerfiles do.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cli import deps, kinds, npm, requirements
from cli.bundle import Recipe
from cli.errors import CliError
from cli.funcfile import FuncFile
from cli.image import Image, evaluate
from cli.steps import Steps

_JARS = ("*.jar", "app/*.jar", "target/*.jar", "build/libs/*.jar", "runtime/*.jar")
_ENTRY_POINT = kinds.FDK_JAVA.replace(".", "/") + ".class"
_PYTHON_PATH = {"PYTHONPATH": "/function:/python"}


@contextmanager
def recipe_of(
    directory: Path, found: FuncFile, steps: Steps, image: Image | None, *, refresh: bool
) -> Iterator[Recipe]:
    """What the bundle of a directory is made of; runs ``build:`` lines, reads the Dockerfile, installs packages first.

    ``image``: what a Dockerfile that was read already makes of the directory.

    Raises:
      CliError: a line fails or cannot be honoured, or something that is to be started is not there.
    """
    run_build_lines(directory, found.build, steps)
    with ExitStack() as stack:
        if image is None and kinds.family(found.runtime) == "docker":
            image = stack.enter_context(evaluate(directory, directory / "Dockerfile", {}, steps))
        if image is not None:
            recipe = _of_image(image, found)
        elif found.starts_program:
            recipe = _of_directory(directory, found)
        else:
            recipe = Recipe(directory, requirements.read(directory / "requirements.txt"), runtime=found.runtime)
        if _wants_official_fdk(found):
            _use_official_fdk(recipe, directory, found)
        packages = image.node_packages if image is not None else _has_packages(directory, found)
        if packages is not None:
            with steps.step("dependencies") as step:
                if (segment := npm.provide(packages, step, refresh=refresh)) is not None:
                    recipe.segments.append(segment)
        yield recipe


def _has_packages(directory: Path, found: FuncFile) -> Path | None:
    is_node = kinds.family(found.runtime) == "node" and (directory / "package.json").is_file()
    return directory if is_node else None


def run_build_lines(directory: Path, lines: list[str], steps: Steps) -> None:
    """Run each with ``/bin/sh -c`` in the directory, its output shown; it may not gain privileges.

    Raises:
      CliError: one of them ended with another code than 0, or took longer than `deps.INSTALL_S`.
    """
    if not lines:
        return
    with steps.step("build") as step:
        confined = [path, "--no-new-privs", "--"] if (path := shutil.which("setpriv")) else []
        for line in lines:
            step.status(line)
            code, tail = deps._run([*confined, "/bin/sh", "-c", line], directory, dict(os.environ), step.line)
            if code != 0:
                ended = "was stopped: it took too long" if code < 0 else f"ended with exit code {code}"
                raise CliError(f"func.yaml: build: {line!r} {ended}", detail="\n".join(tail))
        step.done(f"{len(lines)} line{'s' if len(lines) > 1 else ''} run")


def _of_directory(directory: Path, found: FuncFile) -> Recipe:
    recipe = Recipe(directory)
    command, environment = found.command, {}
    if not command:
        jars = _jars(directory)
        command = kinds.default_command(found.runtime, found.cmd, [name for name, main in jars if main])
    if not command:
        raise CliError(
            f"{found.path.name}: runtime {found.runtime} needs an entrypoint: the program and its arguments",
            hint="for example 'entrypoint: ./func', started in the function's directory",
        )
    _check_command(directory, found.runtime, command, found.path.name)
    if not kinds.family(found.runtime):  # Python, but not through our worker: it needs the FDK of its own
        recipe.runtime, environment = found.runtime, _PYTHON_PATH
        recipe.requirements = requirements.read(directory / "requirements.txt", keep_fdk=True)
    if _has_packages(directory, found):
        recipe.left_out.add("node_modules")
    recipe.generated[kinds.BUILT_FILE] = built_file(found.runtime, command, environment)
    return recipe


def _wants_official_fdk(found: FuncFile) -> bool:
    """Asked for by name, or by ``start: exec`` where requirements.txt brings it along."""
    value = found.annotations.get(kinds.FDK_ANNOTATION, "")
    if value not in ("", "official", "stoker"):
        raise CliError(
            f"{found.path.name}: annotations: {kinds.FDK_ANNOTATION} must be official or stoker, not {value!r}"
        )
    if found.starts_program or value == "stoker" or found.annotations.get(kinds.ADAPTER_ANNOTATION):
        return False
    if value:
        return True
    read = requirements.read(found.path.parent / "requirements.txt", keep_fdk=True)
    is_exec = found.annotations.get(kinds.START_ANNOTATION) == "exec"
    return is_exec and any(requirements.names_fdk(line) for line in read.lines)


def _use_official_fdk(recipe: Recipe, directory: Path, found: FuncFile) -> None:
    """Have the handler run by Fn's own FDK, a program like any other, in place of our worker.

    Its script ``bin/fdk`` names the interpreter of the machine that installed it, so what that does is said here.
    """
    recipe.requirements = requirements.read(directory / "requirements.txt", keep_fdk=True)
    if not any(requirements.names_fdk(line) for line in recipe.requirements.lines):
        raise CliError(
            f"{found.path.name}: annotations: {kinds.FDK_ANNOTATION}: official, and requirements.txt does not name fdk",
            hint="add a line such as fdk==0.1.128",
        )
    handler = [f"/function/{found.handler_file}", found.handler_name]
    command = ["python3", "-c", "from fdk.scripts.fdk import main; main()", *handler]
    recipe.generated[kinds.BUILT_FILE] = built_file(found.runtime, command, _PYTHON_PATH)


def _of_image(image: Image, found: FuncFile) -> Recipe:
    """POLICY: which Python is func.yaml's to say, if it names one; all else is the Dockerfile's."""
    recipe = Recipe(image.function)
    python = not kinds.family(image.runtime)
    runtime = found.runtime if python and not kinds.family(found.runtime) else image.runtime
    if python:
        recipe.requirements, recipe.runtime = image.requirements or requirements.Requirements(), runtime
    handler = (image.handler_file, image.handler_name)
    if image.command:
        _check_command(image.function, image.runtime, list(image.command), image.file)
        environment = {**_PYTHON_PATH, **image.environment} if python else image.environment
        recipe.generated[kinds.BUILT_FILE] = built_file(runtime, list(image.command), environment)
    elif image.environment or handler != (found.handler_file, found.handler_name) or found.starts_program:
        document = {"runtime": runtime, "handler_file": handler[0], "handler_name": handler[1],
                    "environment": image.environment}  # fmt: skip
        recipe.generated[kinds.BUILT_FILE] = _encoded(document)
    return recipe


def built_file(runtime: str, command: list[str], environment: dict[str, str]) -> bytes:
    """The content of ``.stoker.json`` for a program."""
    return _encoded({"runtime": runtime, "command": command, "environment": environment})


def _encoded(document: Mapping[str, object]) -> bytes:
    document = {key: value for key, value in document.items() if value}
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def _check_command(directory: Path, runtime: str, command: list[str], file: str) -> None:
    """Refuse a command whose program is neither in the bundle nor on this machine, or whose script is missing."""
    program = command[0]
    inside = program.removeprefix("/function/").removeprefix("./")
    if inside != program or ("/" in inside and not inside.startswith("/")):
        path = directory / inside
        if not path.is_file():
            raise CliError(
                f"{file}: there is no {inside} in {directory}",
                hint="build it first, for example with a line under 'build:' such as 'CGO_ENABLED=0 go build -o func .'"
                if kinds.family(runtime) == "go"
                else "it is what the entrypoint starts; put it there, or correct the entrypoint",
            )
        if not os.access(path, os.X_OK):
            raise CliError(f"{file}: {inside} is not executable", hint=f"chmod +x {path}")
        return
    needed = kinds.PROGRAMS.get(kinds.family(runtime))
    if shutil.which(program) is None:
        hint = needed.install if needed and needed.name == program else f"install the package that has {program}"
        if runtime.startswith("python") and ":" in program:
            hint = "entrypoint is a command line; handler in func.py needs none, others '/python/bin/fdk FILE NAME'"
        raise CliError(f"there is no {program} on this machine ({file}: runtime {runtime})", hint=hint)
    _check_version(program, runtime, file)
    if program == "node" and len(command) > 1 and not command[1].startswith("-"):
        script = command[1].removeprefix("/function/")
        if not script.startswith("/") and not any((directory / name).is_file() for name in (script, f"{script}.js")):
            raise CliError(f"{file}: there is no {script} in {directory}", hint="it is what the entrypoint starts")
    if kinds.FDK_JAVA in command and not any(_has_entry_point(directory / name) for name, _ in _jars(directory)):
        raise CliError(
            f"{file}: no JAR in {directory} has {kinds.FDK_JAVA}",
            hint="put the FDK's runtime (Maven: com.fnproject.fn:runtime) and your JAR into app/ or target/",
        )


def _check_version(program: str, runtime: str, file: str) -> None:
    """Where the runtime names a version (``node22``), the machine's must be that one."""
    wanted = kinds.major(runtime)
    known = kinds.PROGRAMS.get(kinds.family(runtime))
    if not wanted or known is None or known.name != program:
        return
    import re
    import subprocess

    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30, check=False)
    match = re.search(r"(\d+)[.\d]*", done.stdout + done.stderr)
    if match is not None and match[1] != wanted:
        name = kinds.family(runtime)
        raise CliError(
            f"there is no {runtime} on this machine ({file}: runtime)",
            hint=f"found: {name}{match[1]}; write 'runtime: {name}' for whatever there is, or install {runtime}",
        )


def _jars(directory: Path) -> list[tuple[str, bool]]:
    """The JARs of a directory and whether each says its main class."""
    found = []
    for pattern in _JARS:
        for path in sorted(directory.glob(pattern)):
            try:
                with zipfile.ZipFile(path) as archive:
                    manifest = archive.read("META-INF/MANIFEST.MF")
            except (OSError, KeyError, zipfile.BadZipFile):
                manifest = b""
            found.append((path.relative_to(directory).as_posix(), b"Main-Class:" in manifest))
    return found


def _has_entry_point(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return _ENTRY_POINT in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False
