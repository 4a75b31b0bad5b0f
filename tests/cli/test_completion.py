"""Completion: the scripts, what they ask, and real shells where they are installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Stoker
from tests.cli.fake import FakeDaemon


def complete(stoker: Stoker, line: str, **more: object) -> list[str]:
    """What the bash script would be told for a line whose last word is being typed."""
    words = line.split(" ")
    variables = {"_STOKER_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    result = stoker(**variables, **more)
    assert result.code == 0
    return [line for line in result.out.splitlines() if line]


def test_commands(bare_stoker: Stoker) -> None:
    assert complete(bare_stoker, "stoker ver") == ["plain,versions", "plain,version"]
    assert complete(bare_stoker, "stoker config s") == ["plain,set"]
    assert complete(bare_stoker, "stoker invoke --disp") == ["plain,--display-call-id"]
    assert complete(bare_stoker, "stoker ls --output ") == ["plain,table", "plain,json", "plain,yaml"]


def test_names_of_apps(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect("GET /v2/apps?per_page=100", {"items": [{"id": "1", "name": "demo"}, {"id": "2", "name": "shop"}]})
    assert complete(stoker, "stoker invoke d") == ["plain,demo"]


def test_names_of_functions(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect_app()
    daemon.expect("GET /v2/fns?app_id=A1&per_page=100", {"items": [{"id": "1", "name": "hello"}]})
    assert complete(stoker, "stoker invoke demo ") == ["plain,hello"]


def test_names_of_triggers(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect_function()
    daemon.expect("GET /v2/triggers?app_id=A1&fn_id=F1&per_page=100", {"items": [{"id": "1", "name": "web"}]})
    assert complete(stoker, "stoker delete trigger demo hello ") == ["plain,web"]


def test_the_app_of_deploy(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect("GET /v2/apps?per_page=100", {"items": [{"id": "1", "name": "demo"}]})
    assert complete(stoker, "stoker deploy --app ") == ["plain,demo"]


def test_a_url_typed_before_counts(bare_stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect("GET /v2/apps?per_page=100", {"items": [{"id": "1", "name": "demo"}]})
    assert complete(bare_stoker, f"stoker --url {daemon.url} invoke ") == ["plain,demo"]


def test_without_a_daemon_there_are_no_names_and_no_noise(bare_stoker: Stoker) -> None:
    assert complete(bare_stoker, "stoker invoke ", STOKER_URL="unix:/nowhere/x.sock") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_for_that_shell(bare_stoker: Stoker, shell: str, tmp_path: Path) -> None:
    result = bare_stoker("completion", shell)
    assert (result.code, result.err) == (0, "")
    assert f"_STOKER_COMPLETE={shell}_complete" in result.out
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed: its script is not parsed")
    (tmp_path / "script").write_text(result.out)
    done = subprocess.run([path, "-n", str(tmp_path / "script")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize("by", ["path", "alias"])
def test_bash_completes(
    bare_stoker: Stoker, daemon: FakeDaemon, environment: dict[str, str], tmp_path: Path, by: str
) -> None:
    script = bare_stoker("completion", "bash").out
    wrapper = tmp_path / "bin" / "stoker"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -m cli "$@"\n')
    wrapper.chmod(0o755)
    daemon.expect("GET /v2/apps?per_page=100", {"items": [{"id": "1", "name": "demo"}, {"id": "2", "name": "dash"}]})
    driver = (
        f"{script}\nalias stoker={wrapper}; COMP_WORDS=(stoker invoke d); COMP_CWORD=2; "
        f"_stoker_completion {wrapper if by == 'path' else 'stoker'}; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", driver], capture_output=True, text=True, env={**environment, "STOKER_URL": daemon.url},
        timeout=60, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("demo\ndash\n", "")
