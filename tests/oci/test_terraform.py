"""What Terraform's provider for OCI does, step by step, over signed HTTP: create, refresh, plan, update, destroy.

Terraform itself cannot be had from the package indexes that tests may use. This plays its provider's part, as its
public source and documentation tell (resources ``oci_functions_application``, ``oci_functions_function`` and
``oci_functions_invoke_function``, API version 20181201): which members it sends when, what it reads back, and above all
that a plan after an apply is empty: what it reads must be what it was told, or Terraform wants to change it for ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.iam.node import Node, run_node
from tests.system.daemon import HELLO, Reply, bundle

BASE = "/20181201"
GO_ORDER = ("date", "(request-target)", "host")
GO_BODY_ORDER = (*GO_ORDER, "content-length", "content-type", "x-content-sha256")
GO_HEADERS = {
    "user-agent": "Oracle-GoSDK/65.117.1 (linux/amd64; go/go1.23.7)", "opc-client-info": "Oracle-GoSDK/65.117.1",
    "accept": "*/*", "accept-encoding": "gzip", "opc-client-retries": "true",
}  # fmt: skip
APPLICATION = (
    "compartmentId", "displayName", "subnetIds", "config", "definedTags", "freeformTags", "imagePolicyConfig",
    "networkSecurityGroupIds", "shape", "syslogUrl", "traceConfig", "securityAttributes",
)  # fmt: skip
FUNCTION = (
    "applicationId", "displayName", "memoryInMBs", "image", "imageDigest", "sourceDetails", "config", "definedTags",
    "freeformTags", "provisionedConcurrencyConfig", "timeoutInSeconds", "traceConfig",
)  # fmt: skip
FORCES_NEW = {"displayName", "subnetIds", "shape", "applicationId", "sourceDetails"}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    config = "{auth: {mode: iam}, limits: {memory_mib: 40960}}"
    with run_node(tmp_path_factory.mktemp("terraform") / "data", config=config) as node:
        node.user("terry", administrator=True)
        for number in (1, 2):
            node.local("PUT", f"/stoker/v1/bundles/hello:{number}", bundle(HELLO, extra={"resources/n": str(number)}))
        yield node


@dataclass
class Resource:
    """One resource of a state file, and the provider's code for it."""

    node: Node
    path: str
    members: tuple[str, ...]
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return str(self.state["id"])

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        order = GO_BODY_ORDER if method in ("POST", "PUT") else GO_ORDER
        return self.node.signed(
            "terry", method, path, body, names=order, extra={**GO_HEADERS, **headers},
            authorization='Signature version="1",headers="{headers}",keyId="{key_id}",algorithm="rsa-sha256",'
            'signature="{signature}"',
        )  # fmt: skip

    def apply(self, config: dict[str, Any]) -> list[str]:
        """Make the world as configured, and check that there is then nothing left to do; which members changed."""
        changed = self.plan(config)
        if not self.state:
            made = self.send("POST", f"{BASE}/{self.path}", config)
            assert made.status == 200, made.body
            self.state = made.json
            while self.state["lifecycleState"] == "CREATING":
                self.refresh()
            assert self.state["lifecycleState"] == "ACTIVE"
        elif changed:
            self._update(config, changed)
        self.refresh()
        assert self.plan(config) == [], "the next plan is not empty"
        return changed

    def plan(self, config: dict[str, Any]) -> list[str]:
        """Members that differ from what was read; those that are not configured are computed: whatever they are."""
        return [name for name, value in config.items() if self.state.get(name) != value]

    def _update(self, config: dict[str, Any], changed: list[str]) -> None:
        assert not FORCES_NEW & set(changed), "Terraform would make it anew"
        if "compartmentId" in changed:
            moved = self.send(
                "POST", f"{BASE}/{self.path}/{self.id}/actions/changeCompartment",
                {"compartmentId": config["compartmentId"]},
            )  # fmt: skip
            assert moved.status == 204
            self.refresh()
        # It sends all that is configured, and what was read of the rest.
        known = {name: self.state[name] for name in self.members if self.state.get(name) is not None}
        never = FORCES_NEW | {"compartmentId"}
        body = {name: value for name, value in {**known, **config}.items() if name not in never}
        if "image" in changed and "imageDigest" not in config:
            del body["imageDigest"]  # else the old image would go on
        done = self.send("PUT", f"{BASE}/{self.path}/{self.id}", body)
        assert done.status == 200, done.body
        assert done.json["id"] == self.id

    def refresh(self) -> None:
        found = self.send("GET", f"{BASE}/{self.path}/{self.id}")
        assert found.status == 200, found.body
        self.state = found.json

    def destroy(self) -> None:
        assert self.send("DELETE", f"{BASE}/{self.path}/{self.id}").status == 204
        assert self.send("GET", f"{BASE}/{self.path}/{self.id}").status == 404
        self.state = {}


def application(node: Node, name: str, **config: Any) -> tuple[Resource, dict[str, Any]]:
    tenancy = node.local("GET", "/stoker/v1/iam")["tenancy_id"]
    resource = Resource(node, "applications", APPLICATION)
    wanted = {"compartmentId": tenancy, "displayName": name, "subnetIds": ["ocid1.subnet.oc1..a"], **config}
    resource.apply(wanted)
    return resource, wanted


