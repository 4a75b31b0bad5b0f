"""ls, ps, versions, bundles, runtimes, stats, version: what is asked and what is shown."""

from __future__ import annotations

import json

from tests.cli.conftest import Stoker
from tests.cli.fake import FakeDaemon

APPS = [
    {"id": "01A", "name": "demo", "created_at": "2026-11-21T02:45:52.342Z"},
    {"id": "01B", "name": "a-longer-name", "created_at": "2026-11-21T02:45:53.000Z"},
]


def test_ls_apps(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect("GET /v2/apps?per_page=100", {"items": APPS})
    result = stoker("ls", "apps")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "NAME           ID   CREATED\n"
        "demo           01A  2026-11-21T02:45:52.342Z\n"
        "a-longer-name  01B  2026-11-21T02:45:53.000Z\n"
    )


def test_ls_alone_lists_the_apps_page_after_page(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect("GET /v2/apps?per_page=100", {"items": APPS[:1], "next_cursor": "ZGVtbw"})
    daemon.expect("GET /v2/apps?cursor=ZGVtbw&per_page=100", {"items": APPS[1:], "next_cursor": ""})
    result = stoker("ls", "--output", "json")
    assert (result.code, json.loads(result.out), result.err) == (0, APPS, "")


def test_ls_without_apps_says_what_to_do(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect("GET /v2/apps?per_page=100", {"items": []})
    result = stoker("ls")
    assert (result.code, result.out) == (0, "")
    assert result.err == "No apps. Make one with 'stoker create app NAME'.\n"


def test_output_may_stand_before_or_after_the_command(stoker: Stoker, daemon: FakeDaemon) -> None:
    for arguments in (
        ("--output", "yaml", "ls", "apps"),
        ("ls", "--output", "yaml", "apps"),
        ("list", "apps", "--output", "yaml"),
    ):
        daemon.expect("GET /v2/apps?per_page=100", {"items": APPS[:1]})
        result = stoker(*arguments)
        assert (result.code, result.err) == (0, "")
        assert result.out == "- id: 01A\n  name: demo\n  created_at: '2026-11-21T02:45:52.342Z'\n"


def test_ls_functions(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect_app()
    functions = [
        {"id": "01F", "name": "hello", "image": "hello:0.0.1", "memory": 128, "timeout": 30},
        {
            "id": "01G", "name": "sum", "image": "sum:0.0.2", "memory": 256, "timeout": 5,
            "provisioned_concurrency": {"strategy": "CONSTANT", "count": 40},
        },
    ]  # fmt: skip
    daemon.expect("GET /v2/fns?app_id=A1&per_page=100", {"items": functions})
    result = stoker("ls", "functions", "demo")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "NAME   IMAGE        MEMORY   TIMEOUT  PCU  ID\n"
        "hello  hello:0.0.1  128 MiB  30 s       -  01F\n"
        "sum    sum:0.0.2    256 MiB  5 s       40  01G\n"
    )


def test_ls_triggers_of_an_app_names_their_functions(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect_app()
    daemon.expect("GET /v2/fns?app_id=A1&per_page=100", {"items": [{"id": "F1", "name": "hello"}]})
    trigger = {
        "id": "T1", "name": "web", "fn_id": "F1", "type": "http", "source": "/w",
        "annotations": {"fnproject.io/trigger/httpEndpoint": "http://127.0.0.1:8080/t/demo/w"},
    }  # fmt: skip
    daemon.expect("GET /v2/triggers?app_id=A1&per_page=100", {"items": [trigger]})
    result = stoker("ls", "triggers", "demo")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "FUNCTION  NAME  TYPE  SOURCE  ENDPOINT\nhello     web   http  /w      http://127.0.0.1:8080/t/demo/w\n"
    )


def test_ls_triggers_of_a_function(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect_function()
    daemon.expect("GET /v2/triggers?app_id=A1&fn_id=F1&per_page=100", {"items": []})
    result = stoker("ls", "triggers", "demo", "hello")
    assert (result.code, result.out, result.err) == (0, "", "No triggers in app demo.\n")


def test_an_unknown_app_names_similar_ones(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect("GET /v2/apps?name=dem", {"items": []})
    daemon.expect("GET /v2/apps?per_page=100", {"items": APPS})
    result = stoker("ls", "functions", "dem")
    assert (result.code, result.out) == (1, "")
    assert result.err == "Error: app dem not found\nNext: did you mean demo? 'stoker ls apps' lists all\n"


def test_an_unknown_function_says_how_to_deploy_it(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect_app()
    daemon.expect("GET /v2/fns?app_id=A1&name=nope", {"items": []})
    daemon.expect("GET /v2/fns?app_id=A1&per_page=100", {"items": []})
    result = stoker("inspect", "function", "demo", "nope")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "Error: function nope not found in app demo\nNext: deploy it with 'stoker deploy --app demo'\n"
    )


def test_ps(stoker: Stoker, daemon: FakeDaemon) -> None:
    item = {
        "id": 7, "app": "demo", "function": "hello", "function_id": "F1", "version": 3, "state": "idle", "pid": 4242,
        "start_kind": "fork", "age_s": 3725.2, "idle_s": 4.04, "calls": 12, "memory_mib": 1.53, "memory_limit_mib": 128,
    }  # fmt: skip
    busy = {**item, "id": 12, "state": "busy", "idle_s": None, "start_kind": "spare", "age_s": 61, "memory_mib": 10.0}
    daemon.expect("GET /stoker/v1/instances?app=demo&function=hello", {"items": [item, busy]})
    result = stoker("ps", "demo", "hello")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "ID  FUNCTION    VERSION  STATE   PID  START  AGE    IDLE  CALLS  MEMORY\n"
        " 7  demo/hello        3  idle   4242  fork   1h02m  4.0s     12  1.5/128 MiB\n"
        "12  demo/hello        3  busy   4242  spare  1m01s  -        12  10.0/128 MiB\n"
    )


def test_ps_shows_no_control_characters(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect(
        "GET /stoker/v1/instances", {"items": [{"id": 1, "app": "a", "function": "f\x1b[2J", "state": "idle"}]}
    )
    result = stoker("ps")
    assert "f\\x1b[2J" in result.out
    assert "\x1b" not in result.out


def test_versions(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect_function()
    digest = "sha256:" + "ab" * 32
    items = [
        {
            "number": 2, "image": "hello:0.0.2", "digest": digest, "memory": 256, "timeout": 30, "state": "failed",
            "error": "Traceback (most recent call last):\n  ...\nImportError: no module x\n",
            "created_at": "2026-11-21T02:45:52.342Z", "live": False,
        },
        {
            "number": 1, "image": "hello:0.0.1", "digest": digest, "memory": 256, "timeout": 30, "state": "ready",
            "error": "", "created_at": "2026-11-21T02:45:51.000Z", "live": True,
        },
    ]  # fmt: skip
    daemon.expect("GET /stoker/v1/functions/F1/versions", {"items": items})
    result = stoker("versions", "demo", "hello")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "LIVE  VERSION  IMAGE        DIGEST               MEMORY   TIMEOUT  STATE   CREATED                   ERROR\n"
        "            2  hello:0.0.2  sha256:abababababab  256 MiB  30 s     failed  2026-11-21T02:45:52.342Z  "
        "ImportError: no module x\n"
        "*           1  hello:0.0.1  sha256:abababababab  256 MiB  30 s     ready   2026-11-21T02:45:51.000Z  -\n"
    )


def test_rollback_to_a_version(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect_function()
    daemon.expect("POST /stoker/v1/functions/F1/rollback", {"version": {"number": 1}}, body={"version": 1})
    result = stoker("rollback", "demo", "hello", "1")
    assert (result.code, result.out, result.err) == (0, "Function hello of app demo is back at version 1\n", "")


def test_rollback_that_is_refused(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect_function()
    error = {"message": "no version to go back to", "code": "conflict"}
    daemon.expect("POST /stoker/v1/functions/F1/rollback", error, status=409, body={})
    result = stoker("rollback", "demo", "hello")
    assert (result.code, result.out) == (1, "")
    assert result.err == ("Error: no version to go back to\nNext: 'stoker versions demo hello' lists what there is\n")


def test_bundles(stoker: Stoker, daemon: FakeDaemon) -> None:
    item = {
        "image": "hello:0.0.1", "digest": "sha256:" + "0" * 64, "packed_bytes": 900,
        "unpacked_bytes": 3 * 2**20 + 2**19,
        "files": 3, "runtime": "python",
    }  # fmt: skip
    daemon.expect("GET /stoker/v1/bundles?name=hello", {"items": [item]})
    result = stoker("bundles", "hello")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "IMAGE        DIGEST               PACKED  UNPACKED  FILES  RUNTIME\n"
        "hello:0.0.1  sha256:000000000000  900 B   3.5 MiB       3  python\n"
    )


def test_runtimes(stoker: Stoker, daemon: FakeDaemon) -> None:
    items = [{"name": "python3.12", "path": "/usr/bin/python3.12", "version": "3.12.1"}]
    daemon.expect("GET /stoker/v1/runtimes", {"items": items})
    result = stoker("runtimes")
    assert (result.code, result.err) == (0, "")
    assert result.out == "NAME        VERSION  PATH\npython3.12  3.12.1   /usr/bin/python3.12\n"


def test_stats(stoker: Stoker, daemon: FakeDaemon) -> None:
    numbers = {"memory": {"limit_mib": 2048, "reserved_mib": 256}, "calls": {"ok": 3}, "latency": {"p50_s": None}}
    daemon.expect("GET /stoker/v1/stats", numbers)
    result = stoker("stats")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "memory.limit_mib     2048\nmemory.reserved_mib  256\ncalls.ok             3\nlatency.p50_s        -\n"
    )


def test_version_of_both_sides(stoker: Stoker, daemon: FakeDaemon) -> None:
    daemon.expect("GET /version", {"version": "0.3.753", "stoker": "0.1.0"})
    result = stoker("version")
    assert (result.code, result.out, result.err) == (0, "stoker 0.1.0\ndaemon 0.1.0, Fn API 0.3.753\n", "")


def test_version_without_a_daemon(bare_stoker: Stoker) -> None:
    result = bare_stoker("version", "--url", "unix:/nowhere/stoker.sock")
    assert (result.code, result.out) == (0, "stoker 0.1.0\n")
    assert result.err == ("daemon: cannot reach the daemon at unix:/nowhere/stoker.sock: No such file or directory\n")
