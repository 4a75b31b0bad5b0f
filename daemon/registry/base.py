"""What the parts of the registry share: store, catalog, deployer, ids, clock and the locks."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

import trio

from daemon.catalog import Catalog
from daemon.config.settings import Oci, Pcu
from daemon.model import App, Function, Ids
from daemon.store.database import Database


class Deploys(Protocol):
    """What the registry asks of the deployer."""

    async def deploy(self, app: App, new: Function, old: Function | None) -> Function:
        """Make ``new.live`` the version that serves, store it, put it in the catalog; return what was stored.

        ``new.live.digest`` is already resolved; empty: no bundle of that name is here. In a rollback the version is
        one that was ready before.

        Raises:
          TooLargeForNode: as `check_room` says; nothing is stored.
          DeployFailed: it did not become ready; ``old`` goes on serving. The version is stored as failed.
        """

    def check_room(self, function: Function) -> None:
        """Refuse a version of which not even one instance can ever start on this node.

        Raises:
          TooLargeForNode
        """

    def apply(self, app: App, function: Function) -> None:
        """Annotations or provisioned concurrency changed, and that is stored: tell the scheduler."""

    async def reconfigure(self, app: App) -> None:
        """The app's configuration changed, and that is stored."""

    def forget(self, function_id: str) -> None:
        """The function was deleted, and that is stored."""


class Base:
    """State of the registry. One object; its methods are in the parts."""

    def __init__(
        self,
        database: Database,
        catalog: Catalog,
        deploys: Deploys,
        *,
        ids: Ids,
        pcu: Pcu,
        log: Any,
        counts: Oci | None = None,
        versions_kept: int = 10,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """``now_ms`` is the wall clock; ``versions_kept`` is ``bundles.versions_kept``; ``counts``: service limits."""
        self._database = database
        self._catalog = catalog
        self._deploys = deploys
        self._ids = ids
        self._pcu = pcu
        self._counts = counts or Oci()
        self._log = log
        self._versions_kept = versions_kept
        self._now_ms = now_ms
        self._locks: dict[str, tuple[trio.Lock, int]] = {}
        self._promised_mib: dict[str, int] = {}

    @property
    def catalog(self) -> Catalog:
        """What exists, in memory."""
        return self._catalog

    @asynccontextmanager
    async def _one_at_a_time(self, app_id: str, name: str) -> AsyncIterator[None]:
        """Changes of one function wait for each other: a deploy takes seconds and must start from what is stored."""
        key = f"{app_id}/{name}"
        lock, users = self._locks.get(key, (trio.Lock(), 0))
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(key)
            if users > 1:
                self._locks[key] = (lock, users - 1)
