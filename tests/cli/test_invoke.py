"""invoke and logs: bytes in, bytes out, errors on the other stream."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Stoker
from tests.cli.fake import FakeDaemon

CALL = {"Fn-Call-Id": "01CALL"}
BINARY = bytes(range(256)) * 3


def test_the_bodys_bytes_go_both_ways_unmodified(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect_function()
    daemon.expect("POST /invoke/F1", BINARY, headers=CALL)
    result = stoker("invoke", "demo", "hello", stdin=BINARY)
    assert (result.code, result.raw, result.err) == (0, BINARY, "")
    call = daemon.seen[-1]
    assert call.body == BINARY
    assert call.headers["content-type"] == "text/plain"
    assert "fn-invoke-type" not in call.headers


def test_data_type_and_headers(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect_function()
    daemon.expect("POST /invoke/F1", b"ok", headers=CALL)
    result = stoker(
        "invoke", "demo", "hello", "-d", '{"né": 1}', "--content-type", "application/json",
        "--header", "X-One: a: b", "-H", "x-two:2", "--display-call-id", stdin=b"not read",
    )  # fmt: skip
    assert (result.code, result.out, result.err) == (0, "ok", "Call ID: 01CALL\n")
    call = daemon.seen[-1]
    assert call.body == '{"né": 1}'.encode()
    assert (call.headers["content-type"], call.headers["x-one"], call.headers["x-two"]) == (
        "application/json",
        "a: b",
        "2",
    )


def test_data_from_a_file(stoker: Stoker, daemon: FakeDaemon, tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(BINARY)
    daemon.expect_function()
    daemon.expect("POST /invoke/F1", b"", headers=CALL)
    result = stoker("invoke", "demo", "hello", "-d", "@photo")
    assert (result.code, result.raw, result.err) == (0, b"", "")
    assert daemon.seen[-1].body == BINARY


def test_data_from_a_file_that_is_not_there(bare_stoker: Stoker) -> None:
    result = bare_stoker("invoke", "demo", "hello", "-d", "@nothing")
    assert (result.code, result.out, result.err) == (1, "", "Error: cannot read nothing: No such file or directory\n")


def test_an_error_goes_to_stderr_with_exit_code_1(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect_function()
    error = {"message": "function failed", "code": "function-failed", "detail": "ValueError: no", "call_id": "01CALL"}
    daemon.expect("POST /invoke/F1", error, status=502, headers=CALL)
    result = stoker("invoke", "demo", "hello")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "Error: cannot invoke demo/hello: function failed (status 502, function-failed)\n"
        "ValueError: no\n"
        "Next: The handler raised an exception: its traceback is in the logs of this call "
        "('stoker logs demo hello --call 01CALL').\n"
    )


def test_a_functions_words_do_not_steer_the_terminal(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect_function()
    error = {"message": "\x1b]0;owned\x07", "code": "function-failed", "detail": "a\n\tb\r\x1b[2J\x9b2J\n"}
    daemon.expect("POST /invoke/F1", error, status=502)
    result = stoker("invoke", "demo", "hello")
    assert result.code == 1
    assert "\\x1b]0;owned\\x07" in result.err
    assert "a\n\tb\\x0d\\x1b[2J\\x9b2J\n" in result.err
    assert not {"\x1b", "\x07", "\r", "\x9b"} & set(result.err)


def test_json_holds_nothing_that_steers_a_terminal(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect_function()
    daemon.expect("POST /invoke/F1", "\x9b2J é \x7f \x1b".encode(), headers=CALL)
    result = stoker("invoke", "demo", "hello", "--output", "json")
    assert json.loads(result.out)["body"] == "\x9b2J é \x7f \x1b"
    assert not {"\x9b", "\x7f", "\x1b"} & set(result.out)


def test_a_busy_node_says_when_to_try_again(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect_function()
    error = {"message": "Timed out - server too busy", "code": "node-busy"}
    daemon.expect("POST /invoke/F1", error, status=503, headers={"Retry-After": "15"})
    result = stoker("invoke", "demo", "hello")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "Error: cannot invoke demo/hello: Timed out - server too busy (status 503, node-busy)\n"
        "Next: the node is busy; try again in 15 s. No instance became free in time: 'stoker ps' shows what holds the "
        "node's memory; limits.memory_mib is how much there is.\n"
    )


def test_an_error_that_is_not_json(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect_function()
    daemon.expect("POST /invoke/F1", b"<h1>Bad gateway</h1>", status=502)
    result = stoker("invoke", "demo", "hello")
    assert (result.code, result.out) == (1, "")
    assert result.err == "Error: cannot invoke demo/hello: <h1>Bad gateway</h1> (status 502)\n"


@pytest.mark.parametrize(
    ("body", "member"), [(b"text", {"body": "text"}), (b"\xff\x00", {"body_base64": "/wA="})], ids=["text", "binary"]
)
def test_output_json(stoker: Stoker, daemon: FakeDaemon, body: bytes, member: dict[str, str]) -> None:
    daemon.expect_function()
    daemon.expect("POST /invoke/F1", body, headers={**CALL, "X-A": "1"})
    result = stoker("invoke", "demo", "hello", "--output", "json")
    found = json.loads(result.out)
    assert (result.code, result.err) == (0, "")
    assert (found["status_code"], found["call_id"], found["headers"]["X-A"]) == (200, "01CALL", ["1"])
    assert member.items() <= found.items()


def test_output_json_of_an_error_keeps_exit_code_1(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect_function()
    daemon.expect("POST /invoke/F1", {"message": "Timed out"}, status=504, headers=CALL)
    result = stoker("invoke", "demo", "hello", "--output", "json")
    assert (result.code, result.err) == (1, "")
    assert json.loads(result.out)["status_code"] == 504


def test_detached_prints_the_calls_id(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect_function()
    daemon.expect("POST /invoke/F1", b"", status=202, headers=CALL)
    result = stoker("invoke", "demo", "hello", "--detached")
    assert (result.code, result.out, result.err) == (0, "Call ID: 01CALL\n", "")
    assert daemon.seen[-1].headers["fn-invoke-type"] == "detached"


@pytest.mark.parametrize("header", ["no colon", ": empty", "bad name: x", "X: a\nY: b", "X: \x00"])
def test_a_header_that_is_none_is_a_usage_error(bare_stoker: Stoker, header: str) -> None:
    if "\x00" in header:
        header = "X: \x07"  # the kernel does not let a zero byte through
    result = bare_stoker("invoke", "demo", "hello", "--header", header)
    assert (result.code, result.out) == (2, "")
    assert "Error: Invalid value for '--header': " in result.err


LINES = [
    {"at": "2026-11-21T02:45:52.342Z", "call_id": "01CALL", "instance": 1, "stream": "stdout", "line": "hi\x1b[2J"},
    {"at": "2026-11-21T02:45:52.343Z", "call_id": "", "instance": 1, "stream": "platform", "line": "killed: timeout"},
]
NDJSON = "".join(json.dumps(line) + "\n" for line in LINES).encode()


def test_logs(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect_function()
    daemon.expect("GET /stoker/v1/functions/F1/logs?tail=100", NDJSON)
    result = stoker("logs", "demo", "hello")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "2026-11-21T02:45:52.342Z 01CALL stdout hi\x1b[2J\n2026-11-21T02:45:52.343Z - platform killed: timeout\n"
    )


def test_logs_of_one_call_as_json_lines(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect_function()
    daemon.expect("GET /stoker/v1/functions/F1/logs?tail=5&call=01CALL", NDJSON)
    result = stoker("logs", "demo", "hello", "--call", "01CALL", "--tail", "5", "--output", "json")
    assert (result.code, result.err) == (0, "")
    assert [json.loads(line) for line in result.out.splitlines()] == LINES


def test_logs_are_followed_over_a_restart_until_the_function_is_deleted(stoker: Stoker, daemon: FakeDaemon) -> None:
    path = "GET /stoker/v1/functions/F1/logs/stream?tail=0"
    daemon.expect_function()
    event = f"event: line\ndata: {json.dumps(LINES[0])}\nid: 2026-11-21T02:45:52.342Z/1\n\n"
    daemon.expect(path, f": begin\nid: 2026-11-21T02:45:50.000Z/0\n\n{event}".encode())
    daemon.expect(f"{path}&after=2026-11-21T02%3A45%3A52.342Z%2F1", {"message": "draining"}, status=503)
    daemon.expect(f"{path}&after=2026-11-21T02%3A45%3A52.342Z%2F1", {"message": "Fn not found"}, status=404)
    result = stoker("logs", "demo", "hello", "-f", "--tail", "0", "--output", "yaml")
    assert result.code == 1
    assert result.out.startswith("- at: '2026-11-21T02:45:52.342Z'\n  call_id: 01CALL\n")
    away = "The daemon is away; its lines follow when it is back (Ctrl-C ends this).\n"
    assert result.err == f"{away}Error: Fn not found\n"
