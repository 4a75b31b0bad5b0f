"""What the commands about identity share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from cli.options import Settings
from cli.output import structured, table

IAM = "/stoker/v1/iam"


def call(settings: Settings, method: str, path: str, *, body: Any = None, query: Iterable[tuple[str, str]] = ()) -> Any:
    """One request; the reply, or an empty object."""
    return settings.api.call(method, path, body=body, query=query) or {}


def items(settings: Settings, path: str, query: Iterable[tuple[str, str]] = ()) -> list[dict[str, Any]]:
    """The members of a list."""
    return list(call(settings, "GET", path, query=query).get("items") or [])


def show_list(
    settings: Settings,
    path: str,
    columns: Sequence[str],
    rows: Callable[[list[dict[str, Any]]], Iterable[Sequence[Any]]],
    *,
    empty: str = "",
    query: Iterable[tuple[str, str]] = (),
) -> None:
    """Print a list of the daemon's: as it came, or the ``rows`` that its members make as a table."""
    found = items(settings, path, query)
    if settings.for_people:
        table(columns, rows(found), empty=empty)
    else:
        structured(found, settings.form)
