"""What a function's annotations say about its detached calls and its tracing. Pure.

They are annotations and not part of a version: a change takes effect with the next call and starts nothing anew. The
destinations have OCI's form (`successDestination`, reference oci-api 1.5); two kinds are ours. The flat keys that the
``fn`` client of OCI writes are read too, ours win.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from daemon.errors import BadRequest

TIMEOUT = "stoker.dev/detached-timeout"
ON_SUCCESS = "stoker.dev/on-success"
ON_FAILURE = "stoker.dev/on-failure"
RETRY = "stoker.dev/retry"
TRACING = "stoker.dev/tracing"

OCI = "oracle.com/oci/"
OCI_TIMEOUT = OCI + "detachedModeTimeoutInSeconds"

TIMEOUT_S_MIN, TIMEOUT_S_MAX = 5, 3600
"""OCI's range of detachedModeTimeoutInSeconds."""
ATTEMPTS_MAX = 100
BACKOFF_S_MAX = 86_400.0
NAME_CHARS_MAX = 200
URL_CHARS_MAX = 400
"""An annotation's value has at most 512 bytes."""

MEMBERS = {"STREAM": "streamId", "QUEUE": "queueId", "NOTIFICATION": "topicId", "FUNCTION": "functionId", "HTTP": "url"}
"""Kind of a destination -> the member that says where. The first three are OCI's."""
OCI_KINDS = ("STREAM", "QUEUE", "NOTIFICATION")

_LOCAL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]*")
_PRINTABLE = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where the record of a finished detached call goes."""

    kind: str
    """One of `MEMBERS`."""
    target: str
    """A local name or OCID, a function's id or ``APP/FUNCTION``, or a URL."""
    channel: str = ""
    """Of a queue."""

    def form(self) -> dict[str, str]:
        """As in the annotation."""
        form = {"kind": self.kind, MEMBERS[self.kind]: self.target}
        return {**form, "channelId": self.channel} if self.channel else form


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often and when a failing call is run again. None: the node's default."""

    attempts: int | None = None
    """Runs in all, the first included."""
    backoff_s: float | None = None
    backoff_s_max: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachedSettings:
    """Everything that annotations say about detached calls."""

    timeout_s: int | None = None
    """None: the function's own timeout."""
    on_success: Destination | None = None
    on_failure: Destination | None = None
    retry: Retry = Retry()


NOTHING = DetachedSettings()


def parse(annotations: Mapping[str, Any]) -> DetachedSettings:
    """The settings that the annotations make.

    Raises:
      BadRequest: names the annotation and what is allowed.
    """
    if not annotations:
        return NOTHING
    return DetachedSettings(
        timeout_s=_timeout(annotations),
        on_success=_destination(annotations, ON_SUCCESS, OCI + "successDestination"),
        on_failure=_destination(annotations, ON_FAILURE, OCI + "failureDestination"),
        retry=_retry(annotations.get(RETRY)),
    )


def check(annotations: Mapping[str, Any]) -> None:
    """Raise BadRequest if one of the annotations of this module cannot be used."""
    parse(annotations)
    is_traced(annotations)


def is_traced(annotations: Mapping[str, Any]) -> bool:
    """Whether tracing is switched on in an app's or a function's annotations.

    Raises:
      BadRequest: the annotation is neither true, false nor OCI's traceConfig.
    """
    value = annotations.get(TRACING)
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, dict) and isinstance(value.get("isEnabled", False), bool):
        return bool(value.get("isEnabled", False))
    raise BadRequest(f'annotation {TRACING} must be true, false or {{"isEnabled": true}}, not {value!r:.80}')


