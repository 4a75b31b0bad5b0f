"""Send what was recorded from the real Fn server again, and compare the answers.

A recording is a text file of cases; a case holds the HTTP exchanges of one `fn` command or of one raw request. All
files were recorded one after the other on one server, so a `Session` carries the ids that stand for the recorded ones
from file to file. Compared are status, content type and body; JSON with key order ignored, ids mapped as they appear,
times by their form and by when they repeat. Deliberate differences (`differences.py`) change what is expected; nothing
else does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

RECORDED_HOST = "127.0.0.1:18091"
_MARKER = re.compile(rb"^--- conn (\d+) (REQUEST|RESPONSE) \(\d+ bytes\)$")
_ID = re.compile(r"(?<![0-9A-Z])[0-9A-HJKMNP-TV-Z]{26}(?![0-9A-Z])")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(Z|[+-]\d\d:\d\d)")
FRAMING = {"date", "connection", "content-length", "content-type", "transfer-encoding"}
"""Headers that say nothing about the answer, or that are compared by themselves."""
_TIMES = ("created_at", "updated_at")


@dataclass(frozen=True)
class Exchange:
    """One recorded request and its response."""

    file: str
    case: str
    """The case's first line: the command or request."""
    connection: int
    """Number of the recorded connection; with ``file`` and ``turn`` it names the exchange."""
    turn: int
    """0 for the first exchange on the connection."""
    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    status: int
    reply_headers: list[tuple[str, str]]
    reply_body: bytes

    @property
    def key(self) -> tuple[str, int]:
        """How `differences.py` names it."""
        return (self.file, self.connection)

    @property
    def invokes(self) -> bool:
        """Does it run a function?"""
        return self.target.startswith(("/invoke/", "/t/"))


@dataclass(frozen=True)
class Answer:
    """What a server says, or should."""

    status: int
    content_type: str | None
    body: bytes
    headers: Mapping[str, str] | None = None
    """All headers with lower-case names, to have their names (and Location) compared; None: they are not."""


@dataclass(frozen=True)
class Mismatch:
    """An exchange that was answered otherwise than expected."""

    exchange: Exchange
    what: str
    expected: Any
    got: Any

    def __str__(self) -> str:
        e = self.exchange
        return (
            f"{e.file} conn {e.connection} {e.case!r}: {e.method} {e.target}: {self.what}:\n"
            f"  expected {self.expected}\n  got      {self.got}"
        )


Send = Callable[[str, str, list[tuple[str, str]], bytes], Awaitable[Answer]]
"""``send(method, target, headers, body)``; Host and Content-Length are the sender's business."""
Rule = Callable[[Exchange, Answer], Answer]
"""Changes what is expected of an exchange, or returns it as it is."""


@dataclass
class Session:
    """What is carried from one exchange to the next."""

    host: str = RECORDED_HOST
    """Host and port in the URLs that the server under test makes."""
    rules: Iterable[Rule] = ()
    ids: dict[str, str] = field(default_factory=dict)
    """Recorded id -> the one that stands for it."""
    times: dict[tuple[str, str, str], str] = field(default_factory=dict)
    replayed: int = 0
    skipped: int = 0

    def translate(self, text: str) -> str:
        """Recorded ids and host replaced by the present ones."""
        text = _ID.sub(lambda found: self.ids.get(found[0], found[0]), text)
        return text.replace(RECORDED_HOST, self.host)


async def replay(
    path: Path,
    send: Send,
    *,
    session: Session | None = None,
    skip: Callable[[Exchange], bool] = lambda exchange: exchange.invokes,
) -> list[Mismatch]:
    """Replay one recording in its order. Mismatches are collected, not raised; ``session`` counts what was done."""
    session = session or Session()
    mismatches: list[Mismatch] = []
    for exchange in parse(path):
        if skip(exchange):
            session.skipped += 1
            continue
        expected = Answer(
            exchange.status,
            header(exchange.reply_headers, "content-type"),
            exchange.reply_body,
            {name.lower(): value for name, value in exchange.reply_headers},
        )
        for rule in session.rules:
            expected = rule(exchange, expected)
        headers = [(n, v) for n, v in exchange.headers if n.lower() not in ("host", "content-length", "connection")]
        body = session.translate(exchange.body.decode("latin-1")).encode("latin-1")
        got = await send(exchange.method, session.translate(exchange.target), headers, body)
        session.replayed += 1
        mismatches += compare(exchange, expected, got, session)
    return mismatches


def compare(exchange: Exchange, expected: Answer, got: Answer, session: Session) -> list[Mismatch]:
    """What differs. Learns from the answer which ids stand for the recorded ones."""
    found = []
    if got.status != expected.status:
        found.append(Mismatch(exchange, "status", expected.status, f"{got.status} {got.body[:300]!r}"))
    if got.content_type != expected.content_type:
        found.append(Mismatch(exchange, "content type", expected.content_type, got.content_type))
    if (headers := _headers(expected)) != _headers(got) and None not in (expected.headers, got.headers):
        found.append(Mismatch(exchange, "headers", headers, _headers(got)))
    want, have = _json(expected.body), _json(got.body)
    if want is None or have is None:
        if expected.body.strip() != got.body.strip():
            found.append(Mismatch(exchange, "body", expected.body, got.body))
        return found
    _learn(want, have, session)
    want = json.loads(session.translate(json.dumps(want)))
    if found_times := _check_times(want, have, session):
        found.append(Mismatch(exchange, "times", "RFC 3339 with 3 decimals, repeated as recorded", found_times))
    want, have = _without_times(want), _without_extras(_without_times(have), want)
    if want != have:
        found.append(Mismatch(exchange, "body", json.dumps(want, sort_keys=True), json.dumps(have, sort_keys=True)))
    return found


