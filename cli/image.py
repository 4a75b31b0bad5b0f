"""What a Dockerfile makes of a function's directory, found out without a container engine.

Each stage is a directory; COPY and ADD really copy, ``pip install`` and ``npm install`` are noted and done by the same
code as for any other bundle, and what only tidies up is passed over. A line that cannot be honoured faithfully is
refused with its number and the reason: nothing is guessed.
"""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cli import bundle_source, kinds, shell_lines
from cli.dockerfile import DockerfileError, Instruction, assignments, expand, parse
from cli.errors import CliError
from cli.requirements import Requirements
from cli.steps import Steps

FUNCTION = "/function"
"""Where a function lies in every image of Fn's."""
_BASES: tuple[tuple[str, str], ...] = (
    ("python", "python"), ("node", "node"), ("golang", "go"), ("go", "go"), ("fn-java", "java"), ("java", "java"),
    ("openjdk", "java"), ("eclipse-temurin", "java"), ("amazoncorretto", "java"), ("maven", "java"),
    ("kotlin", "kotlin"), ("ruby", "ruby"), ("dotnet", "dotnet"), ("runtime", "dotnet"), ("sdk", "dotnet"),
    ("scratch", "exec"), ("alpine", "exec"), ("debian", "exec"), ("ubuntu", "exec"), ("busybox", "exec"),
    ("oraclelinux", "exec"), ("static", "exec"), ("base", "exec"), ("buildpack-deps", "exec"),
)  # fmt: skip
"""How the last part of an image's name begins -> what runs its functions here."""
_ORGANISATIONS = {
    "", "library", "fnproject", "docker.io/library", "docker.io/fnproject", "mcr.microsoft.com/dotnet",
    "gcr.io/distroless", "container-registry.oracle.com/os", "ghcr.io/oracle",
}  # fmt: skip
_IGNORED = {"EXPOSE", "LABEL", "MAINTAINER", "STOPSIGNAL", "HEALTHCHECK", "USER"}
"""Nothing that a function could see: its user and its way to stop are the sandbox's."""


