"""InvokeFunction with Oracle's SDKs: answers, every code of an error that can happen here, dry runs, detached calls."""

from __future__ import annotations

import json
from typing import Any

import pytest

from daemon import errors, ocid
from tests.oci.clients import Refused, Sdk
from tests.oci.conftest import NAMES
from tests.system.daemon import Daemon, eventually

MANY = """
import io, json, os, time
from fdk import response

def handler(ctx, data: io.BytesIO = None):
    what = data.getvalue().decode()
    if what == "raise":
        raise ValueError("no")
    if what == "exit":
        os._exit(3)
    if what == "sleep":
        time.sleep(60)
    if what == "large":
        return "x" * (6 * 2**20 + 1)
    if what == "headers":
        return response.Response(ctx, response_data="x", headers={"x-much": "y" * 70_000})
    if what == "status":
        return response.Response(ctx, response_data="teapot", status_code=418)
    if what == "binary":
        kind = {"Content-Type": "application/octet-stream"}
        return response.Response(ctx, response_data=bytes(range(256)), headers=kind)
    if what.startswith("write "):
        open(what[6:], "a").write("ran\\n")
    return json.dumps({"intent": ctx.Headers().get("fn-intent"), "type": ctx.Headers().get("content-type")})
"""


@pytest.fixture(scope="module")
def many(node: Daemon) -> str:
    return ocid.function_ocid(node.deploy("many", MANY, app="many", timeout=2))


def test_the_answer_has_the_request_id(client: Sdk, many: str) -> None:
    answer = client.invoke(many, "{}", opc_request_id="ABCDEF0123456789")
    assert answer.status == 200
    first, call, _ = answer.header("opc-request-id").split("/")
    assert (first, call) == ("ABCDEF0123456789", answer.header("fn-call-id"))
    assert json.loads(answer.data["content"])["type"] == "application/json", "which the SDK says of every body"


@pytest.mark.parametrize(
    ("body", "status", "code", "text"),
    [
        ("raise", 502, "FunctionInvokeExecutionFailed", "function failed"),
        ("exit", 502, "FunctionInvokeExecutionError", "error receiving function response"),
        ("sleep", 504, "FunctionInvokeTimeout", "Timed out"),
        ("large", 502, "FunctionInvokeResponseBodyTooLarge", "function response body too large"),
        ("headers", 502, "FunctionInvokeResponseHeaderTooLarge", "function response header too large"),
        ("x" * (6 * 2**20 + 1), 413, "FunctionInvokeRequestContentTooLarge", "Request content too large"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_an_error_has_ocis_code(client: Sdk, many: str, body: str, status: int, code: str, text: str) -> None:
    with pytest.raises(Refused) as refused:
        client.invoke(many, body)
    assert (refused.value.status, refused.value.code) == (status, code)
    assert refused.value.message.startswith(text)
    assert refused.value.id


def test_errors_at_the_start_have_ocis_codes(client: Sdk, node: Daemon) -> None:
    """Deployed well, ruined by configuration afterwards: so no deploy refuses it."""
    source = (
        "import os\nif os.environ.get('BROKEN'): raise ValueError('broken')\ndef handler(ctx, data=None): return 'ok'\n"
    )
    name = f"init{next(NAMES)}"
    function_id = node.deploy("init", source, app=name)
    node.api("PUT", f"/v2/apps/{node.app(name)}", {"config": {"BROKEN": "1"}})
    with pytest.raises(Refused, match="broken") as refused:
        client.invoke(ocid.function_ocid(function_id))
    assert (refused.value.status, refused.value.code) == (502, "FunctionInvokeContainerInitFail")
    missing = node.api("POST", "/v2/fns", {"app_id": node.app(name), "name": "missing", "image": "not:here"})["id"]
    with pytest.raises(Refused, match="not:here") as refused:
        client.invoke(ocid.function_ocid(missing))
    assert (refused.value.status, refused.value.code) == (502, "FunctionInvokeImageNotAvailable")


def test_a_status_of_the_function_stays_with_the_function(client: Sdk, many: str) -> None:
    answer = client.invoke(many, "status", fn_intent="httprequest")
    assert (answer.status, answer.header("fn-http-status"), answer.data["content"]) == (200, "418", "teapot")
    assert client.invoke(many, "binary").data["type"] == "application/octet-stream"


def test_the_intent_reaches_the_function(client: Sdk, many: str) -> None:
    for intent in ("cloudevent", "httprequest"):
        assert json.loads(client.invoke(many, "x", fn_intent=intent).data["content"])["intent"] == intent


def test_a_dry_run_runs_nothing(client: Sdk, many: str, node: Daemon) -> None:
    def calls() -> int:
        return sum(instance["calls"] for instance in node.instances(ocid.parse(many)))

    client.invoke(many, "x")
    before = calls()
    answer = client.invoke(many, "exit", is_dry_run=True)
    assert (answer.status, answer.data["content"]) == (200, "")
    assert calls() == before
    client.invoke(many, "x", is_dry_run=False)
    assert calls() == before + 1
    with pytest.raises(Refused) as refused:
        client.invoke("ocid1.fnfunc.oc1..none", "x", is_dry_run=True)
    assert refused.value.status == 404


def test_a_detached_call_is_accepted_and_runs(client: Sdk, many: str, node: Daemon) -> None:
    answer = client.invoke(many, "x", fn_invoke_type="detached")
    assert (answer.status, answer.data["content"]) == (202, "")
    call_id = answer.header("fn-call-id")
    assert answer.header("opc-request-id")

    def ended() -> Any:
        reply = node.request("GET", f"/stoker/v1/calls/{call_id}")
        return reply.json if reply.status == 200 else None

    assert eventually(ended)["status"] in ("ok", "success", "succeeded", 200)


def test_wrong_headers_are_named(node: Daemon, many: str) -> None:
    for header, value in (("fn-invoke-type", "later"), ("fn-intent", "mail"), ("is-dry-run", "perhaps")):
        reply = node.request("POST", f"/20260325/functions/{many}/actions/invoke", b"", {header: value})
        assert (reply.status, reply.json["code"]) == (400, "InvalidParameter")
        assert header in reply.json["message"]
        assert set(reply.json) == {"code", "message"}


def test_every_error_of_the_tree_has_a_code_of_ocis() -> None:
    known = {
        "InvalidParameter", "MissingParameter", "CannotParseRequest", "LimitExceeded", "NotAuthenticated",
        "NotAuthorized", "NotAllowed", "NotAuthorizedOrNotFound", "NotFound", "MethodNotAllowed", "Conflict",
        "IncorrectState",
        "NotAuthorizedOrResourceAlreadyExists", "NoEtagMatch", "PayloadTooLarge", "UnprocessableEntity",
        "TooManyRequests", "RequestHeaderFieldsTooLarge", "InternalServerError", "ServiceUnavailable",
        "FunctionInvokeRequestContentTooLarge", "FunctionInvokeExecutionFailed", "FunctionInvokeExecutionError",
        "FunctionInvokeInvalidResponse", "FunctionInvokeContainerInitFail", "FunctionInvokeImageNotAvailable",
        "FunctionInvokeResponseBodyTooLarge", "FunctionInvokeResponseHeaderTooLarge",
        "FunctionInvokeSyslogUnavailable", "FunctionInvokeServiceUnavailable", "FunctionInvokeTimeout",
        "FunctionInvokeContainerInitTimeout",
    }  # fmt: skip
    assert {error.oci_code for error in errors.leaves()} <= known
