"""Applications with Oracle's SDKs, both versions of the API."""

from __future__ import annotations

import pytest

from tests.oci.clients import Refused, Sdk
from tests.oci.conftest import NAMES
from tests.system.daemon import Daemon

TENANCY = "ocid1.tenancy.oc1..throwaway"


def names(client: Sdk, **filters: object) -> list[str]:
    return [item["display_name"] for item in client.manage("list_applications", TENANCY, **filters).data]


def test_every_field_comes_back(client: Sdk) -> None:
    name = f"fields{next(NAMES)}"
    fields = {
        "config": {"KEY": "value", "_x1": "ü"},
        "subnet_ids": ["ocid1.subnet.oc1.iad.a", "ocid1.subnet.oc1.iad.b"],
        "shape": "GENERIC_X86_ARM",
        "network_security_group_ids": ["ocid1.networksecuritygroup.oc1.iad.a"],
        "syslog_url": "tcp://logs.example.com:514",
        "trace_config": {"$model": "ApplicationTraceConfig", "is_enabled": True, "domain_id": "ocid1.apmdomain.oc1..a"},
        "logging": {"$model": "ApplicationLoggingConfig", "line_format": "JSON"},
        "image_policy_config": {
            "$model": "ImagePolicyConfig", "is_policy_enabled": False,
            "key_details": [{"$model": "KeyDetails", "kms_key_id": "ocid1.key.oc1.iad.a"}],
        },
        "security_attributes": {"zpr": {"app": {"value": "web", "mode": "enforce"}}},
        "freeform_tags": {"team": "a"},
        "defined_tags": {"ns": {"cost": "42"}},
    }  # fmt: skip
    made = client.app(name, **fields)
    got = client.manage("get_application", made["id"]).data
    assert got == made
    assert (got["display_name"], got["lifecycle_state"]) == (name, "ACTIVE")
    assert got["id"].startswith("ocid1.fnapp.oc1.")
    assert got["trace_config"] == {"is_enabled": True, "domain_id": "ocid1.apmdomain.oc1..a"}
    assert got["logging"] == {"line_format": "JSON"}
    assert got["image_policy_config"]["key_details"] == [{"kms_key_id": "ocid1.key.oc1.iad.a"}]
    for field in ("config", "subnet_ids", "shape", "network_security_group_ids", "syslog_url", "freeform_tags",
                  "defined_tags", "security_attributes"):  # fmt: skip
        assert got[field] == fields[field], field
    (summary,) = client.manage("list_applications", TENANCY, display_name=name).data
    assert "config" not in summary
    assert "syslog_url" not in summary
    assert {key: got[key] for key in summary} == summary


def test_an_update_replaces_the_maps_it_mentions_and_leaves_the_rest(client: Sdk) -> None:
    made = client.app(
        f"update{next(NAMES)}", config={"A": "1", "B": "2"}, freeform_tags={"x": "1"}, syslog_url="udp://h:1"
    )
    details = {"$model": "UpdateApplicationDetails", "config": {"B": "3"}, "defined_tags": {"n": {"k": "v"}}}
    answer = client.manage("update_application", made["id"], details)
    got = client.manage("get_application", made["id"]).data
    assert (got["config"], got["freeform_tags"], got["defined_tags"]) == ({"B": "3"}, {"x": "1"}, {"n": {"k": "v"}})
    assert got["syslog_url"] == "udp://h:1"
    if client.classic:
        assert answer.data["config"] == {"B": "3"}
        assert answer.header("etag")
    else:
        work = client.settled(answer)
        assert (work["operation_type"], work["status"]) == ("UPDATE_APPLICATION", "SUCCEEDED")
        assert work["resources"][0]["identifier"] == made["id"]
    empty = {"$model": "UpdateApplicationDetails", "config": {}, "freeform_tags": {}}
    client.manage("update_application", made["id"], empty)
    got = client.manage("get_application", made["id"]).data
    assert (got["config"], got["freeform_tags"], got["defined_tags"]) == ({}, {}, {"n": {"k": "v"}})


def test_a_stale_etag_stops_every_change(client: Sdk) -> None:
    made = client.app(f"etag{next(NAMES)}")["id"]
    etag = client.manage("get_application", made).header("etag")
    details = {"$model": "UpdateApplicationDetails", "config": {"A": "1"}}
    client.manage("update_application", made, details, if_match=etag)
    move = {"$model": "ChangeApplicationCompartmentDetails", "compartment_id": TENANCY}
    for method, args in (
        ("update_application", (made, details)),
        ("delete_application", (made,)),
        ("change_application_compartment", (made, move)),
    ):
        with pytest.raises(Refused) as refused:
            client.manage(method, *args, if_match=etag)
        assert (refused.value.status, refused.value.code) == (412, "NoEtagMatch")
    now = client.manage("get_application", made).header("etag")
    assert now != etag
    client.manage("delete_application", made, if_match=now)
    with pytest.raises(Refused) as refused:
        client.manage("get_application", made)
    assert (refused.value.status, refused.value.code) == (404, "NotAuthorizedOrNotFound")


