"""Provisioned concurrency as users write it: ``constant:40``, ``none``, OCI's JSON, or a file that holds one."""

from __future__ import annotations

import json
import os
from typing import Any

ALLOWED = 'constant:COUNT, none, {"strategy": "CONSTANT", "count": COUNT}, {"strategy": "NONE"} or file://PATH of one'


def parse(text: str, *, from_file: bool = False) -> dict[str, Any]:
    """The API's form, ``{"strategy": "CONSTANT", "count": n}`` or ``{"strategy": "NONE"}``.

    Raises:
      ValueError: says what is allowed.
    """
    text = text.strip()
    if text.startswith("file://") and not from_file:
        path = os.path.expanduser(text.removeprefix("file://"))
        try:
            with open(path, encoding="utf-8") as file:
                return parse(file.read(), from_file=True)
        except (OSError, UnicodeDecodeError) as exc:
            raise ValueError(f"cannot read {path}: {getattr(exc, 'strerror', None) or exc}") from exc
    if text.startswith("{"):
        try:
            return from_object(json.loads(text))
        except json.JSONDecodeError as exc:
            raise ValueError(f"not JSON ({exc}); allowed: {ALLOWED}") from exc
    strategy, colon, count = text.lower().partition(":")
    if strategy == "none" and not colon:
        return from_object({"strategy": "NONE"})
    if strategy == "constant" and count.isascii() and count.isdigit():
        return from_object({"strategy": "CONSTANT", "count": int(count)})
    raise ValueError(f"{text!r} is not understood; allowed: {ALLOWED}")


def from_object(value: Any) -> dict[str, Any]:
    """Check OCI's object. The steps and the node's limit are the daemon's to check.

    Raises:
      ValueError: says what is allowed.
    """
    if not isinstance(value, dict):
        raise ValueError(f"must be an object with strategy and count, not {value!r}")
    strategy = str(value.get("strategy", "")).upper()
    unknown = sorted(set(value) - {"strategy", "count"})
    if unknown:
        raise ValueError(f"unknown member {unknown[0]!r}; allowed: strategy, count")
    count = value.get("count")
    if strategy == "NONE":
        if count not in (None, 0):
            raise ValueError("strategy NONE takes no count")
        return {"strategy": "NONE"}
    if strategy != "CONSTANT":
        raise ValueError(f"strategy must be CONSTANT or NONE, not {value.get('strategy')!r}")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"strategy CONSTANT needs a count of 1 or more, not {count!r}")
    return {"strategy": "CONSTANT", "count": count}
