"""A real stokerd for tests: its own data directory, a free port, and everything it started gone at the end."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import select
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
"""How long a test waits for something that must happen: generous, because machines are noisy. Never a measurement."""

HELLO = """
import io, json
from fdk import response

def handler(ctx, data: io.BytesIO = None):
    return response.Response(ctx, response_data=json.dumps({"hello": data.getvalue().decode() or "world"}),
                             headers={"Content-Type": "application/json"})
"""


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def bundle(source: str, *, extra: Mapping[str, str | bytes] | None = None) -> bytes:
    """A bundle with one function file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("function/func.py", source)
        for name, content in (extra or {}).items():
            archive.writestr(name, content)
    return buffer.getvalue()


@dataclass
class Daemon:
    """A running stokerd and a small HTTP client for it."""

    process: subprocess.Popen[str]
    data: Path
    port: int
    stderr_path: Path
    deployed: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, body=body, headers=dict(headers or {}))
            response = connection.getresponse()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """A JSON request that must succeed."""
        reply = self.request(
            method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"}
        )
        assert reply.status in (200, 202, 204), f"{method} {path}: {reply.status} {reply.body.decode(errors='replace')}"
        return reply.json if reply.body else None

    def app(self, name: str = "app", **fields: Any) -> str:
        """The id of an app, made if it is not there."""
        items = self.api("GET", f"/v2/apps?name={name}")["items"]
        return str(items[0]["id"] if items else self.api("POST", "/v2/apps", {"name": name, **fields})["id"])

    def push(self, archive: bytes, image: str) -> Any:
        reply = self.request("PUT", f"/stoker/v1/bundles/{image}", archive, {"Content-Type": "application/zip"})
        assert reply.status == 200, reply.body
        return reply.json

    def deploy(self, name: str, source: str, *, app: str = "app", extra: Any = None, **settings: Any) -> str:
        """Push the source as a bundle and make or update the function; returns its id."""
        reply = self.try_deploy(name, source, app=app, extra=extra, **settings)
        assert reply.status == 200, reply.body.decode(errors="replace")
        return str(reply.json["id"])

    def try_deploy(self, name: str, source: str, *, app: str = "app", extra: Any = None, **settings: Any) -> Reply:
        app_id = self.app(app)
        image = f"{name}:{len(self.deployed) + 1}"
        self.deployed[image] = source
        self.push(bundle(source, extra=extra), image)
        found = self.api("GET", f"/v2/fns?app_id={app_id}&name={name}")["items"]
        if found:
            return self.request("PUT", f"/v2/fns/{found[0]['id']}", json.dumps({"image": image, **settings}))
        return self.request("POST", "/v2/fns", json.dumps({"app_id": app_id, "name": name, "image": image, **settings}))

    def invoke(self, function_id: str, body: bytes | str = b"", headers: Mapping[str, str] | None = None) -> Reply:
        return self.request("POST", f"/invoke/{function_id}", body, headers)

    def instances(self, function_id: str | None = None) -> list[dict[str, Any]]:
        items = self.api("GET", "/stoker/v1/instances")["items"]
        return [item for item in items if function_id in (None, item["function_id"])]

    def workers(self) -> list[psutil.Process]:
        """Every process beneath the daemon."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def stderr(self) -> str:
        return self.stderr_path.read_text(errors="replace")

    def stop(self, sig: int = signal.SIGTERM) -> int:
        """Send the signal and wait for the end; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.process.wait(PATIENCE_S)


@contextlib.contextmanager
def run_daemon(
    data: Path,
    *args: str,
    config: str = "",
    env: Mapping[str, str] | None = None,
    pass_fds: tuple[int, ...] = (),
) -> Iterator[Daemon]:
    """Start stokerd on a free port and wait for its ``ready`` line. At the end none of its processes may be left."""
    data.mkdir(parents=True, exist_ok=True)
    stderr_path = data.parent / f"{data.name}.stderr"
    command = [sys.executable, "-m", "daemon.main", "--data", str(data), "--listen", "127.0.0.1:0", *args]
    if config:
        config_path = data.parent / f"{data.name}.yaml"
        config_path.write_text(config)
        command += ["--config", str(config_path)]
    with stderr_path.open("a") as stderr:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True, pass_fds=pass_fds,
            env={**os.environ, **(env or {})},
        )  # fmt: skip
    tree: list[psutil.Process] = []
    try:
        line = _first_line(process)
        assert line.startswith("ready http://"), f"no ready line but {line!r}; stderr:\n{stderr_path.read_text()}"
        daemon = Daemon(process, data, int(line.rsplit(":", 1)[1]), stderr_path)
        yield daemon
        tree = daemon.workers()
        daemon.stop()
    finally:
        if process.poll() is None:
            tree = tree or psutil.Process(process.pid).children(recursive=True)
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()
        left = all_gone(tree)
        assert not left, f"processes left behind: {left}"


def all_gone(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Wait until none of these processes runs; returns those that still do after PATIENCE_S."""
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE_S)
    return alive


def _first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], PATIENCE_S)
    return process.stdout.readline().strip() if ready else ""


def eventually(condition: Any, *, what: str = "") -> Any:
    """Wait until the condition gives something true, and return that. Polls: what it watches is another process."""
    end_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < end_s:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"did not happen within {PATIENCE_S:g} s: {what or condition}")
