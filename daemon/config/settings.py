"""Settings of the daemon: frozen dataclasses, read once (`daemon.config.file`).

The string under a field *is* its entry in ``docs/reference/config.md``; a test keeps the two equal.

Units are in the names: ``_s`` seconds, ``_mib`` MiB (2**20 bytes), ``_bytes`` bytes.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemon.config.detached import Destinations, Detached, Tracing
from daemon.config.network import Network
from daemon.config.rules import ConfigError as ConfigError
from daemon.config.rules import positive


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the node and one function may spend."""

    memory_mib: int = 0
    """Node budget: the sum of the memory of all instances that are not gone. 0: three quarters of the machine's RAM."""
    instances_max: int = 1000
    """Most instances on the node at once."""
    function_instances_max: int = 200
    """Most instances of one function at once."""
    queue_max: int = 1024
    """Most calls of one function that may wait for an instance; the next one gets 429 queue-full."""
    concurrency_mib: int = 0
    """Most memory of calls that run and wait at once (OCI: total-concurrency-mb); the next one gets 429
    concurrency-limit. 0: no such limit, calls wait until the node has room."""
    queue_s: float = 30.0
    """Longest wait of a call for an instance; then 503 node-busy with Retry-After."""
    start_s: float = 5.0
    """Longest time from launch to ready (import and warm-up included); then 504 init-timeout. Fn's is 5 s."""
    stop_s: float = 1.0
    """How long a retired instance has to leave by itself; then it is killed."""
    kill_s: float = 5.0
    """How long a killed process may take to disappear before that is logged as an error."""
    starts_at_once: int = 16
    """Most instances of one function in state STARTING at once."""
    node_starts_at_once: int = 32
    """Most instances on the node in state STARTING at once."""
    backoff_s: float = 0.5
    """First pause after a failed start; doubled at each further failure, with up to 10 % jitter."""
    backoff_s_max: float = 30.0
    """Longest pause between two start attempts of a crashing function."""
    reuse_calls_max: int = 100_000
    """Calls after which an instance is retired, less up to 10 % jitter."""
    reuse_age_s_max: float = 86_400.0
    """Age at which an idle instance is retired, less up to 10 % jitter."""
    reuse_growth_fraction_max: float = 0.8
    """An instance that holds more than this part of its memory limit after a call is retired."""
    template_idle_s: float = 900.0
    """How long the template of an unused version is kept after its last instance went."""
    templates_max: int = 64
    """Most templates on the node; the one longest unused goes first."""
    template_mib: int = 24
    """What a template counts for in the node budget."""
    memory_poll_s: float = 0.025
    """How often the memory of busy instances is measured where no cgroup does it."""
    memory_backstop_mib: int = 64
    """RLIMIT_DATA of a worker is its function's memory plus this: a backstop between two measurements."""
    response_bytes_max: int = 6 * 2**20
    """Largest body a function may answer; then 502 response-too-large. OCI's 6 MB."""
    response_header_bytes_max: int = 64 * 2**10
    """Largest sum of the header names and values a function may answer; then 502 response-headers-too-large."""
    response_headers_max: int = 256
    """Most headers a function may answer."""
    freeze_s: float = 0.0
    """An instance that is a program of its own is frozen (SIGSTOP, to all of its processes) after this long without a
    call, and goes on when the next one comes. 0: never. Fn freezes after 0.05 s (FN_FREEZE_IDLE_MSECS)."""
    freeze_native: bool = False
    """Whether ``freeze_s`` is for workers of Python handlers too, which rarely do anything while they are idle."""
    processes_max: int = 50
    """Most processes and threads of an instance. Fn's FN_MAX_PIDS."""
    cgroups: str = "auto"
    """Control groups. ``auto``: v2, else v1, else none; ``v2``, ``v1``: only that; ``off``: none, memory is polled."""
    open_files_max: int = 350
    """RLIMIT_NOFILE of a worker. Fn's FN_MAX_OPEN_FILES."""
    client_watch_s: float = 0.25
    """After this long the client of a running call is watched; if it leaves, its call is cancelled."""
    drain_s: float = 30.0
    """How long running calls may go on after SIGTERM."""

    def __post_init__(self) -> None:
        positive(
            "limits", self, zero_ok=frozenset({"memory_mib", "concurrency_mib", "memory_backstop_mib", "freeze_s"})
        )
        if self.cgroups not in ("auto", "v2", "v1", "off"):
            raise ConfigError(f"limits.cgroups must be auto, v2, v1 or off, not {self.cgroups!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Http:
    """The listeners and what they accept."""

    listen: str = "127.0.0.1:8080"
    """HOST:PORT of the TCP listener; port 0 picks a free one. Anything but loopback needs ``auth.mode: iam`` and TLS,
    or ``insecure``."""
    socket: str = ""
    """Path of the unix socket; empty: ``stoker.sock`` in the runtime directory or, without one, the data directory."""
    public_url: str = ""
    """Base of the endpoint URLs in replies, for use behind a proxy; empty: from the request's Host header."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names accepted besides the loopback ones. A name that is not listed gets 403: a web page cannot rebind."""
    insecure: bool = False
    """True: listen on any address, even in ``auth.mode: open`` or without TLS, and accept any Host. Whoever reaches the
    port may then run code here (open), or read and copy what is said (no TLS)."""
    tls_certificate: str = ""
    """Path of the TCP listener's certificate chain (PEM); with ``tls_key`` it speaks HTTPS. Read again on SIGHUP."""
    tls_key: str = ""
    """Path of the certificate's private key (PEM, no passphrase)."""
    connections_max: int = 4096
    """Most open client connections; further ones wait in the kernel's backlog."""
    backlog: int = 1024
    """Length of the kernel's queue of connections that were not accepted yet."""
    request_line_bytes_max: int = 8192
    """Longest request line; then 431."""
    header_bytes_max: int = 32 * 2**10
    """Largest header section; then 431."""
    headers_max: int = 128
    """Most headers; then 431."""
    body_bytes_max: int = 6 * 2**20
    """Largest request body of an invoke or trigger; then 413. OCI's 6 MB."""
    bundle_bytes_max: int = 250 * 2**20
    """Largest bundle that may be uploaded."""
    header_s: float = 15.0
    """Longest time from a request's first byte to the end of its headers; then 408."""
    body_s: float = 60.0
    """Longest time for a request's body; then 408."""
    write_s: float = 60.0
    """Longest time a client may take to read a reply; then its connection is cut."""
    keep_alive_s: float = 75.0
    """How long an idle connection is kept."""

    def __post_init__(self) -> None:
        positive("http", self)
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ConfigError("http.tls_certificate and http.tls_key must be given together")
        host, _, port = self.listen.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise ConfigError(f"http.listen must be HOST:PORT, not {self.listen!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    """Who may do what."""

    mode: str = "open"
    """``open``: everybody who reaches a listener may do everything, so only loopback is listened on. ``iam``: every
    request but health is signed by a known key, or carries a token, and a policy must allow it."""
    audit_rows_max: int = 100_000
    """Entries kept in the audit log; the oldest go."""
    debugging: bool = False
    """Allow debugging (``stoker dev --debug``) where it is refused otherwise: in mode ``iam``, and with
    ``http.insecure``. Who may update a function may then stop it anywhere and look into it, and so may every local
    user of the machine who reaches the debugger's port on loopback."""
    resource_principals: bool = True
    """In mode ``iam``: give every instance a token and key of its function's, so that it can call this node's APIs."""
    resource_principal_s: int = 900
    """When two thirds of this have passed such a token is renewed. It is good for this and one hour more, so that the
    longest call can end with the token that it began with."""

    def __post_init__(self) -> None:
        positive("auth", self)
        if self.mode not in ("open", "iam"):
            raise ConfigError(f"auth.mode must be 'open' or 'iam', not {self.mode!r}")
        if self.resource_principal_s < 120:
            raise ConfigError(f"auth.resource_principal_s must be 120 or more, not {self.resource_principal_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pcu:
    """Provisioned concurrency of the node."""

    memory_mib: int = 40960
    """Most memory all floors together may reserve (OCI: provisioned-concurrency-mb)."""
    steps: str = "oci"
    """``oci``: counts must be multiples of OCI's table (128 MB 40; 256 MB 20; more 10); ``any``: any count."""

    def __post_init__(self) -> None:
        positive("pcu", self)
        if self.steps not in ("oci", "any"):
            raise ConfigError(f"pcu.steps must be 'oci' or 'any', not {self.steps!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Oci:
    """The OCI API, and the service limits that it brings; those hold for every API."""

    application_count_max: int = 1000
    """Most applications on the node (OCI: application-count); then 400 LimitExceeded."""
    function_count_max: int = 5000
    """Most functions on the node (OCI: function-count); then 400 LimitExceeded."""
    archive_bytes_max: int = 25 * 2**20
    """Largest ZIP of a code-only function in a create or update request. OCI's 25 MB."""
    config_bytes_max: int = 4096
    """Largest config (keys and values in UTF-8) of an application or a function made over the OCI API. OCI's 4 KB."""
    operations_max: int = 64
    """Most creations and updates of functions over the OCI API that may be under way at once; then 429."""
    work_requests_max: int = 1000
    """Work requests that are kept; the oldest finished ones go first."""
    prebuilt: str = ""
    """Directory of the pre-built functions; empty: the examples that come with Stoker."""

    def __post_init__(self) -> None:
        positive("oci", self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundles:
    """What an uploaded bundle may be."""

    unpacked_bytes_max: int = 1024 * 2**20
    """Largest sum of the unpacked files."""
    files_max: int = 50_000
    """Most files and directories."""
    ratio_max: int = 200
    """Largest ratio of unpacked to packed size of a member over 1 MiB: a guard against bombs."""
    depth_max: int = 32
    """Deepest path."""
    path_bytes_max: int = 512
    """Longest path."""
    unpack_s: float = 120.0
    """Longest time for unpacking."""
    versions_kept: int = 10
    """Versions of a function that can be rolled back to; older bundles are removed when nothing names them."""

    def __post_init__(self) -> None:
        positive("bundles", self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Logs:
    """What functions and the daemon write."""

    level: str = "info"
    """Level of the daemon's log: debug, info, warning, error."""
    format: str = "auto"
    """Form of the daemon's log: ``text``, ``json``, or ``auto``: text on a terminal, else json."""
    line_bytes_max: int = 16 * 2**10
    """Longest line of a function's output; the rest goes to the next line."""
    rate_bytes_s: int = 2**20
    """Bytes of output per second and instance that are kept; what is over is counted and dropped."""
    burst_bytes: int = 4 * 2**20
    """Output that may come at once before the rate applies."""
    file_bytes_max: int = 8 * 2**20
    """Size at which a function's log file is rotated."""
    files_max: int = 3
    """Log files kept per function."""
    syslog_ca_file: str = ""
    """Certificates (PEM) that a ``tcp+tls`` syslog destination is checked against; empty: the machine's."""
    local_syslog: bool = False
    """Let applications name unix sockets and addresses of this machine as their syslog URL in mode ``iam``, too, where
    whoever may update one makes the daemon connect there. In mode ``open`` they always may."""
    journald: str = "auto"
    """Send functions' lines to systemd's journal, too: ``on``, ``off``, or ``auto``: when systemd runs the daemon."""

    def __post_init__(self) -> None:
        positive("logs", self)
        if self.level not in ("debug", "info", "warning", "error"):
            raise ConfigError(f"logs.level must be debug, info, warning or error, not {self.level!r}")
        if self.format not in ("auto", "text", "json"):
            raise ConfigError(f"logs.format must be auto, text or json, not {self.format!r}")
        if self.journald not in ("auto", "on", "off"):
            raise ConfigError(f"logs.journald must be auto, on or off, not {self.journald!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """What is recorded of calls: for ``stoker calls``, charts and the provisioned concurrency advisor."""

    enabled: bool = True
    """False: nothing is recorded; then there are no charts of calls and no advice either."""
    age_s_max: float = 7 * 86_400.0
    """How long the record of a call is kept."""
    bytes_max: int = 256 * 2**20
    """Most bytes of records; the oldest go first. A call takes about 60."""
    pending_max: int = 50_000
    """Most records in memory; what is over is dropped and counted (``stoker_call_records_dropped_total``)."""
    body_bytes_max: int = 2**20
    """Largest request kept for ``stoker replay``, of functions that ask for it (``stoker.dev/record-bodies``)."""
    bodies_bytes_max: int = 64 * 2**20
    """Most bytes of kept requests; the oldest go first."""
    series_seconds_s: float = 3600.0
    """How long the time series keep points of one second."""
    series_minutes_s: float = 7 * 86_400.0
    """How long they keep points of one minute."""
    series_hours_s: float = 400 * 86_400.0
    """How long they keep points of one hour."""

    def __post_init__(self) -> None:
        positive("records", self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """What separates functions from the machine and from each other."""

    floor: str = "C"
    """The level that the machine must give, or the daemon does not start without --insecure: ``A`` namespaces, filter,
    Landlock and control groups; ``B`` without control groups; ``C`` Landlock and filter only; ``D`` anything."""
    switch_off: tuple[str, ...] = ()
    """Mechanisms not to use, by the names that ``stoker doctor`` prints; for tests of the sandbox, needs --insecure."""
    uid_first: int = 1_900_000_000
    """First of the 65,536 user and group ids of the host that functions run as, when the daemon is root. Daemons beside
    each other share the range: none gives its functions an id that another one is using."""
    readable: tuple[str, ...] = ()
    """Further directories of the host that every function can read, at their own paths."""

    def __post_init__(self) -> None:
        positive("sandbox", self)
        if self.floor not in ("A", "B", "C", "D"):
            raise ConfigError(f"sandbox.floor must be A, B, C or D, not {self.floor!r}")
        if any(not path.startswith("/") for path in self.readable):
            raise ConfigError("sandbox.readable must be absolute paths")
        if self.uid_first > 2**32 - 2**17:
            raise ConfigError(f"sandbox.uid_first must leave room for 65,536 ids below 2**32, not {self.uid_first}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration. Hand the part that is needed down, never the whole."""

    data: Path = Path("/var/lib/stoker")
    """The data directory: database, bundles, logs."""
    limits: Limits = field(default_factory=Limits)
    http: Http = field(default_factory=Http)
    auth: Auth = field(default_factory=Auth)
    pcu: Pcu = field(default_factory=Pcu)
    oci: Oci = field(default_factory=Oci)
    bundles: Bundles = field(default_factory=Bundles)
    logs: Logs = field(default_factory=Logs)
    detached: Detached = field(default_factory=Detached)
    destinations: Destinations = field(default_factory=Destinations)
    tracing: Tracing = field(default_factory=Tracing)
    records: Records = field(default_factory=Records)
    sandbox: Sandbox = field(default_factory=Sandbox)
    network: Network = field(default_factory=Network)

    def __post_init__(self) -> None:
        if self.tracing.endpoint and not self.records.enabled:
            raise ConfigError("tracing.endpoint needs records.enabled: spans are made from call records")


SECTIONS: dict[str, type[Any]] = {
    "limits": Limits,
    "http": Http,
    "auth": Auth,
    "pcu": Pcu,
    "oci": Oci,
    "bundles": Bundles,
    "logs": Logs,
    "detached": Detached,
    "destinations": Destinations,
    "tracing": Tracing,
    "records": Records,
    "sandbox": Sandbox,
    "network": Network,
}


def exposure(config: Config, host: str) -> str:
    """Why this host may not be listened on with this configuration; empty: it may."""
    if config.http.insecure or host == "localhost":
        return ""
    try:
        if ipaddress.ip_address(host).is_loopback:
            return ""
    except ValueError:
        pass
    if config.auth.mode == "open":
        return (
            f"{host!r} is not a loopback address and requests are not authenticated; use 127.0.0.1 or [::1], or "
            "auth.mode: iam with TLS; or say --insecure if everybody who reaches this port may run code here"
        )
    if not config.http.tls_certificate:
        return (
            f"{host!r} is not a loopback address and requests would not be encrypted; set http.tls_certificate and "
            "http.tls_key; or say --insecure if everybody on the way may read and copy what is said"
        )
    return ""
