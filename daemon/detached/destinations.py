"""Delivers the records of finished detached calls: to functions, HTTP endpoints, local streams and queues.

A delivery is stored in the same transaction as the end of its call, and forgotten when it has arrived or was given up:
at least once, with the same id each time. What fails is tried again with growing pauses, within bounds; what is given
up is logged, also in the function's log, and counted.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from pathlib import Path
from typing import Any, NoReturn, Protocol
from urllib.parse import urlsplit

import trio

from daemon import ocid
from daemon.auth.identity import Identity
from daemon.auth.permissions import INVOKE
from daemon.catalog import Catalog
from daemon.config.detached import Destinations
from daemon.config.settings import Config
from daemon.core.detached import Call, backoff_s
from daemon.core.detached_settings import MEMBERS, Destination, DetachedSettings
from daemon.core.invocation_record import CONTENT_TYPE, encode, invocation_record
from daemon.detached import webhooks
from daemon.detached.queues import LocalFull, LocalQueues
from daemon.errors import StokerError
from daemon.logs.book import LogBook
from daemon.model import Answer, Function, Ids
from daemon.posts import PostFailed, PostRefused, post
from daemon.store import detached_records as records
from daemon.store.database import Database
from daemon.store.detached_records import Delivery, Headers

CHAIN_HEADER = "stoker-chain"
"""How many destinations a call has come through; functions cannot feed each other for ever."""
CHAIN_MAX = 8
STORE_AGAIN_S = 1.0
LAST_WRITE_S = 5.0
CHANGES_MAX = 1024
"""Most ended deliveries that may wait to be stored; until then no further ones are started."""


class Accepts(Protocol):
    """What is needed of `daemon.detached.service.Detached`."""

    async def __call__(
        self, function_id: str, *, call_id: str, headers: Headers, body: bytes, caller: Any = None
    ) -> None: ...


class DeliveryFailed(Exception):
    """The text says why. ``final``: trying again changes nothing."""

    def __init__(self, why: str, *, final: bool = False) -> None:
        super().__init__(why)
        self.final = final


class Outbox:
    """All deliveries of the node. ``accept`` is set by the composition root."""

    def __init__(
        self,
        database: Database,
        catalog: Catalog,
        local: LocalQueues,
        *,
        settings: Destinations,
        key: bytes,
        ids: Ids,
        log_book: LogBook,
        jitter: Callable[[], float] = random.random,
        log: Any,
    ) -> None:
        """``key``: of `daemon.detached.webhooks`."""
        self.settings = settings
        self.counts: Counter[tuple[str, str, str, str]] = Counter()
        """By function id, outcome (success, failure), kind, and ``delivered``, ``failed`` or ``dropped``."""
        self.accept: Accepts | None = None
        self.may_call: Callable[[str, str], bool] = lambda source_id, target_id: True
        """Whether a function may call another one; in ``auth.mode: iam`` policies say so (`may_call_of`)."""
        self.outward = False
        """Whether HTTP destinations on this machine are refused, but for those of ``destinations.hosts``."""
        self._database = database
        self._catalog = catalog
        self._local = local
        self._key = key
        self._ids = ids
        self._log_book = log_book
        self._jitter = jitter
        self._log = log
        self._routes = _routes(settings.routes)
        self._trusted = {to.target for targets in self._routes.values() for to in targets if to.kind == "HTTP"}
        self._waiting: list[tuple[float, int, Delivery]] = []
        self._order = 0
        self._running: Counter[str] = Counter()
        self._over: list[str] = []
        self._later: list[tuple[str, int, int]] = []
        self._wake = trio.Event()

    @property
    def pending(self) -> int:
        """Deliveries that wait or are under way."""
        return len(self._waiting) + self._running.total()

    def secret(self, function_id: str) -> str:
        """What a receiver of a function's records checks signatures with."""
        return webhooks.secret(self._key, function_id)

    def forget(self, function_id: str) -> None:
        """The function was deleted, and its deliveries with it in the same transaction."""
        for key in [key for key in self.counts if key[0] == function_id]:
            del self.counts[key]

    def prepare(
        self, function: Function, settings: DetachedSettings, call: Call, *, headers: Headers, body: bytes,
        answer: Answer | None, error: StokerError | None, began_at: int,
    ) -> list[Delivery]:  # fmt: skip
        """The deliveries of a call that is over, to be stored with its end."""
        destination = settings.on_success if error is None else settings.on_failure
        app = self._catalog.app(function.app_id)
        if destination is None or app is None:
            return []
        outcome, now_ms = "success" if error is None else "failure", time.time_ns() // 1_000_000
        record = encode(
            invocation_record(
                app, function, call_id=call.id, attempts=call.attempts + (error is None), accepted_at=call.accepted_at,
                began_at=began_at, ended_at=now_ms, headers=headers, body=body, answer=answer, error=error,
                payload_bytes_max=self.settings.payload_bytes_max,
            )
        )  # fmt: skip
        made: list[Delivery] = []
        for number, target in enumerate(self._targets(destination)):
            delivery = Delivery(
                id=f"{call.id}.{outcome}" + (f".{number}" if number else ""), function_id=function.id,
                call_id=call.id, outcome=outcome,
                destination=json.dumps({**target.form(), "depth": _depth(headers)}), record=record, attempts=0,
                due_at=now_ms, created_at=now_ms,
            )  # fmt: skip
            if self.pending + len(made) >= self.settings.pending_max:
                self._give_up(delivery, target.kind, f"{self.settings.pending_max} deliveries wait already", "dropped")
            else:
                made.append(delivery)
        return made

    def add(self, deliveries: Sequence[Delivery]) -> None:
        """They are stored."""
        now_ms, now_s = time.time_ns() // 1_000_000, trio.current_time()
        for delivery in deliveries:
            due_s = now_s + min(max(0, delivery.due_at - now_ms) / 1000, self.settings.backoff_s_max)
            self._push(delivery, due_s)

    async def run(self, *, task_status: trio.TaskStatus[Outbox] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Deliver until cancelled; what is under way then is delivered again by the next daemon."""
        self.add(await self._database.read(records.deliveries))
        try:
            async with trio.open_nursery() as nursery:
                task_status.started(self)
                while True:
                    self._wake = trio.Event()
                    await self._store()
                    due_s = self._start(nursery)
                    with trio.move_on_at(max(due_s, trio.current_time() + 0.001)):
                        await self._wake.wait()
        finally:
            with trio.move_on_after(LAST_WRITE_S, shield=True):
                await self._store()
        raise AssertionError("unreachable")

    def _start(self, nursery: trio.Nursery) -> float:
        """Start what is due and has room; when to look again."""
        now_s, at_once = trio.current_time(), self.settings.at_once
        each, passed = max(1, at_once // 4), []
        while (
            self._waiting
            and self._waiting[0][0] <= now_s
            and self._running.total() < at_once
            and len(self._over) < CHANGES_MAX
        ):
            entry = heappop(self._waiting)
            where = _where(entry[2])
            if self._running[where] >= each:
                passed.append(entry)
                continue
            self._running[where] += 1
            nursery.start_soon(self._attempt, entry[2], where)
        for entry in passed:
            heappush(self._waiting, entry)
        if passed or self._running.total() >= at_once or not self._waiting:
            return float("inf")  # an end wakes us
        return self._waiting[0][0]

    async def _attempt(self, delivery: Delivery, where: str) -> None:
        destination = json.loads(delivery.destination)
        kind, failure = destination["kind"], None
        try:
            if delivery.function_id not in self._catalog.functions:
                return  # deleted, and its deliveries with it
            await self._deliver(kind, destination, delivery)
        except DeliveryFailed as exc:
            failure = exc
        except Exception as exc:  # a bug of ours ends this delivery, not the daemon
            self._log.exception("delivery failed", delivery=delivery.id)
            failure = DeliveryFailed(f"{type(exc).__name__}: {exc}")
        finally:
            self._running[where] -= 1
            if not self._running[where]:
                del self._running[where]
            self._wake.set()
        self._ended(delivery, kind, failure)

    def _ended(self, delivery: Delivery, kind: str, failure: DeliveryFailed | None) -> None:
        if failure is None:
            self.counts[delivery.function_id, delivery.outcome, kind, "delivered"] += 1
            self._over.append(delivery.id)
            return
        attempts = delivery.attempts + 1
        if failure.final or attempts >= self.settings.attempts:
            self._over.append(delivery.id)
            self._give_up(delivery, kind, f"{failure} (attempt {attempts})", "failed")
            return
        pause_s = backoff_s(
            attempts, first_s=self.settings.backoff_s, longest_s=self.settings.backoff_s_max, jitter=self._jitter()
        )
        due_at = time.time_ns() // 1_000_000 + int(pause_s * 1000)
        self._later.append((delivery.id, attempts, due_at))
        again = Delivery(
            id=delivery.id, function_id=delivery.function_id, call_id=delivery.call_id, outcome=delivery.outcome,
            destination=delivery.destination, record=delivery.record, attempts=attempts, due_at=due_at,
            created_at=delivery.created_at,
        )  # fmt: skip
        self._push(again, trio.current_time() + pause_s)

    def _give_up(self, delivery: Delivery, kind: str, why: str, status: str) -> None:
        self.counts[delivery.function_id, delivery.outcome, kind, status] += 1
        # The words that OCI's invoke log has (reference oci-api 2.6).
        text = f"Invocation record delivery to {delivery.outcome} destination failed due to - {why}"
        self._log.warning(text, call=delivery.call_id, function=delivery.function_id, kind=kind)
        if delivery.function_id in self._catalog.functions:
            self._log_book.open(delivery.function_id).platform(text, call_id=delivery.call_id)

    async def _deliver(self, kind: str, destination: dict[str, Any], delivery: Delivery) -> None:
        target = destination[MEMBERS[kind]]
        match kind:
            case "HTTP":
                await self._post(target, delivery)
            case "FUNCTION":
                await self._call(target, destination.get("depth", 0), delivery)
            case "QUEUE":
                channel = destination.get("channelId", "")
                await self._on_disk(lambda: self._local.put(target, channel, delivery.id, delivery.record))
            case _:
                stream = f"topic-{target}" if kind == "NOTIFICATION" else target
                await self._on_disk(lambda: self._local.append(stream, delivery.record))

    async def _on_disk(self, act: Callable[[], None]) -> None:
        try:
            await trio.to_thread.run_sync(act)
        except (OSError, LocalFull) as exc:
            raise DeliveryFailed(str(exc)) from exc

    async def _post(self, url: str, delivery: Delivery) -> None:
        host = urlsplit(url).netloc
        if self.settings.hosts and host not in self.settings.hosts:
            raise DeliveryFailed(f"{host} is not one of destinations.hosts", final=True)
        body = delivery.record.encode()
        signed = webhooks.headers(
            self._key, delivery.function_id, message_id=delivery.id, at_s=int(time.time()), body=body
        )
        headers = [("Content-Type", CONTENT_TYPE), *signed, *_trace(delivery.record)]
        try:
            status = await post(
                url, headers=headers, body=body, timeout_s=self.settings.timeout_s,
                outward=self.outward and host not in self.settings.hosts and url not in self._trusted,
            )  # fmt: skip
        except PostFailed as exc:
            raise DeliveryFailed(f"{url}: {exc}", final=isinstance(exc, PostRefused)) from exc
        if not 200 <= status < 300:
            # POLICY: 410 says that nobody wants it any more (Standard Webhooks); everything else may pass.
            raise DeliveryFailed(f"{url} answered status {status}", final=status == 410)

    async def _call(self, name: str, depth: int, delivery: Delivery) -> None:
        function_id = self._function(name)
        if function_id is None:
            raise DeliveryFailed(f"there is no function {name}", final=True)
        if not self.may_call(delivery.function_id, function_id):
            why = "no policy lets a dynamic group of this function use fn-invocation there"
            raise DeliveryFailed(f"function {name}: {why}", final=True)
        if depth >= CHAIN_MAX:
            raise DeliveryFailed(f"the call came through {depth} destinations; {CHAIN_MAX} are allowed", final=True)
        assert self.accept is not None, "set by the composition root"
        body, call_id = delivery.record.encode(), self._ids.new()
        headers = [
            ("host", "localhost"), ("transfer-encoding", "chunked"), ("content-type", CONTENT_TYPE),
            ("fn-invoke-type", "detached"), ("fn-intent", "cloudevent"), ("fn-call-id", call_id),
            (CHAIN_HEADER, str(depth + 1)), *_trace(delivery.record),
        ]  # fmt: skip
        try:
            await self.accept(
                function_id, call_id=call_id, headers=headers, body=body, caller=self._name(delivery.function_id)
            )
        except StokerError as exc:
            raise DeliveryFailed(f"function {name}: {exc}") from exc

    def _name(self, function_id: str) -> str:
        """As the audit log and records name a function that calls."""
        function = self._catalog.function(function_id)
        app = self._catalog.app(function.app_id) if function else None
        return f"{app.name}/{function.name}" if app and function else ""

    def _function(self, name: str) -> str | None:
        app_name, slash, function_name = name.partition("/")
        if slash:
            app = self._catalog.app_named(app_name)
            found = self._catalog.functions_of(app.id) if app else []
            return next((f.id for f in found if f.name == function_name), None)
        function_id = ocid.id_of(name, ocid.FUNCTION) or name
        return function_id if function_id in self._catalog.functions else None

    def _targets(self, destination: Destination) -> list[Destination]:
        if destination.kind in ("HTTP", "FUNCTION"):
            return [destination]
        return self._routes.get(destination.target, [destination])

    def _push(self, delivery: Delivery, due_s: float) -> None:
        self._order += 1
        heappush(self._waiting, (due_s, self._order, delivery))
        self._wake.set()

    async def _store(self) -> None:
        if not self._over and not self._later:
            return
        over, later = self._over, self._later
        self._over, self._later = [], []
        try:
            with trio.CancelScope(shield=True):
                await self._database.write(lambda conn: records.finish_deliveries(conn, over, later))
        except StokerError as exc:
            self._over, self._later = over + self._over, later + self._later
            self._log.error("cannot store what became of deliveries", error=str(exc))
            await trio.sleep(STORE_AGAIN_S)
            self._wake.set()


def may_call_of(identity: Identity) -> Callable[[str, str], bool]:
    """A function calls its destination as itself: what its dynamic groups may, it may."""

    def may_call(source_id: str, target_id: str) -> bool:
        principal = identity.function_principal(ocid.function_ocid(source_id))
        if principal is None:
            return False
        return identity.may(principal, INVOKE, identity.target_of(principal, INVOKE, function_id=target_id))

    return may_call


async def make_outbox(
    config: Config, database: Database, catalog: Catalog, ids: Ids, log_book: LogBook, *, log: Any
) -> Outbox:
    """The outbox of a node, its key and directories where the configuration says."""
    settings = config.destinations
    directory = Path(settings.directory) if settings.directory else config.data / "destinations"
    key = await trio.to_thread.run_sync(webhooks.load_key, config.data)
    return Outbox(
        database, catalog, LocalQueues(directory, settings), settings=settings, key=key, ids=ids, log_book=log_book,
        log=log,
    )  # fmt: skip


def _routes(routes: Sequence[str]) -> dict[str, list[Destination]]:
    """The settings' routes: name -> where it goes."""
    found: dict[str, list[Destination]] = {}
    for route in routes:
        name, _, where = route.partition("=")
        scheme, _, rest = where.partition(":")
        kind = {"stream": "STREAM", "queue": "QUEUE", "function": "FUNCTION"}.get(scheme, "HTTP")
        found.setdefault(name, []).append(Destination(kind=kind, target=where if kind == "HTTP" else rest))
    return found


def _where(delivery: Delivery) -> str:
    form = json.loads(delivery.destination)
    return f"{form['kind']}:{form[MEMBERS[form['kind']]]}"


def _depth(headers: Headers) -> int:
    text = next((value for name, value in headers if name == CHAIN_HEADER), "0")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 4 else 0


def _trace(record: str) -> Headers:
    trace = json.loads(record).get("traceparent")
    return [("traceparent", trace)] if isinstance(trace, str) else []
