"""Traces through a real daemon: what functions are given, and what a collector receives, in both forms."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.detached.receiver import Receiver, receiver
from tests.detached.test_accept import DETACHED
from tests.system.daemon import ROOT, Daemon, eventually, run_daemon

pytestmark = pytest.mark.processes

CODE = """
import json, os
def handler(ctx, data=None):
    if data.getvalue() == b"fail":
        raise ValueError("no")
    return json.dumps({"headers": ctx.Headers(), "traced": ctx.TracingContext().is_tracing_enabled(),
                       "span": ctx.TracingContext().span_id(), "url": ctx.TracingContext().trace_collector_url(),
                       "env": {k: v for k, v in os.environ.items() if k.startswith("OCI_")}})
"""
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
OTLP_PINS = ("opentelemetry-proto==1.28.2", "protobuf==5.28.3")


def config(there: Receiver, path: str, **more: Any) -> str:
    settings = {"endpoint": f"{there.url}{path}", "interval_s": 0.05, **more}
    return f"tracing: {json.dumps(settings)}"


def traced(daemon: Daemon, name: str = "f") -> str:
    """A function with tracing on, in an app with tracing on."""
    app_id = daemon.app("app", annotations={"stoker.dev/tracing": True})
    assert daemon.api("GET", f"/v2/apps/{app_id}")["annotations"] == {"stoker.dev/tracing": True}
    return daemon.deploy(name, CODE, annotations={"stoker.dev/tracing": {"isEnabled": True}})


def zipkin_spans(there: Receiver) -> list[dict[str, Any]]:
    return [span for got in list(there.got) for span in json.loads(got.body)]


def test_a_cold_call_gives_a_span_for_each_phase_and_the_function_its_ids(data: Path) -> None:
    with receiver(202) as there, run_daemon(data, config=config(there, "/api/v2/spans")) as daemon:
        function = traced(daemon)
        reply = daemon.invoke(function, b"x", {"traceparent": f"00-{TRACE}-{PARENT}-01"})
        told = reply.json
        assert told["env"]["OCI_TRACING_ENABLED"] == "1"
        assert told["url"] == f"{there.url}/api/v2/spans"
        assert json.loads(told["env"]["OCI_REGION_METADATA"])["realmKey"] == "oc1"
        headers = told["headers"]
        eventually(lambda: zipkin_spans(there))
        spans = {span["name"]: span for span in zipkin_spans(there)}
        whole, handler = spans["f"], spans["handler"]
        assert {span["traceId"] for span in spans.values()} == {TRACE}
        assert (whole["parentId"], whole["kind"]) == (PARENT, "SERVER")
        assert all(span["parentId"] == whole["id"] for name, span in spans.items() if name != "f")
        # The function's own spans become children of its handler's.
        assert headers["traceparent"] == f"00-{TRACE}-{handler['id']}-01"
        assert (headers["x-b3-traceid"], headers["x-b3-spanid"]) == (TRACE, handler["id"])
        assert (headers["x-b3-parentspanid"], headers["x-b3-sampled"]) == (whole["id"], "1")
        assert told["span"] == handler["id"]
        assert whole["tags"]["faas.invocation_id"] == reply.headers["fn-call-id"]
        assert set(spans) - {"f", "handler", "queue", "template", "fork", "init", "write"} == set()
        check_zipkin(list(spans.values()))
        for name, span in spans.items():
            assert span["timestamp"] >= whole["timestamp"] - 1, name
            assert span["timestamp"] + span["duration"] <= whole["timestamp"] + whole["duration"] + 1000, name


def check_zipkin(spans: list[dict[str, Any]]) -> None:
    """What zipkin-api's zipkin2-api.yaml demands of a span."""
    for span in spans:
        assert len(span["traceId"]) in (16, 32)
        assert len(span["id"]) == 16
        int(span["traceId"] + span["id"] + span.get("parentId", ""), 16)
        assert span.get("kind", "SERVER") in ("CLIENT", "SERVER", "PRODUCER", "CONSUMER")
        assert isinstance(span["timestamp"], int)
        assert isinstance(span["duration"], int)
        assert span["duration"] >= 1
        assert all(isinstance(value, str) for value in span["tags"].values())
        assert set(span) <= {
            "traceId",
            "id",
            "parentId",
            "name",
            "kind",
            "timestamp",
            "duration",
            "localEndpoint",
            "tags",
        }
        assert set(span["localEndpoint"]) == {"serviceName"}


def test_b3_a_trigger_a_failure_and_a_detached_call(data: Path) -> None:
    with receiver(202) as there, run_daemon(data, config=config(there, "/api/v2/spans")) as daemon:
        function = traced(daemon)
        daemon.invoke(function, b"fail", {"b3": f"{TRACE}-{PARENT}-1"})
        eventually(lambda: [s for s in zipkin_spans(there) if s["tags"].get("error") == "function-failed"])
        assert zipkin_spans(there)[0]["traceId"] == TRACE

        app_id = daemon.app("app")
        trigger = {"app_id": app_id, "fn_id": function, "name": "t", "type": "http", "source": "/t"}
        daemon.api("POST", "/v2/triggers", trigger)
        seen = daemon.request("GET", "/t/app/t", headers={"X-B3-TraceId": PARENT, "X-B3-SpanId": PARENT}).json
        assert seen["headers"]["x-b3-traceid"] == PARENT, "64 bits stay 64 bits"
        assert seen["headers"]["x-b3-spanid"] == seen["span"] != PARENT
        assert seen["headers"]["traceparent"].split("-")[1] == PARENT.zfill(32)

        there.got.clear()
        daemon.invoke(function, b"x", {**DETACHED, "traceparent": f"00-{TRACE}-{PARENT}-01"})
        spans = eventually(lambda: [s for s in zipkin_spans(there) if s["tags"].get("stoker.kind") == "detached"])
        assert (spans[0]["traceId"], spans[0]["parentId"]) == (TRACE, PARENT)

        there.got.clear()
        seen = daemon.invoke(function, b"x", {"X-B3-TraceId": TRACE, "X-B3-SpanId": PARENT, "X-B3-Sampled": "0"}).json
        assert seen["headers"]["x-b3-sampled"] == "0"
        daemon.invoke(function, b"x")
        eventually(lambda: zipkin_spans(there))
        assert TRACE not in {span["traceId"] for span in zipkin_spans(there)}, "its caller does not want it kept"


