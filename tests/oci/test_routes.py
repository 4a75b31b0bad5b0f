"""Every route of the OCI API on a live daemon, asked anything: an answer or a refusal in OCI's form, never a 5xx."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon import ocid
from daemon.http import oci_api
from daemon.http.views import Route
from tests.oci.test_fuzz import ANY, damaged
from tests.system.daemon import HELLO, Daemon

QUERY_NAMES = [
    "compartmentId", "applicationId", "displayName", "id", "lifecycleState", "limit", "page", "sortBy", "sortOrder",
    "name", "nameContains", "nameStartsWith", "trigger", "isCurrentVersion", "pbfListingId", "status", "resourceId",
]  # fmt: skip


@pytest.fixture(scope="module")
def known(node: Daemon) -> list[str]:
    """Things that are there, for requests to hit."""
    function_id = node.deploy("routes", HELLO, app="routes")
    return [ocid.application_ocid(node.app("routes")), ocid.function_ocid(function_id), "ocid1.tenancy.oc1..any"]


@pytest.mark.parametrize("route", oci_api.ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_any_request_is_answered(node: Daemon, known: list[str], route: Route) -> None:
    values = st.sampled_from([*known, "ACTIVE", "10", "true", "timeCreated", "DESC"]) | st.text(max_size=12)

    @given(
        st.lists(values, min_size=2, max_size=2),
        st.dictionaries(st.sampled_from(QUERY_NAMES), values, max_size=4),
        damaged() | st.dictionaries(st.text(max_size=8), ANY, max_size=3),
    )
    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    def ask(names: list[str], query: dict[str, str], body: dict[str, Any]) -> None:
        path = re.sub(r"\{\w+\}", lambda _: quote(names.pop() or "x", safe=""), route.path)
        target = f"{path}?{urlencode(query, errors='replace')}"
        raw = json.dumps(body) if route.method in ("POST", "PUT") else None
        reply = node.request(route.method, target, raw)
        assert reply.status < 500, (route.method, target, raw, reply.body)
        assert reply.headers["opc-request-id"]
        if reply.status >= 400:
            assert set(reply.json) == {"code", "message"}

    ask()
    assert node.request("GET", "/health").status == 200
