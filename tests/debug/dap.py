"""A small client of the Debug Adapter Protocol: what an editor says when one attaches."""

from __future__ import annotations

import json
import socket
from typing import Any

WAIT_S = 30.0


class Editor:
    """One connection to a debugger. Requests are answered in order; events are kept until they are asked for."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
        self._file = self._sock.makefile("rwb")
        self._seq = 0
        self._events: list[dict[str, Any]] = []
        self._replies: dict[int, dict[str, Any]] = {}

    def __enter__(self) -> Editor:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._sock.close()

    def send(self, command: str, **arguments: Any) -> int:
        """Send a request without waiting; its number."""
        self._seq += 1
        data = json.dumps({"seq": self._seq, "type": "request", "command": command, "arguments": arguments}).encode()
        self._file.write(b"Content-Length: %d\r\n\r\n" % len(data) + data)
        self._file.flush()
        return self._seq

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for its answer, which must be a good one."""
        return self.reply(self.send(command, **arguments))

    def reply(self, number: int) -> dict[str, Any]:
        while number not in self._replies:
            self._take()
        found = self._replies.pop(number)
        assert found["success"], found
        body: dict[str, Any] = found.get("body") or {}
        return body

    def event(self, name: str) -> dict[str, Any]:
        """The next event of this name."""
        while True:
            for index, event in enumerate(self._events):
                if event["event"] == name:
                    body: dict[str, Any] = self._events.pop(index).get("body") or {}
                    return body
            self._take()

    def _take(self) -> None:
        length = 0
        while line := self._file.readline().strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        assert length, "the debugger closed the connection"
        message = json.loads(self._file.read(length))
        if message["type"] == "response":
            self._replies[message["request_seq"]] = message
        elif message["type"] == "event":
            self._events.append(message)

    def attach(self, local_root: str, remote_root: str, *, file: str, lines: list[int]) -> None:
        """Attach as VS Code does, with breakpoints in ``file``."""
        self.ask("initialize", clientID="test", adapterID="debugpy", linesStartAt1=True, pathFormat="path")
        mappings = [{"localRoot": local_root, "remoteRoot": remote_root}]
        attached = self.send("attach", name="stoker", justMyCode=True, pathMappings=mappings)
        self.event("initialized")
        found = self.ask("setBreakpoints", source={"path": file}, breakpoints=[{"line": line} for line in lines])
        assert all(point["verified"] for point in found["breakpoints"]), found
        self.ask("configurationDone")
        self.reply(attached)

    def stopped(self) -> tuple[int, list[dict[str, Any]]]:
        """Wait until it stands still; the thread and its frames, innermost first."""
        thread = self.event("stopped")["threadId"]
        return thread, self.ask("stackTrace", threadId=thread)["stackFrames"]

    def value(self, frame: dict[str, Any], expression: str) -> str:
        return str(self.ask("evaluate", expression=expression, frameId=frame["id"], context="watch")["result"])
