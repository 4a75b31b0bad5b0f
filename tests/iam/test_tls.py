"""TLS on both planes with real clients, what is refused, certificates read again; where the daemon listens at all."""

from __future__ import annotations

import datetime
import http.client
import json
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from daemon.auth.tokens import private_pem
from tests.iam.node import Node, run_node
from tests.iam.signing import key
from tests.system.daemon import HELLO, PATIENCE_S, ROOT, eventually

ECHO = """
import io
from fdk import response

def handler(ctx, data: io.BytesIO = None):
    return response.Response(ctx, response_data=data.getvalue(), headers={"Content-Type": "application/octet-stream"})
"""


def certificate(directory: Path, name: str = "first", *, number: int = 5) -> None:
    """A certificate of 127.0.0.1, signed by itself, and its key."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(__import__("ipaddress").ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key(number).public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key(number), hashes.SHA256())
    )
    from cryptography.hazmat.primitives.serialization import Encoding

    (directory / "cert.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (directory / "key.pem").write_text(private_pem(key(number)))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    directory = tmp_path_factory.mktemp("tls")
    certificate(directory)
    config = f"""
auth: {{mode: iam}}
http: {{tls_certificate: {directory}/cert.pem, tls_key: {directory}/key.pem, header_s: 3}}
"""
    context = ssl.create_default_context(cafile=str(directory / "cert.pem"))
    with run_node(directory / "data", config=config, tls=context) as node:
        node.user("ada", administrator=True)
        yield node


def test_both_planes_and_the_hand_over_speak_tls(node: Node) -> None:
    assert node.url.startswith("https://")
    function_id = node.deploy("tls", "hello", HELLO)
    reply = node.signed("ada", "POST", f"/invoke/{function_id}", b"tls")
    assert (reply.status, reply.json) == (200, {"hello": "tls"})
    shown = node.signed("ada", "GET", f"/v2/fns/{function_id}").json
    assert shown["annotations"]["fnproject.io/fn/invokeEndpoint"] == f"{node.url}/invoke/{function_id}"


def test_one_connection_from_the_data_plane_to_the_control_plane(node: Node) -> None:
    function_id = node.deploy("tls", "again", HELLO)
    connection = node.connect()
    sign = node.users["ada"].sign
    for method, target in [("POST", f"/invoke/{function_id}")] * 3 + [("GET", "/v2/apps")] * 3:
        headers = sign(method, target, host=f"127.0.0.1:{node.port}")
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        assert (response.status, bool(response.read())) == (200, True)
    connection.close()


def test_large_bodies_in_both_directions(node: Node) -> None:
    function_id = node.deploy("tls", "echo", ECHO)
    body = bytes(range(256)) * (5 * 2**20 // 256)
    reply = node.signed("ada", "POST", f"/invoke/{function_id}", body)
    assert reply.status == 200
    assert reply.body == body


def test_a_client_that_sends_byte_by_byte(node: Node) -> None:
    with socket.create_connection(("127.0.0.1", node.port), timeout=PATIENCE_S) as plain:
        assert node.tls is not None
        with node.tls.wrap_socket(plain, server_hostname="127.0.0.1") as client:
            for byte in f"GET /health HTTP/1.1\r\nHost: 127.0.0.1:{node.port}\r\nConnection: close\r\n\r\n".encode():
                client.sendall(bytes([byte]))
            received = b""
            while part := client.recv(4096):
                received += part
    assert received.startswith(b"HTTP/1.1 200")


def test_httpx_and_curl(node: Node, tmp_path: Path) -> None:
    with httpx.Client(verify=node.tls or True) as client:
        assert client.get(f"{node.url}/health").json()["status"] == "ok"
        assert client.get(f"{node.url}/v2/apps").status_code == 401
    if curl := shutil.which("curl"):
        done = subprocess.run(
            [curl, "-sS", "--cacert", str(node.data.parent / "cert.pem"), f"{node.url}/health"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert json.loads(done.stdout)["status"] == "ok"


def test_plain_http_old_versions_and_rubbish_are_refused(node: Node) -> None:
    plain = http.client.HTTPConnection("127.0.0.1", node.port, timeout=PATIENCE_S)
    plain.request("GET", "/health")
    assert plain.getresponse().read() == b"This port speaks HTTPS, not HTTP.\n"
    plain.close()
    old = ssl.create_default_context(cafile=str(node.data.parent / "cert.pem"))
    with pytest.warns(DeprecationWarning, match="TLS"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)), socket.create_connection(("127.0.0.1", node.port)) as sock:
        old.wrap_socket(sock, server_hostname="127.0.0.1")
    with socket.create_connection(("127.0.0.1", node.port), timeout=PATIENCE_S) as sock:
        sock.sendall(b"\x16\x03\x01" + bytes(200))
        assert sock.recv(100)[:1] in (b"", b"\x15")  # an alert, or the end
    with socket.create_connection(("127.0.0.1", node.port), timeout=PATIENCE_S) as sock:
        assert sock.recv(100) == b""  # says nothing: cut after http.header_s
    assert node.send("GET", "/health").status == 200


def test_the_unix_socket_stays_plain(node: Node) -> None:
    assert node.local("GET", "/stoker/v1/iam")["principal"]["kind"] == "local"


def test_certificates_are_read_again_on_sighup_and_bad_ones_are_not_taken(node: Node) -> None:
    directory = node.data.parent
    kept = node.connect()
    kept.request("GET", "/health")
    kept.getresponse().read()
    (directory / "key.pem").write_text("rubbish")
    node.process.send_signal(signal.SIGHUP)
    eventually(lambda: "the old ones stay" in node.stderr())
    assert node.send("GET", "/health").status == 200
    certificate(directory, "second", number=6)
    node.process.send_signal(signal.SIGHUP)
    eventually(lambda: "were read again" in node.stderr())
    with pytest.raises(ssl.SSLCertVerificationError):
        node.send("GET", "/health")
    node.tls = ssl.create_default_context(cafile=str(directory / "cert.pem"))
    assert node.send("GET", "/health").status == 200
    kept.request("GET", "/health")  # an open connection keeps its own
    assert kept.getresponse().status == 200
    kept.close()


def refusal(tmp_path: Path, *args: str, config: str = "") -> str:
    """What stokerd says when it does not start."""
    (tmp_path / "c.yaml").write_text(config)
    command = [sys.executable, "-m", "daemon.main", "--data", str(tmp_path / "d"), "--config", str(tmp_path / "c.yaml")]
    done = subprocess.run([*command, *args], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode in (1, 2), done.stdout
    return done.stderr


def test_what_may_be_listened_on(tmp_path: Path) -> None:
    assert "not authenticated" in refusal(tmp_path, "--listen", "0.0.0.0:0")
    assert "not encrypted" in refusal(tmp_path, "--listen", "0.0.0.0:0", config="auth: {mode: iam}").replace(
        "would not be", "not"
    )
    assert "given together" in refusal(tmp_path, config="http: {tls_certificate: /x}")
    both = "http: {tls_certificate: /nowhere/c, tls_key: /nowhere/k}"
    assert "cannot read /nowhere/c" in refusal(tmp_path, config=both)
    assert "auth.mode must be 'open' or 'iam'" in refusal(tmp_path, config="auth: {mode: none}")
    certificate(tmp_path)
    (tmp_path / "other.pem").write_text(private_pem(key(7)))
    mixed = f"http: {{tls_certificate: {tmp_path}/cert.pem, tls_key: {tmp_path}/other.pem}}"
    assert "belong together" in refusal(tmp_path, config=mixed)


def test_beyond_loopback_with_iam_and_tls(tmp_path: Path) -> None:
    certificate(tmp_path)
    config = f"auth: {{mode: iam}}\nhttp: {{tls_certificate: {tmp_path}/cert.pem, tls_key: {tmp_path}/key.pem}}"
    context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    with run_node(tmp_path / "data", "--listen", "0.0.0.0:0", config=config, tls=context) as node:
        assert node.send("GET", "/health").status == 200
        assert node.send("GET", "/v2/apps").status == 401
