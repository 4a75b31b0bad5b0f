"""Debugging: one instance of a function under debugpy, beside its pool, for the calls that ask for it by a header.

A session lasts as long as somebody reads its events (``stoker dev --debug``). Its instance is not the scheduler's: it
takes no other calls, counts for no limit of the pool, and has no timeout, because somebody looks at it while it stands
still. It has the walls of every instance; only its socket for the editor is the host's, on loopback
(`runtime.debugger`). When another version goes live it is replaced, after the call that it may be in.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import trio

from daemon import errors
from daemon.catalog import Catalog
from daemon.config.settings import Config
from daemon.errors import StokerError
from daemon.logs.book import LogBook
from daemon.model import Answer, Function, LaunchPlan
from daemon.sandbox.walls import FUNCTION
from daemon.telemetry.calls import DEBUG, LEFT_STATUS
from daemon.telemetry.recorder import Recorder
from daemon.workers.launcher import Launcher, Worker
from daemon.workers.output import OutputReader

HEADERS = ("stoker-debug", "fn-http-h-stoker-debug")
"""The request header that asks for the debugged instance, and what a trigger makes of it."""
NOT = ("", "0", "false", "no")
"""Values of it that do not."""
SESSIONS_MAX = 4
"""Functions that are debugged at once."""
WAITING_MAX = 16
"""Calls that wait for one debugged instance."""
DEADLINE = "2099-12-31T23:59:59Z"
"""The function's Fn-Deadline: its timeout is suspended."""
EXTRA_MIB = 256
"""Memory of a debugged instance beyond its function's: debugpy needs some."""
LOOK_S = 0.05
"""How often it is looked whether another version is live."""
AGAIN_S = 0.2
"""Pause before an instance that ended is replaced."""
ALIVE_S = 1.0
"""How often a session's reader is told that it goes on; one who is gone is noticed by that."""
UNREAD_S = 30.0
"""A session whose events nobody reads ends."""
EVENTS_MAX = 64
"""Events that wait to be read; more are dropped."""
OUTPUT_GRACE_S = 0.25
IDS_FROM = 2_000_000_000
"""Numbers of these instances: far from those of pools."""

Event = dict[str, Any]


@dataclass(slots=True, eq=False)
class Session:
    """One function that is debugged. Answers its calls that ask for it (`daemon.invoker.Diversion`)."""

    function_id: str
    listener: socket.socket
    recorder: Recorder | None
    events: trio.MemorySendChannel[Event]
    reader: trio.MemoryReceiveChannel[Event]
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    lock: trio.Lock = field(default_factory=trio.Lock)
    seen_s: float = field(default_factory=trio.current_time)
    worker: Worker | None = None
    output: OutputReader | None = None
    instance_id: int = 0
    failure: StokerError | None = None
    """Why there is no instance and will be none before the next version."""
    changed: trio.Event = field(default_factory=trio.Event)

    def wants(self, headers: list[tuple[str, str]]) -> bool:
        """Whether a call asks for the debugged instance."""
        return any(name in HEADERS and value.strip().lower() not in NOT for name, value in headers)

    async def call(
        self, function: Function, *, call_id: str, headers: list[tuple[str, str]], body: bytes, kind: str, caller: Any
    ) -> Answer:
        """Run one call, however long it takes.

        Raises:
          StokerError: the function failed, cannot be imported, or the session ended.
        """
        began_s = began_at_s = trio.current_time()
        error: BaseException | None = None
        answer = None
        try:
            if self.lock.statistics().tasks_waiting >= WAITING_MAX:
                raise errors.QueueFull(detail=f"{WAITING_MAX} calls wait for the debugged instance")
            async with self.lock:
                worker, output = await self._ready()
                began_s = trio.current_time()
                output.begin_call(call_id)
                try:
                    answer = await worker.channel.call(call_id=call_id, deadline=DEADLINE, headers=headers, body=body)
                finally:
                    output.end_call()
                    if not worker.channel.usable:
                        worker.kill()  # in the middle of something; its own task replaces it
            answer.start_kind, answer.handler_s = DEBUG, trio.current_time() - began_s
            return answer
        except BaseException as exc:
            error = exc
            raise
        finally:
            ended_s = trio.current_time()
            status = answer.status if answer else error.status if isinstance(error, StokerError) else LEFT_STATUS
            if self.recorder is not None:
                self.recorder.add((
                    function, call_id, kind, caller, self.instance_id, DEBUG, began_at_s, began_s - began_at_s, 0.0,
                    ended_s - began_s, status, error, len(body), len(answer.body) if answer else 0,
                    answer.cpu_us if answer else -1, -1, None,
                ))  # fmt: skip

    async def _ready(self) -> tuple[Worker, OutputReader]:
        while self.worker is None or self.output is None:
            if self.failure is not None:
                raise self.failure
            await self.changed.wait()
        return self.worker, self.output

    def set(self, worker: Worker | None, output: OutputReader | None, failure: StokerError | None = None) -> None:
        """Say what there is now; whoever waits looks again."""
        self.worker, self.output, self.failure = worker, output, failure
        self.changed.set()
        self.changed = trio.Event()

    def tell(self, event: str, **values: Any) -> None:
        """An event for who reads them."""
        try:
            self.events.send_nowait({"event": event, **values})
        except (trio.WouldBlock, trio.BrokenResourceError):
            pass

    async def read(self) -> AsyncIterator[Event]:
        """The events, until the session ends; `ALIVE_S` without one gives ``alive``. The session ends with the loop."""
        try:
            while True:
                self.seen_s = trio.current_time()
                event: Event = {"event": "alive"}
                with trio.move_on_after(ALIVE_S):
                    try:
                        event = await self.reader.receive()
                    except trio.EndOfChannel:
                        return
                yield event
        finally:
            self.scope.cancel(reason="nobody reads its events any more")


