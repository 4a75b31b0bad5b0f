"""The `oci` command: what Oracle's documentation prints, with ``--endpoint`` as the only addition."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from tests.oci.clients import Cli
from tests.oci.conftest import NAMES
from tests.oci.test_code_only import OURS
from tests.system.daemon import HELLO, Daemon, bundle

TENANCY = "ocid1.tenancy.oc1..throwaway"
IMAGE = "phx.ocir.io/ansh81vru1zp/helloworld/helloworld-func:0.0.1"


def application(cli: Cli) -> str:
    made = cli.run(
        "fn", "application", "create", "--compartment-id", TENANCY, "--display-name", f"cli{next(NAMES)}",
        "--subnet-ids", '["ocid1.subnet.oc1.phx.aaaa"]',
    )  # fmt: skip
    return str(made["data"]["id"])


def verb(cli: Cli, what: str) -> tuple[str, ...]:
    """``create`` and ``update`` became groups in oci-cli 3.94."""
    return ("fn", "function", what) if cli.kind == "classic" else ("fn", "function", what, "container-function")


def ready(cli: Cli, function_id: str) -> dict[str, Any]:
    """The function when no change of it is under way."""
    while True:
        data: dict[str, Any] = cli.run("fn", "function", "get", "--function-id", function_id)["data"]
        if data["lifecycle-state"] not in ("CREATING", "UPDATING"):
            return data


def test_provisioned_concurrency_as_documented(cli: Cli, node: Daemon) -> None:
    node.push(bundle(HELLO), IMAGE)
    create = (
        *verb(cli, "create"), "--application-id", application(cli), "--display-name", "helloworld-func",
        "--image", IMAGE, "--memory-in-mbs", "128", "--provisioned-concurrency",
    )  # fmt: skip
    made = cli.run(*create, '{"strategy":"CONSTANT","count":40}')["data"]
    config = ready(cli, made["id"])["provisioned-concurrency-config"]
    assert config == {"strategy": "CONSTANT", "count": 40}
    update = (*verb(cli, "update"), "--function-id", made["id"], "--provisioned-concurrency")
    cli.run(*update, '{"strategy":"CONSTANT","count":80}')
    assert ready(cli, made["id"])["provisioned-concurrency-config"]["count"] == 80
    error = cli.run(*update, '{"strategy":"CONSTANT","count":50}', fails=True)
    assert (error["status"], error["code"]) == (400, "InvalidParameter")
    assert "positive multiple of 40, not 50; nearest allowed: 40 or 80" in error["message"]
    cli.run(*update, '{"strategy":"NONE"}')
    assert ready(cli, made["id"])["provisioned-concurrency-config"] == {"strategy": "NONE"}
    answer = cli.run("fn", "function", "invoke", "--function-id", made["id"], "--file", "-", "--body", "Bob")
    assert answer == {"hello": "Bob"}
    cli.run("fn", "function", "delete", "--function-id", made["id"], "--force")


def test_code_only_as_documented(node: Daemon, profile: Any, tmp_path: Path) -> None:
    cli = Cli("new", profile, node.url)
    archive = tmp_path / "hello.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("function/func.py", HELLO)
    made = cli.run(
        "fn", "function", "create", "archive-function", "direct-archive", "fn-update-runtime-config",
        "--application-id", application(cli), "--display-name", "code", "--memory-in-mbs", "128",
        "--archive-file", str(archive), "--handler", "func.handler", "--functions-runtime-name", OURS,
    )  # fmt: skip
    assert ready(cli, made["data"]["id"])["source-details"]["handler"] == "func.handler"
    work = cli.run("fn", "work-request", "get", "--work-request-id", made["opc-work-request-id"])["data"]
    assert work["status"] == "SUCCEEDED"
    for words in (("work-request-error",), ("work-request-log-entry",)):
        assert "items" in cli.run("fn", *words, "list", "--work-request-id", work["id"])["data"]
    assert OURS in json.dumps(cli.run("fn", "runtime", "list"))
    assert cli.run("fn", "pbf-listing", "list")["data"]["items"]
    out = tmp_path / "out"
    cli.run("fn", "function", "invoke", "--function-id", made["data"]["id"], "--file", str(out), "--body", "x")
    assert json.loads(out.read_text()) == {"hello": "x"}
    assert cli.run(
        "fn", "function", "invoke", "--function-id", made["data"]["id"], "--file", "-", "--body", "x",
        "--fn-invoke-type", "detached",
    ) == ""  # fmt: skip


def test_applications_by_command(cli: Cli) -> None:
    app = application(cli)
    cli.run(
        "fn", "application", "update", "--application-id", app, "--force", "--config", '{"A": "1"}',
        "--freeform-tags", '{"team": "x"}',
    )  # fmt: skip
    got = cli.run("fn", "application", "get", "--application-id", app)
    assert (got["data"]["config"], got["data"]["freeform-tags"]) == ({"A": "1"}, {"team": "x"})
    assert got["etag"]
    listed = cli.run("fn", "application", "list", "--compartment-id", TENANCY, "--all")["data"]
    assert app in [item["id"] for item in listed], "--all follows the pages"
    cli.run("fn", "application", "delete", "--application-id", app, "--force")
    error = cli.run("fn", "application", "get", "--application-id", app, fails=True)
    assert (error["status"], error["code"]) == (404, "NotAuthorizedOrNotFound")
    assert error["opc-request-id"]


def test_the_catalogue_the_runtimes_and_the_work_requests_by_command(cli: Cli) -> None:
    """Every command that reads, and the creation of a pre-built function."""
    listing = cli.run("fn", "pbf-listing", "list", "--name", "CSV to JSON")["data"]["items"][0]
    assert cli.run("fn", "pbf-listing", "get", "--pbf-listing-id", listing["id"])["data"]["name"] == listing["name"]
    version = cli.run("fn", "pbf-listing-version", "list", "--pbf-listing-id", listing["id"])["data"]["items"][0]
    got = cli.run("fn", "pbf-listing-version", "get", "--pbf-listing-version-id", version["id"])["data"]
    assert got["requirements"] == version["requirements"]
    assert {"name": "HTTP"} in cli.run("fn", "trigger", "list")["data"]["items"]
    app = application(cli)
    source = json.dumps({"sourceType": "PRE_BUILT_FUNCTIONS", "pbfListingId": listing["id"]})
    create = ("fn", "function", "create", "--source-details", source)
    if cli.kind == "new":
        create = ("fn", "function", "create", "pbf-function", "--pbf-listing-id", listing["id"])
    made = cli.run(*create, "--application-id", app, "--display-name", "pbf", "--memory-in-mbs", "128")
    function_id = made["data"]["id"]
    assert ready(cli, function_id)["source-details"]["pbf-listing-id"] == listing["id"]
    listed = cli.run("fn", "function", "list", "--application-id", app, "--display-name", "pbf")["data"]
    assert [item["id"] for item in listed] == [function_id]
    moved = ("fn", "application", "change-compartment", "--application-id", app, "--compartment-id")
    assert cli.run(*moved, "ocid1.compartment.oc1..nowhere", fails=True)["code"] == "NotAuthorizedOrNotFound"
    if cli.kind == "classic":
        return
    runtime = cli.run("fn", "runtime", "list")["data"]["items"][0]
    assert cli.run("fn", "runtime", "get", "--functions-runtime-id", runtime["id"])["data"]["name"] == runtime["name"]
    versions = cli.run("fn", "runtime-version", "list", "--functions-runtime-id", runtime["id"])["data"]["items"]
    current = runtime["current-functions-runtime-version-id"]
    assert [item["id"] for item in versions] == [current]
    assert cli.run("fn", "runtime-version", "get", "--functions-runtime-version-id", current)["data"] == versions[0]
    work = cli.run("fn", "work-request", "list", "--compartment-id", TENANCY, "--resource-id", function_id)
    work_id = work["data"]["items"][0]["id"]
    assert work_id == made["opc-work-request-id"]
    found = cli.run("fn", "work-request", "get", "--work-request-id", work_id)["data"]
    assert (found["operation-type"], found["status"]) == ("CREATE_FUNCTION", "SUCCEEDED")
    assert cli.run("fn", "work-request-error", "list", "--work-request-id", work_id)["data"]["items"] == []
    logs = cli.run("fn", "work-request-log-entry", "list", "--work-request-id", work_id)["data"]["items"]
    assert [entry["message"] for entry in logs] == ["done", "deploying the function"], "the newest first"
