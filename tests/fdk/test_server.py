"""The entry point ``fdk func.py``: sockets, connections, times, and the command line."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from fdk import customer_code, fixtures, server
from fdk.runner import Runner
from tests.fdk import oracle

HELLO = "def handler(ctx, data=None):\n    return 'hello'\n"
CALL = oracle.request([])
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def talk(talking: Talk, handler: object, **times: float) -> None:
    """Talk to one `Connection` in this process."""

    async def main() -> None:
        ours, theirs = socket.socketpair()
        runner = Runner.of(fixtures.code(handler))  # type: ignore[arg-type]
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: server.Connection(runner, **times), ours)
        reader, writer = await asyncio.open_connection(sock=theirs)
        async with asyncio.timeout(oracle.WAIT_S):
            await talking(reader, writer)
        writer.close()
        await writer.wait_closed()
        await asyncio.sleep(0)

    asyncio.run(main())


def echo(ctx: object, data: object) -> bytes:
    return data.read()  # type: ignore[attr-defined, no-any-return]


async def read_answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return head, await reader.readexactly(length)


def test_pipelined_requests_are_answered_in_order() -> None:
    async def talking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bodies = [b"%d" % n * 40_000 for n in range(1, 6)]
        writer.write(b"".join(oracle.request([], body) for body in bodies))
        assert [(await read_answer(reader))[1] for _ in bodies] == bodies

    talk(talking, echo)


def test_what_is_sent_ahead_waits_unread_and_is_read_in_the_end() -> None:
    async def slow_echo(ctx: object, data: object) -> bytes:
        for _ in range(10):
            await asyncio.sleep(0)
        return echo(ctx, data)

    async def talking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bodies = [b"%d" % n * 1_000_000 for n in range(1, 5)]
        writer.write(b"".join(oracle.request([], body) for body in bodies))
        for body in bodies:
            assert (await read_answer(reader))[1] == body

    talk(talking, slow_echo)


def test_an_idle_connection_is_closed() -> None:
    """idle-connections: the official FDK spins for ever."""

    async def talking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CALL)
        await read_answer(reader)
        assert await reader.read() == b""

    talk(talking, echo, keep_alive_s=0.01)


def test_half_a_request_is_answered_with_408() -> None:
    async def talking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CALL[:-5])
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 408 ")

    talk(talking, echo, request_s=0.01)


def test_a_running_call_is_not_cut_by_the_times_of_connections() -> None:
    async def slow(ctx: object, data: object) -> str:
        await asyncio.sleep(0.1)
        return "slow"

    async def talking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CALL)
        assert (await read_answer(reader))[1] == b"slow"

    talk(talking, slow, keep_alive_s=0.01, request_s=0.01)


def test_a_client_that_waits_is_told_to_continue() -> None:
    """expect-continue"""

    async def talking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"POST /call HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abc")
        assert (await read_answer(reader))[1] == b"abc"

    talk(talking, echo)


@pytest.mark.parametrize(
    "first",
    [
        b"POST /call HTTP/1.1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"POST /call HTTP/1.0\r\n\r\n",
        b"HEAD /call HTTP/1.1\r\n\r\n",
    ],
)
def test_a_connection_is_closed_when_the_client_says_so(first: bytes) -> None:
    """connection-close"""

    async def talking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        assert b"\r\nConnection: close\r\n" in await reader.read()

    talk(talking, echo)


def test_a_handler_is_cancelled_when_its_client_leaves(caplog: pytest.LogCaptureFixture) -> None:
    seen = []

    async def waiting(ctx: object, data: object) -> None:
        seen.append("started")
        started.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            seen.append("cancelled")
            ended.set()
            raise

    started, ended = asyncio.Event(), asyncio.Event()

    async def talking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CALL)
        await started.wait()
        writer.close()
        await ended.wait()

    talk(talking, waiting)
    assert seen == ["started", "cancelled"]
    assert [record for record in caplog.records if record.name == "fn"] == []


def test_an_invalid_response_ends_the_connection_with_500() -> None:
    def handler(ctx: object, data: object) -> None:
        ctx.SetResponseHeaders({"a b": "c"}, 200)  # type: ignore[attr-defined]

    async def talking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CALL)
        assert (await reader.read()).startswith(b"HTTP/1.1 500 ")

    talk(talking, handler)


@pytest.mark.processes
def test_the_socket_is_a_relative_link_to_one_that_all_may_use(tmp_path: Path) -> None:
    """stale-sockets: leftovers of either name are replaced."""
    file = tmp_path / "func.py"
    file.write_text(HELLO)
    for leftover in ("phonylsnr.sock", "lsnr.sock", None):
        home = tmp_path / f"run-{leftover}"
        if leftover:
            home.mkdir()
            (home / leftover).touch()
            home = home / "inner"
        with oracle.serve(oracle.ours(), file, entrypoint=None, directory=home) as function:
            assert os.readlink(function.path) == "phonylsnr.sock"
            mode = (home / "phonylsnr.sock").stat().st_mode
            assert stat.S_ISSOCK(mode)
            assert stat.S_IMODE(mode) == 0o666
            assert function.send(CALL).body == b"hello"


def command(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    env = {"PYTHONPATH": os.fspath(oracle.REPOSITORY), "PATH": os.environ["PATH"], **env}
    return subprocess.run(arguments, env=env, capture_output=True, text=True, timeout=oracle.WAIT_S)


TCP_DEBUG = [sys.executable, "-c", "from fdk.__main__ import main_tcp_debug; main_tcp_debug()"]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (oracle.ours(), 2, "Usage: fdk <func_module> [entrypoint]"),
        ([*oracle.ours(), "a", "b", "c"], 2, "Usage: fdk <func_module> [entrypoint]"),
        ([*oracle.ours(), "/no/such.py"], 1, "Module: /no/such.py doesn't exist"),
        (TCP_DEBUG, 2, "Usage: fdk-tcp-debug <port> <func_module> [entrypoint]"),
        ([*TCP_DEBUG, "port", "/no/such.py"], 2, "Usage: fdk-tcp-debug <port> <func_module> [entrypoint]"),
        ([*TCP_DEBUG, "0", "/no/such.py"], 1, "Module: /no/such.py doesn't exist"),
        ([sys.executable, "-c", "import fdk; fdk.handle(len)"], 1, "start the function with `fdk <file> len`"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong(arguments: list[str], code: int, text: str) -> None:
    """command-line"""
    ended = command(*arguments)
    assert ended.returncode == code
    assert text in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.processes
@pytest.mark.parametrize("entrypoint", [[], ["other"]])
def test_tcp_debug_serves_on_a_port(tmp_path: Path, entrypoint: list[str]) -> None:
    file = tmp_path / "func.py"
    file.write_text(HELLO + "def other(ctx, data=None):\n    return 'hello'\n")
    env = {"PYTHONPATH": os.fspath(oracle.REPOSITORY), "PATH": os.environ["PATH"]}
    process = subprocess.Popen([*TCP_DEBUG, "0", file, *entrypoint], env=env, stderr=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            port = int(line.rpartition(":")[2].partition("/")[0])
            with socket.create_connection(("127.0.0.1", port), oracle.WAIT_S) as sock:
                sock.sendall(CALL)
                assert oracle.parse(oracle.read_one(sock)).body == b"hello"
        finally:
            process.kill()


def test_a_function_is_loaded_when_it_is_first_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "loaded_late_func.py"
    file.write_text("x = 1\ndef handler(ctx, data=None):\n    return __name__\n")
    function = customer_code.Function(os.fspath(file))
    assert not function._delayed_module_class.executed
    assert function.handler()(None) == "loaded_late_func"
    assert function._delayed_module_class.executed
    del sys.modules["loaded_late_func"]


def test_a_function_that_cannot_be_loaded_leaves_no_half_of_it_behind(tmp_path: Path) -> None:
    file = tmp_path / "half_loaded_func.py"
    file.write_text("x = 1\nimport no_such_module\n")
    function = customer_code.Function(os.fspath(file))
    with pytest.raises(ModuleNotFoundError):
        function.handler()
    assert "half_loaded_func" not in sys.modules
    file.write_text("def handler(ctx, data=None):\n    return 'mended'\n")
    assert function.handler()(None) == "mended"
    del sys.modules["half_loaded_func"]
