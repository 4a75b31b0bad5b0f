"""The stand-in for docker and podman: every recorded call of fn, argument for argument, and a recorded deploy."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.golden import differences
from tests.golden.replay import Answer, Mismatch, Session, replay
from tests.golden.test_live import send_to
from tests.golden.test_replay import RECORDINGS, needs_recordings
from tests.shim import recorded
from tests.shim.conftest import Run
from tests.system.daemon import PATIENCE_S, Daemon, eventually, run_daemon

pytestmark = pytest.mark.processes

Engine = Callable[..., subprocess.CompletedProcess[str]]
Make = Callable[..., Path]


@pytest.fixture
def shim(stoker: Run, tmp_path: Path) -> Path:
    """The directory with the installed commands."""
    said = stoker("shim", "install", "bin").stdout
    assert said.startswith(f"docker and podman are in {tmp_path / 'bin'}\n")
    return tmp_path / "bin"


@pytest.fixture
def engine(shim: Path, environment: dict[str, str], shared_daemon: Daemon, tmp_path: Path) -> Engine:
    """Run the installed ``docker`` as fn would: by its name, from the path."""

    def run(
        *args: str, cwd: Path = tmp_path, code: int = 0, name: str = "docker", url: str = "", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        variables = {**environment, "FN_API_URL": url or shared_daemon.url, **variables}
        variables["PATH"] = f"{shim}:{os.environ['PATH']}"
        program = shutil.which(name, path=variables["PATH"])
        assert program == str(shim / name)
        done = subprocess.run(
            [program, *args], cwd=cwd, env=variables, stdin=subprocess.DEVNULL, text=True, capture_output=True,
            timeout=PATIENCE_S * 3,
        )  # fmt: skip
        assert done.returncode == code, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


def write_function(directory: Path, version: str, dockerfile: str) -> str:
    """The directory as it is while ``fn build`` calls the engine; the name of the generated Dockerfile."""
    directory.mkdir(exist_ok=True)
    for old in directory.glob("Dockerfile-fn-tmp*"):
        old.unlink()
    (directory / "func.yaml").write_text(recorded.FUNC_YAML.format(version=version))
    (directory / "func.py").write_text(recorded.HANDLER)
    (directory / "requirements.txt").write_text("fdk>=0.1.128")
    name = f"Dockerfile-fn-tmp{abs(hash((version, dockerfile))) % 10**9}"
    (directory / name).write_text(dockerfile)
    return name


class TestEngine:
    def test_version_pull_inspect(self, engine: Engine) -> None:
        assert engine("version", "--format", "{{.Server.Version}}").stdout == "24.0.0\n"
        assert engine("version", "--format", "{{.Server.Version}}", name="podman").stdout == "24.0.0\n"
        assert engine("inspect", "-f", "'{{.Config.Entrypoint}}'", "fnproject/python:3.12").stdout == "[]\n"
        engine("pull", "fnproject/python:3.12")
        engine("pull", "fnproject/fnserver:latest")
        assert "no images are pulled" in engine("pull", "tensorflow/tensorflow:2", code=1).stderr

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            ((), "'no command' is not answered"),
            (("ps",), "'ps' is not answered"),
            (("run", "alpine", "ls"), "cannot run alpine: only fnproject/fnserver is answered"),
            (("version", "--format", "{{.Os}}"), "--format {{.Os}} is not answered"),
            (("inspect", "x"), "only 'inspect -f {{.Config.Entrypoint}} IMAGE' is answered"),
            (("build", "."), "a tag is needed"),
            (("build", "-t", "a:1", "--secret", "x", "."), "unknown flag: --secret"),
            (("build", "-t", "a:1", "/no/such"), "the context must be a directory"),
            (("build", "-t"), "flag needs an argument: -t"),
            (("build", "-t", "a:1", "--platform", "linux/riscv64", "."), "functions run on this machine"),
            (("stop", "../x"), "invalid container name"),
        ],
    )
    def test_what_fn_does_not_ask_is_refused(self, engine: Engine, words: tuple[str, ...], says: str) -> None:
        assert says in engine(*words, code=125).stderr

    def test_a_real_engine_is_not_written_over(self, stoker: Run, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "real" / "docker").write_text("#!/bin/sh\n")
        for command in ("install", "uninstall"):
            assert "is there already, and is not Stoker's" in stoker("shim", command, "real", code=1).stderr
        assert (tmp_path / "real" / "docker").read_text() == "#!/bin/sh\n"

    def test_install_twice_and_uninstall(self, stoker: Run, shim: Path) -> None:
        stoker("shim", "install", str(shim))
        assert stoker("shim", "uninstall", str(shim)).stdout == f"removed docker and podman from {shim}\n"
        assert list(shim.iterdir()) == []
        assert "nothing of the kind" in stoker("shim", "uninstall", str(shim)).stdout

    def test_build_without_a_daemon_says_so(self, engine: Engine, tmp_path: Path) -> None:
        name = write_function(
            tmp_path / "pyf", "0.0.1", 'FROM python\nWORKDIR /function\nCOPY . .\nENTRYPOINT ["fdk", "func.py"]\n'
        )
        words = ("build", "-t", "tst/pyf:0.0.1", "-f", name, ".")
        done = engine(*words, cwd=tmp_path / "pyf", code=1, url="http://127.0.0.1:9")
        assert "127.0.0.1:9" in done.stderr

    def test_push_of_what_is_not_there(self, engine: Engine) -> None:
        assert "does not exist locally with the tag: tst/none:1" in engine("push", "tst/none:1", code=1).stderr


@needs_recordings
class TestRecordedCalls:
    def test_every_distinct_command_line_is_answered(
        self, engine: Engine, tmp_path: Path, shared_daemon: Daemon
    ) -> None:
        lines = recorded.command_lines()
        assert len(lines) > 30
        built = []
        for words in lines:
            words = [word.replace("T/NAME", str(tmp_path / "pyf")).replace("NAME", "pyf") for word in words]
            if words[0] == "version":
                assert engine(*words).stdout == "24.0.0\n"
            elif words[0] == "pull":
                engine(*words)
            elif words[0] == "inspect":
                assert engine(*words).stdout == "[]\n"
            elif words[0] == "build" and "-f" in words:
                tag, file = words[words.index("-t") + 1], words[words.index("-f") + 1]
                name = write_function(tmp_path / "pyf", tag.rpartition(":")[2], recorded.python_dockerfile())
                if file.endswith("/Dockerfile"):
                    (tmp_path / "pyf" / name).rename(tmp_path / "pyf" / "Dockerfile")
                else:
                    words = [word.replace("Dockerfile-fn-tmpN", name) for word in words]
                assert f"Successfully tagged {tag}\n" in engine(*words, cwd=tmp_path / "pyf").stdout
                engine("push", tag)
                built.append(tag)
            elif words[0] == "build":  # an init image: content that is no function
                (tmp_path / "init").mkdir(exist_ok=True)
                (tmp_path / "init" / "go.tar").write_bytes(b"")
                (tmp_path / "init" / "Dockerfile").write_text('FROM alpine\nCOPY go.tar /\nCMD ["cat", "/go.tar"]\n')
                refused = engine(*words, cwd=tmp_path / "init", code=1).stderr
                assert "/go.tar lies outside of /function" in refused
            elif words[:2] == ["run", "--rm"] and "FN_FUNCTION_NAME=pyf" in words:
                assert "is an init image" in engine(*words, code=125).stderr
            else:
                assert words[0] == "run", words  # the server: TestServer
        known = {item["image"] for item in shared_daemon.api("GET", "/stoker/v1/bundles")["items"]}
        assert set(built) <= known
        assert len(built) >= 8

    async def test_a_recorded_deploy(self, engine: Engine, tmp_path: Path) -> None:
        """What fn sent to the server in recording 14, and before each new image what it asked of the engine."""
        with run_daemon(tmp_path / "server" / "data") as daemon:
            send = send_to(daemon)
            images: list[str] = []

            def build(image: str) -> None:
                directory = tmp_path / "pyf"
                name = write_function(directory, image.rpartition(":")[2], recorded.python_dockerfile())
                url = daemon.url
                assert engine("version", "--format", "{{.Server.Version}}", url=url).stdout == "24.0.0\n"
                engine("pull", "fnproject/python:3.12", url=url)
                engine("inspect", "-f", "'{{.Config.Entrypoint}}'", "fnproject/python:3.12", url=url)
                arguments = ("--build-arg", "HTTP_PROXY", "--build-arg", "HTTPS_PROXY", ".")
                engine("build", "-t", image, "-f", str(directory / name), *arguments, cwd=directory, url=url)
                if image.endswith(":0.0.4"):  # this one was deployed without --local
                    engine("push", image, url=url)
                images.append(image)

            async def send_and_build(method: str, target: str, headers: list[tuple[str, str]], body: bytes) -> Answer:
                image = json.loads(body).get("image", "") if body and target.startswith("/v2/fns") else ""
                if image and image not in images:
                    build(image)
                return await send(method, target, headers, body)

            session = Session(host=f"127.0.0.1:{daemon.port}", rules=[differences.Rules()])
            mismatches: list[Mismatch] = await replay(
                RECORDINGS / "14-deploy.txt", send_and_build, session=session, skip=lambda exchange: False
            )
            assert [str(mismatch) for mismatch in mismatches] == []
            assert session.replayed == 47, "the call of the function included"
            assert images == ["tst/pyf:0.0.2", "tst/pyf:0.0.3", "tst/pyf:0.0.4", "tst/pyf:0.1.1"]

    def test_the_bundle_is_the_one_that_stoker_makes(
        self, engine: Engine, stoker: Run, tmp_path: Path, shared_daemon: Daemon
    ) -> None:
        name = write_function(tmp_path / "pyf", "0.0.9", recorded.python_dockerfile())
        engine("build", "-t", "same/pyf:0.0.9", "-f", name, ".", cwd=tmp_path / "pyf")
        (tmp_path / "pyf" / name).unlink()
        ours = json.loads(stoker("build", "pyf", "-o", "x.zip", "--output", "json").stdout)["digest"]
        items = shared_daemon.api("GET", "/stoker/v1/bundles?name=same/pyf")["items"]
        assert [item["digest"] for item in items] == [ours]

    def test_a_failing_build_tells_the_line(self, engine: Engine, tmp_path: Path) -> None:
        text = recorded.python_dockerfile().replace("RUN chmod", "RUN apt-get install -y imagemagick\nRUN chmod")
        name = write_function(tmp_path / "pyf", "0.0.9", text)
        refused = engine("build", "-t", "a/pyf:1", "-f", name, ".", cwd=tmp_path / "pyf", code=1).stderr
        line = text[: text.index("RUN apt-get")].count("\n") + 1
        assert f"{name} line {line}: RUN apt-get install -y imagemagick: apt-get would install into an image" in refused


class TestServer:
    """``fn start`` and ``fn stop``, with the recorded words."""

    @pytest.fixture
    def words(self, free_port: int) -> list[str]:
        if not recorded.FILE.exists():
            pytest.skip("no recordings")
        words = next(line for line in recorded.command_lines() if "FN_IOFS_PATH=/iofs" in line)
        return [word.replace("NAME", "fnserver").replace("8080:8080", f"{free_port}:8080") for word in words]

    @pytest.fixture
    def free_port(self) -> int:
        import socket

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    def test_in_the_background(
        self, engine: Engine, words: list[str], free_port: int, environment: dict[str, str]
    ) -> None:
        words = [words[0], "-d", *words[1:]]
        try:
            assert re.fullmatch("[0-9a-f]{64}\n", engine(*words).stdout)
            connection = http.client.HTTPConnection("127.0.0.1", free_port, timeout=PATIENCE_S)
            connection.request("GET", "/version")
            assert json.loads(connection.getresponse().read())["version"] == "0.3.753"
            connection.close()
            assert "the name 'fnserver' is in use" in engine(*words, code=1).stderr
        finally:
            assert engine("stop", "fnserver").stdout == "fnserver\n"
        assert "no such container: fnserver" in engine("stop", "fnserver", code=1).stderr
        assert (Path(environment["HOME"]) / ".fn" / "stoker" / "data").is_dir()

    def test_in_the_foreground(
        self, shim: Path, engine: Engine, words: list[str], free_port: int, environment: dict[str, str], tmp_path: Path
    ) -> None:
        variables = tmp_path / "variables"
        variables.write_text("# a comment\nFN_PUBLIC_LB_URL=http://outside\n")
        words = [*words[:1], "--env-file", str(variables), *words[1:]]
        with (tmp_path / "out").open("w") as out:
            process = subprocess.Popen(
                [shim / "docker", *words], env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
            try:
                eventually(lambda: "ready " in (tmp_path / "out").read_text(), what="ready")
                connection = http.client.HTTPConnection("127.0.0.1", free_port, timeout=PATIENCE_S)
                connection.request("POST", "/v2/apps", json.dumps({"name": "a"}))
                app_id = json.loads(connection.getresponse().read())["id"]
                body = json.dumps({"app_id": app_id, "name": "f", "image": "none:1"})
                connection.request("POST", "/v2/fns", body)
                made: dict[str, Any] = json.loads(connection.getresponse().read())
                connection.close()
                shown = made["annotations"]["fnproject.io/fn/invokeEndpoint"]
                assert shown == f"http://outside/invoke/{made['id']}"
                assert engine("stop", "fnserver").stdout == "fnserver\n"
                assert process.wait(PATIENCE_S) == 0
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()

    def test_one_that_cannot_start_tells_why(self, engine: Engine, words: list[str]) -> None:
        words = [words[0], "-d", "-e", "FN_NODE_TYPE=lb", *words[1:]]
        done = engine(*words, code=1)
        assert "FN_NODE_TYPE=lb: not supported" in done.stderr

    def test_other_addresses_are_refused(self, engine: Engine, words: list[str]) -> None:
        words = [re.sub(r"^(\d+:8080)$", r"0.0.0.0:\1", word) for word in words]
        assert "listens on this machine only" in engine(*words, code=125).stderr