def test_an_application_with_only_what_is_required_and_with_everything(node: Node) -> None:
    least, _ = application(node, "least")
    least.destroy()
    full, config = application(
        node, "full", config={"MY_FUNCTION_CONFIG": "ConfVal"}, definedTags={"ns": {"tag": "value"}},
        freeformTags={"Department": "Finance"}, networkSecurityGroupIds=["ocid1.networksecuritygroup.oc1..one"],
        imagePolicyConfig={"isPolicyEnabled": False, "keyDetails": [{"kmsKeyId": "ocid1.key.oc1..k"}]},
        shape="GENERIC_X86", syslogUrl="tcp://syslog.test:80",
        traceConfig={"domainId": "ocid1.apmdomain.oc1..d", "isEnabled": False},
    )  # fmt: skip
    id_ = full.id
    web = node.local("POST", "/stoker/v1/iam/compartments", {"name": "web"})["id"]
    assert full.apply({**config, "compartmentId": web}) == ["compartmentId"]
    changes = {
        "compartmentId": config["compartmentId"], "definedTags": {"ns": {"tag": "updatedValue"}},
        "freeformTags": {"Department": "Accounting"}, "syslogUrl": "tcp://syslog2.test:80",
        "networkSecurityGroupIds": ["ocid1.networksecuritygroup.oc1..two"],
        "imagePolicyConfig": {"isPolicyEnabled": True, "keyDetails": [{"kmsKeyId": "ocid1.key.oc1..k"}]},
        "traceConfig": {"domainId": "ocid1.apmdomain.oc1..d", "isEnabled": True},
    }  # fmt: skip
    assert set(full.apply({**config, **changes})) == set(changes)
    assert full.id == id_
    # terraform import: all that it knows is the id.
    imported = Resource(node, "applications", APPLICATION, {"id": id_})
    imported.refresh()
    assert imported.plan({**config, **changes}) == []
    full.destroy()


def test_a_function_from_creation_to_destruction(node: Node) -> None:
    app, _ = application(node, "functions")
    digest, newer = (node.local("GET", f"/stoker/v1/bundles?name=hello:{n}")["items"][0]["digest"] for n in (1, 2))
    function = Resource(node, "functions", FUNCTION)
    least = {"applicationId": app.id, "displayName": "ExampleFunction", "memoryInMBs": 128, "image": "hello:1"}
    function.apply(least)
    assert function.state["imageDigest"] == digest
    function.destroy()
    config = {
        **least, "imageDigest": digest, "config": {"MY_FUNCTION_CONFIG": "ConfVal"}, "timeoutInSeconds": 30,
        "definedTags": {"ns": {"tag": "value"}}, "freeformTags": {"Department": "Finance"},
        "provisionedConcurrencyConfig": {"strategy": "CONSTANT", "count": 40}, "traceConfig": {"isEnabled": False},
    }  # fmt: skip
    function.apply(config)
    id_ = function.id
    changes = {
        "memoryInMBs": 256, "image": "hello:2", "imageDigest": newer, "timeoutInSeconds": 31,
        "definedTags": {"ns": {"tag": "updatedValue"}}, "freeformTags": {"Department": "Accounting"},
        "provisionedConcurrencyConfig": {"strategy": "NONE"}, "traceConfig": {"isEnabled": True},
    }  # fmt: skip
    assert set(function.apply({**config, **changes})) == set(changes)
    assert function.id == id_
    listed = function.send(
        "GET", f"{BASE}/functions?applicationId={app.id}&displayName=ExampleFunction&id={id_}&lifecycleState=ACTIVE"
    ).json
    assert [item["id"] for item in listed] == [id_]
    assert listed[0]["provisionedConcurrencyConfig"] == {"strategy": "NONE"}
    imported = Resource(node, "functions", FUNCTION, {"id": id_})
    imported.refresh()
    assert imported.plan({**config, **changes}) == []
    # Without a digest in the configuration another image brings its own, and other changes leave it.
    del config["imageDigest"]
    assert function.apply({**config, "image": "hello:1"})
    assert function.state["imageDigest"] == digest
    function.apply({**config, "image": "hello:1", "timeoutInSeconds": 29})
    assert function.state["imageDigest"] == digest
    function.destroy()
    app.destroy()


def test_a_function_of_a_listing(node: Node) -> None:
    app, _ = application(node, "prebuilt")
    function = Resource(node, "functions", FUNCTION)
    listings = function.send("GET", f"{BASE}/pbfListings?lifecycleState=ACTIVE").json["items"]
    assert function.send("GET", f"{BASE}/pbfListings/{listings[0]['id']}").json["name"] == listings[0]["name"]
    source = {"sourceType": "PRE_BUILT_FUNCTIONS", "pbfListingId": listings[0]["id"]}
    config = {"applicationId": app.id, "displayName": "pbf", "memoryInMBs": 128, "sourceDetails": source}
    function.apply({**config, "config": {"MY_FUNCTION_CONFIG": "ConfVal"}})
    assert function.apply({**config, "memoryInMBs": 256}) == ["memoryInMBs"]
    function.destroy()
    app.destroy()


def test_an_invocation(node: Node) -> None:
    app, _ = application(node, "invocations")
    function = Resource(node, "functions", FUNCTION)
    function.apply({"applicationId": app.id, "displayName": "f", "memoryInMBs": 128, "image": "hello:1"})
    assert function.state["invokeEndpoint"] == node.url, "the provider puts its client on this"
    path = f"{BASE}/functions/{function.id}/actions/invoke"
    octets = {"content-type": "application/octet-stream"}
    assert function.send("POST", path, b"Ada", **octets).json == {"hello": "Ada"}
    assert function.send("POST", path, b"", **octets).json == {"hello": "world"}
    intent = {"fn-intent": "cloudevent", "fn-invoke-type": "sync"}
    assert function.send("POST", path, b"Ada", **octets, **intent).status == 200
    detached = function.send("POST", path, b"Ada", **octets, **{"fn-invoke-type": "detached"})
    assert (detached.status, detached.body) == (202, b"")
    function.destroy()
    app.destroy()
