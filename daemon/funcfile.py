"""What the node itself reads from a bundle's func.yaml; the rest is the client's to send with the function.

The file is hostile: its size, its depth and its aliases are bounded before it is built.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from daemon.errors import InvalidFunction
from daemon.interpreters import normalise_runtime

FUNC_FILES = ("func.yaml", "func.yml", "func.json")  # in the order in which fn looks (fn-contract 4.1)
FUNC_FILE_BYTES_MAX = 64 * 2**10
FUNC_FILE_ALIASES_MAX = 10
"""Most YAML aliases: each may repeat what it names, and those multiply."""
FUNC_FILE_DEPTH_MAX = 20
SCHEMA_VERSION = 20180708


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the node itself reads from func.yaml; the rest is the client's to send with the function."""

    runtime: str = "python"
    handler_file: str = "func.py"
    handler_name: str = "handler"
    expects: tuple[str, ...] = ()


def settings_of(directory: Path) -> Settings:
    for name in FUNC_FILES:
        path = directory / name
        if not path.is_symlink() and path.is_file():
            with path.open("rb") as file:
                return read_settings(file.read(FUNC_FILE_BYTES_MAX + 1), name)
    return Settings()  # code-only functions have no func.yaml (oci-api 2.9)


def read_settings(data: bytes, name: str = "func.yaml") -> Settings:
    """The settings in a func.yaml.

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
        runtime = normalise_runtime(_text(values, "runtime") or "python")
        file, handler = _entrypoint(_text(values, "entrypoint"), _text(values, "cmd"))
        return Settings(runtime=runtime, handler_file=file, handler_name=handler, expects=_expects(values))
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


def _entrypoint(entrypoint: str, cmd: str) -> tuple[str, str]:
    """File relative to ``function/`` and name of the handler."""
    if not entrypoint and not cmd:
        return "func.py", "handler"
    try:
        words = shlex.split(entrypoint) + shlex.split(cmd)
    except ValueError as exc:
        raise ValueError(f"entrypoint: {exc}") from None
    path = words[1].removeprefix("/function/") if len(words) > 1 else ""
    name = words[2] if len(words) > 2 else "handler"  # fdk's own default (fn-contract 5.1)
    parts = path.split("/")
    if (
        len(words) not in (2, 3)
        or os.path.basename(words[0]) != "fdk"
        or not path.endswith(".py")
        or any(part in ("", ".", "..") for part in parts)
        or not name.isidentifier()
    ):
        raise ValueError(
            f"entrypoint: must be '/python/bin/fdk /function/FILE.py HANDLER', "
            f"for example '/python/bin/fdk /function/func.py handler', not {' '.join(words)!r}"
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
