"""The OCI API's own service: changes of functions that answer before they are done, and their work requests."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, NoReturn

import trio

from daemon.catalog import Catalog
from daemon.errors import Conflict as AnyConflict
from daemon.errors import DeployFailed, IncorrectState, InternalError, NameTaken, NotFound, QueueFull, StokerError
from daemon.model import Function, Ids
from daemon.oci.prebuilt import Prebuilt
from daemon.oci.runtimes import Runtimes
from daemon.oci.sources import Resolved, Source, Sources
from daemon.registry import FunctionChange, Registry
from daemon.store import records
from daemon.store.database import Database
from daemon.store.work_records import (
    Entry,
    WorkRequest,
    put_work_request,
    sweep_work_requests,
    work_request,
    work_requests,
)

STORE_S = 5.0
"""Longest wait for the store while an interrupted operation is recorded."""


class Oci:
    """One object per daemon. `run` must be running for what is asynchronous."""

    def __init__(
        self,
        registry: Registry,
        database: Database,
        sources: Sources,
        runtimes: Runtimes,
        prebuilt: Prebuilt,
        *,
        ids: Ids,
        operations_max: int,
        work_requests_max: int,
        config_bytes_max: int,
        archive_bytes_max: int,
        log: Any,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.registry = registry
        self.runtimes = runtimes
        self.prebuilt = prebuilt
        self.config_bytes_max = config_bytes_max
        self.archive_bytes_max = archive_bytes_max
        self._database = database
        self._sources = sources
        self._ids = ids
        self._operations_max = operations_max
        self._work_requests_max = work_requests_max
        self._log = log
        self._now_ms = now_ms
        self._updating: dict[str, int] = {}
        self._operations = 0
        self._nursery: trio.Nursery | None = None

    @property
    def catalog(self) -> Catalog:
        """What exists."""
        return self.registry.catalog

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Own the operations that nobody waits for, until cancelled."""
        now_ms = self._now_ms()
        await self._database.write(lambda conn: sweep_work_requests(conn, now_ms=now_ms))
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()
        raise AssertionError("unreachable")

    def state_of(self, function: Function) -> str:
        """OCI's lifecycle state."""
        if function.id in self._updating:
            return "UPDATING"
        return function.state.upper()

    def check_settled(self, function: Function) -> None:
        """Raise IncorrectState while the function is being created or changed."""
        if (state := self.state_of(function)) in ("CREATING", "UPDATING"):
            raise IncorrectState(f"function {function.name} is {state}: try again when that is done")

    async def create_function(self, change: FunctionChange, source: Source, *, wait: bool) -> tuple[Function, str]:
        """A new function, and the id of its work request. ``wait``: it is ready, and there is no work request.

        Raises:
          StokerError: it cannot be made. With ``wait`` this includes that it does not become ready.
        """
        self.registry.app(change.app_id)
        resolved = await self._sources.resolve(change, source, None)
        try:
            if wait:
                if resolved.failure is not None:
                    raise resolved.failure
                return await self.registry.create_function(resolved.change), ""
            self._check_room()
            function = await self.registry.begin_function(resolved.change)
        except AnyConflict as exc:
            if exc.message == records.FUNCTION_EXISTS:
                raise NameTaken(f"a function named {change.name!r} exists already in this application") from None
            raise
        work = await self._begin("CREATE_FUNCTION", "function", function.id, "deploying the function")

        async def finish() -> None:
            await self.registry.finish_function(function.id, resolved.failure)

        self._start(finish, work)
        return function, work.id

    async def update_function(
        self, function_id: str, change: FunctionChange, source: Source | None, *, wait: bool
    ) -> tuple[Function, str]:
        """The function, and the id of the work request of its change. ``wait``: it is done, and there is none.

        Raises:
          StokerError: it cannot be changed so.
        """
        function = self.registry.function(function_id)
        self.check_settled(function)
        resolved = await self._sources.resolve(change, source, function)
        if wait:
            if resolved.failure is not None:
                raise resolved.failure
            return await self.registry.update_function(function_id, resolved.change), ""
        _, deploys = await self.registry.preview_update(function_id, resolved.change)
        if not deploys and resolved.failure is None:
            function = await self.registry.update_function(function_id, resolved.change)
            return function, await self.done("UPDATE_FUNCTION", "function", function_id)
        self.check_settled(self.registry.function(function_id))
        self._check_room()
        self._updating[function_id] = 1
        try:
            work = await self._begin("UPDATE_FUNCTION", "function", function_id, "deploying a new version")
        except BaseException:
            del self._updating[function_id]
            raise
        self._start(self._update(function_id, resolved), work)
        return function, work.id

    def _update(self, function_id: str, resolved: Resolved) -> Callable[[], Awaitable[None]]:
        async def update() -> None:
            try:
                if resolved.failure is not None:
                    raise DeployFailed(
                        f"cannot deploy: {resolved.failure.message}", detail=resolved.failure.detail
                    ) from resolved.failure
                # If-match was judged when the request was accepted; nothing else could change it since.
                await self.registry.update_function(function_id, replace(resolved.change, expect=None))
            finally:
                del self._updating[function_id]

        return update

    def _check_room(self) -> None:
        if self._operations >= self._operations_max:
            raise QueueFull(
                f"{self._operations} of {self._operations_max} creations and updates of functions are under way"
                " (oci.operations_max)"
            )

    # Work requests

    async def done(self, operation: str, resource_type: str, resource_id: str, compartment_id: str = "") -> str:
        """The id of a work request for what is done already."""
        now_ms = self._now_ms()
        work = WorkRequest(
            id=self._ids.new(),
            operation=operation,
            status="SUCCEEDED",
            compartment_id=compartment_id or self._compartment_of(resource_type, resource_id),
            resource_type=resource_type,
            resource_id=resource_id,
            logs=(Entry(at=now_ms, message="done"),),
            accepted_at=now_ms,
            started_at=now_ms,
            finished_at=now_ms,
        )
        await self._put(work)
        return work.id

    async def work_request(self, id_: str) -> WorkRequest:
        """One work request.

        Raises:
          NotFound: there is none with this id.
        """
        found = await self._database.read(lambda conn: work_request(conn, id_))
        if found is None:
            raise NotFound("work request not found")
        return found

    async def work_requests(self) -> list[WorkRequest]:
        """All that are kept, oldest first."""
        return await self._database.read(work_requests)

    async def _begin(self, operation: str, resource_type: str, resource_id: str, text: str) -> WorkRequest:
        now_ms = self._now_ms()
        work = WorkRequest(
            id=self._ids.new(),
            operation=operation,
            status="IN_PROGRESS",
            compartment_id=self._compartment_of(resource_type, resource_id),
            resource_type=resource_type,
            resource_id=resource_id,
            logs=(Entry(at=now_ms, message=text),),
            accepted_at=now_ms,
            started_at=now_ms,
        )
        await self._put(work)
        return work

    def _start(self, operation: Callable[[], Awaitable[None]], work: WorkRequest) -> None:
        assert self._nursery is not None, "run() comes first"
        self._operations += 1
        self._nursery.start_soon(self._carry_out, operation, work)

    async def _carry_out(self, operation: Callable[[], Awaitable[None]], work: WorkRequest) -> None:
        """Run it to its end and write down what came of it; nothing that it raises stops the daemon."""
        error: StokerError | None = InternalError(detail="the daemon stopped during the operation")
        try:
            await operation()
            error = None
        except StokerError as exc:
            error = exc
        except Exception:
            self._log.exception("operation failed", work_request=work.id, operation=work.operation)
            error = InternalError(detail="the daemon's log has the traceback")
        finally:
            self._operations -= 1
            now_ms = self._now_ms()
            text = "done" if error is None else f"failed: {error.message}"
            errors = () if error is None else (Entry(at=now_ms, message=str(error), code=error.oci_code),)
            ended = replace(
                work,
                status="SUCCEEDED" if error is None else "FAILED",
                logs=(*work.logs, Entry(at=now_ms, message=text)),
                errors=errors,
                finished_at=now_ms,
            )
            with trio.move_on_after(STORE_S, shield=True):
                await self._put(ended)

    async def _put(self, work: WorkRequest) -> None:
        kept = self._work_requests_max
        await self._database.write(lambda conn: put_work_request(conn, work, kept=kept))

    def _compartment_of(self, resource_type: str, resource_id: str) -> str:
        catalog = self.catalog
        if resource_type == "function":
            function = catalog.function(resource_id)
            resource_id = function.app_id if function else ""
        app = catalog.app(resource_id)
        return catalog.compartment_of(app) if app else catalog.tenancy_id
