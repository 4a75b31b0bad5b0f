"""A node in mode iam as people meet it: the CLI makes users, Oracle's and other clients use them, revoked ones stop."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.iam.node import Node, run_node
from tests.iam.signing import sdk_python
from tests.system.daemon import HELLO, PATIENCE_S, ROOT


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with run_node(tmp_path_factory.mktemp("iam") / "data") as node:
        yield node


def stoker(node: Node, *args: str, code: int = 0, env: dict[str, str] | None = None) -> str:
    """What the command prints, on either output."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("STOKER_", "FN_", "OCI_"))}
    done = subprocess.run(
        [sys.executable, "-m", "cli", *args], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S,
        env={**clean, "STOKER_SOCKET": str(node.data / "stoker.sock"), **(env or {})},
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def oci_cli(config: Path, *args: str, profile: str = "DEFAULT") -> subprocess.CompletedProcess[str]:
    """Oracle's command."""
    command = sdk_python().parent / "oci"
    if not command.exists():
        pytest.skip("oci-cli is not installed beside the SDK")
    return subprocess.run(
        [str(command), "--config-file", str(config), "--profile", profile, *args],
        capture_output=True, text=True, timeout=PATIENCE_S, cwd=config.parent,
    )  # fmt: skip


def get(config: Path, url: str, *auth: str, profile: str = "DEFAULT") -> Any:
    """A signed GET by Oracle's command; None when it was refused."""
    done = oci_cli(config, *auth, "raw-request", "--http-method", "GET", "--target-uri", url, profile=profile)
    if done.returncode:
        assert '"status": 401' in done.stderr or '"status": 401' in done.stdout, done.stderr
        return None
    reply = json.loads(done.stdout)
    return reply["data"] if reply["status"].startswith("200") else None


def test_a_user_from_nothing_to_a_signed_request_and_back(node: Node, tmp_path: Path) -> None:
    config = tmp_path / "oci" / "config"
    text = stoker(node, "iam", "user", "add", "ada", "--admin", "--config-file", str(config))
    assert f"export OCI_CLI_ENDPOINT={node.url}" in text
    key_file = tmp_path / "oci" / "stoker_DEFAULT.pem"
    for path in (config, key_file):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key_file.read_text().endswith("-----END PRIVATE KEY-----\nOCI_API_KEY\n")
    # Only the public half has come to the daemon.
    stored = b"".join(path.read_bytes() for path in node.data.glob("stoker.db*"))
    assert b"BEGIN PUBLIC KEY" in stored
    assert b"PRIVATE KEY" not in stored

    whoami = get(config, f"{node.url}/stoker/v1/iam")
    assert (whoami["principal"]["name"], whoami["principal"]["groups"]) == ("ada", ["Administrators"])

    assert "has a profile DEFAULT already" in stoker(
        node, "iam", "user", "add", "bob", "--profile", "DEFAULT", "--config-file", str(config), code=1
    )
    assert [u["name"] for u in node.local("GET", "/stoker/v1/iam/users")["items"] if u["name"] == "bob"] == []

    old = key_file.read_text()
    shutil.copy(config, tmp_path / "old_config")
    assert "is revoked" in stoker(node, "iam", "key", "rotate", "ada", "--config-file", str(config))
    assert key_file.read_text() != old
    assert get(config, f"{node.url}/stoker/v1/iam")["principal"]["name"] == "ada"
    (tmp_path / "old.pem").write_text(old)
    (tmp_path / "old.pem").chmod(0o600)
    text = (tmp_path / "old_config").read_text().replace(str(key_file), str(tmp_path / "old.pem"))
    (tmp_path / "old_config").write_text(text)
    assert get(tmp_path / "old_config", f"{node.url}/stoker/v1/iam") is None

    stoker(node, "iam", "user", "rm", "ada")
    assert get(config, f"{node.url}/stoker/v1/iam") is None
    audit = json.loads(stoker(node, "audit", "--output", "json"))
    assert ("DELETE", "/stoker/v1/iam/users/ada") in [(e["action"].split()[0], e["target"]) for e in audit]


def test_a_session(node: Node, tmp_path: Path) -> None:
    config = tmp_path / "oci" / "config"
    stoker(node, "iam", "user", "add", "sue", "--public-key", str(_public(tmp_path)), "--admin")
    stoker(node, "iam", "session", "sue", "--config-file", str(config))
    auth = ("--auth", "security_token")
    assert get(config, f"{node.url}/stoker/v1/iam", *auth)["principal"]["name"] == "sue"
    token = tmp_path / "oci" / "stoker_DEFAULT.token"
    head, body, signature = token.read_text().split(".")
    none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0"
    for forged in (f"{none}.{body}.", f"{none}.{body}.{signature}", f"{head}.{body[:-4]}AAAA.{signature}"):
        signer = _session_signer(tmp_path / "oci" / "stoker_DEFAULT.pem", f"ST${forged}")
        assert node.send("GET", "/stoker/v1/iam", headers=signer.sign("GET", "/stoker/v1/iam")).status == 401
    good = _session_signer(tmp_path / "oci" / "stoker_DEFAULT.pem", f"ST${token.read_text()}")
    assert node.send("GET", "/stoker/v1/iam", headers=good.sign("GET", "/stoker/v1/iam")).status == 200
    # Another key than the token names does not do.
    from tests.iam.signing import Signer, key

    other = Signer(f"ST${token.read_text()}", key(3))
    assert node.send("GET", "/stoker/v1/iam", headers=other.sign("GET", "/stoker/v1/iam")).status == 401
    stoker(node, "iam", "user", "rm", "sue")
    assert node.send("GET", "/stoker/v1/iam", headers=good.sign("GET", "/stoker/v1/iam")).status == 401


def _session_signer(path: Path, key_id: str) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from tests.iam.signing import Signer

    pem = path.read_text().removesuffix("OCI_API_KEY\n").encode()
    return Signer(key_id, load_pem_private_key(pem, None))  # type: ignore[arg-type]


def _public(directory: Path) -> Path:
    from tests.iam.signing import Signer, key

    path = directory / "public.pem"
    path.write_text(Signer("", key(2)).public_pem)
    return path


def test_bearer_tokens_for_clients_that_cannot_sign(node: Node, tmp_path: Path) -> None:
    stoker(node, "iam", "user", "add", "tom", "--public-key", str(_public(tmp_path)), "--admin")
    token = stoker(node, "iam", "token", "tom", "--days", "1", "--description", "laptop").strip()
    headers = {"authorization": f"Bearer {token}"}
    assert node.send("GET", "/v2/apps", headers=headers).status == 200
    over_tcp = {"STOKER_SOCKET": "", "STOKER_URL": node.url, "FN_TOKEN": token}
    assert json.loads(stoker(node, "iam", "whoami", "--output", "json", env=over_tcp))["principal"]["name"] == "tom"
    listed = json.loads(stoker(node, "iam", "token", "tom", "--list", "--output", "json"))
    assert [t["description"] for t in listed] == ["laptop"]
    assert token not in json.dumps(listed)
    assert token.encode() not in b"".join(path.read_bytes() for path in node.data.glob("stoker.db*"))
    stoker(node, "iam", "token", "tom", "--revoke", listed[0]["id"])
    assert node.send("GET", "/v2/apps", headers=headers).status == 401
    text = stoker(node, "ls", "apps", code=1, env={"STOKER_SOCKET": "", "STOKER_URL": node.url})
    assert "export STOKER_TOKEN=$(stoker iam token USER)" in text


def test_a_replay_is_for_who_may_see_calls(node: Node) -> None:
    """The request was perhaps somebody else's."""
    function_id = node.deploy("kept", "hello", HELLO, annotations={"stoker.dev/record-bodies": True})
    call_id = node.send("POST", f"/invoke/{function_id}", b"secret", local=True).headers["fn-call-id"]
    node.user("rita", 4)
    stoker(node, "iam", "group", "add", "Repeaters", "rita")
    replay = f"/stoker/v1/functions/{function_id}/calls/{call_id}/replay"
    node.policy("repeat", "Allow group Repeaters to use fn-invocation in tenancy")
    assert node.signed("rita", "POST", f"/invoke/{function_id}", b"x").status == 200
    assert node.signed("rita", "POST", replay).status == 404
    node.policy("see", "Allow group Repeaters to read fn-function in tenancy")
    assert node.signed("rita", "POST", replay).status == 200


def test_who_may_call_and_why_not(node: Node) -> None:
    function_id = node.deploy("web", "hello", HELLO)
    web = stoker(node, "iam", "compartment", "add", "web").strip()
    assert web.startswith("ocid1.compartment.oc1..")
    node.user("cal", 4)
    node.local("POST", "/v2/apps", {"name": "placed", "compartment_id": web})
    assert node.signed("cal", "POST", f"/invoke/{function_id}", b"x").status == 404
    stoker(node, "iam", "group", "add", "Callers", "cal")
    text = stoker(node, "iam", "policy", "add", "callers", "Allow group Callers to use fn-invocaton in tenancy", code=1)
    assert "did you mean 'fn-invocation'?" in text
    assert "there is no group Caller" in stoker(
        node, "iam", "policy", "add", "callers", "Allow group Caller to use fn-invocation in tenancy", code=1
    )
    statement = "Allow group Callers to use fn-invocation in compartment web"
    stoker(node, "iam", "policy", "add", "callers", statement)
    why = stoker(node, "iam", "explain", "cal", "use", "fn-invocation", "--app", "web", "--function", "hello", code=1)
    assert "refused: cal lacks FN_INVOCATION: no statement allows it" in why
    assert "the target is not in compartment web" in why
    wider = "Allow group Callers to use fn-invocation in tenancy where target.app.name = 'web'"
    stoker(node, "iam", "policy", "set", "callers", wider)
    why = stoker(node, "iam", "explain", "cal", "FN_INVOCATION", "--app", "web", "--function", "hello")
    assert "allowed: cal has FN_INVOCATION" in why
    reply = node.signed("cal", "POST", f"/invoke/{function_id}", b"you")
    assert (reply.status, reply.json) == (200, {"hello": "you"})
    assert node.signed("cal", "GET", f"/v2/fns/{function_id}").status == 404
    assert node.signed("cal", "GET", "/v2/apps").status == 404
    assert node.send("POST", f"/invoke/{function_id}", b"x").status == 401


def test_public_functions_and_triggers(node: Node) -> None:
    source = HELLO
    function_id = node.deploy("open", "front", source, annotations={"stoker.dev/public": True})
    assert node.send("POST", f"/invoke/{function_id}", b"all").json == {"hello": "all"}
    app_id = node.local("GET", "/v2/apps?name=open")["items"][0]["id"]
    trigger = {"name": "t", "app_id": app_id, "fn_id": function_id, "type": "http", "source": "/t"}
    node.local("POST", "/v2/triggers", trigger)
    assert node.send("GET", "/t/open/t").status == 401
    public = {"name": "p", "source": "/p", "annotations": {"stoker.dev/public": True}}
    node.local("POST", "/v2/triggers", {**trigger, **public})
    assert node.send("POST", "/t/open/p", b"x").status == 200
    assert node.send("GET", "/t/open/nothing").status == 401


def test_a_signed_upload_is_checked_to_its_last_byte(node: Node) -> None:
    from tests.system.daemon import bundle

    node.user("pia", 6, administrator=True)
    archive = bundle(HELLO)
    target = "/stoker/v1/bundles/signed:1"
    good = node.users["pia"].sign("PUT", target, archive, host=f"127.0.0.1:{node.port}")
    changed = archive[:-1] + bytes([archive[-1] ^ 1])
    assert node.send("PUT", target, changed, good).status in (400, 401)
    assert node.local("GET", "/stoker/v1/bundles?name=signed:1")["items"] == []
    assert node.send("PUT", target, archive, good).status == 200


def test_a_restart_keeps_it_all(tmp_path: Path) -> None:
    with run_node(tmp_path / "data") as node:
        signer = node.user("ada", administrator=True)
        token = node.local("POST", "/stoker/v1/iam/users/ada/tokens", {})["token"]
        session = node.local("POST", "/stoker/v1/iam/users/ada/sessions", {"public_key": signer.public_pem})["token"]
        assert stat.S_IMODE((node.data / "identity.pem").stat().st_mode) == 0o600
    with run_node(tmp_path / "data") as node:
        node.users["ada"] = signer
        assert node.signed("ada", "GET", "/v2/apps").status == 200
        assert node.send("GET", "/v2/apps", headers={"authorization": f"Bearer {token}"}).status == 200
        from tests.iam.signing import Signer

        headers = Signer(f"ST${session}", signer.private).sign("GET", "/v2/apps")
        assert node.send("GET", "/v2/apps", headers=headers).status == 200
        late = signer.sign("GET", "/v2/apps", at_s=time.time() - 301)
        assert node.send("GET", "/v2/apps", headers=late).status == 401


HEADERS = """
import io, json
from fdk import response

def handler(ctx, data: io.BytesIO = None):
    return response.Response(ctx, response_data=json.dumps(sorted(name.lower() for name in ctx.Headers())))
"""


def test_no_way_of_calling_hands_credentials_to_the_function_or_tells_what_is_there(node: Node) -> None:
    function_id = node.deploy("paths", "headers", HEADERS)
    app_id = node.local("GET", "/v2/apps?name=paths")["items"][0]["id"]
    trigger = {"name": "t", "app_id": app_id, "fn_id": function_id, "type": "http", "source": "/t"}
    node.local("POST", "/v2/triggers", trigger)
    node.user("max", 8, administrator=True)
    node.user("moe", 9)
    token = node.local("POST", "/stoker/v1/iam/users/max/tokens", {})["token"]
    for path, missing in [
        (f"/invoke/{function_id}", f"/invoke/{function_id[:-1]}"),
        (f"/20181201/functions/{function_id}/actions/invoke", "/20181201/functions/nothing/actions/invoke"),
        (f"/20260325/functions/{function_id}/actions/invoke", "/20260325/functions/nothing/actions/invoke"),
        ("/t/paths/t", "/t/paths/nothing"),
    ]:
        seen = node.signed("max", "POST", path, b"x")
        assert seen.status == 200, (path, seen.body)
        by_token = node.send("POST", path, b"x", {"authorization": f"Bearer {token}"})
        for reply in (seen, by_token):
            assert b"authorization" not in reply.body.lower(), path
        assert node.send("POST", path, b"x").status == 401
        assert node.send("POST", missing, b"x").status == 401
        refused, absent = node.signed("moe", "POST", path, b"x"), node.signed("moe", "POST", missing, b"x")
        assert (refused.status, absent.status) == (404, 404)
        assert _without_ids(refused.json) == _without_ids(absent.json), path


def _without_ids(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name in ("message", "code", "detail")}