def test_lists_are_filtered_sorted_and_paged(client: Sdk, node: Daemon) -> None:
    prefix = f"list{next(NAMES)}-"
    made = [client.app(f"{prefix}{n}") for n in (3, 1, 2)]
    by_name = sorted(f"{prefix}{n}" for n in (1, 2, 3))

    def mine(**kwargs: object) -> list[str]:
        found, page = [], {}
        while True:
            answer = client.manage("list_applications", TENANCY, limit=2, **kwargs, **page)
            assert len(answer.data) <= 2
            found += [item["display_name"] for item in answer.data if item["display_name"].startswith(prefix)]
            if not answer.next_page:
                return found
            page = {"page": answer.next_page}

    assert mine() == by_name
    assert mine(sort_by="displayName", sort_order="DESC") == by_name[::-1]
    assert mine(sort_by="timeCreated", sort_order="ASC") == [f"{prefix}{n}" for n in (3, 1, 2)]
    assert mine(sort_by="timeCreated") == [f"{prefix}{n}" for n in (2, 1, 3)], "the newest first"
    assert names(client, id=made[0]["id"]) == [f"{prefix}3"]
    assert names(client, display_name=f"{prefix}1", lifecycle_state="ACTIVE") == [f"{prefix}1"]
    assert names(client, display_name=f"{prefix}1", lifecycle_state="FAILED") == []
    assert f"{prefix}1" in [item["name"] for item in node.api("GET", "/v2/apps?per_page=100")["items"]]


def test_a_name_is_taken_once(client: Sdk) -> None:
    name = f"twice{next(NAMES)}"
    client.app(name)
    with pytest.raises(Refused, match=f"{name}.* exists already") as refused:
        client.app(name)
    assert (refused.value.status, refused.value.code) == (409, "NotAuthorizedOrResourceAlreadyExists")
    assert refused.value.id, "opc-request-id is on errors too"


def test_an_application_with_functions_is_not_deleted(client: Sdk, app: str) -> None:
    made = client.function(app, "inside")
    with pytest.raises(Refused, match="1 function: delete them first") as refused:
        client.manage("delete_application", app)
    assert (refused.value.status, refused.value.code) == (409, "Conflict")
    client.manage("delete_function", made["id"])
    answer = client.manage("delete_application", app)
    if not client.classic:
        assert client.settled(answer)["operation_type"] == "DELETE_APPLICATION"


def test_it_moves_between_compartments(client: Sdk, node: Daemon, app: str) -> None:
    body = {"name": f"team{next(NAMES)}"}
    compartment = node.api("POST", "/stoker/v1/iam/compartments", body)["id"]
    move = {"$model": "ChangeApplicationCompartmentDetails", "compartment_id": compartment}
    answer = client.manage("change_application_compartment", app, move)
    assert answer.status == (204 if client.classic else 202)
    assert client.manage("get_application", app).data["compartment_id"] == compartment
    assert [item["id"] for item in client.manage("list_applications", compartment).data] == [app]
    unknown = {"$model": "ChangeApplicationCompartmentDetails", "compartment_id": "ocid1.compartment.oc1..nowhere"}
    with pytest.raises(Refused) as refused:
        client.manage("change_application_compartment", app, unknown)
    assert (refused.value.status, refused.value.code) == (404, "NotAuthorizedOrNotFound")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"display_name": ""}, "displayName is required"),
        ({"display_name": "no spaces here"}, "Invalid app name"),
        ({"subnet_ids": ["ocid1.subnet.oc1..a"] * 4}, "subnetIds must be a list of at most 3 OCIDs"),
        ({"config": {"1A": "x"}}, "config: the key '1A'"),
        ({"config": {"A-B": "x"}}, "config: the key 'A-B'"),
        ({"config": {"A": "x\n"}}, "printable"),
        ({"config": {"A": "ü" * 2048}}, "4097 bytes in UTF-8, at most 4096"),
        ({"syslog_url": "ftp://h"}, "syslogUrl must be"),
        ({"freeform_tags": {"k": "v" * 257}}, "freeformTags: the value of 'k'"),
        ({"defined_tags": {"ns": {"k": "v" * 257}}}, "definedTags.ns"),
    ],
)
def test_a_wrong_field_is_named(client: Sdk, fields: dict[str, object], text: str) -> None:
    with pytest.raises(Refused) as refused:
        client.app(**{"name": f"wrong{next(NAMES)}", **fields})  # type: ignore[arg-type]
    assert (refused.value.status, refused.value.code) == (400, "InvalidParameter")
    assert text in refused.value.message


def test_config_of_exactly_4096_bytes_is_taken(client: Sdk) -> None:
    made = client.app(f"full{next(NAMES)}", config={"A": "x" * 4095})
    assert len(made["config"]["A"]) == 4095
