"""The rules for names, settings and annotations, with the texts of the Fn server in its order. Pure.

fn: api/models/app.go, fn.go, trigger.go, annotations.go (reference fn-contract 1.2 to 1.5). Limits that Fn lacks,
since a platform that accepts anything fails later and less clearly, are marked "ours".
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from daemon.catalog import MATCH
from daemon.core import detached_settings, limit_settings
from daemon.errors import BadRequest, InvalidFunction, LimitExceeded
from daemon.model import ADAPTERS, App, Function, Trigger

NAME_BYTES_MAX = 255
MEMORY_MIB_MAX = 8192
TIMEOUT_S_MAX = 300
IDLE_TIMEOUT_S_MAX = 3600
ANNOTATIONS_MAX = 100
ANNOTATION_KEY_BYTES_MAX = 128
ANNOTATION_VALUE_BYTES_MAX = 512
CONFIG_ENTRY_BYTES_MAX = 128 * 1024 - 1
"""Ours: ``key=value`` must fit in one environment string (execve(2): MAX_ARG_STRLEN, its NUL included)."""
CONFIG_BYTES_MAX = 512 * 1024
"""Ours: the configuration of an app and of a function together must fit in an environment (execve(2): 2 MiB)."""
IMAGE_BYTES_MAX = 1024
"""Ours."""
SOURCE_BYTES_MAX = 4096
"""Ours: longer than a request line can carry makes no sense (``http.request_line_bytes_max``)."""
SYSLOG_URL_BYTES_MAX = 2048
"""Ours."""
SHAPES = ("", "GENERIC_X86", "GENERIC_ARM", "GENERIC_X86_ARM")
SYSLOG_SCHEMES = ("tcp", "udp", "unix", "unixgram", "tcp+tls")
STARTS = ("auto", "fork", "boot", "exec")

FN_ENDPOINT = "fnproject.io/fn/invokeEndpoint"
TRIGGER_ENDPOINT = "fnproject.io/trigger/httpEndpoint"
START = "stoker.dev/start"
ADAPTER = "stoker.dev/adapter"
PCU_STRATEGY = "oracle.com/oci/provisionedConcurrencyStrategy"
PCU_COUNT = "oracle.com/oci/provisionedConcurrencyCount"

_PATH_ESCAPED = re.compile(r"[A-Za-z0-9\-_.~$&+=:@]+")
"""What Go's url.PathEscape leaves alone."""
_ANNOTATION_KEY = re.compile(r"[!-~]+")


def check_app(app: App) -> None:
    """Raise BadRequest with Fn's text if the app breaks a rule."""
    if not app.name:
        raise BadRequest("Missing Name")
    if len(app.name.encode()) > NAME_BYTES_MAX:
        raise BadRequest(f"App name must be {NAME_BYTES_MAX} characters or less")
    if not _is_name(app.name):
        raise BadRequest("Invalid app name")
    check_annotations(app.annotations)
    detached_settings.is_traced(app.annotations)
    limit_settings.network_of(app.annotations)
    _check_syslog_url(app.syslog_url)
    if app.shape not in SHAPES:
        raise BadRequest("Invalid app shape")
    check_config(app.config)


def check_function(function: Function) -> None:
    """Raise BadRequest with Fn's text if the function, with its candidate version, breaks a rule."""
    live = function.live
    if not function.app_id:
        raise BadRequest("Missing AppID on Fn")
    if not function.name:
        raise BadRequest("Missing Fn name")
    if len(function.name.encode()) > NAME_BYTES_MAX:
        raise BadRequest(f"Fn name must be {NAME_BYTES_MAX} characters or less")
    if not _PATH_ESCAPED.fullmatch(function.name):
        raise BadRequest("name must be a valid string")
    if not live.image:
        raise BadRequest("Missing image on Fn")
    _check_text("image", live.image, IMAGE_BYTES_MAX)
    if not 1 <= live.timeout_s <= TIMEOUT_S_MAX:
        raise BadRequest(f"timeout value is out of range, must be between 0 and {TIMEOUT_S_MAX}")
    if not 1 <= live.idle_timeout_s <= IDLE_TIMEOUT_S_MAX:
        raise BadRequest(f"idle_timeout value is out of range, must be between 0 and {IDLE_TIMEOUT_S_MAX}")
    if not 1 <= live.memory_mib <= MEMORY_MIB_MAX:
        raise BadRequest(f"memory value is out of range. It should be between 0 and {MEMORY_MIB_MAX}")
    check_annotations(function.annotations)
    detached_settings.check(function.annotations)
    limit_settings.cpu_of(function.annotations)
    check_config(live.config)
    if live.start not in STARTS:
        raise BadRequest(f"annotation {START} must be one of {', '.join(STARTS)}, not {live.start!r}")
    if live.adapter and live.adapter not in ADAPTERS:
        raise BadRequest(f"annotation {ADAPTER} must be one of {', '.join(ADAPTERS)}, not {live.adapter!r}")


