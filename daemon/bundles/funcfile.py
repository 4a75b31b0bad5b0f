"""What the node itself reads from a bundle's func.yaml; the rest is the client's to send with the function.

The file is hostile: its size, its depth and its aliases are bounded before it is built.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from daemon.bundles.interpreters import normalise_runtime
from daemon.errors import InvalidFunction
from daemon.model import ADAPTERS

FUNC_FILES = ("func.yaml", "func.yml", "func.json")  # in the order in which fn looks (fn-contract 4.1)
FUNC_FILE_BYTES_MAX = 64 * 2**10
FUNC_FILE_ALIASES_MAX = 10
"""Most YAML aliases: each may repeat what it names, and those multiply."""
FUNC_FILE_DEPTH_MAX = 20
SCHEMA_VERSION = 20180708
ADAPTER = "stoker.dev/adapter"
BUILT_FILE = ".stoker.json"
"""What `stoker build` found out that func.yaml does not say: ``runtime``, ``command``, ``environment``; it wins."""
WORDS_MAX = 256
"""Most words of a command, and most variables of its environment."""
FOREIGN = re.compile(r"(node|go|java|kotlin|ruby|dotnet|docker|exec)([0-9][0-9.]*)?")
"""Runtimes that are no Python: their bundles are programs that follow the Fn contract by themselves."""
COMMANDS = {"node": ("node", "func.js"), "go": ("./func",), "exec": ("./func",)}
"""What is started when func.yaml has no entrypoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the node itself reads from func.yaml; the rest is the client's to send with the function."""

    runtime: str = "python"
    handler_file: str = "func.py"
    handler_name: str = "handler"
    expects: tuple[str, ...] = ()
    adapter: str = ""
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def settings_of(directory: Path) -> Settings:
    """The settings of the bundle whose ``function/`` this is.

    Raises:
      InvalidFunction: the text names the file, the field and what is allowed.
    """
    built = _file(directory, BUILT_FILE)
    found = Settings()  # code-only functions have no func.yaml (oci-api 2.9)
    for name in FUNC_FILES:
        if (data := _file(directory, name)) is not None:
            found = read_settings(data, name, has_command=built is not None)
            break
    return found if built is None else read_built(built, found)


def _file(directory: Path, name: str) -> bytes | None:
    path = directory / name
    if path.is_symlink() or not path.is_file():
        return None
    with path.open("rb") as file:
        return file.read(FUNC_FILE_BYTES_MAX + 1)


def read_built(data: bytes, found: Settings) -> Settings:
    """``found`` with what `BUILT_FILE` says.

    Raises:
      InvalidFunction: the text names the field and what is allowed.
    """
    try:
        if len(data) > FUNC_FILE_BYTES_MAX:
            raise ValueError(f"larger than {FUNC_FILE_BYTES_MAX} bytes")
        values = json.loads(data)
        if not isinstance(values, dict):
            raise ValueError("must be an object")
        runtime = values.get("runtime", found.runtime)
        if not isinstance(runtime, str):
            raise ValueError(f"runtime: must be text, not {runtime!r}")
        runtime = runtime if FOREIGN.fullmatch(runtime) else normalise_runtime(runtime)
        command = values.get("command", [])
        if not isinstance(command, list) or len(command) > WORDS_MAX or not all(map(_is_plain, command)):
            raise ValueError(f"command: must be a list of at most {WORDS_MAX} texts without NUL")
        environment = values.get("environment", {})
        if (
            not isinstance(environment, dict)
            or len(environment) > WORDS_MAX
            or not all(_is_plain(k) and k and "=" not in k and _is_plain(v) for k, v in environment.items())
        ):
            raise ValueError(f"environment: must be a map of at most {WORDS_MAX} names to texts without NUL")
        if not command and FOREIGN.fullmatch(runtime):
            raise ValueError(f"command: missing, and runtime {runtime} needs one")
        file, name = values.get("handler_file", found.handler_file), values.get("handler_name", found.handler_name)
        if not command:
            file, name = _handler([str(file), str(name)])
    except (ValueError, RecursionError) as exc:
        raise InvalidFunction(f"cannot use bundle: function/{BUILT_FILE}: {exc}") from None
    except InvalidFunction as exc:
        raise InvalidFunction(f"cannot use bundle: function/{BUILT_FILE}: {exc.message}") from None
    return replace(
        found, runtime=runtime, command=tuple(command), environment=environment, handler_file=file, handler_name=name
    )


