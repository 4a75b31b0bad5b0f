"""What any keeper of records must do: records come back as given, rules hold, deletes take what hangs on."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.catalog import Catalog
from daemon.errors import BadRequest, Conflict, NotFound
from daemon.model import App, Bundle, Function, Trigger, Version
from daemon.store import records
from daemon.store.database import migrate

DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
APP = App(id="A", name="app", config={"k": "v"}, annotations={"a": [1, {"b": None}]}, created_at=1, updated_at=2)
VERSION = Version(function_id="F", number=1, image="f:1", digest=DIGEST, config={"x": "1"}, created_at=3)
FUNCTION = Function(id="F", app_id="A", name="f", live=VERSION, annotations={"z": 1.5}, pcu_count=40, created_at=4)
TRIGGER = Trigger(id="T", name="t", app_id="A", fn_id="F", source="/t", annotations={"q": "r"}, created_at=5)
BUNDLE = Bundle(digest=DIGEST, packed_bytes=10, unpacked_bytes=20, files=3, expects=("K1", "K2"), created_at=6)


def connect() -> sqlite3.Connection:
    conn = sqlite3.connect(":memory:", isolation_level=None)
    conn.row_factory = sqlite3.Row
    conn.execute("PRAGMA foreign_keys=ON")
    migrate(conn)
    return conn


@pytest.fixture
def conn() -> Iterator[sqlite3.Connection]:
    conn = connect()
    yield conn
    conn.close()


@pytest.fixture
def full(conn: sqlite3.Connection) -> sqlite3.Connection:
    """One of each."""
    records.insert_app(conn, APP)
    records.set_bundle(conn, BUNDLE)
    records.set_reference(conn, "f:1", DIGEST)
    records.save_function(conn, FUNCTION)
    records.insert_trigger(conn, TRIGGER)
    return conn


def rows(conn: sqlite3.Connection) -> dict[str, int]:
    tables = ("apps", "functions", "versions", "triggers", "bundles", "refs")
    return {table: conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}


def test_everything_comes_back_as_it_was_given(full: sqlite3.Connection) -> None:
    assert records.app(full, "A") == APP
    ready = replace(FUNCTION, live=replace(VERSION, state="ready"))
    assert records.function(full, "F") == ready
    assert records.trigger(full, "T") == TRIGGER
    assert records.bundle(full, DIGEST) == BUNDLE
    assert records.versions(full, "F") == [ready.live]
    catalog = Catalog()
    records.fill_catalog(full, catalog)
    assert (catalog.apps, catalog.functions, catalog.triggers) == ({"A": APP}, {"F": ready}, {"T": TRIGGER})
    assert catalog.trigger("app", "/t") == (APP, TRIGGER)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(name=TEXT, config=st.dictionaries(TEXT, TEXT, max_size=3), annotations=st.dictionaries(TEXT, JSON, max_size=3))
def test_any_text_and_json_comes_back(name: str, config: dict[str, str], annotations: dict[str, Any]) -> None:
    conn = connect()
    try:
        app = App(id="A", name=name, config=config, annotations=annotations, syslog_url=name)
        records.insert_app(conn, app)
        assert records.app(conn, "A") == app
        assert records.apps(conn, name=name, after="") == ([app] if name else [])
    finally:
        conn.close()


@pytest.mark.parametrize(
    ("find", "message"),
    [
        (records.app, "App not found"),
        (records.function, "Fn not found"),
        (records.trigger, "Trigger not found"),
        (records.delete_app, "App not found"),
        (records.delete_function, "Fn not found"),
        (records.delete_trigger, "Trigger not found"),
        (records.remove_reference, "no bundle named nope"),
    ],
)
def test_what_is_not_there_is_not_found(full: sqlite3.Connection, find: Any, message: str) -> None:
    before = rows(full)
    with pytest.raises(NotFound, match=message):
        find(full, "nope")
    assert rows(full) == before
    assert records.bundle(full, "nope") is None
    assert records.resolve(full, "nope") is None
    assert records.version(full, "F", 9) is None


def test_names_are_taken_once(full: sqlite3.Connection) -> None:
    with pytest.raises(Conflict, match="App already exists"):
        records.insert_app(full, replace(APP, id="A2"))
    with pytest.raises(Conflict, match="Fn with specified name already exists"):
        records.save_function(full, replace(FUNCTION, id="F2", live=replace(VERSION, function_id="F2")))
    with pytest.raises(Conflict, match="Trigger with the same type and source exists on this app"):
        records.insert_trigger(full, replace(TRIGGER, id="T2", name="t2"))
    with pytest.raises(Conflict, match="Trigger already exists"):
        records.insert_trigger(full, replace(TRIGGER, id="T2", source="/t2"))


def test_the_same_names_in_another_app_are_free(full: sqlite3.Connection) -> None:
    records.insert_app(full, replace(APP, id="B", name="other"))
    records.save_function(full, replace(FUNCTION, id="G", app_id="B", live=replace(VERSION, function_id="G")))
    records.insert_trigger(full, replace(TRIGGER, id="U", app_id="B", fn_id="G"))
    assert rows(full)["triggers"] == 2


def test_owners_must_be_there_and_the_right_ones(full: sqlite3.Connection) -> None:
    records.insert_app(full, replace(APP, id="B", name="other"))
    lost = replace(FUNCTION, id="G", app_id="nope", live=replace(VERSION, function_id="G"))
    with pytest.raises(NotFound, match="App not found"):
        records.save_function(full, lost)
    with pytest.raises(NotFound, match="App not found"):
        records.insert_trigger(full, replace(TRIGGER, id="U", app_id="nope"))
    with pytest.raises(NotFound, match="Fn not found"):
        records.insert_trigger(full, replace(TRIGGER, id="U", fn_id="nope"))
    with pytest.raises(BadRequest, match="Invalid Fn ID - not owned by specified app"):
        records.insert_trigger(full, replace(TRIGGER, id="U", app_id="B"))
    records.save_function(full, replace(FUNCTION, id="G", app_id="B", live=replace(VERSION, function_id="G")))
    with pytest.raises(BadRequest, match="Invalid Fn ID - not owned by specified app"):
        records.update_trigger(full, replace(TRIGGER, fn_id="G"))
    with pytest.raises(NotFound, match="Fn not found"):
        records.update_trigger(full, replace(TRIGGER, fn_id="nope"))
    assert records.trigger(full, "T") == TRIGGER
    with pytest.raises(NotFound, match="Fn not found"):
        records.update_function(full, replace(FUNCTION, id="H"))


def test_deleting_an_app_takes_everything_of_it_and_nothing_else(full: sqlite3.Connection) -> None:
    records.insert_app(full, replace(APP, id="B", name="other"))
    records.save_function(full, replace(FUNCTION, id="G", app_id="B", live=replace(VERSION, function_id="G")))
    assert records.delete_app(full, "A") == ["F"]
    assert rows(full) == {"apps": 1, "functions": 1, "versions": 1, "triggers": 0, "bundles": 1, "refs": 1}
    assert records.function(full, "G").app_id == "B"


def test_deleting_a_function_takes_its_versions_and_triggers(full: sqlite3.Connection) -> None:
    records.delete_function(full, "F")
    assert rows(full) == {"apps": 1, "functions": 0, "versions": 0, "triggers": 0, "bundles": 1, "refs": 1}


# ---- versions


def second(state: str = "building") -> Version:
    return replace(VERSION, number=2, digest=OTHER, state=state)


def test_a_deploy_that_works(full: sqlite3.Connection) -> None:
    records.insert_version(full, second())
    assert records.function(full, "F").live.number == 1, "the old one serves until the flip"
    stored = records.save_function(full, replace(FUNCTION, live=second(), updated_at=9))
    assert (stored.live.state, stored.live.number) == ("ready", 2)
    assert records.function(full, "F") == stored
    assert [v.state for v in records.versions(full, "F")] == ["ready", "ready"]


def test_a_deploy_that_fails(full: sqlite3.Connection) -> None:
    records.insert_version(full, second())
    records.fail_version(full, "F", 2, "Traceback ...")
    failed, live = records.versions(full, "F")
    assert (failed.state, failed.error) == ("failed", "Traceback ...")
    assert records.function(full, "F").live == live
    assert records.last_number(full, "F") == 2
    assert records.previous_ready(full, "F", 2) == live


def test_a_failed_rollback_leaves_the_old_version_ready(full: sqlite3.Connection) -> None:
    records.save_function(full, replace(FUNCTION, live=second()))
    records.insert_version(full, replace(VERSION, state="building"))  # the deploy of version 1 once more
    records.fail_version(full, "F", 1, "no memory")
    assert [v.state for v in records.versions(full, "F")] == ["ready", "ready"]
    records.save_function(full, replace(FUNCTION, live=VERSION))
    assert records.function(full, "F").live.number == 1
    assert [v.number for v in records.versions(full, "F")] == [2, 1]


def test_after_a_crash_what_was_building_has_failed(full: sqlite3.Connection) -> None:
    records.insert_version(full, second())
    records.insert_version(full, replace(VERSION, function_id="never-stored"))
    assert records.sweep_building(full) == 2
    assert [(v.number, v.state) for v in records.versions(full, "F")] == [(2, "failed"), (1, "ready")]
    assert "stopped during the deploy" in records.versions(full, "F")[0].error
    assert records.versions(full, "never-stored") == []
    assert records.sweep_building(full) == 0


def test_a_function_that_never_came_to_be_leaves_no_versions(full: sqlite3.Connection) -> None:
    records.insert_version(full, replace(VERSION, function_id="G"))
    records.forget_versions(full, "G")
    records.forget_versions(full, "F")  # which is there
    assert rows(full)["versions"] == 1


def test_old_versions_are_forgotten_but_never_the_live_one(full: sqlite3.Connection) -> None:
    for number in range(2, 8):
        records.insert_version(full, replace(VERSION, number=number, state="ready"))
    records.insert_version(full, replace(VERSION, number=8, state="building"))
    assert records.prune_versions(full, "F", 2) == 4
    assert [v.number for v in records.versions(full, "F")] == [8, 7, 6, 1]
    assert records.function(full, "F").live.number == 1


def test_failed_versions_do_not_push_out_what_can_be_rolled_back_to(full: sqlite3.Connection) -> None:
    for number in range(2, 8):
        records.insert_version(full, replace(VERSION, number=number, state="ready" if number == 2 else "failed"))
    assert records.prune_versions(full, "F", 2) == 3
    assert [(v.number, v.state) for v in records.versions(full, "F")] == [
        (7, "failed"), (6, "failed"), (2, "ready"), (1, "ready"),
    ]  # fmt: skip


# ---- lists


def test_lists_are_in_bytewise_order_and_go_on_where_they_stopped(conn: sqlite3.Connection) -> None:
    names = ["a", "B", "é", "z", "Z", "a-b", "aa", "ü"]
    for name in names:
        records.insert_app(conn, App(id=name, name=name))
    in_order = sorted(names, key=str.encode)
    seen: list[str] = []
    while found := records.apps(conn, after=seen[-1] if seen else "", limit=3):
        seen += [app.name for app in found]
    assert seen == in_order
    assert [app.name for app in records.apps(conn, name="é")] == ["é"]


def test_functions_and_triggers_are_listed_by_owner(full: sqlite3.Connection) -> None:
    records.insert_app(full, replace(APP, id="B", name="other"))
    records.save_function(full, replace(FUNCTION, id="G", app_id="B", live=replace(VERSION, function_id="G")))
    records.save_function(full, replace(FUNCTION, id="H", name="h", live=replace(VERSION, function_id="H")))
    records.insert_trigger(full, replace(TRIGGER, id="U", fn_id="H", source="/u"))  # of the same name: another function
    assert [f.id for f in records.functions(full, app_id="A")] == ["F", "H"]
    assert [f.id for f in records.functions(full, app_id="A", name="h")] == ["H"]
    assert [f.id for f in records.functions(full)] == ["F", "G", "H"]
    assert [t.id for t in records.triggers(full, app_id="A", name="t")] == ["T", "U"]
    assert [t.id for t in records.triggers(full, app_id="A", fn_id="H")] == ["U"]
    assert [t.id for t in records.triggers(full, app_id="A", after=("t", "T"))] == ["U"]
    assert records.triggers(full, app_id="B") == []


# ---- bundles


def test_a_name_points_at_one_bundle_and_can_be_moved(full: sqlite3.Connection) -> None:
    records.set_bundle(full, replace(BUNDLE, digest=OTHER, created_at=7))
    assert records.set_reference(full, "f:1", OTHER, now_ms=9) == DIGEST
    assert records.set_reference(full, "f:2", OTHER, now_ms=9) is None
    assert records.resolve(full, "f:1") == OTHER
    assert records.references(full, name="f") == [("f:1", OTHER, 9), ("f:2", OTHER, 9)]
    assert records.references(full, name="f:2") == [("f:2", OTHER, 9)]
    assert [b.digest for b in records.bundles(full)] == [OTHER, DIGEST]
    with pytest.raises(NotFound, match=r"no bundle sha256:c on this node"):
        records.set_reference(full, "f:1", "sha256:c")
    assert records.remove_reference(full, "f:1") == OTHER
    assert records.resolve(full, "f:1") is None


def test_the_same_bundle_again_changes_nothing(full: sqlite3.Connection) -> None:
    records.set_bundle(full, replace(BUNDLE, files=99))
    assert records.bundle(full, DIGEST) == BUNDLE


def test_a_bundle_is_kept_while_a_name_or_a_version_needs_it(full: sqlite3.Connection) -> None:
    records.set_bundle(full, replace(BUNDLE, digest=OTHER))
    third = "sha256:" + "c" * 64
    records.set_bundle(full, replace(BUNDLE, digest=third))
    records.insert_version(full, second("building"))
    records.insert_version(full, replace(VERSION, number=3, digest=third, state="failed"))
    assert records.digests_in_use(full) == {DIGEST, OTHER}
    assert records.forget_bundles(full, records.digests_in_use(full)) == [third]
    records.delete_function(full, "F")
    assert records.digests_in_use(full) == {DIGEST}, "its name keeps it"
    records.remove_reference(full, "f:1")
    assert sorted(records.forget_bundles(full, records.digests_in_use(full))) == [DIGEST, OTHER]
    assert rows(full)["bundles"] == 0


def test_a_constraint_that_nobody_expects_is_not_dressed_up(conn: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        records.insert_app(conn, replace(APP, name=None))  # type: ignore[arg-type]


def test_the_file_is_what_the_schema_says() -> None:
    conn = connect()
    names = [row[0] for row in conn.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
    conn.close()
    assert names == [
        "api_keys", "apps", "audit", "bearer_tokens", "bundles", "compartments", "deliveries",
        "detached_calls", "functions", "groups", "members",
        "policies", "refs", "triggers", "users", "versions", "work_requests",
    ]  # fmt: skip


def test_an_app_is_in_a_compartment_that_exists(conn: sqlite3.Connection) -> None:
    (root,) = records.compartments(conn)
    assert root.parent_id == ""
    assert root.id.startswith("ocid1.tenancy.oc1..")
    records.insert_app(conn, replace(APP, compartment_id=root.id))
    assert records.app(conn, "A").compartment_id == root.id
    for action in (records.update_app, records.insert_app):
        with pytest.raises(NotFound, match="Compartment not found"):
            action(conn, replace(APP, id="A" if action is records.update_app else "B", name="b", compartment_id="no"))


def test_the_root_compartment_is_another_one_in_each_database(conn: sqlite3.Connection) -> None:
    other = connect()
    assert records.compartments(conn) != records.compartments(other)
    other.close()
