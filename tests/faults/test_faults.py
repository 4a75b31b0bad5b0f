"""Each fault of the table, seeded for real: a real daemon, the real command, what the user reads."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.table import FAULTS, PAGE, Fault, page
from tests.iam.node import Node, run_node
from tests.iam.signing import Signer
from tests.system.daemon import HELLO, PATIENCE_S, ROOT, Daemon, Reply, eventually, run_daemon
from tests.system.test_calls import WILD

pytestmark = pytest.mark.processes

Seed = Callable[["Site"], str]
SEEDS: dict[str, Seed] = {}


def seeds(key: str) -> Callable[[Seed], Seed]:
    def note(seed: Seed) -> Seed:
        SEEDS[key] = seed
        return seed

    return note


class Site:
    """Where faults are seeded: one open daemon, one in mode iam, each started when first needed."""

    def __init__(self, stack: contextlib.ExitStack, top: Path) -> None:
        self._stack, self._top, self._made = stack, top, 0
        self._daemon: Daemon | None = None
        self._node: Node | None = None

    @property
    def directory(self) -> Path:
        """A new one."""
        self._made += 1
        path = self._top / str(self._made)
        path.mkdir()
        return path

    @property
    def daemon(self) -> Daemon:
        if self._daemon is None:
            config = "limits: {memory_mib: 384, queue_max: 1, queue_s: 1}\n"
            self._daemon = self._stack.enter_context(run_daemon(self._top / "open", config=config))
            self._daemon.deploy("hello", HELLO, memory=64)
            self._daemon.deploy("wild", WILD, memory=64, timeout=1)
        return self._daemon

    @property
    def node(self) -> Node:
        if self._node is None:
            self._node = self._stack.enter_context(run_node(self._top / "iam" / "data"))
        return self._node

    def cli(self, *args: str, url: str = "", stdin: str = "", fails: bool = True) -> str:
        """What the command says, on standard error."""
        home = self._top / "home"
        done = subprocess.run(
            [sys.executable, "-m", "cli", *args], input=stdin, capture_output=True, text=True, timeout=PATIENCE_S,
            cwd=self._top, check=False, env={
                "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(home), "LC_ALL": "C.UTF-8",
                "STOKER_URL": url or self.daemon.url,
            },
        )  # fmt: skip
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stderr if fails else done.stdout

    def explained(self, reply: Reply) -> str:
        """An error reply, and what ``stoker explain`` says of its code."""
        assert reply.status >= 400, reply.body
        return reply.body.decode() + self.cli("explain", reply.json["code"], url="http://127.0.0.1:9", fails=False)

    def wild(self, mode: str) -> str:
        """What the caller of a misbehaving function reads."""
        assert self.daemon
        return self.cli("invoke", "app", "wild", stdin=mode)

    def deploy(
        self, source: str = HELLO, fields: str = "", *, handler: str = "handler", runtime: str = "python"
    ) -> str:
        directory = self.directory
        (directory / "func.py").write_text(source)
        (directory / "func.yaml").write_text(
            f"schema_version: 20180708\nname: broken\nversion: 0.0.1\nruntime: {runtime}\n"
            f"entrypoint: /python/bin/fdk /function/func.py {handler}\n{fields}"
        )
        return self.cli("deploy", "--create-app", "--app", "app", str(directory))

    def refused(self, *args: str, data: Path | None = None, config: str = "", code: int = 1, **spawn: object) -> str:
        """What ``stokerd`` says when it does not start."""
        directory = self.directory
        (directory / "c.yaml").write_text(config)
        done = subprocess.run(
            [sys.executable, "-m", "daemon.main", "--data", str(data or directory / "data"), "--config",
             str(directory / "c.yaml"), *(args if "--listen" in args else ("--listen", "127.0.0.1:0", *args))],
            cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False, **spawn,  # type: ignore[call-overload]
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return str(done.stderr)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with contextlib.ExitStack() as stack:
        yield Site(stack, tmp_path_factory.mktemp("f"))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: str(fault.key))
def test_the_message_names_cause_and_cure(site: Site, fault: Fault) -> None:
    seen = SEEDS[fault.key](site)
    missing = [text for text in (*fault.evidence, *fault.step) if text not in seen]
    assert not missing, f"{missing} not in:\n{seen}"


def test_the_table_the_seeds_and_the_page_are_one() -> None:
    assert list(SEEDS) == [fault.key for fault in FAULTS]
    assert len(FAULTS) >= 30
    assert PAGE.read_text() == page(), "run python -m tests.faults.table"


# -- the function


seeds("wrong-handler-name")(lambda site: site.deploy(handler="handle"))
seeds("import-error")(lambda site: site.deploy("raise RuntimeError('broken at the top')\n" + HELLO))
seeds("missing-dependency")(lambda site: site.deploy("import not_there_at_all\n" + HELLO))
seeds("no-such-python")(lambda site: site.deploy(runtime="python3.10"))
seeds("func-yaml-field")(lambda site: site.deploy(fields="memory: lots\n"))


@seeds("bundle-not-pushed")
def _(site: Site) -> str:
    app = site.daemon.app()
    site.daemon.api("POST", "/v2/fns", {"app_id": app, "name": "empty", "image": "never-pushed:1"})
    return site.cli("invoke", "app", "empty")


seeds("handler-raises")(lambda site: site.wild("raise"))
seeds("handler-exits")(lambda site: site.wild("exit 3"))
seeds("handler-crashes")(lambda site: site.wild("segfault"))
seeds("timeout")(lambda site: site.wild("hang"))
seeds("out-of-memory")(lambda site: site.wild("memory"))
seeds("garbage-in-pipe")(lambda site: site.wild("garbage"))
seeds("answer-too-large")(lambda site: site.wild("big 7000000"))


# -- room on the node

SLEEPER = "import time\ndef handler(ctx, data=None):\n    time.sleep(600)\n"


@contextlib.contextmanager
def held(site: Site, function: str, count: int) -> Iterator[list[http.client.HTTPConnection]]:
    """Calls that last until the end of the block."""
    calls = [http.client.HTTPConnection("127.0.0.1", site.daemon.port, timeout=PATIENCE_S) for _ in range(count)]
    try:
        for call in calls:
            call.request("POST", f"/invoke/{function}")
        yield calls
    finally:
        for call in calls:
            call.close()
        eventually(lambda: all(i["state"] != "busy" for i in site.daemon.instances(function)), what="calls cancelled")


@seeds("queue-full")
def _(site: Site) -> str:
    function = site.daemon.deploy("crowd", SLEEPER, memory=256, timeout=60)
    with held(site, function, 1):
        eventually(lambda: [i for i in site.daemon.instances(function) if i["state"].lower() == "busy"], what="busy")
        # One may wait. Of several that come at once, all but one are refused.
        with contextlib.ExitStack() as stack:
            replies = []
            for _ in range(3):
                call = http.client.HTTPConnection("127.0.0.1", site.daemon.port, timeout=PATIENCE_S)
                stack.callback(call.close)
                call.request("POST", f"/invoke/{function}")
                replies.append(call)
            answers = [call.getresponse() for call in replies]
            refused = [Reply(a.status, {}, a.read()) for a in answers]
    return site.explained(next(reply for reply in refused if reply.status == 429))


@seeds("function-too-large")
def _(site: Site) -> str:
    data = site.directory / "data"
    with run_daemon(data) as daemon:
        daemon.deploy("large", HELLO, memory=256)
    with run_daemon(data, config="limits: {memory_mib: 128}") as daemon:  # the node has become smaller
        return site.cli("invoke", "app", "large", url=daemon.url)


@seeds("node-out-of-memory")
def _(site: Site) -> str:
    function = site.daemon.deploy("holder", SLEEPER, memory=256, timeout=60)
    site.daemon.deploy("late", HELLO, memory=256)
    with held(site, function, 1):
        eventually(lambda: [i for i in site.daemon.instances(function) if i["state"].lower() == "busy"], what="busy")
        return site.cli("invoke", "app", "late")


@seeds("provisioned-count")
def _(site: Site) -> str:
    assert site.daemon
    return site.cli("update", "function", "app", "hello", "--provisioned-concurrency", "constant:3")


seeds("unknown-function")(lambda site: site.cli("invoke", "app", "helo"))


@seeds("hostile-archive")
def _(site: Site) -> str:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("function/func.py", HELLO)
        archive.writestr("function/../../evil", "x")
    return site.explained(site.daemon.request("PUT", "/stoker/v1/bundles/evil:1", buffer.getvalue()))


# -- the daemon


@seeds("daemon-not-running")
def _(site: Site) -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound and not listening: refused
        return site.cli("ls", "apps", url=f"http://127.0.0.1:{free.getsockname()[1]}")


@seeds("port-taken")
def _(site: Site) -> str:
    with socket.create_server(("127.0.0.1", 0)) as other:
        return site.refused("--listen", f"127.0.0.1:{other.getsockname()[1]}")


seeds("socket-in-use")(lambda site: site.refused("--socket", str(site.daemon.data / "stoker.sock")))


@seeds("socket-path-taken")
def _(site: Site) -> str:
    path = site.directory / "s"
    path.write_text("mine")
    said = site.refused("--socket", str(path))
    assert path.read_text() == "mine"
    return said


seeds("data-in-use")(lambda site: site.refused(data=site.daemon.data))


@seeds("data-not-writable")
def _(site: Site) -> str:
    path = site.directory / "file"
    path.write_text("")  # root may write into any directory, but not beneath a file
    return site.refused(data=path / "data")


@contextlib.contextmanager
def small_disk(site: Site) -> Iterator[Path]:
    """A file system of 8 MiB."""
    if os.geteuid():
        pytest.skip("only root can mount a small disk")
    path = site.directory
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", path], check=False).returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def fill(path: Path) -> None:
    with contextlib.suppress(OSError), (path / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


@seeds("disk-full")
def _(site: Site) -> str:
    with small_disk(site) as path, run_daemon(path / "data") as daemon:
        fill(path)
        reply = None
        for number in range(200):  # the database's log has some room of its own
            reply = daemon.request("POST", "/v2/apps", json.dumps({"name": f"a{number}", "config": {"K": "v" * 4000}}))
            if reply.status != 200:
                break
        assert reply is not None
        (path / "filler").unlink()
        daemon.api("POST", "/v2/apps", {"name": "there-is-room-again"})
        return site.explained(reply)


@seeds("disk-full-at-start")
def _(site: Site) -> str:
    with small_disk(site) as path:
        (path / "data" / "run").mkdir(parents=True)
        fill(path)
        said = site.refused(data=path / "data")
        (path / "filler").unlink()
        with run_daemon(path / "data") as daemon:
            daemon.api("POST", "/v2/apps", {"name": "kept"})
        fill(path)
        again = site.refused(data=path / "data")  # with a database that is there, SQLite says "disk I/O error"
        assert "disk is full" in again, again
        return said


@seeds("database-damaged")
def _(site: Site) -> str:
    data = site.directory
    (data / "stoker.db").write_bytes(b"this is no database" * 500)
    return site.refused(data=data)


@seeds("database-newer")
def _(site: Site) -> str:
    data = site.directory
    with run_daemon(data):
        pass
    with contextlib.closing(sqlite3.connect(data / "stoker.db")) as conn:
        conn.execute("PRAGMA user_version=9999")
    return site.refused(data=data)


@seeds("records-damaged")
def _(site: Site) -> str:
    data = site.directory / "data"
    data.mkdir()
    (data / "records.db").write_bytes(b"this is no database" * 500)
    with run_daemon(data) as daemon:
        daemon.deploy("hello", HELLO)
        return daemon.stderr()


seeds("unknown-setting")(lambda site: site.refused(config="limits:\n  memory_mb: 5\n", code=2))


@seeds("bad-certificate")
def _(site: Site) -> str:
    directory = site.directory
    for name in ("cert.pem", "key.pem"):
        (directory / name).write_text("-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n")
    return site.refused(config=f"http: {{tls_certificate: {directory}/cert.pem, tls_key: {directory}/key.pem}}")


seeds("certificate-missing")(
    lambda site: site.refused(config="http: {tls_certificate: /nowhere/cert.pem, tls_key: /nowhere/key.pem}")
)
# Without control groups no machine is of level A.
seeds("sandbox-floor")(lambda site: site.refused(config="sandbox: {floor: A}\nlimits: {cgroups: 'off'}"))
seeds("exposed")(lambda site: site.refused("--listen", "0.0.0.0:0", code=2))


# -- who asks


def logged(site: Site, before: int) -> str:
    """What the log of the node says since then of a refusal."""
    return str(eventually(lambda: "not authenticated" in site.node.stderr()[before:] and site.node.stderr()[before:]))


seeds("unsigned")(lambda site: site.cli("ls", "apps", url=site.node.url))


@seeds("unknown-key")
def _(site: Site) -> str:
    user = site.node.user("kim")
    before = len(site.node.stderr())
    stranger = Signer(user.key_id[:-2] + "zz", user.private)
    assert site.node.send("GET", "/v2/apps", headers=stranger.sign("GET", "/v2/apps")).status == 401
    return logged(site, before)


@seeds("revoked-token")
def _(site: Site) -> str:
    before = len(site.node.stderr())
    assert site.node.send("GET", "/v2/apps", headers={"authorization": "Bearer revoked"}).status == 401
    return logged(site, before)


@seeds("clock-skew")
def _(site: Site) -> str:
    site.node.user("sam", 1)
    before = len(site.node.stderr())
    assert site.node.signed("sam", "GET", "/v2/apps", at_s=time.time() - 3600).status == 401
    return logged(site, before)


@seeds("no-policy")
def _(site: Site) -> str:
    function = site.node.deploy("secret", "hello", HELLO)
    site.node.user("pat", 2)
    reply = site.node.signed("pat", "POST", f"/invoke/{function}", b"x")
    done = subprocess.run(
        [sys.executable, "-m", "cli", "iam", "explain", "pat", "use", "fn-invocation", "--app", "secret"], cwd=ROOT,
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        env={**os.environ, "STOKER_SOCKET": str(site.node.data / "stoker.sock")},
    )  # fmt: skip
    return site.explained(reply) + done.stdout + done.stderr
