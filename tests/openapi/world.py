"""A daemon with one of everything, and the descriptions of its APIs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from schemathesis.specs.openapi import checks as openapi_checks

from daemon.http.openapi import build
from tests.system.daemon import PATIENCE_S, Daemon, Reply, bundle, eventually

ECHOES = """
import io
from fdk import response

def handler(ctx, data: io.BytesIO = None):
    return response.Response(ctx, response_data=data.getvalue(), headers={"Content-Type": "application/octet-stream"})
"""
FAILS = """
def handler(ctx, data=None):
    raise ValueError("always")
"""
STREAMS = ("/logs/stream", "/debug")
"""Ends of paths whose answers do not end by themselves."""
CHECKS = [
    schemathesis.checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
    # What the description does not allow is refused.
    openapi_checks.negative_data_rejection,
]


def _loose(value: Any) -> bool:
    """An empty parameter counts as not given, and of a repeated one the first counts: schemathesis does not know."""
    return value in ("", None, "null") or not isinstance(value, (str, int, float))


def described(name: str) -> Any:
    """A description as schemathesis reads it."""
    return schemathesis.openapi.from_dict(build.document(name))


@dataclass
class World:
    """The daemon, and ids of what is there: what path and query parameters are filled with."""

    daemon: Daemon
    ids: dict[str, str] = field(default_factory=dict)
    public_key: str = ""

    def fill(self, path: str) -> dict[str, str]:
        """Values for the placeholders of a path."""
        names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
        return {name: self.ids.get(f"{path} {name}") or self.ids[name] for name in names}

    def call(self, case: Any) -> Any:
        """Send a case and check the answer against its description."""
        response = case.call(base_url=self.daemon.url, timeout=PATIENCE_S)
        loose = any(map(_loose, (case.query or {}).values()))
        case.validate_response(response, checks=CHECKS[:-1] if loose else CHECKS)
        return response


def new_public_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def furnish(daemon: Daemon) -> World:
    """Make one of everything."""
    world = World(daemon, public_key=new_public_key())
    api, ids = daemon.api, world.ids
    digest = daemon.push(bundle(ECHOES), "hello:1")["digest"]
    fn = daemon.deploy("fn", ECHOES, annotations={"stoker.dev/record-bodies": True})
    app = daemon.app()
    trigger = api("POST", "/v2/triggers", {"app_id": app, "fn_id": fn, "name": "t", "type": "http", "source": "/t"})
    fails = daemon.deploy("fails", FAILS, annotations={"stoker.dev/retry": {"attempts": 1}})
    call_id = daemon.invoke(fn, "{}").headers["fn-call-id"]
    eventually(lambda: daemon.request("GET", f"/stoker/v1/calls/{call_id}").status == 200, what="the call's record")
    assert daemon.invoke(fails, b"x", {"Fn-Invoke-Type": "detached"}).status == 202
    letter = eventually(lambda: api("GET", "/stoker/v1/deadletters")["items"], what="a dead letter")[0]["call_id"]
    iam = "/stoker/v1/iam"
    user = api("POST", f"{iam}/users", {"name": "ada", "public_key": world.public_key})
    api("POST", f"{iam}/groups", {"name": "people"})
    api("POST", f"{iam}/dynamic-groups", {"name": "functions", "rule": "ALL {resource.type = 'fnfunc'}"})
    api("POST", f"{iam}/policies", {"name": "p", "statements": ["Allow group people to read fn-app in tenancy"]})
    tenancy = api("GET", iam)["tenancy_id"]
    compartment = api("POST", f"{iam}/compartments", {"name": "web"})["id"]
    token = api("POST", f"{iam}/users/ada/tokens", {})["id"]
    oci_app = api(
        "POST", "/20260325/applications", {"compartmentId": tenancy, "displayName": "ociapp", "subnetIds": []}
    )["id"]
    made = _oci_function(daemon, oci_app, "ocifn")
    listing = api("GET", "/20260325/pbfListings")["items"][0]["id"]
    version = api("GET", f"/20260325/pbfListingVersions?pbfListingId={listing}")["items"][0]["id"]
    runtime = api("GET", "/20260325/functionsRuntimes")["items"][0]
    ids |= {
        "app_id": app, "fn_id": fn, "id": fn, "function_id": fn, "trigger_id": trigger["id"], "call_id": call_id,
        "type": "http", "source": "/t", "digest": digest, "image": "hello:1", "name": "native", "user": "ada",
        "group": "people", "policy": "p", "compartment": "web", "fingerprint": user["keys"][0]["fingerprint"],
        "token_id": token, "tenancy": tenancy, "compartment_id": compartment, "application_id": oci_app,
        "listing_id": listing, "listing_version_id": version, "runtime_id": runtime["id"],
        "runtime_version_id": runtime["currentFunctionsRuntimeVersionId"], "fails": fails,
        "work_request_id": made.headers["opc-work-request-id"],
    }  # fmt: skip
    for version_ in ("20181201", "20260325"):
        ids[f"/{version_}/functions/{{function_id}} function_id"] = made.json["id"]
        ids[f"/{version_}/functions/{{function_id}}/actions/invoke function_id"] = made.json["id"]
    deadletter = "/stoker/v1/functions/{id}/deadletters"
    for path in (f"{deadletter}/{{call_id}}", deadletter, f"{deadletter}/redrive", f"{deadletter}/purge"):
        ids[f"{path} id"] = fails
    ids[f"{deadletter}/{{call_id}} call_id"] = letter
    ids["/stoker/v1/iam/dynamic-groups/{group} group"] = "functions"
    return world


def _oci_function(daemon: Daemon, app_id: str, name: str) -> Reply:
    details = {
        "displayName": name, "applicationId": app_id, "memoryInMBs": 128,
        "sourceDetails": {"sourceType": "CONTAINER_IMAGE", "image": "hello:1"},
    }  # fmt: skip
    reply = daemon.request("POST", "/20260325/functions", json.dumps(details), {"Content-Type": "application/json"})
    assert reply.status == 202, reply.body
    ocid = reply.json["id"]
    eventually(lambda: daemon.api("GET", f"/20260325/functions/{ocid}")["lifecycleState"] == "ACTIVE", what="ACTIVE")
    return reply
