"""Reads the settings of `daemon.config.settings` from YAML and the environment.

Order of precedence, last wins: the defaults, the file given with ``--config``, ``STOKER_<SECTION>_<KEY>`` variables,
command-line options. An unknown key is an error that names its line.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from daemon.config.settings import SECTIONS, Config, ConfigError


def load(text: str, *, source: str, environ: Mapping[str, str], data: Path | None = None) -> Config:
    """Build the configuration from a YAML document and ``STOKER_<SECTION>_<KEY>`` variables.

    Raises:
      ConfigError: not YAML, an unknown key, a wrong type or value; says source, line and what is allowed.
    """
    values = _read_yaml(text, source)
    for name, raw in sorted(environ.items()):
        section, _, key = name.removeprefix("STOKER_").lower().partition("_")
        if name.startswith("STOKER_") and section in SECTIONS:
            if key not in _types(SECTIONS[section]):
                raise ConfigError(f"{name}: unknown setting {section}.{key}; {_known(section)}")
            parsed = raw.split(",") if _types(SECTIONS[section])[key] not in (int, float, bool, str) else raw
            values.setdefault(section, {})[key] = (parsed, name)
    top: dict[str, Any] = {"data": Path(values.pop("data")[0])} if "data" in values else {}
    built = {name: _build(name, given) for name, given in values.items()}
    config = Config(**top, **built)
    return replace(config, data=data) if data is not None else config


def _types(section: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(section)


def _known(section: str) -> str:
    return f"known in {section}: {', '.join(_types(SECTIONS[section]))}"


def _read_yaml(text: str, source: str) -> dict[str, Any]:
    """``{section: {key: (value, place)}}``; the place is used in error messages."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as exc:
        raise ConfigError(f"{source}: not YAML: {exc}") from exc
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{source}: must be a map of sections: {', '.join(['data', *SECTIONS])}")
    loader = yaml.SafeLoader("")
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        name, place = str(key_node.value), f"{source}, line {key_node.start_mark.line + 1}"
        if name == "data":
            values["data"] = (str(value_node.value), place)
            continue
        if name not in SECTIONS:
            raise ConfigError(f"{place}: unknown section {name!r}; known: {', '.join(['data', *SECTIONS])}")
        if not isinstance(value_node, yaml.MappingNode):
            raise ConfigError(f"{place}: {name} must be a map; {_known(name)}")
        section = values.setdefault(name, {})
        for k, v in value_node.value:
            place = f"{source}, line {k.start_mark.line + 1}"
            if k.value not in _types(SECTIONS[name]):
                raise ConfigError(f"{place}: unknown setting {name}.{k.value}; {_known(name)}")
            section[k.value] = (loader.construct_object(v, deep=True), place)
    return values


def _build(name: str, given: dict[str, tuple[Any, str]]) -> Any:
    section, types = SECTIONS[name], _types(SECTIONS[name])
    values = {}
    for key, (raw, place) in given.items():
        try:
            values[key] = _convert(raw, types[key])
        except (TypeError, ValueError):
            wanted = getattr(types[key], "__name__", str(types[key]))
            raise ConfigError(f"{place}: {name}.{key} must be of type {wanted}, not {raw!r}") from None
    try:
        return section(**values)
    except ConfigError as exc:
        places = "; ".join(sorted({place for _, place in given.values()}))
        raise ConfigError(f"{places}: {exc}") from None


def _convert(raw: Any, wanted: Any) -> Any:
    if wanted is bool:
        if isinstance(raw, bool):
            return raw
        if isinstance(raw, str) and raw.lower() in ("1", "true", "yes", "on", "0", "false", "no", "off"):
            return raw.lower() in ("1", "true", "yes", "on")
        raise ValueError
    if isinstance(raw, bool):
        raise ValueError
    if wanted in (int, float):
        return wanted(raw)
    if wanted is str:
        if not isinstance(raw, str):
            raise ValueError
        return raw
    if isinstance(raw, (list, tuple)) and all(isinstance(item, str) for item in raw):
        return tuple(raw)
    raise ValueError
