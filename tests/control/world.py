"""A registry on a real database in a directory of its own, with a deployer that starts nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import structlog
import trio

from daemon.catalog import Catalog
from daemon.config.settings import Pcu
from daemon.errors import DeployFailed, TooLargeForNode
from daemon.http import fn_api
from daemon.http.views import ApiReply, ApiRequest
from daemon.model import App, Bundle, Function, Ids
from daemon.registry import Registry
from daemon.store import records
from daemon.store.database import Database


class Deployer:
    """The deployer's shape without processes: stores as the real one does, waits as it does, fails when told to."""

    def __init__(self, database: Database, catalog: Catalog) -> None:
        self._database, self._catalog = database, catalog
        self.memory_mib = 40960
        self.fail: str | None = None
        """Text of the canary's failure; None: it becomes ready."""
        self.hold: trio.Event | None = None
        """A canary that takes its time: the deploy waits for this."""
        self.applied: list[Function] = []
        self.reconfigured: list[App] = []
        self.forgotten: list[str] = []
        self.deployed: list[Function] = []

    async def deploy(self, app: App, new: Function, old: Function | None) -> Function:
        self.check_room(new)
        await self._database.write(lambda conn: records.insert_version(conn, new.live))
        if self.hold is not None:
            await self.hold.wait()
        if self.fail is not None:
            text = self.fail
            await self._database.write(lambda conn: records.fail_version(conn, new.id, new.live.number, text))
            raise DeployFailed(detail=text)
        self.deployed.append(new)
        return await self._database.write(
            lambda conn: records.save_function(conn, new), apply=self._catalog.put_function
        )

    def check_room(self, function: Function) -> None:
        if function.live.memory_mib > self.memory_mib:
            raise TooLargeForNode(detail=f"the node has {self.memory_mib} MiB")

    def apply(self, app: App, function: Function) -> None:
        self.applied.append(function)

    async def reconfigure(self, app: App) -> None:
        self.reconfigured.append(app)

    def forget(self, function_id: str) -> None:
        self.forgotten.append(function_id)


@dataclass
class World:
    database: Database
    catalog: Catalog
    deployer: Deployer
    registry: Registry
    path: Path
    clock_ms: list[int] = field(default_factory=lambda: [1_700_000_000_000])

    async def send(
        self, method: str, target: str, body: Any = None, *, headers: dict[str, str] | None = None
    ) -> ApiReply:
        """One request through the tables; ``body``: bytes as they are, anything else as JSON."""
        path, _, query = target.partition("?")
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        request = ApiRequest(
            method=method,
            path=unquote(path),
            query=parse_qs(query, keep_blank_values=True),
            query_string=query,
            headers=headers or {},
            body=raw,
            base_url="http://127.0.0.1:18091",
        )
        return await fn_api.dispatch(self.registry, request)

    async def push(self, name: str, digest: str = "", *, expects: tuple[str, ...] = ()) -> str:
        """As if a bundle had been uploaded and named."""
        digest = digest or "sha256:" + name.encode().hex().ljust(64, "0")[:64]
        bundle = Bundle(digest=digest, packed_bytes=1, unpacked_bytes=1, files=1, expects=expects)

        def store(conn: Any) -> None:
            records.set_bundle(conn, bundle)
            records.set_reference(conn, name, digest)

        await self.database.write(store)
        return digest

    async def reopened(self) -> Catalog:
        """What a restart would find."""
        catalog = Catalog()
        await self.database.read(lambda conn: records.fill_catalog(conn, catalog))
        return catalog

    async def assert_catalog_is_what_is_stored(self) -> None:
        stored = await self.reopened()
        assert stored.apps == self.catalog.apps
        assert stored.functions == self.catalog.functions
        assert stored.triggers == self.catalog.triggers


@asynccontextmanager
async def world(directory: Path, *, pcu: Pcu | None = None) -> AsyncIterator[World]:
    """A fresh world; ``clock_ms`` is its wall clock, one millisecond later at each look."""
    path = directory / "stoker.db"
    database = await Database.open(path)
    catalog = Catalog()
    deployer = Deployer(database, catalog)
    clock = [1_700_000_000_000]

    def now_ms() -> int:
        clock[0] += 1
        return clock[0]

    registry = Registry(
        database, catalog, deployer, ids=Ids(), pcu=pcu or Pcu(), log=structlog.get_logger(), now_ms=now_ms
    )
    try:
        yield World(database, catalog, deployer, registry, path, clock)
    finally:
        await database.close()


__all__ = ["Deployer", "World", "replace", "world"]
