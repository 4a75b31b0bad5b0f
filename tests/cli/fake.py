"""A daemon that only knows its lines: it expects one request after the other and answers what the test said."""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NOTHING = object()


@dataclass
class Line:
    """One expected request and its answer."""

    request: str
    """``METHOD /path?query``, exactly."""
    reply: bytes
    status: int
    headers: dict[str, str]
    body: Any = NOTHING
    """What the request's JSON must be; NOTHING: it is not looked at."""
    cut: bool = False
    """Close the connection without an answer."""


@dataclass
class Seen:
    """One request that came."""

    request: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class FakeDaemon:
    """Serves on TCP, or on a unix socket when it has a path."""

    path: Path | None = None
    script: list[Line] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        daemon = self

        class Handler(_Handler):
            fake = daemon

        self.server: socketserver.BaseServer
        if self.path is None:
            self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        else:
            self.server = _UnixServer(str(self.path), Handler)
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def expect(
        self,
        request: str,
        reply: Any = None,
        *,
        status: int = 200,
        body: Any = NOTHING,
        headers: dict[str, str] | None = None,
        cut: bool = False,
    ) -> None:
        """The next request must be this one. ``reply``: bytes as they are, anything else as JSON."""
        raw = reply if isinstance(reply, bytes) else b"" if reply is None else json.dumps(reply).encode()
        self.script.append(Line(request, raw, status, headers or {}, body, cut))

    def expect_app(self, name: str = "demo", **more: Any) -> None:
        """The look-up of an app."""
        self.expect(f"GET /v2/apps?name={name}", {"items": [{"id": "A1", "name": name, **more}]})

    def expect_function(self, app: str = "demo", name: str = "hello", **more: Any) -> None:
        """The look-ups of an app and a function of it."""
        self.expect_app(app)
        found = {"id": "F1", "name": name, "app_id": "A1", **more}
        self.expect(f"GET /v2/fns?app_id=A1&name={name}", {"items": [found]})

    def stop(self) -> None:
        """Stop serving; what was expected and did not come is a problem, too."""
        self.server.shutdown()
        self.server.server_close()
        self._thread.join(10)
        self.problems += [f"never came: {line.request}" for line in self.script]


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeDaemon

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = f"{self.command} {self.path}"
        self.fake.seen.append(Seen(request, {k.lower(): v for k, v in self.headers.items()}, body))
        if not self.fake.script:
            self.fake.problems.append(f"not expected: {request}")
            return self._send(500, {}, b'{"message":"not expected"}')
        line = self.fake.script.pop(0)
        if line.request != request:
            self.fake.problems.append(f"expected {line.request}, got {request}")
        if line.body is not NOTHING and (not body or json.loads(body) != line.body):
            self.fake.problems.append(f"{request}: expected the body {line.body}, got {body.decode()}")
        if line.cut:
            self.close_connection = True
            return None
        return self._send(line.status, line.headers, line.reply)

    do_GET = do_POST = do_PUT = do_DELETE = _answer

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status != 204:
            self.wfile.write(body)

    def address_string(self) -> str:
        return "client"

    def log_message(self, format: str, *args: Any) -> None:
        pass
