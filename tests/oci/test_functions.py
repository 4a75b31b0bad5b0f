"""Functions with Oracle's SDKs, both versions of the API."""

from __future__ import annotations

from typing import Any

import pytest

from daemon import ocid
from tests.oci.clients import Refused, Sdk
from tests.oci.conftest import NAMES
from tests.system.daemon import HELLO, Daemon, bundle


def image_of(client: Sdk, function: dict[str, Any]) -> tuple[str, str]:
    """Image and digest, wherever the version has them."""
    where = function if client.classic else function["source_details"]
    return where["image"], where["image_digest"]


def constant(count: int) -> dict[str, Any]:
    return {"$model": "ConstantProvisionedConcurrencyConfig", "count": count}


def test_every_field_comes_back(client: Sdk, app: str, node: Daemon) -> None:
    fields = {
        "config": {"KEY": "value"},
        "memory_in_mbs": 512,
        "timeout_in_seconds": 300,
        "detached_mode_timeout_in_seconds": 3600,
        "trace_config": {"$model": "FunctionTraceConfig", "is_enabled": True},
        "success_destination": {"$model": "StreamSuccessDestinationDetails", "stream_id": "done"},
        "failure_destination": {"$model": "QueueFailureDestinationDetails", "queue_id": "failed", "channel_id": "c"},
        "freeform_tags": {"a": "b"},
        "defined_tags": {"ns": {"k": 1}},
    }
    made = client.function(app, "fields", **fields)
    for field in ("config", "memory_in_mbs", "timeout_in_seconds", "detached_mode_timeout_in_seconds", "freeform_tags",
                  "defined_tags"):  # fmt: skip
        assert made[field] == fields[field], field
    assert made["application_id"] == app
    assert made["compartment_id"] == client.manage("get_application", app).data["compartment_id"]
    assert made["trace_config"] == {"is_enabled": True}
    assert made["success_destination"] == {"kind": "STREAM", "stream_id": "done"}
    assert made["failure_destination"] == {"kind": "QUEUE", "queue_id": "failed", "channel_id": "c"}
    assert made["invoke_endpoint"] == node.url
    assert made["provisioned_concurrency_config"] is None
    image, digest = image_of(client, made)
    assert (image, digest[:7]) == ("hello:1", "sha256:")
    (summary,) = client.manage("list_functions", app).data
    assert "config" not in summary
    assert {key: made[key] for key in summary} == summary
    none = {"$model": "NoneSuccessDestinationDetails"}
    assert client.update(made["id"], success_destination=none)["success_destination"] == {"kind": "NONE"}


def test_what_is_not_given_has_ocis_defaults(client: Sdk, app: str) -> None:
    made = client.function(app, "defaults")
    assert (made["memory_in_mbs"], made["timeout_in_seconds"]) == (128, 30)
    assert made["detached_mode_timeout_in_seconds"] is None
    assert (made["config"], made["freeform_tags"], made["defined_tags"]) == ({}, {}, {})
    assert made["trace_config"] == {"is_enabled": False}
    assert made["success_destination"] == made["failure_destination"] == {"kind": "NONE"}


def test_one_store_for_both_versions_and_for_fn(new: Sdk, classic: Sdk, node: Daemon) -> None:
    app_id = node.app("shared")
    by_fn = node.deploy("by-fn", HELLO, app="shared")
    app = ocid.application_ocid(app_id)
    by_new = new.function(app, "by-new")["id"]
    by_classic = classic.function(app, "by-classic")["id"]
    expected = ["by-classic", "by-fn", "by-new"]
    for client in (new, classic):
        assert [item["display_name"] for item in client.manage("list_functions", app).data] == expected
        for id_ in (by_new, by_classic, ocid.function_ocid(by_fn), by_fn):
            assert client.manage("get_function", id_).data["lifecycle_state"] == "ACTIVE"
            assert client.invoke(id_, "x").data["content"] == '{"hello": "x"}'
    assert [item["name"] for item in node.api("GET", f"/v2/fns?app_id={app_id}")["items"]] == expected
    assert node.invoke(ocid.parse(by_new), "y").json == {"hello": "y"}
    node.api("PUT", f"/v2/fns/{ocid.parse(by_new)}", {"config": {"SEEN": "yes"}, "memory": 256})
    got = classic.manage("get_function", by_new).data
    assert (got["config"], got["memory_in_mbs"]) == ({"SEEN": "yes"}, 256)
    node.api("DELETE", f"/v2/fns/{ocid.parse(by_classic)}")
    with pytest.raises(Refused):
        new.manage("get_function", by_classic)


