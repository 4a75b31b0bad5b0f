"""A real stokerd for the bench, on a data directory of its own, and the few requests that the bench makes of it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import select
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.http1 import HELLO_BODY, Address, Client, Reply, check_hello, request_bytes
from bench.peers import APPS, Target
from bench.processes import POLL_S, START_S, BenchError, Server, descendants

ROOT = Path(__file__).parents[1]
IDLE_TIMEOUT_S = 600
"""Of the bench's functions: nothing idles out between two rounds."""
APP = "bench"


class Stoker:
    """The running daemon."""

    def __init__(self, server: Server, port: int, data: Path, ready_s: float) -> None:
        self.server = server
        self.address = Address(port)
        self.url = f"http://127.0.0.1:{port}"
        self.ready_s = ready_s
        """Seconds from its start to its ``ready`` line."""
        self.socket = data / "stoker.sock"
        self.control = Client(self.address)
        self._pushed = 0

    @property
    def pid(self) -> int:
        return self.server.pid

    def api(self, method: str, path: str, body: Any = b"", headers: dict[str, str] | None = None) -> Any:
        """A management request that must succeed; its JSON.

        Raises:
          BenchError: it did not.
        """
        reply: Reply = self.control.call(method, path, body, headers)
        if reply.status not in (200, 202, 204):
            raise BenchError(f"{method} {path}: {reply.status} {reply.body[:2000].decode(errors='replace')}")
        return reply.json if reply.body else None

    def deploy(self, name: str, source: str | bytes, *, packages: Path | None = None, **settings: Any) -> str:
        """Push and make or update a function; its id. The bundle is made before anything is timed by the callers."""
        return self.update(name, self.push(name, bundle(source, packages)), **settings)

    def push(self, name: str, archive: bytes) -> str:
        """Upload a bundle; the name it can be deployed under."""
        self._pushed += 1
        image = f"{name}:{self._pushed}"
        self.api("PUT", f"/stoker/v1/bundles/{image}", archive, {"Content-Type": "application/zip"})
        return image

    def update(self, name: str, image: str, **settings: Any) -> str:
        """Make or update a function so that it runs this bundle; its id."""
        app_id = self.app()
        settings = {"memory": 128, "timeout": 30, "idle_timeout": IDLE_TIMEOUT_S, "image": image, **settings}
        found = self.api("GET", f"/v2/fns?app_id={app_id}&name={name}")["items"]
        if found:
            return str(self.api("PUT", f"/v2/fns/{found[0]['id']}", settings)["id"])
        return str(self.api("POST", "/v2/fns", {"app_id": app_id, "name": name, **settings})["id"])

    def app(self) -> str:
        """The id of the bench's app."""
        items = self.api("GET", f"/v2/apps?name={APP}")["items"]
        return str(items[0]["id"] if items else self.api("POST", "/v2/apps", {"name": APP})["id"])

    def call(self, function_id: str, body: bytes = HELLO_BODY) -> Reply:
        """One call on a kept-alive connection."""
        return self.control.send(invoke_request(function_id, body))

    def target(self, function_id: str) -> Target:
        """Stoker as something that answers hello."""
        path = f"/invoke/{function_id}"
        return Target("stoker", self.address, request_bytes("POST", path, HELLO_BODY), self.pid, f"{self.url}{path}")

    def status(self, function_id: str) -> Any:
        """What the daemon says about a function: pool, PCUs, start mode."""
        return self.api("GET", f"/stoker/v1/functions/{function_id}")

    def instances(self, function_id: str) -> list[dict[str, Any]]:
        """The function's instances that are not leaving."""
        items = self.api("GET", f"/stoker/v1/instances?function={function_id}")["items"]
        return [
            item for item in items
            if item["function_id"] == function_id and item["state"] not in ("stopping", "killing", "gone")
        ]  # fmt: skip

    def restart(self, function_id: str) -> None:
        """End the function's instances and wait until they are gone: the next call starts cold."""

        def gone() -> bool:
            # Asked again: one that was starting when it was told, a spare perhaps, is idle now.
            self.api("POST", f"/stoker/v1/functions/{function_id}/restart", {})
            return not self.processes(function_id)

        self.wait(gone, "end of the idle instances")

    def processes(self, function_id: str) -> list[dict[str, Any]]:
        """All of the function's instances, those that leave included."""
        items = self.api("GET", f"/stoker/v1/instances?function={function_id}")["items"]
        return [item for item in items if item["function_id"] == function_id]

    def wait(self, condition: Any, what: str) -> Any:
        """Poll until the condition gives something true, and return that.

        Raises:
          BenchError: it never did.
        """
        end_s = time.monotonic() + START_S
        while not (value := condition()):
            if time.monotonic() > end_s:
                raise BenchError(f"no {what} within {START_S:g} s")
            time.sleep(POLL_S)
        return value

    def family(self) -> list[int]:
        """Every process beneath the daemon."""
        return descendants(self.pid)


