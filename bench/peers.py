"""The peers: what each needs, how it is started, where it answers."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from bench import venvs
from bench.http1 import HELLO_BODY, Address, Client, check_hello, request_bytes
from bench.processes import BenchError, Server, descendants, free_port

APPS = Path(__file__).parent / "apps"
# Exact versions, so that two runs of the bench compare with the same peers.
REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "gunicorn": ("gunicorn==27.0.1", "flask==3.1.3"),
    "functions-framework": ("functions-framework==3.10.2",),
    "uvicorn": ("uvicorn==0.54.0",),
    "uvicorn-standard": ("uvicorn[standard]==0.54.0",),
    "quart": ("quart-trio==0.12.0", "quart==0.22.0", "hypercorn==0.18.0", "trio==0.35.0"),
    "fdk": ("fdk==0.1.128",),
}


@dataclass(frozen=True, slots=True)
class Target:
    """Something that answers hello: a peer or Stoker. ``pid``: the process whose CPU is counted."""

    key: str
    address: Address
    request: bytes
    pid: int
    url: str = ""


def tcp_target(key: str, port: int, path: str, pid: int) -> Target:
    """A target that wrk can drive."""
    return Target(key, Address(port), request_bytes("POST", path, HELLO_BODY), pid, f"http://127.0.0.1:{port}{path}")


@contextlib.contextmanager
def running(scratch: Path) -> Iterator[dict[str, Target]]:
    """Start every peer, each answering; all are gone at the end.

    Raises:
      BenchError: one could not be installed or does not answer.
    """
    with contextlib.ExitStack() as stack:
        targets = {}
        for key in REQUIREMENTS:
            for target in stack.enter_context(_START[key](scratch)):
                with Client(target.address) as client:
                    check_hello(client.send(target.request))
                targets[target.key] = target
        yield targets


@contextlib.contextmanager
def _serving(key: str, command: list[str | Path], port: int, scratch: Path) -> Iterator[Server]:
    server = Server(command, log=scratch / f"{key}.log", cwd=APPS)
    try:
        server.wait_for_port(port)
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def _gunicorn(scratch: Path) -> Iterator[list[Target]]:
    port, bin_dir = free_port(), venvs.ensure("gunicorn", REQUIREMENTS["gunicorn"])
    command: list[str | Path] = [
        bin_dir / "gunicorn", "--workers", "2", "--threads", "4", "--bind", f"127.0.0.1:{port}", "flask_hello:app",
    ]  # fmt: skip
    with _serving("gunicorn", command, port, scratch) as server:
        yield [tcp_target("gunicorn", port, "/", server.pid)]


@contextlib.contextmanager
def _functions_framework(scratch: Path) -> Iterator[list[Target]]:
    port, bin_dir = free_port(), venvs.ensure("functions-framework", REQUIREMENTS["functions-framework"])
    command: list[str | Path] = [
        bin_dir / "functions-framework", "--source", "framework_hello.py", "--target", "hello",
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    with _serving("functions-framework", command, port, scratch) as server:
        yield [tcp_target("functions-framework", port, "/", server.pid)]


def _uvicorn(key: str) -> Callable[[Path], AbstractContextManager[list[Target]]]:
    """uvicorn takes the fastest parser and loop that are installed, so the two differ by their requirements alone."""

    @contextlib.contextmanager
    def start(scratch: Path) -> Iterator[list[Target]]:
        port, bin_dir = free_port(), venvs.ensure(key, REQUIREMENTS[key])
        command: list[str | Path] = [
            bin_dir / "uvicorn", "asgi_hello:app", "--host", "127.0.0.1", "--port", str(port),
            "--no-access-log", "--log-level", "warning",
        ]  # fmt: skip
        with _serving(key, command, port, scratch) as server:
            yield [tcp_target(key, port, "/", server.pid)]

    return start


@contextlib.contextmanager
def _quart(scratch: Path) -> Iterator[list[Target]]:
    port, bin_dir = free_port(), venvs.ensure("quart", REQUIREMENTS["quart"])
    command: list[str | Path] = [
        bin_dir / "hypercorn", "--worker-class", "trio", "--bind", f"127.0.0.1:{port}", "quart_hello:app",
    ]  # fmt: skip
    with _serving("quart", command, port, scratch) as server:
        # Hypercorn listens before its child, which serves, is up; that child's CPU is what is compared.
        with Client(Address(port)) as client:
            check_hello(client.call("POST", "/hop", HELLO_BODY))
        pid = _server_process(server)
        yield [tcp_target("quart-hop", port, "/hop", pid), tcp_target("quart", port, "/", pid)]


def _server_process(server: Server) -> int:
    """The process that serves: the one that started the pipe workers."""
    workers = [pid for pid in descendants(server.pid) if b"pipe_worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    parents = {_parent(pid) for pid in workers}
    if len(parents) != 1:
        raise BenchError(f"cannot tell Hypercorn's serving process: the pipe workers' parents are {parents}")
    return parents.pop()


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@contextlib.contextmanager
def _fdk(scratch: Path) -> Iterator[list[Target]]:
    with official_fdk(scratch, "fn_hello.py") as (server, target):
        del server
        yield [target]


@contextlib.contextmanager
def official_fdk(scratch: Path, source: str, *, packages: Path | None = None) -> Iterator[tuple[Server, Target]]:
    """One process of the official FDK over its own socket, without an Fn server, and how to call it."""
    bin_dir = venvs.ensure("fdk", REQUIREMENTS["fdk"])
    home = Path(tempfile.mkdtemp(prefix="fdk-", dir=scratch))
    listener = home / "lsnr.sock"
    env = {
        "FN_FORMAT": "http-stream", "FN_LISTENER": f"unix:{listener}", "FN_APP_ID": "app", "FN_FN_ID": "fn",
        "FN_APP_NAME": "app", "FN_FN_NAME": "hello", "FN_MEMORY": "128", "FN_TYPE": "sync",
        **({"PYTHONPATH": str(packages)} if packages else {}),
    }  # fmt: skip
    server = Server([bin_dir / "fdk", APPS / source, "handler"], log=home / "log", env=env)
    try:
        server.wait_for_path(listener)
        headers = {"Fn-Call-Id": "01", "Fn-Deadline": "2099-01-01T00:00:00Z"}
        request = request_bytes("POST", "/call", HELLO_BODY, headers)
        yield server, Target("fdk", Address(path=listener), request, server.pid)
    finally:
        server.stop()


_START = {
    "gunicorn": _gunicorn,
    "functions-framework": _functions_framework,
    "uvicorn": _uvicorn("uvicorn"),
    "uvicorn-standard": _uvicorn("uvicorn-standard"),
    "quart": _quart,
    "fdk": _fdk,
}
