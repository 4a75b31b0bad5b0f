"""Drain, restart and socket hand-over: no call is lost that did not have to be."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.system.daemon import HELLO, PATIENCE_S, ROOT, Daemon, eventually, run_daemon

pytestmark = pytest.mark.processes

RESTARTS = 20
RATE_S = 1 / 200
SLEEPER = "import time\ndef handler(ctx, data=None):\n    time.sleep(float(data.read()))\n    return 'slept'\n"


def start_with_sockets(data: Path, listener: socket.socket, log: Path) -> subprocess.Popen[str]:
    """Start stokerd as systemd does: the listening socket is descriptor 3, LISTEN_PID is its pid."""
    fd = listener.fileno()
    command = f'exec 3<&{fd} {fd}<&-; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"' if fd != 3 else (
        'LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'
    )  # fmt: skip
    with log.open("a") as stderr:
        process = subprocess.Popen(
            ["bash", "-c", command, "bash", sys.executable, "-m", "daemon.main", "--data", str(data)],
            cwd=ROOT,
            pass_fds=[fd],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("ready "), f"{line!r}; {log.read_text()}"
    process.stdout.close()
    return process


class Load:
    """200 calls a second from a clock, not from the answers: half on connections of their own, half kept alive."""

    def __init__(self, port: int, function: str) -> None:
        self.port, self.path = port, f"/invoke/{function}"
        self.failed: list[str] = []
        self.answered = 0
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._keep_alive) for _ in range(4)]
        self._threads.append(threading.Thread(target=self._fresh))
        self._calls: list[threading.Thread] = []

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for call in self._calls:
            call.join()

    def _note(self, problem: str = "") -> None:
        with self._lock:
            if problem:
                self.failed.append(problem)
            else:
                self.answered += 1

    def _fresh(self) -> None:
        due_s = time.monotonic()
        while not self._stop.is_set():
            due_s += 2 * RATE_S
            time.sleep(max(0.0, due_s - time.monotonic()))
            call = threading.Thread(target=self._one_fresh)
            call.start()
            self._calls.append(call)

    def _one_fresh(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            self._ask(connection)
        finally:
            connection.close()

    def _keep_alive(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        while not self._stop.is_set():
            self._ask(connection)  # http.client opens a new one after `Connection: close`
            time.sleep(8 * RATE_S)
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection) -> None:
        try:
            connection.request("POST", self.path, body=b"x")
            response = connection.getresponse()
            body = response.read()
            self._note("" if response.status == 200 else f"{response.status} {body!r}")
        except (OSError, http.client.HTTPException) as exc:
            self._note(f"{type(exc).__name__}: {exc}")
            connection.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_restarts_under_load_fail_no_call(data: Path, tmp_path: Path) -> None:
    data.mkdir()
    log = tmp_path / "stderr"
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        port = listener.getsockname()[1]
        process = start_with_sockets(data, listener, log)
        try:
            function = Daemon(process, data, port, log).deploy("hello", HELLO)
            with Load(port, function) as load:
                for _ in range(RESTARTS):
                    before = load.answered
                    eventually(lambda before=before: load.answered >= before + 20, what="calls between two restarts")
                    process.send_signal(signal.SIGTERM)
                    assert process.wait(PATIENCE_S) == 0
                    process = start_with_sockets(data, listener, log)
            assert load.failed == []
            assert load.answered > 20 * RESTARTS
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_S)


def test_running_calls_finish_and_new_ones_are_refused_while_draining(data: Path) -> None:
    with run_daemon(data) as daemon:
        function = daemon.deploy("sleeper", SLEEPER)
        replies: list[int] = []
        call = threading.Thread(target=lambda: replies.append(daemon.invoke(function, "2").status))
        call.start()
        eventually(lambda: [i for i in daemon.instances(function) if i["state"] == "busy"], what="busy")
        late = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE_S)
        late.request("POST", f"/invoke/{function}", body=b"0")
        assert late.getresponse().read() == b"slept"
        daemon.process.send_signal(signal.SIGTERM)
        eventually(lambda: "draining" in daemon.stderr(), what="draining")
        call.join()
        assert replies == [200]
        assert daemon.process.wait(PATIENCE_S) == 0
        late.close()


def test_a_second_signal_does_not_wait(data: Path) -> None:
    with run_daemon(data) as daemon:
        function = daemon.deploy("sleeper", SLEEPER, timeout=300)
        call = threading.Thread(target=lambda: _quietly(daemon, function))
        call.start()
        eventually(lambda: [i for i in daemon.instances(function) if i["state"] == "busy"], what="busy")
        daemon.process.send_signal(signal.SIGTERM)
        eventually(lambda: "draining" in daemon.stderr(), what="draining")
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(PATIENCE_S) == 0
        call.join()


def _quietly(daemon: Daemon, function: str) -> None:
    try:
        daemon.invoke(function, "250")
    except (OSError, http.client.HTTPException):
        pass


def test_two_daemons_cannot_share_a_data_directory(data: Path) -> None:
    with run_daemon(data):
        second = subprocess.run(
            [sys.executable, "-m", "daemon.main", "--data", str(data), "--listen", "127.0.0.1:0"],
            cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S,
        )  # fmt: skip
        assert second.returncode == 1
        assert str(data) in second.stderr
        assert "another" in second.stderr


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--listen", "0.0.0.0:0"], "--insecure"),
        (["--listen", "nonsense"], "HOST:PORT"),
        (["--config", "/nonexistent.yaml"], "/nonexistent.yaml"),
    ],
)
def test_a_dangerous_or_wrong_start_is_refused_with_the_reason(data: Path, args: list[str], says: str) -> None:
    refused = subprocess.run(
        [sys.executable, "-m", "daemon.main", "--data", str(data), *args],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert refused.returncode == 2
    assert says in refused.stderr


def test_a_taken_port_is_named_with_the_way_out(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = subprocess.run(
            [sys.executable, "-m", "daemon.main", "--data", str(data), "--listen", f"127.0.0.1:{port}"],
            cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S,
        )  # fmt: skip
    assert refused.returncode == 1
    assert str(port) in refused.stderr
    assert "--listen 127.0.0.1:0" in refused.stderr


def test_readiness_and_stopping_are_told_to_the_service_manager(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(PATIENCE_S)
        with run_daemon(data, env={"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "200000"}) as daemon:
            seen = ""
            while not ("READY=1" in seen and seen.count("WATCHDOG=1") >= 2):
                seen += manager.recv(4096).decode() + "\n"
            assert daemon.stop() == 0
            while "STOPPING=1" not in seen:
                seen += manager.recv(4096).decode() + "\n"


def test_the_units_are_valid(tmp_path: Path) -> None:
    import shutil

    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for name in ("stoker.service", "stoker.socket"):
        text = (ROOT / "systemd" / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/stoker/.venv/bin/stokerd", sys.executable))
    checked = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "stoker.service", tmp_path / "stoker.socket"],
        capture_output=True, text=True, env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
    )  # fmt: skip
    problems = [line for line in checked.stderr.splitlines() if "stoker" in line]
    assert (checked.returncode, problems) == (0, [])
