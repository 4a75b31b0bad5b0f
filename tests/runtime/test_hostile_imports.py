"""Whatever a module does while it is imported, the launch fails with the reason and everybody else goes on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from daemon import errors
from runtime import control, linux
from tests.contracts.kit import ECHO, NO_WALLS, Kit, alive, call, family, real_kit, spawner_of
from tests.runtime.test_hostile_trees import Pids

pytestmark = pytest.mark.processes

FAILURES = {
    "raises": ("raise ValueError('no')", "ValueError: no"),
    "syntax error": ("def handler(:", "SyntaxError"),
    "missing package": ("import does_not_exist", "ModuleNotFoundError: No module named 'does_not_exist'"),
    "the daemon's packages": ("import trio", "ModuleNotFoundError: No module named 'trio'"),
    "the daemon": ("import daemon.config.settings", "ModuleNotFoundError: No module named 'daemon'"),
    "our runtime": ("import runtime", "ModuleNotFoundError: No module named 'runtime'"),
    "our msgpack": ("import msgpack", "ModuleNotFoundError: No module named 'msgpack'"),
    "sys.exit": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "KeyboardInterrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "os._exit": ("print('so long', flush=True); import os; os._exit(4)", "exit code 4; its last output:\nso long"),
    "os._exit without a word": ("import os; os._exit(4)", "exit code 4"),
    "SIGKILL": ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
    "segmentation fault": ("import ctypes; ctypes.string_at(0)", "killed by SIGSEGV"),
    "exec": ("import os; os.execv('/bin/sh', ['sh', '-c', 'echo hi; exit 6'])", "exit code 6; its last output:\nhi"),
    "no handler": ("pass", "AttributeError: func.py has no function 'handler'"),
    "handler that cannot be called": ("handler = 3", "AttributeError: func.py has no function 'handler'"),
    "memory": ("held = bytearray(1 << 30)", "MemoryError"),
    "shared memory": (
        "import mmap, time; m = mmap.mmap(-1, 3 << 27)\nfor _ in range(384): m.write(bytes(1 << 20))\ntime.sleep(1000)",
        "out of memory while importing",
    ),
    "recursion": ("def f(): f()\nf()", "RecursionError"),
    "closed control socket": ("import os; os.close(3); raise ValueError('no')", "while importing"),
    "warm-up that raises": (
        "def handler(ctx, data): pass\ndef stoker_warm_up(): raise ValueError('cold')",
        "ValueError: cold",
    ),
}


ENDS_WITHOUT_A_WORD = {"os._exit", "os._exit without a word", "segmentation fault", "exec"}
"""An instance that imports by itself has only its pipes to say why; the supervisor adds its exit status."""
TEMPLATES_ONLY = {"shared memory", "closed control socket", "SIGKILL"}  # the first process of a namespace ignores that


@pytest.mark.parametrize(
    ("way", "start"), [(w, s) for w in FAILURES for s in ("auto", "exec") if s == "auto" or w not in TEMPLATES_ONLY]
)
async def test_ways_to_fail_at_import(kit: Kit, way: str, start: str) -> None:
    code, reason = FAILURES[way]
    async with kit.ready("echo") as other:
        spawner = spawner_of(other)
        if start == "exec" and way in ENDS_WITHOUT_A_WORD:
            reason = "the worker closed its pipe"
        with pytest.raises(errors.InitFailed) as caught:
            async with kit.ready(way, source=code, start=start):
                pass
        assert reason in caught.value.detail
        assert (await call(other)).body == b"hi"
        assert alive(spawner)
    async with kit.ready("echo") as worker:
        assert worker.start_kind == "fork"


async def test_the_traceback_begins_in_the_functions_own_file(kit: Kit) -> None:
    with pytest.raises(errors.InitFailed) as caught:
        async with kit.ready("broken", source="def f():\n    raise ValueError('no')\nf()\n"):
            pass
    lines = caught.value.detail.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "function/func.py" in lines[1]
    assert lines[-1] == "ValueError: no"
    assert "runtime" not in caught.value.detail


async def test_killing_the_parent_at_import(kit: Kit) -> None:
    source = "import os\nos.kill(os.getppid(), 9)\n" + ECHO
    async with kit.ready("echo") as other:
        try:
            async with kit.ready("kills its parent", source=source):
                pytest.fail("it got ready without a parent")
        except errors.InitFailed as exc:
            if "PermissionError" in exc.detail:  # Landlock scopes: nobody was disturbed
                assert (await call(other)).body == b"hi"
            else:
                kit.log.lines.clear()
    with trio.fail_after(30):
        async with kit.ready("echo") as worker:
            assert (await call(worker)).body == b"hi"


async def test_a_module_that_stops_itself_is_given_up_with_its_last_waiter(kit: Kit) -> None:
    with trio.move_on_after(0.3) as scope:
        async with kit.ready("stops", source="import os; os.kill(os.getpid(), 19)"):
            pytest.fail("it cannot get ready")
    assert scope.cancelled_caught
    async with kit.ready("echo") as worker:
        spawner = spawner_of(worker)
        with trio.fail_after(30):
            while len(linux.children(spawner)) > 1:  # noqa: ASYNC110  # the stopped one goes in its own time
                await trio.sleep(0.005)


async def test_one_impatient_waiter_does_not_end_the_boot_of_the_others(kit: Kit) -> None:
    gate = kit.directory / "bundles" / "slow" / "function" / "gate"
    source = "import os, time\nwhile not os.path.exists('gate'): time.sleep(0.005)\n" + ECHO
    kinds: list[str] = []

    async def patient() -> None:
        async with kit.ready("slow", source=source) as worker:
            kinds.append(worker.start_kind)

    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0.2) as scope:
            nursery.start_soon(patient)
            async with kit.ready("slow", source=source):
                pytest.fail("the gate is closed")
        assert scope.cancelled_caught
        gate.touch()
    assert kinds == ["boot"]


@pytest.mark.parametrize("off", [(), NO_WALLS], ids=["walls", "no walls"])
async def test_children_made_at_import_are_gone(tmp_path: Path, off: tuple[str, ...]) -> None:
    pids = Pids(tmp_path / "pids" if off else Path("/tmp/pids"))
    source = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open(os.environ["PIDS"], "w").write(f"{os.getpid()}\\n")
        time.sleep(1000)
    os._exit(0)
os.wait()
while not os.path.exists(os.environ["PIDS"]) or not open(os.environ["PIDS"]).read().endswith("\\n"):
    time.sleep(0.001)
"""
    async with real_kit(tmp_path, off=off) as kit, kit.ready("echo") as worker:
        before = family(spawner_of(worker))
        with pytest.raises(errors.InitFailed, match="ValueError"):
            async with kit.ready("leaves one", source=source + "raise ValueError", environment=pids.environment):
                pass
        assert len(pids.all()) == bool(off)
        assert {pid for pid in family(spawner_of(worker)) if alive(pid)} == before