def oci_annotations(
    *,
    detached_timeout_s: int | None = None,
    success: Mapping[str, Any] | None = None,
    failure: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The annotations that OCI's fields become, to be merged into a change; None: not mentioned, NONE: removed."""
    made: dict[str, Any] = {}
    if detached_timeout_s is not None:
        made[TIMEOUT] = detached_timeout_s
    for key, value in ((ON_SUCCESS, success), (ON_FAILURE, failure)):
        if value is not None:
            known = {k: v for k, v in value.items() if v is not None}
            made[key] = "" if known.get("kind") == "NONE" else known
    return made


def _timeout(annotations: Mapping[str, Any]) -> int | None:
    key = TIMEOUT if TIMEOUT in annotations else OCI_TIMEOUT
    value = annotations.get(key)
    if key == OCI_TIMEOUT and isinstance(value, str) and re.fullmatch(r"[0-9]{1,6}", value):
        value = int(value)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not TIMEOUT_S_MIN <= value <= TIMEOUT_S_MAX:
        raise BadRequest(
            f"annotation {key} must be a whole number of seconds from {TIMEOUT_S_MIN} to {TIMEOUT_S_MAX},"
            f" not {value!r:.40}"
        )
    return value


def _destination(annotations: Mapping[str, Any], key: str, flat: str) -> Destination | None:
    value = annotations.get(key)
    if value is None:
        kind, ocid = annotations.get(flat + "Kind"), annotations.get(flat + "Ocid")
        if kind is None or str(kind).upper() == "NONE":
            return None
        key, kind = flat + "Kind", str(kind).upper().removesuffix("S")  # the fn client says "notifications"
        value = {"kind": kind, MEMBERS.get(kind, ""): ocid}
    if not isinstance(value, dict):
        raise _wrong(key, f"must be an object with a kind, not {value!r:.80}")
    kind = value.get("kind")
    if kind == "NONE":
        return None
    if kind not in MEMBERS:
        raise _wrong(key, f"kind must be NONE, {', '.join(MEMBERS)}, not {kind!r:.40}")
    member = MEMBERS[kind]
    unknown = set(value) - {"kind", member} - ({"channelId"} if kind == "QUEUE" else set())
    if unknown:
        raise _wrong(key, f"member {min(unknown)!r:.40} is not known for kind {kind}")
    target, channel = value.get(member), value.get("channelId") or ""
    if not isinstance(target, str) or not isinstance(channel, str):
        raise _wrong(key, f"needs {member}, a string")
    _check_target(key, kind, member, target)
    if channel:
        _check_local_name(key, "channelId", channel)
    return Destination(kind=kind, target=target, channel=channel)


def _check_target(key: str, kind: str, member: str, target: str) -> None:
    if kind == "HTTP":
        _check_url(key, target)
    elif kind == "FUNCTION":
        if not 0 < len(target) <= 2 * NAME_CHARS_MAX or any(ord(c) < 33 for c in target):
            raise _wrong(key, "functionId must be a function's id, its OCID, or APP/FUNCTION")
    else:
        _check_local_name(key, member, target)


def _check_local_name(key: str, member: str, name: str) -> None:
    if len(name) > NAME_CHARS_MAX or not _LOCAL_NAME.fullmatch(name):
        raise _wrong(
            key,
            f"{member} must be a name or OCID of 1 to {NAME_CHARS_MAX} letters, digits, '.', '_', '-'"
            f" that begins with a letter or digit, not {name!r:.80}",
        )


def _check_url(key: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if (
        not host
        or parts.scheme not in ("http", "https")
        or "@" in parts.netloc
        or parts.fragment
        or len(url) > URL_CHARS_MAX
        or not _PRINTABLE.fullmatch(url)
    ):
        raise _wrong(
            key, f"url must be http://HOST or https://HOST without user, blanks or fragment, up to {URL_CHARS_MAX} long"
        )


def _retry(value: Any) -> Retry:
    if value is None:
        return Retry()
    allowed = {
        "attempts": (1, ATTEMPTS_MAX),
        "backoff_s": (0.01, BACKOFF_S_MAX),
        "backoff_s_max": (0.01, BACKOFF_S_MAX),
    }
    if not isinstance(value, dict) or set(value) - set(allowed):
        raise _wrong(RETRY, f"must be an object with members of {', '.join(allowed)}, not {value!r:.80}")
    for name, (lowest, highest) in allowed.items():
        number = value.get(name, lowest)
        whole = isinstance(number, int) or name != "attempts"
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not whole:
            raise _wrong(RETRY, f"{name} must be a {'whole ' if name == 'attempts' else ''}number")
        if not lowest <= number <= highest:
            raise _wrong(RETRY, f"{name} must be from {lowest} to {highest:g}, not {number}")
    return Retry(
        attempts=value.get("attempts"), backoff_s=value.get("backoff_s"), backoff_s_max=value.get("backoff_s_max")
    )


def _wrong(key: str, why: str) -> BadRequest:
    return BadRequest(f"annotation {key}: {why}")
