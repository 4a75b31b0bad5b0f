"""What Stoker keeps: apps, functions, versions, triggers, bundles. Frozen values and the rules that need no database.

Rules and texts of errors come from the Fn server (fn: api/models/*.go, reference fn-contract 1.2 to 1.5), because
clients match on them. Times are integer milliseconds since the epoch (``_at``). Ids are 26 characters of Crockford
base32 that sort by creation time (fn: api/id/id.go).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from daemon.core.network import NetworkPolicy

MEMORY_MIB_DEFAULT = 128
TIMEOUT_S_DEFAULT = 30
IDLE_TIMEOUT_S_DEFAULT = 30
ADAPTERS = ("lambda", "google-http", "google-event", "wsgi", "asgi")
"""Equal to the keys of `fdk.adapters.ADAPTERS`, which the daemon does not import; a test compares."""

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
"""Two characters at a time: an id is made for every call."""
_TAIL_SHIFTS = (70, 60, 50, 40, 30, 20, 10, 0)

RANDOM_BYTES = 4096
"""Random bytes fetched from the kernel at once: a system call for each id costs more than all the rest of it."""


class RandomPool:
    """`os.urandom` in small pieces, no byte of it given twice.

    For one thread at a time, and for a process that is never forked: workers are started by exec (isolation.md 3 g).
    """

    __slots__ = ("_bytes", "_used")

    def __init__(self) -> None:
        self._bytes = b""
        self._used = 0

    def number(self, size: int) -> int:
        """A random number of ``size`` bytes."""
        used = self._used
        if used + size > len(self._bytes):
            self._bytes, used = os.urandom(RANDOM_BYTES), 0
        self._used = used + size
        return int.from_bytes(self._bytes[used : used + size], "big")


class Ids:
    """Makes ids: 48 bits of wall-clock milliseconds, 80 bits that grow by a random step within one millisecond.

    They sort by creation time like Fn's, and unlike Fn's they cannot be guessed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._random = RandomPool()
        self._last_ms = 0
        self._head = ""
        self._tail = 0

    def new(self) -> str:
        """A new id, larger than every id this object gave before."""
        with self._lock:
            now_ms = time.time_ns() // 1_000_000
            if now_ms > self._last_ms:
                self._last_ms = now_ms
                self._head = "".join([_PAIRS[(now_ms >> shift) & 1023] for shift in (40, 30, 20, 10, 0)])
                self._tail = self._random.number(9)  # 72 of 80 bits: room to count up
            else:
                self._tail += 1 + self._random.number(4)
            head, tail = self._head, self._tail
        return head + "".join([_PAIRS[(tail >> shift) & 1023] for shift in _TAIL_SHIFTS])


