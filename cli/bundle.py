"""A bundle from a function's directory: ``function/`` (the source) and ``python/`` (the dependencies) in one ZIP.

Deterministic: members sorted, times fixed, two modes; the same input gives the same SHA-256 (with the same zlib).
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from cli import deps, funcfile, interpreters, kinds, requirements
from cli.archive import ArchiveError, Member, Segment, write
from cli.errors import CliError
from cli.ignore import FILE_NAME, Ignore
from cli.output import count, short_digest, size
from cli.steps import Steps

if TYPE_CHECKING:
    from cli.image import Image

LAYER_FILE = "python.layer"
"""Names the layer in a bundle that has its dependencies there."""
DEPTH_MAX = 32
"""Deepest path that the daemon takes, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A made bundle."""

    path: Path
    digest: str
    """``sha256:<64 hex>``."""
    packed_bytes: int
    unpacked_bytes: int
    files: int
    layer: deps.Dependencies | None = None
    """The dependencies, when they are not in the bundle but go to the daemon on their own."""


@dataclass(slots=True)
class Recipe:
    """What a bundle is made of."""

    directory: Path
    """What becomes ``function/``."""
    requirements: requirements.Requirements | None = None
    """What becomes ``python/``; None: there is none of it."""
    runtime: str = "python"
    """For which Python."""
    segments: list[tuple[Path, list[Member]]] = field(default_factory=list)
    """Compressed already: ``function/node_modules/``."""
    generated: dict[str, bytes] = field(default_factory=dict)
    """Files of ``function/`` that are not in the directory."""
    left_out: set[str] = field(default_factory=lambda: {kinds.BUILT_FILE})
    """Names at the top of the directory that stay out."""


@dataclass(slots=True)
class Source:
    """What of a directory goes into its bundle."""

    files: list[tuple[str, Path]] = field(default_factory=list)
    """Relative name (an empty directory's ends in ``/``) and path."""
    skipped: list[str] = field(default_factory=list)
    """Bundles made earlier that lie in the directory."""


def build(
    directory: Path,
    found: funcfile.FuncFile,
    output: Path,
    steps: Steps,
    *,
    refresh: bool = False,
    python: interpreters.Interpreter | None = None,
    layered: bool = False,
    image: Image | None = None,
) -> Bundle:
    """Make the bundle of ``directory`` at ``output``, which appears whole or not at all.

    ``python``: what the dependencies are for, when the daemon has said it; else the runtime's is looked for here.
    ``layered``: the bundle only names the layer that its dependencies are; see `cli.push`. ``image``: what a Dockerfile
    that was read already makes of the directory.

    Raises:
      CliError: something cannot be bundled, or the dependencies cannot be installed.
    """
    if found.build or found.starts_program or found.names_fdk or image is not None:
        from cli.recipes import recipe_of

        with recipe_of(directory, found, steps, image, refresh=refresh) as recipe:
            return _build(recipe, found, output, steps, refresh=refresh, python=python, layered=layered)
    recipe = Recipe(directory, requirements.read(directory / "requirements.txt"), runtime=found.runtime)
    return _build(recipe, found, output, steps, refresh=refresh, python=python, layered=layered)


def _build(
    recipe: Recipe,
    found: funcfile.FuncFile,
    output: Path,
    steps: Steps,
    *,
    refresh: bool,
    python: interpreters.Interpreter | None,
    layered: bool,
) -> Bundle:
    directory, resolved = recipe.directory, None
    if recipe.requirements is not None:
        with steps.step("dependencies") as step:
            python = python or interpreters.for_runtime(recipe.runtime)
            resolved = deps.provide(recipe.requirements, python, step, refresh=refresh)
    with steps.step("bundle") as step:
        source = collect(directory)
        source.files = [pair for pair in source.files if pair[0].partition("/")[0] not in recipe.left_out]
        try:
            bundle = _assemble(source, recipe, resolved, output, layered=layered)
        except ArchiveError as exc:
            raise CliError(f"cannot bundle {directory}: {exc}", hint=f"name what to leave out in {FILE_NAME}") from exc
        except FileNotFoundError as exc:
            raise CliError(f"cannot bundle {directory}: {exc.filename} went away meanwhile", hint="try again") from exc
        step.done(f"{short_digest(bundle.digest)}, {count(bundle.files, 'file')}, {size(bundle.packed_bytes)}")
    for name in source.skipped:
        steps.warn(f"{name} is a bundle that was built earlier: left out")
    return bundle


def _assemble(
    source: Source, recipe: Recipe, resolved: deps.Dependencies | None, output: Path, *, layered: bool
) -> Bundle:
    layer = resolved if layered else None
    more = list(recipe.segments)
    if resolved is not None and not layered:
        more.append((resolved.layer, resolved.members))
    with tempfile.TemporaryFile() as own, ExitStack() as files:
        segment = Segment(own)
        for name, path in source.files:
            data, mode = (b"", 0) if name.endswith("/") else _read(path)
            segment.add(f"function/{name}", data, executable=bool(mode & 0o100))
        for name, data in sorted(recipe.generated.items()):
            segment.add(f"function/{name}", data)
        if layer is not None:
            segment.add(LAYER_FILE, f"{layer.digest}\n".encode())
        own.seek(0)
        segments: list[tuple[BinaryIO, list[Member]]] = [(own, segment.members)]
        segments += [(files.enter_context(open(path, "rb")), members) for path, members in more]
        try:
            number, partial = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
        except OSError as exc:
            raise CliError(f"cannot write {output}: {exc.strerror}") from exc
        try:
            with open(number, "wb") as target:
                digest, packed, unpacked = write(target, segments)
            os.chmod(partial, 0o644)
            os.replace(partial, output)
        except BaseException:
            os.unlink(partial)
            raise
    number_of_files = sum(not m.name.endswith("/") for _, members in segments for m in members)
    return Bundle(
        path=output,
        digest=f"sha256:{digest}",
        packed_bytes=packed,
        unpacked_bytes=unpacked,
        files=number_of_files,
        layer=layer,
    )


def _read(path: Path) -> tuple[bytes, int]:
    """Content and mode of a regular file; O_NONBLOCK so that a FIFO put in its place cannot hang us."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise CliError(f"cannot bundle {path}: not a regular file")
            return file.read(), mode
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise CliError(f"cannot read {path}: {exc.strerror}") from exc


def collect(directory: Path) -> Source:
    """The files of a function's directory, in order of their names; ``.fnignore`` and the built-in names left out.

    A symbolic link to something inside the directory becomes a copy of it; one that leads outside is an error.

    Raises:
      CliError: names the file that cannot be part of a bundle.
    """
    try:
        text = (directory / FILE_NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""
    except (OSError, UnicodeDecodeError) as exc:
        raise CliError(f"cannot read {directory / FILE_NAME}: {exc}") from exc
    source = Source()
    top = os.path.realpath(directory)
    for name, path in _walk(top, top, "", Ignore(text), (top,)):
        if "/" not in name and name.endswith(".zip") and _is_bundle(path):
            source.skipped.append(name)
        else:
            source.files.append((name, path))
    source.files.sort(key=lambda entry: os.fsencode(entry[0]))
    return source


def _walk(top: str, folder: str, prefix: str, ignore: Ignore, chain: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    try:
        entries = list(os.scandir(folder))
    except OSError as exc:
        raise CliError(f"cannot read {folder}: {exc.strerror}") from exc
    if not entries and prefix:
        yield prefix, Path(folder)
    if len(chain) > DEPTH_MAX:
        raise CliError(f"cannot bundle {prefix}: deeper than {DEPTH_MAX} directories")
    for entry in entries:
        name = prefix + entry.name
        is_directory = os.path.isdir(entry.path)  # unlike entry.is_dir() never raises: links in a loop
        if ignore.ignores(name, directory=is_directory):
            continue
        real = entry.path
        if entry.is_symlink():
            real = _resolved(top, entry.path, name, chain)
        if is_directory:
            yield from _walk(top, real, name + "/", ignore, (*chain, os.path.realpath(real)))
        elif os.path.isfile(real):
            yield name, Path(real)
        else:
            raise CliError(
                f"cannot bundle {name}: it is neither a file nor a directory",
                hint=f"leave it out: add it to {FILE_NAME}",
            )


def _resolved(top: str, path: str, name: str, chain: tuple[str, ...]) -> str:
    """Where a symbolic link leads, when that can be bundled."""
    real = os.path.realpath(path)
    hint = f"replace it by what it names, or leave it out: add it to {FILE_NAME}"
    if not os.path.exists(real):
        raise CliError(f"cannot bundle {name}: the link leads nowhere ({os.readlink(path)})", hint=hint)
    if os.path.commonpath([top, real]) != top:
        raise CliError(f"cannot bundle {name}: the link leads out of the function's directory, to {real}", hint=hint)
    if real in chain:
        raise CliError(f"cannot bundle {name}: the link leads to a directory that it is in itself", hint=hint)
    return real


def _is_bundle(path: Path) -> bool:
    """Whether a ZIP is a bundle of ours, left in the function's directory by ``stoker build -o``."""
    with open(path, "rb") as file:
        head = file.read(39)
    return head[:4] == b"PK\3\4" and head[30:39] == b"function/"
