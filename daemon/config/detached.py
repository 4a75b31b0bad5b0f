"""The settings of detached calls, destinations and tracing; part of `daemon.config.settings`, which checks them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from daemon.config.rules import ConfigError, positive

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,254}"
_ROUTE = re.compile(rf"{_NAME}=((stream|queue):{_NAME}|function:\S{{1,511}}|https?://\S{{1,2000}})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Detached:
    """Detached calls: accepted with 202, stored, run when there is room. A function's annotations say more."""

    queue_max: int = 10_000
    """Most detached calls that may wait or run; the next one gets 429 queue-full."""
    queue_bytes_max: int = 256 * 2**20
    """Most bytes (bodies and headers) that they may hold in the store; then 429 queue-full."""
    running_max: int = 64
    """Most detached calls that run at once on the node."""
    function_running_max: int = 32
    """The same for one function."""
    memory_fraction_max: float = 0.5
    """Most part of the node's memory budget that functions running detached calls may have together; the rest stays for
    calls that somebody waits for. One detached call may always run."""
    yield_s: float = 5.0
    """While calls that somebody waits for are queueing, a detached call gives way to them for this long."""
    attempts: int = 1
    """Runs of a failing call, the first included, where the function's annotation stoker.dev/retry says nothing."""
    backoff_s: float = 1.0
    """Pause before the second attempt; doubled before each further one, less up to half of it by chance."""
    backoff_s_max: float = 300.0
    """Longest pause between two attempts."""
    interruptions_max: int = 10
    """Runs that may end with the daemon itself; then the call is a dead letter, since it may be what kills it."""
    age_s_max: float = 86_400.0
    """Longest time that a call may wait to be run; then it is a dead letter."""
    dead_letters_max: int = 10_000
    """Dead letters kept; the oldest go first."""
    dead_letter_bytes_max: int = 256 * 2**20
    """Bytes (bodies and headers) of the dead letters kept; the oldest go first."""
    dead_letter_age_s_max: float = 14 * 86_400.0
    """How long a dead letter is kept."""

    def __post_init__(self) -> None:
        positive("detached", self)
        if self.memory_fraction_max > 1:
            raise ConfigError(f"detached.memory_fraction_max must be at most 1, not {self.memory_fraction_max}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Destinations:
    """Where the records of finished detached calls go (annotations stoker.dev/on-success and stoker.dev/on-failure)."""

    directory: str = ""
    """Directory of local streams and queues; empty: ``destinations`` in the data directory."""
    routes: tuple[str, ...] = ()
    """NAME=TARGET: where a stream, queue or topic of that name or OCID goes. TARGET is ``stream:NAME``,
    ``queue:NAME``, ``function:APP/FUNCTION`` or a URL; a name given several times goes to all of them. Others become
    a stream or a queue of their own name, or a stream ``topic-NAME``."""
    hosts: tuple[str, ...] = ()
    """Host names (with ``:PORT`` unless the scheme's own) that HTTP destinations may name; none given: any, in mode
    ``iam`` any but this machine and link-local addresses (metadata of clouds)."""
    pending_max: int = 10_000
    """Most deliveries that may wait; further ones are dropped, logged and counted."""
    at_once: int = 8
    """Deliveries at once; at most a quarter of them to one destination."""
    timeout_s: float = 10.0
    """Longest time for one delivery."""
    attempts: int = 6
    """Attempts of one delivery; then it is given up, logged and counted."""
    backoff_s: float = 1.0
    """Pause before the second attempt; doubled before each further one, less up to half of it by chance."""
    backoff_s_max: float = 300.0
    """Longest pause between two attempts."""
    payload_bytes_max: int = 64 * 2**10
    """Bytes of request and of response that are put into a record; what is longer is cut, and says so."""
    stream_bytes_max: int = 64 * 2**20
    """Size at which a local stream's file is put aside as ``.1``, replacing the one before."""
    queue_messages_max: int = 10_000
    """Messages in a local queue; when it is full, deliveries to it fail."""

    def __post_init__(self) -> None:
        positive("destinations", self)
        for route in self.routes:
            if not _ROUTE.fullmatch(route):
                raise ConfigError(
                    "destinations.routes must be NAME=stream:NAME, NAME=queue:NAME, NAME=function:APP/FUNCTION or"
                    f" NAME=URL, not {route!r}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracing:
    """Spans of calls for OpenTelemetry or Zipkin. Off unless ``endpoint`` is set."""

    endpoint: str = ""
    """URL that spans are posted to: Zipkin's (``http://127.0.0.1:9411/api/v2/spans``) or OTLP's over HTTP
    (``http://127.0.0.1:4318/v1/traces``)."""
    format: str = "auto"
    """``zipkin`` (JSON v2), ``otlp`` (JSON), or ``auto``: otlp if the path ends in /v1/traces, else zipkin."""
    functions: str = "chosen"
    """``chosen``: only functions for which tracing is on in their own and their app's annotations; ``all``."""
    sample_fraction: float = 1.0
    """Part of the traces begun here that is kept. A caller that sends a trace decides by itself."""
    collector_url: str = ""
    """What functions are told as OCI_TRACE_COLLECTOR_URL; empty: ``endpoint`` if it is Zipkin's."""
    headers: tuple[str, ...] = ()
    """``Name: value`` headers sent with the spans, for a collector that asks for a key."""
    queue_max: int = 8192
    """Spans that may wait to be sent; further ones are dropped and counted."""
    batch_max: int = 512
    """Spans sent in one request."""
    interval_s: float = 1.0
    """How often spans are sent."""
    timeout_s: float = 5.0
    """Longest time for one request to the collector."""
    attempts: int = 4
    """Attempts to send a batch; then it is dropped and counted."""

    def __post_init__(self) -> None:
        positive("tracing", self, zero_ok=frozenset({"sample_fraction"}))
        if self.format not in ("auto", "zipkin", "otlp"):
            raise ConfigError(f"tracing.format must be auto, zipkin or otlp, not {self.format!r}")
        if self.functions not in ("chosen", "all"):
            raise ConfigError(f"tracing.functions must be chosen or all, not {self.functions!r}")
        if self.sample_fraction > 1:
            raise ConfigError(f"tracing.sample_fraction must be from 0 to 1, not {self.sample_fraction}")
        for name in ("endpoint", "collector_url"):
            value = getattr(self, name)
            if value and (urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).hostname):
                raise ConfigError(f"tracing.{name} must be an http or https URL, not {value!r}")
        for header in self.headers:
            if not re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+: ?[\t -~]+", header):
                raise ConfigError(f"tracing.headers must be 'Name: value', not {header!r}")

    @property
    def is_otlp(self) -> bool:
        """Whether spans go out in OTLP's form."""
        return self.format == "otlp" or (
            self.format == "auto" and urlsplit(self.endpoint).path.rstrip("/").endswith("/v1/traces")
        )

    @property
    def told_url(self) -> str:
        """What functions are told."""
        return self.collector_url or ("" if self.is_otlp else self.endpoint)
