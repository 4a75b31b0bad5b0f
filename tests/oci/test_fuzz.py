"""Bodies of the OCI API by hypothesis: whatever comes is accepted or refused with a text, and nothing else happens."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.errors import StokerError
from daemon.http import oci_bodies, oci_lists
from daemon.http.views import ApiRequest

LIMITS = {"config_bytes_max": 4096, "archive_bytes_max": 1000}
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [
        "compartmentId", "displayName", "config", "subnetIds", "shape", "networkSecurityGroupIds", "syslogUrl",
        "traceConfig", "logging", "freeformTags", "definedTags", "imagePolicyConfig", "securityAttributes",
        "applicationId", "image", "imageDigest", "sourceDetails", "memoryInMBs", "timeoutInSeconds",
        "detachedModeTimeoutInSeconds", "provisionedConcurrencyConfig", "successDestination", "failureDestination",
    ]
)  # fmt: skip
SOURCES: list[dict[str, Any]] = [
    {"sourceType": "CONTAINER_IMAGE", "image": "a:1"},
    {"sourceType": "PRE_BUILT_FUNCTIONS", "pbfListingId": "ocid1.x.oc1..a"},
    {
        "sourceType": "ARCHIVE",
        "archiveSourceDetails": {"archiveSourceType": "DIRECT_ARCHIVE", "archiveFile": "UEs="},
        "handler": "func.handler",
        "runtimeConfig": {"runtimeConfigType": "FUNCTION_UPDATE", "functionsRuntimeName": "python311.ol9"},
    },
]
GOOD: dict[str, Any] = {
    "compartmentId": "ocid1.tenancy.oc1..a", "displayName": "name", "subnetIds": [], "applicationId": "x",
    "image": "a:1", "memoryInMBs": 128, "config": {"A": "1"}, "timeoutInSeconds": 30,
    "provisionedConcurrencyConfig": {"strategy": "CONSTANT", "count": 40},
    "successDestination": {"kind": "STREAM", "streamId": "s"}, "traceConfig": {"isEnabled": True},
    "freeformTags": {"a": "b"}, "definedTags": {"n": {"k": "v"}},
}  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn) -> dict[str, Any]:
    """A good body with some members exchanged, perhaps deep inside."""
    body = {**GOOD, "sourceDetails": draw(st.sampled_from(SOURCES))}
    body |= draw(st.dictionaries(NAMES, ANY, max_size=3))
    for name in draw(st.lists(NAMES, max_size=2)):
        if isinstance(inner := body.get(name), dict) and inner:
            body[name] = {**inner, draw(st.sampled_from(sorted(inner))): draw(ANY)}
    return body


def refusal(call: Callable[[], object]) -> StokerError | None:
    """How it was refused; None: it was not. Anything else that it raises goes on."""
    try:
        call()
    except StokerError as exc:
        return exc
    return None


def attempt(body: bytes) -> None:
    for call in (
        lambda: oci_bodies.new_application(body, 4096),
        lambda: oci_bodies.application_change(body, 4096),
        lambda: oci_bodies.function_change(oci_bodies.new_function(body, "20260325", **LIMITS)[0], 4096),
        lambda: oci_bodies.function_change(oci_bodies.new_function(body, "20181201", **LIMITS)[0], 4096),
        lambda: oci_bodies.function_update(body, "20260325", archive_bytes_max=1000),
    ):
        refused = refusal(call)
        assert refused is None or (400 <= refused.status < 500 and len(str(refused)) > 5)


def test_the_good_body_is_good() -> None:
    body = json.dumps({**GOOD, "sourceDetails": SOURCES[2]}).encode()
    change, _ = oci_bodies.new_application(body, 4096)
    assert change.config == {"A": "1"}
    fields, source = oci_bodies.new_function(body, "20260325", **LIMITS)
    assert (source.handler, source.archive) == ("func.handler", b"PK")
    assert oci_bodies.function_change(fields, 4096).pcu_count == 40


@given(damaged())
@settings(max_examples=400, deadline=None)
def test_a_damaged_body_is_accepted_or_refused(body: dict[str, Any]) -> None:
    attempt(json.dumps(body).encode())


@given(st.binary(max_size=60) | ANY.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_accepted_or_refused(body: bytes) -> None:
    attempt(body)


@given(
    st.lists(st.tuples(st.text(max_size=6), st.integers(0, 99)), max_size=30, unique_by=lambda item: item[1]),
    st.integers(1, 50),
    st.sampled_from(["ASC", "DESC"]),
)
@settings(max_examples=200, deadline=None)
def test_the_pages_of_a_list_are_the_list(items: list[tuple[str, int]], limit: int, order: str) -> None:
    forms = [{"id": f"id{number:02}", "name": name} for name, number in items]
    found: list[dict[str, Any]] = []
    query = {"limit": [str(limit)], "sortBy": ["name"], "sortOrder": [order]}
    while True:
        request = ApiRequest(method="GET", path="/", query=query)
        reply = oci_lists.page(request, forms, {"name": "name", "id": "id"}, "id", wrapped=False)
        assert len(reply.body) <= limit
        found += reply.body
        token = dict(reply.headers).get("opc-next-page")
        if token is None:
            break
        query = {**query, "page": [token]}
    assert found == sorted(forms, key=lambda form: (form["name"], form["id"]), reverse=order == "DESC")


@given(st.text(max_size=80))
def test_any_page_token_is_accepted_or_refused(token: str) -> None:
    request = ApiRequest(method="GET", path="/", query={"page": [token]})
    refused = refusal(lambda: oci_lists.page(request, [{"id": "a"}], {"id": "id"}, "id", wrapped=False))
    assert refused is None or refused.status == 400
