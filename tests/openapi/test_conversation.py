"""Each operation, done well once: what a daemon answers then is what the description says, its status included."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import httpx
import pytest

from daemon.http.openapi import build
from tests.iam.node import run_node
from tests.openapi.world import CHECKS, STREAMS, World, described, furnish, new_public_key
from tests.system.daemon import bundle, eventually, run_daemon


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with run_daemon(tmp_path_factory.mktemp("talk") / "data", config="limits: {memory_mib: 40960}") as daemon:
        yield furnish(daemon)


class Talk:
    """Requests that must succeed, checked against one description."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        found = [result.ok() for result in described(name).get_all_operations()]
        self.operations = {(op.method.upper(), op.path): op for op in found}
        self.left = {key for key in self.operations if not key[1].endswith(STREAMS)}

    def say(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """One request; ``path`` as in the description, its placeholders filled with what is there or with ``query``."""
        operation = self.operations[method, path]
        places = re.findall(r"{(\w+)}", path)
        filled = {name: query.pop(name, None) or self.world.fill(path)[name] for name in places}
        headers = query.pop("headers", {})
        kwargs: dict[str, Any] = {"path_parameters": filled, "query": query, "headers": headers}
        if body is not None:
            kwargs |= {"body": body, "media_type": query.pop("media_type", "application/json")}
            if isinstance(body, bytes):
                kwargs["media_type"] = "application/octet-stream"
        response = self.world.call(operation.Case(**kwargs))
        assert response.status_code < 300 or response.status_code == 410, response.text
        self.left.discard((method, path))
        return response.json() if "json" in response.headers.get("content-type", [""])[0] and response.content else None

    def look(self) -> None:
        """Everything that is only looked at."""
        for method, path in sorted(self.left):
            if method == "GET":
                self.say(method, path, **self._needed(method, path))

    def _needed(self, method: str, path: str) -> dict[str, str]:
        ids = self.world.ids
        known = {"app_id": ids["app_id"], "compartmentId": ids["tenancy"], "applicationId": ids["application_id"]}
        known |= {"pbfListingId": ids["listing_id"]}
        operation = self.operations[method, path]
        return {p.name: known[p.name] for p in operation.query if p.is_required}


def layer() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("python/known.py", "x = 1\n")
    return buffer.getvalue()


def test_the_native_api(world: World) -> None:
    talk, ids = Talk(world, "native"), world.ids
    packed = layer()
    digest = f"sha256:{sha256(packed).hexdigest()}"
    talk.say("PUT", "/stoker/v1/layers/{digest}", packed, digest=digest)
    talk.say("GET", "/stoker/v1/layers/{digest}", digest=digest)
    # Clients that put URLs together fold the two slashes of this one.
    by_source = ("GET", "/v2/runner/apps/{app_id}/triggerBySource/{type}/{source}")
    answer = httpx.get(f"{world.daemon.url}/v2/runner/apps/{ids['app_id']}/triggerBySource/http/%2Ft")
    case = talk.operations[by_source].Case(path_parameters={"app_id": ids["app_id"], "type": "http", "source": "/t"})
    case.validate_response(answer, checks=CHECKS)
    assert answer.json()["id"] == ids["trigger_id"]
    talk.left.remove(by_source)
    talk.look()
    fn, iam = "/stoker/v1/functions/{id}", "/stoker/v1/iam"
    app = talk.say("POST", "/v2/apps", {"name": "new", "config": {"A": "1"}, "annotations": {"a": [1]}})["id"]
    talk.say("PUT", "/v2/apps/{app_id}", {"config": {"B": "2"}}, app_id=app)
    made = talk.say("POST", "/v2/fns", {"app_id": app, "name": "f", "image": "hello:1", "memory": 128})["id"]
    talk.say("PUT", "/v2/fns/{fn_id}", {"memory": 256}, fn_id=made)
    talk.say("PUT", "/v2/fns/{fn_id}", {"provisioned_concurrency": {"strategy": "NONE"}}, fn_id=made)
    trigger = {"app_id": app, "fn_id": made, "name": "t", "type": "http", "source": "/new"}
    trigger_id = talk.say("POST", "/v2/triggers", trigger)["id"]
    talk.say("PUT", "/v2/triggers/{trigger_id}", {"source": "/newer"}, trigger_id=trigger_id)
    talk.say("POST", "/invoke/{function_id}", b"abc")
    talk.say("POST", "/invoke/{function_id}", b"abc", headers={"Fn-Invoke-Type": "detached"})
    talk.say("POST", f"{fn}/calls/{{call_id}}/replay")
    talk.say("POST", f"{fn}/rollback", {}, id=made)
    talk.say("POST", f"{fn}/restart", id=made)
    talk.say("POST", f"{fn}/deadletters/redrive", {})
    eventually(lambda: world.daemon.api("GET", "/stoker/v1/deadletters")["items"], what="the dead letter again")
    talk.say("POST", f"{fn}/deadletters/purge", {})
    # bundles: in the description both spellings of the name share one path
    image = bundle("def handler(ctx, data=None):\n    return b''\n")
    talk.say("PUT", "/stoker/v1/bundles/{digest}", image, digest="new:1")
    talk.say("DELETE", "/stoker/v1/bundles/{digest}", digest="new:1")
    # identity
    talk.say("POST", f"{iam}/users", {"name": "eve", "public_key": new_public_key()})
    key = talk.say("POST", f"{iam}/users/{{user}}/keys", {"public_key": new_public_key()}, user="eve")
    token = talk.say("POST", f"{iam}/users/{{user}}/tokens", {"ttl_s": 60}, user="eve")
    talk.say("POST", f"{iam}/users/{{user}}/sessions", {"public_key": new_public_key()}, user="eve")
    talk.say("POST", f"{iam}/groups", {"name": "g"})
    talk.say("PUT", f"{iam}/groups/{{group}}/members/{{user}}", group="g", user="eve")
    talk.say("GET", f"{iam}/users/{{user}}", user="eve")
    talk.say("GET", f"{iam}/groups")
    rule = {"name": "d", "rule": f"ANY {{resource.id = '{ids['fn_id']}'}}"}
    talk.say("POST", f"{iam}/dynamic-groups", rule)
    statements = ["Allow group g to use fn-invocation in tenancy"]
    talk.say("POST", f"{iam}/policies", {"name": "q", "statements": statements})
    talk.say("PUT", f"{iam}/policies/{{policy}}", {"statements": statements}, policy="q")
    talk.say("POST", f"{iam}/explain", {"user": "eve", "permission": "FN_INVOCATION", "of_function": made})
    talk.say("POST", f"{iam}/explain", {"user": "ada", "verb": "manage", "resource": "functions-family"})
    talk.say("POST", f"{iam}/compartments", {"name": "c", "parent": "web"})
    for path, what in (
        ("/compartments/{compartment}", {"compartment": "web:c"}), ("/policies/{policy}", {"policy": "q"}),
        ("/dynamic-groups/{group}", {"group": "d"}), ("/groups/{group}/members/{user}", {"group": "g", "user": "eve"}),
        ("/groups/{group}", {"group": "g"}),
        ("/users/{user}/tokens/{token_id}", {"user": "eve", "token_id": token["id"]}),
        ("/users/{user}/keys/{fingerprint}", {"user": "eve", "fingerprint": key["fingerprint"]}),
        ("/users/{user}", {"user": "eve"}),
    ):  # fmt: skip
        talk.say("DELETE", iam + path, **what)
    talk.say("DELETE", "/v2/triggers/{trigger_id}", trigger_id=trigger_id)
    talk.say("DELETE", "/v2/fns/{fn_id}", fn_id=made)
    talk.say("DELETE", "/v2/apps/{app_id}", app_id=app)
    assert talk.left == set()


@pytest.mark.parametrize("version", ["20181201", "20260325"])
def test_the_oci_apis(version: str, world: World) -> None:
    talk, ids, classic = Talk(world, f"oci-{version}"), world.ids, version == "20181201"
    talk.look()
    apps, functions = f"/{version}/applications", f"/{version}/functions"
    app_path, fn_path = f"{apps}/{{application_id}}", f"{functions}/{{function_id}}"
    details = {
        "compartmentId": ids["tenancy"], "displayName": f"app{version}", "subnetIds": [], "shape": "GENERIC_X86",
        "config": {"A": "1"}, "traceConfig": {"isEnabled": False}, "logging": {"lineFormat": "JSON"},
        "imagePolicyConfig": {"isPolicyEnabled": False}, "freeformTags": {"a": "b"}, "definedTags": {"n": {"k": 1}},
        "syslogUrl": "udp://127.0.0.1:9",
    }  # fmt: skip
    app = talk.say("POST", apps, details)["id"]
    talk.say("GET", app_path, application_id=app)
    talk.say("PUT", app_path, {"freeformTags": {}}, application_id=app)
    compartment = {"compartmentId": ids["compartment_id"]}
    talk.say("POST", f"{app_path}/actions/changeCompartment", compartment, application_id=app)
    image = (
        {"image": "hello:1"} if classic else {"sourceDetails": {"sourceType": "CONTAINER_IMAGE", "image": "hello:1"}}
    )
    made = talk.say(
        "POST", functions,
        {
            "displayName": "f", "applicationId": app, "memoryInMBs": 128, **image, "timeoutInSeconds": 30,
            "detachedModeTimeoutInSeconds": 60, "successDestination": {"kind": "STREAM", "streamId": "s"},
            "failureDestination": {"kind": "QUEUE", "queueId": "q", "channelId": "c"}, "config": {"B": "2"},
            "traceConfig": {"isEnabled": True}, "provisionedConcurrencyConfig": {"strategy": "NONE"},
        },
    )["id"]  # fmt: skip
    daemon = world.daemon
    eventually(lambda: daemon.api("GET", f"{functions}/{made}")["lifecycleState"] == "ACTIVE", what="ACTIVE")
    talk.say("GET", fn_path, function_id=made)
    talk.say("GET", functions, applicationId=app)
    talk.say("PUT", fn_path, {"memoryInMBs": 256, "failureDestination": {"kind": "NONE"}}, function_id=made)
    eventually(lambda: daemon.api("GET", f"{functions}/{made}")["lifecycleState"] == "ACTIVE", what="ACTIVE")
    talk.say("POST", f"{fn_path}/actions/invoke", b"abc", function_id=made)
    talk.say("POST", f"{fn_path}/actions/invoke", b"abc", function_id=made, headers={"is-dry-run": "True"})
    talk.say("POST", f"{fn_path}/actions/invoke", b"abc", function_id=made, headers={"fn-invoke-type": "detached"})
    talk.say("DELETE", fn_path, function_id=made)
    talk.say("DELETE", app_path, application_id=app)
    never = set() if classic else {("DELETE", "/20260325/workRequests/{work_request_id}")}
    assert talk.left == never


@pytest.mark.parametrize("path", ["/stoker/v1/logs/stream", "/stoker/v1/functions/{id}/logs/stream"])
def test_the_streams_begin_as_described(path: str, world: World) -> None:
    said = build.document("native")["paths"][path]["get"]["responses"]["200"]["content"]
    with httpx.stream("GET", world.daemon.url + path.replace("{id}", world.ids["id"]), timeout=60) as answer:
        assert answer.status_code == 200
        assert list(said) == [answer.headers["content-type"].partition(";")[0]]
        assert next(answer.iter_bytes())


def test_a_node_serves_its_descriptions(world: World) -> None:
    for name in build.NAMES:
        assert world.daemon.api("GET", f"/stoker/v1/openapi/{name}") == build.document(name)
    assert json.loads(world.daemon.request("GET", "/stoker/v1/openapi/other").body)["code"] == "not-found"


def test_nobody_unknown_gets_in_anywhere(tmp_path_factory: pytest.TempPathFactory) -> None:
    """In mode iam every operation but health refuses who does not say who he is, and says so in the form described."""
    with run_node(tmp_path_factory.mktemp("strict") / "data") as node:
        asked = 0
        for name in build.NAMES:
            for result in described(name).get_all_operations():
                operation = result.ok()
                filled = dict.fromkeys(re.findall(r"{(\w+)}", operation.path), "x")
                path = operation.path.format(**filled)
                with httpx.stream(operation.method.upper(), node.url + path, timeout=60) as answer:
                    answer.read()
                if path == "/health":
                    assert answer.status_code == 200
                    continue
                assert answer.status_code == 401, (operation.method, path, answer.text)
                operation.Case(path_parameters=filled).validate_response(answer, checks=CHECKS)
                asked += 1
        assert asked > 130
