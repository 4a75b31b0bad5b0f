"""Official FDKs, installed once with pinned versions, and a deploy of a program."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.daemon import Daemon, Reply, run_daemon

REPOSITORY = Path(__file__).parents[2]
PYTHON_FDK, NODE_FDK = "fdk==0.1.128", "@fnproject/fdk@0.0.76"
INSTALL_S = 240
UNREACHABLE = re.compile("connection|name resolution|unreachable|timed out|ENOTFOUND|EAI_AGAIN|ECONN", re.IGNORECASE)


def installed(name: str, command: list[str]) -> Path:
    """A directory that the command has filled, once; skips where the registry cannot be reached."""
    home = REPOSITORY / ".venvs" / f"exec-{name}-1"
    if not (home / "installed").exists():
        try:
            home.parent.mkdir(exist_ok=True)
            lock = (home.parent / f"exec-{name}.lock").open("w")
        except OSError as exc:
            pytest.skip(f"{name} cannot be installed: {exc}")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (home / "installed").exists():
                shutil.rmtree(home, ignore_errors=True)
                (home / "site").mkdir(parents=True)
                made = subprocess.run(
                    [*command], cwd=home / "site", capture_output=True, text=True, timeout=INSTALL_S, check=False
                )
                if made.returncode and UNREACHABLE.search(made.stderr):
                    pytest.skip(f"{name} cannot be installed: {made.stderr.strip().splitlines()[-1:]}")
                assert made.returncode == 0, made.stderr
                (home / "installed").touch()
    return home / "site"


def files_of(directory: Path, prefix: str) -> dict[str, bytes]:
    """Every file beneath, by its name in a bundle."""
    return {
        f"{prefix}{path.relative_to(directory)}": path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.is_symlink() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="session")
def python_fdk() -> dict[str, bytes]:
    """The official FDK of Python as the ``python/`` of a bundle, without what only its own tests need."""
    name = f"python-{sys.version_info[0]}.{sys.version_info[1]}"
    site = installed(name, [
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", ".", PYTHON_FDK, "iso8601==0.1.12",
        "pbr==7.0.3", "httptools==0.7.1",
    ])  # fmt: skip
    return files_of(site, "/python/")


@pytest.fixture(scope="session")
def node_fdk() -> dict[str, bytes]:
    """The official FDK of Node as the ``node_modules/`` of a bundle."""
    if shutil.which("npm", path="/usr/local/bin:/usr/bin:/bin") is None:
        pytest.skip("npm is not installed")
    site = installed("node", ["npm", "install", "--no-audit", "--no-fund", "--no-save", "--prefix", ".", NODE_FDK])
    return files_of(site / "node_modules", "node_modules/")


ANY_FLOOR = "pcu: {steps: any}\n"


@pytest.fixture(scope="module")
def shared_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that the tests of one file share, with floors of any size."""
    with run_daemon(tmp_path_factory.mktemp("shared") / "data", config=ANY_FLOOR) as daemon:
        yield daemon


def floor(count: int) -> dict[str, object]:
    """The setting of provisioned concurrency."""
    return {"strategy": "CONSTANT", "count": count}


def try_deploy(daemon: Daemon, name: str, archive: bytes, **settings: Any) -> Reply:
    app = daemon.app("programs")
    image = f"{name}:{len(daemon.deployed) + 1}"
    daemon.deployed[image] = ""
    daemon.push(archive, image)
    body = {"app_id": app, "name": name, "image": image, "memory": 128, **settings}
    return daemon.request("POST", "/v2/fns", json.dumps(body))


def deploy(daemon: Daemon, name: str, archive: bytes, **settings: Any) -> str:
    """The id of the function."""
    reply = try_deploy(daemon, name, archive, **settings)
    assert reply.status == 200, reply.body.decode(errors="replace")
    return str(reply.json["id"])
