"""Official FDKs, a static binary, a shell script, each as its language starts it; the same handler both ways."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.exec.conftest import deploy, floor, try_deploy
from tests.exec.programs import FRAME, bundle
from tests.hostile.site import CONFIGURATIONS, run_site
from tests.system.daemon import Daemon, Reply, all_gone, eventually

pytestmark = pytest.mark.processes

SYSTEM = "/usr/local/bin:/usr/bin:/bin"
PYTHON_COMMAND = ["python3", "-c", "from fdk.scripts.fdk import main; main()", "/function/func.py", "handler"]
PYTHON_PATH = {"PYTHONPATH": "/function:/python"}


def official(source: str, fdk: dict[str, bytes]) -> bytes:
    return bundle(PYTHON_COMMAND, {"func.py": source, **fdk}, runtime="python", environment=PYTHON_PATH)


# -- Python: natively and under the official FDK -----------------------------------------------------------------------

HANDLER = """
import asyncio, io, json, os
from fdk import response

async def handler(ctx, data: io.BytesIO = None):
    what = ctx.Headers().get("x-what", "echo")
    body = data.getvalue()
    if what == "echo":
        return response.Response(ctx, response_data=body, headers={"Content-Type": "x/y", "X-A": "b"})
    if what == "dict":
        return {"a": 1}
    if what == "none":
        return None
    if what == "text":
        await asyncio.sleep(0)
        return body.decode().upper()
    if what == "raise":
        raise ValueError("of the handler")
    if what == "late":
        raise TimeoutError
    if what == "exit":
        os._exit(3)
    if what == "context":
        return json.dumps([ctx.AppID(), ctx.FnName(), ctx.AppName(), ctx.Format(), ctx.Method(), ctx.RequestURL(),
                           sorted(k for k in ctx.Headers() if not k.startswith("user")), bool(ctx.CallID()),
                           ctx.Config()["KEY"], ctx.HTTPHeaders().get("x-custom")])
    if what == "status":
        return response.Response(ctx, response_data="teapot", status_code=418, headers={"X-Tea": "green"})
"""


VARYING = ("date", "fn-call-id", "fn-fdk-version", "content-length")


def seen(reply: Reply) -> Any:
    """What a client sees, less what differs from call to call; and of an error the message that is Fn's."""
    headers = {
        k: v for k, v in reply.headers.items() if k not in ("date", "fn-call-id", "fn-fdk-version", "content-length")
    }
    body: Any = reply.body
    if reply.status >= 500:
        body = {k: v for k, v in reply.json.items() if k in ("message", "code")}
    return reply.status, headers, body


@pytest.fixture(scope="module")
def both(shared_daemon: Daemon, python_fdk: dict[str, bytes]) -> tuple[str, str]:
    """The same handler natively and under the official FDK, with a trigger each."""
    config = {"KEY": "value"}
    app = shared_daemon.app("programs")
    archives = {"native": bundle_of_handler(), "fdk": official(HANDLER, python_fdk)}
    ids = []
    for name, archive in archives.items():
        ids.append(deploy(shared_daemon, name, archive, config=config))
        trigger = {"app_id": app, "fn_id": ids[-1], "name": name, "type": "http", "source": f"/{name}"}
        shared_daemon.api("POST", "/v2/triggers", trigger)
    return ids[0], ids[1]


def bundle_of_handler() -> bytes:
    from tests.system.daemon import bundle as handler_bundle

    return handler_bundle(HANDLER)


@pytest.mark.parametrize("what", ["echo", "dict", "none", "text", "raise", "late", "exit"])
def test_the_official_fdk_of_python_and_ours_answer_alike(
    shared_daemon: Daemon, both: tuple[str, str], what: str
) -> None:
    native, fdk = (shared_daemon.invoke(function, b"caf\xc3\xa9", {"X-What": what}) for function in both)
    assert seen(native) == seen(fdk)
    if what == "exit":
        assert fdk.status == 502
    ours, theirs = (shared_daemon.invoke(function, "x" * 3_000_000, {"X-What": "echo"}) for function in both)
    assert ours.body == theirs.body == b"x" * 3_000_000, "a big one, and that the next call works"


