"""Lines arrive at a real rsyslog over every transport; a destination that is away costs nothing."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from daemon.logs.sinks import QUEUE_LINES_MAX, Destination, journal_message
from tests.records.test_logs import PRINTER
from tests.services.world import SilentLog
from tests.system.daemon import PATIENCE_S, eventually, run_daemon

pytestmark = pytest.mark.processes

FAST = "logs:\n  rate_bytes_s: 1000000000\n  burst_bytes: 1000000000\n"
CONFIG = """
global(workDirectory="{dir}" {tls})
module(load="imtcp" {tls_mode})
module(load="imudp")
module(load="imuxsock" SysSock.Use="off")
input(type="imtcp" address="127.0.0.1" port="{port}")
input(type="imudp" address="127.0.0.1" port="{port}")
input(type="imuxsock" socket="{dir}/log.sock" createPath="off" useSpecialParser="off" parseHostname="on")
template(name="out" type="string" string="%pri%|%app-name%|%procid%|%msgid%|%structured-data%|%msg%\\n")
*.* action(type="omfile" file="{dir}/out.log" template="out" flushOnTXEnd="on" asyncWriting="off")
"""


def program(name: str, package: str) -> str:
    """The path of a program of Debian's, installed if it may be."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    if (found := shutil.which(name, path=path)) is None:
        install(package)
        found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"{name} is not installed and cannot be: Debian's package {package}")
    return found


def install(package: str) -> None:
    if os.getuid() == 0 and shutil.which("apt-get"):
        subprocess.run(
            ["apt-get", "install", "-y", "--no-install-recommends", package],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=200, check=False,
        )  # fmt: skip


def speaks_tls() -> bool:
    return any(Path("/usr/lib").glob("**/lmnsd_gtls.so"))


