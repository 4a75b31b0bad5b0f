"""What the SDKs would not send, and what they do not show: raw requests against the OCI API."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon import ocid
from tests.oci.clients import Profile, Refused, sdk
from tests.system.daemon import HELLO, Daemon, bundle, eventually, run_daemon

TENANCY = "ocid1.tenancy.oc1..throwaway"
VERSIONS = ("20181201", "20260325")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/nothing", "", 404, "NotFound"),
        ("GET", "/applications", "", 400, "MissingParameter"),
        ("GET", "/functions", "", 400, "MissingParameter"),
        ("GET", "/pbfListingVersions", "", 400, "MissingParameter"),
        ("PATCH", "/applications", "", 405, "MethodNotAllowed"),
        ("POST", "/applications", "{", 400, "CannotParseRequest"),
        ("POST", "/applications", "[]", 400, "CannotParseRequest"),
        ("POST", "/applications", '{"compartmentId": 1}', 400, "InvalidParameter"),
        ("POST", "/applications", json.dumps({"x": "y" * 2**20}), 413, "PayloadTooLarge"),
        ("GET", f"/applications?compartmentId={TENANCY}&limit=51", "", 400, "InvalidParameter"),
        ("GET", f"/applications?compartmentId={TENANCY}&limit=x", "", 400, "InvalidParameter"),
        ("GET", f"/applications?compartmentId={TENANCY}&page=%21", "", 400, "InvalidParameter"),
        ("GET", f"/applications?compartmentId={TENANCY}&sortBy=colour", "", 400, "InvalidParameter"),
        ("GET", f"/applications?compartmentId={TENANCY}&sortOrder=UP", "", 400, "InvalidParameter"),
        ("GET", f"/applications?compartmentId={TENANCY}&lifecycleState=GONE", "", 400, "InvalidParameter"),
        ("GET", "/applications?compartmentId=ocid1.compartment.oc1..none", "", 404, "NotAuthorizedOrNotFound"),
        ("GET", "/applications?" + "&".join(f"a{n}=1" for n in range(100)), "", 400, "InvalidParameter"),
        ("POST", "/functions/x/actions/invoke", "", 404, "NotAuthorizedOrNotFound"),
        ("POST", "/functions/x/actions/invoke", "x" * (6 * 2**20 + 1), 413, "FunctionInvokeRequestContentTooLarge"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_refusal_has_ocis_form(
    node: Daemon, version: str, method: str, path: str, body: str, status: int, code: str
) -> None:
    reply = node.request(method, f"/{version}{path}", body, {"opc-request-id": "MINE"})
    assert (reply.status, reply.json["code"]) == (status, code)
    assert set(reply.json) == {"code", "message"}
    assert reply.json["message"]
    assert re.fullmatch(r"MINE/[0-9A-Z]{26,32}/[0-9A-Z]{26,32}", reply.headers["opc-request-id"])
    assert reply.headers["content-type"].startswith("application/json")


def test_what_is_only_new_is_not_in_the_old_version(node: Daemon) -> None:
    for path in ("/workRequests", "/functionsRuntimes", "/functionsRuntimeVersions"):
        assert node.request("GET", f"/20181201{path}").status == 404
        assert node.request("GET", f"/20260325{path}?compartmentId={TENANCY}").status == 200


def test_an_endpoint_that_ends_with_a_slash_works(node: Daemon) -> None:
    function_id = ocid.function_ocid(node.deploy("slash", HELLO, app="slash"))
    assert node.request("GET", f"//20260325/functions/{function_id}").status == 200
    assert node.request("POST", f"//20260325/functions/{function_id}/actions/invoke", "x").json == {"hello": "x"}


def test_every_answer_has_a_request_id(node: Daemon) -> None:
    for path in ("/20181201/pbfListings", "/20260325/pbfListings/triggers"):
        reply = node.request("GET", path)
        assert re.fullmatch("[0-9A-F]{32}/[0-9A-F]{32}/[0-9A-F]{32}", reply.headers["opc-request-id"])
        assert list(reply.json) == ["items"]


def test_what_never_changes_is_ignored_in_an_update(node: Daemon) -> None:
    application = ocid.application_ocid(node.app("immutable"))
    body = json.dumps({"displayName": "other", "shape": "GENERIC_ARM", "subnetIds": ["ocid1.subnet.oc1..a"]})
    reply = node.request("PUT", f"/20181201/applications/{application}", body)
    assert (reply.json["displayName"], reply.json["shape"], reply.json["subnetIds"]) == ("immutable", "GENERIC_X86", [])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A node with little."""
    config = (
        "oci: {application_count_max: 1, function_count_max: 2}\nlimits: {concurrency_mib: 256, memory_mib: 2048}\n"
    )
    with run_daemon(tmp_path_factory.mktemp("small") / "data", config=config) as daemon:
        daemon.push(bundle(HELLO), "hello:1")
        yield daemon


def test_service_limits_say_the_arithmetic(small: Daemon, profile: Profile) -> None:
    with sdk("new", profile, small.url) as client:
        app = client.app("only")["id"]
        with pytest.raises(Refused, match="application-count reached: 1 of 1 are in use") as refused:
            client.app("more")
        assert (refused.value.status, refused.value.code) == (400, "LimitExceeded")
        client.function(app, "one")
        client.function(app, "two")
        with pytest.raises(Refused, match="function-count reached: 2 of 2 are in use") as refused:
            client.create(app, "three")
        assert (refused.value.status, refused.value.code) == (400, "LimitExceeded")
        for item in client.manage("list_functions", app).data:
            client.manage("delete_function", item["id"])
        client.manage("delete_application", app)


def test_the_call_beyond_the_concurrency_limit_gets_429(small: Daemon, tmp_path: Path) -> None:

    waiting = "import time\ndef handler(ctx, data=None):\n    time.sleep(float(data.getvalue()))\n    return 'ok'\n"
    function_id = ocid.function_ocid(small.deploy("waiting", waiting, app="busy"))
    path = f"/20260325/functions/{function_id}/actions/invoke"
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(small.request("POST", path, "3").status)) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: sum(instance["state"] == "busy" for instance in small.instances()) == 2)
        reply = small.request("POST", path, "0")
        assert (reply.status, reply.json["code"]) == (429, "TooManyRequests")
        assert "256 MB are in use, 128 MB more are over the limit of 256 MB" in reply.json["message"]
    finally:
        for thread in threads:
            thread.join()
    assert statuses == [200, 200]
    assert small.request("POST", path, "0").status == 200


def test_a_create_that_the_daemon_did_not_survive_is_told(tmp_path: Path, profile: Profile) -> None:

    slow = "import time; time.sleep(3)\n" + HELLO
    with run_daemon(tmp_path / "data") as daemon:
        daemon.push(bundle(slow), "slow:1")
        with sdk("new", profile, daemon.url) as client:
            made = client.create(client.app("a")["id"], "slow", image="slow:1")
            work_id = made.header("opc-work-request-id")
        daemon.stop(signal.SIGKILL)
    with run_daemon(tmp_path / "data") as daemon, sdk("new", profile, daemon.url) as client:
        assert client.manage("get_function", made.data["id"]).data["lifecycle_state"] == "FAILED"
        assert client.work("get_work_request", work_id).data["status"] == "FAILED"
        (error,) = client.work("list_work_request_errors", work_id).data["items"]
        assert "the daemon stopped" in error["message"]
        client.manage("delete_function", made.data["id"])
