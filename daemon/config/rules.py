"""What every section of the configuration is checked with."""

from __future__ import annotations

from dataclasses import fields
from typing import Any


class ConfigError(ValueError):
    """The configuration cannot be used; the text says where and what is allowed."""


def positive(section: str, obj: Any, *, zero_ok: frozenset[str] = frozenset()) -> None:
    """Raise ConfigError unless every number in ``obj`` is above 0, or 0 where that is allowed."""
    for f in fields(obj):
        value = getattr(obj, f.name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        if value < 0 or (value == 0 and f.name not in zero_ok):
            raise ConfigError(f"{section}.{f.name} must be above 0, not {value}")
