"""Runs functions under the official FDK, under ours over HTTP, and under `Runner`; a client for all three."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
OFFICIAL_VERSION = "0.1.128"
WAIT_S = 30.0
"""Longest wait for a process or an answer; reached only when a test fails."""

ENVIRONMENT = {
    "FN_FORMAT": "http-stream",
    "FN_APP_ID": "01APP",
    "FN_APP_NAME": "myapp",
    "FN_FN_ID": "01FN",
    "FN_FN_NAME": "myfn",
    "MY_CONFIG": "żółć",
    "PYTHONUNBUFFERED": "1",
    "LC_ALL": "C.UTF-8",
}
Pairs = Iterable[tuple[str, str]]


@dataclass(frozen=True)
class Answer:
    """``status`` 0: the connection ended, or stayed open, without an answer."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @classmethod
    def of(cls, status: int, headers: Pairs, body: bytes) -> Answer:
        """Comparable: headers sorted and without those of the connection, addresses of objects hidden."""
        kept = sorted((n.lower(), v) for n, v in headers if n.lower() not in ("connection", "keep-alive"))
        return cls(status, tuple(kept), re.sub(rb"0x[0-9a-f]{6,16}", b"0x...", body))


NO_ANSWER = Answer(0, (), b"")


def request(headers: Pairs, body: bytes = b"", *, call_id: str = "01CALL") -> bytes:
    """``POST /call`` as the Fn server sends it; latin-1 text of headers goes out as these bytes."""
    lines = [
        "POST /call HTTP/1.1",
        "Host: localhost",
        "User-Agent: Go-http-client/1.1",
        f"Fn-Call-Id: {call_id}",
        "Fn-Deadline: 2030-01-02T03:04:05Z",
        *(f"{name}: {value}" for name, value in headers),
        "Accept-Encoding: gzip",
    ]
    lines.append("Transfer-Encoding: chunked" if body else "Content-Length: 0")
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    return head + (b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"")


def call_headers(headers: Pairs, body: bytes) -> list[list[str]]:
    """The headers of `request` as the daemon hands them to a worker."""
    sent = request(headers, body).partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    pairs = []
    for line in sent:
        name, _, value = line.partition(b":")
        try:
            text = value.strip().decode()
        except UnicodeDecodeError:
            text = value.strip().decode("latin-1")
        pairs.append([name.decode(), text])
    return pairs


def parse(raw: bytes) -> Answer:
    """The one answer that a connection gave."""
    if not raw:
        return NO_ANSWER
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("utf-8", "replace").split("\r\n")
    headers = [(name, value.strip(" \t")) for name, _, value in (line.partition(":") for line in lines)]
    return Answer.of(int(first.split()[1]), headers, body)


class HttpFunction:
    """A function process behind its socket."""

    def __init__(self, process: subprocess.Popen[bytes], path: Path, log: Path) -> None:
        self.process = process
        self.path = path
        self.log = log

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(WAIT_S)
        sock.connect(os.fspath(self.path))
        return sock

    def send(self, data: bytes) -> Answer:
        """Send one request; its answer, or `NO_ANSWER` when the connection was just closed."""
        with self.connect() as sock:
            with contextlib.suppress(BrokenPipeError):  # answered and closed before it had all
                sock.sendall(data)
            return parse(read_one(sock))

    def call(self, headers: Pairs, body: bytes = b"", *, call_id: str = "01CALL") -> Answer:
        return self.send(request(headers, body, call_id=call_id))

    def call_until(self, later: Pairs, headers: Pairs, body: bytes = b"") -> Answer:
        """For calls that may never be answered in full: what is there when a ``later`` one has been answered."""
        with self.connect() as sock:
            sock.sendall(request(headers, body))
            assert self.call(later).status == 200
            return parse(_read_what_is_there(sock))

    def logged(self) -> str:
        return self.log.read_text()


def read_one(sock: socket.socket) -> bytes:
    """One answer by its length, with what came along behind it. The official FDK leaves connections open."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := sock.recv(1 << 20):
            data += chunk
            head, found, body = data.partition(b"\r\n\r\n")
            length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
            if found and length and len(body) >= int(length[1]):
                break
    return data


def _read_what_is_there(sock: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while select.select([sock], [], [], 0)[0] and (chunk := sock.recv(65536)):
            data += chunk
    return data


@contextlib.contextmanager
def serve(
    fdk: list[str],
    file: Path,
    *,
    entrypoint: str | None,
    directory: Path,
    env: dict[str, str] | None = None,
    modules: Path | None = None,
) -> Iterator[HttpFunction]:
    """A function process, from its socket being there until it is reaped.

    ``fdk``: the command before the file; ``modules``: a directory that it can import from.
    """
    directory.mkdir(exist_ok=True)
    path, log = directory / "lsnr.sock", directory / "log"
    paths = [path for path in (modules, REPOSITORY if fdk == ours() else None) if path is not None]
    python_path = os.pathsep.join(os.fspath(path) for path in paths)
    environment = _environment({"FN_LISTENER": f"unix:{path}", "PYTHONPATH": python_path, **(env or {})})
    arguments = [*fdk, os.fspath(file), *([entrypoint] if entrypoint else [])]
    with log.open("wb") as output:
        process = subprocess.Popen(
            arguments, env=environment, cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        until = time.monotonic() + WAIT_S
        while not path.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        assert path.exists(), log.read_text()
        yield HttpFunction(process, path, log)
    finally:
        process.kill()
        process.wait()


def ours() -> list[str]:
    """The command of our ``fdk``."""
    return [sys.executable, "-m", "fdk"]


def _environment(more: dict[str, str]) -> dict[str, str]:
    return {**ENVIRONMENT, "PATH": os.environ["PATH"], **more}


class RunnerFunction:
    """A process that calls a function through `fdk.runner.Runner`."""

    def __init__(self, process: subprocess.Popen[str], answers: Any, log: Path) -> None:
        self.process = process
        self._answers = answers
        self.log = log
        self.failure: list[str] | None = None
        self.has_asyncio = False

    def call(self, headers: Pairs, body: bytes = b"", *, call_id: str = "01CALL") -> Answer:
        sent = {
            "call_id": call_id,
            "deadline": "2030-01-02T03:04:05Z",
            "headers": call_headers(headers, body),
            "body": base64.b64encode(body).decode(),
        }
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(sent) + "\n")
        self.process.stdin.flush()
        line = self._answers.readline()
        if not line:
            return NO_ANSWER
        status, pairs, encoded, self.failure, self.has_asyncio = json.loads(line)
        if self.failure and self.failure[0] == "invalid-response":
            status = 500  # what the daemon makes of it; the official FDK answers 500, and the server kills it
        content = base64.b64decode(encoded)
        return Answer.of(status, [*pairs, ("content-length", str(len(content)))], content)

    def logged(self) -> str:
        return self.log.read_text()


@contextlib.contextmanager
def run(file: Path, *, entrypoint: str, directory: Path, env: dict[str, str] | None = None) -> Iterator[RunnerFunction]:
    """The same for `Runner`."""
    directory.mkdir()
    log = directory / "log"
    reading, writing = os.pipe()
    with log.open("wb") as output, os.fdopen(reading) as answers:
        process = subprocess.Popen(
            [sys.executable, os.fspath(HERE / "run_calls.py"), os.fspath(file), entrypoint, str(writing)],
            env=_environment({"PYTHONPATH": os.fspath(REPOSITORY), **(env or {})}),
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            pass_fds=(writing,),
            text=True,
        )
        os.close(writing)
        try:
            yield RunnerFunction(process, answers, log)
        finally:
            process.kill()
            process.communicate()
