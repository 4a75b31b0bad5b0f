"""deploy, build, push and init: the whole exchange with the daemon, and every word."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Result, Stoker
from tests.cli.fake import NOTHING, FakeDaemon


def timeless(text: str) -> str:
    """Without the seconds that steps took."""
    return re.sub(r"\d+\.\d\d s\)", "T)", text)


def digest_of(stoker: Stoker, directory: Path) -> str:
    result = stoker("build", str(directory), "-o", str(directory.parent / "x.zip"), "--output", "json")
    assert result.err == ""
    return str(json.loads(result.out)["digest"])


def expect_deploy(
    daemon: FakeDaemon, digest: str, *, fn: dict[str, Any] | None = None, known: bool = False, body: Any = NOTHING
) -> None:
    """What follows the look-ups: push, release, status."""
    answer = {"image": "hello:0.0.1", "digest": digest}
    tag = f"PUT /stoker/v1/bundles/hello:0.0.1?digest={digest.replace(':', '%3A')}"
    if known:
        daemon.expect(tag, answer)
    else:
        daemon.expect(tag, {"message": "no such bundle", "code": "not-found"}, status=404)
        daemon.expect("PUT /stoker/v1/bundles/hello:0.0.1", answer)
    made = {
        "id": "F1", "name": "hello", "app_id": "A1", "image": "hello:0.0.1",
        "annotations": {"fnproject.io/fn/invokeEndpoint": "http://h:1/invoke/F1"},
    }  # fmt: skip
    daemon.expect("PUT /v2/fns/F1" if fn else "POST /v2/fns", made, body=body)
    daemon.expect("GET /stoker/v1/functions/F1", {"version": {"number": 3}})


def test_a_source_that_another_function_has_says_whose_it_is(
    stoker: Stoker, daemon: FakeDaemon, function: Path
) -> None:
    with (function / "func.yaml").open("a") as file:
        file.write("triggers:\n- {name: web, type: http, source: /w}\n")
    digest = digest_of(stoker, function)
    daemon.expect_function()
    expect_deploy(daemon, digest, fn={"name": "hello"})
    daemon.expect("GET /v2/triggers?app_id=A1&fn_id=F1&name=web", {"items": []})
    taken = {"message": "Trigger with the same type and source exists on this app", "code": "conflict"}
    daemon.expect("POST /v2/triggers", taken, status=409)
    others = [{"name": "a", "fn_id": "F2", "source": "/a"}, {"name": "web", "fn_id": "F3", "source": "/w"}]
    daemon.expect("GET /v2/triggers?app_id=A1&per_page=100", {"items": others})
    daemon.expect("GET /v2/fns/F3", {"id": "F3", "name": "old"})
    result = stoker("deploy", "--app", "demo", str(function))
    assert result.code == 1
    assert "/w of app demo is a trigger of function old: " in result.err
    assert "'stoker delete trigger demo old web'" in result.err


def test_a_first_deploy(stoker: Stoker, daemon: FakeDaemon, function: Path) -> None:
    with (function / "func.yaml").open("a") as file:
        file.write("timeout: 60\nconfig: {A: 1, B: true}\nannotations: {team: blue}\n")
        file.write("deploy: {oci: {provisioned_concurrency: {strategy: CONSTANT, count: 20}}}\n")
        file.write("triggers:\n- {name: web, type: http, source: /w}\n")
    digest = digest_of(stoker, function)
    daemon.expect("GET /v2/apps?name=demo", {"items": []})
    daemon.expect("POST /v2/apps", {"id": "A1", "name": "demo"}, body={"name": "demo"})
    daemon.expect("GET /v2/fns?app_id=A1&name=hello", {"items": []})
    body = {
        "app_id": "A1", "name": "hello", "image": "hello:0.0.1", "memory": 256, "timeout": 60,
        "config": {"A": "1", "B": "true"}, "annotations": {"team": "blue"},
        "provisioned_concurrency": {"strategy": "CONSTANT", "count": 20},
    }  # fmt: skip
    expect_deploy(daemon, digest, body=body)
    daemon.expect("GET /v2/triggers?app_id=A1&fn_id=F1&name=web", {"items": []})
    trigger = {"app_id": "A1", "fn_id": "F1", "name": "web", "type": "http", "source": "/w"}
    endpoint = {"annotations": {"fnproject.io/trigger/httpEndpoint": "http://h:1/t/demo/w"}}
    daemon.expect("POST /v2/triggers", {"id": "T1", **trigger, **endpoint}, body=trigger)
    result = stoker("deploy", "--app", "demo", "--create-app", str(function))
    packed = (function.parent / "x.zip").stat().st_size
    assert (result.code, result.err) == (0, "")
    assert timeless(result.out) == (
        "Deploying hello to app demo\n"
        "  app           demo created (T)\n"
        "  dependencies  none (T)\n"
        f"  bundle        {digest[:19]}, 3 files, {packed} B (T)\n"
        f"  push          hello:0.0.1 is {digest[:19]}, {packed} B sent (T)\n"
        "  release       version 3 is ready (T)\n"
        "  trigger       web at /w (T)\n"
        "hello is live (T)\n"
        "  http://h:1/t/demo/w\n"
        "  http://h:1/invoke/F1\n"
        "Next: stoker invoke demo hello\n"
    )
    upload = next(seen for seen in daemon.seen if seen.headers.get("content-type") == "application/zip")
    assert "sha256:" + hashlib.sha256(upload.body).hexdigest() == digest
    assert upload.headers["x-content-sha256"] == digest.removeprefix("sha256:")
    assert zipfile.ZipFile(BytesIO(upload.body)).namelist() == [
        "function/func.py", "function/func.yaml", "function/requirements.txt",
    ]  # fmt: skip


def test_a_second_deploy_sends_no_bytes(stoker: Stoker, daemon: FakeDaemon, function: Path) -> None:
    digest = digest_of(stoker, function)
    daemon.expect_function()
    expect_deploy(daemon, digest, fn={}, known=True)
    daemon.script[-2].request = "PUT /v2/fns/F1"
    daemon.script[-2].body = {"id": "F1", "image": "hello:0.0.1", "memory": 256}
    result = stoker("deploy", "--app", "demo", cwd=function)
    assert (result.code, result.err) == (0, "")
    assert f"  push          hello:0.0.1 is {digest[:19]}, which the daemon has (T)\n" in timeless(result.out)
    assert not any(seen.body.startswith(b"PK") for seen in daemon.seen)


def test_json_output_is_one_object(stoker: Stoker, daemon: FakeDaemon, function: Path) -> None:
    digest = digest_of(stoker, function)
    daemon.expect_function()
    expect_deploy(daemon, digest, fn={"id": "F1"}, known=True)
    result = stoker("deploy", "--app", "demo", str(function), "--output", "json")
    found = json.loads(result.out)
    assert (result.code, result.err) == (0, "")
    assert (found["ok"], found["app"], found["function"], found["version"]) == (True, "demo", "hello", 3)
    assert (found["bundle"]["digest"], found["invoke_endpoint"]) == (digest, "http://h:1/invoke/F1")
    assert [step["step"] for step in found["steps"]] == ["dependencies", "bundle", "push", "release"]


def failing(stoker: Stoker, daemon: FakeDaemon, function: Path, *arguments: str, serving: bool = True) -> Result:
    digest = digest_of(stoker, function)
    daemon.expect_function()
    tag = f"PUT /stoker/v1/bundles/hello:0.0.1?digest={digest.replace(':', '%3A')}"
    daemon.expect(tag, {"image": "hello:0.0.1", "digest": digest})
    error = {
        "message": "cannot deploy hello version 2: it raised",
        "code": "deploy-failed",
        "detail": "Traceback (most recent call last):\nImportError: no x",
    }
    daemon.expect("PUT /v2/fns/F1", error, status=422)
    daemon.expect("GET /stoker/v1/functions/F1/versions", {"items": [{"number": 1, "live": serving}]})
    return stoker("deploy", "--app", "demo", str(function), *arguments)


def test_a_version_that_does_not_start_shows_its_traceback(stoker: Stoker, daemon: FakeDaemon, function: Path) -> None:
    result = failing(stoker, daemon, function)
    assert result.code == 1
    assert timeless(result.out).endswith("  release       failed (T)\n")
    assert result.err == (
        "Error: cannot deploy hello version 2: it raised\n"
        "Traceback (most recent call last):\nImportError: no x\n"
        "Next: the old version goes on serving; mend the function and deploy again\n"
    )


def test_a_function_of_which_no_version_ever_started_is_not_said_to_serve(
    stoker: Stoker, daemon: FakeDaemon, function: Path
) -> None:
    result = failing(stoker, daemon, function, serving=False)
    assert result.err.endswith("\nNext: mend the function and deploy again\n")


def test_a_version_that_does_not_start_as_json(stoker: Stoker, daemon: FakeDaemon, function: Path) -> None:
    result = failing(stoker, daemon, function, "--output", "json")
    found = json.loads(result.out)
    assert (result.code, result.err, found["ok"]) == (1, "", False)
    assert (found["error"]["code"], found["error"]["status"]) == ("deploy-failed", 422)
    assert found["error"]["detail"].startswith("Traceback")
    assert found["steps"][-1]["result"] == "failed"


def test_an_app_that_is_not_there(stoker: Stoker, daemon: FakeDaemon, function: Path) -> None:
    daemon.expect("GET /v2/apps?name=demo", {"items": []})
    daemon.expect("GET /v2/apps?per_page=100", {"items": []})
    result = stoker("deploy", "--app", "demo", str(function))
    assert (result.code, result.out) == (1, "Deploying hello to app demo\n")
    assert result.err == (
        "Error: app demo not found\nNext: add --create-app to make it; create it with 'stoker create app demo'\n"
    )


def test_required_configuration_is_enforced(stoker: Stoker, daemon: FakeDaemon, function: Path) -> None:
    with (function / "func.yaml").open("a") as file:
        file.write("expects: {config: [{name: KEY, required: true}, {name: SPARE, required: false}]}\n")
    daemon.expect_function(config={"OTHER": "1"})
    result = stoker("deploy", "--app", "demo", str(function))
    assert (result.code, result.out) == (1, "Deploying hello to app demo\n")
    assert result.err == (
        "Error: func.yaml: expects.config: required configuration is missing: KEY\n"
        "Next: add --config KEY=VALUE, or set it for the app: stoker config set app demo KEY VALUE\n"
    )


@pytest.mark.parametrize("place", ["app", "function", "option", "file"])
def test_required_configuration_may_come_from_anywhere(
    stoker: Stoker, daemon: FakeDaemon, function: Path, place: str
) -> None:
    with (function / "func.yaml").open("a") as file:
        file.write("expects: {config: [{name: KEY, required: true}]}\n")
        file.write("config: {KEY: v}\n" if place == "file" else "")
    digest = digest_of(stoker, function)
    values = {"config": {"KEY": "v"}}
    daemon.expect_app(**(values if place == "app" else {}))
    found = {"id": "F1", "name": "hello", "app_id": "A1", **(values if place == "function" else {})}
    daemon.expect("GET /v2/fns?app_id=A1&name=hello", {"items": [found]})
    expect_deploy(daemon, digest, fn=found, known=True)
    result = stoker("deploy", "--app", "demo", str(function), *(["--config", "KEY=v"] if place == "option" else []))
    assert (result.code, result.err) == (0, "")


def test_the_option_wins_over_the_file(stoker: Stoker, daemon: FakeDaemon, function: Path) -> None:
    with (function / "func.yaml").open("a") as file:
        file.write("deploy: {oci: {provisioned_concurrency: {strategy: CONSTANT, count: 20}}}\n")
    digest = digest_of(stoker, function)
    daemon.expect_function()
    body = {"id": "F1", "image": "hello:0.0.1", "memory": 256, "provisioned_concurrency": {"strategy": "NONE"}}
    expect_deploy(daemon, digest, fn={"id": "F1"}, known=True, body=body)
    result = stoker("deploy", "--app", "demo", str(function), "--provisioned-concurrency", "none")
    assert (result.code, result.err) == (0, "")


def test_bump_raises_the_version_and_leaves_the_rest_of_the_file(
    stoker: Stoker, daemon: FakeDaemon, function: Path
) -> None:
    path = function / "func.yaml"
    path.write_text(path.read_text().replace("version: 0.0.1\n", 'version: "0.0.9"  # mine\n'))
    daemon.expect_function()
    daemon.expect("PUT /stoker/v1/bundles/hello:0.0.10", None, status=500)
    daemon.script[-1].request = "PUT /stoker/v1/bundles/hello:0.0.10?digest=" + "*"
    result = stoker("deploy", "--app", "demo", "--bump", str(function))
    assert result.code == 1
    assert "  version 0.0.10\n" in result.out
    assert 'schema_version: 20180708\nname: hello\nversion: "0.0.10"  # mine\nruntime: python\n' in path.read_text()
    assert daemon.problems.pop().startswith(
        "expected PUT /stoker/v1/bundles/hello:0.0.10?digest=*, got PUT /stoker/v1/bu"
    )


def test_an_upload_that_is_refused(stoker: Stoker, daemon: FakeDaemon, function: Path) -> None:
    digest = digest_of(stoker, function)
    tag = f"PUT /stoker/v1/bundles/hello:0.0.1?digest={digest.replace(':', '%3A')}"
    daemon.expect(tag, {"message": "no"}, status=404)
    error = {"message": "cannot use bundle: too large", "code": "request-too-large"}
    daemon.expect("PUT /stoker/v1/bundles/hello:0.0.1", error, status=413)
    result = stoker("push", str(function))
    assert result.code == 1
    assert result.err.startswith("Error: the daemon refused the bundle: cannot use bundle: too large\nNext: Send less")


def test_a_runtime_that_the_daemon_has_not(stoker: Stoker, daemon: FakeDaemon, function: Path) -> None:
    path = function / "func.yaml"
    path.write_text(path.read_text().replace("runtime: python", "runtime: python3.99"))
    daemon.expect_function()
    daemon.expect("GET /stoker/v1/runtimes", {"items": [{"name": "python3.11", "path": "/x", "version": "3.11.2"}]})
    result = stoker("deploy", "--app", "demo", str(function))
    assert (result.code, result.out) == (1, "Deploying hello to app demo\n")
    assert result.err == (
        "Error: there is no python3.99 on this machine (func.yaml: runtime)\n"
        "Next: found: python3.11; change 'runtime:' to one of these or to 'python', or install python3.99\n"
    )


def test_a_runtime_that_this_machine_has_not(bare_stoker: Stoker, function: Path) -> None:
    path = function / "func.yaml"
    path.write_text(path.read_text().replace("runtime: python", "runtime: python3.99"))
    result = bare_stoker("build", str(function), "-o", "x.zip")
    assert result.code == 1
    assert "Error: there is no python3.99 on this machine (func.yaml: runtime)\nNext: found: python3." in result.err


def test_push_a_zip(stoker: Stoker, daemon: FakeDaemon, function: Path, tmp_path: Path) -> None:
    digest = digest_of(stoker, function)
    tag = f"PUT /stoker/v1/bundles/team/hi:1.2?digest={digest.replace(':', '%3A')}"
    daemon.expect(tag, {"message": "no"}, status=404)
    daemon.expect("PUT /stoker/v1/bundles/team/hi:1.2", {"image": "team/hi:1.2", "digest": digest})
    result = stoker("push", "x.zip", "team/hi:1.2")
    assert (result.code, result.err) == (0, "")
    size = (tmp_path / "x.zip").stat().st_size
    assert timeless(result.out) == (
        f"  push          team/hi:1.2 is {digest[:19]}, {size} B sent (T)\nteam/hi:1.2 is {digest}\n"
    )


def test_push_tells_of_functions_that_waited(stoker: Stoker, daemon: FakeDaemon, function: Path) -> None:
    digest = digest_of(stoker, function)
    outcomes = [
        {"function_id": "F1", "function": "a"},
        {"function_id": "F2", "function": "b", "code": "deploy-failed", "message": "it raised"},
    ]
    tag = f"PUT /stoker/v1/bundles/hello:0.0.1?digest={digest.replace(':', '%3A')}"
    daemon.expect(tag, {"image": "hello:0.0.1", "digest": digest, "deployed": outcomes})
    result = stoker("push", str(function))
    assert (result.code, result.err) == (1, "")
    assert result.out.endswith(
        f"hello:0.0.1 is {digest}\n  function a was waiting for it and runs it\n  function b cannot use it: it raised\n"
    )


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["push", "x.zip"], "NAME:VERSION is missing: a ZIP does not say it"),
        (["push", "x.zip", "hello"], "'hello' is not NAME:VERSION, for example hello:0.0.1"),
        (["push", "missing.zip", "hello:1"], "Path 'missing.zip' does not exist."),
        (["build", "hello"], "Missing option '-o'."),
        (["deploy", "hello"], "--app is missing, and there is no app.yaml that names one"),
    ],
)
def test_usage_errors(bare_stoker: Stoker, tmp_path: Path, function: Path, arguments: list[str], why: str) -> None:
    (tmp_path / "x.zip").write_bytes(b"PK")
    result = bare_stoker(*arguments)
    assert (result.code, result.out) == (2, "")
    assert why in result.err


def test_warnings_go_to_stderr(bare_stoker: Stoker, function: Path) -> None:
    with (function / "func.yaml").open("a") as file:
        file.write("idle_timout: 30\n")
    result = bare_stoker("build", str(function), "-o", "x.zip", "--output", "json")
    assert result.code == 0
    json.loads(result.out)
    assert result.err == (
        "Warning: func.yaml line 7: idle_timout is not a known key and is ignored; did you mean idle_timeout?\n"
    )


def test_init_makes_what_can_be_deployed(bare_stoker: Stoker, tmp_path: Path) -> None:
    result = bare_stoker("init", "--runtime", "python", "--trigger", "http", "pyf")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "Function pyf made in pyf: func.yaml, func.py, requirements.txt\n"
        "Next: stoker deploy --app APP --create-app pyf\n"
    )
    assert (tmp_path / "pyf" / "func.yaml").read_text() == (  # what fn 0.6.63 writes (fn-golden 14)
        "schema_version: 20180708\nname: pyf\nversion: 0.0.1\nruntime: python\n"
        "build_image: fnproject/python:3.12-dev\nrun_image: fnproject/python:3.12\n"
        "entrypoint: /python/bin/fdk /function/func.py handler\nmemory: 256\n"
        "triggers:\n- name: pyf\n  type: http\n  source: /pyf\n"
    )
    assert (
        tmp_path / "pyf" / "requirements.txt"
    ).read_text() == "fdk>=0.1.128\n"  # the last line ends: lines get appended
    assert bare_stoker("build", "pyf", "-o", "x.zip").code == 0


def test_init_does_not_write_over_files(bare_stoker: Stoker, function: Path) -> None:
    before = (function / "func.py").read_text()
    result = bare_stoker("init", "hello")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "Error: hello/func.yaml is there already\nNext: choose another NAME, or --force to write over it\n"
    )
    assert (function / "func.py").read_text() == before
    assert bare_stoker("init", "hello", "--force", "--memory", "512", "--timeout", "9").code == 0
    assert "memory: 512\ntimeout: 9\n" in (function / "func.yaml").read_text()


def test_init_in_the_present_directory(bare_stoker: Stoker, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    result = bare_stoker("init", "--runtime", "python3.12", cwd=tmp_path / "mine")
    assert (result.code, result.err) == (0, "")
    text = (tmp_path / "mine" / "func.yaml").read_text()
    assert "name: mine\n" in text
    assert "runtime: python3.12\n" in text


@pytest.mark.parametrize(
    "arguments", [["--runtime", "go", "x"], ["--memory", "0", "x"], ["--version", "1", "x"], ["a b"]]
)
def test_init_refuses(bare_stoker: Stoker, tmp_path: Path, arguments: list[str]) -> None:
    result = bare_stoker("init", *arguments)
    assert (result.code, result.out) == (2, "")
    assert list(tmp_path.iterdir()) == []


def test_workers_that_cannot_be_forked_are_told(stoker: Stoker, daemon: FakeDaemon, function: Path) -> None:
    digest = digest_of(stoker, function)
    daemon.expect_function()
    expect_deploy(daemon, digest, fn={"id": "F1"}, known=True)
    status = {"version": {"number": 3}, "start": {"forkable": False, "reason": "the import started 1 thread(s)"}}
    daemon.script[-1].reply = json.dumps(status).encode()
    result = stoker("deploy", "--app", "demo", str(function))
    assert (result.code, result.err) == (0, "")
    assert "its workers start as processes of their own: the import started 1 thread(s) (T)\n" in timeless(result.out)


def test_a_floor_that_the_node_has_no_room_for_is_told(stoker: Stoker, daemon: FakeDaemon, function: Path) -> None:
    digest = digest_of(stoker, function)
    daemon.expect_function()
    expect_deploy(daemon, digest, fn={"id": "F1"}, known=True)
    pcu = {"requested": 40, "allocated": 6, "state": "partial", "reason": "the node has room for 6 of 40"}
    daemon.script[-1].reply = json.dumps({"version": {"number": 3}, "pool": {"pcu": pcu}}).encode()
    result = stoker("deploy", "--app", "demo", str(function))
    assert (result.code, result.err) == (0, "")
    assert "; provisioned concurrency is granted in part: the node has room for 6 of 40 (T)\n" in timeless(result.out)


def test_an_app_that_another_deploy_makes_meanwhile(stoker: Stoker, daemon: FakeDaemon, function: Path) -> None:
    digest = digest_of(stoker, function)
    daemon.expect("GET /v2/apps?name=demo", {"items": []})
    daemon.expect("POST /v2/apps", {"message": "App already exists", "code": "conflict"}, status=409)
    daemon.expect_function()
    expect_deploy(daemon, digest, fn={"id": "F1"}, known=True)
    result = stoker("deploy", "--app", "demo", "--create-app", str(function))
    assert (result.code, result.err) == (0, "")
    assert "  app           demo is there (T)\n" in timeless(result.out)
