"""Functions and their versions: create, change, delete, list, roll back."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from daemon.core.policy import check_pcu
from daemon.errors import BadRequest, Conflict, DeployFailed, NotFound, StokerError
from daemon.model import (
    IDLE_TIMEOUT_S_DEFAULT,
    MEMORY_MIB_DEFAULT,
    TIMEOUT_S_DEFAULT,
    App,
    Function,
    Version,
)
from daemon.registry import rules
from daemon.registry.apps import Apps
from daemon.registry.changes import FunctionChange, Page, given
from daemon.store import records


class Functions(Apps):
    """The registry's part for functions."""

    def function(self, function_id: str) -> Function:
        """One function.

        Raises:
          NotFound: there is none with this id.
        """
        function = self._catalog.function(function_id)
        if function is None:
            raise NotFound(records.FUNCTION_NOT_FOUND)
        return function

    async def functions(self, app_id: str, *, name: str = "", cursor: str = "", limit: int = 30) -> Page[Function]:
        """A page of an app's functions by name, or the one with a name. An unknown app has none.

        Raises:
          BadRequest: no app id; bad cursor.
        """
        if not app_id:
            raise BadRequest("Missing AppID on Fn")
        (after,) = rules.parse_cursor(cursor, 1)
        found = await self._database.read(
            lambda conn: records.functions(conn, app_id=app_id, name=name, after=after, limit=limit)
        )
        return Page(found, rules.cursor_of(found[-1].name) if len(found) == limit else "")

    async def create_function(self, change: FunctionChange) -> Function:
        """Deploy a new function. When this returns it answers calls (if its bundle is here).

        A function whose first deploys all failed is no obstacle: the new one takes its place.

        Raises:
          BadRequest, NotFound, Conflict, InvalidFunction, TooLargeForNode: a rule is broken; no such app; the name is
            taken; required config is missing; the node is too small. Nothing is stored then.
          DeployFailed: the canary did not become ready. The function is stored as ``failed``, with its first version,
            so that its log and the reason can be looked at.
        """
        new = self._new_function(change)
        async with self._one_at_a_time(new.app_id, new.name):
            app, new = self._admitted(new, instead=await self._failed_one(new))
            with self._promise(new, None):
                new = await self._resolved(app, new, anew=not change.digest)
                try:
                    return await self._deploys.deploy(app, new, None)
                except DeployFailed as exc:
                    await self._keep_failed(new, exc)
                    raise
                except StokerError:  # without a function the row says nothing to anybody
                    await self._database.write(lambda conn: records.forget_versions(conn, new.id))
                    raise

    async def _failed_one(self, new: Function) -> Function | None:
        """The function of this name that never was ready; ``live`` is the last version that was tried."""
        functions = self._catalog.functions_of(new.app_id)
        failed = next((f for f in functions if f.name == new.name and f.state == "failed"), None)
        if failed is None:
            return None
        last = await self._database.read(lambda conn: records.last_number(conn, failed.id))
        return replace(failed, live=replace(failed.live, number=last))

    async def _keep_failed(self, new: Function, error: StokerError) -> None:
        """Store a function of which no version ever became ready."""
        failed = failed_first(new, error, now_ms=self._now_ms())

        def keep(conn: sqlite3.Connection) -> None:
            records.insert_function(conn, failed)
            records.fail_function(conn, failed)
            records.prune_versions(conn, failed.id, self._versions_kept)

        with suppress(NotFound):  # the app was deleted meanwhile; the reply has the reason
            await self._database.write(keep, apply=lambda _: self._catalog.put_function(failed))

    def _new_function(self, change: FunctionChange) -> Function:
        """The function that a change asks for, checked by itself."""
        if change.id:
            raise BadRequest("ID cannot be provided for Fn creation")
        now, function_id = self._now_ms(), self._ids.new()
        annotations = rules.without_endpoints(change.annotations)
        live = Version(
            function_id=function_id,
            number=1,
            image=change.image,
            digest=change.digest,
            **_of_version(change),
            memory_mib=change.memory_mib or MEMORY_MIB_DEFAULT,
            timeout_s=change.timeout_s or TIMEOUT_S_DEFAULT,
            idle_timeout_s=change.idle_timeout_s or IDLE_TIMEOUT_S_DEFAULT,
            config=dict(change.config or {}),
            start=rules.start_of(annotations),
            adapter=rules.adapter_of(annotations),
            created_at=now,
        )
        new = Function(
            id=function_id,
            app_id=change.app_id,
            name=change.name,
            live=live,
            annotations=annotations,
            created_at=now,
            updated_at=now,
            **_settings(change),
        )
        rules.check_function(new)
        return _with_pcu(new, change, old=None)

    def _admitted(self, new: Function, *, instead: Function | None = None) -> tuple[App, Function]:
        """The app, and the function with what it takes from it, if there is room and its name is free.

        ``instead``: the function whose name, id and history it takes over.
        """
        app = self.app(new.app_id)
        if instead is not None:
            live = replace(new.live, function_id=instead.id, number=instead.live.number + 1)
            return app, replace(new, id=instead.id, live=live, created_at=instead.created_at, shape=instead.shape)
        if any(other.name == new.name for other in self._catalog.functions_of(app.id)):
            raise Conflict(records.FUNCTION_EXISTS)
        rules.check_count("function-count", len(self._catalog.functions), self._counts.function_count_max)
        return app, replace(new, shape=app.shape)

    async def update_function(self, function_id: str, change: FunctionChange) -> Function:
        """Merge the change into the function; deploy a new version if that is what it takes.

        Raises:
          BadRequest, NotFound, InvalidFunction, DeployFailed: as for a new one; the old version goes on serving.
        """
        if change.id and change.id != function_id:
            raise BadRequest("Fn ID in path does not match that in body")
        known = self.function(function_id)
        async with self._one_at_a_time(known.app_id, known.name):
            old = self.function(function_id)
            app = self.app(old.app_id)
            new = checked_change(old, change)
            with self._promise(new, old):
                anew = not change.digest and (bool(change.image) or not old.live.digest)
                new = await self._resolved(app, new, anew=anew)
                retry = is_retry(old, change)
                if new == old and not retry:
                    return old
                new = replace(new, updated_at=max(self._now_ms(), old.updated_at))
                if new.live == old.live and not retry:
                    return await self._store_settings(app, new)
                return await self._deploy(app, new, old)

    async def rollback(self, function_id: str, number: int | None = None) -> Function:
        """Let an older version serve again; without a number the newest ready one before the live one.

        Raises:
          NotFound, BadRequest, DeployFailed: no such function or version; it never was ready or is live already; it
            does not become ready now.
        """
        known = self.function(function_id)
        async with self._one_at_a_time(known.app_id, known.name):
            old = self.function(function_id)
            app = self.app(old.app_id)
            version = await self._rollback_to(old, number)
            annotations = dict(old.annotations)
            if rules.START in annotations:
                annotations[rules.START] = version.start
            if rules.ADAPTER in annotations and version.adapter:
                annotations[rules.ADAPTER] = version.adapter
            new = replace(old, live=version, annotations=annotations, updated_at=max(self._now_ms(), old.updated_at))
            rules.check_function(new)
            with self._promise(new, old):
                await self._check_bundle(app, new)
                return await self._deploys.deploy(app, new, old)

    async def versions(self, function_id: str) -> list[Version]:
        """All versions that are kept, newest first.

        Raises:
          NotFound: there is no such function.
        """
        self.function(function_id)
        return await self._database.read(lambda conn: records.versions(conn, function_id))

    async def delete_function(self, function_id: str, *, expect: Callable[[Function], None] | None = None) -> None:
        """Delete the function with its versions and triggers.

        Raises:
          NotFound: there is none with this id.
        """

        def delete(conn: sqlite3.Connection) -> None:
            if expect is not None:
                expect(records.function(conn, function_id))
            records.delete_function(conn, function_id)

        def forget(_: None) -> None:
            self._catalog.drop_function(function_id)
            self._deploys.forget(function_id)

        known = self.function(function_id)
        async with self._one_at_a_time(known.app_id, known.name):
            await self._database.write(delete, apply=forget)

    async def bundle_pushed(self, image: str) -> list[tuple[Function, StokerError | None]]:
        """A bundle of this name is here now: deploy the functions that were waiting for it. What came of each."""
        outcomes: list[tuple[Function, StokerError | None]] = []
        for function in list(self._catalog.functions.values()):
            if function.live.image == image and not function.live.digest:
                try:
                    outcomes.append((await self.update_function(function.id, FunctionChange()), None))
                except StokerError as exc:
                    self._log.warning("cannot deploy after push", function=function.id, image=image, error=str(exc))
                    outcomes.append((function, exc))
        return outcomes

    async def _store_settings(self, app: App, new: Function) -> Function:
        def apply(_: None) -> None:
            self._catalog.put_function(new)
            self._deploys.apply(app, new)

        await self._database.write(lambda conn: records.update_function(conn, new), apply=apply)
        return new

    async def _deploy(self, app: App, new: Function, old: Function) -> Function:
        last = await self._database.read(lambda conn: records.last_number(conn, new.id))
        live = replace(
            new.live,
            number=max(last, old.live.number) + 1,
            state="building",
            error="",
            created_at=self._now_ms(),
        )
        new = replace(new, live=live)
        try:
            stored = await self._deploys.deploy(app, new, old)
        except DeployFailed as exc:
            if old.state == "failed":  # then this is the reason now
                await self._keep_failed(new, exc)
            raise
        finally:
            await self._database.write(lambda conn: records.prune_versions(conn, new.id, self._versions_kept))
        return stored

    async def _resolved(self, app: App, new: Function, *, anew: bool) -> Function:
        """With the digest that the image's name points at now (``anew``) or as it was; required config checked."""
        if anew:
            digest = await self._database.read(lambda conn: records.resolve(conn, new.live.image))
            new = replace(new, live=replace(new.live, digest=digest or ""))
        await self._check_bundle(app, new)
        return new

    async def _check_bundle(self, app: App, new: Function) -> None:
        if not new.live.digest:
            return
        bundle = await self._database.read(lambda conn: records.bundle(conn, new.live.digest))
        if bundle is None:
            raise NotFound(f"the bundle of version {new.live.number} ({new.live.image}) is not kept any more")
        rules.check_expected(bundle.expects, app.config, new.live.config, new.name)

    async def _rollback_to(self, old: Function, number: int | None) -> Version:
        def find(conn: sqlite3.Connection) -> Version | None:
            if number is None:
                return records.previous_ready(conn, old.id, old.live.number)
            return records.version(conn, old.id, number)

        version = await self._database.read(find)
        if version is None:
            raise NotFound(
                f"function {old.name} has no ready version before {old.live.number}"
                if number is None
                else f"function {old.name} has no version {number}"
            )
        if version.number == old.live.number:
            raise BadRequest(f"version {version.number} of function {old.name} is live already")
        if version.state != "ready":
            raise BadRequest(f"cannot roll back to version {version.number} of function {old.name}: it failed")
        return version

    @contextmanager
    def _promise(self, new: Function, old: Function | None) -> Iterator[None]:
        """Check the provisioned concurrency, and count its memory while the deploy goes on.

        Raises:
          BadRequest: OCI's steps or the node's limit; says the arithmetic and what is allowed.
        """
        wanted = (new.pcu_count, new.live.memory_mib)
        counted = (old.pcu_count, old.live.memory_mib) if old is not None and old.state != "failed" else None
        if not new.pcu_count or wanted == counted:
            yield
            return
        check_pcu(
            count=new.pcu_count,
            memory_mib=new.live.memory_mib,
            steps=self._pcu.steps,
            limit_mib=self._pcu.memory_mib,
            others_mib=self._provisioned_mib(but=new.id),
        )
        self._promised_mib[new.id] = new.pcu_count * new.live.memory_mib
        try:
            yield
        finally:
            del self._promised_mib[new.id]

    def _provisioned_mib(self, *, but: str) -> int:
        """Memory that the other functions' floors reserve, or will when their deploys are done."""
        functions = [f for f in self._catalog.functions.values() if f.pcu_count and f.state != "failed"]
        floors = {f.id: f.pcu_count * f.live.memory_mib for f in functions}
        for function_id, promised in self._promised_mib.items():
            floors[function_id] = max(promised, floors.get(function_id, 0))
        return sum(mib for function_id, mib in floors.items() if function_id != but)