def invoke_request(function_id: str, body: bytes = HELLO_BODY) -> bytes:
    """The bytes of one call."""
    return request_bytes("POST", f"/invoke/{function_id}", body)


def bundle(source: str | bytes, packages: Path | None = None) -> bytes:
    """A bundle of one source file and, if given, a directory of installed packages."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("function/func.py", source)
        if packages is not None:
            for path in sorted(packages.rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    archive.write(path, f"python/{path.relative_to(packages)}")
    return buffer.getvalue()


def source(name: str) -> str:
    """A function of ``bench/apps``."""
    return (APPS / name).read_text()


@contextlib.contextmanager
def running(scratch: Path, *, name: str = "stokerd", environment: dict[str, str] | None = None) -> Iterator[Stoker]:
    """Start stokerd with its default configuration, but for the variables given, on a free port; it and all of its processes are gone at the end.

    Raises:
      BenchError: it did not get ready.
    """
    data = scratch / name
    command: list[str | Path] = [sys.executable, "-m", "daemon.main", "--data", data, "--listen", "127.0.0.1:0"]
    began_s = time.perf_counter()
    server = Server(command, log=scratch / f"{name}.log", cwd=ROOT, stdout=subprocess.PIPE, env=environment)
    try:
        port = int(_ready_line(server).rsplit(":", 1)[1])
        stoker = Stoker(server, port, data, time.perf_counter() - began_s)
        try:
            yield stoker
        finally:
            stoker.control.close()
    finally:
        server.stop()


def _ready_line(server: Server) -> str:
    assert server.process.stdout is not None
    if select.select([server.process.stdout], [], [], START_S)[0]:
        line = os.read(server.process.stdout.fileno(), 4096).decode().strip()
        if line.startswith("ready http://"):
            return line
    raise BenchError(f"stokerd did not get ready: {server.output()}")


def deploy_hello(stoker: Stoker) -> str:
    """The function that all warm measurements use; its id."""
    function_id = stoker.deploy("hello", source("fn_hello.py"))
    check_hello(stoker.call(function_id))
    return function_id


def starts(stoker: Stoker) -> dict[str, int]:
    """Answered calls by how they got their instance, since the daemon started; from its metrics."""
    text = stoker.control.call("GET", "/metrics").body.decode()
    found = re.findall(r'^stoker_starts_total\{kind="(\w+)"\} (\S+)$', text, re.MULTILINE)
    if not found:
        raise BenchError("the daemon's metrics have no stoker_starts_total")
    return {kind: int(float(count)) for kind, count in found}


def interpreter_of(stoker: Stoker, function_id: str) -> Path:
    """The Python that the function's instances run on."""
    pid = stoker.instances(function_id)[0]["pid"]
    return Path(os.readlink(f"/proc/{pid}/exe"))


def sandbox_of(stoker: Stoker, function_id: str) -> str:
    """Which layers are on, seen from outside: from /proc of an instance, not from what anybody says."""
    pid = int(stoker.instances(function_id)[0]["pid"])
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    own = [
        kind for kind in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
        if os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
    ]  # fmt: skip
    layers = {
        "no_new_privs": status["NoNewPrivs"].strip() == "1",
        "seccomp": status["Seccomp"].strip() != "0",
        f"namespaces ({', '.join(own)})": bool(own),
        "uid of its own": status["Uid"].split()[0] != str(os.getuid()),
        "rlimits": bool(
            re.search(r"^Max core file size +0 +0 ", Path(f"/proc/{pid}/limits").read_text(), re.MULTILINE)
        ),
    }
    on = [name for name, there in layers.items() if there]
    off = ["namespaces" if name.startswith("namespaces") else name for name, there in layers.items() if not there]
    return f"on: {', '.join(on) or 'nothing'}; off: {', '.join(off) or 'nothing'}"


def dumps(value: Any) -> bytes:
    """JSON as bytes."""
    return json.dumps(value).encode()
