"""Idle instances that are frozen: they use nothing, answer the next call, and can be ended."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psutil
import pytest

from tests.exec.conftest import deploy, floor, try_deploy
from tests.exec.programs import FRAME, bundle
from tests.system.daemon import Daemon, all_gone, eventually, run_daemon
from tests.system.daemon import bundle as handler_bundle

pytestmark = pytest.mark.processes

CONFIG = "pcu: {steps: any}\nlimits: {freeze_s: 0.05}\n"
BUSY = """
import subprocess, threading
child = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
def spin():
    while True: sum(range(1000))
threading.Thread(target=spin, daemon=True).start()
def answer(c, head, body):
    c.sendall(reply(ME))
serve(answer)
"""


@pytest.fixture(scope="module")
def freezing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with run_daemon(tmp_path_factory.mktemp("freezing") / "data", config=CONFIG) as daemon:
        yield daemon


def tree_of(daemon: Daemon, function: str) -> list[psutil.Process]:
    """Every process of its instances, a spare's too."""
    found = []
    for item in daemon.instances(function):
        if item["pid"]:
            process = psutil.Process(item["pid"])
            found += [process, *process.children(recursive=True)]
    return found


def all_stopped(daemon: Daemon, function: str) -> list[psutil.Process]:
    """All of them, if none runs and none is just starting."""
    states = {item["state"] for item in daemon.instances(function)}
    tree = tree_of(daemon, function) if states == {"idle"} else []
    return tree if all(process.status() == psutil.STATUS_STOPPED for process in tree) else []


def used_s(tree: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in tree)


def test_an_idle_program_is_stopped_and_answers_its_next_call(freezing: Daemon) -> None:
    program = bundle(["./func"], {"func": FRAME + BUSY})
    function = deploy(freezing, "busy", program, provisioned_concurrency=floor(1))
    first = freezing.invoke(function).body
    tree = eventually(lambda: all_stopped(freezing, function), what="all of it stopped")
    assert len(tree) >= 2, "the program and its child, beneath their init where there is one"
    before_s = used_s(tree)
    time.sleep(0.3)
    assert used_s(tree) == before_s, "two loops that never end use nothing"
    frozen = len(freezing.instances(function))
    assert f"\nstoker_frozen_instances {frozen}.0\n".encode() in freezing.request("GET", "/metrics").body
    for _ in range(3):
        assert freezing.invoke(function).body == first, "the same process"
    eventually(lambda: all_stopped(freezing, function), what="all of it stopped again")
    time.sleep(1.2)  # its connection is closed meanwhile
    assert freezing.invoke(function).body == first
    assert freezing.invoke(function).status == 200
    tree = eventually(lambda: all_stopped(freezing, function), what="stopped once more")
    freezing.api("DELETE", f"/v2/fns/{function}")
    assert all_gone(tree) == []


def test_a_frozen_program_that_is_killed_is_replaced(freezing: Daemon) -> None:
    function = deploy(freezing, "victim", bundle(["./func"], {"func": FRAME + BUSY}), provisioned_concurrency=floor(1))
    tree = eventually(lambda: all_stopped(freezing, function), what="all of it stopped")
    first = [tree[0], *tree[0].children(recursive=True)]
    tree[0].kill()
    assert all_gone(first) == []
    assert freezing.invoke(function).status == 200
    freezing.api("DELETE", f"/v2/fns/{function}")


def test_a_frozen_program_idles_out(freezing: Daemon) -> None:
    function = deploy(freezing, "leaves", bundle(["./func"], {"func": FRAME + BUSY}), idle_timeout=1)
    assert freezing.invoke(function).status == 200
    tree = tree_of(freezing, function)
    eventually(lambda: not freezing.instances(function), what="idled out")
    assert all_gone(tree) == []


HANDLER = """
import threading
def spin():
    while True: sum(range(1000))
started = False
def handler(ctx, data=None):
    global started
    if not started:
        threading.Thread(target=spin, daemon=True).start()
        started = True
    return "ok"
"""


def test_workers_of_handlers_are_frozen_only_if_that_is_asked_for(
    freezing: Daemon, tmp_path_factory: pytest.TempPathFactory
) -> None:
    function = deploy(freezing, "native", handler_bundle(HANDLER), provisioned_concurrency=floor(1))
    assert freezing.invoke(function).body == b"ok"
    tree = tree_of(freezing, function)
    time.sleep(0.4)
    assert not any(process.status() == psutil.STATUS_STOPPED for process in tree)
    freezing.api("DELETE", f"/v2/fns/{function}")
    config = CONFIG.replace("}\n", "}\n", 1).replace("0.05", "0.05, freeze_native: true")
    with run_daemon(tmp_path_factory.mktemp("native") / "data", config=config) as daemon:
        function = deploy(daemon, "native", handler_bundle(HANDLER), provisioned_concurrency=floor(1))
        for _ in range(3):
            assert daemon.invoke(function).body == b"ok"
            tree = eventually(lambda: all_stopped(daemon, function), what="stopped")
        daemon.api("POST", f"/stoker/v1/functions/{function}/restart", {})
        assert all_gone(tree) == []
        assert daemon.invoke(function).body == b"ok"
        assert daemon.stop() == 0


@pytest.mark.parametrize(("key", "value"), [("start", "fork"), ("start", "boot"), ("adapter", "wsgi")])
def test_settings_of_handlers_are_refused_for_programs(freezing: Daemon, key: str, value: str) -> None:
    program = bundle(["./func"], {"func": FRAME + "serve(lambda c, head, body: c.sendall(reply()))\n"})
    reply = try_deploy(freezing, f"no-{value}", program, annotations={f"stoker.dev/{key}": value})
    assert reply.status == 400, reply.body
    assert reply.json["code"] == "invalid-function"
    assert f"annotation stoker.dev/{key} is '{value}'" in reply.json["message"]
    assert "starts a program (./func)" in reply.json["message"]
    fine = try_deploy(freezing, f"yes-{value}", program, annotations={"stoker.dev/start": "exec"})
    assert fine.status == 200, fine.body
    freezing.api("DELETE", f"/v2/fns/{fine.json['id']}")
