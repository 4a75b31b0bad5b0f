"""What an instance is: everything of its own that must be its own, nothing that is not the function's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from daemon import errors
from runtime.namespaces import TEMPLATE_PID
from tests.contracts.kit import ENVIRONMENT, Kit, call

pytestmark = pytest.mark.processes

PROBE = """
import gc, io, json, os, resource, signal, sys, tempfile
imported_in = os.getpid()
def handler(ctx, data=None):
    return json.dumps(eval(data.getvalue().decode()))
"""


async def ask(worker: Any, expression: str) -> Any:
    """The value of a Python expression in the worker."""
    return json.loads((await call(worker, expression.encode())).body)


DRAWS = {
    "random": ("random", "random.getrandbits(64)"),
    "ssl": ("ssl", "ssl.RAND_bytes(16).hex()"),
    "uuid4": ("uuid", "str(uuid.uuid4())"),
    "uuid1": ("uuid", "str(uuid.uuid1())"),
    "secrets": ("secrets", "secrets.token_hex(16)"),
    "urandom": ("os", "os.urandom(16).hex()"),
    "SystemRandom": ("random", "random.SystemRandom().getrandbits(64)"),
    "tempfile": ("tempfile", "tempfile.mkdtemp()"),
    "temporary names": ("tempfile", "next(tempfile._get_candidate_names())"),
}


@pytest.mark.parametrize("what", DRAWS)
async def test_no_two_instances_draw_the_same(kit: Kit, what: str) -> None:
    module, expression = DRAWS[what]
    # Each is used in the template first, so that there is a state to inherit.
    source = f"{PROBE}\nimport {module}\n{expression}\n"
    drawn: list[Any] = []
    async with kit.ready("probe", source=source, revision=what) as one:
        for _ in range(6):
            async with kit.ready("probe", revision=what) as other:
                assert other.start_kind == "fork"
                drawn += [await ask(other, expression), await ask(other, expression)]
        drawn.append(await ask(one, expression))
    assert len(set(drawn)) == len(drawn) == 13


async def test_numpy_is_reseeded(kit: Kit, numpy: Path) -> None:
    source = f"{PROBE}\nimport numpy\nnumpy.random.seed(1)\nnumpy.random.random()\n"
    plan = kit.plan("numpy", source=source)
    (Path(plan.bundle_dir) / "python").symlink_to(numpy)
    drawn = []
    for _ in range(4):
        async with kit.launch(plan) as worker:
            await worker.channel.ready()
            assert worker.start_kind in ("boot", "fork"), kit.launcher.templates()
            drawn += [await ask(worker, "numpy.random.random()") for _ in range(2)]
            assert await ask(worker, "__import__('subprocess').run(['true']).returncode") == 0
    assert len(set(drawn)) == 8


@pytest.fixture(scope="session")
def numpy() -> Path:
    """A directory with numpy, kept beside the project for the next run."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    target = Path(__file__).parents[2] / ".venvs" / f"test-numpy-{python}"
    if not (target / "numpy").exists():
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--target",
            str(target),
            "--only-binary",
            ":all:",
            "numpy",
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        except (OSError, subprocess.TimeoutExpired) as exc:
            pytest.skip(f"numpy cannot be installed: {exc}")
        if done.returncode:
            pytest.skip(f"numpy cannot be installed: {done.stderr.strip()[-200:]}")
    return target


async def test_an_instance_has_neither_its_templates_pid_nor_anothers(kit: Kit) -> None:
    async with kit.ready("probe", source=PROBE) as one, kit.ready("probe") as two:
        pids = [
            await ask(one, "[os.getpid(), os.getppid(), imported_in]"),
            await ask(two, "[os.getpid(), imported_in]"),
        ]
        assert pids[0][2] == pids[1][1]
        if kit.launcher.sandbox.has_pids:
            assert [pids[0][:2], pids[1][0]] == [[1, 0], 1]
            assert pids[0][2] >= TEMPLATE_PID, "a child of an instance could get the template's number"
        else:
            assert pids[0][0] == one.pid
            assert pids[0][1] == pids[0][2]
            assert len({one.pid, two.pid, pids[0][1]}) == 3


