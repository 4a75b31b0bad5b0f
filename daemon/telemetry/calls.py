"""What is known of a call that has ended. Pure: no I/O, no clock.

The invoker appends one plain tuple (`Finished`) per call, the cheapest thing there is; everything else here is done
later, in batches: the tuple becomes a `CallRecord`, the record a timeline, a sentence about what to do next, JSON.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from daemon import errors
from daemon.cures import CURES
from daemon.errors import StokerError
from daemon.model import App, Function

__all__ = [
    "DEBUG", "KINDS", "LEFT", "LEFT_STATUS", "RECEIVED", "CallRecord", "Finished", "Habits", "StartPhases", "advice",
    "form", "habits_of", "phases", "record_of", "rfc3339", "served_line", "start_phases", "summary_form", "told_s",
]  # fmt: skip

KINDS = ("sync", "detached", "trigger")
PHASES = ("queue", "template", "import", "fork", "init", "handler", "write")
"""In the order of time, but that a process that imports by itself is there before its import. ``queue`` is waiting for
an instance without the time in which one was being started."""
DETAIL_CHARS_MAX = 2000
"""What is kept of an error's detail: the end of a traceback says most."""
CALLER_CHARS_MAX = 256
CPU_US_MAX = 10**12
"""More processor time cannot be: what a worker says is not trusted."""
COLD = ("spare", "fork", "boot", "exec")
"""Start kinds other than ``reuse``: the call was the first of its instance."""

DEBUG = "debug"
"""Start kind of calls that were answered by an instance that is debugged."""

Finished = tuple[Function, str, str, Any, int, str, float, float, float, float, int, Any, int, int, int, int, Any]
"""function, call id, kind, caller, instance, start kind, began_s, queue_s, start_s, handler_s, status, error,
bytes in, bytes out, cpu_us, memory_bytes, start phases. Times are trio's; -1: not known."""

RECEIVED = "Received function invocation request"
"""OCI's line at the begin of a call; `served_line` makes the one at its end."""
LOG_CALLS = "stoker.dev/log-calls"
"""Annotation of an app or function: true writes the two lines for each call."""
RECORD_BODIES = "stoker.dev/record-bodies"
"""Annotation of a function: true keeps its requests for ``stoker replay``."""


class Habits(NamedTuple):
    """What is done for each call of a function besides running it."""

    function: Function
    app: App
    log_calls: bool
    record_bodies: bool
    traced: bool
    any: bool


def habits_of(app: App, function: Function, *, traced: bool = False) -> Habits:
    """The switches of a function; its own setting wins over its app's."""
    log_calls = function.annotations.get(LOG_CALLS, app.annotations.get(LOG_CALLS)) is True
    record_bodies = function.annotations.get(RECORD_BODIES) is True
    return Habits(function, app, log_calls, record_bodies, traced, log_calls or record_bodies or traced)


def served_line(total_s: float, status: int, error: BaseException | None) -> str:
    """OCI's line at the end of a call."""
    line = f"Served function invocation request in {total_s:.3f} seconds"
    if isinstance(error, StokerError):
        return f"{line} with error code {status} - {error.oci_code} ({status}): {error.message}"
    if error is not None:
        return f"{line} with error code 444 - StatusConnectionClosedWithoutResponse (444): Client request aborted"
    if status != 200:
        plain = errors.HandlerTimeout if status == 504 else errors.FunctionFailed
        return f"{line} with error code {status} - {plain.oci_code} ({status}): {plain.default_message}"
    return line


class StartPhases(NamedTuple):
    """How long the parts of an instance's start took, in seconds and in the order of `PHASES`."""

    template_s: float = 0.0
    """Until there was a template, without its import."""
    import_s: float = 0.0
    """The function's import: in the template when that had to be booted, else in a process that imports by itself."""
    fork_s: float = 0.0
    """Until there was a process."""
    init_s: float = 0.0
    """Until that was ready for calls, without its own import."""


def start_phases(total_s: float, *, template_s: float, fork_s: float, import_s: float) -> StartPhases:
    """The parts of a start from what was measured. ``import_s`` is what a worker says: no more than what it is part of.

    A start with a wait for a template has its import in there; one without has it after the fork.
    """
    init_s = max(0.0, total_s - template_s - fork_s)
    if template_s > 0:
        import_s = min(import_s, template_s)
        return StartPhases(template_s - import_s, import_s, fork_s, init_s)
    import_s = min(import_s, init_s)
    return StartPhases(0.0, import_s, fork_s, init_s - import_s)


def told_s(microseconds: object) -> float:
    """A length of time that a worker tells; 0.0 when it is no such thing."""
    return microseconds / 1e6 if isinstance(microseconds, int) and 0 <= microseconds < CPU_US_MAX else 0.0


NO_PHASES = StartPhases()


