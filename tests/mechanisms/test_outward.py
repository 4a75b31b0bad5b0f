"""In mode iam tenants choose addresses that the daemon connects to: none of this machine, whatever it is called."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import psutil
import pytest

from daemon import outward
from daemon.logs.sinks import connect
from daemon.outward import Inward, addresses, is_inward, open_stream
from daemon.posts import PostRefused, post
from tests.iam.node import run_node
from tests.system.daemon import eventually

ECHO = "def handler(ctx, data=None):\n    print('printed', flush=True)\n    return 'x'\n"


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::", "169.254.169.254", "fe80::1%lo", "224.0.0.1", "255.255.255.255",
     "::ffff:127.0.0.1", "::ffff:169.254.169.254", "2002:7f00:1::1", "fd00:ec2::254", "0.1.2.3"],
)  # fmt: skip
def test_what_only_this_machine_reaches(address: str) -> None:
    assert is_inward(address)


@pytest.mark.parametrize("address", ["192.0.2.7", "8.8.8.8", "10.255.254.253", "2001:4860:4860::8888"])
def test_what_others_reach(address: str) -> None:
    assert not is_inward(address)


def test_the_machines_own_addresses() -> None:
    own = [a.address for found in psutil.net_if_addrs().values() for a in found if a.family == socket.AF_INET]
    assert own
    assert all(map(is_inward, own))


async def test_nothing_connects_to_this_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        for host in ("127.0.0.1", "localhost", "0", "127.1", "2130706433", "0x7f.1"):
            with pytest.raises(Inward):
                await open_stream(host, port)
            with pytest.raises(PostRefused, match="this machine"):
                await post(f"http://{host}:{port}/", headers=[], body=b"", timeout_s=60, outward=True)
        for url in (f"tcp://127.0.0.1:{port}", f"udp://localhost:{port}", "unix:///dev/log", "unixgram:///dev/log"):
            with pytest.raises(Inward):
                await connect(url, outward=True)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


async def test_a_name_that_means_both_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def found(host: str, port: int, **_: object) -> list[object]:
        return [(socket.AF_INET, 1, 6, "", (address, port)) for address in ("192.0.2.7", "127.0.0.1")]

    monkeypatch.setattr(outward.trio.socket, "getaddrinfo", found)
    with pytest.raises(Inward):
        await addresses("rebinding.example", 80, socket.SOCK_STREAM)


@pytest.mark.processes
@pytest.mark.parametrize("allowed", [False, True])
def test_tenants_reach_the_machine_only_where_its_owner_says_so(tmp_path: Path, allowed: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hook, socket.create_server(("127.0.0.1", 0)) as syslog:
        place = f"127.0.0.1:{hook.getsockname()[1]}"
        came: dict[str, bytes] = {}

        def accept(name: str, listener: socket.socket, answer: bytes) -> None:
            sock, _ = listener.accept()
            with sock:
                came[name] = sock.recv(65536)
                sock.sendall(answer)

        config = {"auth": {"mode": "iam"}}
        if allowed:
            config |= {"destinations": {"hosts": [place]}, "logs": {"local_syslog": True}}
            for name, listener, answer in (
                ("hook", hook, b"HTTP/1.1 204 No Content\r\n\r\n"), ("syslog", syslog, b""),
            ):  # fmt: skip
                threading.Thread(target=accept, args=(name, listener, answer), daemon=True).start()
        with run_node(tmp_path / "data", config=json.dumps(config)) as node:
            function = node.deploy(
                "shop", "sends", ECHO, annotations={"stoker.dev/on-success": {"kind": "HTTP", "url": f"http://{place}"}}
            )
            app = node.local("GET", "/v2/apps?name=shop")["items"][0]["id"]
            node.local("PUT", f"/v2/apps/{app}", {"syslog_url": f"tcp://127.0.0.1:{syslog.getsockname()[1]}"})
            detached = node.send("POST", f"/invoke/{function}", b"", {"fn-invoke-type": "detached"}, local=True)
            assert detached.status == 202
            if allowed:
                eventually(lambda: came.keys() == {"hook", "syslog"}, what="both are reached")
                return

            def logged() -> bytes:
                return node.send("GET", f"/stoker/v1/functions/{function}/logs", local=True).body

            eventually(lambda: b"not allowed in auth.mode iam" in logged(), what="the function's log says why")
            [destination] = eventually(
                lambda: [d for d in node.local("GET", "/stoker/v1/logs/destinations")["items"] if d["error"]]
            )
            assert "not allowed" in destination["error"]
            for listener in (hook, syslog):
                listener.setblocking(False)
                with pytest.raises(BlockingIOError):
                    listener.accept()