@dataclass(frozen=True, slots=True, kw_only=True)
class Compartment:
    """A place that policies speak of. The root is the tenancy; every app is in one."""

    id: str
    """An OCID: ``ocid1.tenancy.oc1..`` of the root, ``ocid1.compartment.oc1..`` of the others."""
    name: str
    """Unique among its siblings."""
    parent_id: str = ""
    """Empty: the root."""
    description: str = ""
    created_at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """A group of functions that share configuration and, later, a network."""

    id: str
    name: str
    compartment_id: str = ""
    """Empty: the root. `daemon.catalog.Catalog.compartment_of` gives the OCID."""
    config: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, Any] = field(default_factory=dict)
    syslog_url: str = ""
    shape: str = ""
    freeform_tags: Mapping[str, str] = field(default_factory=dict)
    defined_tags: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Values by key by namespace."""
    log_format: str = ""
    """Of the application's log lines: ``JSON``, ``PLAIN_TEXT`` or empty for the default, which is the latter."""
    cloud: Mapping[str, Any] = field(default_factory=dict)
    """What OCI's clients set and this node keeps but cannot act on (subnetIds, imagePolicyConfig...), by OCI's name."""
    created_at: int = 0
    updated_at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One bundle and one set of settings: immutable once stored, except for ``state`` and ``error``.

    ``digest`` is empty when ``image`` names no bundle on this node: such a function exists (as on Fn) and answers
    502 bundle-missing until the bundle is pushed.
    """

    function_id: str
    number: int
    """1, 2, 3 ... within the function."""
    image: str
    digest: str
    """``sha256:<64 hex>`` of the bundle, or empty."""
    memory_mib: int = MEMORY_MIB_DEFAULT
    timeout_s: int = TIMEOUT_S_DEFAULT
    idle_timeout_s: int = IDLE_TIMEOUT_S_DEFAULT
    config: Mapping[str, str] = field(default_factory=dict)
    start: str = "auto"
    """``auto``, ``fork``, ``boot`` or ``exec`` (annotation ``stoker.dev/start``)."""
    handler: str = ""
    """``func.handler`` for the function ``handler`` of ``func.py``; empty: what the bundle's func.yaml says."""
    runtime: str = ""
    """``python`` or ``python3.N``; empty: what the bundle's func.yaml says."""
    source: Mapping[str, str] = field(default_factory=dict)
    """Where the bundle came from, if not by its name: OCI's ``sourceType`` and what belongs to it (`daemon.oci`)."""
    adapter: str = ""
    """Which of `fdk.adapters` calls the handler (annotation ``stoker.dev/adapter``); empty: what the bundle says."""
    state: str = "building"
    """``building``, ``ready`` or ``failed``."""
    error: str = ""
    """Why it failed: the canary's traceback."""
    created_at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A named function of an app; ``live`` is the version that answers calls."""

    id: str
    app_id: str
    name: str
    live: Version
    annotations: Mapping[str, Any] = field(default_factory=dict)
    pcu_count: int = 0
    """Provisioned concurrency: instances always kept started. 0: strategy NONE."""
    shape: str = ""
    state: str = "active"
    """``creating`` (its first version is being made ready), ``active``, or ``failed`` (that version did not)."""
    state_error: str = ""
    """Why it failed."""
    freeform_tags: Mapping[str, str] = field(default_factory=dict)
    defined_tags: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    created_at: int = 0
    updated_at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """``/t/{app name}{source}`` calls the function."""

    id: str
    name: str
    app_id: str
    fn_id: str
    source: str
    type: str = "http"
    annotations: Mapping[str, Any] = field(default_factory=dict)
    created_at: int = 0
    updated_at: int = 0


def split_handler(handler: str) -> tuple[str, str]:
    """``pkg.func.handler`` as the file ``pkg/func.py`` and the name ``handler`` (OCI's code-only functions).

    Raises:
      ValueError: not at least two Python names with dots between them.
    """
    *path, name = handler.split(".")
    if not path or not all(part.isidentifier() for part in [*path, name]):
        raise ValueError(f"must be FILE.FUNCTION, for example func.handler, not {handler[:200]!r}")
    return "/".join(path) + ".py", name


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """An unpacked bundle of the content-addressed store."""

    digest: str
    packed_bytes: int
    unpacked_bytes: int
    files: int
    runtime: str = "python"
    """``python`` or ``python3.N``: the interpreter its func.yaml asks for; or another language, with a ``command``."""
    handler_file: str = "func.py"
    """The module's file, relative to ``function/``."""
    handler_name: str = "handler"
    expects: tuple[str, ...] = ()
    """Config keys that func.yaml's ``expects.config`` marks as required."""
    layer: str = ""
    """Digest of the layer that holds its dependencies; empty: they are inside, or there are none."""
    adapter: str = ""
    """Which of `fdk.adapters` calls the handler, by func.yaml's annotation; empty: it is a handler of the FDK."""
    command: tuple[str, ...] = ()
    """Not empty: no handler is imported, this program is started in ``function/`` and follows the Fn contract."""
    environment: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What its Dockerfile's ENV set; configuration wins."""
    created_at: int = 0


@dataclass(slots=True, kw_only=True)
class Answer:
    """What a call gave, as the worker said it: the FDK's status and headers, not yet mapped to the client's."""

    status: int
    """200, 502 or 504: all that the Fn contract allows."""
    headers: Sequence[tuple[str, str]]
    body: bytes
    call_id: str = ""
    start_kind: str = "reuse"
    """``reuse``, ``spare``, ``fork``, ``boot`` or ``exec``."""
    queue_s: float = 0.0
    start_s: float = 0.0
    handler_s: float = 0.0
    cpu_us: int = -1
    """Processor time that the worker says the call took, in microseconds; -1: it does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchPlan:
    """Everything a worker of one revision needs. Equal for all instances of the revision."""

    revision: str
    """Names the version and the app configuration it runs with; instances of different revisions never mix."""
    function_id: str
    function_name: str
    app_id: str
    app_name: str
    bundle_dir: str
    """Absolute path of the unpacked bundle: ``function/`` and perhaps ``python/`` and ``resources/`` inside."""
    handler_file: str
    handler_name: str
    interpreter: str
    """Absolute path of the Python interpreter; empty: the daemon's own, which forks fastest."""
    environment: Mapping[str, str]
    """The worker's whole environment: configuration and FN_* variables, nothing of the daemon's."""
    memory_mib: int
    timeout_s: int
    start: str = "auto"
    adapter: str = ""
    cpu: float = 0.0
    """Cores that an instance may use at most; 0: as many as are free."""
    command: tuple[str, ...] = ()
    """Not empty: this program is started in ``function/`` and follows the Fn contract; there is no handler."""
    debugger: str = ""
    """The host's directory of debugpy; not empty: the instance is put under it."""
    network: NetworkPolicy = field(default_factory=NetworkPolicy)