CONTROL = """
import os, socket
sock = socket.socket(fileno=os.dup(3))
def say(data, *fds):
    if fds:
        socket.send_fds(sock, [data], list(fds))
    else:
        sock.send(data)
"""


def message(**members: object) -> str:
    return repr(control.msgpack.packb(members, use_bin_type=True))


READY = message(type="ready", forkable=True, reason="", compiled="", import_us=0)
BREACHES = {
    "garbage": "say(b'hello')",
    "too long": "say(b'x' * 100_000)",
    "an unknown type": f"say({message(type='template', id=1)})",
    "no members": f"say({message(type='ready')})",
    "a child nobody asked for": f"say({message(type='started', id=7, pid=1)}, os.pidfd_open(1))",
    "a child without a pidfd": f"say({message(type='started', id=7, pid=1)})",
    "an exit nobody asked for": f"say({message(type='exited', id=7, code=0, signal=-1)})",
    "a refusal nobody asked for": f"say({message(type='refused', id=7, message='')})",
    "descriptors with ready": f"say({READY}, 1, 1, 1)",
    "an extension type": "say(b'\\x82\\xa4type\\xa5ready\\xa6reason\\xc7\\x01\\x05\\x00')",
    "nesting": "say(b'\\x91' * 4096)",
}


@pytest.mark.parametrize("breach", BREACHES)
async def test_a_template_that_says_what_it_should_not_is_condemned(kit: Kit, breach: str) -> None:
    async with kit.ready("echo"):
        pass  # what a launcher opens once is open now
    before = os.listdir("/proc/self/fd")
    with pytest.raises(errors.InitFailed) as caught:
        async with kit.ready(breach, source=f"{CONTROL}\n{BREACHES[breach]}\nimport time; time.sleep(1000)\n"):
            pass
    assert "it broke the protocol" in caught.value.detail
    assert len(os.listdir("/proc/self/fd")) <= len(before)
    async with kit.ready("echo") as worker:
        assert (await call(worker)).body == b"hi"


async def test_a_template_that_is_ready_twice_is_condemned(kit: Kit) -> None:
    source = f"{CONTROL}\nsay({READY})\nsay({READY})\nimport time; time.sleep(1000)\n"
    with pytest.raises(errors.InitFailed) as caught:
        async with kit.ready("twice", source=source):
            pass
    assert "ready message after the import was over" in caught.value.detail


async def test_a_template_that_passes_off_another_process_as_its_child_is_condemned(tmp_path: Path) -> None:
    # It says ready before the import is over, reads the request for a fork, and answers with the pidfd of another
    # function's instance, which the daemon would then kill through it. With walls it cannot even name that.
    source = f"""{CONTROL}
say({READY})
request, fds, _, _ = socket.recv_fds(sock, 65536, 8)
assert request.startswith(b"\\x84\\xa4type\\xa4fork"), request
number = request[request.index(b"\\xa2id"):]
victim = int(os.environ["VICTIM"])
say(b"\\x83\\xa4type\\xa7started\\xa3pid\\xce" + victim.to_bytes(4, "big") + number, os.pidfd_open(victim))
import time; time.sleep(1000)
"""
    async with real_kit(tmp_path, off=NO_WALLS) as kit, kit.ready("echo") as victim:
        with pytest.raises(errors.InitFailed) as caught:
            async with kit.ready("passes off", source=source, environment={"VICTIM": str(victim.pid)}):
                pass
        assert f"pidfd of process {victim.pid}, which is not the child it was said to be" in caught.value.detail
        assert (await call(victim)).body == b"hi"


async def test_a_template_that_dies_between_two_launches_is_replaced(kit: Kit) -> None:
    async with kit.ready("echo") as first:
        os.kill(linux.state_and_parent(first.pid)[1], 9)
        async with kit.ready("echo") as second:
            assert second.start_kind == "boot"
        assert str(await first.exited()) in ("exit status unknown", "killed by SIGKILL")
