"""What a caller wants to create or change. None: not mentioned. Made by the API adapters, checked by the registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from daemon.model import App, Function

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
    freeform_tags: Mapping[str, str] | None = None
    """Tags given replace those that were."""
    defined_tags: Mapping[str, Mapping[str, Any]] | None = None
    log_format: str | None = None
    cloud: Mapping[str, Any] | None = None
    """Members given replace those that were; the others stay."""
    replaces_config: bool = False
    """True (OCI): ``config`` replaces what was; False (Fn): it is merged into it."""
    expect: Callable[[App], None] | None = None
    """Called with the app before it is changed; what it raises stops the change (OCI's if-match)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionChange:
    """Members of a function as given. Zero and empty mean: the default (create), unchanged (update)."""

    id: str = ""
    name: str = ""
    app_id: str = ""
    image: str = ""
    digest: str = ""
    """Of the bundle; empty: what ``image`` points at now."""
    handler: str | None = None
    runtime: str | None = None
    source: Mapping[str, str] | None = None
    memory_mib: int = 0
    timeout_s: int = 0
    idle_timeout_s: int = 0
    config: Mapping[str, str] | None = None
    annotations: Mapping[str, Any] | None = None
    pcu_count: int | None = None
    """Provisioned concurrency; 0: strategy NONE."""
    freeform_tags: Mapping[str, str] | None = None
    defined_tags: Mapping[str, Mapping[str, Any]] | None = None
    replaces_config: bool = False
    """As for apps."""
    expect: Callable[[Function], None] | None = None
    """As for apps."""


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


def given(**members: Any) -> dict[str, Any]:
    """Those of the members that are not None: what a change mentions."""
    return {name: value for name, value in members.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list."""

    items: list[T]
    next_cursor: str = ""
    """Empty: the page was not full, so there is no more."""