def header(headers: list[tuple[str, str]], name: str) -> str | None:
    """The first value of a header."""
    return next((value for n, value in headers if n.lower() == name), None)


def _headers(answer: Answer) -> dict[str, str]:
    """Names of the headers; the value only of Location."""
    names = (answer.headers or {}).keys() - FRAMING
    return {name: (answer.headers or {})[name] if name == "location" else "" for name in sorted(names)}


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _learn(want: Any, have: Any, session: Session) -> None:
    """Objects at the same place are the same: their ids stand for each other."""
    if isinstance(want, dict) and isinstance(have, dict):
        if isinstance(want.get("id"), str) and isinstance(have.get("id"), str):
            session.ids.setdefault(want["id"], have["id"])
        for name in want.keys() & have.keys():
            _learn(want[name], have[name], session)
    elif isinstance(want, list) and isinstance(have, list):
        for one, other in zip(want, have, strict=False):
            _learn(one, other, session)


def _check_times(want: Any, have: Any, session: Session) -> list[str]:
    """A time must have the form, and be the same again where the recorded one was the same again."""
    wrong: list[str] = []
    if isinstance(want, dict) and isinstance(have, dict):
        for name in _TIMES:
            if name in want and isinstance(have.get(name), str) and isinstance(have.get("id"), str):
                key = (have["id"], name, want[name])
                if not _TIME.fullmatch(have[name]) or session.times.setdefault(key, have[name]) != have[name]:
                    wrong.append(f"{name} of {have['id']}: {have[name]}, was {session.times.get(key)}")
        for name in want.keys() & have.keys():
            wrong += _check_times(want[name], have[name], session)
    elif isinstance(want, list) and isinstance(have, list):
        for one, other in zip(want, have, strict=False):
            wrong += _check_times(one, other, session)
    return wrong


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: "<time>" if k in _TIMES and isinstance(v, str) else _without_times(v) for k, v in value.items()}
    return [_without_times(item) for item in value] if isinstance(value, list) else value


def _without_extras(have: Any, want: Any) -> Any:
    """Members of an error that are ours (``code``, ``detail``, ``call_id``): see `differences.NOTES`."""
    if isinstance(have, dict) and isinstance(want, dict) and want.keys() == {"message"}:
        return {k: v for k, v in have.items() if k not in ("code", "detail", "call_id")}
    return have


# ---- the recordings


def parse(path: Path) -> list[Exchange]:
    """All exchanges of a recording, in order.

    Raises:
      ValueError: a request without a response, or text where a message should be.
    """
    exchanges: list[Exchange] = []
    case, number, part, request = "", 0, "", b""
    lines: list[bytes] = []
    turns: dict[int, int] = {}

    def end() -> None:
        nonlocal request
        if part == "REQUEST":
            request = b"\n".join(lines)
        elif part == "RESPONSE":
            turn = turns.get(number, 0)
            turns[number] = turn + 1
            exchanges.append(_exchange(path.name, case, number, turn, request, b"\n".join(lines)))
            request = b""

    for line in path.read_bytes().split(b"\n"):
        marker = _MARKER.match(line)
        if marker is None and not line.startswith(b"======== "):
            lines.append(line)
            continue
        end()
        lines = []
        if marker is None:
            if request:
                raise ValueError(f"{path.name}: {case}: a request without a response")
            case, part = line.removeprefix(b"======== ").decode(), ""
        else:
            number, part = int(marker[1]), marker[2].decode()
    end()
    return exchanges


def _exchange(file: str, case: str, number: int, turn: int, request: bytes, reply: bytes) -> Exchange:
    first, headers, body = _message(request)
    method, target, _ = first.split(" ", 2)
    status_line, reply_headers, reply_body = _message(reply)
    if method == "HEAD":
        reply_body = b""
    return Exchange(
        file, case, number, turn, method, target, headers, body,
        int(status_line.split(" ", 2)[1]), reply_headers, reply_body,
    )  # fmt: skip


def _message(raw: bytes) -> tuple[str, list[tuple[str, str]], bytes]:
    head, _, rest = raw.partition(b"\n\n")
    lines = head.decode("latin-1").strip("\n").split("\n")
    headers = []
    for line in lines[1:]:
        name, colon, value = line.partition(": ")
        if not colon:
            raise ValueError(f"not a header: {line!r}")
        headers.append((name, value))
    if (header(headers, "transfer-encoding") or "").lower() == "chunked":
        return lines[0], headers, _dechunk(rest)
    length = header(headers, "content-length")
    return lines[0], headers, rest[: int(length)] if length is not None else b""


def _dechunk(rest: bytes) -> bytes:
    body = b""
    while True:
        line, _, rest = rest.partition(b"\n")
        size = int(line, 16)
        if size == 0:
            return body
        body, rest = body + rest[:size], rest[size:].removeprefix(b"\n")


__all__ = ["Answer", "Exchange", "Mismatch", "Rule", "Send", "Session", "compare", "parse", "replace", "replay"]
