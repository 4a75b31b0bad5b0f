"""Detached mode as people write it, in options and in func.yaml, as the annotations that the daemon reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

TIMEOUT = "stoker.dev/detached-timeout"
ON_SUCCESS = "stoker.dev/on-success"
ON_FAILURE = "stoker.dev/on-failure"
TIMEOUT_S_MIN, TIMEOUT_S_MAX = 5, 3600

_KINDS = {
    "stream": ("STREAM", "streamId"),
    "queue": ("QUEUE", "queueId"),
    "notification": ("NOTIFICATION", "topicId"),
    "notifications": ("NOTIFICATION", "topicId"),
    "function": ("FUNCTION", "functionId"),
}
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def timeout(value: Any) -> int:
    """Seconds, from a number or a length of time like ``20m`` or ``1h``.

    Raises:
      ValueError: neither, or out of range; says what is allowed.
    """
    seconds: Any = value
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if value.strip().isdecimal():
            seconds = int(value)
        elif match is not None and match[0]:
            hours, minutes, rest = (int(part or 0) for part in match.groups())
            seconds = hours * 3600 + minutes * 60 + rest
        else:
            seconds = None
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not TIMEOUT_S_MIN <= seconds <= TIMEOUT_S_MAX:
        raise ValueError(f"must be {TIMEOUT_S_MIN} to {TIMEOUT_S_MAX} seconds, like 90, 20m or 1h, not {value!r:.40}")
    return seconds


def destination(text: str) -> dict[str, str] | str:
    """Where a record goes, as the annotation's value: ``stream:NAME``, ``queue:NAME``, ``notification:NAME``,
    ``function:APP/FUNCTION`` or a URL.

    ``none`` gives the empty value, which removes the annotation.

    Raises:
      ValueError: none of these.
    """
    if text.lower() == "none":
        return ""
    if text.startswith(("http://", "https://")):
        return {"kind": "HTTP", "url": text}
    kind, colon, target = text.partition(":")
    if not colon or not target or kind.lower() not in _KINDS:
        raise ValueError(
            "must be stream:NAME, queue:NAME, notification:NAME, function:APP/FUNCTION, a URL or none,"
            f" not {text!r:.80}"
        )
    name, member = _KINDS[kind.lower()]
    return {"kind": name, member: target}


def from_func_yaml(value: Any) -> dict[str, Any]:
    """``deploy.oci.detached_mode`` of func.yaml as annotations: ``timeout``; ``on_success`` and ``on_failure``, each
    with ``type`` and ``ocid``.

    Raises:
      ValueError: names the member and what is allowed.
    """
    if not isinstance(value, Mapping):
        raise ValueError("must be a map with timeout, on_success, on_failure")
    unknown = set(value) - {"timeout", "on_success", "on_failure"}
    if unknown:
        raise ValueError(f"{min(map(str, unknown))} is not known; known: timeout, on_success, on_failure")
    annotations: dict[str, Any] = {}
    if value.get("timeout") is not None:
        try:
            annotations[TIMEOUT] = timeout(value["timeout"])
        except ValueError as exc:
            raise ValueError(f"timeout {exc}") from exc
    for member, key in (("on_success", ON_SUCCESS), ("on_failure", ON_FAILURE)):
        given = value.get(member)
        if given is None:
            continue
        kind = str(given.get("type", "")).lower() if isinstance(given, Mapping) else ""
        where = given.get("ocid") if isinstance(given, Mapping) else None
        if kind == "none":
            continue
        if kind not in _KINDS or kind == "function" or not isinstance(where, str) or not where:
            raise ValueError(f"{member} must be a map with type (stream, queue, notifications) and ocid")
        name, target = _KINDS[kind]
        annotations[key] = {"kind": name, target: where}
    return annotations