class CallRecord(NamedTuple):
    """One call that has ended. Lengths of time are seconds; ``cpu_s`` and ``memory_bytes`` are -1 when not known."""

    id: str
    function_id: str
    app_id: str
    function: str
    """Its name when it was called; so for ``app``, filled in when shown."""
    version: int
    instance: int
    """0: it never got one."""
    kind: str
    """``sync``, ``detached`` or ``trigger``."""
    start_kind: str
    """``reuse``, ``spare``, ``fork``, ``boot``, ``exec``, ``debug``, or empty: it never got an instance."""
    at: float
    """Unix time at which it was admitted."""
    queue_s: float
    """From admission to the instance, starts included."""
    start_s: float
    """Of that, while its instance was being started."""
    template_s: float
    """Of the start: until the template was there, without ``import_s``."""
    fork_s: float
    """Of the start: until the process was there."""
    init_s: float
    """Of the start: until it said ready, without ``import_s``."""
    handler_s: float
    """From sending the request to the worker to its answer."""
    write_s: float
    """Until the client had taken the reply; 0: the kernel took it at once."""
    status: int
    """What the client got: 200, 202 is never here, 499: it had left."""
    error: str
    """Code of the error (docs/reference/errors.md), or empty."""
    fault: str
    """``none``, ``caller``, ``function``, ``node`` or ``platform``."""
    detail: str
    bytes_in: int
    bytes_out: int
    cpu_s: float
    """Processor time of the worker during the call, as the worker says."""
    memory_bytes: int
    """The most that was measured while it ran; for a short call, what its instance was last measured to hold."""
    caller: str
    import_s: float = 0.0
    """Of the start: the function's import, as the worker says."""

    @property
    def failed(self) -> bool:
        """Whether the caller got anything but the function's good answer."""
        return bool(self.error)

    @property
    def total_s(self) -> float:
        """From admission to the last byte."""
        return self.queue_s + self.handler_s + self.write_s

    @property
    def ended_at(self) -> float:
        """Unix time of its end."""
        return self.at + self.total_s


_new = tuple.__new__
LEFT_STATUS = 499
"""Nobody waited for the answer any more (nginx's number; OCI's log says 444)."""
LEFT = "client-left"
"""The ``error`` of a call whose client had gone, or that was cut by the daemon's end."""


def record_of(raw: Finished, *, wall_s: float) -> CallRecord:
    """The record of a finished call. ``wall_s``: Unix time less trio's time."""
    (
        function, call_id, kind, caller, instance, start_kind, began_s, queue_s, start_s, handler_s, status, error,
        bytes_in, bytes_out, cpu_us, memory_bytes, split,
    ) = raw  # fmt: skip
    if error is None and status == 200 and not start_s:  # nearly all; the same as below, in half the time
        return _new(CallRecord, (
            call_id, function.id, function.app_id, function.name, function.live.number, instance, kind, start_kind,
            began_s + wall_s, queue_s, 0.0, 0.0, 0.0, 0.0, handler_s, 0.0, 200, "", "none", "", bytes_in, bytes_out,
            cpu_us / 1e6 if 0 <= cpu_us < CPU_US_MAX else -1.0, memory_bytes, caller_text(caller), 0.0,
        ))  # fmt: skip
    code, fault, detail = _failure(error, status)
    template_s, import_s, fork_s, init_s = _last_of(split, start_s) if split and start_s > 0 else NO_PHASES
    return CallRecord(
        call_id, function.id, function.app_id, function.name, function.live.number, instance, kind, start_kind,
        began_s + wall_s, queue_s, start_s, template_s, fork_s, init_s, handler_s, 0.0,
        status, code, fault, detail, bytes_in, bytes_out, cpu_us / 1e6 if 0 <= cpu_us < CPU_US_MAX else -1.0,
        memory_bytes, caller_text(caller), import_s,
    )  # fmt: skip


def _last_of(split: StartPhases, start_s: float) -> StartPhases:
    """The parts of a start that lie in its last ``start_s``: the call may have come while it was under way."""
    names = _order(split.template_s)
    cut = max(0.0, sum(split) - start_s)
    left = {}
    for name in names:
        length_s = getattr(split, f"{name}_s")
        left[f"{name}_s"] = max(0.0, length_s - cut)
        cut = max(0.0, cut - length_s)
    return StartPhases(**left)


def _order(template_s: float) -> tuple[str, ...]:
    return ("template", "import", "fork", "init") if template_s > 0 else ("fork", "import", "init", "template")


def _failure(error: Any, status: int) -> tuple[str, str, str]:
    if error is None:
        if status == 200:
            return "", "none", ""
        plain: type[StokerError] = errors.HandlerTimeout if status == 504 else errors.FunctionFailed
        return plain.code, plain.fault, ""
    if isinstance(error, StokerError):
        return error.code, error.fault, (error.detail or error.message)[-DETAIL_CHARS_MAX:]
    return LEFT, "caller", str(error)[:DETAIL_CHARS_MAX]


