"""A function of each kind, from ``init`` to its answer by what fn asks of engine and server (recording 14)."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.exec.test_languages import JAVA, C
from tests.golden.test_replay import needs_recordings
from tests.shim import recorded
from tests.shim.conftest import Run
from tests.shim.test_engine import Engine, engine, shim
from tests.system.daemon import Daemon

__all__ = ["engine", "shim"]

pytestmark = pytest.mark.processes


def deployed(engine: Engine, daemon: Daemon, directory: Path, dockerfile: str, *, own: bool = False) -> str:
    """Deploy as fn does; the function's id. ``own``: the Dockerfile is the author's (``runtime: docker``)."""
    name, image = directory.name, f"tst/{directory.name}:0.0.2"
    file = directory / ("Dockerfile" if own else "Dockerfile-fn-tmp123456789")
    file.write_text(dockerfile)
    assert engine("version", "--format", "{{.Server.Version}}").stdout == "24.0.0\n"
    if not own:
        base = dockerfile.partition("FROM ")[2].split()[0]
        engine("pull", base)
        engine("inspect", "-f", "'{{.Config.Entrypoint}}'", base)
    proxies = ("--build-arg", "HTTP_PROXY", "--build-arg", "HTTPS_PROXY")
    built = engine("build", "-t", image, "-f", str(file), *proxies, ".", cwd=directory).stdout
    assert f"Successfully tagged {image}\n" in built
    if not own:
        file.unlink()  # as fn does
    engine("push", image)
    found = daemon.api("GET", "/v2/apps?name=kinds")["items"]
    app = found[0]["id"] if found else daemon.api("POST", "/v2/apps", {"name": "kinds"})["id"]
    assert daemon.api("GET", f"/v2/fns?app_id={app}&name={name}")["items"] == []
    body = {"app_id": app, "name": name, "image": image, "memory": 256}
    return str(daemon.api("POST", "/v2/fns", body)["id"])


def generated(start: str) -> str:
    """A Dockerfile that fn wrote."""
    text = next(text for text in recorded.dockerfiles() if start in text)
    return text.replace("/NAME/", "/function/")


@needs_recordings
@pytest.mark.parametrize(
    ("runtime", "start"), [("python", "FROM fnproject/python:3.1"), ("node", "FROM fnproject/node:2")]
)
def test_from_init_by_the_file_that_fn_generates(
    engine: Engine, stoker: Run, shared_daemon: Daemon, tmp_path: Path, runtime: str, start: str
) -> None:
    if runtime == "node" and shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    stoker("init", "--runtime", runtime, f"{runtime}fn")
    text = recorded.python_dockerfile("3.11") if runtime == "python" else generated(start)
    function = deployed(engine, shared_daemon, tmp_path / f"{runtime}fn", text)
    reply = shared_daemon.invoke(function, '{"name": "Ada"}', {"Content-Type": "application/json"})
    assert (reply.status, reply.json) == (200, {"message": "Hello Ada"})


def test_an_executable(engine: Engine, stoker: Run, shared_daemon: Daemon, tmp_path: Path) -> None:
    stoker("init", "--runtime", "exec", "anyfn")
    text = 'FROM python:3-slim\nWORKDIR /function\nCOPY func .\nENTRYPOINT ["./func"]\n'
    function = deployed(engine, shared_daemon, tmp_path / "anyfn", text, own=True)
    reply = shared_daemon.invoke(function, '{"name": "Ada"}')
    assert (reply.status, reply.json) == (200, {"message": "Hello Ada"})


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_a_static_binary(engine: Engine, shared_daemon: Daemon, tmp_path: Path) -> None:
    directory = tmp_path / "binaryfn"
    directory.mkdir()
    (tmp_path / "func.c").write_text(C)
    command = ["gcc", "-static", "-O1", "-w", "-o", str(directory / "func"), str(tmp_path / "func.c")]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if "cannot find -lc" in made.stderr:
        pytest.skip("gcc has no static C library")
    assert made.returncode == 0, made.stderr
    (directory / "func.yaml").write_text("schema_version: 20180708\nname: binaryfn\nversion: 0.0.2\nruntime: docker\n")
    text = 'FROM scratch\nWORKDIR /function\nCOPY func /function/\nENTRYPOINT ["/function/func"]\n'
    function = deployed(engine, shared_daemon, directory, text, own=True)
    assert shared_daemon.invoke(function).body == b"static"


@pytest.mark.skipif(shutil.which("javac") is None, reason="no JDK is installed")
def test_a_jar(engine: Engine, shared_daemon: Daemon, tmp_path: Path) -> None:
    directory = tmp_path / "javafn"
    directory.mkdir()
    (tmp_path / "Func.java").write_text(JAVA)
    (tmp_path / "manifest").write_text("Main-Class: Func\n")
    subprocess.run(["javac", "Func.java"], cwd=tmp_path, check=True, timeout=60)
    jar = ["jar", "cfm", str(directory / "func.jar"), "manifest", "Func.class"]
    subprocess.run(jar, cwd=tmp_path, check=True, timeout=60)
    (directory / "func.yaml").write_text("schema_version: 20180708\nname: javafn\nversion: 0.0.2\nruntime: docker\n")
    text = (
        'FROM debian\nWORKDIR /function\nCOPY func.jar .\nENTRYPOINT ["java", "-XX:+UseSerialGC", "-jar", "func.jar"]\n'
    )
    function = deployed(engine, shared_daemon, directory, text, own=True)
    assert shared_daemon.invoke(function).body.startswith(b"SUN")


def test_the_greeting_is_the_same_by_stoker_alone(stoker: Run, tmp_path: Path, shared_daemon: Daemon) -> None:
    for runtime in ("python", "exec"):
        stoker("init", "--runtime", runtime, "--trigger", "http", f"own-{runtime}")
        stoker("deploy", "--app", "own", "--create-app", f"own-{runtime}")
        reply = shared_daemon.request("POST", f"/t/own/own-{runtime}", json.dumps({"name": "Ada"}))
        assert (reply.status, reply.json) == (200, {"message": "Hello Ada"})