def check_trigger(trigger: Trigger) -> None:
    """Raise BadRequest with Fn's text if the trigger breaks a rule."""
    if not trigger.app_id:
        raise BadRequest("Missing App ID on Trigger")
    if not trigger.name:
        raise BadRequest("Missing name on Trigger")
    if len(trigger.name.encode()) > NAME_BYTES_MAX:
        raise BadRequest(f"Trigger name must be {NAME_BYTES_MAX} characters or less")
    if not _is_name(trigger.name):
        raise BadRequest("Invalid name for Trigger")
    if not trigger.fn_id:
        raise BadRequest("Missing Fn ID on Trigger")
    if trigger.type != "http":
        raise BadRequest("Trigger Type Not Supported")
    if not trigger.source:
        raise BadRequest("Missing Trigger Source")
    if not trigger.source.startswith("/"):
        raise BadRequest("Missing Trigger Source Prefix '/'")
    _check_text("source", trigger.source, SOURCE_BYTES_MAX)
    check_annotations(trigger.annotations)


def check_annotations(annotations: Mapping[str, Any]) -> None:
    """Raise BadRequest with Fn's text if a key or value is not allowed, or there are too many."""
    if annotations.get(MATCH, "exact") not in ("exact", "prefix"):
        raise BadRequest(f"annotation {MATCH} must be exact or prefix, not {annotations[MATCH]!r}")
    for key, value in annotations.items():
        if not _ANNOTATION_KEY.fullmatch(key):
            raise BadRequest(
                "Invalid annotation key, annotation keys must be non-empty ascii strings excluding whitespace"
            )
        if len(key) > ANNOTATION_KEY_BYTES_MAX:
            raise BadRequest(
                "Invalid annotation key length, annotation keys may not be larger than"
                f" {ANNOTATION_KEY_BYTES_MAX} bytes"
            )
        if value is None or value == "":
            raise BadRequest(
                "Invalid annotation value, annotation values may only be non-empty strings, numbers, objects, or arrays"
            )
        if len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()) > ANNOTATION_VALUE_BYTES_MAX:
            raise BadRequest(
                "Invalid annotation value length, annotation values may not be larger than"
                f" {ANNOTATION_VALUE_BYTES_MAX} bytes when serialized as JSON"
            )
    if len(annotations) > ANNOTATIONS_MAX:
        raise BadRequest(
            "Invalid annotation change, new key(s) exceed maximum permitted number of annotations keys"
            f" ({ANNOTATIONS_MAX})"
        )


def check_config(config: Mapping[str, str]) -> None:
    """Raise BadRequest if the configuration could not become environment variables (ours: Fn takes anything)."""
    total = 0
    for key, value in config.items():
        size = len(key.encode()) + 1 + len(value.encode())
        total += size + 1
        if not key or "=" in key or "\0" in key or "\0" in value:
            raise BadRequest(
                f"Invalid config key or value: {key[:64]!r}: an environment variable has a name without '=',"
                " and neither name nor value may hold a NUL"
            )
        if size > CONFIG_ENTRY_BYTES_MAX:
            raise BadRequest(
                f"Invalid config: {key[:64]!r} has {size} bytes (name, '=' and value), at most"
                f" {CONFIG_ENTRY_BYTES_MAX} fit in an environment variable"
            )
    if total > CONFIG_BYTES_MAX:
        raise BadRequest(f"Invalid config: {total} bytes in all, at most {CONFIG_BYTES_MAX} are allowed")


def check_expected(expects: tuple[str, ...], app: Mapping[str, str], function: Mapping[str, str], name: str) -> None:
    """Raise InvalidFunction if a key that the bundle's func.yaml requires is configured nowhere."""
    if missing := [key for key in expects if key not in app and key not in function]:
        raise InvalidFunction(
            f"function {name} needs config {', '.join(missing)}: func.yaml's expects.config says required; "
            "set it on the function or its app"
        )


def check_count(name: str, count: int, highest: int) -> None:
    """Raise LimitExceeded if one more of what there are ``count`` would be more than the service limit ``name``."""
    if count >= highest:
        raise LimitExceeded(f"service limit {name} reached: {count} of {highest} are in use, 1 more was asked for")


