"""A real front door on a real socket, and a client that sends raw bytes and reads what comes back."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from daemon.config.settings import Http
from daemon.http.frontdoor import FrontDoor
from daemon.http.messages import Endpoint, Reply, Request

ASK = b"POST /invoke/f HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi"


class Log:
    """Keeps what was logged."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Callable[..., None]:
        return lambda event, **values: self.lines.append((level, event, values))

    def events(self, level: str) -> list[str]:
        return [event for kind, event, _ in self.lines if kind == level]


async def plain_control(scope: Any, receive: Any, send: Any) -> None:
    """A control plane that says which path was asked for."""
    if scope["type"] == "lifespan":
        for kind in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    text = f"control {scope['method']} {scope['raw_path'].decode()} {len(body)}".encode()
    headers = [(b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text, "more_body": False})


@dataclass
class Door:
    """A front door that serves, and the requests its endpoint was given."""

    front: FrontDoor
    address: Any
    log: Log
    unix: str = ""
    seen: list[Request] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)

    async def connect(self, *, unix: bool = False) -> Client:
        """A new connection, closed when the door is, at the latest."""
        if unix:
            stream = await trio.open_unix_socket(self.unix)
        else:
            sock = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            await sock.connect(self.address)
            stream = trio.SocketStream(sock)
        client = Client(stream)
        self.clients.append(client)
        return client


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    raw_names: list[str] = field(default_factory=list)


class Client:
    """One raw connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.buffer = b""

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await trio.aclose_forcefully(self.stream)

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def more(self) -> bool:
        """Receive some; False at the end of the stream, or when it was reset."""
        try:
            data = await self.stream.receive_some(65536)
        except trio.BrokenResourceError:
            return False
        self.buffer += data
        return bool(data)

    async def closed(self) -> bool:
        """Whether nothing but the end of the stream comes."""
        return not self.buffer and not await self.more()

    async def answer(self, *, head: bool = False) -> Answer:
        """The next reply; ``head``: to a HEAD request."""
        while b"\r\n\r\n" not in self.buffer:
            assert await self.more(), f"closed within a head: {self.buffer!r}"
        raw, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        line, *fields = raw.decode("latin-1").split("\r\n")
        version, status, _ = line.split(" ", 2)
        assert version == "HTTP/1.1"
        pairs = [field.split(": ", 1) for field in fields]
        headers = {name.lower(): value for name, value in pairs}
        assert len(headers) == len(pairs), f"a header came twice: {fields}"
        body = b""
        if not head and int(status) not in (100, 204, 304):
            length = int(headers["content-length"])
            while len(self.buffer) < length:
                assert await self.more(), "closed within a body"
            body, self.buffer = self.buffer[:length], self.buffer[length:]
        return Answer(int(status), headers, body, [name for name, _ in pairs])

    async def ask(self, raw: bytes = ASK, *, head: bool = False) -> Answer:
        await self.send(raw)
        return await self.answer(head=head)


async def echo(request: Request) -> Reply:
    """Says what it was asked."""
    await trio.lowlevel.checkpoint()
    text = f"{request.method} {request.target.decode()} ".encode() + request.body
    return Reply(200, [("Content-Type", "text/plain")], text)


@asynccontextmanager
async def open_door(
    endpoint: Callable[[Request], Awaitable[Reply]] = echo,
    *,
    control: Any = plain_control,
    unix: Path | None = None,
    client_watch_s: float = 0.25,
    **settings: Any,
) -> AsyncIterator[Door]:
    """A front door whose data plane (/invoke/, /t/) is ``endpoint``."""
    log = Log()
    listener = socket.create_server(("127.0.0.1", 0))
    listeners = [listener]
    if unix is not None:
        unix_listener = socket.socket(socket.AF_UNIX)
        unix_listener.bind(str(unix))
        unix_listener.listen()
        listeners.append(unix_listener)
    seen: list[Request] = []

    async def watched(request: Request) -> Reply:
        seen.append(request)
        return await endpoint(request)

    def route(method: str, target: bytes) -> Endpoint | None:
        return watched if target.startswith((b"/invoke/", b"/t/")) else None

    front = FrontDoor(Http(**settings), route=route, control=control, client_watch_s=client_watch_s, log=log)
    door = Door(front, listener.getsockname(), log, str(unix or ""), seen)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(front.serve, listeners)
            yield door
            nursery.cancel_scope.cancel()
    finally:
        for client in door.clients:
            client.stream.socket.close()
        for each in listeners:
            each.close()
