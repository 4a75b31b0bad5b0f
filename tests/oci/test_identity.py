"""The OCI API where identities are enforced: refusals in OCI's form, and policies that hold for its paths."""

from __future__ import annotations

import json
from pathlib import Path

from daemon import ocid
from tests.iam.node import run_node
from tests.system.daemon import HELLO, bundle


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


def test_a_work_request_is_seen_by_who_may_see_what_it_is_about(tmp_path: Path) -> None:
    with run_node(tmp_path / "data") as node:
        node.local("PUT", "/stoker/v1/bundles/hello:1", bundle(HELLO))
        places = {
            name: node.local("POST", "/stoker/v1/iam/compartments", {"name": name})["id"] for name in ("web", "ops")
        }
        node.user("ada", administrator=True)
        for number, (name, kinds) in enumerate(
            {"deva": "functions-family", "apps": "fn-app", "fns": "fn-function"}.items()
        ):
            node.user(name, number + 1)
            node.local("POST", "/stoker/v1/iam/groups", {"name": f"G{name}"})
            node.local("PUT", f"/stoker/v1/iam/groups/G{name}/members/{name}")
            node.policy(f"p{name}", f"Allow group G{name} to read {kinds} in compartment web")
        works: dict[tuple[str, str], str] = {}
        for place, compartment in places.items():
            made = node.signed("ada", "POST", "/20260325/applications", {
                "compartmentId": compartment, "displayName": place, "subnetIds": [],
            })  # fmt: skip
            works[place, "application"] = made.headers["opc-work-request-id"]
            made = node.signed("ada", "POST", "/20260325/functions", {
                "displayName": "f", "applicationId": made.json["id"], "memoryInMBs": 128,
                "sourceDetails": {"sourceType": "CONTAINER_IMAGE", "image": "hello:1"},
            })  # fmt: skip
            works[place, "function"] = made.headers["opc-work-request-id"]

        def seen(user: str) -> set[tuple[str, str]]:
            found = set()
            for key, work in works.items():
                parts = ("", "/errors", "/logs")
                answers = {node.signed(user, "GET", f"/20260325/workRequests/{work}{part}").status for part in parts}
                assert answers in ({200}, {404}), (user, key)
                cancel = node.signed(user, "DELETE", f"/20260325/workRequests/{work}").status
                assert cancel == (409 if answers == {200} else 404)
                if answers == {200}:
                    found.add(key)
            return found

        def listed(user: str, place: str) -> set[str] | int:
            reply = node.signed(user, "GET", f"/20260325/workRequests?compartmentId={places[place]}")
            kinds = (item["resources"][0]["entityType"] for item in reply.json["items"]) if reply.status == 200 else ()
            return set(kinds) if reply.status == 200 else reply.status

        assert seen("ada") == set(works)
        assert seen("deva") == {("web", "application"), ("web", "function")}
        assert seen("apps") == {("web", "application")}
        assert seen("fns") == {("web", "function")}
        assert (listed("ada", "ops"), listed("deva", "web")) == ({"application", "function"},) * 2
        assert (listed("apps", "web"), listed("fns", "web")) == ({"application"}, {"function"})
        assert {listed(user, "ops") == 404 for user in ("deva", "apps", "fns")} == {True}
        # When the app is gone, who may read apps where it was may still read what became of it.
        app = next(item for item in node.local("GET", "/v2/apps")["items"] if item["name"] == "web")
        node.local("DELETE", f"/v2/apps/{app['id']}")
        assert seen("apps") == {("web", "application")}
        assert seen("fns") == {("web", "function")}
        # Lists of Fn's API are cut, and their cursors name nothing else.
        node.local("POST", "/v2/apps", {"name": "zeb", "compartment_id": places["web"]})
        page = node.signed("apps", "GET", "/v2/apps?per_page=1").json
        assert [item["name"] for item in page["items"]] == ["zeb"]
        assert "b3Bz" not in page["next_cursor"], "ops"
        assert "items" in node.signed("apps", "GET", f"/v2/apps?per_page=1&cursor={page['next_cursor']}").json
