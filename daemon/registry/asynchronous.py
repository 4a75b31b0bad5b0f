"""Functions whose deploy somebody else waits for: created and changed in two steps, as OCI's work requests need it.

A function is stored first, in state ``creating``, and made ready by a second call; if that fails it stays, ``failed``.
"""

from __future__ import annotations

from dataclasses import replace

from daemon.errors import StokerError
from daemon.model import Function
from daemon.registry.changes import FunctionChange
from daemon.registry.functions import Functions, checked_change, failed_first, is_retry
from daemon.store import records


class Asynchronous(Functions):
    """The registry's part for changes in two steps."""

    async def begin_function(self, change: FunctionChange) -> Function:
        """Store a new function in state ``creating``; `finish_function` makes it ready.

        ``change.digest`` may be of a bundle that is still to come.

        Raises:
          BadRequest, NotFound, Conflict, InvalidFunction, TooLargeForNode: as for `create_function`. Nothing is stored.
        """
        new = self._new_function(change)
        async with self._one_at_a_time(new.app_id, new.name):
            app, new = self._admitted(new)
            self._deploys.check_room(new)
            with self._promise(new, None):
                if not change.digest:
                    new = await self._resolved(app, new, anew=True)
                new = replace(new, state="creating")
                await self._database.write(
                    lambda conn: records.insert_function(conn, new), apply=lambda _: self._catalog.put_function(new)
                )
        return new

    async def finish_function(self, function_id: str, failure: StokerError | None = None) -> Function:
        """Make a function of `begin_function` ready. ``failure``: it cannot be, for this reason.

        Raises:
          NotFound: it was deleted meanwhile.
          StokerError: it did not become ready; it is ``failed`` now.
        """
        known = self.function(function_id)
        async with self._one_at_a_time(known.app_id, known.name):
            begun = self.function(function_id)
            app = self.app(begun.app_id)
            try:
                if failure is not None:
                    raise failure
                await self._check_bundle(app, begun)
                return await self._deploys.deploy(app, begun, None)
            except StokerError as exc:
                await self._fail(begun, exc)
                raise

    async def _fail(self, begun: Function, error: StokerError) -> None:
        failed = failed_first(begun, error, now_ms=self._now_ms())

        def forget_or_put(_: None) -> None:
            if failed.id in self._catalog.functions:
                self._catalog.put_function(failed)

        await self._database.write(lambda conn: records.fail_function(conn, failed), apply=forget_or_put)

    async def preview_update(self, function_id: str, change: FunctionChange) -> tuple[Function, bool]:
        """Check an update as far as that goes without doing it.

        Returns the function as it would be, and whether that takes a new version. ``change.digest`` may be of a bundle
        that is still to come.

        Raises:
          BadRequest, NotFound, InvalidFunction, TooLargeForNode: as for `update_function`.
        """
        old = self.function(function_id)
        app = self.app(old.app_id)
        new = checked_change(old, change)
        with self._promise(new, old):
            if not change.digest:
                new = await self._resolved(app, new, anew=bool(change.image))
        deploys = new.live != old.live or is_retry(old, change)
        if deploys:
            self._deploys.check_room(new)
        return new, deploys
