"""``func.yaml``: read strictly where it matters, with file, line, field and allowed values in every error.

The fields are those of ``fn`` (reference: fn-contract 4.1). Keys that ``fn`` knows and Stoker has no use for are
accepted; keys that nobody knows are warned about.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cli import detached, kinds, pcu
from cli.items import FuncFileError, Item, parse

FILE_NAMES = ("func.yaml", "func.yml", "func.json")
SCHEMA_VERSION = 20180708
MEMORY_MIB_MAX = 8192
TIMEOUT_S_MAX = 300
IDLE_TIMEOUT_S_MAX = 3600


KNOWN = {
    "schema_version", "name", "version", "runtime", "entrypoint", "memory", "timeout", "idle_timeout", "config",
    "annotations", "triggers", "deploy", "expects", "build", "cmd",
}  # fmt: skip
ACCEPTED = {
    "build_image", "run_image", "content_type", "type", "signing_details", "freeform_tags", "defined_tags",
}  # fmt: skip
"""Keys of ``fn`` that mean nothing here: no image is built. ``deploy.oci`` is read apart."""
OCI_KNOWN = {"provisioned_concurrency", "detached_mode", "pbf", "freeform_tags", "defined_tags"}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]{0,254}")
"""Narrower than Fn's, because it names the bundle, too."""
_VERSION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}")
_RUNTIME = re.compile(r"python(?:3\.?([0-9]{1,2})(?:\.ol[0-9]+)?)?")
"""``python``, ``python3.12`` (Fn), ``python312.ol9`` (OCI's code-only functions)."""
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(slots=True, kw_only=True)
class TriggerSpec:
    """An HTTP trigger of the file."""

    name: str
    source: str
    type: str = "http"


@dataclass(slots=True, kw_only=True)
class FuncFile:
    """What a func.yaml says. ``None``: it does not say."""

    path: Path
    name: str
    version: str = "0.0.1"
    runtime: str = "python"
    handler_file: str = "func.py"
    handler_name: str = "handler"
    command: list[str] = field(default_factory=list)
    """A program of one's own and its arguments, in place of a handler; for other languages perhaps still empty."""
    cmd: list[str] = field(default_factory=list)
    """The words of ``cmd`` alone, when there is no entrypoint."""
    build: list[str] = field(default_factory=list)
    """Shell lines to be run before the bundle is made."""
    registry: str = ""
    """What the image's name begins with, when it has no registry of its own."""
    memory: int | None = None
    timeout: int | None = None
    idle_timeout: int | None = None
    config: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, Any] = field(default_factory=dict)
    triggers: list[TriggerSpec] = field(default_factory=list)
    provisioned_concurrency: dict[str, Any] | None = None
    required_config: list[str] = field(default_factory=list)
    version_line: int = 0
    warnings: list[str] = field(default_factory=list)

    @property
    def image(self) -> str:
        """``name:version``, what the bundle is called at the daemon; after the registry, as ``fn`` names images."""
        return (
            f"{self.registry.rstrip('/')}/{self.name}:{self.version}"
            if self.registry
            else (f"{self.name}:{self.version}")
        )

    @property
    def starts_program(self) -> bool:
        """Whether it is no Python handler but a program that follows the Fn contract by itself."""
        return bool(self.command) or bool(kinds.family(self.runtime))

    @property
    def names_fdk(self) -> bool:
        """Whether it says which FDK runs its handler (annotation ``stoker.dev/fdk``, or ``stoker.dev/start: exec``)."""
        is_exec = self.annotations.get(kinds.START_ANNOTATION) == "exec"
        return is_exec or bool(self.annotations.get(kinds.FDK_ANNOTATION))


def find(directory: Path) -> Path:
    """The directory's func.yaml, func.yml or func.json.

    Raises:
      FuncFileError: there is none, or the directory itself is missing.
    """
    if not directory.is_dir():
        what = "is not a directory" if directory.exists() else "does not exist"
        raise FuncFileError(f"{directory} {what}", hint="name the directory that holds func.yaml")
    for name in FILE_NAMES:
        if (directory / name).is_file():
            return directory / name
    raise FuncFileError(
        f"no func.yaml in {directory}",
        hint="'stoker init --runtime python NAME' makes a function; or name the directory that holds one",
    )


