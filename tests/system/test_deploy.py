"""Deploys on a real daemon: make before break, failures that leave the old version serving, rollback, floors."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from tests.system.daemon import HELLO, Daemon, bundle, eventually, run_daemon

pytestmark = pytest.mark.processes

VERSION = "def handler(ctx, data=None):\n    return 'version {}'\n"


def test_a_new_version_answers_as_soon_as_the_deploy_is_acknowledged(shared_daemon: Daemon) -> None:
    for number in range(1, 6):
        function = shared_daemon.deploy("flips", VERSION.format(number))
        assert {shared_daemon.invoke(function).body.decode() for _ in range(3)} == {f"version {number}"}


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def handler(:\n", "SyntaxError"),
        ("import nonexistent_module\n", "No module named 'nonexistent_module'"),
        ("x = 1\n", "handler"),
        ("raise RuntimeError('at import')\n", "RuntimeError: at import"),
        ("import sys; sys.exit(3)\n", "3"),
        ("import os; os._exit(4)\n", "4"),
        ("import os, signal; os.kill(os.getppid(), signal.SIGKILL)\nimport time; time.sleep(60)", ""),
    ],
)
def test_a_version_that_cannot_start_fails_with_its_reason_and_the_old_one_goes_on(
    shared_daemon: Daemon, source: str, says: str
) -> None:
    function = shared_daemon.deploy("steady", VERSION.format("good"))
    reply = shared_daemon.try_deploy("steady", source)
    assert (reply.status, reply.json["code"]) == (422, "deploy-failed")
    assert says in json.dumps(reply.json)
    assert shared_daemon.invoke(function).body == b"version good"
    versions = shared_daemon.api("GET", f"/stoker/v1/functions/{function}/versions")["items"]
    assert versions[0]["state"] == "failed"
    assert says in versions[0]["error"]
    assert [v["state"] for v in versions if v["live"]] == ["ready"]


def test_a_module_that_hangs_at_import_is_given_up(data: Path) -> None:
    with run_daemon(data, config="limits: {start_s: 1}") as daemon:
        reply = daemon.try_deploy("hangs", "import time\ntime.sleep(600)\n")
        assert reply.status == 422
        assert "initialization timed out" in reply.json["message"]
        eventually(lambda: not daemon.instances(), what="its worker is gone")


def test_a_first_deploy_that_fails_leaves_its_log_and_reason_and_the_next_one_works(shared_daemon: Daemon) -> None:
    reply = shared_daemon.try_deploy(
        "stillborn", "print('loading the model', flush=True)\nraise RuntimeError('no model')\n"
    )
    assert reply.status == 422
    (function,) = shared_daemon.api("GET", f"/v2/fns?app_id={shared_daemon.app()}&name=stillborn")["items"]
    (version,) = shared_daemon.api("GET", f"/stoker/v1/functions/{function['id']}/versions")["items"]
    assert (version["state"], version["live"]) == ("failed", False)
    assert "RuntimeError: no model" in version["error"]
    log = shared_daemon.request("GET", f"/stoker/v1/functions/{function['id']}/logs")
    assert "loading the model" in log.body.decode()
    answer = shared_daemon.invoke(function["id"])
    assert (answer.status, answer.json["code"]) == (502, "init-failed")
    assert "no model" in answer.json["detail"]
    assert shared_daemon.deploy("stillborn", HELLO) == function["id"]
    assert shared_daemon.invoke(function["id"]).status == 200


def test_a_version_larger_than_the_node_is_refused_at_once(data: Path) -> None:
    with run_daemon(data, config="limits: {memory_mib: 512}") as daemon:
        function = daemon.deploy("grows", HELLO, memory=256)
        for reply in (
            daemon.request("PUT", f"/v2/fns/{function}", json.dumps({"memory": 1024})),
            daemon.try_deploy("large", HELLO, memory=1024),
        ):
            assert (reply.status, reply.json["code"]) == (400, "too-large-for-node")
            assert "needs 1048 MiB with its template of 24 MiB, the node has 512 MiB" in reply.json["detail"]
        assert daemon.invoke(function).status == 200
        assert [v["number"] for v in daemon.api("GET", f"/stoker/v1/functions/{function}/versions")["items"]] == [1]


def test_rollback_goes_to_the_previous_version_and_to_any_kept_one(shared_daemon: Daemon) -> None:
    function = ""
    for number in (1, 2, 3):
        function = shared_daemon.deploy("back", VERSION.format(number), config={"N": str(number)})
    shared_daemon.api("POST", f"/stoker/v1/functions/{function}/rollback", {})
    assert shared_daemon.invoke(function).body == b"version 2"
    shared_daemon.api("POST", f"/stoker/v1/functions/{function}/rollback", {"version": 1})
    assert shared_daemon.invoke(function).body == b"version 1"
    assert shared_daemon.api("GET", f"/v2/fns/{function}")["config"] == {"N": "1"}
    reply = shared_daemon.request("POST", f"/stoker/v1/functions/{function}/rollback", b'{"version": 99}')
    assert reply.status == 404


def test_calls_never_fail_while_versions_are_deployed(shared_daemon: Daemon) -> None:
    function = shared_daemon.deploy("busy", VERSION.format(0))
    stop, failed, answers = threading.Event(), [], set()

    def call() -> None:
        while not stop.is_set():
            reply = shared_daemon.invoke(function)
            answers.add(reply.body)
            if reply.status != 200:
                failed.append((reply.status, reply.body))

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    try:
        for number in range(1, 11):
            shared_daemon.deploy("busy", VERSION.format(number))
    finally:
        stop.set()
        for caller in callers:
            caller.join()
    assert failed == []
    assert f"version {10}".encode() in answers


def test_app_and_function_configuration_reach_the_worker_and_the_function_wins(shared_daemon: Daemon) -> None:
    source = "import json, os\ndef handler(ctx, data=None):\n    return json.dumps(dict(ctx.Config()))\n"
    app = shared_daemon.app("configured")
    shared_daemon.api("PUT", f"/v2/apps/{app}", {"config": {"A": "app", "B": "app"}})
    function = shared_daemon.deploy("env", source, app="configured", config={"B": "fn"})
    seen = shared_daemon.invoke(function).json
    assert (seen["A"], seen["B"], seen["FN_APP_NAME"], seen["FN_FN_NAME"]) == ("app", "fn", "configured", "env")
    assert not [name for name in seen if name.startswith(("STOKER_", "PYTEST", "VIRTUAL_ENV"))]
    shared_daemon.api("PUT", f"/v2/apps/{app}", {"config": {"A": "changed"}})
    assert shared_daemon.invoke(function).json["A"] == "changed"
    shared_daemon.api("PUT", f"/v2/fns/{function}", {"config": {"B": ""}})
    assert shared_daemon.invoke(function).json["B"] == "app"


def test_a_function_whose_image_was_never_pushed_says_so_and_works_after_the_push(shared_daemon: Daemon) -> None:
    app = shared_daemon.app()
    created = shared_daemon.api("POST", "/v2/fns", {"app_id": app, "name": "later", "image": "later:1"})
    reply = shared_daemon.invoke(created["id"])
    assert reply.status == 502
    assert "Failed to pull image 'later:1'" in reply.json["message"]
    shared_daemon.push(bundle(HELLO), "later:1")
    shared_daemon.api("PUT", f"/v2/fns/{created['id']}", {"image": "later:1"})
    assert shared_daemon.invoke(created["id"]).json == {"hello": "world"}


def test_the_same_bundle_is_stored_once_under_its_digest(shared_daemon: Daemon) -> None:
    first = shared_daemon.push(bundle(HELLO), "same:1")
    second = shared_daemon.push(bundle(HELLO), "same:2")
    assert first["digest"] == second["digest"]
    assert (first["created"], second["created"]) != (True, True)


def test_a_deleted_function_leaves_no_instance(shared_daemon: Daemon) -> None:
    function = shared_daemon.deploy("gone", HELLO)
    assert shared_daemon.invoke(function).status == 200
    shared_daemon.api("DELETE", f"/v2/fns/{function}")
    assert shared_daemon.invoke(function).status == 404
    eventually(lambda: not shared_daemon.instances(function))


class TestProvisionedConcurrency:
    CONFIG = "pcu: {steps: any}\n"

    def test_the_floor_is_filled_refilled_kept_and_restored(self, data: Path) -> None:
        floor = {"strategy": "CONSTANT", "count": 4}

        def idle(daemon: Daemon, function: str) -> list[int]:
            return [i["pid"] for i in daemon.instances(function) if i["state"] == "idle"]

        with run_daemon(data, config=self.CONFIG) as daemon:
            function = daemon.deploy("floor", VERSION.format(1), provisioned_concurrency=floor, idle_timeout=1)
            eventually(lambda: len(idle(daemon, function)) >= 4, what="filled")
            import os
            import signal

            os.kill(idle(daemon, function)[0], signal.SIGKILL)
            eventually(lambda: len(idle(daemon, function)) >= 4, what="refilled")
            before = set(idle(daemon, function))
            daemon.deploy("floor", VERSION.format(2))
            assert len(idle(daemon, function)) >= 4, "the new floor was not full when the deploy was acknowledged"
            eventually(lambda: not before & set(idle(daemon, function)), what="the old floor is let go")
            status = daemon.api("GET", f"/stoker/v1/functions/{function}")
            pcu = status["pool"]["pcu"] if "pool" in status and "pcu" in status["pool"] else status["pcu"]
            assert (pcu["requested"], pcu["allocated"]) == (4, 4)
            daemon.process.kill()
            daemon.process.wait()
        with run_daemon(data, config=self.CONFIG) as daemon:
            assert len(idle(daemon, function)) >= 4, "the floor is restored before `ready`"
            daemon.api("PUT", f"/v2/fns/{function}", {"provisioned_concurrency": {"strategy": "NONE"}})
            eventually(lambda: not idle(daemon, function), what="without a floor they idle out")

    def test_oci_table_and_node_limit_are_enforced_with_the_rule(self, shared_daemon: Daemon) -> None:
        app = shared_daemon.app()
        body = {"app_id": app, "name": "steps", "image": "x:1", "memory": 128}
        for count, near in ((39, "40"), (1, "40"), (50, "40"), (119, "80")):
            wanted = {"strategy": "CONSTANT", "count": count}
            reply = shared_daemon.request("POST", "/v2/fns", json.dumps({**body, "provisioned_concurrency": wanted}))
            assert reply.status == 400, reply.body
            assert near in reply.json["message"]
        too_many = {"strategy": "CONSTANT", "count": 400}
        reply = shared_daemon.request("POST", "/v2/fns", json.dumps({**body, "provisioned_concurrency": too_many}))
        assert reply.status == 400
        assert "40960" in reply.json["message"].replace(" ", "").replace(",", "")
