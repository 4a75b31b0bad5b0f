"""What a caller wants to create or change. None: not mentioned. Made by the API adapters, checked by the registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class AppChange:
    """Members of an app as given."""

    id: str = ""
    name: str = ""
    config: Mapping[str, str] | None = None
    annotations: Mapping[str, Any] | None = None
    syslog_url: str | None = None
    """Empty on update: remove it."""
    shape: str = ""
    compartment_id: str = ""
    """Empty: the root (create), unchanged (update)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionChange:
    """Members of a function as given. Zero and empty mean: the default (create), unchanged (update)."""

    id: str = ""
    name: str = ""
    app_id: str = ""
    image: str = ""
    memory_mib: int = 0
    timeout_s: int = 0
    idle_timeout_s: int = 0
    config: Mapping[str, str] | None = None
    annotations: Mapping[str, Any] | None = None
    pcu_count: int | None = None
    """Provisioned concurrency; 0: strategy NONE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerChange:
    """Members of a trigger as given."""

    id: str = ""
    name: str = ""
    app_id: str = ""
    fn_id: str = ""
    type: str = ""
    source: str = ""
    annotations: Mapping[str, Any] | None = None
    created_at: int = 0
    """Not zero on create is an error, as Fn has it."""
    updated_at: int = 0


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list."""

    items: list[T]
    next_cursor: str = ""
    """Empty: the page was not full, so there is no more."""
