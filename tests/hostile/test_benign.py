"""What functions may do must work, and what instances draw must differ: with numpy and cryptography, in every place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.hostile.conftest import Place
from tests.hostile.packages import packages
from tests.hostile.site import CONFIGURATIONS, HANDLERS, Site, answer_of
from tests.hostile.visit import Visit

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(300)]
INSTANCES = 8
PLACES = ("root", "user", "no-userns")


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, places: Callable[[str], Place]) -> Place:
    if why := CONFIGURATIONS[request.param].why_not():
        pytest.skip(f"configuration {request.param}: {why}")
    return places(request.param)


@contextmanager
def deployed(
    site: Site, name: str, source: str, *, extra: dict[str, Any] | None = None, **settings: Any
) -> Iterator[str]:
    files = {"function/kit.py": (HANDLERS / "kit.py").read_text(), **(extra or {})}
    function = site.deploy(name, source, app="benign", extra=files, **{"memory": 256, "timeout": 60, **settings})
    try:
        yield function
    finally:
        site.remove(function)


def test_all_that_eight_fresh_instances_draw_is_distinct(place: Place) -> None:
    source = (HANDLERS / "randomness.py").read_text()
    with deployed(place.site, "randomness", source, extra=packages()) as function:
        visit = Visit(place.site, place.neighbour, place.host, "randomness")
        visit.function_id = function
        for sleep_s in (2.0, 8.0, 25.0):  # a busy machine takes longer to start them all
            replies = [answer_of(reply) for reply in visit.at_once(INSTANCES, sleep_s=sleep_s)]
            used = [i for i in place.site.instances(function) if i["calls"]]
            if len(used) == INSTANCES:
                break
        assert len(used) == INSTANCES, "each call must have had an instance of its own"
        seen: dict[str, str] = {}
        for number, reply in enumerate(replies):
            for who, drawn in reply["drawn"].items():
                assert {"ssl", "numpy generator", "x25519", "ed25519", "tempfile"} <= drawn.keys(), drawn
                assert who != "instance" or "numpy" in drawn
                for source_name, value in drawn.items():
                    here = f"{source_name} of {who} of instance {number}"
                    assert value not in seen, f"{here} is that of {seen[value]}"
                    seen[value] = here
        assert len(seen) >= INSTANCES * (12 + 2 * 11)


def test_a_function_runs_programs_after_importing_numpy(place: Place) -> None:
    source = """
import json, os, subprocess, sys
import numpy

def handler(ctx, data=None):
    product = numpy.ones((300, 300)) @ numpy.ones((300, 300))
    command = [sys.executable, "-I", "-S", "-c", "print(6 * 7)"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    shell = subprocess.run("echo $((6 * 7))", shell=True, capture_output=True, text=True, timeout=20)
    pid = os.fork()
    if pid == 0:
        os._exit(int((numpy.ones(9) @ numpy.ones(9)) + 1))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return json.dumps([product.sum(), done.stdout + done.stderr, shell.stdout + shell.stderr, code])
"""
    with deployed(place.site, "programs", source, extra=packages()) as function:
        for _ in range(2):
            assert answer_list(place.site, function) == [300.0**3, "42\n", "42\n", 10]


def test_two_gibibytes_of_addresses_and_sixteen_threads_work_at_256_mib(place: Place) -> None:
    source = (HANDLERS / "mem_virtual_only.py").read_text()
    with deployed(place.site, "virtual", source, extra=packages()) as function:
        facts = answer_of(place.site.invoke(function, "{}"))
        assert facts["violations"] == []
        assert facts["facts"] == {"threads": 17, "sum": 400.0**3}


AT_IMPORT = {
    "a thread": "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
    "a socket": "kept = socket.socketpair()",
    "a listening socket": "kept = socket.socket(socket.AF_UNIX); kept.bind(''); kept.listen()",
    "an event loop": "kept = asyncio.new_event_loop()",
    "a thread pool": "kept = concurrent.futures.ThreadPoolExecutor(2); kept.submit(int).result()",
    "a child": "kept = subprocess.Popen([sys.executable, '-I', '-S', '-c', 'import time; time.sleep(600)'])",
    "an open file": "kept = tempfile.TemporaryFile()",
}


@pytest.mark.parametrize("what", AT_IMPORT)
def test_a_module_that_holds_something_from_its_import_on_works(place: Place, what: str) -> None:
    """It is not forked from: each instance imports by itself, and the status says why."""
    if what == "a listening socket" and not place.site.configuration.namespaces:
        pytest.skip("level C: sockets with a name cannot be made, for the daemon's could be reached with them")
    source = f"""
import asyncio, concurrent.futures, json, os, socket, subprocess, sys, tempfile, threading, time
{AT_IMPORT[what]}
def handler(ctx, data=None):
    return json.dumps(["fine", data.getvalue().decode()])
"""
    with deployed(place.site, "holder", source) as function:
        for word in ("one", "two"):
            reply = place.site.invoke(function, word)
            assert (reply.status, reply.body) == (200, json.dumps(["fine", word]).encode()), reply.body
        kinds = {i["start_kind"] for i in place.site.instances(function) if i["calls"]}
        assert kinds == {"exec"}


@pytest.mark.parametrize("turn", range(3))
def test_a_function_has_a_way_outside(place: Place, turn: int) -> None:
    """And keeps it: a program that carries packets must not have ended behind the daemon's back."""
    source = """
import json, socket
def handler(ctx, data=None):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("192.0.2.1", 9))  # sends nothing; fails without a route (RFC 5737: nobody has this address)
    return json.dumps("a route")
"""
    egress = next(f for f in place.site.api("GET", "/stoker/v1/doctor")["facts"] if f["name"] == "egress")
    if place.site.configuration.namespaces and not egress["active"]:
        pytest.skip(f"this machine gives functions no egress: {egress['detail']}")
    with deployed(place.site, f"outward-{turn}", source) as function:
        assert [answer_list(place.site, function) for _ in range(3)] == ["a route"] * 3


def answer_list(site: Site, function: str) -> Any:
    reply = site.invoke(function)
    assert reply.status == 200, reply.body
    return reply.json
