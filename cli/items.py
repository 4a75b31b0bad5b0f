"""A YAML or JSON file as values that know their lines; nothing in it is trusted to be small or flat."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cli.errors import CliError

ITEMS_MAX = 10_000
"""Most values in one file, aliases counted each time: a guard against a file that unfolds without end."""


class FuncFileError(CliError):
    """func.yaml breaks a rule."""


@dataclass(slots=True)
class Item:
    """One value of the file and the line it is on."""

    kind: str
    """``string``, ``int``, ``float``, ``bool``, ``null``, ``map`` or ``list``."""
    line: int
    text: str = ""
    """A scalar as it was written."""
    members: dict[str, Item] = field(default_factory=dict)
    elements: list[Item] = field(default_factory=list)

    def plain(self) -> Any:
        """The value as JSON has it."""
        match self.kind:
            case "map":
                return {key: item.plain() for key, item in self.members.items()}
            case "list":
                return [item.plain() for item in self.elements]
            case "int" if re.fullmatch(r"[-+]?[0-9]+", self.text):
                return int(self.text)
            case "float" if re.fullmatch(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?", self.text):
                return float(self.text)
            case "bool":
                return self.text.lower() in ("true", "yes", "on")
            case "null":
                return None
        return self.text

    def shown(self) -> str:
        """For error messages."""
        return {"map": "a map", "list": "a list", "null": "nothing"}.get(self.kind) or repr(self.text)


def parse(path: Path, text: str) -> Item:
    """The file's value.

    Raises:
      FuncFileError: not YAML or JSON, a key twice, too large or too deep; names file and line.
    """
    import yaml

    if path.suffix == ".json":
        import json

        try:
            json.loads(text)
        except json.JSONDecodeError as exc:
            raise FuncFileError(f"{path.name} line {exc.lineno}: not JSON: {exc.msg}") from exc
        text = text.replace("\t", " ")  # JSON is YAML but for tabs between its tokens
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        where = f" line {mark.line + 1}" if mark else ""
        raise FuncFileError(f"{path.name}{where}: not YAML: {exc.problem or exc.context}") from exc
    except yaml.YAMLError as exc:
        raise FuncFileError(f"{path.name}: not YAML: {exc}") from exc
    if node is None:
        raise FuncFileError(f"{path.name}: is empty", hint="'stoker init' writes one to begin with")
    return _Composer(path).item(node)


class _Composer:
    """YAML nodes to items."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count = 0

    def item(self, node: Any, depth: int = 0) -> Item:
        self._count += 1
        line = node.start_mark.line + 1
        if self._count > ITEMS_MAX or depth > 32:
            raise FuncFileError(f"{self._path.name} line {line}: too large or too deep")
        kind = node.tag.rpartition(":")[2]
        if node.id == "scalar":
            kind = {"str": "string", "timestamp": "string", "value": "string"}.get(kind, kind)
            if kind not in ("string", "int", "float", "bool", "null"):
                raise FuncFileError(f"{self._path.name} line {line}: the tag {node.tag} is not allowed")
            return Item(kind, line, text=node.value)
        if node.id == "sequence":
            return Item("list", line, elements=[self.item(child, depth + 1) for child in node.value])
        members: dict[str, Item] = {}
        for key_node, value_node in node.value:
            key_line = key_node.start_mark.line + 1
            if key_node.id != "scalar" or key_node.tag.endswith(":merge"):
                raise FuncFileError(f"{self._path.name} line {key_line}: a key must be plain text")
            if key_node.value in members:
                raise FuncFileError(f"{self._path.name} line {key_line}: {key_node.value} is given twice")
            members[key_node.value] = child = self.item(value_node, depth + 1)
            # A block under its key starts on the next line; people look for the key.
            child.line = key_line
        return Item("map", line, members=members)
