"""The registry: what makes a new version, what is refused, what is stored, and who waits for whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from daemon.config.settings import Pcu
from daemon.errors import BadRequest, Conflict, DeployFailed, InvalidFunction, NotFound, TooLargeForNode
from daemon.model import App, Function
from daemon.registry import AppChange, FunctionChange, TriggerChange
from daemon.registry.rules import PCU_COUNT, PCU_STRATEGY, START
from daemon.store import records
from tests.control.world import World, world


async def app_of(w: World, name: str = "app", **members: Any) -> App:
    return await w.registry.create_app(AppChange(name=name, **members))


async def function_of(w: World, app: App, name: str = "f", **members: Any) -> Function:
    return await w.registry.create_function(FunctionChange(app_id=app.id, name=name, **{"image": "f:1", **members}))


# ---- versions


async def test_a_new_function_is_deployed_and_then_there(w: World) -> None:
    digest = await w.push("f:1")
    function = await function_of(w, await app_of(w))
    assert (function.live.number, function.live.digest, function.live.state) == (1, digest, "ready")
    assert w.catalog.functions == {function.id: function}
    await w.assert_catalog_is_what_is_stored()


async def test_a_function_may_name_a_bundle_that_is_not_here(w: World) -> None:
    function = await function_of(w, await app_of(w))
    assert function.live.digest == ""


async def test_a_push_deploys_the_functions_that_waited_for_it(w: World) -> None:
    app = await app_of(w)
    waiting, other = await function_of(w, app), await function_of(w, app, "other", image="o:1")
    digest = await w.push("f:1")
    [(function, error)] = await w.registry.bundle_pushed("f:1")
    assert (function.id, function.live.digest, function.live.number, error) == (waiting.id, digest, 2, None)
    assert w.registry.function(other.id) == other
    assert await w.registry.bundle_pushed("f:1") == [], "they wait no more"


async def test_a_push_that_does_not_help_tells_why(w: World) -> None:
    function = await function_of(w, await app_of(w))
    await w.push("f:1")
    w.deployer.fail = "Traceback: no module named x"
    [(same, error)] = await w.registry.bundle_pushed("f:1")
    assert same == function
    assert isinstance(error, DeployFailed)


@pytest.mark.parametrize(
    "change",
    [
        {"image": "f:2"},
        {"memory_mib": 256},
        {"timeout_s": 5},
        {"idle_timeout_s": 5},
        {"config": {"K": "v"}},
        {"annotations": {START: "exec"}},
    ],
)
async def test_what_makes_a_new_version(w: World, change: dict[str, Any]) -> None:
    await w.push("f:1")
    await w.push("f:2", "sha256:" + "2" * 64)
    old = await function_of(w, await app_of(w))
    new = await w.registry.update_function(old.id, FunctionChange(**change))
    assert (new.live.number, len(w.deployer.deployed)) == (2, 2)
    assert new.updated_at > old.updated_at
    assert new.created_at == old.created_at
    assert new.live.created_at > old.live.created_at
    assert [v.number for v in await w.registry.versions(old.id)] == [2, 1]
    await w.assert_catalog_is_what_is_stored()


async def test_a_name_that_points_at_a_new_bundle_makes_a_new_version_when_it_is_given(w: World) -> None:
    await w.push("f:1")
    old = await function_of(w, await app_of(w))
    moved = await w.push("f:1", "sha256:" + "2" * 64)
    assert (await w.registry.update_function(old.id, FunctionChange(timeout_s=9))).live.digest == old.live.digest
    new = await w.registry.update_function(old.id, FunctionChange(image="f:1"))
    assert (new.live.digest, new.live.number) == (moved, 3)


@pytest.mark.parametrize("change", [{"annotations": {"a": 1}}, {"pcu_count": 40}])
async def test_what_needs_no_new_version(w: World, change: dict[str, Any]) -> None:
    await w.push("f:1")
    old = await function_of(w, await app_of(w))
    new = await w.registry.update_function(old.id, FunctionChange(**change))
    assert new.live == old.live
    assert new.updated_at > old.updated_at
    assert (w.deployer.applied, len(w.deployer.deployed)) == ([new], 1)
    await w.assert_catalog_is_what_is_stored()


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"name": "other", "app_id": "other"},
        {"memory_mib": 128, "timeout_s": 30, "image": "f:1"},
        {"config": {"nope": ""}, "annotations": {"nope": ""}},
        {"annotations": {"fnproject.io/fn/invokeEndpoint": "http://evil"}},
        {"pcu_count": 0},
    ],
)
async def test_a_change_that_changes_nothing(w: World, change: dict[str, Any]) -> None:
    await w.push("f:1")
    old = await function_of(w, await app_of(w))
    assert await w.registry.update_function(old.id, FunctionChange(**change)) == old
    assert (w.deployer.applied, len(w.deployer.deployed)) == ([], 1)


async def test_a_failed_update_leaves_the_old_version_serving(w: World) -> None:
    await w.push("f:1")
    old = await function_of(w, await app_of(w))
    w.deployer.fail = "Traceback: boom"
    with pytest.raises(DeployFailed) as caught:
        await w.registry.update_function(old.id, FunctionChange(memory_mib=256))
    assert caught.value.detail == "Traceback: boom"
    assert w.registry.function(old.id) == old
    failed, live = await w.registry.versions(old.id)
    assert (failed.state, failed.error, live) == ("failed", "Traceback: boom", old.live)
    w.deployer.fail = None
    assert (await w.registry.update_function(old.id, FunctionChange(memory_mib=256))).live.number == 3
    await w.assert_catalog_is_what_is_stored()


async def test_a_function_whose_first_deploy_fails_is_kept_as_failed_until_one_succeeds(w: World) -> None:
    app = await app_of(w)
    await w.push("f:1")
    w.deployer.fail = "Traceback: boom"
    with pytest.raises(DeployFailed):
        await function_of(w, app, pcu_count=40)
    (failed,) = (await w.registry.functions(app.id)).items
    assert (failed.state, failed.live.state) == ("failed", "failed")
    assert "Traceback: boom" in failed.state_error
    assert [v.error for v in await w.registry.versions(failed.id)] == [failed.state_error]
    w.deployer.fail = "Traceback: other"
    with pytest.raises(DeployFailed):
        await w.registry.update_function(failed.id, FunctionChange(image=failed.live.image))
    assert "other" in w.registry.function(failed.id).state_error
    await w.assert_catalog_is_what_is_stored()
    w.deployer.fail = None
    new = await function_of(w, app, memory_mib=256)  # the name is not taken, and the history goes on
    assert (new.id, new.state, new.live.number, new.live.memory_mib) == (failed.id, "active", 3, 256)
    assert [v.state for v in await w.registry.versions(new.id)] == ["ready", "failed", "failed"]
    with pytest.raises(Conflict):
        await function_of(w, app)
    await w.assert_catalog_is_what_is_stored()


async def test_a_deploy_of_a_failed_function_that_changes_nothing_tries_again(w: World) -> None:
    app = await app_of(w)
    await w.push("f:1")
    w.deployer.fail = "Traceback: boom"
    with pytest.raises(DeployFailed):
        await function_of(w, app)
    (failed,) = (await w.registry.functions(app.id)).items
    w.deployer.fail = None
    same = await w.registry.update_function(failed.id, FunctionChange(image=failed.live.image))
    assert (same.state, same.live.number) == ("active", 2)


async def test_a_function_too_large_for_the_node_is_refused_and_nothing_is_stored(w: World) -> None:
    app = await app_of(w)
    w.deployer.memory_mib = 512
    with pytest.raises(TooLargeForNode):
        await function_of(w, app, memory_mib=1024)
    with pytest.raises(TooLargeForNode):
        await w.registry.begin_function(FunctionChange(app_id=app.id, name="g", image="f:1", memory_mib=1024))
    assert (await w.registry.functions(app.id)).items == []
    function = await function_of(w, app)
    for change in (w.registry.update_function, w.registry.preview_update):
        with pytest.raises(TooLargeForNode):
            await change(function.id, FunctionChange(memory_mib=1024))
    assert [v.number for v in await w.registry.versions(function.id)] == [1]


async def test_only_some_versions_are_kept(w: World) -> None:
    function = await function_of(w, await app_of(w))
    for seconds in range(1, 15):
        await w.registry.update_function(function.id, FunctionChange(timeout_s=seconds))
    assert [v.number for v in await w.registry.versions(function.id)] == list(range(15, 5, -1))


# ---- rollback


async def test_rollback_goes_back_step_by_step_and_the_next_deploy_gets_a_new_number(w: World) -> None:
    function = await function_of(w, await app_of(w), config={"v": "1"})
    for value in ("2", "3"):
        await w.registry.update_function(function.id, FunctionChange(config={"v": value}))
    back = await w.registry.rollback(function.id)
    assert (back.live.number, back.live.config) == (2, {"v": "2"})
    assert (await w.registry.rollback(function.id)).live.number == 1
    with pytest.raises(NotFound, match="no ready version before 1"):
        await w.registry.rollback(function.id)
    assert (await w.registry.rollback(function.id, 3)).live.number == 3
    assert (await w.registry.update_function(function.id, FunctionChange(config={"v": "4"}))).live.number == 4
    await w.assert_catalog_is_what_is_stored()


async def test_rollback_skips_what_failed_and_refuses_it_by_number(w: World) -> None:
    function = await function_of(w, await app_of(w))
    w.deployer.fail = "boom"
    with pytest.raises(DeployFailed):
        await w.registry.update_function(function.id, FunctionChange(timeout_s=1))
    w.deployer.fail = None
    await w.registry.update_function(function.id, FunctionChange(timeout_s=2))
    with pytest.raises(BadRequest, match="cannot roll back to version 2 of function f: it failed"):
        await w.registry.rollback(function.id, 2)
    with pytest.raises(BadRequest, match="version 3 of function f is live already"):
        await w.registry.rollback(function.id, 3)
    with pytest.raises(NotFound, match="function f has no version 9"):
        await w.registry.rollback(function.id, 9)
    assert (await w.registry.rollback(function.id)).live.number == 1


async def test_a_rollback_that_fails_changes_nothing(w: World) -> None:
    function = await function_of(w, await app_of(w))
    live = await w.registry.update_function(function.id, FunctionChange(timeout_s=2))
    w.deployer.fail = "boom"
    with pytest.raises(DeployFailed):
        await w.registry.rollback(function.id)
    assert w.registry.function(function.id) == live
    assert [v.state for v in await w.registry.versions(function.id)] == ["ready", "ready"]


async def test_rollback_brings_the_start_annotation_in_line(w: World) -> None:
    function = await function_of(w, await app_of(w), annotations={START: "fork"})
    await w.registry.update_function(function.id, FunctionChange(annotations={START: "exec"}))
    back = await w.registry.rollback(function.id)
    assert (back.live.start, back.annotations[START]) == ("fork", "fork")


async def test_rollback_needs_the_bundle(w: World) -> None:
    await w.push("f:1")
    function = await function_of(w, await app_of(w))
    await w.push("f:2", "sha256:" + "2" * 64)
    await w.registry.update_function(function.id, FunctionChange(image="f:2"))

    def lose(conn: Any) -> None:
        records.remove_reference(conn, "f:1")
        records.forget_bundles(conn, {"sha256:" + "2" * 64})

    await w.database.write(lose)
    with pytest.raises(NotFound, match=r"the bundle of version 1 \(f:1\) is not kept any more"):
        await w.registry.rollback(function.id)


# ---- provisioned concurrency


@pytest.mark.parametrize(
    ("annotations", "count"),
    [
        ({PCU_STRATEGY: "CONSTANT", PCU_COUNT: 40}, 40),
        ({PCU_STRATEGY: "CONSTANT", PCU_COUNT: "80"}, 80),
        ({PCU_STRATEGY: "NONE"}, 0),
        ({PCU_COUNT: 40}, 0),
    ],
)
async def test_pcu_from_annotations(w: World, annotations: dict[str, Any], count: int) -> None:
    assert (await function_of(w, await app_of(w), annotations=annotations)).pcu_count == count


@pytest.mark.parametrize(
    "annotations",
    [
        {PCU_STRATEGY: "SOME"},
        {PCU_STRATEGY: "CONSTANT"},
        {PCU_STRATEGY: "CONSTANT", PCU_COUNT: "many"},
        {PCU_STRATEGY: "CONSTANT", PCU_COUNT: True},
        {PCU_STRATEGY: "CONSTANT", PCU_COUNT: 40.0},
        {PCU_STRATEGY: "CONSTANT", PCU_COUNT: -40},
        {PCU_STRATEGY: "CONSTANT", PCU_COUNT: 10**12},
        {PCU_STRATEGY: ["CONSTANT"], PCU_COUNT: 40},
    ],
)
async def test_pcu_annotations_that_make_no_sense(w: World, annotations: dict[str, Any]) -> None:
    app = await app_of(w)
    with pytest.raises(BadRequest, match=f"annotation {PCU_STRATEGY} must be"):
        await function_of(w, app, annotations=annotations)
    await w.assert_catalog_is_what_is_stored()
    assert w.catalog.functions == {}


async def test_the_field_wins_and_the_annotations_follow(w: World) -> None:
    app = await app_of(w)
    function = await function_of(w, app, annotations={PCU_STRATEGY: "CONSTANT", PCU_COUNT: 40}, pcu_count=80)
    assert (function.pcu_count, function.annotations[PCU_COUNT]) == (80, 80)
    function = await w.registry.update_function(function.id, FunctionChange(pcu_count=0))
    assert (function.pcu_count, function.annotations) == (0, {PCU_STRATEGY: "NONE"})
    echoed = await w.registry.update_function(function.id, FunctionChange(annotations=function.annotations))
    assert echoed == function
    function = await w.registry.update_function(
        function.id, FunctionChange(annotations={PCU_STRATEGY: "CONSTANT", PCU_COUNT: 40})
    )
    assert function.pcu_count == 40
    assert (
        await w.registry.update_function(function.id, FunctionChange(annotations={PCU_STRATEGY: ""}))
    ).pcu_count == 0


async def test_pcu_steps_and_the_nodes_limit(tmp_path: Path) -> None:
    async with world(tmp_path, pcu=Pcu(memory_mib=128 * 100)) as w:
        app = await app_of(w)
        with pytest.raises(BadRequest, match=r"multiple of 40, not 41; nearest allowed: 40 or 80"):
            await function_of(w, app, pcu_count=41)
        first = await function_of(w, app, pcu_count=40)
        await function_of(w, app, "g", pcu_count=40)
        with pytest.raises(BadRequest, match=r"pcu\.memory_mib = 12800 MB"):
            await function_of(w, app, "h", pcu_count=40)
        with pytest.raises(BadRequest, match=r"40 x 256 MB = 10240 MB, with 5120 MB of other functions 15360 MB"):
            await w.registry.update_function(first.id, FunctionChange(memory_mib=256))
        await w.registry.update_function(first.id, FunctionChange(pcu_count=0))
        await function_of(w, app, "h", pcu_count=40)
        assert sum(f.pcu_count for f in w.catalog.functions.values()) == 80
        await w.assert_catalog_is_what_is_stored()


async def test_deploys_that_go_on_count_towards_the_limit(tmp_path: Path) -> None:
    async with world(tmp_path, pcu=Pcu(memory_mib=128 * 60)) as w:
        app = await app_of(w)
        w.deployer.hold = trio.Event()
        outcomes: list[str] = []

        async def create(name: str) -> None:
            try:
                outcomes.append((await function_of(w, app, name, pcu_count=40)).name)
            except BadRequest:
                outcomes.append("refused")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(create, "f")
            nursery.start_soon(create, "g")
            await trio.testing.wait_all_tasks_blocked()
            w.deployer.hold.set()
        assert sorted(outcomes)[-1] == "refused"
        assert len(w.catalog.functions) == 1
        w.deployer.hold = None
        await w.registry.delete_function(next(iter(w.catalog.functions)))
        await function_of(w, app, "h", pcu_count=40)  # what was promised to the refused one is free again


async def test_any_steps(tmp_path: Path) -> None:
    async with world(tmp_path, pcu=Pcu(steps="any")) as w:
        assert (await function_of(w, await app_of(w), pcu_count=3)).pcu_count == 3


# ---- expects.config


async def test_required_config_may_come_from_the_function_or_its_app(w: World) -> None:
    await w.push("f:1", expects=("A", "B"))
    app = await app_of(w)
    with pytest.raises(InvalidFunction, match="function f needs config A, B"):
        await function_of(w, app)
    await w.registry.update_app(app.id, AppChange(config={"A": "1"}))
    with pytest.raises(InvalidFunction, match="function f needs config B:"):
        await function_of(w, app)
    function = await function_of(w, app, config={"B": "2"})
    with pytest.raises(InvalidFunction, match="needs config B"):
        await w.registry.update_function(function.id, FunctionChange(config={"B": ""}))
    with pytest.raises(InvalidFunction, match="function f needs config A"):
        await w.registry.update_app(app.id, AppChange(config={"A": ""}))
    await w.registry.update_function(function.id, FunctionChange(config={"A": "here"}))
    await w.registry.update_app(app.id, AppChange(config={"A": ""}))
    await w.assert_catalog_is_what_is_stored()


# ---- apps


async def test_an_apps_config_reconfigures_its_functions_and_nothing_else_does(w: World) -> None:
    app = await app_of(w)
    await w.registry.update_app(app.id, AppChange(annotations={"a": 1}, syslog_url="udp://h:1"))
    assert w.deployer.reconfigured == []
    changed = await w.registry.update_app(app.id, AppChange(config={"a": "1"}))
    assert w.deployer.reconfigured == [changed]
    await w.registry.update_app(app.id, AppChange(config={"a": "1"}))
    assert len(w.deployer.reconfigured) == 1


async def test_a_client_that_leaves_does_not_leave_the_functions_with_the_old_config(w: World) -> None:
    app = await app_of(w)
    with trio.CancelScope() as scope:
        scope.cancel()
        await w.registry.update_app(app.id, AppChange(config={"a": "1"}))
    assert [a.config for a in w.deployer.reconfigured] == [w.registry.app(app.id).config] == [{"a": "1"}]


async def test_concurrent_merges_all_count(w: World) -> None:
    app = await app_of(w)
    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(w.registry.update_app, app.id, AppChange(config={f"k{number}": "v"}))
    assert len(w.registry.app(app.id).config) == 50
    await w.assert_catalog_is_what_is_stored()


async def test_deleting_an_app_tells_of_each_of_its_functions(w: World) -> None:
    app, other = await app_of(w), await app_of(w, "other")
    ids = {(await function_of(w, app, name)).id for name in ("f", "g")}
    kept = await function_of(w, other)
    await w.registry.create_trigger(TriggerChange(name="t", app_id=app.id, fn_id=min(ids), type="http", source="/t"))
    await w.registry.delete_app(app.id)
    assert set(w.deployer.forgotten) == ids
    assert (list(w.catalog.apps), list(w.catalog.functions), w.catalog.triggers) == ([other.id], [kept.id], {})
    await w.assert_catalog_is_what_is_stored()


# ---- who waits for whom


async def test_of_two_functions_of_one_name_one_is_made(w: World) -> None:
    app = await app_of(w)
    outcomes: list[str] = []

    async def create() -> None:
        try:
            await function_of(w, app)
            outcomes.append("made")
        except Conflict as exc:
            outcomes.append(exc.message)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(create)
    assert sorted(outcomes) == ["Fn with specified name already exists"] * 4 + ["made"]
    assert len(w.deployer.deployed) == 1, "the others never cost a canary"
    assert w.registry._locks == {}


async def test_changes_of_one_function_wait_for_each_other(w: World) -> None:
    function = await function_of(w, await app_of(w))
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(w.registry.update_function, function.id, FunctionChange(config={f"k{number}": "v"}))
    live = w.registry.function(function.id).live
    assert (live.number, len(live.config)) == (21, 20)
    assert w.registry._locks == {}
    await w.assert_catalog_is_what_is_stored()


async def test_a_delete_waits_for_the_deploy_and_then_nothing_is_left(w: World) -> None:
    function = await function_of(w, await app_of(w))
    w.deployer.hold = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(w.registry.update_function, function.id, FunctionChange(timeout_s=9))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(w.registry.delete_function, function.id)
        await trio.testing.wait_all_tasks_blocked()
        assert function.id in w.catalog.functions
        w.deployer.hold.set()
    assert w.catalog.functions == {}
    await w.assert_catalog_is_what_is_stored()


async def test_an_app_deleted_under_a_deploy_takes_the_function_along(w: World) -> None:
    app = await app_of(w)
    w.deployer.hold = trio.Event()
    errors: list[str] = []

    async def create() -> None:
        try:
            await function_of(w, app)
        except NotFound as exc:
            errors.append(exc.message)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(create)
        await trio.testing.wait_all_tasks_blocked()
        await w.registry.delete_app(app.id)
        w.deployer.hold.set()
    assert errors == ["App not found"]
    assert (w.catalog.apps, w.catalog.functions) == ({}, {})
    await w.assert_catalog_is_what_is_stored()


async def test_a_deploy_that_is_given_up_lets_the_next_one_in(w: World) -> None:
    function = await function_of(w, await app_of(w))
    w.deployer.hold = trio.Event()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(w.registry.update_function, function.id, FunctionChange(timeout_s=9))
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    w.deployer.hold = None
    assert (await w.registry.update_function(function.id, FunctionChange(timeout_s=8))).live.timeout_s == 8
    assert (w.registry._locks, w.registry._promised_mib) == ({}, {})