def test_only_chosen_functions_are_traced_and_switching_needs_no_deploy(data: Path) -> None:
    with receiver(202) as there, run_daemon(data, config=config(there, "/api/v2/spans")) as daemon:
        function = daemon.deploy("f", CODE, annotations={"stoker.dev/tracing": True})
        seen = daemon.invoke(function, b"", {"traceparent": f"00-{TRACE}-{PARENT}-01"}).json
        assert (seen["traced"], seen["env"]["OCI_TRACING_ENABLED"]) == (False, "0"), "the app's switch is off"
        assert seen["headers"]["traceparent"] == f"00-{TRACE}-{PARENT}-01", "it passes as it came"
        app_id = daemon.app("app")
        daemon.api("PUT", f"/v2/apps/{app_id}", {"annotations": {"stoker.dev/tracing": True}})
        assert daemon.invoke(function).json["traced"] is True
        daemon.api("PUT", f"/v2/fns/{function}", {"annotations": {"stoker.dev/tracing": False}})
        assert daemon.invoke(function).json["traced"] is False
        assert daemon.api("GET", f"/stoker/v1/functions/{function}")["version"]["number"] == 1


def test_otlp_is_what_the_official_schema_reads(data: Path) -> None:
    more = {"functions": "all", "headers": ["X-Key: secret"]}
    with receiver(503, 200) as there, run_daemon(data, config=config(there, "/v1/traces", **more)) as daemon:
        function = daemon.deploy("F", CODE)
        daemon.invoke(function, b"x")
        daemon.invoke(function, b"fail")
        eventually(lambda: [g for g in there.got[1:] if b'"function-failed"' in g.body])
        assert there.got[0].headers["x-key"] == "secret"
        bodies = {got.body for got in there.got}
        assert len(bodies) < len(there.got), "the first was refused and sent again"
        names = {name for body in bodies for name in spans_by_official_schema(body)}
        assert {"F", "handler"} <= names


def spans_by_official_schema(body: bytes) -> list[str]:
    """Names of the spans, as the package with the protocol's own definitions reads them."""
    python = ROOT / ".venv-otlp" / "bin" / "python"
    if not python.exists():
        try:
            subprocess.run([sys.executable, "-m", "venv", ROOT / ".venv-otlp"], check=True, timeout=120)
            subprocess.run(
                [python, "-m", "pip", "install", "-q", *OTLP_PINS], check=True, timeout=240, capture_output=True
            )
        except subprocess.SubprocessError as exc:
            subprocess.run(["rm", "-rf", ROOT / ".venv-otlp"], check=True)
            pytest.skip(f"the package index is not reachable: {exc}")
    code = """
import base64, json, sys
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
form = json.load(sys.stdin)
for resource in form["resourceSpans"]:
    for scope in resource["scopeSpans"]:
        for span in scope["spans"]:
            for key, size in (("traceId", 16), ("spanId", 8), ("parentSpanId", 8)):
                raw = bytes.fromhex(span[key])  # OTLP's JSON has hexadecimal where protobuf's has base64
                assert len(raw) == size or (key == "parentSpanId" and not raw), (key, raw)
                span[key] = base64.b64encode(raw).decode()
request = json_format.ParseDict(form, ExportTraceServiceRequest(), ignore_unknown_fields=False)
spans = [s for r in request.resource_spans for c in r.scope_spans for s in c.spans]
for span in spans:
    assert span.start_time_unix_nano <= span.end_time_unix_nano and span.kind in (1, 2)
assert request.resource_spans[0].resource.attributes[0].key == "service.name"
print(json.dumps([span.name for span in spans]))
"""
    done = subprocess.run([python, "-c", code], input=body, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    names: list[str] = json.loads(done.stdout)
    return names


def test_a_collector_that_is_not_there_costs_nobody_anything(data: Path) -> None:
    settings = 'tracing: {endpoint: "http://127.0.0.1:9/api/v2/spans", functions: all, attempts: 1, interval_s: 0.05}'
    with run_daemon(data, config=settings) as daemon:
        function = daemon.deploy("f", CODE)
        assert [daemon.invoke(function).status for _ in range(5)] == [200] * 5
        eventually(lambda: "cannot send spans" in daemon.stderr())
        shown = daemon.request("GET", "/metrics").body.decode()
        assert 'stoker_spans_total{status="dropped"}' in shown
        assert daemon.stderr().count("cannot send spans") == 1, "said once"


def test_tracing_without_records_is_a_clear_error(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text('tracing: {endpoint: "http://127.0.0.1:9411/"}\nrecords: {enabled: false}\n')
    done = subprocess.run(
        [sys.executable, "-m", "daemon.main", "--data", str(data), "--config", str(path)],
        cwd=ROOT, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert b"tracing.endpoint needs records.enabled" in done.stderr
