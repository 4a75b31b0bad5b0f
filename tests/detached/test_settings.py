"""Detached settings and traces, the pure parts: accepted as written, or refused with what is allowed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli import detached as cli_detached
from cli import funcfile
from daemon.core import tracing
from daemon.core.detached_settings import (
    ON_FAILURE,
    ON_SUCCESS,
    RETRY,
    TIMEOUT,
    Destination,
    Retry,
    check,
    is_traced,
    oci_annotations,
    parse,
)
from daemon.core.invocation_record import payload
from daemon.errors import BadRequest

hexes = st.text("0123456789abcdef", min_size=1, max_size=1)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)


def test_all_that_can_be_said() -> None:
    found = parse(
        {
            TIMEOUT: 3600,
            ON_SUCCESS: {"kind": "QUEUE", "queueId": "ocid1.queue.oc1..a", "channelId": "c"},
            ON_FAILURE: {"kind": "HTTP", "url": "https://x.example:8443/p?q=1"},
            RETRY: {"attempts": 3, "backoff_s": 0.5},
        }
    )
    assert found.timeout_s == 3600
    assert found.on_success == Destination(kind="QUEUE", target="ocid1.queue.oc1..a", channel="c")
    assert found.on_failure == Destination(kind="HTTP", target="https://x.example:8443/p?q=1")
    assert found.retry == Retry(attempts=3, backoff_s=0.5, backoff_s_max=None)


def test_what_ocis_fn_client_writes_is_read_and_ours_wins() -> None:
    flat = {
        "oracle.com/oci/detachedModeTimeoutInSeconds": "90",
        "oracle.com/oci/successDestinationKind": "notifications",
        "oracle.com/oci/successDestinationOcid": "ocid1.onstopic.oc1..t",
        "oracle.com/oci/failureDestinationKind": "NONE",
    }
    found = parse(flat)
    assert (found.timeout_s, found.on_failure) == (90, None)
    assert found.on_success == Destination(kind="NOTIFICATION", target="ocid1.onstopic.oc1..t")
    assert parse({**flat, TIMEOUT: 30}).timeout_s == 30


@given(st.sampled_from([None, {"kind": "NONE"}, {"kind": "STREAM", "streamId": "s"}, {"kind": "QUEUE", "queueId": "q",
       "channelId": None}]), st.none() | st.integers(5, 3600))  # fmt: skip
def test_ocis_fields_become_annotations_and_back(destination: dict[str, Any] | None, timeout_s: int | None) -> None:
    made = oci_annotations(detached_timeout_s=timeout_s, success=destination)
    found = parse({key: value for key, value in made.items() if value != ""})
    assert found.timeout_s == timeout_s
    wanted = (
        None if destination in (None, {"kind": "NONE"}) else {k: v for k, v in destination.items() if v is not None}
    )
    assert (found.on_success.form() if found.on_success else None) == wanted


@pytest.mark.parametrize(
    "value",
    [
        "x", {"kind": "SMS"}, {"kind": "STREAM"}, {"kind": "STREAM", "streamId": ".."},
        {"kind": "STREAM", "streamId": ""},
        {"kind": "STREAM", "streamId": "a/b"}, {"kind": "STREAM", "streamId": "a", "more": 1},
        {"kind": "QUEUE", "queueId": "q", "channelId": "../x"}, {"kind": "STREAM", "streamId": "x" * 201},
        {"kind": "HTTP", "url": "ftp://x"}, {"kind": "HTTP", "url": "http://u:p@x"}, {"kind": "HTTP", "url": "http://"},
        {"kind": "HTTP", "url": "http://x/ y"}, {"kind": "HTTP", "url": "http://x:99999/"},
        {"kind": "FUNCTION", "functionId": "a b"}, {"kind": "FUNCTION", "functionId": 7},
    ],
)  # fmt: skip
def test_a_destination_that_cannot_be_is_refused_by_name(value: Any) -> None:
    with pytest.raises(BadRequest, match=r"stoker\.dev/on-success"):
        check({ON_SUCCESS: value})


@given(st.dictionaries(st.sampled_from([TIMEOUT, ON_SUCCESS, ON_FAILURE, RETRY, "stoker.dev/tracing"]), json_values))
def test_anything_is_accepted_or_refused_and_nothing_else(annotations: dict[str, Any]) -> None:
    try:
        check(annotations)
    except BadRequest as exc:
        if "annotation" not in exc.message:
            pytest.fail(exc.message)
    else:
        parse(annotations)
        is_traced(annotations)


@given(st.binary(max_size=300), st.integers(1, 100))
def test_a_payload_is_its_begin_and_says_so(body: bytes, most: int) -> None:
    form = payload("x", body, most)
    assert (form["bytes"], form["truncated"]) == (len(body), len(body) > most)
    assert ("body" in form) != ("bodyBase64" in form)
    if "body" in form:
        assert body.startswith(form["body"].encode())
        assert len(form["body"].encode()) > min(len(body), most) - 4


# ---- traces


NAMES = (
    "traceparent", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags", "fn-http-h-traceparent", "other",
)  # fmt: skip
VALUES = ("1", "0", "4bf92f3577b34da6", "00-" + "a" * 32 + "-" + "b" * 16 + "-01")


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.text(max_size=60) | st.sampled_from(VALUES))))
def test_any_headers_give_a_valid_trace_or_none(headers: list[tuple[str, str]]) -> None:
    parent = tracing.parent_of(headers)
    if parent is not None:
        assert len(parent.trace_id) in (16, 32)
        assert int(parent.trace_id, 16)
        assert parent.span_id == "" or len(parent.span_id) == 16


@pytest.mark.parametrize(
    ("headers", "sampled"),
    [
        ([("traceparent", f"00-{'a' * 32}-{'b' * 16}-01")], True),
        ([("traceparent", f"00-{'a' * 32}-{'b' * 16}-00")], False),
        ([("traceparent", f"cc-{'a' * 32}-{'b' * 16}-03-what-comes")], True),
        ([("b3", f"{'a' * 32}-{'b' * 16}")], None),
        ([("b3", f"{'a' * 16}-{'b' * 16}-d-{'c' * 16}")], True),
        ([("x-b3-traceid", "a" * 16), ("x-b3-spanid", "b" * 16), ("x-b3-sampled", "0")], False),
        ([("x-b3-traceid", "A" * 32), ("x-b3-spanid", "b" * 16), ("x-b3-flags", "1")], True),
    ],
)
def test_traces_that_came_are_continued(headers: list[tuple[str, str]], sampled: bool | None) -> None:
    for prefix in ("", "fn-http-h-"):
        parent = tracing.parent_of([(prefix + name, value) for name, value in headers])
        assert parent is not None
        assert (set(parent.trace_id), parent.span_id, parent.sampled) == ({"a"}, "b" * 16, sampled)


@pytest.mark.parametrize(
    "value",
    [f"00-{'0' * 32}-{'b' * 16}-01", f"00-{'a' * 32}-{'0' * 16}-01", f"ff-{'a' * 32}-{'b' * 16}-01",
     f"00-{'a' * 32}-{'b' * 16}-01-x", f"00-{'a' * 31}-{'b' * 16}-01", "", "00"],
)  # fmt: skip
def test_a_broken_traceparent_is_no_trace(value: str) -> None:
    assert tracing.parent_of([("traceparent", value)]) is None


# ---- the client's words


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("20m", 1200), ("1h", 3600), ("1m30s", 90), (45, 45), ("0h5m", 300)]
)
def test_lengths_of_time(text: Any, seconds: int) -> None:
    assert cli_detached.timeout(text) == seconds


@pytest.mark.parametrize("text", ["", "4", "2h", "20 m", "m", "x", True, None, 3601, -5])
def test_lengths_of_time_that_are_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="5 to 3600 seconds"):
        cli_detached.timeout(text)


@pytest.mark.parametrize(
    "text", ["stream:s", "queue:q", "notification:t", "function:app/f", "https://x.example/y", "none"]
)
def test_what_the_client_makes_of_a_destination_the_daemon_takes(text: str) -> None:
    value = cli_detached.destination(text)
    check({ON_SUCCESS: value} if value else {})


def test_func_yaml_says_it_as_fn_does(tmp_path: Path) -> None:
    (tmp_path / "func.py").write_text("def handler(ctx, data=None): ...")
    (tmp_path / "func.yaml").write_text(
        "schema_version: 20180708\nname: f\nversion: 0.0.1\nruntime: python\n"
        "entrypoint: /python/bin/fdk /function/func.py handler\n"
        "deploy: {oci: {detached_mode: {timeout: 20m, on_success: {type: stream, ocid: s}}}}\n"
    )
    found = funcfile.load(tmp_path)
    assert found.annotations == {TIMEOUT: 1200, ON_SUCCESS: {"kind": "STREAM", "streamId": "s"}}
    assert found.warnings == []
    check(json.loads(json.dumps(found.annotations)))
    (tmp_path / "func.yaml").write_text((tmp_path / "func.yaml").read_text().replace("20m", "2h"))
    with pytest.raises(funcfile.FuncFileError, match=r"line 6: deploy\.oci\.detached_mode: timeout must be 5 to 3600"):
        funcfile.load(tmp_path)