def load(directory: Path) -> FuncFile:
    """Read the func file of a function's directory.

    Raises:
      FuncFileError: names the file, the line, the field and what is allowed.
    """
    path = find(directory)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise FuncFileError(f"cannot read {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise FuncFileError(f"{path.name}: not UTF-8 text: {exc.reason} at byte {exc.start}") from exc
    return _Reader(path, parse(path, text)).read()


class _Reader:
    """Items to a FuncFile."""

    def __init__(self, path: Path, root: Item) -> None:
        self._path = path
        self._root = root
        self._warnings: list[str] = []

    def read(self) -> FuncFile:
        root = self._root
        if root.kind != "map":
            raise self._wrong(root, "", "must be a map of keys such as name, version and runtime")
        self._schema_version()
        self._known(root, "", KNOWN, ACCEPTED)
        found = FuncFile(path=self._path, name=self._name())
        version = root.members.get("version")
        if version is not None:
            found.version = self._text(version, "version")
            found.version_line = version.line
            if not _VERSION.fullmatch(found.version):
                raise self._wrong(
                    version, "version", "must be like 0.0.1 (letters, digits, '_', '.', '-'; at most 128)"
                )
        found.runtime = self._runtime()
        self._start(found)
        found.build = self._build()
        found.memory = self._number("memory", "MiB", MEMORY_MIB_MAX)
        found.timeout = self._number("timeout", "seconds", TIMEOUT_S_MAX)
        found.idle_timeout = self._number("idle_timeout", "seconds", IDLE_TIMEOUT_S_MAX)
        found.config = {key: self._text(item, f"config.{key}") for key, item in self._map(root, "config", "").items()}
        given = {key: item.plain() for key, item in self._map(root, "annotations", "").items()}
        found.annotations = {**self._detached_mode(), **given}
        found.triggers = self._triggers()
        found.provisioned_concurrency = self._provisioned_concurrency()
        found.required_config = self._expects()
        found.warnings = self._warnings
        return found

    def _schema_version(self) -> None:
        item = self._root.members.get("schema_version")
        rule = f"must be {SCHEMA_VERSION}"
        if item is None:
            raise FuncFileError(
                f"{self._path.name}: schema_version is missing; it {rule}",
                hint=f"add the line 'schema_version: {SCHEMA_VERSION}'; 'fn migrate' converts older files",
            )
        if item.plain() != SCHEMA_VERSION:
            raise self._wrong(item, "schema_version", rule)

    def _name(self) -> str:
        item = self._root.members.get("name")
        # As fn: without a name the directory's counts.
        name = self._text(item, "name") if item is not None else self._path.absolute().parent.name
        if not _NAME.fullmatch(name):
            rule = "must be letters, digits, '.', '_' and '-', beginning with a letter or digit"
            if item is None:
                raise FuncFileError(f"{self._path.name}: name is missing, and the directory's name {name!r} {rule}")
            raise self._wrong(item, "name", rule)
        return name

    def _runtime(self) -> str:
        item = self._root.members.get("runtime")
        if item is None:
            return "python"
        text = self._text(item, "runtime")
        if kinds.family(text):
            return text
        match = _RUNTIME.fullmatch(text)
        if match is None:
            raise self._wrong(
                item, "runtime",
                "must be python, python3.N, node, go, java, kotlin, ruby, dotnet, docker (a Dockerfile) or exec",
            )  # fmt: skip
        return f"python3.{match[1]}" if match[1] else "python"

    def _start(self, found: FuncFile) -> None:
        """What is called or started, from ``entrypoint`` and ``cmd``: a handler, or a program of one's own."""
        entrypoint, cmd = self._words("entrypoint"), self._words("cmd")
        item = self._root.members.get("entrypoint")
        is_fdk = bool(entrypoint) and entrypoint[0].rpartition("/")[2] == "fdk"
        if kinds.family(found.runtime) or (entrypoint and not is_fdk):
            found.command = [*entrypoint, *cmd] if entrypoint else []
            found.cmd = [] if entrypoint else cmd
            return
        found.handler_file, found.handler_name = self._handler([*entrypoint, *cmd] if entrypoint else [], item)

    def _words(self, key: str) -> list[str]:
        given = self._root.members.get(key)
        if given is None or given.kind == "null":
            return []
        try:
            words = shlex.split(self._text(given, key))
        except ValueError as exc:
            raise self._wrong(given, key, f"cannot be split into words ({exc})") from exc
        if not all(word.isprintable() for word in words):
            raise self._wrong(given, key, "must be printable characters")
        return words

    def _build(self) -> list[str]:
        item = self._root.members.get("build")
        if item is None or item.kind == "null":
            return []
        if item.kind != "list":
            raise self._wrong(item, "build", "must be a list of shell lines")
        return [self._text(line, f"build[{number}]") for number, line in enumerate(item.elements)]

    def _handler(self, words: list[str], item: Item | None) -> tuple[str, str]:
        """File and name of the handler, from ``/python/bin/fdk /function/func.py handler``."""
        if item is None or not words:
            file, name = "func.py", "handler"
        else:
            rule = "must be like '/python/bin/fdk /function/func.py handler'"
            if len(words) not in (2, 3) or not words[1].endswith(".py"):
                raise self._wrong(item, "entrypoint", rule)
            file = words[1].removeprefix("/function/")
            name = words[2] if len(words) > 2 else "handler"
            if any(part in ("", ".", "..") for part in file.split("/")) or not _IDENTIFIER.fullmatch(name):
                raise self._wrong(item, "entrypoint", rule)
        if not (self._path.parent / file).is_file():
            where = f" line {item.line}: entrypoint" if item is not None else ""
            raise FuncFileError(
                f"{self._path.name}{where}: there is no {file} in {self._path.parent}",
                hint=f"write the handler there: def {name}(ctx, data: io.BytesIO = None)",
            )
        return file, name

    def _number(self, key: str, unit: str, most: int) -> int | None:
        item = self._root.members.get(key)
        if item is None or item.kind == "null":
            return None
        value = item.plain()
        if item.kind != "int" or not isinstance(value, int) or not 0 <= value <= most:
            raise self._wrong(item, key, f"must be a whole number of {unit} from 1 to {most}")
        return value or None  # Fn: 0 is the default

    def _triggers(self) -> list[TriggerSpec]:
        triggers: list[TriggerSpec] = []
        item = self._root.members.get("triggers")
        if item is None or item.kind == "null":
            return triggers
        if item.kind != "list":
            raise self._wrong(item, "triggers", "must be a list of maps with name, type and source")
        for number, element in enumerate(item.elements):
            label = f"triggers[{number}]"
            if element.kind != "map":
                raise self._wrong(element, label, "must be a map with name, type and source")
            self._known(element, f"{label}.", {"name", "type", "source"}, set())
            for key in ("name", "source"):
                if key not in element.members:
                    raise self._wrong(element, label, f"needs a {key}")
            name, source = element.members["name"], element.members["source"]
            kind = element.members.get("type")
            if kind is not None and kind.text != "http":
                raise self._wrong(kind, f"{label}.type", "must be http")
            if not re.fullmatch(r"[\w\-]{1,255}", self._text(name, f"{label}.name")):
                raise self._wrong(name, f"{label}.name", "must be 1 to 255 letters, digits, '_' or '-'")
            if not self._text(source, f"{label}.source").startswith("/"):
                raise self._wrong(source, f"{label}.source", "must begin with '/'")
            for other in triggers:
                if other.name == name.text or other.source == source.text:
                    raise self._wrong(element, label, f"has the name or the source of trigger {other.name}")
            triggers.append(TriggerSpec(name=name.text, source=source.text))
        return triggers

    def _detached_mode(self) -> dict[str, Any]:
        """``deploy.oci.detached_mode`` as annotations; those that are written out win."""
        oci = self._map(self._root, "deploy", "").get("oci")
        item = oci.members.get("detached_mode") if oci is not None and oci.kind == "map" else None
        if item is None or item.kind == "null":
            return {}
        try:
            return detached.from_func_yaml(item.plain())
        except ValueError as exc:
            raise FuncFileError(f"{self._path.name} line {item.line}: deploy.oci.detached_mode: {exc}") from exc

    def _provisioned_concurrency(self) -> dict[str, Any] | None:
        deploy = self._map(self._root, "deploy", "")
        if "oci" not in deploy:
            return None
        oci = Item("map", deploy["oci"].line, members=self._map_of(deploy["oci"], "deploy.oci"))
        self._known(oci, "deploy.oci.", OCI_KNOWN, set())
        item = oci.members.get("provisioned_concurrency")
        if item is None or item.kind == "null":
            return None
        label = "deploy.oci.provisioned_concurrency"
        value = item.plain()
        try:
            return pcu.from_object(value) if isinstance(value, dict) else pcu.parse(self._text(item, label))
        except ValueError as exc:
            raise FuncFileError(f"{self._path.name} line {item.line}: {label}: {exc}") from exc

    def _expects(self) -> list[str]:
        item = self._map(self._root, "expects", "").get("config")
        if item is None or item.kind == "null":
            return []
        if item.kind != "list":
            raise self._wrong(item, "expects.config", "must be a list of maps with name and required")
        required = []
        for number, element in enumerate(item.elements):
            label = f"expects.config[{number}]"
            name = element.members.get("name")
            flag = element.members.get("required")
            if element.kind != "map" or name is None:
                raise self._wrong(element, label, "must be a map with name and required")
            if flag is not None and flag.kind != "bool":
                raise self._wrong(flag, f"{label}.required", "must be true or false")
            if flag is not None and flag.plain():
                required.append(self._text(name, f"{label}.name"))
        return required

    def _map(self, parent: Item, key: str, prefix: str) -> dict[str, Item]:
        item = parent.members.get(key)
        return {} if item is None else self._map_of(item, prefix + key)

    def _map_of(self, item: Item, label: str) -> dict[str, Item]:
        if item.kind == "null":
            return {}
        if item.kind != "map":
            raise self._wrong(item, label, "must be a map")
        return item.members

    def _text(self, item: Item, label: str) -> str:
        # As Go's decoder: a number or boolean where text belongs is taken as it was written (PORT: 8080, DEBUG: true).
        if item.kind in ("map", "list"):
            raise self._wrong(item, label, "must be text")
        return "" if item.kind == "null" else item.text

    def _known(self, item: Item, prefix: str, known: set[str], accepted: set[str]) -> None:
        import difflib

        for key, value in item.members.items():
            if key in known or key in accepted:
                continue
            close = difflib.get_close_matches(key, known, n=1)
            meant = f"; did you mean {prefix}{close[0]}?" if close else ""
            self._warn(value, f"{prefix}{key}", f"is not a known key and is ignored{meant}")

    def _warn(self, item: Item, label: str, what: str) -> None:
        self._warnings.append(f"{self._path.name} line {item.line}: {label} {what}")

    def _wrong(self, item: Item, label: str, rule: str) -> FuncFileError:
        field_name = f"{label}: " if label else ""
        return FuncFileError(f"{self._path.name} line {item.line}: {field_name}{rule}, not {item.shown()}")


def bump(found: FuncFile, part: str = "patch") -> str:
    """Raise a part of the version in the file, leaving every other byte as it is; the new version.

    ``part``: ``major``, ``minor`` or ``patch``; the parts after it become 0.

    Raises:
      FuncFileError: the version is not three numbers.
    """
    parts = found.version.split(".")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        raise FuncFileError(f"{found.path.name}: cannot bump version {found.version!r}: it is not like 0.0.1")
    major, minor, patch = map(int, parts)
    new = {"major": f"{major + 1}.0.0", "minor": f"{major}.{minor + 1}.0"}.get(part, f"{major}.{minor}.{patch + 1}")
    lines = found.path.read_text(encoding="utf-8").splitlines(keepends=True)
    if found.version_line:
        at = found.version_line - 1
        before, _, after = lines[at].rpartition(found.version)
        lines[at] = before + new + after
    elif found.path.suffix == ".json":
        raise FuncFileError(f"{found.path.name}: cannot bump: there is no version")
    else:
        lines.insert(0, f"version: {new}\n")
    # Written beside it and renamed: an interrupted write never leaves half a file.
    partial = found.path.with_name(found.path.name + ".partial")
    partial.write_text("".join(lines), encoding="utf-8")
    partial.replace(found.path)
    found.version = new
    return new