def new_config(old: Mapping[str, str], change: Mapping[str, str] | None, *, replaces: bool) -> Mapping[str, str]:
    """The configuration after a change: OCI's way (``replaces``) or Fn's."""
    if not replaces:
        return merge_config(old, change)
    return old if change is None else dict(change)


def merge_config(old: Mapping[str, str], change: Mapping[str, str] | None) -> Mapping[str, str]:
    """Fn's merge: keys given are set, "" deletes, keys not mentioned stay."""
    if not change:
        return old
    merged = {**old, **change}
    return {key: value for key, value in merged.items() if value != "" or key not in change}


def merge_annotations(old: Mapping[str, Any], change: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The same for annotations, where the JSON value "" deletes. The endpoints that the API makes are not kept."""
    if not change:
        return old
    merged = {**old, **without_endpoints(change)}
    return {key: value for key, value in merged.items() if value != "" or key not in change}


def without_endpoints(annotations: Mapping[str, Any] | None) -> dict[str, Any]:
    """Clients send back what they read; the endpoint annotations are made anew at every read."""
    return {k: v for k, v in (annotations or {}).items() if k not in (FN_ENDPOINT, TRIGGER_ENDPOINT)}


def start_of(annotations: Mapping[str, Any]) -> str:
    """How instances start, from the annotation. A value of another type is shown as it is, and refused."""
    value = annotations.get(START, "auto")
    return value if isinstance(value, str) else repr(value)


def adapter_of(annotations: Mapping[str, Any]) -> str:
    """Which adapter the annotation names; empty: none. A value of another type is shown as it is, and refused."""
    value = annotations.get(ADAPTER, "")
    return value if isinstance(value, str) else repr(value)


def pcu_of(annotations: Mapping[str, Any]) -> int:
    """The provisioned concurrency that OCI's annotations ask for; 0 when they do not.

    Raises:
      BadRequest: neither NONE nor CONSTANT with a count.
    """
    strategy, count = annotations.get(PCU_STRATEGY), annotations.get(PCU_COUNT, 0)
    if strategy is None or strategy == "NONE":
        return 0
    if isinstance(count, str) and re.fullmatch(r"[0-9]{1,9}", count):
        count = int(count)
    if strategy != "CONSTANT" or isinstance(count, bool) or not isinstance(count, int) or not 0 < count < 10**9:
        raise BadRequest(
            f'annotation {PCU_STRATEGY} must be "NONE", or "CONSTANT" with a whole number above 0 in {PCU_COUNT}'
        )
    return count


def with_pcu(annotations: Mapping[str, Any], count: int) -> Mapping[str, Any]:
    """OCI's annotations, where the function has them, brought in line with the count."""
    if PCU_STRATEGY not in annotations:
        return annotations
    changed = {k: v for k, v in annotations.items() if k != PCU_COUNT}
    changed[PCU_STRATEGY] = "CONSTANT" if count else "NONE"
    return {**changed, PCU_COUNT: count} if count else changed


def cursor_of(*parts: str) -> str:
    """A cursor that says where a page ended. One part (a name) gives Fn's own form."""
    return base64.urlsafe_b64encode("\0".join(parts).encode()).decode().rstrip("=")


def parse_cursor(cursor: str, parts: int) -> tuple[str, ...]:
    """Where to go on; empty strings for no cursor.

    Raises:
      BadRequest: not a cursor that we gave.
    """
    try:
        if not re.fullmatch(r"[A-Za-z0-9_\-]*", cursor):
            raise ValueError("not base64url")
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except (ValueError, binascii.Error) as exc:
        raise BadRequest("Invalid cursor", detail="use the next_cursor of the page before") from exc
    found = tuple(text.split("\0", parts - 1))
    return found + ("",) * (parts - len(found))


def _is_name(name: str) -> bool:
    return all(c in "_-" or unicodedata.category(c)[0] in "LN" for c in name)


def _check_syslog_url(url: str) -> None:
    if not url:
        return
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme not in SYSLOG_SCHEMES:
        raise BadRequest(
            f'invalid syslog url: "{url[:256]}" invalid scheme, only [tcp, udp, unix, unixgram, tcp+tls] are supported'
        )
    _check_text("syslog_url", url, SYSLOG_URL_BYTES_MAX)


def _check_text(field: str, value: str, bytes_max: int) -> None:
    if len(value.encode()) > bytes_max:
        raise BadRequest(f"{field} must be {bytes_max} bytes or less, not {len(value.encode())}")
    if "\0" in value:
        raise BadRequest(f"{field} must not hold a NUL")