class Debugging:
    """All sessions of a node. `run` must be running."""

    def __init__(
        self, config: Config, catalog: Catalog, launcher: Launcher, log_book: LogBook,
        plan_of: Callable[[Function], LaunchPlan | None], *, recorder: Recorder | None, log: Any,
    ) -> None:  # fmt: skip
        """``plan_of``: the plan that a function's instances are started by at present."""
        self.sessions: dict[str, Session] = {}
        """By function: for `daemon.invoker.Invoker.diverted`."""
        self._refused = (config.auth.mode == "iam" or config.http.insecure) and not config.auth.debugging
        self._catalog = catalog
        self._launcher = launcher
        self._log_book = log_book
        self._plan_of = plan_of
        self._recorder = recorder
        self._log = log
        self._ids = itertools.count(IDS_FROM)
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Own the sessions until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()
        raise AssertionError("unreachable")

    def function(self, function_id: str) -> Function | None:
        """A function by its id."""
        return self._catalog.function(function_id)

    def open(self, function: Function, *, port: int) -> Session:
        """Begin to debug a function; ``port``: for editors, on loopback; 0: any that is free.

        Raises:
          Forbidden: the node does not allow it.
          Conflict: it is not possible now; the message says why, and what to do.
        """
        if self._refused:
            raise errors.Forbidden(
                "debugging is not allowed on this node",
                detail="auth.debugging: true in the daemon's configuration allows it: see docs/how-to/develop.md",
            )
        debugpy = find_debugpy()
        plan = self._plan_of(function)
        if plan is None:
            raise errors.Conflict("the function has no version that can be started", detail="deploy it first")
        if plan.command:
            raise errors.Conflict(
                "only Python handlers can be debugged", detail="this function is a program of its own"
            )
        if function.id in self.sessions:
            raise errors.Conflict("the function is debugged already", detail="end the other 'stoker dev --debug' first")
        if len(self.sessions) >= SESSIONS_MAX:
            raise errors.Conflict(f"{SESSIONS_MAX} functions are debugged already, no more at once")
        send, receive = trio.open_memory_channel[Event](EVENTS_MAX)
        session = Session(function.id, _listener(port), self._recorder, send, receive)
        self.sessions[function.id] = session
        assert self._nursery is not None, "run() comes first"
        self._nursery.start_soon(self._live, session, debugpy)
        return session

    async def _live(self, session: Session, debugpy: str) -> None:
        try:
            with session.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._end_unread, session)
                    await self._serve(session, debugpy)
        except Exception as exc:  # one session's trouble is not the daemon's
            self._log.exception("debugging failed", function=session.function_id)
            session.tell("failed", detail=f"{type(exc).__name__}: {exc}")
        finally:
            del self.sessions[session.function_id]
            session.set(None, None, errors.FunctionCrashed(detail="the debugging session has ended"))
            session.events.close()
            session.listener.close()

    async def _end_unread(self, session: Session) -> NoReturn:
        while True:
            await trio.sleep(ALIVE_S)
            if trio.current_time() - session.seen_s > UNREAD_S:
                session.scope.cancel(reason="nobody reads its events")

    def _plan(self, session: Session) -> LaunchPlan | None:
        function = self._catalog.functions.get(session.function_id)
        return self._plan_of(function) if function is not None else None

    async def _serve(self, session: Session, debugpy: str) -> None:
        """One instance after the other, until the function is gone."""
        host, port = session.listener.getsockname()[:2]
        while (plan := self._plan(session)) is not None:
            remote = FUNCTION if self._launcher.sandbox.has_root else os.path.join(plan.bundle_dir, "function")
            session.tell("starting", host=host, port=port, remote_root=remote, revision=plan.revision)
            failure: StokerError | None = None
            try:
                await self._one(session, plan, debugpy)
            except StokerError as exc:
                failure = exc
            session.set(None, None, failure)
            if failure is not None:
                session.tell("failed", code=failure.code, detail=failure.detail or failure.message)
                await self._other(session, plan)
                session.set(None, None)
            else:
                await trio.sleep(AGAIN_S if self._plan(session) is plan else 0)
        session.tell("ended", detail="the function is gone")

    async def _one(self, session: Session, plan: LaunchPlan, debugpy: str) -> None:
        """One instance, from launch to reaped.

        Raises:
          StokerError: it did not become ready.
        """
        number = session.instance_id = next(self._ids)
        launched = replace(plan, start="exec", memory_mib=plan.memory_mib + EXTRA_MIB, debugger=debugpy)
        failure: StokerError | None = None
        async with self._launcher.launch(
            launched, instance_id=number, on_boot_output=lambda data: None, debug=session.listener
        ) as worker:
            log = self._log_book.open(plan.function_id)
            output = OutputReader(log, instance_id=number, stdout_fd=worker.stdout_fd, stderr_fd=worker.stderr_fd)
            output.watch(worker.channel.answers_fd)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(output.run)
                    nursery.start_soon(self._replace, session, plan, nursery.cancel_scope)
                    try:
                        # No limit of time: the import may stand at a breakpoint.
                        await worker.channel.ready()
                        worker.confirm()
                        session.set(worker, output)
                        session.tell("ready", pid=worker.pid, instance=number)
                        status = await worker.exited()
                        session.tell("exited", detail=str(status))
                        worker.channel.abort(errors.FunctionCrashed(detail=f"the worker ended: {status}"))
                    except StokerError as exc:  # kept out of the nursery, which would wrap it in a group
                        failure = exc
                    with trio.move_on_after(OUTPUT_GRACE_S):
                        await output.finished()
                    nursery.cancel_scope.cancel()
            finally:
                session.set(None, None)
                output.close()
        if failure is not None:
            raise failure

    async def _replace(self, session: Session, plan: LaunchPlan, scope: trio.CancelScope) -> None:
        """Give it up when another version is live and no call runs on this one."""
        await self._other(session, plan)
        async with session.lock:
            session.set(None, None)
            scope.cancel(reason="another version is live")

    async def _other(self, session: Session, plan: LaunchPlan) -> None:
        """Wait until another version is live, or none."""
        # Versions go live in many ways, and this is nobody's path: it is looked for.
        while self._plan(session) is plan:  # noqa: ASYNC110
            await trio.sleep(LOOK_S)


def find_debugpy() -> str:
    """The directory of debugpy in the daemon's environment.

    Raises:
      Conflict: it is not installed.
    """
    spec = importlib.util.find_spec("debugpy")
    if spec is None or spec.origin is None:
        raise errors.Conflict(
            "debugpy is not installed where the daemon runs",
            detail=f"it is optional. To install it: {sys.executable} -m pip install 'debugpy>=1.8,<2'",
        )
    return os.path.dirname(os.path.realpath(spec.origin))


def _listener(port: int) -> socket.socket:
    sock = socket.socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        sock.listen(1)
    except OSError as exc:
        sock.close()
        raise errors.Conflict(
            f"cannot listen on 127.0.0.1:{port} for the editor: {exc.strerror}", detail="take another --debug-port"
        ) from exc
    return sock
