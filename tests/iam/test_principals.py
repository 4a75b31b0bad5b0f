"""Functions sign as themselves: files that only the instance can read, used by Oracle's signer, renewed in place."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from daemon import ocid
from daemon.auth.identity import Identity
from daemon.auth.tokens import InvalidToken, Issuer
from daemon.catalog import Catalog
from daemon.config.settings import Limits
from daemon.iam.principals import ResourcePrincipals
from daemon.workers import channel as channels
from runtime import identity, wire
from tests.exec import programs
from tests.iam.node import Node, run_node
from tests.iam.signing import Signer, key, sdk_python

SHOW = """
import io, json, os, stat
from fdk import response

def handler(ctx, data: io.BytesIO = None):
    names = ("VERSION", "RPST", "PRIVATE_PEM", "REGION")
    found = {name: os.environ["OCI_RESOURCE_PRINCIPAL_" + name] for name in names}
    for name in ("RPST", "PRIVATE_PEM"):
        path = found[name]
        found[name + "_mode"] = [stat.S_IMODE(os.stat(p).st_mode) for p in (path, os.path.dirname(path))]
        found[name] = open(path).read()
    found["endpoint"] = os.environ["STOKER_ENDPOINT"]
    return response.Response(ctx, response_data=json.dumps(found))
"""

CLIENT = """
import json, os, sys
import oci
from oci._vendor import requests
signer = oci.auth.signers.get_resource_principals_signer()
out = {"tenancy": signer.tenancy_id}
for method, url in json.loads(sys.argv[1]):
    reply = requests.request(method, url, data=b"called" if method == "POST" else None, auth=signer,
                             headers={"content-type": "application/json"} if method == "POST" else {})
    out[f"{method} {url.split('/', 3)[3]}"] = [reply.status_code, reply.text]
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with run_node(tmp_path_factory.mktemp("rp") / "data") as node:
        yield node


def shown(node: Node, function_id: str) -> dict[str, Any]:
    reply = node.local("POST", f"/invoke/{function_id}")
    assert isinstance(reply, dict)
    return reply


def test_oracles_signer_signs_as_the_function(node: Node, tmp_path: Path) -> None:
    caller = node.deploy("rp", "caller", SHOW)
    callee = node.deploy("rp", "callee", "def handler(ctx, data=None):\n    return data.getvalue().decode()\n")
    found = shown(node, caller)
    assert found["RPST_mode"] == found["PRIVATE_PEM_mode"] == [0o600, 0o700]
    assert (found["VERSION"], found["endpoint"]) == ("2.2", node.url)
    for name in ("RPST", "PRIVATE_PEM"):
        (tmp_path / name).write_text(found[name])
    env = {
        **os.environ, "OCI_RESOURCE_PRINCIPAL_VERSION": "2.2", "OCI_RESOURCE_PRINCIPAL_REGION": found["REGION"],
        "OCI_RESOURCE_PRINCIPAL_RPST": str(tmp_path / "RPST"),
        "OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM": str(tmp_path / "PRIVATE_PEM"),
    }  # fmt: skip

    def asked(*requests: tuple[str, str]) -> dict[str, Any]:
        command = [str(sdk_python()), "-c", CLIENT, json.dumps([(m, node.url + path) for m, path in requests])]
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        reply = json.loads(done.stdout)
        assert isinstance(reply, dict)
        return reply

    first = asked(("GET", "/stoker/v1/iam"), ("POST", f"/invoke/{callee}"))
    principal = json.loads(first["GET stoker/v1/iam"][1])["principal"]
    assert (principal["kind"], principal["id"], principal["name"]) == (
        "function",
        ocid.function_ocid(caller),
        "rp/caller",
    )
    assert first["tenancy"] == node.local("GET", "/stoker/v1/iam")["tenancy_id"]
    assert first[f"POST invoke/{callee}"][0] == 404  # no policy yet

    rule = f"ALL {{resource.type = 'fnfunc', resource.id = '{ocid.function_ocid(caller)}'}}"
    node.local("POST", "/stoker/v1/iam/dynamic-groups", {"name": "Workers", "rule": rule})
    node.policy("workers", "Allow dynamic-group Workers to use fn-invocation in tenancy")
    assert asked(("POST", f"/invoke/{callee}"))[f"POST invoke/{callee}"][0] == 200
    # The other function is in no group, and the caller may do nothing else.
    assert asked(("GET", "/v2/apps"))["GET v2/apps"][0] == 404
    stolen = Signer(f"ST${found['RPST']}", key(3)).sign("GET", "/stoker/v1/iam")
    assert node.send("GET", "/stoker/v1/iam", headers=stolen).status == 401  # the token without its key

    node.local("DELETE", f"/v2/fns/{caller}")
    headers = _signer(found["RPST"], found["PRIVATE_PEM"]).sign("GET", "/stoker/v1/iam")
    assert node.send("GET", "/stoker/v1/iam", headers=headers).status == 401  # it is gone


