"""What the commands about identity share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cli.options import Settings

IAM = "/stoker/v1/iam"


def call(settings: Settings, method: str, path: str, *, body: Any = None, query: Iterable[tuple[str, str]] = ()) -> Any:
    """One request; the reply, or an empty object."""
    return settings.api.call(method, path, body=body, query=query) or {}


def items(settings: Settings, path: str, query: Iterable[tuple[str, str]] = ()) -> list[dict[str, Any]]:
    """The members of a list."""
    return list(call(settings, "GET", path, query=query).get("items") or [])