def test_an_update_merges_and_replaces_as_oci_does(client: Sdk, app: str, node: Daemon) -> None:
    made = client.function(app, "update", config={"A": "1", "B": "2"}, freeform_tags={"x": "1"})
    got = client.update(made["id"], config={"B": "3"}, timeout_in_seconds=45)
    assert (got["config"], got["timeout_in_seconds"], got["freeform_tags"]) == ({"B": "3"}, 45, {"x": "1"})
    assert image_of(client, got) == image_of(client, made)
    if not client.classic:  # the CLI sends this when no image was given
        got = client.update(made["id"], source_details={"$model": "UpdateContainerImageFunctionSourceDetails"})
        assert image_of(client, got) == image_of(client, made)
    node.push(bundle(HELLO.replace("hello", "hallo")), f"hallo:{next(NAMES)}")
    image = node.api("GET", "/stoker/v1/bundles?name=hallo")["items"][-1]["image"]
    change = {"image": image}
    if not client.classic:
        change = {"source_details": {"$model": "UpdateContainerImageFunctionSourceDetails", "image": image}}  # type: ignore[dict-item]
    got = client.update(made["id"], **change)
    assert image_of(client, got)[0] == image
    assert image_of(client, got)[1] != image_of(client, made)[1]
    assert client.invoke(made["id"], "x").data["content"] == '{"hallo": "x"}'
    assert got["config"] == {"B": "3"}


def test_a_digest_pins_the_image(client: Sdk, app: str, node: Daemon) -> None:
    first = client.function(app, "first")
    digest = image_of(client, first)[1]
    source: dict[str, Any] = {"image": "hello:1", "image_digest": digest}
    wrong = {**source, "image_digest": "sha256:" + "0" * 64}
    if client.classic:
        del source["image"], wrong["image"]
        image = "hello:1"
    else:
        model, image = {"$model": "CreateContainerImageFunctionSourceDetails"}, ""
        source, wrong = {"source_details": {**model, **source}}, {"source_details": {**model, **wrong}}
    assert image_of(client, client.function(app, "pinned", image=image, **source)) == ("hello:1", digest)
    with pytest.raises(Refused, match="imageDigest: there is no bundle"):
        client.create(app, "wrong", image=image, **wrong)


def test_an_unknown_image_says_how_to_push_it(client: Sdk, app: str) -> None:
    with pytest.raises(Refused, match=r"stoker push DIRECTORY nowhere:1") as refused:
        client.create(app, "unknown", image="nowhere:1")
    assert (refused.value.status, refused.value.code) == (400, "InvalidParameter")
    assert client.manage("list_functions", app).data == []


def test_a_stale_etag_stops_every_change(client: Sdk, app: str) -> None:
    made = client.function(app, "etag")["id"]
    etag = client.manage("get_function", made).header("etag")
    client.update(made, if_match=etag, config={"A": "1"})
    details = {"$model": "UpdateFunctionDetails", "config": {"A": "2"}}
    for method, args in (("update_function", (made, details)), ("delete_function", (made,))):
        with pytest.raises(Refused) as refused:
            client.manage(method, *args, if_match=etag)
        assert (refused.value.status, refused.value.code) == (412, "NoEtagMatch")
    client.manage("delete_function", made, if_match=client.manage("get_function", made).header("etag"))


