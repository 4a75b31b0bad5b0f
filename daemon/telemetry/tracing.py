"""Spans of calls, sent to Zipkin or an OpenTelemetry collector; nothing at all unless ``tracing.endpoint`` is set.

A traced call costs its path the making of three ids and five headers (`Tracer.begin`). Its spans are made from its call
record, off the path, and sent in the background in batches. The queue of spans is bounded: what does not fit, or what
the collector does not take in so many attempts, is dropped and counted. A function that is not traced costs nothing.
"""

from __future__ import annotations

import json
import os
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import trio

from daemon import VERSION
from daemon.catalog import Catalog
from daemon.config.detached import Tracing
from daemon.core.detached import backoff_s
from daemon.core.detached_settings import is_traced
from daemon.core.tracing import Context, Headers, Span, otlp, parent_of, with_trace, zipkin
from daemon.model import App, Function
from daemon.posts import PostFailed, post
from daemon.telemetry.calls import CallRecord, phases

CONTEXTS_MAX = 65_536
"""Most calls whose trace is remembered until their record comes; more run at once only when records are lost."""
BACKOFF_S, BACKOFF_S_MAX = 0.5, 10.0
"""Pauses between attempts to send a batch."""
LAST_SEND_S = 2.0
"""Longest wait for the collector when the daemon stops."""


VARIABLES = ("OCI_TRACING_ENABLED", "OCI_TRACE_COLLECTOR_URL")


