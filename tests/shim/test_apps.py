"""app.yaml, deploy --all, bump, watch, and the contexts of fn, against a real daemon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cli import appfile, contexts
from cli.commands.watch import matters
from cli.errors import CliError
from tests.shim.conftest import Run
from tests.system.daemon import ROOT, Daemon, eventually

pytestmark = pytest.mark.processes
Make = Callable[..., Path]


def test_deploy_all_with_an_app_file(stoker: Run, make: Make, shared_daemon: Daemon, tmp_path: Path) -> None:
    make("shop/one", "triggers:\n- {name: one, type: http, source: /one}\n")
    make("shop/deep/er/two")
    make("shop/node_modules/no")
    (tmp_path / "shop" / "app.yaml").write_text(
        "name: shop\nconfig:\n  K: v\nannotations:\n  an: [1]\nsyslog_url: udp://127.0.0.1:5140\ncolour: red\n"
    )
    refused = stoker("deploy", "--all", cwd=tmp_path / "shop", code=1)
    assert "app shop not found" in refused.stderr
    assert "add --create-app" in refused.stderr
    done = stoker("deploy", "--all", "--create-app", "--output", "json", cwd=tmp_path / "shop")
    assert "colour is not a known key" in done.stderr
    document = json.loads(done.stdout)
    assert document["ok"] is True
    assert [f["function"] for f in document["functions"]] == ["two", "one"]
    app = shared_daemon.api("GET", "/v2/apps?name=shop")["items"][0]
    assert (app["config"], app["annotations"], app["syslog_url"]) == ({"K": "v"}, {"an": [1]}, "udp://127.0.0.1:5140")
    assert shared_daemon.request("GET", "/t/shop/one").body == b"shop/one"

    (tmp_path / "shop" / "app.yaml").write_text("name: shop\nconfig:\n  K: w\n  L: x\n")
    (tmp_path / "shop" / "one" / "func.py").write_text("def handler(:\n")
    failed = stoker("deploy", "--all", cwd=tmp_path / "shop", code=1)
    assert "SyntaxError" in failed.stderr
    assert "1 of 2 functions could not be deployed: one" in failed.stderr
    assert shared_daemon.api("GET", "/v2/apps?name=shop")["items"][0]["config"] == {"K": "w", "L": "x"}
    assert shared_daemon.request("GET", "/t/shop/one").body == b"shop/one", "the old version goes on serving"


def test_the_app_file_names_the_app(stoker: Run, make: Make, tmp_path: Path) -> None:
    make("f")
    (tmp_path / "app.yml").write_text("name: named\n")
    assert "Deploying f to app named" in stoker("deploy", "--create-app", "f").stdout
    assert "Deploying f to app other" in stoker("deploy", "--create-app", "--app", "other", "f").stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "app.yaml line 1: must be a map"),
        ("config: {}\n", "app.yaml: name is missing"),
        ("name: x\nconfig: [a]\n", "app.yaml line 2: config: must be a map, not a list"),
        ("name: x\nconfig: {a: [b]}\n", "app.yaml line 2: config.a: must be text, not a list"),
        ("name: x\nsyslog_url: [b]\n", "app.yaml line 2: syslog_url: must be text, not a list"),
        ("name: [x]\n", "app.yaml: name is missing"),
    ],
)
def test_a_wrong_app_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "app.yaml").write_text(text)
    with pytest.raises(CliError) as raised:
        appfile.load(tmp_path)
    assert raised.value.message.startswith(message)


def test_bump(stoker: Run, make: Make, tmp_path: Path) -> None:
    path = make("f", "# a comment that stays\nunknown: key\n") / "func.yaml"
    assert stoker("bump", "f").stdout == "Bumped to version 0.0.2\n"
    assert stoker("bump", "--minor", "f").stdout == "Bumped to version 0.1.0\n"
    assert json.loads(stoker("bump", "--major", "f", "--output", "json").stdout)["version"] == "1.0.0"
    assert path.read_text().splitlines()[2:] == ["version: 1.0.0", "# a comment that stays", "unknown: key"]


# -- watch -------------------------------------------------------------------------------------------------------------


def test_watch_deploys_what_is_saved(
    environment: dict[str, str], shared_daemon: Daemon, make: Make, tmp_path: Path
) -> None:
    directory = make("watched", "triggers:\n- {name: w, type: http, source: /w}\n")
    (directory / ".fnignore").write_text("*.log\n")
    said = tmp_path / "said"
    with said.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", "watch", "--app", "watching", "--create-app", "--debounce", "20", "watched"],
            cwd=tmp_path,
            env={**environment, "FN_API_URL": shared_daemon.url, "PYTHONUNBUFFERED": "1"},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        eventually(lambda: "Watching" in said.read_text(), what="the first deploy")
        assert shared_daemon.request("GET", "/t/watching/w").body == b"watched"
        (directory / "x.log").write_text("ignored")
        (directory / "func.py").write_text("def handler(:\n")
        eventually(lambda: "SyntaxError" in said.read_text(), what="the failure")
        assert shared_daemon.request("GET", "/t/watching/w").body == b"watched"
        (directory / "func.py").write_text("def handler(ctx, data=None):\n    return 'changed'\n")
        eventually(lambda: shared_daemon.request("GET", "/t/watching/w").body == b"changed", what="the change")
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(60)
    assert code == 130
    assert said.read_text().count("Deploying watched") == 3, "what .fnignore names is not looked at"


def test_what_is_watched(tmp_path: Path) -> None:
    (tmp_path / ".fnignore").write_text("data/\n!data/keep.txt\n*.tmp\n")
    paths = {
        "func.py": True, "lib/x.py": True, ".fnignore": True, "a.tmp": False, "lib/a.tmp": False, "data/x": False,
        ".git/HEAD": False, "__pycache__/x.pyc": False, "node_modules/a/b.js": False, "func.yaml.partial": False,
        "Dockerfile-fn-tmp123": False, "x.md": False,
    }  # fmt: skip
    assert {name: matters(tmp_path, tmp_path / name, ("*.md",)) for name in paths} == paths
    assert not matters(tmp_path, Path("/elsewhere/x"), ())


# -- contexts ----------------------------------------------------------------------------------------------------------


def home(tmp_path: Path, current: str, **files: str) -> dict[str, str]:
    (tmp_path / ".fn" / "contexts").mkdir(parents=True, exist_ok=True)
    (tmp_path / ".fn" / "config.yaml").write_text(f"cli-version: 0.6.63\ncurrent-context: {current}\n")
    for name, text in files.items():
        (tmp_path / ".fn" / "contexts" / f"{name}.yaml").write_text(text)
    return {"HOME": str(tmp_path)}


DEFAULT = 'api-url: http://localhost:8080\nprovider: default\nregistry: ""\n'
STAGING = "api-url: http://staging:9000\nprovider: default\nregistry: tst\n"


def test_contexts(tmp_path: Path) -> None:
    environ = home(
        tmp_path, "staging", default=DEFAULT, staging=STAGING, cloud="provider: oracle\napi-url: https://x\n"
    )
    assert contexts.current(environ) == contexts.Context("staging", "http://staging:9000", "tst")
    assert (contexts.api_url(environ), contexts.registry(environ)) == ("http://staging:9000", "tst")
    assert contexts.registry({**environ, "FN_REGISTRY": "own"}) == "own"
    assert contexts.api_url({**environ, "FN_CONTEXT": "default"}) == "http://localhost:8080"
    assert contexts.api_url({**environ, "FN_CONTEXT": "cloud"}) == ""
    with pytest.raises(CliError, match="there is no context 'nope'"):
        contexts.current({**environ, "FN_CONTEXT": "nope"})
    assert contexts.api_url(home(tmp_path, "default")) == "", "what fn has by default says nothing"
    assert contexts.current(home(tmp_path, "../../etc/x")) == contexts.Context()
    assert contexts.current({"HOME": str(tmp_path / "empty")}) == contexts.Context()
    assert contexts.current({}) == contexts.Context()


def test_a_broken_context_is_told(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="not YAML"):
        contexts.current(home(tmp_path, "bad", bad="a: [\n"))


def test_both_commands_go_to_the_same_place(
    environment: dict[str, str], shared_daemon: Daemon, make: Make, tmp_path: Path
) -> None:
    """Nothing but fn's context says where the daemon is and what registry images have."""
    make("f")
    found = home(tmp_path / "home", "mine", mine=f"api-url: {shared_daemon.url}\nprovider: default\nregistry: team\n")
    command = [sys.executable, "-m", "cli", "deploy", "--app", "ctx", "--create-app", "f", "--output", "json"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**environment, **found, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["image"] == "team/f:0.0.1"
    assert os.environ.get("FN_API_URL") is None
