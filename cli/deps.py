"""A function's dependencies: resolved by uv or pip into ``python/``, compressed once, kept by what decides them.

The cache, ``$XDG_CACHE_HOME/stoker/deps/KEY/``, holds them as an archive, the *layer*, and its index. KEY is the
SHA-256 of the requirements with all they include, the constraints, local files, Python version, platform and package
indexes. An entry appears whole (rename) and is never changed; the ones longest unused go when the size bound is passed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cli.archive import ArchiveError, Member, Segment, write
from cli.errors import CliError
from cli.interpreters import Interpreter
from cli.output import count
from cli.requirements import Requirements, content_hash
from cli.steps import Step

FORMAT = 2
"""Part of the key: raised when the layer's form or what is left out changes."""
INSTALL_S = 1800.0
"""Longest time for uv or pip; a large package may have to be compiled."""
TAIL_LINES = 25
"""How many of the installer's last lines are shown when it fails."""
CACHE_MIB = 2048
"""Size bound of the cache; ``STOKER_CACHE_MIB`` sets another."""
LEFTOVER_S = 86_400.0
"""Age at which a directory that an interrupted run left behind is removed."""

_INDEX_VARIABLES = (
    "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_CONSTRAINT", "UV_INDEX",
    "UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_NO_INDEX", "UV_CONSTRAINT",
)  # fmt: skip
_HINTS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("no space left on device", "disk quota exceeded"),
        "make room on the disk, or name other places: XDG_CACHE_HOME for the cache, TMPDIR for temporary files",
    ),
    (("no module named pip",), "this Python has no pip: install uv ('pip install uv') or python3-pip"),
    (
        (
            "dns error", "name resolution", "connection refused", "failed to establish", "connect timeout",
            "network is unreachable", "error sending request",
        ),
        "the package index cannot be reached: check the network, or name another with UV_INDEX_URL or PIP_INDEX_URL",
    ),
    (
        (
            "no solution found", "no matching distribution", "not found in the package registry",
            "resolutionimpossible", "could not find a version",
        ),
        "check names and versions in requirements.txt, and whether they exist for the runtime of func.yaml",
    ),
    (
        ("gcc", "compil", "build backend", "failed to build", "metadata-generation-failed"),
        "it has to be built here: install its compiler and headers, or choose a version that has a wheel",
    ),
)  # fmt: skip
"""What the installers' words mean, and what to do about it; the first that fits."""
_HINT_OTHERWISE = "the lines above are the installer's; correct requirements.txt and deploy again"
_LEFT_OUT_FILES = {".lock", "uv_cache.json", "direct_url.json", "REQUESTED"}
"""Notes of the installers in ``*.dist-info`` with times and paths of this machine."""


@dataclass(frozen=True, slots=True)
class Dependencies:
    """A ready layer in the cache: an archive that begins with the segment for whole bundles."""

    layer: Path
    digest: str
    """``sha256:<64 hex>`` of the layer."""
    members: list[Member]
    cached: bool
    installer: str


def provide(
    requirements: Requirements, python: Interpreter, step: Step, *, refresh: bool = False
) -> Dependencies | None:
    """The layer of these requirements, from the cache or installed now; None when nothing is required.

    ``refresh`` resolves again even if it is cached.

    Raises:
      CliError: the installer failed (with its last lines), or there is none.
    """
    if not requirements.lines:
        step.done("none")
        return None
    root = cache_root()
    key = _key(requirements, python)
    if not refresh and (found := _open(root / key)):
        step.done(f"{_summary(found)}, cached")
        return found
    step.status("resolving")
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="partial-", dir=root) as work:
        installer = _install(requirements, python, Path(work), step)
        step.status("compressing")
        _compress(Path(work) / "python", Path(work) / "entry", installer)
        _place(Path(work) / "entry", root / key)
    fresh = _open(root / key)
    if fresh is None:
        raise CliError(f"the cache entry {root / key} cannot be read", hint=f"remove {root} and try again")
    _evict(root, keep=key)
    step.done(f"{_summary(fresh)}, by {installer}")
    return replace(fresh, cached=False, installer=installer)


