"""On a terminal: a prompt before deleting, a line end after an answer, a spinner that leaves nothing behind."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.fake import FakeDaemon
from tests.cli.test_deps import wheel

PATIENCE_S = 60.0


def on_terminal(environment: dict[str, str], cwd: Path, *arguments: str, typed: bytes = b"") -> tuple[int, str]:
    """Run ``stoker`` with a terminal for all three streams; its exit code and what the terminal got."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", *arguments], env={**environment, "TERM": "xterm", "COLUMNS": "100"}, cwd=cwd,
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, typed)
    out = b""
    end_s = time.monotonic() + PATIENCE_S
    try:
        while time.monotonic() < end_s and select.select([ours], [], [], PATIENCE_S)[0]:
            try:
                data = os.read(ours, 65536)
            except OSError:
                break  # EIO: the other end is closed
            if not data:
                break
            out += data
        return process.wait(PATIENCE_S), out.decode()
    finally:
        os.close(ours)
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture
def here(environment: dict[str, str], daemon: FakeDaemon) -> dict[str, str]:
    return {**environment, "STOKER_URL": daemon.url}


def test_an_answer_ends_with_a_line_end(here: dict[str, str], daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.expect_function()
    daemon.expect("POST /invoke/F1", b"no end")
    code, out = on_terminal(here, tmp_path, "invoke", "demo", "hello")
    assert (code, out) == (0, "no end\r\n")
    assert daemon.seen[-1].body == b""  # a terminal is not read


@pytest.mark.parametrize(
    ("typed", "code", "word"), [(b"y\n", 0, "Deleted function hello"), (b"n\n", 1, "nothing was deleted")]
)
def test_delete_asks(
    here: dict[str, str], daemon: FakeDaemon, tmp_path: Path, typed: bytes, code: int, word: str
) -> None:
    daemon.expect_function()
    if code == 0:
        daemon.expect("DELETE /v2/fns/F1", status=204)
    found, out = on_terminal(here, tmp_path, "delete", "function", "demo", "hello", typed=typed)
    assert found == code
    assert "Delete function hello of app demo? [y/N]: " in out
    assert word in out


def test_delete_with_force_does_not_ask(here: dict[str, str], daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.expect_function()
    daemon.expect("DELETE /v2/fns/F1", status=204)
    code, out = on_terminal(here, tmp_path, "delete", "function", "demo", "hello", "--force")
    assert (code, out) == (0, "Deleted function hello of app demo\r\n")


def test_ctrl_c_at_a_prompt(here: dict[str, str], daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.expect_function()
    code, out = on_terminal(
        here, tmp_path, "delete", "function", "demo", "hello", typed=b"\x04"
    )  # the end of the input
    assert code == 130
    assert out.endswith("Interrupted.\r\n")


def test_a_spinner_is_gone_at_the_end(environment: dict[str, str], function: Path, tmp_path: Path) -> None:
    wheel(tmp_path / "wheels")
    (function / "requirements.txt").write_text("--no-index\n--find-links ../wheels\ntiny\n")
    code, out = on_terminal(environment, tmp_path, "build", "hello", "-o", "x.zip")
    assert code == 0
    assert "dependencies: " in out  # the spinner's words
    shown = out.replace("\r\n", "\n").split("\n")
    assert [line for line in shown if line.startswith("    ")] == []  # no plain lines of the installer
    assert any(line.endswith("s)") and "  dependencies  1 package, by " in line for line in shown)
    assert out.count("\x1b[?25l") == out.count("\x1b[?25h")  # the cursor is back


def test_a_functions_lines_do_not_steer_the_terminal(here: dict[str, str], daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.expect_function()
    line = b'{"at": "T", "call_id": "C", "stream": "stdout", "line": "a\\u001b[2Jb\\rc"}\n'
    daemon.expect("GET /stoker/v1/functions/F1/logs?tail=100", line)
    code, out = on_terminal(here, tmp_path, "logs", "demo", "hello")
    assert code == 0
    assert "a\\x1b[2Jb\\x0dc" in out
    assert "\x1b[2J" not in out
