"""The OCI API where identities are enforced: refusals in OCI's form, and policies that hold for its paths."""

from __future__ import annotations

import json
from pathlib import Path

from daemon import ocid
from tests.iam.node import run_node
from tests.system.daemon import HELLO


def test_refusals_have_ocis_form_and_policies_hold(tmp_path: Path) -> None:
    with run_node(tmp_path / "data") as node:
        function_id = ocid.function_ocid(node.deploy("shop", "hello", HELLO))
        tenancy = node.local("GET", "/stoker/v1/iam")["tenancy_id"]
        node.user("ada", administrator=True)
        node.user("bob", 1)
        node.local("POST", "/stoker/v1/iam/groups", {"name": "Callers"})
        node.local("PUT", "/stoker/v1/iam/groups/Callers/members/bob")
        node.policy("callers", "Allow group Callers to use fn-invocation in tenancy")
        get, invoke = f"/20260325/functions/{function_id}", f"/20260325/functions/{function_id}/actions/invoke"
        listing = f"/20181201/applications?compartmentId={tenancy}"
        for method, target in (("GET", get), ("POST", invoke), ("GET", listing), ("GET", "/20260325/nothing")):
            reply = node.send(method, target)
            assert (reply.status, reply.json["code"], set(reply.json)) == (401, "NotAuthenticated", {"code", "message"})
            assert reply.headers["opc-request-id"]
        assert node.signed("ada", "GET", get).json["id"] == function_id
        assert [item["displayName"] for item in node.signed("ada", "GET", listing).json] == ["shop"]
        made = node.signed("ada", "POST", "/20181201/applications", {
            "compartmentId": tenancy, "displayName": "made", "subnetIds": [],
        })  # fmt: skip
        assert (made.status, made.json["compartmentId"]) == (200, tenancy)
        assert node.signed("bob", "POST", invoke, "x").status == 200
        for method, target, body in (
            ("GET", get, None),
            ("GET", listing, None),
            ("DELETE", get, None),
            ("PUT", get, {"config": {}}),
            ("POST", "/20260325/applications", {"compartmentId": tenancy, "displayName": "no", "subnetIds": []}),
            ("GET", f"/20260325/workRequests?compartmentId={tenancy}", None),
        ):
            reply = node.signed("bob", method, target, body)
            assert (reply.status, reply.json["code"]) == (404, "NotAuthorizedOrNotFound"), target
        assert json.loads(node.signed("ada", "POST", invoke, "x").body)
