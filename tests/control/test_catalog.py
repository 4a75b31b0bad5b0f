"""The catalog after any changes equals one loaded from what is left."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from daemon.catalog import MATCH, Catalog
from daemon.model import App, Function, Trigger, Version

APPS = [App(id=f"A{n}", name=f"app{n}") for n in range(2)]
LIVE = Version(function_id="", number=1, image="i", digest="")
FUNCTIONS = [
    Function(id=f"F{n}", app_id=f"A{n % 2}", name=f"f{n}", live=replace(LIVE, function_id=f"F{n}")) for n in range(4)
]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put app", "drop app", "put fn", "drop fn", "put trigger", "drop trigger"]),
        st.integers(0, 3),
        st.integers(0, 2),
    ),
    max_size=40,
)


@given(STEPS)
def test_any_changes_leave_what_loading_the_rest_would_give(steps: list[tuple[str, int, int]]) -> None:
    catalog = Catalog()
    for what, n, source in steps:
        step(catalog, what, n, source)
        loaded = Catalog()
        loaded.load(catalog.apps.values(), catalog.functions.values(), catalog.triggers.values())
        assert state(loaded) == state(catalog)


def step(catalog: Catalog, what: str, n: int, source: int) -> None:
    """One change, as the registry would make it: owners exist, sources are unique."""
    function = FUNCTIONS[n]
    match what:
        case "put app":
            catalog.put_app(replace(APPS[n % 2], config={"n": str(source)}))
        case "drop app":
            catalog.drop_app(f"A{n % 2}")
        case "put fn" if function.app_id in catalog.apps:
            catalog.put_function(replace(function, pcu_count=source))
        case "drop fn":
            catalog.drop_function(function.id)
        case "put trigger" if function.id in catalog.functions:
            trigger = Trigger(id=f"T{source}", name="t", app_id=function.app_id, fn_id=function.id, source=f"/{n}")
            taken = catalog.trigger(f"app{n % 2}", trigger.source)
            old = catalog.triggers.get(trigger.id)
            if (taken is None or taken[1].id == trigger.id) and (old is None or old.app_id == trigger.app_id):
                catalog.put_trigger(trigger)
        case "drop trigger":
            catalog.drop_trigger(f"T{source}")


def state(catalog: Catalog) -> Any:
    return (
        catalog.apps,
        catalog.functions,
        catalog.triggers,
        {app.name: catalog.app_named(app.name) for app in APPS},
        {app.id: {f.id for f in catalog.functions_of(app.id)} for app in APPS},
        {(app.name, n): catalog.trigger(app.name, f"/{n}") for app in APPS for n in range(4)},
    )


def test_a_trigger_is_found_by_exact_source_only() -> None:
    catalog = Catalog()
    trigger = Trigger(id="T", name="t", app_id="A0", fn_id="F0", source="/a/b")
    catalog.load([APPS[0]], [FUNCTIONS[0]], [trigger])
    assert catalog.trigger("app0", "/a/b") == (APPS[0], trigger)
    for app, source in (
        ("app0", "/a/b/"),
        ("app0", "/a"),
        ("app0", "a/b"),
        ("app1", "/a/b"),
        ("", "/a/b"),
        ("A0", "/a/b"),
    ):
        assert catalog.trigger(app, source) is None
    catalog.put_trigger(replace(trigger, source="/c"))
    assert catalog.trigger("app0", "/a/b") is None
    assert catalog.trigger("app0", "/c") is not None


def test_what_is_not_there_is_none() -> None:
    catalog = Catalog()
    assert (catalog.app("x"), catalog.app_named("x"), catalog.function("x"), catalog.functions_of("x")) == (
        None, None, None, [],
    )  # fmt: skip


def test_a_prefix_is_matched_where_an_annotation_says_so() -> None:
    catalog = Catalog()
    catalog.put_app(App(id="a", name="shop"))
    live = Version(function_id="f", number=1, image="i:1", digest="")
    catalog.put_function(Function(id="f", app_id="a", name="f", live=live))
    catalog.put_function(Function(id="g", app_id="a", name="g", live=live, annotations={MATCH: "prefix"}))

    def put(name: str, fn_id: str, source: str, **annotations: str) -> None:
        values = {MATCH: annotations["match"]} if annotations else {}
        catalog.put_trigger(Trigger(id=name, name=name, app_id="a", fn_id=fn_id, source=source, annotations=values))

    put("exact", "f", "/x")
    put("prefix", "f", "/p", match="prefix")
    put("inner", "f", "/p/in", match="exact")
    put("by function", "g", "/g/")
    put("not by function", "g", "/n", match="exact")

    def found(path: str) -> str | None:
        hit = catalog.trigger("shop", path)
        return None if hit is None else hit[1].id

    assert {path: found(path) for path in (
        "/x", "/x/y", "/p", "/p/", "/p/a/b", "/pp", "/p/in", "/p/in/side", "/g/", "/g/x", "/g", "/n", "/n/x", "", "/",
        "//p",
    )} == {
        "/x": "exact", "/x/y": None, "/p": "prefix", "/p/": "prefix", "/p/a/b": "prefix", "/pp": None, "/p/in": "inner",
        "/p/in/side": "prefix", "/g/": "by function", "/g/x": "by function", "/g": None, "/n": "not by function",
        "/n/x": None, "": None, "/": None, "//p": None,
    }  # fmt: skip
    assert found("/p" + "/x" * 64) == "prefix"
    assert found("/p" + "/x" * 65) is None, "the walk is bounded"
    put("root", "f", "/", match="prefix")
    assert (found("/y"), found("/y/z"), found("/x"), found("/x/y")) == ("root", "root", "exact", "root")