def checked_change(old: Function, change: FunctionChange) -> Function:
    """The function as it would be, by the rules."""
    if change.expect is not None:
        change.expect(old)
    new = _merged(old, change)
    rules.check_function(new)
    return _with_pcu(new, change, old=old)


def is_retry(old: Function, change: FunctionChange) -> bool:
    """Whether a change that names a bundle is to be deployed though nothing differs: the function never was ready."""
    return old.state == "failed" and bool(change.image or change.digest)


def failed_first(begun: Function, error: StokerError, *, now_ms: int) -> Function:
    """The function when its deploy failed and it has no version that ever was ready."""
    live = replace(begun.live, state="failed", error=str(error))
    updated_at = max(now_ms, begun.updated_at)
    return replace(begun, live=live, state="failed", state_error=str(error), updated_at=updated_at)


def _of_version(change: FunctionChange) -> dict[str, Any]:
    """What a version takes as it is."""
    return given(handler=change.handler, runtime=change.runtime, source=change.source)


def _settings(change: FunctionChange) -> dict[str, Any]:
    """What a function takes as it is."""
    return given(
        freeform_tags=change.freeform_tags,
        defined_tags=change.defined_tags,
    )


def _merged(old: Function, change: FunctionChange) -> Function:
    """The function as it would be; ``name``, ``app_id`` and ``shape`` are silently not changed, as on Fn."""
    annotations = rules.merge_annotations(old.annotations, change.annotations)
    live = replace(
        old.live,
        **_of_version(change),
        image=change.image or old.live.image,
        digest=change.digest or old.live.digest,
        memory_mib=change.memory_mib or old.live.memory_mib,
        timeout_s=change.timeout_s or old.live.timeout_s,
        idle_timeout_s=change.idle_timeout_s or old.live.idle_timeout_s,
        config=rules.new_config(old.live.config, change.config, replaces=change.replaces_config),
        start=rules.start_of(annotations),
        adapter=rules.adapter_of(annotations),
    )
    return replace(old, live=live, annotations=annotations, **_settings(change))


def _with_pcu(new: Function, change: FunctionChange, *, old: Function | None) -> Function:
    """POLICY: the field says how many, else OCI's annotations if this change names them, else it stays."""
    count = old.pcu_count if old is not None else 0
    if change.annotations and (rules.PCU_STRATEGY in change.annotations or rules.PCU_COUNT in change.annotations):
        count = rules.pcu_of(new.annotations)
    if change.pcu_count is not None:
        count = change.pcu_count
    if count < 0:
        raise BadRequest(f"provisioned concurrency must be 0 or more, not {count}")
    annotations = rules.with_pcu(new.annotations, count)
    rules.check_annotations(annotations)
    return replace(new, pcu_count=count, annotations=annotations)