@pytest.mark.parametrize("what", ["context", "status"])
def test_alike_through_a_trigger(shared_daemon: Daemon, both: tuple[str, str], what: str) -> None:
    headers = {"X-What": what, "X-Custom": "c"}
    native, fdk = (
        seen(shared_daemon.request("POST", f"/t/programs/{name}?q=1", "b", headers)) for name in ("native", "fdk")
    )
    assert native == (*fdk[:2], fdk[2].replace(b"/programs/fdk", b"/programs/native").replace(b'"fdk"', b'"native"'))
    assert native[0] == (418 if what == "status" else 200)


def test_what_the_official_fdk_says_goes_to_the_log(shared_daemon: Daemon, both: tuple[str, str]) -> None:
    call = shared_daemon.invoke(both[1], "", {"X-What": "raise"}).headers["fn-call-id"]

    def lines() -> bool:
        found = shared_daemon.request("GET", f"/stoker/v1/functions/{both[1]}/logs?call={call}").body
        return b"of the handler" in found

    eventually(lines, what="its traceback")


# -- Node --------------------------------------------------------------------------------------------------------------

NODE = """
const fdk = require('@fnproject/fdk');
fdk.handle(async function (input, ctx) {
  if (input.what === 'sleep') await new Promise((done) => setTimeout(done, 50));
  if (input.what === 'raise') throw new Error('of the handler');
  if (input.what === 'exit') process.exit(3);
  if (input.what === 'hang') for (;;) {}
  if (input.what === 'garbage') for (let i = 0, x; i < 2000; i++) x = new Array(131072).fill(i + 0.5);
  console.log('called', ctx.callID);
  return { got: input, memory: ctx.memory, app: ctx.appName };
});
"""


def test_the_official_fdk_of_node(shared_daemon: Daemon, node_fdk: dict[str, bytes]) -> None:
    archive = bundle(["node", "func.js"], {"func.js": NODE, **node_fdk}, runtime="node")
    function = deploy(shared_daemon, "node", archive, timeout=60)

    def call(**value: Any) -> Reply:
        return shared_daemon.invoke(function, json.dumps(value), {"Content-Type": "application/json"})

    for what in ("sync", "sleep"):
        reply = call(what=what)
        assert (reply.status, reply.json["got"]) == (200, {"what": what}), reply.body
        assert reply.headers["content-type"] == "application/json"
    assert len(call(big="x" * 3_000_000).body) > 3_000_000
    reply = call(what="garbage")
    assert reply.status == 200, f"2 GB of garbage within 128 MiB: {reply.body!r}"
    shared_daemon.api("PUT", f"/v2/fns/{function}", {"timeout": 2})
    for what, status, code in (("raise", 502, "function-failed"), ("exit", 502, "function-crashed"),
                               ("hang", 504, "function-timeout")):  # fmt: skip
        reply = call(what=what)
        assert (reply.status, reply.json["code"]) == (status, code), reply.body
        assert call(what="sync").status == 200, f"after {what}"


def test_a_slow_start_of_node(shared_daemon: Daemon, node_fdk: dict[str, bytes]) -> None:
    """It is waited for, in the deploy and in a cold call."""
    slow = "const until = Date.now() + 1000; while (Date.now() < until);\n"
    source = f"{slow}require('@fnproject/fdk').handle((input) => ({{ got: input }}));\n"
    function = deploy(
        shared_daemon, "slow", bundle(["node", "func.js"], {"func.js": source, **node_fdk}, runtime="node")
    )
    reply = shared_daemon.invoke(function, '"x"', {"Content-Type": "application/json"})
    assert (reply.status, reply.json["got"]) == (200, "x"), reply.body
    shared_daemon.api("POST", f"/stoker/v1/functions/{function}/restart", {})
    cold = shared_daemon.invoke(function, '"y"', {"Content-Type": "application/json"})
    assert (cold.status, cold.json["got"]) == (200, "y"), cold.body


