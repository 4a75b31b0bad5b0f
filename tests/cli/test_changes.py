"""create, update, delete, config, inspect: the exact requests, and what is said about them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Stoker
from tests.cli.fake import FakeDaemon


def test_create_app(stoker: Stoker, daemon: FakeDaemon) -> None:
    body = {"name": "demo", "config": {"A": "1", "B": "x=y"}, "annotations": {"team": "blue", "n": 3}}
    daemon.expect("POST /v2/apps", {"id": "A1", **body}, body=body)
    result = stoker(
        "create", "app", "demo", "-c", "A=1", "--config", "B=x=y", "--annotation", 'team="blue"', "--annotation", "n=3"
    )
    assert (result.code, result.out, result.err) == (0, "Created app demo\n", "")


def test_create_app_that_exists(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect("POST /v2/apps", {"message": "App already exists", "code": "conflict"}, status=409)
    result = stoker("create", "app", "demo")
    assert (result.code, result.out, result.err) == (1, "", "Error: App already exists\n")


PCU = {
    "constant:40": {"strategy": "CONSTANT", "count": 40},
    "CONSTANT:10": {"strategy": "CONSTANT", "count": 10},
    "none": {"strategy": "NONE"},
    '{"strategy": "CONSTANT", "count": 20}': {"strategy": "CONSTANT", "count": 20},
    '{"strategy":"NONE"}': {"strategy": "NONE"},
}


@pytest.mark.parametrize("written", PCU)
def test_create_function(stoker: Stoker, daemon: FakeDaemon, written: str) -> None:
    daemon.expect_app()
    body = {
        "app_id": "A1", "name": "hello", "image": "hello:0.0.1", "memory": 256, "timeout": 60, "idle_timeout": 90,
        "provisioned_concurrency": PCU[written],
    }  # fmt: skip
    daemon.expect("POST /v2/fns", {"id": "F1", **body}, body=body)
    result = stoker(
        "create", "function", "demo", "hello", "hello:0.0.1", "--memory", "256", "--timeout", "60",
        "--idle-timeout", "90", "--provisioned-concurrency", written,
    )  # fmt: skip
    assert (result.code, result.out, result.err) == (0, "Created function hello with hello:0.0.1\n", "")


@pytest.mark.parametrize("content", ["constant:40\n", '{"strategy": "CONSTANT", "count": 40}'])
def test_provisioned_concurrency_from_a_file(stoker: Stoker, daemon: FakeDaemon, tmp_path: Path, content: str) -> None:
    (tmp_path / "pcu.json").write_text(content)
    daemon.expect_function()
    body = {"id": "F1", "provisioned_concurrency": {"strategy": "CONSTANT", "count": 40}}
    daemon.expect("PUT /v2/fns/F1", {"id": "F1"}, body=body)
    result = stoker("update", "function", "demo", "hello", "--provisioned-concurrency", "file://pcu.json")
    assert (result.code, result.out, result.err) == (0, "Updated function hello of app demo\n", "")


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("forty", "'forty' is not understood; allowed: constant:COUNT, none, "),
        ("constant:", "'constant:' is not understood; allowed:"),
        ("constant:-1", "'constant:-1' is not understood; allowed:"),
        ("constant:0", "strategy CONSTANT needs a count of 1 or more, not 0"),
        ('{"strategy": "CONSTANT"}', "strategy CONSTANT needs a count of 1 or more, not None"),
        ('{"strategy": "CONSTANT", "count": true}', "strategy CONSTANT needs a count of 1 or more, not True"),
        ('{"strategy": "NONE", "count": 4}', "strategy NONE takes no count"),
        ('{"strategy": "SOME"}', "strategy must be CONSTANT or NONE, not 'SOME'"),
        ('{"strategy": "NONE", "cuont": 4}', "unknown member 'cuont'; allowed: strategy, count"),
        ("{oops", "not JSON (Expecting property name"),
        ("file://missing.json", "cannot read missing.json: No such file or directory"),
    ],
)
def test_provisioned_concurrency_that_is_wrong_is_a_usage_error(bare_stoker: Stoker, written: str, why: str) -> None:
    result = bare_stoker("update", "function", "demo", "hello", "--provisioned-concurrency", written)
    assert (result.code, result.out) == (2, "")
    assert f"Error: Invalid value for '--provisioned-concurrency': {why}" in result.err


def test_the_daemons_rule_for_provisioned_concurrency_is_shown(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect_function()
    text = "provisioned concurrency count must be a multiple of 40 for 128 MB; nearest: 40, 80"
    daemon.expect("PUT /v2/fns/F1", {"message": text, "code": "bad-request"}, status=400)
    result = stoker("update", "function", "demo", "hello", "--provisioned-concurrency", "constant:41")
    assert (result.code, result.out, result.err) == (1, "", f"Error: {text}\n")


def test_create_trigger_prints_its_endpoint(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect_function()
    body = {"app_id": "A1", "fn_id": "F1", "name": "web", "type": "http", "source": "/w"}
    endpoint = {"fnproject.io/trigger/httpEndpoint": "http://127.0.0.1:8080/t/demo/w"}
    daemon.expect("POST /v2/triggers", {"id": "T1", **body, "annotations": endpoint}, body=body)
    result = stoker("create", "trigger", "demo", "hello", "web", "--source", "/w")
    assert (result.code, result.err) == (0, "")
    assert result.out == "Created trigger web http://127.0.0.1:8080/t/demo/w\n"


def test_update_function_sends_only_what_was_named(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect_function(memory=128, config={"A": "1"})
    body = {"id": "F1", "image": "hello:0.0.2", "memory": 512}
    daemon.expect("PUT /v2/fns/F1", {"id": "F1", "name": "hello"}, body=body)
    result = stoker("update", "function", "demo", "hello", "hello:0.0.2", "-m", "512", "--output", "json")
    assert (result.code, json.loads(result.out), result.err) == (0, {"id": "F1", "name": "hello"}, "")


def test_update_trigger(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect_function()
    trigger = {"id": "T1", "name": "web", "source": "/w"}
    daemon.expect("GET /v2/triggers?app_id=A1&fn_id=F1&name=web", {"items": [trigger]})
    daemon.expect("PUT /v2/triggers/T1", {**trigger, "source": "/v"}, body={"id": "T1", "source": "/v"})
    result = stoker("update", "trigger", "demo", "hello", "web", "--source", "/v")
    assert (result.code, result.out, result.err) == (0, "Updated trigger web of function hello\n", "")


def test_update_app(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect_app()
    daemon.expect("PUT /v2/apps/A1", {"id": "A1"}, body={"id": "A1", "annotations": {"k": ""}})
    result = stoker("update", "app", "demo", "--annotation", 'k=""')
    assert (result.code, result.out, result.err) == (0, "Updated app demo\n", "")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["update", "app", "demo"], "nothing to change: name what shall be different"),
        (["update", "function", "demo", "hello"], "nothing to change: name what shall be different"),
        (["create", "function", "demo", "hello", "hello"], "'hello' is not NAME:VERSION, for example hello:0.0.1"),
        (
            ["create", "trigger", "demo", "f", "t", "--source", "w"],
            "Invalid value for '--source': 'w' must begin with '/'",
        ),
        (["create", "app", "demo", "-c", "A"], "Invalid value for '--config' / '-c': 'A' is not KEY=VALUE"),
        (
            ["create", "app", "demo", "--annotation", "a=b"],
            "Invalid value for '--annotation': the value of a is not JSON: 'b' (a string needs quotes: 'a=\"b\"')",
        ),
        (["config", "set", "app", "demo", "A"], "'A' is not KEY=VALUE"),
        (["config", "set", "app", "demo", "A="], "the value of A is empty; 'stoker config unset' removes a key"),
        (["create", "function", "demo"], "Missing argument 'FUNCTION'."),
        (["create", "planet", "demo"], "No such command 'planet'."),
        (["deply"], "no such command 'deply'; did you mean 'deploy'?"),
        (["ls", "--url", "ftp://x"], ""),
    ],
)
def test_usage_errors(bare_stoker: Stoker, arguments: list[str], why: str) -> None:
    result = bare_stoker(*arguments)
    assert (result.code, result.out) == ((2, "") if why else (1, ""))
    assert f"Error: {why}" in result.err


def test_delete_function(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect_function()
    daemon.expect("DELETE /v2/fns/F1", status=204)
    result = stoker("delete", "function", "demo", "hello")
    assert (result.code, result.out, result.err) == (0, "Deleted function hello of app demo\n", "")


def test_delete_trigger(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect_function()
    daemon.expect("GET /v2/triggers?app_id=A1&fn_id=F1&name=web", {"items": [{"id": "T1", "name": "web"}]})
    daemon.expect("DELETE /v2/triggers/T1", status=204)
    result = stoker("delete", "trigger", "demo", "hello", "web", "--output", "json")
    assert (result.code, json.loads(result.out), result.err) == (0, {"deleted": "T1", "name": "web"}, "")


def test_delete_app_with_functions_needs_recursive(stoker: Stoker, daemon: FakeDaemon) -> None:
    functions = {"items": [{"id": "F1", "name": "hello"}, {"id": "F2", "name": "sum"}]}
    daemon.expect_app()
    daemon.expect("GET /v2/fns?app_id=A1&per_page=100", functions)
    result = stoker("delete", "app", "demo")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "Error: app demo has 2 functions: hello, sum\nNext: delete them, too: stoker delete app demo --recursive\n"
    )
    daemon.expect_app()
    daemon.expect("GET /v2/fns?app_id=A1&per_page=100", functions)
    daemon.expect("DELETE /v2/apps/A1", status=204)
    result = stoker("delete", "app", "demo", "-r")
    assert (result.code, result.out, result.err) == (0, "Deleted app demo\n", "")


@pytest.mark.parametrize("words", [["app", "demo"], ["apps", "demo"]])
def test_config_set_takes_a_key_and_its_value(stoker: Stoker, daemon: FakeDaemon, words: list[str]) -> None:
    daemon.expect_app()
    daemon.expect("PUT /v2/apps/A1", {"id": "A1"}, body={"id": "A1", "config": {"URL": "http://h/?a=b"}})
    result = stoker("config", "set", *words, "URL", "http://h/?a=b")
    assert (result.code, result.out, result.err) == (0, "Set URL of app demo\n", "")


def test_config_set_takes_pairs(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect_function()
    changed = {"A": "1", "B": "x=y"}
    daemon.expect("PUT /v2/fns/F1", {"id": "F1", "config": changed}, body={"id": "F1", "config": changed})
    result = stoker("config", "set", "function", "demo", "hello", "A=1", "B=x=y")
    assert (result.code, result.err) == (0, "")
    assert result.out == "Set A of function hello of app demo\nSet B of function hello of app demo\n"


def test_config_unset_sends_empty_values(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect_function(config={"A": "1", "B": "2"})
    daemon.expect("PUT /v2/fns/F1", {"id": "F1", "config": {"B": "2"}}, body={"id": "F1", "config": {"A": ""}})
    result = stoker("config", "unset", "function", "demo", "hello", "A")
    assert (result.code, result.out, result.err) == (0, "Removed A of function hello of app demo\n", "")


def test_config_unset_of_a_key_that_is_not_there(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect_app(config={"A": "1"})
    result = stoker("config", "unset", "app", "demo", "B")
    assert (result.code, result.out, result.err) == (1, "", "Error: app demo has no configuration B\n")


def test_config_get_and_list(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect_app(config={"LONG": "v", "A": "two words"})
    result = stoker("config", "list", "app", "demo")
    assert (result.code, result.out, result.err) == (0, "KEY   VALUE\nA     two words\nLONG  v\n", "")
    daemon.expect_app(config={"A": "two words"})
    result = stoker("config", "get", "app", "demo", "A")
    assert (result.code, result.out, result.err) == (0, "two words\n", "")
    daemon.expect_app(config={"A": "1"})
    result = stoker("config", "get", "app", "demo", "a")
    assert (result.code, result.out) == (1, "")
    assert result.err == "Error: app demo has no configuration a\nNext: there are: A\n"


def test_inspect_prints_json_and_picks_properties(stoker: Stoker, daemon: FakeDaemon) -> None:
    more = {
        "memory": 128,
        "config": {"A": "1"},
        "annotations": {"fnproject.io/fn/invokeEndpoint": "http://h/invoke/F1"},
    }
    found = {"id": "F1", "name": "hello", "app_id": "A1", **more}
    for arguments, out in (
        ([], json.dumps(found, indent=2) + "\n"),
        (["memory"], "128\n"),
        (["config.A"], "1\n"),
        (["annotations.fnproject.io/fn/invokeEndpoint"], "http://h/invoke/F1\n"),
        (["--endpoint"], "http://h/invoke/F1\n"),
        (["config", "--output", "yaml"], "A: '1'\n"),
    ):
        daemon.expect_function(**more)
        result = stoker("inspect", "function", "demo", "hello", *arguments)
        assert (result.code, result.out, result.err) == (0, out, "")
    daemon.expect_function()
    result = stoker("inspect", "function", "demo", "hello", "nope")
    assert (result.code, result.out) == (1, "")
    assert result.err == "Error: there is no property 'nope'\nNext: there are: id, name, app_id\n"


def test_inspect_status(stoker: Stoker, daemon: FakeDaemon) -> None:
    status = {"id": "F1", "pool": {"pcu": {"requested": 40, "available": 38}}}
    daemon.expect_function()
    daemon.expect("GET /stoker/v1/functions/F1", status)
    result = stoker("inspect", "function", "demo", "hello", "--status", "pool.pcu.available")
    assert (result.code, result.out, result.err) == (0, "38\n", "")
