"""A real daemon in mode iam (or with TLS), and a client that signs."""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.iam.signing import Signer, key
from tests.system.daemon import PATIENCE_S, ROOT, Reply, bundle


@dataclass
class Node:
    """A running daemon."""

    process: subprocess.Popen[str]
    data: Path
    url: str
    stderr_path: Path
    tls: ssl.SSLContext | None = None
    users: dict[str, Signer] = field(default_factory=dict)

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def connect(self, *, local: bool = False) -> http.client.HTTPConnection:
        if local:
            connection = http.client.HTTPConnection("localhost", timeout=PATIENCE_S)
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(PATIENCE_S)
            connection.sock.connect(str(self.data / "stoker.sock"))
            return connection
        if self.tls is not None:
            return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=PATIENCE_S, context=self.tls)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)

    def send(
        self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None, *,
        local: bool = False,
    ) -> Reply:  # fmt: skip
        """One request on a connection of its own, with these headers and no others."""
        connection = self.connect(local=local)
        try:
            given = dict(headers or {})
            connection.putrequest(method, target, skip_host="host" in given, skip_accept_encoding=True)
            if "content-length" not in given and (body or method in ("POST", "PUT")):
                given["content-length"] = str(len(body))
            for name, value in given.items():
                connection.putheader(name, value)
            connection.endheaders(body or None)
            response = connection.getresponse()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def local(self, method: str, path: str, body: Any = None, *, status: int | None = None) -> Any:
        """A request through the unix socket, as an administrator; it must succeed."""
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        reply = self.send(method, path, raw, local=True)
        assert reply.status in ((200, 202, 204) if status is None else (status,)), (method, path, reply.body)
        return reply.json if reply.body else None

    def user(self, name: str, number: int = 0, **members: Any) -> Signer:
        """A new user with a key; one of a few keys, since making one takes a while."""
        private = key(number)
        made = self.local(
            "POST", "/stoker/v1/iam/users", {"name": name, "public_key": Signer("", private).public_pem, **members}
        )
        self.users[name] = Signer(made["keys"][0]["key_id"], private)
        return self.users[name]

    def signed(self, user: str, method: str, target: str, body: Any = None, **how: Any) -> Reply:
        """A request signed by a user."""
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        headers = self.users[user].sign(method, target, raw, host=f"127.0.0.1:{self.port}", **how)
        return self.send(method, target, raw, headers)

    def policy(self, name: str, *statements: str, **members: Any) -> None:
        self.local("POST", "/stoker/v1/iam/policies", {"name": name, "statements": statements, **members})

    def deploy(self, app: str, name: str, source: str, **members: Any) -> str:
        """A function of an app, which is made if it is not there; its id."""
        found = self.local("GET", f"/v2/apps?name={app}")["items"]
        app_id = found[0]["id"] if found else self.local("POST", "/v2/apps", {"name": app})["id"]
        image = f"{app}-{name}:1"
        self.local("PUT", f"/stoker/v1/bundles/{image}", bundle(source))
        made = self.local("POST", "/v2/fns", {"app_id": app_id, "name": name, "image": image, **members})
        return str(made["id"])

    def stderr(self) -> str:
        return self.stderr_path.read_text(errors="replace")


@contextlib.contextmanager
def run_node(
    data: Path, *args: str, config: str = "auth: {mode: iam}", tls: ssl.SSLContext | None = None
) -> Iterator[Node]:
    """Start stokerd on a free port; it is stopped at the end."""
    data.parent.mkdir(parents=True, exist_ok=True)
    (data.parent / "node.yaml").write_text(config)
    command = [
        sys.executable, "-m", "daemon.main", "--data", str(data), "--listen", "127.0.0.1:0",
        "--config", str(data.parent / "node.yaml"), *args,
    ]  # fmt: skip
    stderr_path = data.parent / "stderr"
    with stderr_path.open("a") as stderr:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True)
    try:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE_S)
        line = process.stdout.readline().strip() if ready else ""
        assert line.startswith("ready http"), f"{line!r}; stderr:\n{stderr_path.read_text()}"
        yield Node(process, data, line.removeprefix("ready "), stderr_path, tls)
    finally:
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
        assert process.stdout is not None
        process.stdout.close()