def caller_text(caller: Any) -> str:
    """Who called: a principal's name, or what is known of the other end of the connection."""
    if caller is None or isinstance(caller, str):
        return (caller or "")[:CALLER_CHARS_MAX]
    if (uid := getattr(caller, "uid", None)) is not None:
        return f"uid:{uid}"
    if address := getattr(caller, "address", ""):
        return str(address)[:CALLER_CHARS_MAX]
    return str(getattr(caller, "name", "") or getattr(caller, "id", ""))[:CALLER_CHARS_MAX]


_ALONE = ("queue", "template", "fork", "import", "init", "handler", "write")


def phases(record: CallRecord) -> Iterator[tuple[str, float, float]]:
    """The timeline: name, begin and length of each phase that took time, in seconds since admission."""
    at = 0.0
    waited = max(0.0, record.queue_s - record.start_s)
    split = record.template_s + record.import_s + record.fork_s + record.init_s
    lengths = {
        "queue": waited,
        "template": record.template_s,
        "import": record.import_s,
        "fork": record.fork_s,
        "init": record.init_s + max(0.0, record.start_s - split),
        "handler": record.handler_s,
        "write": record.write_s,
    }
    alone = record.start_kind == "exec"
    for name in _ALONE if alone else PHASES:
        if lengths[name] > 0:
            yield name, at, lengths[name]
            at += lengths[name]


_LEFT_ADVICE = (
    "The caller left before the answer, and its instance was killed: make the client wait longer than the function's "
    "timeout, or call it detached."
)


UNKNOWN = "docs/reference/errors.md says what this error means."


def advice(record: CallRecord, *, timeout_s: float = 0.0, memory_mib: int = 0) -> list[str]:
    """What to do next about this call, most important first; empty if nothing stands out."""
    found = []
    if record.error:
        found.append(_LEFT_ADVICE if record.error == LEFT else CURES.get(record.error, UNKNOWN))
    if not record.error and timeout_s and record.handler_s > 0.8 * timeout_s:
        found.append(
            f"It took {record.handler_s:.1f} s of the {timeout_s:g} s that its timeout allows: the next one may be cut."
        )
    if memory_mib and record.memory_bytes > 0.9 * memory_mib * 2**20 and record.error != "function-out-of-memory":
        found.append(
            f"It held {record.memory_bytes / 2**20:.0f} of {memory_mib} MiB: near its limit. Raise --memory before it "
            "is killed."
        )
    if record.start_s > 0.2 * record.total_s and record.start_s > 0.02:
        found.append(
            f"{_percent(record.start_s, record.total_s)} of the time was the start of an instance "
            f"({record.start_kind}). Provisioned concurrency takes it away: stoker advise APP FN says how much."
        )
    waited = record.queue_s - record.start_s
    if waited > 0.2 * record.total_s and waited > 0.02:
        found.append(
            f"{_percent(waited, record.total_s)} of the time it waited for an instance: all were busy, or the node "
            "had no memory free. stoker ps and stoker stats show which."
        )
    if record.write_s > 1.0 and record.write_s > 0.2 * record.total_s:
        found.append("The client took the answer slowly: its network or its own work held the reply up.")
    return found


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %"


def summary_form(record: CallRecord) -> dict[str, Any]:
    """A record in a list, as clients see it."""
    return {
        "id": record.id,
        "at": rfc3339(record.at),
        "app_id": record.app_id,
        "function_id": record.function_id,
        "function": record.function,
        "version": record.version,
        "instance": record.instance or None,
        "kind": record.kind,
        "start_kind": record.start_kind or None,
        "status": record.status,
        "error": record.error or None,
        "fault": record.fault,
        "detail": record.detail,
        "queue_s": _round(record.queue_s),
        "start_s": _round(record.start_s),
        "handler_s": _round(record.handler_s),
        "write_s": _round(record.write_s),
        "total_s": _round(record.total_s),
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        "cpu_s": _round(record.cpu_s) if record.cpu_s >= 0 else None,
        "memory_bytes": record.memory_bytes if record.memory_bytes > 0 else None,
        "caller": record.caller or None,
    }


def form(record: CallRecord, *, timeout_s: float = 0.0, memory_mib: int = 0) -> dict[str, Any]:
    """One record with its timeline and what to do next."""
    shown = summary_form(record)
    shown["phases"] = [
        {"name": name, "begin_s": _round(begin_s), "length_s": _round(length_s)}
        for name, begin_s, length_s in phases(record)
    ]
    shown["advice"] = advice(record, timeout_s=timeout_s, memory_mib=memory_mib)
    return shown


def rfc3339(at: float) -> str:
    """Unix time as RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _round(seconds: float) -> float:
    return round(seconds, 6)
