"""Filters, sorting and pages of the OCI API's lists (reference oci-api 1.2). They are short: all in memory."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any

from daemon.errors import BadRequest, MissingParameter
from daemon.http.views import ApiReply, ApiRequest

LIMIT_DEFAULT, LIMIT_MAX = 10, 50
APP_STATES = ("CREATING", "ACTIVE", "INACTIVE", "UPDATING", "DELETING", "DELETED", "FAILED")
ASC, DESC = "ASC", "DESC"
NUMBER = "#"
"""The ``identity`` of items that have none; it is not shown."""

Form = dict[str, Any]


def required(request: ApiRequest, name: str) -> str:
    """A query parameter.

    Raises:
      MissingParameter
    """
    value = request.first(name)
    if not value:
        raise MissingParameter(f"{name} is required: a query parameter")
    return value


def one_of(request: ApiRequest, name: str, allowed: Sequence[str]) -> str:
    """A query parameter with few values; "" when it is not given.

    Raises:
      BadRequest: says which are allowed.
    """
    value = request.first(name)
    if value and value not in allowed:
        raise BadRequest(f"{name} must be one of {', '.join(allowed)}, not {value[:100]!r}")
    return value


def flag(request: ApiRequest, name: str) -> bool | None:
    """A query parameter that is true or false; None when it is not given."""
    value = request.first(name).lower()
    if value not in ("", "true", "false"):
        raise BadRequest(f"{name} must be true or false, not {value[:100]!r}")
    return None if not value else value == "true"


def equal(request: ApiRequest, items: Sequence[Form], names: Mapping[str, str]) -> list[Form]:
    """Those whose members equal the query parameters; ``names``: parameter to member."""
    wanted = {member: request.first(name) for name, member in names.items() if request.first(name)}
    return [item for item in items if all(item[member] == value for member, value in wanted.items())]


def named(request: ApiRequest, items: Sequence[Form], member: str = "name") -> list[Form]:
    """Those whose name is, contains or starts with what ``name``, ``nameContains`` and ``nameStartsWith`` say."""
    exact, part, start = (request.first(name) for name in ("name", "nameContains", "nameStartsWith"))
    return [
        item
        for item in items
        if (not exact or item[member] == exact)
        and part.lower() in item[member].lower()
        and item[member].lower().startswith(start.lower())
    ]


def page(
    request: ApiRequest, items: Sequence[Form], sorts: Mapping[str, str], default: str, *,
    wrapped: bool, identity: str = "id",
) -> ApiReply:  # fmt: skip
    """A page of a list, and where the next one begins.

    Args:
      sorts: ``sortBy`` to the member that it means; ``default`` is used without.
      wrapped: in ``{"items": ...}``; the two oldest lists are bare arrays.
      identity: the member that no two items share.

    Raises:
      BadRequest: limit, page, sortBy or sortOrder cannot be used.
    """
    by = one_of(request, "sortBy", tuple(sorts)) or default
    # OCI's habit: names from A, times from the newest.
    order = one_of(request, "sortOrder", (ASC, DESC)) or (DESC if by.startswith("time") else ASC)
    limit = _limit(request)
    after = _after(request, [by, order])
    keyed = sorted(([item[sorts[by]] or "", item[identity]], item) for item in _distinct(items, identity))
    if order == DESC:
        keyed.reverse()
    if after is not None:
        keyed = [pair for pair in keyed if (pair[0] < after if order == DESC else pair[0] > after)]
    shown = [{name: value for name, value in item.items() if name != NUMBER} for _, item in keyed[:limit]]
    reply = ApiReply(body={"items": shown} if wrapped else shown)
    if len(keyed) > limit:
        reply.headers.append(("opc-next-page", _token([by, order, *keyed[limit - 1][0]])))
    return reply


def numbered(items: Sequence[Form]) -> list[Form]:
    """The items with their place as `NUMBER`."""
    return [{**item, NUMBER: f"{place:06}"} for place, item in enumerate(items)]


def _distinct(items: Sequence[Form], identity: str) -> list[Form]:
    return list({item[identity]: item for item in items}.values())


def _limit(request: ApiRequest) -> int:
    text = request.first("limit") or str(LIMIT_DEFAULT)
    if not (text.isascii() and text.isdecimal() and len(text) < 5 and 1 <= int(text) <= LIMIT_MAX):
        raise BadRequest(f"limit must be a whole number from 1 to {LIMIT_MAX}, not {text[:100]!r}")
    return int(text)


def _token(parts: list[str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


def _after(request: ApiRequest, order: list[str]) -> list[str] | None:
    """The key of the last item that was shown."""
    text = request.first("page")
    if not text:
        return None
    try:
        parts = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error):
        parts = None
    if not isinstance(parts, list) or len(parts) != 4 or not all(isinstance(part, str) for part in parts):
        raise BadRequest("page: use the opc-next-page of the answer before")
    if parts[:2] != order:
        raise BadRequest(f"page: it continues a list sorted by {parts[0]} {parts[1]}, not {order[0]} {order[1]}")
    return parts[2:]
