"""One set of functions for both launchers: as source code for the real one, as behaviour for the fake."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio

from daemon.config.settings import Limits
from daemon.config.settings import Sandbox as Settings
from daemon.model import Answer, LaunchPlan
from daemon.sandbox.placement import Placement
from daemon.sandbox.walls import Sandbox
from daemon.workers.launcher import Launcher, Worker
from runtime import linux, wire
from tests.contracts.fake_launcher import Behaviour, FakeLauncher

PATIENCE_S = 60.0
"""How long a test waits for what must happen. Never a measurement."""

ECHO = """
import os
from fdk import response
def handler(ctx, data=None):
    return response.Response(ctx, data.getvalue(), headers={"X-Call": ctx.CallID(), "Content-Type": "text/plain"})
"""
FIRST = ECHO.replace("def handler", "count = 0\ndef answer").replace("\n    return", "\n    return", 1)


def first_call(code: str) -> str:
    """A function that does ``code`` at its first call and echoes at all others."""
    return f"""{FIRST}
def handler(ctx, data=None):
    global count
    count += 1
    if count == 1:
        {code}
    return answer(ctx, data)
"""


def frame(**members: Any) -> str:
    """Code of a function that writes a frame to the protocol's pipe."""
    return f"os.write(4, {wire.encode(members)!r})"


GARBAGE = "os.write(4, b'\\0\\0\\0\\4oops')\n        import time; time.sleep(1000)"
FORGED = frame(type="answer", id="c", nonce=1, status=200, headers=[], body=b"", cpu_us=1)

FUNCTIONS: dict[str, tuple[str, Behaviour]] = {
    "echo": (ECHO, Behaviour()),
    "raises": (first_call("raise ValueError('no')"), Behaviour(raise_at=frozenset({1}))),
    "crashes": (first_call("os._exit(3)"), Behaviour(crash_at=frozenset({1}))),
    "hangs": (first_call("import time; time.sleep(1000)"), Behaviour(hang_at=frozenset({1}))),
    "garbage": (first_call(GARBAGE), Behaviour(garbage_at=frozenset({1}))),
    "forges": (first_call(FORGED), Behaviour(forge_at=frozenset({1}))),
    "broken": ("def handler(ctx, data=None): pass\nraise ValueError('no')\n", Behaviour(init_failure="ValueError: no")),
    "hangs at import": ("import time\ntime.sleep(1000)\n", Behaviour(boot_s=1000.0)),
    "threaded": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n" + ECHO,
        Behaviour(forkable=False),
    ),
    "dies early": (
        "import os\nif os.environ['FN_FN_ID'] == 'dies': os.register_at_fork(after_in_child=lambda: os._exit(5))\n"
        + ECHO,
        Behaviour(exit_before_ready=5),
    ),
    "hungry": (first_call("globals()['held'] = bytearray(b'x') * 30_000_000"), Behaviour(memory_bytes=30_000_000)),
    "deaf": (
        first_call("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); import time; time.sleep(1000)"),
        Behaviour(hang_at=frozenset({1}), stop_s=None),
    ),
    "talks": ("print('importing')\n" + ECHO, Behaviour(boot_output=b"importing\n")),
}
ENVIRONMENT = {"FN_FN_ID": "f", "FN_APP_ID": "a", "PATH": "/usr/bin:/bin"}


NO_WALLS = ("namespaces", "landlock")
"""Switched off for tests of what the daemon does where there are none: functions then see the host's files and pids."""