def test_the_etag_of_a_create_outlives_the_deploy(new: Sdk) -> None:
    app = new.app(f"etag{next(NAMES)}")["id"]
    made = new.create(app, "fresh")
    new.settled(made)
    new.update(made.data["id"], if_match=made.header("etag"), freeform_tags={"a": "b"})


def test_lists_are_filtered_sorted_and_paged(client: Sdk, app: str) -> None:
    made = [client.function(app, f"f{n}") for n in (2, 3, 1)]
    first = client.manage("list_functions", app, limit=2)
    assert [item["display_name"] for item in first.data] == ["f1", "f2"]
    second = client.manage("list_functions", app, limit=2, page=first.next_page)
    assert ([item["display_name"] for item in second.data], second.next_page) == (["f3"], None)
    newest = client.manage("list_functions", app, sort_by="timeCreated", sort_order="DESC").data
    assert [item["display_name"] for item in newest] == ["f1", "f3", "f2"]
    for filters, expected in (
        ({"display_name": "f2"}, ["f2"]),
        ({"id": made[1]["id"]}, ["f3"]),
        ({"lifecycle_state": "ACTIVE"}, ["f1", "f2", "f3"]),
        ({"lifecycle_state": "DELETED"}, []),
    ):
        found = client.manage("list_functions", app, **filters).data
        assert [item["display_name"] for item in found] == expected, filters
    with pytest.raises(Refused, match="page: it continues a list sorted by displayName ASC"):
        client.manage("list_functions", app, page=first.next_page, sort_order="DESC")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"memory_in_mbs": 100}, "memoryInMBs must be one of 128, 256, 512, 1024, 2048, 3072, not 100"),
        ({"memory_in_mbs": 4096}, "not 4096"),
        ({"timeout_in_seconds": 301}, "timeoutInSeconds must be a whole number from 1 to 300, not 301"),
        ({"timeout_in_seconds": 0}, "not 0"),
        ({"detached_mode_timeout_in_seconds": 4}, "detachedModeTimeoutInSeconds must be a whole number from 5 to 3600"),
        ({"detached_mode_timeout_in_seconds": 3601}, "not 3601"),
        ({"config": {"A B": "x"}}, "config: the key 'A B'"),
        ({"config": {"A": "x" * 4096}}, "4097 bytes"),
        ({"success_destination": {"$model": "StreamSuccessDestinationDetails"}}, "successDestination.streamId is req"),
        ({"provisioned_concurrency_config": constant(41)}, "multiple of 40, not 41; nearest allowed: 40 or 80"),
        ({"provisioned_concurrency_config": constant(0)}, "provisionedConcurrencyConfig.count"),
        ({"provisioned_concurrency_config": constant(30), "memory_in_mbs": 256}, "positive multiple of 20, not 30"),
        ({"provisioned_concurrency_config": constant(15), "memory_in_mbs": 512}, "positive multiple of 10, not 15"),
        ({"display_name": "a/b"}, "name must be a valid string"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(client: Sdk, app: str, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(Refused) as refused:
        client.create(app, "wrong", **fields)
    assert (refused.value.status, refused.value.code) == (400, "InvalidParameter")
    assert text in refused.value.message
    assert client.manage("list_functions", app).data == [], "nothing is left of it"


def test_what_must_be_there_is_asked_for(client: Sdk, app: str) -> None:
    for fields, text in (
        ({"image": ""}, "image is required." if client.classic else "sourceDetails is required."),
        ({"memory_in_mbs": None}, "memoryInMBs is required."),
    ):
        with pytest.raises(Refused) as refused:
            client.create(app, "missing", **fields)
        assert (refused.value.code, refused.value.message) == ("InvalidParameter", text)


def test_a_name_is_taken_once_in_an_application(client: Sdk, app: str) -> None:
    client.function(app, "twice")
    with pytest.raises(Refused) as refused:
        client.create(app, "twice")
    assert (refused.value.status, refused.value.code) == (409, "NotAuthorizedOrResourceAlreadyExists")


@pytest.mark.parametrize("wrong", ["ocid1.fnfunc.oc1.iad.aaaa", "nothing", "ocid1.fnapp.oc1.stoker." + "0" * 26])
def test_what_is_not_there_is_not_found(client: Sdk, wrong: str) -> None:
    details = {"$model": "UpdateFunctionDetails", "config": {}}
    for method, args in (("get_function", ()), ("delete_function", ()), ("update_function", (details,))):
        with pytest.raises(Refused) as refused:
            client.manage(method, wrong, *args)
        assert (refused.value.status, refused.value.code) == (404, "NotAuthorizedOrNotFound")
    with pytest.raises(Refused) as refused:
        client.invoke(wrong)
    assert (refused.value.status, refused.value.code) == (404, "NotAuthorizedOrNotFound")
    with pytest.raises(Refused) as refused:
        client.create(wrong, "lost")
    assert (refused.value.status, refused.value.code) == (404, "NotAuthorizedOrNotFound")


def test_provisioned_concurrency_is_kept_and_its_rules_hold_on_updates(client: Sdk, app: str, node: Daemon) -> None:
    made = client.function(app, "pcu", memory_in_mbs=512, provisioned_concurrency_config=constant(10))
    assert made["provisioned_concurrency_config"] == {"strategy": "CONSTANT", "count": 10}
    assert len(node.instances(ocid.parse(made["id"]))) >= 10
    with pytest.raises(Refused, match="positive multiple of 40, not 10"):
        client.update(made["id"], memory_in_mbs=128)
    got = client.update(made["id"], provisioned_concurrency_config={"$model": "NoneProvisionedConcurrencyConfig"})
    assert got["provisioned_concurrency_config"] == {"strategy": "NONE"}, "said, and so shown: Terraform compares"
    client.manage("delete_function", made["id"])


def test_more_than_the_node_may_provision_is_refused_with_the_arithmetic(client: Sdk, app: str) -> None:
    with pytest.raises(
        Refused, match=r"50 x 1024 MB = 51200 MB, with 0 MB of other functions.*40960 MB; largest allowed: 40"
    ) as refused:
        client.create(app, "much", memory_in_mbs=1024, provisioned_concurrency_config=constant(50))
    assert (refused.value.status, refused.value.code) == (400, "LimitExceeded")


def test_a_function_is_updating_while_its_new_version_is_made(new: Sdk, node: Daemon) -> None:
    slow = "import time; time.sleep(1.5)\n" + HELLO
    node.push(bundle(slow), "slow:1")
    app = new.app(f"slow{next(NAMES)}")["id"]
    made = new.create(app, "slow", image="slow:1")
    assert made.data["lifecycle_state"] == "CREATING"
    details = {"$model": "UpdateFunctionDetails", "config": {"A": "1"}}
    for call in (lambda: new.manage("delete_function", made.data["id"]),
                 lambda: new.manage("update_function", made.data["id"], details)):  # fmt: skip
        with pytest.raises(Refused) as refused:
            call()
        assert (refused.value.status, refused.value.code) == (409, "IncorrectState"), "which clients try again"
    assert new.settled(made)["status"] == "SUCCEEDED"
    answer = new.manage("update_function", made.data["id"], details)
    assert new.manage("get_function", made.data["id"]).data["lifecycle_state"] == "UPDATING"
    assert new.invoke(made.data["id"], "x").data["content"] == '{"hello": "x"}', "the old version serves meanwhile"
    assert new.settled(answer)["status"] == "SUCCEEDED"
    got = new.manage("get_function", made.data["id"]).data
    assert (got["lifecycle_state"], got["config"]) == ("ACTIVE", {"A": "1"})
