"""``stoker invoke --local``: a handler run once without a daemon, with its own dependencies and configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Stoker
from tests.cli.test_deps import wheel

SOURCE = """
import importlib.util, io, json, os, sys
import tiny
from fdk import response

def handler(ctx, data: io.BytesIO = None):
    print("printed", file=sys.stdout)
    text = data.getvalue().decode()
    if text == "raise":
        raise ValueError("on purpose")
    if text == "exit":
        os._exit(3)
    if text == "hang":
        while True:
            pass
    told = {"who": tiny.WHO, "text": text, "config": ctx.Config().get("GREETING"), "app": ctx.AppName(),
            "type": ctx.Headers().get("content-type"), "where": os.getcwd(), "secret": os.environ.get("STOKER_TEST"),
            "ours": [name for name in ("daemon", "cli", "runtime", "trio") if importlib.util.find_spec(name)]}
    return response.Response(ctx, response_data=json.dumps(told), headers={"Content-Type": "application/json"})
"""


@pytest.fixture
def local(function: Path) -> Path:
    wheel(function.parent / "wheels")
    (function / "requirements.txt").write_text("--no-index\n--find-links ../wheels\nfdk>=0.1\ntiny\n")
    (function / "func.py").write_text(SOURCE)
    with (function / "func.yaml").open("a") as file:
        file.write("config: {GREETING: hello}\ntimeout: 5\n")
    return function


def test_as_on_the_daemon_as_far_as_there_is_none(bare_stoker: Stoker, local: Path) -> None:
    result = bare_stoker(
        "invoke", "--local", "hello", "-d", "text", "--content-type", "text/x", "-c", "GREETING=hi", STOKER_TEST="x"
    )
    assert result.code == 0, result.err
    assert json.loads(result.out) == {
        "who": "tiny", "text": "text", "config": "hi", "app": "local", "type": "text/x", "where": str(local),
        "secret": None, "ours": [],
    }  # fmt: skip
    assert result.err == "printed\n"
    again = bare_stoker("invoke", "--local", "hello", "--output", "json", STOKER_INSTALLER="none")
    document = json.loads(again.out)
    assert document["status_code"] == 200
    assert json.loads(document["body"])["config"] == "hello"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise", "ValueError: on purpose"),
        ("exit", "ended the process without an answer: exit code 3"),
        ("hang", "no answer within the function's timeout of 5 s"),
    ],
)
def test_what_goes_wrong_in_a_call(bare_stoker: Stoker, local: Path, body: str, told: str) -> None:
    result = bare_stoker("invoke", "--local", "hello", "-d", body)
    assert (result.code, result.out) == (1, "")
    assert told in result.err


def test_what_cannot_be_imported(bare_stoker: Stoker, local: Path) -> None:
    (local / "func.py").write_text("import tiny\nimport nowhere_to_be_found\n")
    result = bare_stoker("invoke", "--local", "hello")
    assert result.code == 1
    assert "cannot be imported" in result.err
    assert "No module named 'nowhere_to_be_found'" in result.err
    assert "importlib" not in result.err
    assert "local_program" not in result.err
    (local / "func.py").write_text("x = 1\n")
    assert "func.py has no function 'handler'" in bare_stoker("invoke", "--local", "hello").err


def test_usage(bare_stoker: Stoker, local: Path) -> None:
    for arguments, told in (
        (["app", "fn", "--local", "hello"], "leave APP and FUNCTION out"),
        ([], "APP and FUNCTION are missing"),
        (["app"], "APP and FUNCTION are missing"),
        (["app", "fn", "-c", "A=1"], "--config is for --local"),
    ):
        result = bare_stoker("invoke", *arguments)
        assert result.code == 2
        assert told in result.err
