"""Stoker's own endpoints, through their table of routes: real store, bundles and logs; instances as told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import pytest
import trio

from daemon.auth.permissions import EVERYBODY
from daemon.bundles.interpreters import Interpreters
from daemon.bundles.store import BundleStore
from daemon.catalog import Catalog
from daemon.config.settings import Bundles, Logs
from daemon.core.pcu import PcuStatus
from daemon.core.views import NodeView, PoolView
from daemon.http import ops
from daemon.http.ops import Connections, InstanceInfo, StartMode
from daemon.http.routing import Router
from daemon.http.views import ApiReply, ApiRequest
from daemon.logs.book import LogBook
from daemon.model import Answer, App, Function
from daemon.registry import Registry
from daemon.store.database import Database
from daemon.telemetry.metrics import Metrics
from tests.control.world import World, world
from tests.mechanisms.archives import HANDLER, HOSTILE, plain

GOOD = plain({"function/func.py": HANDLER})
DIGEST = f"sha256:{hashlib.sha256(GOOD).hexdigest()}"
POOL = PoolView(
    function_id="", revision="r", prepared="", instances={"idle": 1, "busy": 2}, queue=3, held_mib=384,
    starts={"reuse": 9, "fork": 2, "spare": 1}, start_error="", retry_s=float("-inf"), template=True,
    pcu=PcuStatus(requested=40, allocated=2, available=1, in_use=1, spillover=4, state="filling", reason="starting"),
)  # fmt: skip


@dataclass
class FakeNode:
    """`ops.Node` with processes that are only told of."""

    catalog: Catalog
    registry: Registry
    database: Database
    bundles: BundleStore
    log_book: LogBook
    bundle_bytes_max: int = 2**20
    draining: bool = False
    uptime_s: float = 12.5
    metrics: Metrics = field(default_factory=Metrics)
    interpreters: Interpreters = field(default_factory=lambda: Interpreters({}))
    running: list[InstanceInfo] = field(default_factory=list)
    pools_by_id: dict[str, PoolView] = field(default_factory=dict)
    restarted: list[str] = field(default_factory=list)

    def instances(self) -> list[InstanceInfo]:
        return self.running

    def pool(self, function_id: str) -> PoolView | None:
        return self.pools_by_id.get(function_id)

    def pools(self) -> dict[str, PoolView]:
        return self.pools_by_id

    def sandbox(self) -> dict[str, Any]:
        return {"level": "A"}

    def network(self, app: App, function_id: str) -> dict[str, Any]:
        return {"setting": {"mode": "egress"}, "method": "veth", "mode": "egress", "weaker": ""}

    def view(self) -> NodeView:
        return NodeView(
            memory_mib=2048, used_mib=512, floor_missing_mib=0, instances={"idle": 1}, templates=1, waiting=0,
            draining=self.draining,
        )  # fmt: skip

    def start_mode(self, function: Function) -> StartMode:
        return StartMode(setting=function.live.start, forkable=False, reason="two threads after the import")

    def connections(self) -> Connections:
        return Connections(open=2, accepted=5)

    async def samples(self) -> list[ops.Sample]:
        return [("stoker_detached_bytes", (), 7)]

    def restart(self, function_id: str) -> int:
        self.restarted.append(function_id)
        return 1


@dataclass
class Api:
    """The endpoints and what stands behind them."""

    node: FakeNode
    world: World
    root: Path

    async def send(
        self, method: str, target: str, body: bytes | AsyncIterable[bytes] = b"", **headers: str
    ) -> ApiReply:
        path, _, query = target.partition("?")
        request = ApiRequest(
            method=method, path=unquote(path), query=parse_qs(query, keep_blank_values=True),
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )  # fmt: skip
        if isinstance(body, bytes):
            request.body = body
        else:
            request.chunks = body
        return await Router([(ops.ROUTES, self.node)]).dispatch(request)

    async def json(self, method: str, target: str, body: bytes = b"", *, status: int = 200, **headers: str) -> Any:
        reply = await self.send(method, target, body, **headers)
        text = reply.encode().decode()
        assert reply.status == status, text
        return json.loads(text) if text else None

    async def function(self, name: str = "f", image: str = "f:1") -> str:
        apps = (await self.world.send("GET", "/v2/apps?name=a")).body["items"]
        app = apps[0] if apps else (await self.world.send("POST", "/v2/apps", {"name": "a"})).body
        body = {"app_id": app["id"], "name": name, "image": image, "memory": 256}
        return str((await self.world.send("POST", "/v2/fns", body)).body["id"])


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with world(tmp_path) as made, LogBook(tmp_path / "logs", Logs()) as book:
        store = BundleStore(tmp_path / "bundles", Bundles())
        yield Api(FakeNode(made.catalog, made.registry, made.database, store, book), made, tmp_path)


async def pieces(data: bytes, size: int = 50) -> AsyncIterator[bytes]:
    for i in range(0, len(data), size):
        await trio.lowlevel.checkpoint()
        yield data[i : i + size]


class TestNode:
    async def test_health(self, api: Api) -> None:
        assert await api.json("GET", "/health") == {
            "status": "ok", "version": "0.1.0", "uptime_s": 12.5, "sandbox": "A",
        }  # fmt: skip
        api.node.draining = True
        assert (await api.json("GET", "/health", status=503))["status"] == "draining"

    async def test_metrics_name_the_functions(self, api: Api) -> None:
        await api.json("PUT", "/stoker/v1/bundles/f:1", GOOD)
        function_id = await api.function()
        api.node.pools_by_id[function_id] = POOL
        api.node.metrics.observe_answer(function_id, Answer(status=200, headers=[], body=b"", handler_s=0.1))
        api.node.pool = None  # type: ignore[method-assign, assignment]  # not asked for one by one
        reply = await api.send("GET", "/metrics")
        text = reply.encode().decode()
        assert (reply.type() or "").startswith("text/plain; version=")
        assert 'stoker_calls_total{app="a",fault="none",function="f",outcome="ok"} 1.0' in text
        assert 'stoker_pcu_spillover_total{app="a",function="f"} 4.0' in text
        assert 'stoker_instances{app="a",function="f",state="busy"} 2.0' in text
        assert "stoker_memory_limit_bytes 2.147483648e+09" in text
        await api.world.send("DELETE", f"/v2/fns/{function_id}")
        assert 'function="f"' not in (await api.send("GET", "/metrics")).encode().decode()

    async def test_stats(self, api: Api) -> None:
        stats = await api.json("GET", "/stoker/v1/stats")
        assert stats["memory"] == {"limit_mib": 2048, "reserved_mib": 512}
        assert stats["latency"] == {"calls": 0, "p50_s": None, "p95_s": None, "p99_s": None}
        assert stats["starts"] == {"reuse": 0, "spare": 0, "fork": 0, "boot": 0, "exec": 0}
        assert (stats["templates"], stats["connections"]["open"], stats["functions"]) == (1, 2, 0)

    async def test_runtimes(self, api: Api) -> None:
        items = (await api.json("GET", "/stoker/v1/runtimes"))["items"]
        assert items
        assert all(set(item) == {"name", "path", "version"} for item in items)

    async def test_instances_are_filtered_by_name_or_id(self, api: Api) -> None:
        await api.json("PUT", "/stoker/v1/bundles/f:1", GOOD)
        ids = [await api.function("f"), await api.function("g")]
        app_id = api.node.registry.function(ids[0]).app_id
        api.node.running = [
            InstanceInfo(
                id=i, app="a", function=name, function_id=ids[i], version=1, state="idle", pid=100 + i,
                start_kind="fork", age_s=1.0, idle_s=0.5, calls=3, memory_mib=2.5, memory_limit_mib=256,
            )
            for i, name in enumerate("fg")
        ]  # fmt: skip

        async def shown(query: str) -> list[int]:
            return [item["id"] for item in (await api.json("GET", f"/stoker/v1/instances{query}"))["items"]]

        assert await shown("") == [0, 1]
        assert await shown("?app=a&function=g") == await shown(f"?function={ids[1]}") == [1]
        assert await shown(f"?app={app_id}") == [0, 1]
        assert await shown("?app=b") == await shown("?function=x") == []


class TestBundles:
    async def test_an_upload_can_be_deployed_listed_named_again_and_forgotten(self, api: Api) -> None:
        pushed = await api.json("PUT", "/stoker/v1/bundles/reg.example:5000/team/f:0.0.1", GOOD)
        assert pushed["digest"] == DIGEST
        assert pushed == {
            "image": "reg.example:5000/team/f:0.0.1", "digest": DIGEST, "packed_bytes": len(GOOD),
            "unpacked_bytes": len(HANDLER), "files": 2, "runtime": "python", "handler": "func.handler", "expects": [],
            "layer": "",
            "created_at": pushed["created_at"], "created": True,
        }  # fmt: skip
        again = await api.json("PUT", "/stoker/v1/bundles/f:2", GOOD)
        assert (again["created"], again["digest"]) == (False, DIGEST)
        named = await api.json("PUT", f"/stoker/v1/bundles/f:3?digest={DIGEST}")
        assert (named["image"], named["created"], named["files"]) == ("f:3", False, 2)
        items = (await api.json("GET", "/stoker/v1/bundles"))["items"]
        assert [item["image"] for item in items] == ["f:2", "f:3", "reg.example:5000/team/f:0.0.1"]
        items = (await api.json("GET", "/stoker/v1/bundles?name=f"))["items"]
        assert [item["image"] for item in items] == ["f:2", "f:3"]
        one = await api.json("GET", f"/stoker/v1/bundles/{DIGEST}")
        assert one["images"] == ["f:2", "f:3", "reg.example:5000/team/f:0.0.1"]
        await api.json("DELETE", "/stoker/v1/bundles/f:2", status=204)
        await api.json("DELETE", "/stoker/v1/bundles/f:2", status=404)
        assert (await api.json("GET", f"/stoker/v1/bundles/{DIGEST}"))["images"] == [
            "f:3", "reg.example:5000/team/f:0.0.1",
        ]  # fmt: skip

    async def test_it_may_come_in_pieces(self, api: Api) -> None:
        reply = await api.send("PUT", "/stoker/v1/bundles/f:1", pieces(GOOD))
        assert (reply.status, reply.body["digest"]) == (200, DIGEST)

    async def test_what_arrived_is_compared_with_what_was_announced(self, api: Api) -> None:
        digest = DIGEST.removeprefix("sha256:")
        for header in (digest, DIGEST, digest.upper()):
            await api.json("PUT", "/stoker/v1/bundles/f:1", GOOD, x_content_sha256=header)
        reply = await api.json("PUT", "/stoker/v1/bundles/f:2", GOOD, status=400, x_content_sha256="0" * 64)
        assert "arrived" in reply["message"]
        await api.json("PUT", "/stoker/v1/bundles/f:2", GOOD, status=400, x_content_sha256="short")
        assert [i["image"] for i in (await api.json("GET", "/stoker/v1/bundles"))["items"]] == ["f:1"]

    async def test_a_hostile_one_is_refused_and_names_nothing(self, api: Api) -> None:
        reply = await api.json("PUT", "/stoker/v1/bundles/f:1", HOSTILE["parent at the start"].data, status=400)
        assert reply["code"] == "invalid-function"
        assert "../victim" in reply["message"]
        assert (await api.json("GET", "/stoker/v1/bundles"))["items"] == []
        assert [p.name for p in (api.root / "bundles").rglob("*")] in (["spool", "sha256"], ["sha256", "spool"])

    async def test_a_large_one_is_refused_before_and_while_it_comes(self, api: Api) -> None:
        await api.json("PUT", "/stoker/v1/bundles/f:1", b"x", status=413, content_length="1048577")
        reply = await api.send("PUT", "/stoker/v1/bundles/f:1", pieces(bytes(2**20 + 1), 2**16))
        assert (reply.status, reply.body["code"]) == (413, "request-too-large")

    async def test_an_empty_body_is_explained(self, api: Api) -> None:
        assert "?digest=" in (await api.json("PUT", "/stoker/v1/bundles/f:1", status=400))["message"]

    @pytest.mark.parametrize("digest", [DIGEST, "sha256:" + "0" * 64])
    async def test_a_name_for_what_is_not_here_is_refused(self, api: Api, digest: str) -> None:
        assert (await api.json("PUT", f"/stoker/v1/bundles/f:1?digest={digest}", status=404))["code"] == "not-found"
        await api.json("GET", f"/stoker/v1/bundles/{digest}", status=404)

    async def test_an_odd_digest_is_refused(self, api: Api) -> None:
        await api.json("PUT", "/stoker/v1/bundles/f:1?digest=../../etc", status=400)

    @pytest.mark.parametrize(
        "image", ["f", "f:", ":1", "f:1:2", "sha256:" + "0" * 64, "../f:1", "f:1%0A", "f%20g:1", "f:%2F", "-f:1",
                  "x" * 254 + ":1", "f:" + "1" * 129],
    )  # fmt: skip
    async def test_an_odd_name_is_refused(self, api: Api, image: str) -> None:
        reply = await api.json("PUT", f"/stoker/v1/bundles/{image}", GOOD, status=400)
        assert "NAME:VERSION" in reply["message"]

    async def test_a_function_that_waited_for_its_bundle_is_deployed(self, api: Api) -> None:
        function_id = await api.function("f", "f:1")
        assert api.node.registry.function(function_id).live.digest == ""
        pushed = await api.json("PUT", "/stoker/v1/bundles/f:1", GOOD)
        assert pushed["deployed"] == [{"function_id": function_id, "function": "f"}]
        assert api.node.registry.function(function_id).live.digest == DIGEST

    async def test_a_function_that_waited_in_vain_says_why(self, api: Api) -> None:
        function_id = await api.function("f", "f:1")
        api.world.deployer.fail = "Traceback: no"
        (outcome,) = (await api.json("PUT", "/stoker/v1/bundles/f:1", GOOD))["deployed"]
        assert (outcome["function_id"], outcome["code"]) == (function_id, "deploy-failed")
        assert "Traceback: no" in outcome["detail"]

    async def test_what_is_acknowledged_is_there_after_a_restart(self, api: Api) -> None:
        await api.json("PUT", "/stoker/v1/bundles/f:1", GOOD)
        store = BundleStore(api.root / "bundles", Bundles())
        assert store.sweep_partial() == 0
        assert (store.directory(DIGEST) / "function/func.py").read_bytes() == HANDLER

    async def test_files_go_when_nothing_names_them_and_not_before(self, api: Api) -> None:
        await api.json("PUT", "/stoker/v1/bundles/f:1", GOOD)
        api.node.bundles = BundleStore(api.root / "bundles", Bundles())  # a restart: nothing is fresh
        function_id = await api.function("f", "f:1")
        await api.json("DELETE", "/stoker/v1/bundles/f:1", status=204)
        assert api.node.bundles.directory(DIGEST).is_dir(), "a version uses it"
        await api.world.send("DELETE", f"/v2/fns/{function_id}")
        await api.json("PUT", f"/stoker/v1/bundles/f:2?digest={DIGEST}")
        api.node.bundles = BundleStore(api.root / "bundles", Bundles())
        await api.json("DELETE", "/stoker/v1/bundles/f:2", status=204)
        assert not api.node.bundles.directory(DIGEST).exists()
        assert (await api.json("GET", "/stoker/v1/bundles"))["items"] == []

    async def test_a_client_that_leaves_leaves_nothing(self, api: Api) -> None:
        async def stuck() -> AsyncIterator[bytes]:
            yield GOOD[:50]
            await trio.sleep_forever()

        with trio.move_on_after(0.05):
            await api.send("PUT", "/stoker/v1/bundles/f:1", stuck())
        assert [p for p in (api.root / "bundles").rglob("*") if p.is_file()] == []


class TestFunctions:
    @pytest.fixture
    async def function_id(self, api: Api) -> str:
        await api.json("PUT", "/stoker/v1/bundles/f:1", GOOD)
        return await api.function()

    async def test_status(self, api: Api, function_id: str) -> None:
        status = await api.json("GET", f"/stoker/v1/functions/{function_id}")
        assert (status["id"], status["name"], status["app"], status["pool"]) == (function_id, "f", "a", None)
        assert status["start"] == {"setting": "auto", "forkable": False, "reason": "two threads after the import"}
        assert (status["version"]["number"], status["version"]["memory"], status["version"]["live"]) == (1, 256, True)
        api.node.pools_by_id[function_id] = POOL
        pool = (await api.json("GET", f"/stoker/v1/functions/{function_id}"))["pool"]
        assert (pool["instances"], pool["queue"], pool["reuses"]) == ({"idle": 1, "busy": 2}, 3, 9)
        assert pool["first_calls"] == {"fork": 2, "spare": 1}
        assert pool["pcu"] == {
            "requested": 40, "allocated": 2, "available": 1, "in_use": 1, "spillover": 4, "state": "filling",
            "reason": "starting",
        }  # fmt: skip

    async def test_versions_and_rollback(self, api: Api, function_id: str) -> None:
        await api.world.send("PUT", f"/v2/fns/{function_id}", {"memory": 512})
        items = (await api.json("GET", f"/stoker/v1/functions/{function_id}/versions"))["items"]
        assert [(v["number"], v["memory"], v["state"], v["live"]) for v in items] == [
            (2, 512, "ready", True), (1, 256, "ready", False),
        ]  # fmt: skip
        path = f"/stoker/v1/functions/{function_id}/rollback"
        assert (await api.json("POST", path, b"{}"))["version"]["number"] == 1
        assert (await api.json("POST", path, b'{"version": 2}'))["version"]["number"] == 2
        assert (await api.json("POST", path))["version"]["number"] == 1
        for body, status in (
            (b'{"version": 9}', 404),
            (b'{"version": "2"}', 400),
            (b'{"version": true}', 400),
            (b'{"version": 0}', 400),
            (b'{"version": 1e30}', 400),
            (b"{", 400),
            (b"[]", 400),
        ):
            await api.json("POST", path, body, status=status)

    async def test_restart(self, api: Api, function_id: str) -> None:
        assert await api.json("POST", f"/stoker/v1/functions/{function_id}/restart") == {"retired": 1}
        assert api.node.restarted == [function_id]

    @pytest.mark.parametrize(("method", "path"), [
        ("GET", ""), ("GET", "/versions"), ("POST", "/rollback"), ("POST", "/restart"), ("GET", "/logs"),
    ])  # fmt: skip
    async def test_an_unknown_function_is_not_found(self, api: Api, method: str, path: str) -> None:
        reply = await api.json(method, f"/stoker/v1/functions/01M7Y00C28R00040J6N8000063{path}", status=404)
        assert reply["code"] == "not-found"
        assert api.node.restarted == []

    async def test_logs_come_as_one_object_per_line(self, api: Api, function_id: str) -> None:
        log = api.node.log_book.open(function_id)
        for i in range(5):
            log.write("stdout", f"line {i}", call_id=f"C{i % 2}", instance_id=4)

        async def lines(query: str = "") -> list[str]:
            reply = await api.send("GET", f"/stoker/v1/functions/{function_id}/logs{query}")
            assert (reply.status, reply.type()) == (200, "application/x-ndjson")
            assert reply.stream is not None
            data = b"".join([chunk async for chunk in reply.stream])
            return [json.loads(line)["line"] for line in data.splitlines()]

        assert await lines() == [f"line {i}" for i in range(5)]
        assert await lines("?tail=2") == ["line 3", "line 4"]
        assert await lines("?tail=0") == []
        assert await lines("?call=C1&follow=false") == ["line 1", "line 3"]

    async def test_logs_are_followed_and_let_go(self, api: Api, function_id: str) -> None:
        log = api.node.log_book.open(function_id)
        log.write("stdout", "old")
        reply = await api.send("GET", f"/stoker/v1/functions/{function_id}/logs?follow=true")
        stream: Any = reply.stream
        assert json.loads(await anext(stream))["line"] == "old"
        log.write("stdout", "new")
        assert json.loads(await anext(stream))["line"] == "new"
        assert log._followers
        await stream.aclose()
        assert not log._followers

    async def test_nobody_follows_a_daemon_that_drains(self, api: Api, function_id: str) -> None:
        api.node.log_book.open(function_id).write("stdout", "old")
        api.node.draining = True
        reply = await api.send("GET", f"/stoker/v1/functions/{function_id}/logs?follow=true")
        assert reply.stream is not None
        with trio.fail_after(60):
            assert len([chunk async for chunk in reply.stream]) == 1

    @pytest.mark.parametrize(
        "query", ["tail=-1", "tail=x", "tail=10001", "tail=1.5", "follow=maybe", "tail=99999999999"]
    )
    async def test_odd_questions_are_refused(self, api: Api, function_id: str, query: str) -> None:
        reply = await api.json("GET", f"/stoker/v1/functions/{function_id}/logs?{query}", status=400)
        assert reply["message"].startswith(f"{query.partition('=')[0]}: must be ")


def test_every_route_asks_for_a_permission_and_none_is_there_twice() -> None:
    assert [route.path for route in ops.ROUTES if route.permission == EVERYBODY] == ["/health"]
    assert len({(route.method, route.path) for route in ops.ROUTES}) == len(ops.ROUTES)
    assert [route.path for route in ops.ROUTES if route.streams] == [
        "/stoker/v1/layers/{digest}",
        "/stoker/v1/bundles/{image:path}",
    ]
