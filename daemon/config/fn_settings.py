"""The Fn server's own environment settings: which mean something here, which have no effect, which are refused. Pure.

Names and units: fn: api/agent/config.go and api/server/server.go (reference fn-contract 6.2). Every one may be given as
``NAME_FILE``, a file that holds the value. Stoker's own settings win over them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from daemon.config.settings import ConfigError

VALUE_BYTES_MAX = 64 * 1024
"""Most bytes of a value in a file."""
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Honoured:
    """A setting with a counterpart."""

    setting: str
    """``section.key``."""
    convert: Callable[[str], str]
    """The value in our unit; empty: Fn's "no limit" or default, which leaves ours as it is. ValueError: not a value."""
    unit: str
    also: tuple[tuple[str, str], ...] = ()
    """Further settings that it implies, with their values."""


def _number(factor: float = 1.0) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if not re.fullmatch(r"[0-9]{1,18}", text):
            raise ValueError("must be a whole number")
        value = int(text) * factor
        return "" if not int(text) else f"{value:g}" if value != int(value) else str(int(value))

    return convert


def _pause(text: str) -> str:
    """Milliseconds; negative: never, which is the default here."""
    return "" if re.fullmatch(r"-[0-9]{1,18}", text) else _number(1e-3)(text) or "0.001"


def _duration(text: str) -> str:
    """Go's durations: ``1m30s``, ``250ms``; a bare number is nanoseconds, as in Go."""
    if re.fullmatch(r"[0-9]{1,18}", text):
        seconds = int(text) * 1e-9
    else:
        parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|ms|s|m|h)", text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            raise ValueError("must be a duration such as 30s or 1m30s")
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    return f"{seconds:g}" if seconds else ""


def _level(text: str) -> str:
    levels = {"trace": "debug", "warn": "warning", "fatal": "error", "panic": "error"}
    level = levels.get(text.lower(), text.lower())
    if level not in ("debug", "info", "warning", "error"):
        raise ValueError("must be debug, info, warn, error, fatal or panic")
    return level


def _port(text: str) -> str:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise ValueError("must be a port")
    return f"127.0.0.1:{text}"


def _url(text: str) -> str:
    if not re.match(r"https?://[^/]", text):
        raise ValueError("must be an http or https URL")
    return text


def _one_of(*allowed: str) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"must be {' or '.join(allowed)}")
        return text

    return convert


HONOURED: dict[str, Honoured] = {
    "FN_PORT": Honoured("http.listen", _port, "port, on 127.0.0.1"),
    "FN_PUBLIC_LB_URL": Honoured("http.public_url", str, "URL"),
    "FN_LOG_LEVEL": Honoured("logs.level", _level, "level"),
    "FN_LOG_FORMAT": Honoured("logs.format", _one_of("text", "json"), "text or json"),
    "FN_MAX_REQUEST_SIZE": Honoured("http.body_bytes_max", _number(), "bytes"),
    "FN_MAX_REQUEST_HEADER_SIZE": Honoured("http.header_bytes_max", _number(), "bytes"),
    "FN_REQUEST_BODY_READ_TIMEOUT": Honoured("http.body_s", _duration, "duration"),
    "FN_REQUEST_HEADER_READ_TIMEOUT": Honoured("http.header_s", _duration, "duration"),
    "FN_RESPONSE_WRITE_TIMEOUT": Honoured("http.write_s", _duration, "duration"),
    "FN_HTTP_IDLE_TIMEOUT": Honoured("http.keep_alive_s", _duration, "duration"),
    "FN_FREEZE_IDLE_MSECS": Honoured("limits.freeze_s", _pause, "ms; instances that are programs only"),
    "FN_HOT_START_TIMEOUT_MSECS": Honoured("limits.start_s", _number(1e-3), "ms"),
    "FN_MAX_RESPONSE_SIZE": Honoured("limits.response_bytes_max", _number(), "bytes"),
    "FN_MAX_HDR_RESPONSE_SIZE": Honoured("limits.response_header_bytes_max", _number(), "bytes"),
    "FN_MAX_TOTAL_MEMORY_BYTES": Honoured("limits.memory_mib", _number(1 / 2**20), "bytes"),
    "FN_MAX_OPEN_FILES": Honoured("limits.open_files_max", _number(), "files"),
    "FN_ZIPKIN_URL": Honoured("tracing.endpoint", _url, "URL", also=(("tracing.functions", "all"),)),
    "FN_MAX_PIDS": Honoured("limits.processes_max", _number(), "processes and threads"),
}

_NO_CONTAINERS = "there are no containers and no images here"
_OWN_SCHEDULER = "starting and stopping instances follows Stoker's own scheduler (docs/reference/config.md)"
_ALWAYS = "the sandbox decides, and it is always on"