# -- a static binary, a shell script -----------------------------------------------------------------------------------

C = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
int main(void) {
    char own[200], buffer[65536], *listener = getenv("FN_LISTENER") + 5;
    snprintf(own, sizeof own, "%s.own", listener);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, own);
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(s, (struct sockaddr *)&address, sizeof address) || listen(s, 4)) return 1;
    chmod(own, 0666);
    symlink(strrchr(own, '/') + 1, listener);
    for (;;) {
        int c = accept(s, 0, 0), n = 0, got;
        while ((got = read(c, buffer + n, sizeof buffer - 1 - n)) > 0) {
            buffer[n += got] = 0;
            char *end = strstr(buffer, "\r\n\r\n");
            if (!end || (strstr(buffer, "chunked") && !strstr(end, "0\r\n\r\n"))) continue;
            dprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstatic");
            n = 0;
        }
        close(c);
    }
}
"""


def test_a_static_binary(shared_daemon: Daemon, tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    (tmp_path / "func.c").write_text(C)
    made = subprocess.run(
        ["gcc", "-static", "-O1", "-w", "-o", "func", "func.c"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    if "cannot find -lc" in made.stderr:
        pytest.skip("gcc has no static C library")
    assert made.returncode == 0, made.stderr
    archive = bundle(["./func"], {"func": (tmp_path / "func").read_bytes()}, runtime="go")
    function = deploy(shared_daemon, "static", archive)
    assert [shared_daemon.invoke(function, body).body for body in ("", "a", "")] == [b"static"] * 3


JAVA = """
import java.net.*; import java.nio.*; import java.nio.channels.*; import java.nio.file.*; import java.security.*;
public class Func {
    public static void main(String[] a) throws Exception {
        Path link = Path.of(System.getenv("FN_LISTENER").substring(5)), own = link.resolveSibling("own.sock");
        ServerSocketChannel s = ServerSocketChannel.open(StandardProtocolFamily.UNIX);
        s.bind(UnixDomainSocketAddress.of(own));
        Files.createSymbolicLink(link, own.getFileName());
        for (;;) {
            SocketChannel c = s.accept();
            ByteBuffer in = ByteBuffer.allocate(65536);
            while (c.read(in) > 0) {
                if (!new String(in.array(), 0, in.position()).endsWith("\\r\\n\\r\\n")) continue;
                String name = Security.getProviders()[0].getName() + SecureRandom.getInstanceStrong().nextInt(10);
                name += " " + Runtime.getRuntime().maxMemory();
                String answer = "HTTP/1.1 200 OK\\r\\nContent-Length: " + name.length() + "\\r\\n\\r\\n" + name;
                c.write(ByteBuffer.wrap(answer.getBytes()));
                in.clear();
            }
        }
    }
}
"""


def test_a_jar(shared_daemon: Daemon, tmp_path: Path) -> None:
    if shutil.which("javac") is None or shutil.which("java", path=SYSTEM) is None:
        pytest.skip("no JDK is installed")
    (tmp_path / "Func.java").write_text(JAVA)
    (tmp_path / "manifest").write_text("Main-Class: Func\n")
    subprocess.run(["javac", "Func.java"], cwd=tmp_path, check=True, timeout=60)
    subprocess.run(["jar", "cfm", "func.jar", "manifest", "Func.class"], cwd=tmp_path, check=True, timeout=60)
    command = ["java", "-XX:+UseSerialGC", "-jar", "func.jar"]
    archive = bundle(command, {"func.jar": (tmp_path / "func.jar").read_bytes()}, runtime="java")
    function = deploy(shared_daemon, "java", archive, memory=256)
    for body in ("", "a"):
        reply = shared_daemon.invoke(function, body)
        assert (reply.status, reply.body[:3]) == (200, b"SUN"), "with the settings of its security in /etc"
    heap_bytes = int(shared_daemon.invoke(function).body.split()[1])
    assert heap_bytes <= 256 * 2**20, "the JVM plans for the function's memory, not for the machine's"


SHELL = """#!/bin/sh
path=${FN_LISTENER#unix:} dir=${FN_LISTENER#unix:}; dir=${dir%/*}
(while ! [ -S "$dir/own.sock" ]; do sleep 0.01; done; ln -s own.sock "$path") &
exec socat UNIX-LISTEN:"$dir/own.sock",fork,mode=666 EXEC:./call
"""
CALL = """#!/bin/sh
while read -r line && [ "${line%?}" ]; do
  case $line in Fn-Call-Id:*) id=${line#*: } id=${id%?} ;; esac
done
printf 'HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n%s' "$((${#id} + 6))" "shell $id"
"""


def test_a_shell_script_with_socat(shared_daemon: Daemon) -> None:
    if shutil.which("socat", path=SYSTEM) is None:
        pytest.skip("socat is not installed")
    function = deploy(shared_daemon, "shell", bundle(["./func"], {"func": SHELL, "call": CALL}))
    for _ in range(5):
        reply = shared_daemon.invoke(function)
        assert (reply.status, reply.body.decode()) == (200, f"shell {reply.headers['fn-call-id']}"), reply.body


# -- as whom the daemon runs -------------------------------------------------------------------------------------------

ECHO = (
    FRAME
    + """
def answer(c, head, body):
    if body == b"exit":
        os._exit(0)
    if body == b"peek":
        found = []
        for path in ("/etc/shadow", os.environ["SECRET"], "/proc/1/environ"):
            try: found.append(path + ": " + open(path).read(20))
            except OSError: pass
        body = repr(found).encode()
    c.sendall(reply(body))
serve(answer)
"""
)


def test_without_namespaces_a_program_is_refused_with_the_reason() -> None:
    with run_site(CONFIGURATIONS["no-userns"]) as site:
        reply = try_deploy(site, "echo", bundle(["./func"], {"func": ECHO}))
        assert reply.status == 422
        assert "programs of one's own need namespaces" in reply.json["detail"]


@pytest.mark.parametrize("name", ["root", "user"])
def test_whoever_the_daemon_is(name: str, python_fdk: dict[str, bytes], node_fdk: dict[str, bytes]) -> None:
    """As root and as an ordinary user: the same, and nothing is left."""
    with run_site(CONFIGURATIONS[name], config="pcu: {steps: any}\n") as site:
        config = {"SECRET": str(site.outside / "secret.txt")}
        program = deploy(
            site, "echo", bundle(["./func"], {"func": ECHO}), provisioned_concurrency=floor(1), config=config
        )
        assert site.invoke(program, "hello").body == b"hello"
        peeked = site.invoke(program, "peek").body
        assert b"shadow" not in peeked
        assert b"secret" not in peeked
        assert site.invoke(program, "exit").json["code"] == "function-crashed"
        assert site.invoke(program, "again").body == b"again"
        source = "def handler(ctx, data=None):\n    return 'python ' + data.getvalue().decode()\n"
        python = deploy(site, "python", official(source, python_fdk))
        assert site.invoke(python, "1").body == b"python 1"
        js = "require('@fnproject/fdk').handle((input) => ({ node: input }));\n"
        node = deploy(
            site, "node", bundle(["node", "func.js"], {"func.js": js, **node_fdk}, runtime="node"), memory=256
        )
        assert site.invoke(node, "2").json == {"node": 2}
        tree = site.inside()
        for function in (program, python, node):
            site.remove(function)
        eventually(lambda: not site.instances(), what="no instances")
        assert site.stop() == 0
        assert all_gone(tree) == []
        assert list((site.data / "run" / "tmp").iterdir()) == []
