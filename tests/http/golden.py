"""The recorded exchanges of the real Fn (reference/fn-golden) as cases."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("STOKER_SHARED") or Path(__file__).resolve().parents[2].parent / "shared")
GOLDEN = SHARED / "reference" / "fn-golden"


@dataclass
class Message:
    """A request or a response as recorded: CR LF were shown as LF, odd bytes as ``\\xff``, long bodies cut."""

    first: str
    headers: dict[str, str]
    """Names in lower case; of a repeated one the last."""
    lines: list[str]
    """The headers as they were sent."""
    body: bytes

    def raw(self) -> bytes:
        """As it was on the wire."""
        head = "\r\n".join([self.first, *self.lines]).encode("latin-1")
        chunked = "transfer-encoding" in self.headers
        return head + b"\r\n\r\n" + (self.body.replace(b"\n", b"\r\n") if chunked else self.body)


@dataclass
class Case:
    name: str
    request: Message
    response: Message
    """The final one, after a 100 Continue."""

    @property
    def status(self) -> int:
        return int(self.response.first.split(" ")[1])


def cases(file: str) -> list[Case]:
    """The cases of a recording; the importing test file is skipped where the reference is absent."""
    path = GOLDEN / file
    if not path.exists():
        pytest.skip(f"{path} is absent: no recordings to compare with", allow_module_level=True)
    found = []
    for block in re.split(rb"^======== ", path.read_bytes(), flags=re.MULTILINE)[1:]:
        title, _, rest = block.partition(b"\n")
        _, request, response = re.split(rb"^--- conn \d+ \w+ \(\d+ bytes\)\n", rest, flags=re.MULTILINE)
        if response.startswith(b"HTTP/1.1 100 Continue\n\n"):
            response = response.partition(b"\n\n")[2]
        found.append(Case(title.decode(), _message(request), _message(response)))
    return found


def _message(recorded: bytes) -> Message:
    head, _, body = recorded.partition(b"\n\n")
    first, *lines = head.strip(b"\n").decode("latin-1").split("\n")
    pairs = [line.split(": ", 1) for line in lines]
    headers = {name.lower(): value for name, value in pairs}
    if (length := headers.get("content-length")) is not None:
        body = re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes([int(match[1], 16)]), body)
        if (cut := body.find(b"\n...[")) >= 0:
            body = body[:cut].ljust(int(length), b"x")
        body = body[: int(length)]
    return Message(first, headers, lines, body)