IGNORED: dict[str, str] = {
    "FN_HOT_POLL_MSECS": _OWN_SCHEDULER,
    "FN_HOT_LAUNCHER_TIMEOUT_MSECS": _OWN_SCHEDULER,
    "FN_HOT_PULL_TIMEOUT_MSECS": _NO_CONTAINERS,
    "FN_EXECUTION_HEADROOM": _OWN_SCHEDULER,
    "FN_ENABLE_NB_RESOURCE_TRACKER": "calls wait in a queue with a limit (limits.queue_max, limits.queue_s)",
    "FN_MAX_LOG_SIZE_BYTES": "lines and rate are limited instead (logs.line_bytes_max, logs.rate_bytes_s)",
    "FN_MAX_TOTAL_CPU_MCPUS": "Fn does not use it either",
    "FN_MAX_FS_SIZE_MB": _NO_CONTAINERS,
    "FN_MAX_LOCKED_MEMORY": _ALWAYS,
    "FN_MAX_PENDING_SIGNALS": _ALWAYS,
    "FN_MAX_MESSAGE_QUEUE": _ALWAYS,
    "FN_MAX_TMPFS_INODES": _ALWAYS,
    "FN_DISABLE_DEBUG_USER_LOGS": "functions' output is kept in logs of its own (stoker logs)",
    "FN_IOFS_TMPFS": _NO_CONTAINERS,
    "FN_IOFS_PATH": _NO_CONTAINERS,
    "FN_IOFS_DOCKER_PATH": _NO_CONTAINERS,
    "FN_IOFS_OPTS": _NO_CONTAINERS,
    "FN_IMAGE_CLEAN_MAX_SIZE": "unused bundles are removed by themselves (bundles.versions_kept)",
    "FN_IMAGE_CLEAN_EXEMPT_TAGS": "unused bundles are removed by themselves (bundles.versions_kept)",
    "FN_IMAGE_ENABLE_VOLUME": _NO_CONTAINERS,
    "FN_CONTAINER_LABEL_TAG": _NO_CONTAINERS,
    "FN_DOCKER_LOAD_FILE": _NO_CONTAINERS,
    "FN_EXPERIMENTAL_PREFORK_POOL_SIZE": "every function has a template that is forked",
    "FN_EXPERIMENTAL_PREFORK_IMAGE": "every function has a template that is forked",
    "FN_EXPERIMENTAL_PREFORK_CMD": "every function has a template that is forked",
    "FN_EXPERIMENTAL_PREFORK_USE_ONCE": "every function has a template that is forked",
    "FN_EXPERIMENTAL_PREFORK_NETWORKS": "every function has a template that is forked",
    "FN_GRPC_PORT": "there is one kind of node and no gRPC",
    "FN_DS_DB_PING_MAX_RETRIES": "the database is a file",
    "FN_PROCESS_COLLECTOR_LIST": "the daemon's metrics are always there (GET /metrics)",
    "FN_LOG_PREFIX": "the daemon's log is key-value pairs",
    "FN_LOCAL_DEBUG": "it belongs to the container that fn starts",
    "FN_LOCAL_DEBUG_PORT": "it belongs to the container that fn starts",
}
"""Without effect, and nothing is lost by that: told in a warning."""

REFUSED: dict[str, str] = {
    "FN_NODE_TYPE": "only 'full' exists: there is one kind of node",
    "FN_RUNNER_API_URL": "there is no split into load balancer and runners",
    "FN_RUNNER_ADDRESSES": "there is no split into load balancer and runners",
    "FN_PLACER": "there is no split into load balancer and runners",
    "FN_DB_URL": "the database is a file in the data directory (--data); postgres and mysql are not supported",
    "FN_LOG_DEST": "the daemon logs to standard error; systemd or a shell sends that elsewhere",
    "FN_API_CORS_ORIGINS": "web pages of other origins may not call the API",
    "FN_API_CORS_HEADERS": "web pages of other origins may not call the API",
    "FN_RID_HEADER": "calls have an id of their own (Fn-Call-Id)",
    "FN_JAEGER_URL": "Jaeger takes spans in Zipkin's form and in OTLP's: set tracing.endpoint",
    "FN_DISABLE_READONLY_ROOTFS": "the sandbox cannot be weakened for all functions at once",
    "FN_DISABLE_UNPRIVILEGED_CONTAINERS": "the sandbox cannot be weakened for all functions at once",
    "FN_DOCKER_NETWORKS": "the network is a setting of the application, not of the node",
}
"""What asks for something that would not happen: the daemon does not start."""


def translate(environ: Mapping[str, str], read: Callable[[str], str]) -> tuple[dict[str, str], list[str]]:
    """Variables of ours for those of Fn's that are set, and warnings about those without effect.

    ``read``: the content of a file, for ``NAME_FILE``.

    Raises:
      ConfigError: a setting that is refused, or a value that is none; names the variable.
    """
    found: dict[str, str] = {}
    warnings: list[str] = []
    for name in (*HONOURED, *IGNORED, *REFUSED):
        value = environ.get(name)
        if value is None and (path := environ.get(f"{name}_FILE")):
            try:
                value = read(path)[:VALUE_BYTES_MAX].strip()
            except OSError as exc:
                raise ConfigError(f"{name}_FILE: cannot read {path}: {exc.strerror}") from exc
        if not value:
            continue
        if name in REFUSED:
            if not _means_nothing(name, value):
                raise ConfigError(f"{name}={value[:200]}: not supported: {REFUSED[name]}; take it away")
        elif name in IGNORED:
            warnings.append(f"{name} has no effect here: {IGNORED[name]}")
        else:
            honoured = HONOURED[name]
            try:
                converted = honoured.convert(value)
            except ValueError as exc:
                raise ConfigError(f"{name}: {exc}, not {value[:200]!r}") from None
            for setting, text in ((honoured.setting, converted), *honoured.also):
                variable = f"STOKER_{setting.replace('.', '_').upper()}"
                if converted and variable not in environ:
                    found[variable] = text
    return found, warnings


def _means_nothing(name: str, value: str) -> bool:
    """What is Fn's default asks for nothing."""
    return (
        (name == "FN_NODE_TYPE" and value.lower() == "full")
        or (name == "FN_DB_URL" and value.startswith("sqlite3:"))
        or (name == "FN_LOG_DEST" and value == "stderr")
        or (name == "FN_DISABLE_READONLY_ROOTFS" and value.lower() in ("false", "0"))
        or (name == "FN_DISABLE_UNPRIVILEGED_CONTAINERS" and value.lower() in ("false", "0"))
    )
