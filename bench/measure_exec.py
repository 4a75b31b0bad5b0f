"""Programs: the official FDK of Python under Stoker, beside the same number of the same processes called directly."""

from __future__ import annotations

import contextlib
import io
import json
import select
import socket
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

from bench import stoker as stokers
from bench import venvs
from bench.budgets import Figure
from bench.http1 import HELLO_BODY, PATIENCE_S, READ_BYTES, Address, Client, check_hello
from bench.peers import REQUIREMENTS, official_fdk
from bench.processes import BenchError
from bench.stats import Sample, paired_ratio
from bench.stoker import Stoker, invoke_request

PROCESSES = (1, 2, 4)
"""How many processes, each with one call at a time, on as many connections of one client."""
COMMAND = ["python3", "-c", "from fdk.scripts.fdk import main; main()", "/function/func.py", "handler"]
DIRECTLY = (
    b"POST /call HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Go-http-client/1.1\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Type: application/json\r\nFn-Call-Id: 01M7YSG7SZ0251JT8ANBY1AJWA\r\nFn-Deadline: 2099-01-01T00:00:00Z\r\n"
    b"Accept-Encoding: gzip\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(HELLO_BODY), HELLO_BODY)
)
"""What Stoker sends to the process for the client's request, and Fn's server too."""


NOTE = (
    "both over unix sockets from one thread of Python, the same bytes for the process, one call at a time for each; "
    "wanted: a ratio of 0.8 or more; without namespaces and filter on their side"
)


def deploy_official(stoker: Stoker, name: str) -> str:
    """A function of the bench under the official FDK, as a program; its id."""
    packages = venvs.ensure_target("fdk-exec", REQUIREMENTS["fdk"])
    note = {"runtime": "python", "command": COMMAND, "environment": {"PYTHONPATH": "/function:/python"}}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("function/.stoker.json", json.dumps(note))
        archive.writestr("function/func.py", stokers.source(name))
        for path in sorted(packages.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                archive.write(path, f"python/{path.relative_to(packages)}")
    about = f"official-{Path(name).stem}"
    function_id = stoker.update(about, stoker.push(about, buffer.getvalue()))
    check_hello(stoker.call(function_id))
    if (kind := stoker.instances(function_id)[0].get("start_kind", "exec")) != "exec":
        raise BenchError(f"the official FDK was started by {kind}")
    return function_id


def calls_s(addresses: Sequence[Address], request: bytes, *, for_s: float) -> float:
    """Calls per second of one thread with one connection to each address and one call at a time on each.

    All replies must have the size of the first of their connection, which is looked at.

    Raises:
      BenchError: one is different, or none comes.
    """
    poll = select.epoll()
    connections: dict[int, socket.socket] = {}
    sizes: dict[int, int] = {}
    got: dict[int, bytes] = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(poll)
        for address in addresses:
            with Client(address) as client:
                check_hello(client.send(request))
            sock = stack.enter_context(address.connect())
            sock.sendall(request)
            first = sock.recv(READ_BYTES)
            if not first.startswith(b"HTTP/1.1 200 "):
                raise BenchError(f"not an answer: {first[:300]!r}")
            connections[sock.fileno()], sizes[sock.fileno()], got[sock.fileno()] = sock, len(first), b""
            sock.setblocking(False)
            poll.register(sock, select.EPOLLIN)
        count, began_s = 0, time.perf_counter()
        for sock in connections.values():
            sock.send(request)
        while (now_s := time.perf_counter()) < began_s + for_s:
            events = poll.poll(PATIENCE_S)
            if not events:
                raise BenchError(f"no answer within {PATIENCE_S:g} s")
            for fd, _ in events:
                sock = connections[fd]
                data = got[fd] + sock.recv(READ_BYTES)
                if len(data) == sizes[fd] and data.startswith(b"HTTP/1.1 200 "):
                    count += 1
                    got[fd] = b""
                    sock.send(request)
                elif data == got[fd] or len(data) >= sizes[fd]:
                    raise BenchError(f"another answer than before: {data[:300]!r}")
                else:
                    got[fd] = data
        return count / (now_s - began_s)


def measure(stoker: Stoker, *, rounds: int, seconds: float, scratch: Path) -> list[Figure]:
    """The rows of the report."""
    found = []
    for name, counts, key, what in (
        ("fn_hello.py", PROCESSES, "rate-exec", "official FDK as a program, calls/s"),
        ("fn_work.py", PROCESSES[-1:], "rate-exec-work", "the same with a handler that computes for 1 ms"),
    ):
        ours, theirs = _rates(stoker, name, counts, rounds=rounds, seconds=seconds, scratch=scratch)
        found += [
            Figure(
                f"{key}-{count}", f"{what}, {count} process{'es' if count > 1 else ''}", "calls/s",
                Sample.of(ours[count]), "the same processes called directly", Sample.of(theirs[count]),
                paired_ratio(ours[count], theirs[count]), NOTE,
            )
            for count in counts
        ]  # fmt: skip
    return found


def _rates(
    stoker: Stoker, name: str, counts: Sequence[int], *, rounds: int, seconds: float, scratch: Path
) -> tuple[dict[int, list[float]], dict[int, list[float]]]:
    """Calls per second under Stoker and directly, by the number of processes, of each round."""
    function_id = deploy_official(stoker, name)
    request, front = invoke_request(function_id), Address(path=stoker.socket)
    ours: dict[int, list[float]] = {count: [] for count in counts}
    theirs: dict[int, list[float]] = {count: [] for count in counts}
    with contextlib.ExitStack() as stack:
        alone = [stack.enter_context(official_fdk(scratch, name))[1] for _ in range(max(counts))]
        for number in range(rounds + 1):
            for count in counts:
                direct = [target.address for target in alone[:count]]
                sides = [(theirs, direct, DIRECTLY), (ours, [front] * count, request)]
                # Each goes first every other round: whoever comes second finds a warmer machine.
                for series, addresses, sent in sides if number % 2 else sides[::-1]:
                    rate = calls_s(addresses, sent, for_s=seconds)
                    if number:  # the first round starts the instances
                        series[count].append(rate)
    return ours, theirs