async def test_the_environment_is_the_functions_and_nothing_else(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_SECRET", "canary")
    for start in ("auto", "exec"):
        environment = {**ENVIRONMENT, "GREETING": "grüß dich", "EMPTY": "", "TMPDIR": "/nowhere"}
        async with kit.ready("probe", source=PROBE, environment=environment, revision=start, start=start) as worker:
            seen = await ask(worker, "dict(os.environ)")
            tmp = seen.pop("TMPDIR")
            threads = {k: seen.pop(k) for k in list(seen) if k.endswith("_NUM_THREADS")}
            assert seen == {k: v for k, v in environment.items() if k != "TMPDIR"}
            assert set(threads.values()) == {"1"}
            assert await ask(worker, "os.path.isdir(tempfile.gettempdir())")
            assert await ask(worker, "tempfile.gettempdir()") == tmp
            assert "canary" not in await ask(worker, "open('/proc/self/environ').read()")
            assert await ask(worker, "open('/proc/self/mem', 'rb') and 0") == 0
        assert kit.launcher.sandbox.has_root or not os.path.exists(tmp)  # noqa: ASYNC240


async def test_a_secret_of_one_function_is_not_in_the_memory_of_another(kit: Kit) -> None:
    # The needle is put together in the handler, or the search would find itself.
    source = """
import re
def handler(ctx, data=None):
    needle, found = data.getvalue()[::-1], 0
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            m = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if m:
                start, end = int(m[1], 16), int(m[2], 16)
                memory.seek(start)
                found += memory.read(end - start).count(needle)
    return str(found)
"""
    needle = b"canary-7391-of-function-one"
    async with kit.ready("echo", environment={**ENVIRONMENT, "KEY": needle.decode()}) as first:
        await call(first, needle)
        async with kit.ready("search", source=source) as second:
            assert int((await call(second, needle[::-1])).body) <= 1  # the reversed request, reversed
        async with kit.ready("search", revision="own", environment={"KEY": needle.decode()}) as third:
            assert int((await call(third, needle[::-1])).body) > 1, "the search finds what is there"


async def test_descriptors_are_the_five_and_no_more(kit: Kit) -> None:
    for start in ("auto", "exec"):
        plan = kit.plan("probe", source=PROBE, revision=start, start=start)
        async with kit.launch(plan) as worker, kit.launch(plan) as later:
            for instance in (worker, later):
                await instance.channel.ready()
            for instance in (worker, later):
                fds = await ask(instance, "{f: os.readlink(f'/proc/self/fd/{f}') for f in range(5)}")
                assert fds["0"] == "/dev/null"
                assert len({fds[str(n)] for n in range(1, 5)}) == 4
                assert all(fds[str(n)].startswith("pipe:") for n in range(1, 5))
                listed = await ask(instance, "sorted(map(int, os.listdir('/proc/self/fd')))")
                assert listed[:5] == [0, 1, 2, 3, 4]
                assert len(listed) == 6  # and the listing itself
                assert await ask(instance, "[os.get_inheritable(f) for f in range(5)]") == [True] * 3 + [False] * 2


async def test_it_is_a_session_of_its_own_with_pythons_own_signals(kit: Kit) -> None:
    async with kit.ready("probe", source=PROBE + "signal.signal(signal.SIGUSR1, lambda *a: None)\n") as worker:
        assert await ask(worker, "[os.getsid(0), os.getpgid(0)] == [os.getpid()] * 2")
        handlers = "{s.name: str(signal.getsignal(s)) for s in signal.Signals if signal.getsignal(s)}"
        assert {k: v for k, v in (await ask(worker, handlers)).items() if v != "0"} == {
            "SIGPIPE": "1",
            "SIGXFSZ": "1",
            "SIGINT": await ask(worker, "str(signal.default_int_handler)"),
        }
        assert await ask(worker, "len(signal.pthread_sigmask(0, []))") == 0


async def test_limits_hold_and_cannot_be_raised(kit: Kit) -> None:
    for start in ("auto", "exec"):
        async with kit.ready("probe", source=PROBE, memory_mib=100, revision=start, start=start) as worker:
            limits = await ask(
                worker, "{n: resource.getrlimit(getattr(resource, n)) for n in dir(resource) if n[:7] == 'RLIMIT_'}"
            )
            backstop = (100 + kit.limits.memory_backstop_mib) * 2**20
            assert limits["RLIMIT_NOFILE"] == [kit.limits.open_files_max] * 2
            assert limits["RLIMIT_CORE"] == [0, 0]
            assert limits["RLIMIT_DATA"] == [backstop] * 2
            assert limits["RLIMIT_FSIZE"] == [100 * 2**20] * 2
            assert limits["RLIMIT_AS"] == [-1, -1]
            status = await ask(worker, "open('/proc/self/status').read()")
            assert "NoNewPrivs:\t1" in status
            with pytest.raises(errors.FunctionFailed) as caught:
                await ask(worker, f"len(bytearray({backstop}))")
            assert "MemoryError" in caught.value.detail
            assert await ask(worker, "1 + 1") == 2
            reserve = f"__import__('mmap').mmap(-1, {2**31}, flags=0x22, prot=1).__len__()"  # reading costs no memory
            assert await ask(worker, reserve) == 2**31


async def test_the_import_is_shared_and_frozen(kit: Kit) -> None:
    async with kit.ready("probe", source=PROBE + "held = [[] for _ in range(50_000)]\n") as worker:
        assert await ask(worker, "gc.get_freeze_count()") > 50_000
        assert await ask(worker, "imported_in != os.getpid()")
    async with kit.ready("probe", revision="own", start="exec") as worker:
        assert await ask(worker, "imported_in == os.getpid()")


async def test_output_comes_in_lines_and_before_the_answer(kit: Kit) -> None:
    source = """
import sys
print("at import", end="")
def stoker_warm_up():
    print(", warm", end="")
def handler(ctx, data=None):
    print("begun", file=sys.stderr)
    print("no newline", end="")
    return ""
"""
    async with kit.ready("prints", source=source) as one, kit.ready("prints") as two:
        await call(one)
        for fd, text in ((one.stderr_fd, b"begun\n"), (one.stdout_fd, b"no newline")):
            await trio.testing.wait_all_tasks_blocked()
            assert text in bytes(kit.printed[one.pid]), fd
        await call(two)
        for pid in (one.pid, two.pid):
            assert b"import" not in kit.printed[pid]
            assert b"warm" not in kit.printed[pid]
    assert b"".join(kit.output) == b"at import, warm"


async def test_a_warm_up_hook_runs_once_in_the_template(kit: Kit) -> None:
    source = PROBE + "warmed = []\n{}def stoker_warm_up():\n    warmed.append(os.getpid())\n"
    for name, prefix in (("plain", ""), ("async", "async ")):
        async with kit.ready(name, source=source.format(prefix)) as one, kit.ready(name) as two:
            assert (one.start_kind, two.start_kind) == ("boot", "fork")
            assert await ask(one, "warmed") == await ask(two, "warmed") == [await ask(one, "imported_in")]


REASONS = {
    "a thread": (
        "import threading, time; threading.Thread(target=time.sleep, args=(99,), daemon=True).start()",
        "1 thread",
    ),
    "a child": ("if os.fork() == 0: import time; time.sleep(99)", "1 process"),
    "an open file": ("kept = open(__file__)", "descriptor open: /"),
    "a socket": ("import socket; kept = socket.socket()", "descriptor open: socket:"),
    "shared memory": ("import mmap; kept = mmap.mmap(-1, 4096)", "shared writable mapping: /dev/zero"),
    "a semaphore": ("import multiprocessing; kept = multiprocessing.Lock()", "shared writable mapping"),
    "a replaced descriptor": ("os.dup2(0, 1)", "replaced descriptor 1"),
    "a closed descriptor": ("os.close(2)", "replaced descriptor 2"),
}


@pytest.mark.parametrize("what", REASONS)
async def test_what_must_not_be_forked_is_not(kit: Kit, what: str) -> None:
    code, reason = REASONS[what]
    for _ in range(2):
        async with kit.ready(what, source=f"{PROBE}\n{code}\n") as worker:
            assert worker.start_kind == "exec"
            assert await ask(worker, "1 + 1") == 2
    (info,) = kit.launcher.templates()
    assert (info.forkable, info.pid) == (False, 0)
    assert reason in info.reason


@pytest.mark.parametrize(
    "code",
    [
        "kept = open('/dev/null')",
        "kept = open('/dev/urandom', 'rb')",
        "import asyncio, ssl, http.client, sqlite3, logging",
    ],
)
async def test_what_may_be_forked_is(kit: Kit, code: str) -> None:
    async with kit.ready("harmless", source=f"{PROBE}\n{code}\n", revision=code) as worker:
        assert worker.start_kind == "boot", kit.launcher.templates()
