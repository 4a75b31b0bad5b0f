"""A Node function's dependencies: installed by npm, kept compressed by what decides them, as `cli.deps` keeps Python's.

The key is the SHA-256 of package.json, the lock file, .npmrc, the versions of node and npm, and the platform.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sysconfig
import tempfile
from pathlib import Path

from cli import deps
from cli.archive import ArchiveError, Member, Segment
from cli.errors import CliError
from cli.output import count
from cli.steps import Step

FORMAT = 1
"""Part of the key."""
LOCKS = ("package-lock.json", "npm-shrinkwrap.json")
_PACKAGE = re.compile(r".*/node_modules/(@[^/]+/)?[^/]+/package\.json")
"""A package's own; others lie deeper."""
_HINTS = (
    (("eai_again", "enotfound", "econnrefused", "etimedout", "network"), "the npm registry cannot be reached"),
    (("e404", "etarget", "notarget"), "check names and versions in package.json"),
    (("npm ci", "lock file"), "package-lock.json does not fit package.json: run 'npm install' and deploy again"),
    (("node-gyp", "gyp err", "make:"), "it has to be compiled here: apt install build-essential python3"),
)


def provide(directory: Path, step: Step, *, refresh: bool = False) -> tuple[Path, list[Member]] | None:
    """The segment of ``function/node_modules/`` for a directory's package.json; None when nothing is required.

    Raises:
      CliError: npm is missing or failed (with its last lines), or package.json is no JSON.
    """
    package = _package(directory / "package.json")
    if not package.get("dependencies") and not package.get("optionalDependencies"):
        step.done("none")
        return None
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        raise CliError(
            f"there is no {'npm' if npm is None else 'node'} on this machine, and package.json has dependencies",
            hint="apt install nodejs npm",
        )
    root = deps.cache_root().parent / "npm"
    key = _key(directory, node, npm)
    if not refresh and (found := _open(root / key)):
        step.done(f"{_summary(found[1])}, cached")
        return found
    step.status("installing with npm")
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="partial-", dir=root) as work:
        tree = Path(work) / "tree"
        _install(directory, tree, npm, step)
        step.status("compressing")
        _compress(tree / "node_modules", Path(work) / "entry")
        deps._place(Path(work) / "entry", root / key)
    fresh = _open(root / key)
    if fresh is None:
        raise CliError(f"the cache entry {root / key} cannot be read", hint=f"remove {root} and try again")
    deps._evict(root, keep=key)
    step.done(f"{_summary(fresh[1])}, by npm")
    return fresh


def _package(path: Path) -> dict[str, object]:
    try:
        package = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        raise CliError(f"cannot read {path}: {exc}") from exc
    if not isinstance(package, dict):
        raise CliError(f"{path.name}: must be a JSON object")
    return package


def _key(directory: Path, node: str, npm: str) -> str:
    versions = []
    for program in (node, npm):
        code, said = deps._run([program, "--version"], directory, dict(os.environ), lambda line: None)
        versions.append([code, said])
    contents = {
        name: hashlib.sha256((directory / name).read_bytes()).hexdigest()
        for name in ("package.json", *LOCKS, ".npmrc")
        if (directory / name).is_file()
    }
    registry = {name: value for name, value in os.environ.items() if name.lower() == "npm_config_registry"}
    identity = [FORMAT, contents, versions, sysconfig.get_platform(), registry]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _install(directory: Path, tree: Path, npm: str, step: Step) -> None:
    tree.mkdir()
    locked = False
    for name in ("package.json", *LOCKS, ".npmrc"):
        if (directory / name).is_file():
            shutil.copyfile(directory / name, tree / name)
            locked = locked or name in LOCKS
    command = [npm, "ci" if locked else "install", "--omit=dev", "--no-audit", "--no-fund", "--no-update-notifier"]
    code, tail = deps._run(command, tree, {**os.environ, "NO_COLOR": "1", "CI": "1"}, step.line)
    if code != 0:
        text = "\n".join(tail)
        hint = next((hint for signs, hint in _HINTS if any(sign in text.lower() for sign in signs)), "")
        ended = "was stopped: it took too long" if code < 0 else f"ended with exit code {code}"
        raise CliError(
            f"cannot install the dependencies: npm {ended}",
            detail=text,
            hint=hint or "the lines above are npm's; correct package.json and deploy again",
        )
    (tree / "node_modules").mkdir(exist_ok=True)


def _compress(modules: Path, entry: Path) -> None:
    entry.mkdir()
    try:
        with open(entry / "segment", "wb") as file:
            segment = Segment(file)
            for name, path in _files(modules):
                segment.add(
                    f"function/node_modules/{name}", path.read_bytes(), executable=bool(path.stat().st_mode & 0o100)
                )
            file.flush()
            os.fsync(file.fileno())
    except ArchiveError as exc:
        raise CliError(f"the dependencies cannot be bundled: {exc}") from exc
    index = {"bytes": segment.length, "members": [member.to_list() for member in segment.members]}
    (entry / "index.json").write_text(json.dumps(index, separators=(",", ":")))


def _files(modules: Path) -> list[tuple[str, Path]]:
    """All of them but ``.bin``, whose links only serve npm's own scripts, and npm's notes."""
    found = []
    for folder, folders, files in os.walk(modules):
        folders[:] = [name for name in folders if name not in (".bin", ".cache")]
        for name in files:
            path = Path(folder) / name
            if name != ".package-lock.json" and path.is_file():
                found.append((path.relative_to(modules).as_posix(), path))
    return sorted(found)


def _open(entry: Path) -> tuple[Path, list[Member]] | None:
    try:
        index = json.loads((entry / "index.json").read_bytes())
        if (entry / "segment").stat().st_size != index["bytes"]:
            return None
        members = [Member(*member) for member in index["members"]]
        os.utime(entry)  # the least recently used one goes first
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return entry / "segment", members


def _summary(members: list[Member]) -> str:
    packages = sum(bool(_PACKAGE.fullmatch(member.name)) for member in members)
    return count(packages, "package") if packages else count(len(members), "file")
