"""Request bodies: strict JSON, and its members as Fn's Go structs would take them.

As on Fn: member names match in any case, unknown ones are ignored, null is "not given", and a wrong type is
``Invalid JSON``. Stricter than Fn: NaN, numbers beyond a double, lone surrogates, bytes that are not UTF-8 and anything
after the document are refused too, since they could not be sent back.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn

from daemon.errors import BadRequest
from daemon.registry import AppChange, FunctionChange, TriggerChange

INT32_MAX = 2**31 - 1
UINT64_MAX = 2**64 - 1
PCU_COUNT_MAX = 10**6
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?([Zz]|[+-]\d\d:?\d\d)?")
_ZERO_TIME = "0001-01-01"


def invalid_json(why: str) -> BadRequest:
    """Fn's answer to any body that it cannot take; ``why`` goes into ``detail``."""
    return BadRequest("Invalid JSON", detail=why)


def parse(body: bytes) -> dict[str, Any]:
    """The body as a JSON object with lower-case member names. ``null`` is an object without members.

    Raises:
      BadRequest: ``Invalid JSON``; ``detail`` says where and why.
    """
    value = parse_value(body)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid_json("the body must be an object")
    return {name.casefold(): member for name, member in value.items()}


def parse_value(body: bytes) -> Any:
    """Any JSON document, strictly.

    Raises:
      BadRequest: ``Invalid JSON``.
    """
    if not body.strip():
        raise invalid_json("the body is empty")
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_constant, parse_float=_finite)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # a lone surrogate cannot be stored nor sent
    except RecursionError:
        raise invalid_json("nested too deeply") from None
    except UnicodeError as exc:
        raise invalid_json(f"not Unicode text: {exc.reason if hasattr(exc, 'reason') else exc}") from None
    except ValueError as exc:  # includes whole numbers of more digits than Python converts
        raise invalid_json(str(exc)[:200]) from None
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:32]} is too large")
    return value


class Members:
    """Typed access to an object's members; a missing one or null gives the empty value."""

    def __init__(self, members: Mapping[str, Any]) -> None:
        self._members = members

    def text(self, name: str) -> str:
        """A string, or ""."""
        return self.text_or_none(name) or ""

    def text_or_none(self, name: str) -> str | None:
        """A string, or None if it is not given."""
        value = self._members.get(name)
        if value is not None and not isinstance(value, str):
            raise invalid_json(f"{name} must be a string")
        return value

    def whole(self, name: str, lowest: int, highest: int) -> int:
        """A whole number written without point or exponent, or 0."""
        value = self._members.get(name)
        if value is None:
            return 0
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            raise invalid_json(f"{name} must be a whole number from {lowest} to {highest}")
        return value

    def texts(self, name: str) -> dict[str, str] | None:
        """An object of strings, or None. A null value is "" as in Go."""
        value = self._members.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise invalid_json(f"{name} must be an object of strings")
        for key, item in value.items():
            if item is not None and not isinstance(item, str):
                raise invalid_json(f"{name}: the value of {key[:64]!r} must be a string")
        return {key: item or "" for key, item in value.items()}

    def any_map(self, name: str) -> dict[str, Any] | None:
        """An object of anything, or None."""
        value = self._members.get(name)
        if value is not None and not isinstance(value, dict):
            raise invalid_json(f"{name} must be an object")
        return value

    def time(self, name: str) -> int:
        """An RFC 3339 time in milliseconds since the epoch; Go's zero time and a missing one are 0."""
        text = self.text(name)
        if not text or text.startswith(_ZERO_TIME):
            return 0
        if not _RFC3339.fullmatch(text):
            raise invalid_json(f"{name} must be an RFC 3339 time")
        try:
            when = datetime.fromisoformat(text.upper().replace(" ", "T"))
        except ValueError:
            raise invalid_json(f"{name} must be an RFC 3339 time") from None
        at = when if when.tzinfo else when.replace(tzinfo=UTC)
        return int(at.timestamp() * 1000) or 1  # 0 means "not given"


def app_change(body: bytes) -> AppChange:
    """What a POST or PUT of an app says.

    Raises:
      BadRequest: ``Invalid JSON``.
    """
    members = Members(parse(body))
    members.time("created_at"), members.time("updated_at")  # must be times, and are ignored
    return AppChange(
        id=members.text("id"),
        name=members.text("name"),
        config=members.texts("config"),
        annotations=members.any_map("annotations"),
        syslog_url=members.text_or_none("syslog_url"),
        shape=members.text("shape"),
    )


def function_change(body: bytes) -> FunctionChange:
    """What a POST or PUT of a function says.

    Raises:
      BadRequest: ``Invalid JSON``, or a provisioned concurrency that is neither of its forms.
    """
    raw = parse(body)
    members = Members(raw)
    members.time("created_at"), members.time("updated_at")
    members.text("shape")  # must be a string, and is ignored: the app's is taken
    return FunctionChange(
        id=members.text("id"),
        name=members.text("name"),
        app_id=members.text("app_id"),
        image=members.text("image"),
        memory_mib=members.whole("memory", 0, UINT64_MAX),
        timeout_s=members.whole("timeout", -INT32_MAX - 1, INT32_MAX),
        idle_timeout_s=members.whole("idle_timeout", -INT32_MAX - 1, INT32_MAX),
        config=members.texts("config"),
        annotations=members.any_map("annotations"),
        pcu_count=provisioned_concurrency(raw.get("provisioned_concurrency")),
    )


def trigger_change(body: bytes) -> TriggerChange:
    """What a POST or PUT of a trigger says.

    Raises:
      BadRequest: ``Invalid JSON``.
    """
    members = Members(parse(body))
    return TriggerChange(
        id=members.text("id"),
        name=members.text("name"),
        app_id=members.text("app_id"),
        fn_id=members.text("fn_id"),
        type=members.text("type"),
        source=members.text("source"),
        annotations=members.any_map("annotations"),
        created_at=members.time("created_at"),
        updated_at=members.time("updated_at"),
    )


def provisioned_concurrency(value: Any) -> int | None:
    """A count from one of its forms: ``{"strategy": "CONSTANT", "count": 40}``, ``{"strategy": "NONE"}``,
    ``"constant:40"``, ``"none"``.

    None for null (not given); 0 for NONE.

    Raises:
      BadRequest: none of these forms.
    """
    if value is None:
        return None
    strategy, count = value, None
    if isinstance(value, dict):
        members = {name.casefold(): member for name, member in value.items()}
        strategy, count = members.get("strategy"), members.get("count")
    elif isinstance(value, str):
        strategy, _, digits = value.partition(":")
        count = int(digits) if re.fullmatch(r"[0-9]{1,9}", digits) else digits or None
    if isinstance(strategy, str):
        if strategy.upper() == "NONE" and count in (None, 0):
            return 0
        is_count = isinstance(count, int) and not isinstance(count, bool)
        if strategy.upper() == "CONSTANT" and is_count and 0 < count <= PCU_COUNT_MAX:  # type: ignore[operator]
            return count
    raise BadRequest(
        'provisioned_concurrency must be {"strategy": "CONSTANT", "count": N} with a whole N above 0,'
        ' {"strategy": "NONE"}, "constant:N" or "none"'
    )