@dataclass(slots=True)
class Stage:
    """One stage, or the end of all of them."""

    root: Path
    family: str
    version: str = ""
    """The base image's tag as far as it is a number: ``3.12``."""
    workdir: str = "/"
    environment: dict[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    packages: dict[str, Requirements] = field(default_factory=dict)
    """Where pip would have put what."""
    modules: dict[str, Path] = field(default_factory=dict)
    """Where npm would have put ``node_modules`` -> a directory with the package files as they were then."""
    args: dict[str, str] = field(default_factory=dict)

    def path(self, name: str) -> str:
        """``name`` as an absolute path of the stage, normalised."""
        return os.path.normpath(os.path.join(self.workdir, name))

    def real(self, name: str) -> Path:
        """Where that is on this machine; never outside the stage."""
        return self.root / self.path(name).lstrip("/")

    @property
    def variables(self) -> dict[str, str]:
        return {**self.args, **self.environment}


@dataclass(slots=True, kw_only=True)
class Image:
    """What came of it."""

    file: str
    function: Path
    """The directory that becomes ``function/``."""
    runtime: str
    handler_file: str = "func.py"
    handler_name: str = "handler"
    command: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    requirements: Requirements | None = None
    node_packages: Path | None = None


@contextmanager
def evaluate(directory: Path, file: Path, build_args: dict[str, str], steps: Steps) -> Iterator[Image]:
    """Carry out the Dockerfile ``file`` with the context ``directory``. The result lasts as long as the block.

    Raises:
      DockerfileError: a line that cannot be honoured.
      CliError: a file that cannot be read, or a program that failed.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CliError(f"there is no {file.name} in {directory}", hint="runtime docker means: a Dockerfile") from None
    except (OSError, UnicodeDecodeError) as exc:
        raise CliError(f"cannot read {file}: {exc}") from exc
    instructions = parse(text, file.name)
    with tempfile.TemporaryDirectory(prefix="stoker-image-") as work:
        yield _Evaluation(directory, file, build_args, Path(work), steps).run(instructions)


class _Evaluation:
    def __init__(self, directory: Path, file: Path, build_args: dict[str, str], work: Path, steps: Steps) -> None:
        self._context = bundle_source.context_of(directory, besides=file.name)
        self._file = file.name
        self._build_args = build_args
        self._work = work
        self._steps = steps
        self._stages: dict[str, Stage] = {}
        self._count = 0
        self._globals: dict[str, str] = {}
        self._stage: Stage | None = None

    def run(self, instructions: list[Instruction]) -> Image:
        for instruction in instructions:
            if instruction.name == "FROM":
                self._from(instruction)
            elif instruction.name == "ARG":
                self._arg(instruction)
            elif instruction.name in _IGNORED:
                continue
            elif self._stage is None:
                raise instruction.refuse("the first instruction must be FROM")
            else:
                self._do(self._stage, instruction)
        if self._stage is None:
            raise DockerfileError(f"{self._file}: there is no FROM")
        return self._finish(self._stage, instructions[-1])

    def _do(self, stage: Stage, instruction: Instruction) -> None:
        match instruction.name:
            case "WORKDIR":
                stage.workdir = stage.path(expand(instruction.text, stage.variables))
                stage.real(".").mkdir(parents=True, exist_ok=True)
            case "ENV":
                stage.environment.update(assignments(instruction, stage.variables))
            case "COPY" | "ADD":
                self._copy(stage, instruction)
            case "RUN":
                shell_lines.run(stage, instruction, self._steps)
            case "ENTRYPOINT":
                stage.entrypoint, stage.cmd = _command(instruction), ()
            case "CMD":
                stage.cmd = _command(instruction)
            case "VOLUME":
                raise instruction.refuse("a function has no volumes", hint="what it may write is /tmp")
            case _:
                raise instruction.refuse("this instruction is not supported")

    def _arg(self, instruction: Instruction) -> None:
        values = self._stage.variables if self._stage else self._globals
        for word in instruction.text.split():
            name, equals, default = word.partition("=")
            value = self._build_args.get(name, expand(default.strip("\"'"), values) if equals else None)
            if value is None:
                value = self._globals.get(name, "")
            (self._stage.args if self._stage else self._globals)[name] = value

    def _from(self, instruction: Instruction) -> None:
        words = expand(instruction.text, self._globals).split()
        if len(words) not in (1, 3) or (len(words) == 3 and words[1].lower() != "as"):
            raise instruction.refuse("must be FROM IMAGE [AS NAME]")
        root = self._work / str(self._count)
        if words[0].lower() in self._stages:
            before = self._stages[words[0].lower()]
            shutil.copytree(before.root, root, symlinks=True)
            stage = Stage(root, before.family, before.version, before.workdir, dict(before.environment),
                          before.entrypoint, before.cmd, dict(before.packages), dict(before.modules))  # fmt: skip
        else:
            family, version = _base(words[0], instruction)
            root.mkdir()
            stage = Stage(root, family, version)
        self._stages[str(self._count)] = stage
        if len(words) == 3:
            self._stages[words[2].lower()] = stage
        self._count += 1
        self._stage = stage

    # -- COPY and ADD -------------------------------------------------------------------------------------------

    def _copy(self, stage: Stage, instruction: Instruction) -> None:
        import shlex

        unknown = set(instruction.flags) - {"from", "chown", "chmod", "link"}
        if unknown:
            raise instruction.refuse(f"--{sorted(unknown)[0]} is not supported")
        words = list(instruction.words or shlex.split(expand(instruction.text, stage.variables)))
        if len(words) < 2:
            raise instruction.refuse("must name a source and a destination")
        *sources, target = words
        as_directory = target.endswith("/") or target in (".", "..") or len(sources) > 1 or stage.real(target).is_dir()
        if "from" in instruction.flags:
            name = expand(instruction.flags["from"], stage.variables).lower()
            other = self._stages.get(name)
            if other is None:
                raise instruction.refuse(
                    f"{name!r} is no stage of this file, and the content of other images is not here"
                )
            for source in sources:
                self._copy_from(stage, instruction, other, source, target, as_directory)
            return
        for source in sources:
            if "://" in source or source.startswith("git@"):
                raise instruction.refuse("nothing is downloaded", hint="download it first and COPY it")
            if instruction.name == "ADD" and source.endswith((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")):
                raise instruction.refuse("ADD would unpack it, which is not supported", hint="unpack it and COPY it")
            self._copy_context(stage, instruction, source, target, as_directory)

    def _copy_context(
        self, stage: Stage, instruction: Instruction, source: str, target: str, as_directory: bool
    ) -> None:
        wanted = os.path.normpath(source.lstrip("/") or ".")
        if wanted == ".." or wanted.startswith("../"):
            raise instruction.refuse("it is outside of the function's directory")
        found = False
        for name, path in self._context:
            relative = _below(name.rstrip("/"), wanted)
            if relative is None:
                continue
            found = True
            if relative == "":  # the file itself
                place = os.path.join(target, os.path.basename(name)) if as_directory else target
            else:
                place = os.path.join(target, relative)
            destination = stage.real(place)
            if name.endswith("/"):
                destination.mkdir(parents=True, exist_ok=True)
            else:
                _place(path, destination, instruction)
        if not found and wanted == ".":
            stage.real(target).mkdir(parents=True, exist_ok=True)
        elif not found:
            raise instruction.refuse(f"there is no {source} in the function's directory (or it is ignored)")

    def _copy_from(
        self, stage: Stage, instruction: Instruction, other: Stage, source: str, target: str, as_directory: bool
    ) -> None:
        virtual = os.path.normpath("/" + source.lstrip("/")) if source.startswith("/") else other.path(source)
        found = False
        for place, requirements in other.packages.items():
            relative = _inside(place, virtual)
            if relative is not None:
                stage.packages[stage.path(os.path.join(target, relative))] = requirements
                found = True
        for place, directory in other.modules.items():
            relative = _inside(place, virtual)
            if relative is not None:
                stage.modules[stage.path(os.path.join(target, relative))] = directory
                found = True
        real = other.root / virtual.lstrip("/")
        matches = [Path(name) for name in sorted(glob.glob(str(real)))] if glob.has_magic(virtual) else [real]
        for match in matches:
            if match.is_dir():
                shutil.copytree(match, stage.real(target), symlinks=True, dirs_exist_ok=True)
                found = True
            elif match.is_file():
                _place(match, stage.real(os.path.join(target, match.name) if as_directory else target), instruction)
                found = True
        if not found:
            raise instruction.refuse(f"there is no {source} in that stage")

    # -- the result ---------------------------------------------------------------------------------------------

    def _finish(self, stage: Stage, last: Instruction) -> Image:
        words = [*stage.entrypoint, *stage.cmd]
        if stage.family in ("java", "kotlin") and not stage.entrypoint and stage.cmd:
            words = kinds.default_command(stage.family, list(stage.cmd), [])  # fn's Java images have their own
        if not words:
            raise DockerfileError(f"{self._file}: there is no ENTRYPOINT, and no base image is here to have one")
        home = stage.workdir if stage.workdir != "/" else FUNCTION
        self._check_outside(stage, home)
        function = stage.root / home.lstrip("/")
        function.mkdir(parents=True, exist_ok=True)
        words = [_moved(word, home) for word in words]
        environment = {name: value for name, value in stage.environment.items() if name not in ("PATH", "PYTHONPATH")}
        image = Image(file=self._file, function=function, runtime=stage.family, environment=environment)
        if stage.family == "python":
            image.runtime = f"python{stage.version}" if stage.version.startswith("3.") else "python"
            for requirements in stage.packages.values():
                image.requirements = image.requirements or Requirements()
                for kind in ("lines", "options", "constraints", "local"):
                    getattr(image.requirements, kind).extend(getattr(requirements, kind))
        elif stage.packages:
            raise DockerfileError(f"{self._file}: pip's packages are for python images only")
        image.node_packages = next(
            (directory for place, directory in stage.modules.items() if place == f"{home}/node_modules"), None
        )
        if stage.modules and image.node_packages is None:
            raise DockerfileError(f"{self._file}: node_modules is not in {home}, where the function is")
        if stage.family == "python" and os.path.basename(words[0]) == "fdk":
            file = words[1].removeprefix(FUNCTION + "/") if len(words) > 1 else "func.py"
            image.handler_file = file
            image.handler_name = words[2] if len(words) > 2 else "handler"
            if not (function / file).is_file():
                raise DockerfileError(f"{self._file}: there is no {file} in the image: nothing copies it")
        else:
            image.command = tuple(words)
        return image

    def _check_outside(self, stage: Stage, home: str) -> None:
        top = stage.root / home.lstrip("/")
        for folder, _, files in os.walk(stage.root):
            inside = Path(folder) == top or top in Path(folder).parents
            if files and not inside and not folder.startswith(str(stage.root / "python")):
                place = "/" + os.path.relpath(os.path.join(folder, files[0]), stage.root)
                raise DockerfileError(
                    f"{self._file}: {place} lies outside of {home}: only the work directory becomes the function",
                    hint=f"copy it into {home}",
                )


def _family(image: str) -> tuple[str, str]:
    """What stands here for the base image of this name (empty: nothing does), and its tag."""
    name, _, tag = image.partition("@")[0].partition(":")
    organisation, _, short = name.rpartition("/")
    family = next((family for prefix, family in _BASES if short.startswith(prefix)), "")
    return (family if organisation in _ORGANISATIONS else ""), tag


def is_known(image: str) -> bool:
    """Whether a Dockerfile may begin with it."""
    return bool(_family(image)[0])


def _base(image: str, instruction: Instruction) -> tuple[str, str]:
    """The family and the version that the name of a base image stands for."""
    family, tag = _family(image)
    if not family:
        raise instruction.refuse(
            f"the content of {image} is not here: no images are pulled",
            hint="known base images: fnproject/python, fnproject/node, fnproject/go, fnproject/fn-java-fdk, "
            "python, node, golang, debian, alpine, scratch",
        )
    version = tag.partition("-")[0]
    return family, version if version.replace(".", "").isdigit() else ""


def _command(instruction: Instruction) -> tuple[str, ...]:
    if instruction.words is not None:
        return instruction.words
    if not instruction.text:
        return ()
    return ("/bin/sh", "-c", instruction.text)


def _place(source: Path, destination: Path, instruction: Instruction) -> None:
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, destination)
    except OSError as exc:
        raise instruction.refuse(f"cannot copy {source.name}: {exc.strerror}") from exc


def _below(name: str, wanted: str) -> str | None:
    """``name`` relative to ``wanted``, which may be a pattern of one level; "" when it is that itself."""
    import fnmatch

    if wanted == ".":
        return name
    parts, pattern = name.split("/"), wanted.split("/")
    head = parts[: len(pattern)]
    if len(head) < len(pattern) or not all(map(fnmatch.fnmatchcase, head, pattern)):
        return None
    return "/".join(parts[len(pattern) :])


def _inside(place: str, wanted: str) -> str | None:
    """``place`` relative to the directory ``wanted``; None when it is not in it."""
    if place == wanted:
        return ""
    prefix = wanted.rstrip("/") + "/"
    return place[len(prefix) :] if place.startswith(prefix) else None


def _moved(word: str, home: str) -> str:
    """A path below the work directory as the path it has in a bundle."""
    return FUNCTION + word[len(home) :] if word == home or word.startswith(f"{home}/") else word
