"""What the files with SQL share: texts of errors, broken constraints, maps as JSON."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from daemon.errors import Conflict, NotFound

COMPARTMENT_NOT_FOUND = "Compartment not found"
APP_EXISTS = "App already exists"
APP_NOT_FOUND = "App not found"
FUNCTION_EXISTS = "Fn with specified name already exists"
FUNCTION_NOT_FOUND = "Fn not found"
TRIGGER_EXISTS = "Trigger already exists"
TRIGGER_SOURCE_EXISTS = "Trigger with the same type and source exists on this app"
TRIGGER_NOT_FOUND = "Trigger not found"
FUNCTION_OF_ANOTHER_APP = "Invalid Fn ID - not owned by specified app"

_UNIQUE = {
    "apps.name": APP_EXISTS,
    "functions.app_id, functions.name": FUNCTION_EXISTS,
    "triggers.app_id, triggers.type, triggers.source": TRIGGER_SOURCE_EXISTS,
    "triggers.app_id, triggers.fn_id, triggers.name": TRIGGER_EXISTS,
}


@contextmanager
def constraints(missing: str) -> Iterator[None]:
    """Turn a broken constraint into the error that the caller is told; ``missing`` for a dangling
    reference."""
    try:
        yield
    except sqlite3.IntegrityError as exc:
        text = str(exc).partition("UNIQUE constraint failed: ")[2]
        if text in _UNIQUE:
            raise Conflict(_UNIQUE[text]) from exc
        if "FOREIGN KEY" in str(exc):
            raise NotFound(missing) from exc
        raise


def json_map(value: Mapping[str, Any]) -> str:
    """A map as JSON text."""
    return json.dumps(dict(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