@dataclass
class Rsyslog:
    directory: Path
    port: int
    process: subprocess.Popen[bytes]

    def lines(self) -> list[list[str]]:
        path = self.directory / "out.log"
        return [line.split("|", 5) for line in path.read_text().splitlines()] if path.exists() else []


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def start_rsyslog(directory: Path, *, tls: bool = False) -> Rsyslog:
    found = program("rsyslogd", "rsyslog")
    directory.mkdir(exist_ok=True)
    port = free_port()
    settings = mode = ""
    if tls:
        make_certificates(directory)
        settings = (
            f'defaultNetstreamDriverCAFile="{directory}/ca.pem" defaultNetstreamDriverCertFile="{directory}/cert.pem" '
            f'defaultNetstreamDriverKeyFile="{directory}/key.pem"'
        )
        mode = 'StreamDriver.Name="gtls" StreamDriver.Mode="1" StreamDriver.AuthMode="anon"'
    config = directory / "rsyslog.conf"
    config.write_text(CONFIG.format(dir=directory, port=port, tls=settings, tls_mode=mode))
    with (directory / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            [found, "-n", "-iNONE", "-f", str(config)], stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr
        )
    server = Rsyslog(directory, port, process)
    try:
        eventually(lambda: process.poll() is not None or listens(port), what="rsyslog listens")
        assert process.poll() is None, (directory / "stderr").read_text()
    except BaseException:
        process.kill()
        process.wait()
        raise
    return server


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def make_certificates(directory: Path) -> None:
    openssl = program("openssl", "openssl")
    commands = [
        ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test CA", "-keyout", "ca.key",
         "-out", "ca.pem"],
        ["req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", "key.pem", "-out", "cert.csr"],
        ["x509", "-req", "-in", "cert.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
         "-extfile", "names", "-out", "cert.pem"],
    ]  # fmt: skip
    (directory / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for command in commands:
        subprocess.run([openssl, *command], cwd=directory, check=True, capture_output=True)


@pytest.fixture
def rsyslog(tmp_path: Path) -> Iterator[Rsyslog]:
    server = start_rsyslog(tmp_path / "rsyslog")
    yield server
    server.process.terminate()
    server.process.wait(PATIENCE_S)


def two_lines(rsyslog: Rsyslog, call: str) -> list[list[str]]:
    """What came of a call, once there are two lines."""
    found = [line for line in rsyslog.lines() if call in line[4]]
    return found if len(found) == 2 else []


def test_every_plain_transport(rsyslog: Rsyslog, data: Path) -> None:
    urls = {
        "tcp": f"tcp://127.0.0.1:{rsyslog.port}",
        "udp": f"udp://127.0.0.1:{rsyslog.port}",
        "unix": f"unix://{rsyslog.directory}/log.sock",
    }
    with run_daemon(data) as daemon:
        calls = {}
        for name, url in urls.items():
            daemon.app(name, syslog_url=url)
            function = daemon.deploy("printer", PRINTER, app=name)
            body = f'ERROR over {name} "quoted" é\nsecond'.encode()
            calls[name] = daemon.invoke(function, body).headers["fn-call-id"]
        for name, call in calls.items():
            got = eventually(lambda call=call: two_lines(rsyslog, call), what=f"both lines over {name}")
            assert [(line[0], line[1], line[3], line[5].strip()) for line in got] == [
                ("11", f"{name}/printer", "stdout", f'ERROR over {name} "quoted" é'),
                ("14", f"{name}/printer", "stdout", "second"),
            ]
            assert f'app="{name}"' in got[0][4]
        states = {item["url"]: item for item in daemon.api("GET", "/stoker/v1/logs/destinations")["items"]}
        assert all(state["dropped"] == 0 and state["sent"] >= 2 for state in states.values())
        assert len(states) == 3


def test_tls_with_a_checked_certificate(tmp_path: Path, data: Path) -> None:
    if not speaks_tls():
        install("rsyslog-gnutls")
    if not speaks_tls():
        pytest.skip("rsyslog's module for TLS is not installed and cannot be: Debian's package rsyslog-gnutls")
    server = start_rsyslog(tmp_path / "rsyslog", tls=True)
    try:
        config = f"logs:\n  syslog_ca_file: {server.directory}/ca.pem\n"
        with run_daemon(data, config=config) as daemon:
            daemon.app("tls", syslog_url=f"tcp+tls://localhost:{server.port}")
            function = daemon.deploy("printer", PRINTER, app="tls")
            call = daemon.invoke(function, "over tls").headers["fn-call-id"]
            eventually(lambda: any(call in line[4] for line in server.lines()), what="the line over TLS")
        with run_daemon(data) as daemon:  # without the CA
            daemon.invoke(function, "not to a stranger")
            state = eventually(
                lambda: [d for d in daemon.api("GET", "/stoker/v1/logs/destinations")["items"] if d["error"]],
                what="the certificate is refused",
            )
            assert "certificate verify failed" in state[0]["error"]
        assert not any("stranger" in line[5] for line in server.lines())
    finally:
        server.process.terminate()
        server.process.wait(PATIENCE_S)


def test_a_destination_that_hangs_blocks_no_call(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, run_daemon(data, config=FAST) as daemon:
        # It accepts, but reads nothing.
        daemon.app("stuck", syslog_url=f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        function = daemon.deploy("printer", PRINTER, app="stuck", memory=256)
        body = "\n".join(f"{i} " + "x" * 1000 for i in range(3000))
        for _ in range(8):
            assert daemon.invoke(function, body).status == 200
        state = eventually(
            lambda: [d for d in daemon.api("GET", "/stoker/v1/logs/destinations")["items"] if d["dropped"]],
            what="drops are counted",
        )
        assert state[0]["queued"] <= QUEUE_LINES_MAX
        told = eventually(
            lambda: daemon.api("GET", f"/stoker/v1/logs?function={function}&stream=platform&text=on%20the%20way")[
                "items"
            ],
            what="drops are told",
        )
        assert "lines were dropped on the way to tcp://127.0.0.1" in told[0]["line"]
        assert b"stoker_log_lines_unsent_total" in daemon.request("GET", "/metrics").body


async def test_the_journal_gets_fields(tmp_path: Path) -> None:
    path = tmp_path / "journal.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(path))
        journal.settimeout(PATIENCE_S)
        destination = Destination(f"journal:{path}", ca_file="", log=SilentLog())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(destination.run)
            destination.offer(journal_message(MESSAGE="two\nlines", PRIORITY="3", STOKER_CALL_ID=""))
            got = await trio.to_thread.run_sync(journal.recv, 65536)
            nursery.cancel_scope.cancel()
    assert got == b"MESSAGE\n\x09\0\0\0\0\0\0\0two\nlines\nPRIORITY=3\n"