def _signer(token: str, pem: str) -> Signer:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    return Signer(f"ST${token}", load_pem_private_key(pem.encode(), None))  # type: ignore[arg-type]


CALLS = """
import io, json, os, sys
sys.path.insert(0, {packages!r})
import oci
from fdk import response

def handler(ctx, data: io.BytesIO = None):
    signer = oci.auth.signers.get_resource_principals_signer()
    client = oci.functions.FunctionsInvokeClient({{}}, signer=signer, service_endpoint=os.environ["STOKER_ENDPOINT"])
    try:
        answer = client.invoke_function(data.getvalue().decode(), invoke_function_body="from a function")
        found = [answer.status, answer.data.text]
    except oci.exceptions.ServiceError as exc:
        found = [exc.status, exc.code]
    return response.Response(ctx, response_data=json.dumps(found))
"""


def test_a_function_calls_another_with_oracles_sdk_in_mode_host(tmp_path: Path) -> None:
    """All of it inside the sandbox. In mode egress the machine, and with it the daemon, cannot be reached."""
    packages = next((sdk_python().parents[1] / "lib").glob("python3*/site-packages"))
    config = f"{{auth: {{mode: iam}}, sandbox: {{readable: [{packages}]}}, limits: {{start_s: 120}}}}"
    with run_node(tmp_path / "node" / "data", config=config) as node:
        app = node.local("POST", "/v2/apps", {"name": "rp", "annotations": {"stoker.dev/network": "host"}})
        source = CALLS.format(packages=str(packages))
        caller = node.deploy(app["name"], "caller", source, memory=512, timeout=300)
        callee = node.deploy(app["name"], "callee", "def handler(ctx, data=None):\n    return data.getvalue()\n")

        def called() -> Any:
            return node.local("POST", f"/invoke/{caller}", ocid.function_ocid(callee).encode())

        assert called() == [404, "NotAuthorizedOrNotFound"]
        rule = f"resource.id = '{ocid.function_ocid(caller)}'"
        node.local("POST", "/stoker/v1/iam/dynamic-groups", {"name": "Workers", "rule": rule})
        node.policy("workers", "Allow dynamic-group Workers to use fn-invocation in tenancy")
        assert called() == [200, "from a function"]


def test_functions_have_keys_of_their_own_and_instances_share_theirs(node: Node) -> None:
    one, two = node.deploy("rp", "one", SHOW), node.deploy("rp", "two", SHOW)
    first, second, again = shown(node, one), shown(node, two), shown(node, one)
    assert first["PRIVATE_PEM"] != second["PRIVATE_PEM"]
    assert first["PRIVATE_PEM"] == again["PRIVATE_PEM"]


def test_without_the_setting_and_in_open_mode_there_are_none(tmp_path: Path) -> None:
    source = "import os\ndef handler(ctx, data=None):\n    return str('OCI_RESOURCE_PRINCIPAL_RPST' in os.environ)\n"
    for config in ("auth: {mode: iam, resource_principals: false}", "auth: {mode: open}"):
        with run_node(tmp_path / str(len(config)) / "data", config=config) as node:
            function_id = node.deploy("a", "f", source)
            assert node.send("POST", f"/invoke/{function_id}", local=True).body == b"False"


def test_a_program_runs_although_it_has_none(node: Node) -> None:
    """Nothing but calls is sent to a program: no frame of a resource principal either."""
    answer = (
        'serve(lambda c, *_: c.sendall(reply(b"token" if "OCI_RESOURCE_PRINCIPAL_RPST" in os.environ else b"none")))\n'
    )
    archive = programs.bundle(["./func"], {"func": programs.FRAME + answer})
    node.local("PUT", "/stoker/v1/bundles/program:1", archive)
    app = node.local("POST", "/v2/apps", {"name": "programs"})
    made = node.local("POST", "/v2/fns", {"app_id": app["id"], "name": "program", "image": "program:1"})
    reply = node.send("POST", f"/invoke/{made['id']}", local=True)
    assert (reply.status, reply.body) == (200, b"none")


