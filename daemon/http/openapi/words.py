"""A short notation for JSON schemas (draft 2020-12, as OpenAPI 3.1 has it) and for operations. Pure."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import NoneType, UnionType
from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
TIME: Schema = {"type": "string", "format": "date-time"}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
COUNTS: Schema = {"type": "object", "additionalProperties": COUNT}
ANY_MAP: Schema = {"type": "object"}
BYTES: Schema = {"type": "string", "format": "binary"}
"""A body that is sent."""
WHATEVER: Schema = {}
"""A body that a function answers: any bytes, perhaps JSON."""


def text(*, longest: int | None = None, pattern: str | None = None, shortest: int | None = None) -> Schema:
    """A string within bounds."""
    limits = {"minLength": shortest, "maxLength": longest, "pattern": pattern}
    return {"type": "string", **{name: value for name, value in limits.items() if value is not None}}


def whole(low: int, high: int) -> Schema:
    """A whole number within bounds."""
    return {"type": "integer", "minimum": low, "maximum": high}


def one_of(*values: str | int) -> Schema:
    """One of a few values."""
    return {"enum": list(values)}


def many(item: Schema) -> Schema:
    """A list."""
    return {"type": "array", "items": item}


def maybe(schema: Schema) -> Schema:
    """The same, or null."""
    kind = schema.get("type")
    if not schema:
        return schema
    if isinstance(kind, str) and "enum" not in schema:
        return {**schema, "type": [kind, "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def given(members: Mapping[str, Schema], *, open_: bool = False) -> Schema:
    """An object of an answer: exactly these members; those whose name ends with ``?`` may be left out."""
    made: Schema = {
        "type": "object",
        "properties": {name.removesuffix("?"): schema for name, schema in members.items()},
        "required": [name for name in members if not name.endswith("?")],
    }
    return made if open_ else {**made, "additionalProperties": False}


def taken(members: Mapping[str, Schema]) -> Schema:
    """An object of a request: what else it has is ignored, and null means "not given"."""
    made = given({name: maybe(one) if name[-1] == "?" else one for name, one in members.items()}, open_=True)
    if not made["required"]:
        del made["required"]
    return made


def items(item: Schema, *, cursor: bool = False) -> Schema:
    """A list as our APIs wrap it."""
    return given({"items": many(item), **({"next_cursor?": TEXT} if cursor else {})})


def ref(name: str) -> Schema:
    """One of the description's named schemas."""
    return {"$ref": f"#/components/schemas/{name}"}


_PLAIN: dict[Any, Schema] = {str: TEXT, int: WHOLE, float: NUMBER, bool: FLAG}


def of(cls: type[Any]) -> Schema:
    """What ``dataclasses.asdict`` makes of a dataclass."""
    hints = typing.get_type_hints(cls)
    return given({f.name: _of_hint(hints[f.name]) for f in fields(cls)})


def _of_hint(hint: Any) -> Schema:
    if hint in _PLAIN:
        return _PLAIN[hint]
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) in (UnionType, typing.Union):
        (kind,) = (one for one in arguments if one is not NoneType)
        return maybe(_of_hint(kind))
    if typing.get_origin(hint) is dict:
        return {"type": "object", "additionalProperties": _of_hint(arguments[1])}
    if typing.get_origin(hint) in (tuple, list):
        return many(_of_hint(arguments[0]))
    raise TypeError(f"no schema for {hint}")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a query, or a header."""

    name: str
    schema: Schema = field(default_factory=lambda: TEXT)
    says: str = ""
    required: bool = False
    place: str = "query"

    def form(self) -> Schema:
        """As OpenAPI has it."""
        made: Schema = {"name": self.name, "in": self.place, "required": self.required, "schema": self.schema}
        if self.place == "query" and not self.required:
            made["allowEmptyValue"] = True  # the same as if it were not there
        return {**made, "description": self.says} if self.says else made


def header(name: str, says: str, schema: Schema = TEXT) -> Parameter:
    """A header of a request."""
    return Parameter(name, schema, says, place="header")


JSON = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """What one row of a table takes and gives."""

    gives: Schema | None = None
    """The answer's body; None: it has none."""
    status: int = 200
    also: tuple[int, ...] = ()
    """Other statuses with the same body."""
    empty: tuple[int, ...] = ()
    """Other statuses of success, without a body."""
    answers_as: tuple[str, ...] = (JSON,)
    """The answer's content types."""
    takes: Schema | None = None
    """The request's body; None: it has none."""
    takes_as: tuple[str, ...] = (JSON,)
    may_be_empty: bool = False
    """The request's body may be left out."""
    parameters: Sequence[Parameter] = ()
    refuses: tuple[int, ...] = ()
    """Statuses of refusals beyond those that every operation has."""
    headers: Sequence[str] = ()
    """Headers of the answer."""
