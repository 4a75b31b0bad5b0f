"""Where the daemon is looked for, and what is said when it is not there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cli.errors import CliError
from cli.transport import Endpoint, find_endpoint, parse_url
from tests.cli.conftest import ROOT, Stoker
from tests.cli.fake import FakeDaemon

APPS = {"items": [{"id": "01A", "name": "demo"}]}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("http://faas.example/prefix/", "http://faas.example:80/prefix"),
        ("https://faas.example", "https://faas.example:443"),
        ("localhost:8080", "http://localhost:8080"),
        ("localhost", "http://localhost:8080"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("unix:/run/x.sock", "unix:/run/x.sock"),
        ("unix:///run/x.sock", "unix:/run/x.sock"),
    ],
)
def test_addresses(url: str, shown: str) -> None:
    assert str(parse_url(url, source="--url")) == shown


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://h:99999", "http://h?q=1", "://", "http://[::1"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(CliError, match="is not an address of a daemon"):
        parse_url(url, source="--url")


def test_the_order_in_which_addresses_count(tmp_path: Path) -> None:
    environ = {"FN_API_URL": "http://c:1", "STOKER_URL": "http://b:1", "STOKER_SOCKET": "/s"}
    assert str(find_endpoint("http://a:1", environ)) == "http://a:1"
    assert str(find_endpoint(None, environ)) == "http://b:1"
    del environ["STOKER_URL"]
    assert str(find_endpoint(None, environ)) == "http://c:1"
    del environ["FN_API_URL"]
    assert find_endpoint(None, environ) == Endpoint("unix", socket="/s")


def test_the_socket_of_the_runtime_directory_is_found(bare_stoker: Stoker, tmp_path: Path) -> None:
    (tmp_path / "run" / "stoker").mkdir(parents=True)
    fake = FakeDaemon(tmp_path / "run" / "stoker" / "stoker.sock")
    fake.expect("GET /v2/apps?per_page=100", APPS)
    result = bare_stoker("ls", XDG_RUNTIME_DIR=str(tmp_path / "run"))
    fake.stop()
    assert (result.code, result.err, fake.problems) == (0, "", [])
    assert fake.seen[0].headers["host"] == "localhost"


def test_the_socket_of_the_present_directory_is_found(bare_stoker: Stoker, tmp_path: Path) -> None:
    (tmp_path / ".stoker").mkdir()
    fake = FakeDaemon(tmp_path / ".stoker" / "stoker.sock")
    fake.expect("GET /v2/apps?per_page=100", APPS)
    result = bare_stoker("ls", cwd=tmp_path)
    fake.stop()
    assert (result.code, result.err, fake.problems) == (0, "", [])


def test_a_socket_that_a_dead_daemon_left_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".stoker").mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / ".stoker" / "stoker.sock"))
    monkeypatch.chdir(tmp_path)
    found = find_endpoint(None, {})
    assert found.scheme != "unix" or found.socket == "/run/stoker/stoker.sock"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a socket to another user")
def test_another_users_socket_in_the_present_directory_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".stoker").mkdir()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / ".stoker" / "stoker.sock"))
        other.listen()
        os.chown(tmp_path / ".stoker" / "stoker.sock", 12345, 12345)
        monkeypatch.chdir(tmp_path)
        found = find_endpoint(None, {})
    assert found.socket != str(tmp_path / ".stoker" / "stoker.sock")


def test_no_daemon(bare_stoker: Stoker) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets it, and it refuses
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        result = bare_stoker("ls", "--url", url)
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        f"Error: cannot reach the daemon at {url}: Connection refused\n"
        "Next: start it with 'stokerd --data ./.stoker', or name another with --url or STOKER_URL\n"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every socket")
def test_a_socket_that_may_not_be_opened(bare_stoker: Stoker, tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as closed:
        closed.bind(str(path))
        closed.listen()
        path.chmod(0)
        result = bare_stoker("ls", "--url", f"unix:{path}")
    assert (result.code, result.out) == (1, "")
    assert "Permission denied" in result.err
    assert f"see 'ls -l {path}' for its group" in result.err


def test_a_daemon_that_goes_away_in_the_middle(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect("GET /v2/apps?per_page=100", cut=True)
    result = stoker("ls")
    assert (result.code, result.out) == (1, "")
    assert f"Error: cannot reach the daemon at {daemon.url}: " in result.err


def test_something_else_that_answers(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect("GET /v2/apps?per_page=100", b"<html>It works!</html>")
    result = stoker("ls")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "Error: the reply to GET /v2/apps is not JSON: b'<html>It works!</html>'\n"
        "Next: check the address (--url, STOKER_URL, FN_API_URL)\n"
    )


def test_a_reader_that_leaves_is_no_noise(daemon: FakeDaemon, environment: dict[str, str]) -> None:
    daemon.expect("GET /v2/apps?per_page=100", {"items": [{"id": str(n), "name": "x" * 200} for n in range(5000)]})
    command = f"{sys.executable} -m cli ls | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, env={**environment, "STOKER_URL": daemon.url},
        cwd=ROOT, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, b"")