def cache_root() -> Path:
    """Where the layers are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "stoker" / "deps"


def _summary(found: Dependencies) -> str:
    names = {member.name.split("/")[1] for member in found.members}
    packages = sum(1 for name in names if name.endswith(".dist-info"))
    return count(packages, "package") if packages else count(len(found.members), "file")


def _key(requirements: Requirements, python: Interpreter) -> str:
    environment = {name: os.environ[name] for name in _INDEX_VARIABLES if name in os.environ}
    constraint_files = [
        content_hash(Path(path))
        for name in ("PIP_CONSTRAINT", "UV_CONSTRAINT")
        for path in os.environ.get(name, "").split()
        if os.path.exists(path)
    ]
    identity = [
        FORMAT, requirements.identity(), python.version, sys.implementation.name, sysconfig.get_platform(), environment,
        constraint_files,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _open(entry: Path) -> Dependencies | None:
    """The entry, or None when it is absent or damaged."""
    try:
        index = json.loads((entry / "index.json").read_bytes())
        if (entry / "layer.zip").stat().st_size != index["bytes"]:
            return None
        members = [Member(*member) for member in index["members"]]
        os.utime(entry)  # the least recently used one goes first
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Dependencies(entry / "layer.zip", str(index["digest"]), members, True, index.get("installer", ""))


def _place(made: Path, entry: Path) -> None:
    for _ in range(2):
        try:
            made.rename(entry)
            return
        except OSError:
            # Another run made the same one meanwhile; or it is damaged, or to be refreshed. Both are whole: ours stays.
            shutil.rmtree(entry, ignore_errors=True)


def _compress(tree: Path, entry: Path, installer: str) -> None:
    entry.mkdir()
    try:
        with tempfile.TemporaryFile(dir=entry) as records, open(entry / "layer.zip", "wb") as file:
            segment = Segment(records)
            for name, path in sorted(_files(tree)):
                mode = path.stat().st_mode
                segment.add(f"python/{name}", path.read_bytes(), executable=bool(mode & 0o100))
            records.seek(0)
            digest, packed, _ = write(file, [(records, segment.members)])
            file.flush()
            os.fsync(file.fileno())
    except ArchiveError as exc:
        raise CliError(f"the dependencies cannot be bundled: {exc}") from exc
    index = {
        "bytes": packed,
        "digest": f"sha256:{digest}",
        "installer": installer,
        "members": [member.to_list() for member in segment.members],
    }
    (entry / "index.json").write_text(json.dumps(index, separators=(",", ":")))


def _files(tree: Path) -> list[tuple[str, Path]]:
    found = []
    for folder, folders, files in os.walk(tree):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in files:
            path = Path(folder) / name
            in_notes = folder.endswith(".dist-info") or Path(folder) == tree
            if name.endswith(".pyc") or (in_notes and name in _LEFT_OUT_FILES) or not path.is_file():
                continue
            found.append((path.relative_to(tree).as_posix(), path))
    return found


def _evict(root: Path, *, keep: str) -> None:
    """Remove leftovers, and the entries longest unused until the rest fits the bound."""
    try:
        bound = int(os.environ.get("STOKER_CACHE_MIB", CACHE_MIB)) * 2**20
    except ValueError:
        bound = CACHE_MIB * 2**20
    entries: list[tuple[float, int, Path]] = []
    for path in root.iterdir():
        try:
            used_at = path.stat().st_mtime
            if path.name.startswith("partial-"):
                if time.time() - used_at > LEFTOVER_S:
                    shutil.rmtree(path, ignore_errors=True)
                continue
            entries.append((used_at, sum(f.lstat().st_size for f in path.rglob("*")), path))
        except OSError:
            continue  # another run removes it
    total = sum(bytes_ for _, bytes_, _ in entries)
    for _, bytes_, path in sorted(entries, key=lambda entry: entry[:2]):
        if total <= bound:
            return
        if path.name != keep:
            shutil.rmtree(path, ignore_errors=True)
            total -= bytes_


def find_uv() -> str:
    """uv beside this Python or on the path; empty when there is none."""
    beside = os.path.join(os.path.dirname(sys.executable), "uv")
    return beside if os.access(beside, os.X_OK) else shutil.which("uv") or ""


def _command(python: Interpreter, target: Path, arguments: list[str]) -> tuple[str, list[str]]:
    """The installer's name and its command line. ``STOKER_INSTALLER`` (uv or pip) overrides the choice."""
    wanted = os.environ.get("STOKER_INSTALLER", "")
    if wanted not in ("", "uv", "pip"):
        raise CliError(f"STOKER_INSTALLER must be uv or pip, not {wanted!r}")
    uv = find_uv() if wanted != "pip" else ""
    if uv:
        return "uv", [uv, "pip", "install", "--python", python.path, "--target", str(target), *arguments]
    if wanted == "uv":
        raise CliError("there is no uv", hint="install it with 'pip install uv', or unset STOKER_INSTALLER")
    options = ["--disable-pip-version-check", "--no-input", "--no-compile", "--progress-bar", "off"]
    command = [python.path, "-m", "pip", "install", *options, "--target", str(target), *arguments]
    return "pip", command


def _install(requirements: Requirements, python: Interpreter, work: Path, step: Step) -> str:
    """Install into ``work/python``; the installer's name."""
    target = work / "python"
    target.mkdir()
    (work / "requirements.txt").write_text("\n".join([*requirements.options, *requirements.lines, ""]))
    arguments = ["-r", str(work / "requirements.txt")]
    if requirements.constraints:
        (work / "constraints.txt").write_text("\n".join([*requirements.constraints, ""]))
        arguments += ["-c", str(work / "constraints.txt")]
    installer, command = _command(python, target, arguments)
    environment = {
        **os.environ,
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_NO_PROGRESS": "1",
        "UV_LINK_MODE": os.environ.get("UV_LINK_MODE", "hardlink"),
        "NO_COLOR": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        "PYTHONUNBUFFERED": "1",
    }
    environment.pop("PYTHONPATH", None)  # what is importable here is not there
    step.status(f"installing with {installer}")
    code, tail = _run(command, work, environment, step.line)
    if code != 0:
        raise _failure(installer, code, tail)
    return installer


def _run(
    command: list[str], cwd: Path, environment: dict[str, str], on_line: Callable[[str], Any]
) -> tuple[int, list[str]]:
    """Run it, telling each line; its exit code and last lines."""
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    try:
        process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, encoding="utf-8", errors="replace",
        )  # fmt: skip
    except OSError as exc:
        raise CliError(f"cannot run {command[0]}: {exc.strerror}") from exc
    timer = threading.Timer(INSTALL_S, process.kill)
    timer.daemon = True
    timer.start()
    try:
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.strip():
                    tail.append(line.rstrip())
                    on_line(line.rstrip())
    except BaseException:
        process.kill()
        raise
    finally:
        timer.cancel()
    return process.returncode, list(tail)


def _failure(installer: str, code: int, tail: list[str]) -> CliError:
    text = "\n".join(tail)
    lower = text.lower()
    hint = next((hint for signs, hint in _HINTS if any(sign in lower for sign in signs)), _HINT_OTHERWISE)
    why = "was stopped: it took too long" if code < 0 else f"ended with exit code {code}"
    return CliError(f"cannot install the dependencies: {installer} {why}", detail=text, hint=hint)