def _is_plain(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value and value.isprintable()


def read_settings(data: bytes, name: str = "func.yaml", *, has_command: bool = False) -> Settings:
    """The settings in a func.yaml. ``has_command``: what is started is said elsewhere.

    Raises:
      InvalidFunction: the text names the field and what is allowed.
    """
    try:
        values = _load_yaml(data)
        if values.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(
                f"schema_version: must be {SCHEMA_VERSION}, not {values.get('schema_version')!r}; "
                "`fn migrate` updates an older file"
            )
        runtime = _text(values, "runtime") or "python"
        words = _words(values)
        foreign = FOREIGN.fullmatch(runtime)
        if foreign is None:
            runtime = normalise_runtime(runtime)
        common = Settings(runtime=runtime, expects=_expects(values), adapter=_adapter(values))
        if has_command or (foreign is None and not words):
            return common
        if foreign is None and os.path.basename(words[0]) == "fdk":
            file, handler = _handler(words[1:])
            return replace(common, handler_file=file, handler_name=handler)
        return replace(common, command=tuple(words) or _default_command(foreign, runtime))
    except ValueError as exc:
        raise InvalidFunction(f"cannot use bundle: function/{name}: {exc}") from None
    except InvalidFunction as exc:
        raise InvalidFunction(f"cannot use bundle: function/{name}: {exc.message}") from None


def _load_yaml(data: bytes) -> dict[Any, Any]:
    if len(data) > FUNC_FILE_BYTES_MAX:
        raise ValueError(f"larger than {FUNC_FILE_BYTES_MAX} bytes")
    aliases = depth = 0
    try:
        text = data.decode("utf-8")
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            aliases += isinstance(event, yaml.AliasEvent)
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if aliases > FUNC_FILE_ALIASES_MAX or depth > FUNC_FILE_DEPTH_MAX:
                raise ValueError(
                    f"more than {FUNC_FILE_ALIASES_MAX} aliases or deeper than {FUNC_FILE_DEPTH_MAX} levels"
                )
        values = yaml.load(text, Loader=yaml.SafeLoader)
    # SafeLoader lets these escape for explicit tags on the wrong text, such as "!!int ''" or "!!timestamp x".
    except (yaml.YAMLError, LookupError, AttributeError, TypeError, OverflowError, RecursionError) as exc:
        raise ValueError(f"not YAML: {exc}") from None
    if not isinstance(values, dict):
        raise ValueError("must be a map of fields")
    return values


def _text(values: dict[Any, Any], field: str) -> str:
    value = values.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{field}: must be text, not {value!r}")
    return value


def _words(values: dict[Any, Any]) -> list[str]:
    try:
        words = shlex.split(_text(values, "entrypoint")) + shlex.split(_text(values, "cmd"))
    except ValueError as exc:
        if "must be text" in str(exc):
            raise
        raise ValueError(f"entrypoint: {exc}") from None
    if len(words) > WORDS_MAX or not all(map(_is_plain, words)):
        raise ValueError(f"entrypoint: must be at most {WORDS_MAX} words of printable characters")
    return words


def _default_command(foreign: re.Match[str] | None, runtime: str) -> tuple[str, ...]:
    command = COMMANDS.get(foreign[1] if foreign else "")
    if command is None:
        raise ValueError(f"entrypoint: missing, and runtime {runtime} needs one: the program and its arguments")
    return command


def _adapter(values: dict[Any, Any]) -> str:
    annotations = values.get("annotations") or {}
    adapter = annotations.get(ADAPTER, "") if isinstance(annotations, dict) else ""
    if not isinstance(adapter, str) or (adapter and adapter not in ADAPTERS):
        raise ValueError(f"annotations: {ADAPTER} must be one of {', '.join(ADAPTERS)}, not {adapter!r}")
    return adapter


def _handler(words: list[str]) -> tuple[str, str]:
    """File relative to ``function/`` and name of the handler, from what follows ``fdk``."""
    path = words[0].removeprefix("/function/") if words else ""
    name = words[1] if len(words) > 1 else "handler"  # fdk's own default (fn-contract 5.1)
    parts = path.split("/")
    if (
        len(words) not in (1, 2)
        or not path.endswith(".py")
        or any(part in ("", ".", "..") for part in parts)
        or not name.isidentifier()
    ):
        raise ValueError(
            f"entrypoint: must be '/python/bin/fdk /function/FILE.py HANDLER', "
            f"for example '/python/bin/fdk /function/func.py handler', not {' '.join(['fdk', *words])!r}"
        )
    return path, name


def _expects(values: dict[Any, Any]) -> tuple[str, ...]:
    """Names of the configuration keys that must be set."""
    expects = values.get("expects") or {}
    items = (expects.get("config") or []) if isinstance(expects, dict) else None
    if not isinstance(items, list):
        raise ValueError("expects: must be a map with 'config', a list of {name, required}")
    names = []
    for item in items:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str) or not item["name"]:
            raise ValueError(f"expects.config: each must be a map with a 'name', not {item!r}")
        required = item.get("required", False)
        if not isinstance(required, bool):
            raise ValueError(f"expects.config: {item['name']}: required must be true or false, not {required!r}")
        if required:
            names.append(item["name"])
    return tuple(dict.fromkeys(names))
