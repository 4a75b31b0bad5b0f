"""Header values beyond ASCII: a function reads the text that was sent, and what it answers arrives as it said it."""

from __future__ import annotations

import http.client
import json

import pytest

from tests.system.daemon import PATIENCE_S, Daemon

pytestmark = pytest.mark.processes

SOURCE = """
import io, json
from fdk import response

def handler(ctx, data: io.BytesIO = None):
    said = (ctx.HTTPHeaders() or ctx.Headers()).get("x-name")
    headers = {"Content-Type": "application/json", "X-Latin": "caf\\u00e9", "X-Wide": "\\u017cubr", "X-Said": said}
    return response.Response(ctx, response_data=json.dumps(said), headers=headers)
"""
TEXTS = [("café", "café".encode()), ("żubr 漢", "żubr 漢".encode()), ("café", b"caf\xe9"), ("plain", b"plain")]
"""What a function must read, and the bytes that were sent: UTF-8, or else latin-1, as under the official FDK."""


def exchange(daemon: Daemon, path: str, sent: bytes, *, first: str = "") -> tuple[object, dict[str, bytes]]:
    """What the function read, and the bytes of its headers. ``first``: a path asked for before on the connection."""
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE_S)
    try:
        if first:
            connection.request("GET", first)
            connection.getresponse().read()
        connection.request("POST", path, b"x", {"X-Name": sent})
        reply = connection.getresponse()
        body = json.loads(reply.read())
        return body, {name.lower(): value.encode("latin-1") for name, value in reply.getheaders()}
    finally:
        connection.close()


@pytest.mark.parametrize("first", ["", "/v2/apps"], ids=["data plane", "control plane"])
@pytest.mark.parametrize("through", ["invoke", "trigger"])
def test_header_values_are_text_in_both_directions(shared_daemon: Daemon, through: str, first: str) -> None:
    name = f"text-{through}-{len(first)}"
    function = shared_daemon.deploy(name, SOURCE, app="header-text")
    path = f"/invoke/{function}"
    if through == "trigger":
        trigger = {"app_id": shared_daemon.app("header-text"), "fn_id": function, "name": name, "type": "http"}
        shared_daemon.api("POST", "/v2/triggers", {**trigger, "source": f"/{name}"})
        path = f"/t/header-text/{name}"
    for text, sent in TEXTS:
        read, headers = exchange(shared_daemon, path, sent, first=first)
        assert read == text
        expected = ("café".encode(), "żubr".encode(), text.encode())
        assert (headers["x-latin"], headers["x-wide"], headers["x-said"]) == expected