class Log:
    """Keeps what was logged."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Any:
        return lambda event, **values: self.lines.append((level, event, values))


@dataclass
class Kit:
    """A launcher and the functions to launch."""

    launcher: Any
    directory: Path
    log: Log
    limits: Limits
    nursery: trio.Nursery
    output: list[bytes] = field(default_factory=list)
    """What imports wrote."""
    printed: dict[int, bytearray] = field(default_factory=dict)
    """What workers wrote, by pid."""
    last_id: int = 0

    def plan(self, name: str, *, source: str | None = None, **changes: Any) -> LaunchPlan:
        """The plan of a function of `FUNCTIONS`, or of ``source``."""
        bundle = self.directory / "bundles" / name.replace(" ", "-")
        if not bundle.exists():
            (bundle / "function").mkdir(parents=True)
            (bundle / "function" / "func.py").write_text(FUNCTIONS[name][0] if source is None else source)
        plan = LaunchPlan(
            revision=f"{name}-1",
            function_id="f",
            function_name="fn",
            app_id="a",
            app_name="app",
            bundle_dir=str(bundle),
            handler_file="func.py",
            handler_name="handler",
            interpreter="",
            environment=ENVIRONMENT,
            memory_mib=128,
            timeout_s=30,
        )
        plan = replace(plan, **changes)
        if isinstance(self.launcher, FakeLauncher):
            self.launcher.behaviours[plan.revision] = FUNCTIONS[name][1]
        return plan

    @asynccontextmanager
    async def launch(self, plan: LaunchPlan) -> AsyncIterator[Worker]:
        """Launch, and read the output along the way; nothing may take for ever."""
        self.last_id += 1
        with trio.fail_after(PATIENCE_S):
            context = self.launcher.launch(plan, instance_id=self.last_id, on_boot_output=self.output.append)
            async with context as worker:
                printed = self.printed[worker.pid] = bytearray()
                fds = {worker.stdout_fd, worker.stderr_fd}
                for fd in fds:
                    self.nursery.start_soon(_drain, fd, fds, printed)
                try:
                    yield worker
                finally:
                    while fds:
                        fd = fds.pop()
                        trio.lowlevel.notify_closing(fd)
                        _read(fd, printed)
                        os.close(fd)

    @asynccontextmanager
    async def ready(self, name: str, **changes: Any) -> AsyncIterator[Worker]:
        """Launch and wait until it is ready."""
        async with self.launch(self.plan(name, **changes)) as worker:
            await worker.channel.ready()
            yield worker


async def _drain(fd: int, still_open: set[int], printed: bytearray) -> None:
    try:
        while fd in still_open:
            await trio.lowlevel.wait_readable(fd)
            if fd not in still_open or not _read(fd, printed):  # it may be closed between waking and running
                return
    except trio.ClosedResourceError:
        pass


def _read(fd: int, printed: bytearray) -> bool:
    """Read what there is; False at the end."""
    try:
        while data := os.read(fd, 65536):
            printed += data
    except BlockingIOError:
        return True
    return False


async def call(worker: Any, body: bytes = b"hi", *, call_id: str = "c") -> Answer:
    """One call."""
    answer: Answer = await worker.channel.call(
        call_id=call_id, deadline="2030-01-01T00:00:00Z", headers=[("content-type", "text/plain")], body=body
    )
    return answer


def alive(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def family(pid: int) -> set[int]:
    """Everything beneath a process, by the host's numbers."""
    found: set[int] = set()
    waiting = linux.children(pid)
    while waiting:
        child = waiting.pop()
        found.add(child)
        waiting += linux.children(child)
    return found


def spawner_of(worker: Worker) -> int:
    """The spawner above a worker, whatever is in between."""
    me, pid = os.getpid(), worker.pid
    while (above := linux.state_and_parent(pid)[1]) not in (0, 1, me):
        pid = above
    return pid


@asynccontextmanager
async def real_kit(
    directory: Path, limits: Limits | None = None, placement: Placement | None = None, *, off: tuple[str, ...] = ()
) -> AsyncIterator[Kit]:
    """A running real launcher, without control groups unless ``placement`` gives some, and without ``off``."""
    limits, log = limits or Limits(), Log()
    walls = Sandbox.probed(limits, Settings(switch_off=off))
    made = Launcher(limits, run_dir=directory / "run", log=log, placement=placement, sandbox=walls)
    async with trio.open_nursery() as nursery:
        launcher = await nursery.start(made.run)
        yield Kit(launcher, directory, log, limits, nursery)
        nursery.cancel_scope.cancel()
