"""Code-only functions, runtimes, pre-built functions and work requests: what only the newer version has."""

from __future__ import annotations

import base64
import hashlib
import io
import sys
import zipfile
from typing import Any

import pytest

from tests.oci.clients import Answer, Refused, Sdk
from tests.oci.conftest import NAMES
from tests.system.daemon import HELLO

OURS = f"python{sys.version_info.major}{sys.version_info.minor}.ol9"
TENANCY = "ocid1.tenancy.oc1..throwaway"


def packed(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def source(archive: bytes, handler: str = "func.handler", runtime: str = OURS, verb: str = "Create") -> dict[str, Any]:
    text = base64.b64encode(archive).decode()
    return {
        "$model": f"{verb}ArchiveFunctionSourceDetails",
        "archive_source_details": {"$model": f"{verb}DirectArchiveSourceDetails", "archive_file": text},
        "handler": handler,
        "runtime_config": {"$model": f"{verb}FunctionUpdateRuntimeConfig", "functions_runtime_name": runtime},
    }


@pytest.fixture
def app(new: Sdk) -> str:
    return str(new.app(f"code{next(NAMES)}")["id"])


def create(new: Sdk, app: str, details: dict[str, Any], name: str = "code") -> Answer:
    return new.create(app, name, image="", source_details=details)


def failure(new: Sdk, answer: Answer) -> str:
    """The text of the one error of the work request, which must have failed."""
    work = new.settled(answer)
    assert work["status"] == "FAILED"
    (error,) = new.work("list_work_request_errors", work["id"]).data["items"]
    assert error["code"]
    return str(error["message"])


def test_a_zip_in_the_request_becomes_a_function(new: Sdk, app: str) -> None:
    archive = packed(
        {"function/pkg/main.py": HELLO.replace("def handler", "def handle"), "function/pkg/__init__.py": ""}
    )
    made = create(new, app, source(archive, "pkg.main.handle"))
    assert made.data["lifecycle_state"] == "CREATING"
    work = new.settled(made)
    assert (work["operation_type"], work["status"], work["percent_complete"]) == ("CREATE_FUNCTION", "SUCCEEDED", 100.0)
    assert work["resources"][0]["action_type"] == "CREATED"
    got = new.manage("get_function", made.data["id"]).data
    details = got["source_details"]
    assert got["lifecycle_state"] == "ACTIVE"
    assert details["source_type"] == "ARCHIVE"
    assert details["archive_source_details"] == {"archive_source_type": "DIRECT_ARCHIVE"}, "the archive is not echoed"
    assert details["handler"] == "pkg.main.handle"
    assert details["source_code_sha256"] == base64.b64encode(hashlib.sha256(archive).digest()).decode()
    assert details["runtime_config"]["runtime_config_type"] == "FUNCTION_UPDATE"
    assert details["runtime_config"]["functions_runtime_version_id"].startswith("ocid1.fnruntimeversion.")
    assert new.invoke(got["id"], "zip").data["content"] == '{"hello": "zip"}'


def test_an_update_takes_another_archive_or_only_another_handler(new: Sdk, app: str) -> None:
    two = HELLO + "\ndef other(ctx, data=None):\n    return 'other'\n"
    made = create(new, app, source(packed({"function/func.py": two})))
    assert new.settled(made)["status"] == "SUCCEEDED"
    id_ = made.data["id"]
    new.update(id_, source_details={"$model": "UpdateArchiveFunctionSourceDetails", "handler": "func.other"})
    assert new.invoke(id_).data["content"] == "other"
    third = packed({"function/func.py": "def other(ctx, data=None):\n    return 'third'\n"})
    got = new.update(id_, source_details={
        "$model": "UpdateArchiveFunctionSourceDetails",
        "archive_source_details": {
            "$model": "UpdateDirectArchiveSourceDetails", "archive_file": base64.b64encode(third).decode(),
        },
    })  # fmt: skip
    assert got["source_details"]["handler"] == "func.other"
    assert new.invoke(id_).data["content"] == "third"


def test_a_failing_import_fails_the_function_with_its_traceback(new: Sdk, app: str) -> None:
    made = create(new, app, source(packed({"function/func.py": "import nosuchmodule\n"})))
    text = failure(new, made)
    assert "Traceback" in text
    assert "No module named 'nosuchmodule'" in text
    assert new.manage("get_function", made.data["id"]).data["lifecycle_state"] == "FAILED"
    logs = new.work("list_work_request_logs", made.header("opc-work-request-id")).data["items"]
    assert any("failed" in entry["message"] for entry in logs)
    with pytest.raises(Refused, match="the function is failed") as refused:
        new.invoke(made.data["id"])
    assert (refused.value.status, refused.value.code) == (502, "FunctionInvokeContainerInitFail")
    with pytest.raises(Refused, match="exists already"):
        create(new, app, source(packed({"function/func.py": HELLO})))
    got = new.update(made.data["id"], source_details=source(packed({"function/func.py": HELLO}), verb="Update"))
    assert got["lifecycle_state"] == "ACTIVE"
    assert new.invoke(made.data["id"], "x").data["content"] == '{"hello": "x"}'


@pytest.mark.parametrize(
    ("archive", "text"),
    [
        (b"not a zip", "cannot unpack bundle"),
        (packed({"func.py": HELLO}), "func.py"),
        (packed({"function/main.py": HELLO}), "function/func.py is not in it"),
        (packed({"function/func.py": HELLO, "native/fn-arch-x86/x": ""}), "native"),
    ],
)
def test_a_wrong_archive_is_told_in_the_work_request(new: Sdk, app: str, archive: bytes, text: str) -> None:
    made = create(new, app, source(archive))
    assert text in failure(new, made)
    assert new.manage("get_function", made.data["id"]).data["lifecycle_state"] == "FAILED"
    new.manage("delete_function", made.data["id"])


def test_a_failed_update_leaves_the_old_version_serving(new: Sdk, app: str) -> None:
    made = create(new, app, source(packed({"function/func.py": HELLO})))
    assert new.settled(made)["status"] == "SUCCEEDED"
    broken = source(packed({"function/func.py": "1/0"}), verb="Update")
    answer = new.manage(
        "update_function", made.data["id"], {"$model": "UpdateFunctionDetails", "source_details": broken}
    )
    assert "ZeroDivisionError" in failure(new, answer)
    assert new.manage("get_function", made.data["id"]).data["lifecycle_state"] == "ACTIVE"
    assert new.invoke(made.data["id"], "x").data["content"] == '{"hello": "x"}'


def test_what_can_be_judged_at_once_is(new: Sdk, app: str) -> None:
    archive = packed({"function/func.py": HELLO})
    storage = {
        "$model": "CreateObjectStorageArchiveSourceDetails", "bucket_name": "b", "namespace": "n", "object_name": "o",
    }  # fmt: skip
    manual = {
        "$model": "CreateManualRuntimeConfig", "functions_runtime_name": OURS,
        "functions_runtime_version_id": "ocid1.fnruntimeversion.oc1.stoker." + "0" * 26,
    }  # fmt: skip
    direct = {"$model": "CreateDirectArchiveSourceDetails", "archive_file": "no base64!"}
    for details, text in (
        (source(archive, handler="func"), "handler must be FILE.FUNCTION"),
        (source(archive, handler="../x.handler"), "handler must be FILE.FUNCTION"),
        (source(archive, runtime="java21.ol9"), "java21.ol9' is not on this node; there are: "),
        ({**source(archive), "archive_source_details": storage}, "this node has no Object Storage"),
        ({**source(archive), "archive_source_details": direct}, "must be a ZIP in base64"),
        ({**source(archive), "runtime_config": manual}, "the version of"),
        ({**source(archive), "handler": None}, "sourceDetails.handler is required."),
    ):
        with pytest.raises(Refused) as refused:
            create(new, app, details)
        assert (refused.value.status, refused.value.code) == (400, "InvalidParameter")
        assert text in refused.value.message
    assert new.manage("list_functions", app).data == []


def test_an_archive_over_25_mb_is_too_large(new: Sdk, app: str) -> None:
    with pytest.raises(Refused) as refused:
        create(new, app, source(bytes(25 * 2**20 + 10)))
    assert (refused.value.status, refused.value.code) == (413, "PayloadTooLarge")


def test_the_kind_of_source_cannot_change(new: Sdk, app: str) -> None:
    made = create(new, app, source(packed({"function/func.py": HELLO})))
    assert new.settled(made)["status"] == "SUCCEEDED"
    image = {"$model": "UpdateContainerImageFunctionSourceDetails", "image": "hello:1"}
    with pytest.raises(Refused, match="cannot change: it is ARCHIVE, not CONTAINER_IMAGE"):
        new.update(made.data["id"], source_details=image)


def test_the_interpreters_of_the_machine_are_the_runtimes(new: Sdk, app: str) -> None:
    items = new.manage("list_functions_runtimes", limit=50).data["items"]
    names = [item["name"] for item in items]
    assert OURS in names
    mine = items[names.index(OURS)]
    assert (mine["language"], mine["lifecycle_state"]) == ("Python", "ACTIVE")
    assert new.manage("get_functions_runtime", mine["id"]).data == mine
    for filters in (
        {"name": OURS},
        {"functions_runtime_id": mine["id"]},
        {"name_contains": OURS[6:9]},
        {"name_starts_with": OURS},
    ):
        assert mine in new.manage("list_functions_runtimes", **filters).data["items"]
    assert new.manage("list_functions_runtimes", language="Java").data["items"] == []
    (version,) = new.manage("list_functions_runtime_versions", functions_runtime_id=mine["id"]).data["items"]
    assert version["id"] == mine["current_functions_runtime_version_id"]
    assert version["language_version"] == ".".join(map(str, sys.version_info[:3]))
    assert new.manage("get_functions_runtime_version", version["id"]).data == version
    assert new.manage("list_functions_runtime_versions", is_current_version=False).data["items"] == []
    pinned = {
        "$model": "CreateManualRuntimeConfig", "functions_runtime_name": OURS,
        "functions_runtime_version_id": version["id"],
    }  # fmt: skip
    made = create(new, app, {**source(packed({"function/func.py": HELLO})), "runtime_config": pinned})
    assert new.settled(made)["status"] == "SUCCEEDED"
    config = new.manage("get_function", made.data["id"]).data["source_details"]["runtime_config"]
    assert (config["runtime_config_type"], config["functions_runtime_version_id"]) == ("MANUAL", version["id"])
    for method in ("get_functions_runtime", "get_functions_runtime_version"):
        with pytest.raises(Refused) as refused:
            new.manage(method, "ocid1.fnruntime.oc1..none")
        assert refused.value.status == 404


def test_another_python_of_the_machine_runs_the_function(new: Sdk, app: str) -> None:
    names = [item["name"] for item in new.manage("list_functions_runtimes").data["items"]]
    others = [name for name in names if name != OURS]
    if not others:
        pytest.skip("this machine has one Python")
    code = "import sys\ndef handler(ctx, data=None):\n    return 'python%d%d.ol9' % sys.version_info[:2]\n"
    made = create(new, app, source(packed({"function/func.py": code}), runtime=others[0]))
    assert new.settled(made)["status"] == "SUCCEEDED"
    assert new.invoke(made.data["id"]).data["content"] == others[0]


def test_the_catalogue_has_functions_that_work(client: Sdk) -> None:
    items = client.manage("list_pbf_listings").data["items"]
    assert len(items) >= 3
    triggers = client.manage("list_triggers").data["items"]
    assert {t["name"] for item in items for t in item["triggers"]} == {t["name"] for t in triggers}
    csv = next(item for item in items if item["name"] == "CSV to JSON")
    assert client.manage("get_pbf_listing", csv["id"]).data == csv
    for filters in (
        {"name": "CSV to JSON"},
        {"name_contains": "to"},
        {"name_starts_with": "CSV"},
        {"pbf_listing_id": csv["id"]},
        {"trigger": ["HTTP"]},
    ):
        assert csv in client.manage("list_pbf_listings", **filters).data["items"], filters
    assert client.manage("list_pbf_listings", name="no").data["items"] == []
    (version,) = client.manage("list_pbf_listing_versions", csv["id"]).data["items"]
    assert (version["pbf_listing_id"], version["requirements"]["min_memory_required_in_mbs"]) == (csv["id"], 128)
    assert client.manage("get_pbf_listing_version", version["id"]).data == version
    app = client.app(f"pbf{next(NAMES)}")["id"]
    details = {"$model": "PreBuiltFunctionSourceDetails", "pbf_listing_id": csv["id"]}
    if not client.classic:
        details["$model"] = "CreatePreBuiltFunctionSourceDetails"
    made = client.function(app, "csv", image="", source_details=details, memory_in_mbs=256)
    assert made["source_details"] == {"source_type": "PRE_BUILT_FUNCTIONS", "pbf_listing_id": csv["id"]}
    assert client.invoke(made["id"], "a,b\n1,2\n").data["content"] == '[{"a": "1", "b": "2"}]'
    with pytest.raises(Refused, match="there is no pre-built function") as refused:
        client.create(app, "none", image="", source_details={**details, "pbf_listing_id": "ocid1.fnpbflisting.oc1..no"})
    assert (refused.value.status, refused.value.code) == (400, "InvalidParameter")


def test_every_listing_becomes_a_function(new: Sdk, app: str) -> None:
    for number, item in enumerate(new.manage("list_pbf_listings").data["items"]):
        details = {"$model": "CreatePreBuiltFunctionSourceDetails", "pbf_listing_id": item["id"]}
        new.function(app, f"pbf{number}", image="", source_details=details)


def test_work_requests_are_listed_with_filters(new: Sdk, app: str) -> None:
    made = new.function(app, "listed")
    found = new.work("list_work_requests", TENANCY, resource_id=made["id"]).data["items"]
    assert [(item["operation_type"], item["status"]) for item in found] == [("CREATE_FUNCTION", "SUCCEEDED")]
    work = found[0]
    assert new.work("list_work_requests", TENANCY, work_request_id=work["id"]).data["items"] == found
    assert new.work("get_work_request", work["id"]).data == work
    assert work in new.work("list_work_requests", TENANCY, status="SUCCEEDED", limit=50).data["items"]
    assert new.work("list_work_requests", TENANCY, resource_id=made["id"], status="FAILED").data["items"] == []
    first = new.work("list_work_requests", TENANCY, limit=1)
    second = new.work("list_work_requests", TENANCY, limit=1, page=first.next_page)
    assert first.data["items"][0]["time_accepted"] >= second.data["items"][0]["time_accepted"]
    with pytest.raises(Refused) as refused:
        new.work("cancel_work_request", work["id"])
    assert (refused.value.status, refused.value.code) == (409, "Conflict")
    for method in ("get_work_request", "list_work_request_errors", "list_work_request_logs"):
        with pytest.raises(Refused) as refused:
            new.work(method, "ocid1.fnworkrequest.oc1.stoker." + "0" * 26)
        assert (refused.value.status, refused.value.code) == (404, "NotAuthorizedOrNotFound")
