"""The stoker command against a real daemon: the tutorial as a new user types it, over the unix socket."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.bundles.precompiler import WORTH_BYTES
from tests.cli.test_deps import wheel
from tests.system.daemon import PATIENCE_S, ROOT, Daemon, eventually

pytestmark = pytest.mark.processes

Run = Callable[..., subprocess.CompletedProcess[str]]

GREET = """
import io
import json

from fdk import response


def handler(ctx, data: io.BytesIO = None):
    name = json.loads(data.getvalue() or b'"world"')
    print("greeting", name)
    return response.Response(
        ctx, response_data=json.dumps({"greeting": f"Hello {name}"}),
        headers={"Content-Type": "application/json"},
    )
"""


@pytest.fixture
def stoker(shared_daemon: Daemon, tmp_path: Path) -> Run:
    environment = {
        **os.environ,
        "STOKER_SOCKET": str(shared_daemon.data / "stoker.sock"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PYTHONPATH": str(ROOT),
    }
    for name in ("STOKER_URL", "FN_API_URL"):
        environment.pop(name, None)

    def run(*args: str, stdin: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "cli", *args], cwd=tmp_path, env=environment, input=stdin, text=True,
            capture_output=True, timeout=PATIENCE_S,
        )  # fmt: skip
        assert done.returncode == code, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


def test_the_tutorial_works_as_written(stoker: Run, shared_daemon: Daemon, tmp_path: Path) -> None:
    stoker("init", "--runtime", "python", "greet")
    (tmp_path / "greet" / "func.py").write_text(GREET)
    stoker("deploy", "--app", "tutorial", "--create-app", "greet")
    said = stoker("invoke", "tutorial", "greet", "-d", '"you"')
    assert json.loads(said.stdout) == {"greeting": "Hello you"}

    (tmp_path / "greet" / "func.py").write_text("def handler(:\n")
    failed = stoker("deploy", "--app", "tutorial", "greet", code=1)
    assert "SyntaxError" in failed.stdout + failed.stderr
    assert "Hello you" in stoker("invoke", "tutorial", "greet", "-d", '"you"').stdout

    (tmp_path / "greet" / "func.py").write_text(GREET.replace("Hello", "Good day"))
    with (tmp_path / "greet" / "func.yaml").open("a") as file:
        file.write("\ntriggers:\n- name: greet\n  type: http\n  source: /greet\n")
    deployed = stoker("deploy", "--app", "tutorial", "greet")
    assert f"{shared_daemon.url}/t/tutorial/greet" in deployed.stdout, "the URL that works, not the unix socket's Host"
    assert shared_daemon.request("POST", "/t/tutorial/greet", '"curl"').json == {"greeting": "Good day curl"}
    versions = json.loads(stoker("versions", "tutorial", "greet", "--output", "json").stdout)
    assert [v["state"] for v in versions] == ["ready", "failed", "ready"]
    stoker("rollback", "tutorial", "greet")
    assert "Hello you" in stoker("invoke", "tutorial", "greet", "-d", '"you"').stdout

    assert "tutorial/greet" in stoker("ps").stdout
    assert "greeting you" in stoker("logs", "tutorial", "greet").stdout
    assert "instances" in stoker("stats").stdout
    assert "greet" in stoker("ls", "functions", "tutorial").stdout


def test_build_and_push_on_their_own_name_an_image_for_a_function(stoker: Run, tmp_path: Path) -> None:
    stoker("init", "--runtime", "python", "steps")
    stoker("build", "steps", "-o", "steps.zip")
    stoker("push", "steps.zip", "steps:1")
    stoker("create", "app", "steps")
    stoker("create", "function", "steps", "steps", "steps:1")
    assert json.loads(stoker("invoke", "steps", "steps").stdout) == {"message": "Hello World"}
    stoker("config", "set", "function", "steps", "steps", "KEY", "value")
    assert stoker("config", "get", "function", "steps", "steps", "KEY").stdout.strip() == "value"
    stoker("delete", "function", "steps", "steps")
    stoker("delete", "app", "steps")
    assert "steps" not in stoker("ls", "apps").stdout


def test_a_failing_call_ends_with_exit_code_one_and_says_why(stoker: Run, tmp_path: Path) -> None:
    stoker("init", "--runtime", "python", "fails")
    (tmp_path / "fails" / "func.py").write_text("def handler(ctx, data=None):\n    raise ValueError('because')\n")
    stoker("deploy", "--app", "failing", "--create-app", "fails")
    done = stoker("invoke", "failing", "fails", code=1)
    assert "because" in done.stderr
    assert done.stdout == ""


def test_a_module_that_cannot_be_forked_is_told_at_deploy(stoker: Run, tmp_path: Path) -> None:
    stoker("init", "--runtime", "python", "threads")
    (tmp_path / "threads" / "func.py").write_text(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
        "def handler(ctx, data=None):\n    return str(threading.active_count())\n"
    )
    done = stoker("deploy", "--app", "threads", "--create-app", "threads")
    assert "1 thread" in done.stdout
    assert stoker("invoke", "threads", "threads").stdout == "2"


def test_a_runtime_that_the_machine_lacks_is_refused_with_those_it_has(stoker: Run, tmp_path: Path) -> None:
    stoker("init", "--runtime", "python", "old")
    path = tmp_path / "old" / "func.yaml"
    path.write_text(path.read_text().replace("runtime: python", "runtime: python3.4"))
    done = stoker("deploy", "--app", "old", "--create-app", "old", code=1)
    assert "python3.4" in done.stderr
    assert f"python3.{sys.version_info.minor}" in done.stderr


def test_dependencies_are_sent_once_and_shared_by_versions(stoker: Run, shared_daemon: Daemon, tmp_path: Path) -> None:
    # Below a size compiling it once is not worth a process.
    wheel(tmp_path / "wheels", code="WHO = 'tiny'\n" + "#" * WORTH_BYTES)
    stoker("init", "--runtime", "python", "uses")
    source = "import tiny\n\ndef handler(ctx, data=None):\n    return f'{tiny.WHO} NUMBER'\n"
    (tmp_path / "uses" / "requirements.txt").write_text("--no-index\n--find-links ../wheels\ntiny\n")

    def deploy(number: int) -> str:
        (tmp_path / "uses" / "func.py").write_text(source.replace("NUMBER", str(number)))
        return stoker("deploy", "--app", "layers", "--create-app", "uses").stdout

    def layers() -> set[Path]:
        store = shared_daemon.data / "bundles" / "sha256"
        return {path.resolve() for path in store.glob("*/python") if path.is_symlink() and (path / "tiny").is_dir()}

    deploy(1)
    assert stoker("invoke", "layers", "uses").stdout == "tiny 1"
    [layer] = layers()
    deploy(2)
    assert stoker("invoke", "layers", "uses").stdout == "tiny 2"
    assert layers() == {layer}

    def caches() -> list[Path]:
        cache = shared_daemon.data / "run" / "pycache"
        return list(cache.glob(f"*/{str(layer).lstrip('/')}/tiny/*.pyc"))

    eventually(lambda: len(caches()) == 1, what="compiled once, for both versions")

    shutil.rmtree(layer.parent)  # a disk that lost it
    deploy(3)
    assert stoker("invoke", "layers", "uses").stdout == "tiny 3"
    assert layers() == {layer}
    built = stoker("build", "uses", "-o", "whole.zip", "--output", "json")
    assert json.loads(built.stdout)["files"] > 3, "a bundle that is built for keeps holds its dependencies"
    stoker("push", "whole.zip", "uses:whole")
    stoker("update", "function", "layers", "uses", "uses:whole")
    assert stoker("invoke", "layers", "uses").stdout == "tiny 3"
    stoker("delete", "app", "layers", "--recursive")