class Tracer:
    """All tracing of the node. Only made when there is an endpoint."""

    def __init__(
        self, settings: Tracing, catalog: Catalog, *, chance: Callable[[], float] = random.random, log: Any
    ) -> None:
        self.sent = 0
        self.dropped = 0
        """Spans that were not sent: too many, or the collector did not take them."""
        self._settings = settings
        self._catalog = catalog
        self._chance = chance
        self._log = log
        self._contexts: OrderedDict[str, deque[Context]] = OrderedDict()
        self._spans: deque[Span] = deque()
        self._wake = trio.Event()
        self._told = False
        self._headers = [("Content-Type", "application/json")]
        for header in settings.headers:
            name, _, value = header.partition(":")
            self._headers.append((name, value.strip()))

    def wants(self, app: App, function: Function) -> bool:
        """Whether calls of the function are traced."""
        return is_wanted(self._settings, app, function)

    def begin(self, call_id: str, headers: Headers) -> list[tuple[str, str]]:
        """A call of a traced function begins: the headers that the function gets."""
        parent = parent_of(headers)
        ids = os.urandom(32).hex()
        sampled = parent.sampled if parent is not None else None
        context = Context(
            trace_id=parent.trace_id if parent is not None else ids[:32],
            parent_id=parent.span_id if parent is not None else "",
            span_id=ids[32:48],
            handler_id=ids[48:],
            # POLICY: the caller decides whether its trace is kept; only traces begun here are sampled.
            sampled=self._chance() < self._settings.sample_fraction if sampled is None else sampled,
        )
        known = self._contexts.get(call_id)
        if known is None:
            if len(self._contexts) >= CONTEXTS_MAX:
                self._contexts.popitem(last=False)
            known = self._contexts[call_id] = deque()
        known.append(context)  # a detached call may run again before the record of its first attempt is here
        return with_trace(headers, context)

    def traceparent(self, call_id: str) -> str:
        """The trace of a call that is not recorded yet, for what follows from it; empty: none is known."""
        known = self._contexts.get(call_id)
        return known[-1].traceparent if known else ""

    def observe(self, records: Sequence[CallRecord]) -> None:
        """Calls have ended: make their spans. Subscribed to the recorder."""
        for record in records:
            known = self._contexts.get(record.id)
            if not known:
                continue
            context = known.popleft()
            if not known:
                del self._contexts[record.id]
            if context.sampled:
                app = self._catalog.app(record.app_id)
                self._add(spans_of(record, context, app_name=app.name if app else record.app_id))

    async def samples(self) -> list[tuple[str, tuple[str, ...], float]]:
        """For Prometheus."""
        return [("stoker_spans_total", ("sent",), self.sent), ("stoker_spans_total", ("dropped",), self.dropped)]

    def _add(self, spans: Sequence[Span]) -> None:
        room = self._settings.queue_max - len(self._spans)
        self._spans.extend(spans[:room])
        self.dropped += max(0, len(spans) - room)
        if len(self._spans) >= self._settings.batch_max:
            self._wake.set()

    async def run(self, *, task_status: trio.TaskStatus[Tracer] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Send spans until cancelled, then what is left, within a limit."""
        task_status.started(self)
        try:
            while True:
                if len(self._spans) < self._settings.batch_max:
                    self._wake = trio.Event()
                    with trio.move_on_after(self._settings.interval_s):
                        await self._wake.wait()
                if self._spans:
                    await self._send_batch()
        finally:
            with trio.move_on_after(LAST_SEND_S, shield=True):
                while self._spans:
                    await self._send_batch(attempts=1)
        raise AssertionError("unreachable")

    async def _send_batch(self, attempts: int | None = None) -> None:
        batch = [self._spans.popleft() for _ in range(min(len(self._spans), self._settings.batch_max))]
        form: Any = otlp(batch, version=VERSION) if self._settings.is_otlp else zipkin(batch)
        body = json.dumps(form, ensure_ascii=False, separators=(",", ":")).encode()
        why = ""
        for attempt in range(1, (attempts or self._settings.attempts) + 1):
            if attempt > 1:
                await trio.sleep(
                    backoff_s(attempt - 1, first_s=BACKOFF_S, longest_s=BACKOFF_S_MAX, jitter=self._chance())
                )
            try:
                status = await post(
                    self._settings.endpoint, headers=self._headers, body=body, timeout_s=self._settings.timeout_s
                )
            except PostFailed as exc:
                why = str(exc)
                continue
            if 200 <= status < 300:
                self.sent += len(batch)
                self._told = False
                return
            why = f"status {status}"
            if 400 <= status < 500 and status not in (408, 429):
                break  # the same spans will not be taken later either
        self.dropped += len(batch)
        if not self._told:  # once, not every second
            self._told = True
            self._log.warning("cannot send spans", endpoint=self._settings.endpoint, error=why, dropped=self.dropped)


def is_wanted(settings: Tracing, app: App, function: Function) -> bool:
    """Whether calls of the function are traced: there is an endpoint, and both app and function say so, or all are."""
    if not settings.endpoint:
        return False
    return settings.functions == "all" or (is_traced(app.annotations) and is_traced(function.annotations))


def environment(settings: Tracing, app: App, function: Function) -> dict[str, str]:
    """What a worker is told about tracing, as OCI does it (reference oci-api 2.7)."""
    if not is_wanted(settings, app, function):
        return {"OCI_TRACING_ENABLED": "0"}
    told = {"OCI_TRACE_COLLECTOR_URL": settings.told_url} if settings.told_url else {}
    return {"OCI_TRACING_ENABLED": "1", **told}


def spans_of(record: CallRecord, context: Context, *, app_name: str) -> list[Span]:
    """The spans of one call: the whole, and its phases."""
    service = f"{app_name}::{record.function}".lower()  # the name under which the FDK reports the function's own spans
    attributes: dict[str, Any] = {
        "faas.name": f"{app_name}/{record.function}",
        "faas.version": str(record.version),
        "faas.invocation_id": record.id,
        "faas.trigger": "http" if record.kind == "trigger" else "other",
        "faas.coldstart": record.start_kind not in ("reuse", ""),
        "stoker.kind": record.kind,
        "stoker.start": record.start_kind,
        "stoker.status": record.status,
        "stoker.request_bytes": record.bytes_in,
        "stoker.response_bytes": record.bytes_out,
    }
    if record.error:
        attributes |= {"error.type": record.error, "stoker.fault": record.fault}
    whole = Span(
        trace_id=context.trace_id,
        span_id=context.span_id,
        parent_id=context.parent_id,
        name=record.function,
        service=service,
        begin_s=record.at,
        length_s=record.total_s,
        server=True,
        error=record.error,
        attributes=attributes,
    )
    made = [whole]
    for name, begin_s, length_s in phases(record):
        made.append(
            Span(
                trace_id=context.trace_id,
                span_id=context.handler_id if name == "handler" else os.urandom(8).hex(),
                parent_id=context.span_id,
                name=name,
                service=service,
                begin_s=record.at + begin_s,
                length_s=length_s,
                error=record.error if name == "handler" and record.fault == "function" else "",
            )
        )
    return made