def frame(token: str) -> dict[str, Any]:
    return {"type": "identity", "token": token, "key": "k", "region": "r", "endpoint": "e"}


def test_files_are_replaced_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VERSION", "RPST", "PRIVATE_PEM", "REGION"):
        monkeypatch.setenv(f"OCI_RESOURCE_PRINCIPAL_{name}", "")
    monkeypatch.setenv("STOKER_ENDPOINT", "")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    identity.take(frame("one"))
    path = Path(os.environ["OCI_RESOURCE_PRINCIPAL_RPST"])
    with path.open() as held:
        identity.take(frame("two"))
        assert (held.read(), path.read_text()) == ("one", "two")
    assert sorted(p.name for p in path.parent.iterdir()) == ["private.pem", "rpst"]


async def test_a_frame_is_given_only_between_frames() -> None:
    calls_read, calls_write = os.pipe2(os.O_NONBLOCK)
    answers_read, answers_write = os.pipe2(os.O_NONBLOCK)
    channel = channels.Channel(calls_write, answers_read, Limits())
    data = wire.encode(frame("t" * 1000))
    try:
        assert channel.give(data)
        decoder = wire.Decoder(wire.TO_WORKER)
        assert decoder.feed(os.read(calls_read, 65536)) == [frame("t" * 1000)]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(_large_call, channel)
            await trio.testing.wait_all_tasks_blocked()
            assert not channel.give(data)  # half of a call is in the pipe
            nursery.cancel_scope.cancel()
    finally:
        channel.close()
        os.close(calls_read)
        os.close(answers_write)
    assert not channel.give(data)


async def _large_call(channel: channels.Channel) -> None:
    await channel.call(call_id="c", deadline="", headers=[], body=bytes(2**20))


class _Pipe:
    """Takes frames, or says that it cannot just now."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.full = False

    def give(self, data: bytes) -> bool:
        if not self.full:
            self.frames.append(data)
        return not self.full


async def test_tokens_are_renewed_in_time_for_the_longest_call() -> None:
    clock = [1_795_000_000.0]
    function_id, app_id = "01M7YEGRJA03Z812W1TQ6CN9Y9", "01M7YEGRJA03Z812W1TQ6CN9Y8"
    catalog = Catalog()
    issuer = Issuer(key(9), "ocid1.tenancy.oc1..t")
    plan = SimpleNamespace(function_id=function_id, app_id=app_id)
    slots = {n: SimpleNamespace(instance_id=n, plan=plan, channel=_Pipe(), ready_s=0.0) for n in (1, 2)}
    supervisor: Any = SimpleNamespace(slots=slots, before_ready=None)
    who = Identity(catalog, lambda: issuer, log=None)
    principals = ResourcePrincipals(who, supervisor, ttl_s=900, endpoint="e", log=None, clock=lambda: clock[0])
    for slot in slots.values():
        await principals.give(slot)  # type: ignore[arg-type]
    one, two = slots[1].channel, slots[2].channel
    assert one.frames == two.frames
    assert len(one.frames) == 1
    clock[0] += 599
    principals.renew()
    assert len(one.frames) == 1
    one.full = True
    clock[0] += 2
    principals.renew()
    assert (len(one.frames), len(two.frames)) == (1, 2)
    one.full = False
    principals.renew()
    principals.renew()
    assert one.frames == two.frames
    tokens = [wire.Decoder(wire.TO_WORKER).feed(f)[0] for f in two.frames]
    assert tokens[0]["key"] == tokens[1]["key"]  # the two files of an instance always fit together
    first = issuer.check(tokens[0]["token"], now_s=clock[0])
    assert first.expires_s - clock[0] >= 3600  # a call that has just begun with it can take an hour
    with pytest.raises(InvalidToken, match="expired"):
        issuer.check(tokens[0]["token"], now_s=clock[0] + 4000)


def test_a_console_session_of_a_function_ends_with_the_function(node: Node) -> None:
    function = node.deploy("rp", "visitor", SHOW)
    found = shown(node, function)
    signed = _signer(found["RPST"], found["PRIVATE_PEM"]).sign("POST", "/stoker/v1/console/links")
    path = node.send("POST", "/stoker/v1/console/links", b"", signed).json["path"]
    cookie = {"cookie": node.send("GET", path).headers["set-cookie"].partition(";")[0]}
    assert node.send("GET", "/console/", headers=cookie).status == 200
    node.local("DELETE", f"/v2/fns/{function}")
    assert node.send("GET", "/console/", headers=cookie).status == 401
