"""A daemon in a configuration, with canaries around it and a neighbour function that is called all the time."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.system.daemon import PATIENCE_S, ROOT, Daemon, Reply, _first_line, eventually

HANDLERS = Path(__file__).parent / "handlers"
ENTER = Path(__file__).parent / "enter.py"
FDK = sorted((ROOT / "fdk").rglob("*.py"))
USER = 29_417
"""Uid and gid of the ordinary user: a number that nobody on the machine has, so that limits by user count only us."""
NEIGHBOUR_PAUSE_S = 0.05
MEMORY_MIB = 128
"""Of every hostile function, unless its test says otherwise."""


@dataclass(frozen=True)
class Configuration:
    """One way to run the daemon."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    """For enter.py."""
    namespaces: bool = True
    """Whether functions get namespaces there."""
    groups: bool = True
    """Whether there are control groups."""
    config: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    """More of the daemon's command line."""
    programs: bool = False
    """Whether the functions are programs of their own, called over their sockets, and not workers."""

    @property
    def memory_polled(self) -> bool:
        """Whether memory is looked at every 25 ms, which many children can outrun, for no group bounds it.

        A machine that has the memory controller in version 1 lends it to no group of version 2.
        """
        return not self.groups or ("cgroup2" in self.options and memory_in_version_1())

    def why_not(self) -> str:
        """Why the machine cannot give this one, or empty."""
        root = os.getuid() == 0
        if self.name in ("user", "program-user") and not root:
            return "" if probe("unshare(0x10000000)") else "this machine lets ordinary users make no user namespaces"
        if not root:
            return "needs root"
        if "uid" in self.options and not (self.options.get("no_userns") or probe("unshare(0x10000000)", user=USER)):
            return "this machine lets ordinary users make no user namespaces"
        if self.options.get("cgroup2") and "cgroup2" not in Path("/proc/filesystems").read_text():
            return "this kernel has no cgroup version 2"
        return ""


CONFIGURATIONS = {
    "root": Configuration("root"),
    "user": Configuration("user", {"uid": USER}, groups=False),
    "no-userns": Configuration("no-userns", {"uid": USER, "no_userns": True}, namespaces=False, groups=False),
    "cgroup2": Configuration("cgroup2", {"cgroup2": True}),
}


PROGRAMS = {
    "program": Configuration("program", programs=True),
    "program-user": Configuration("program-user", {"uid": USER}, groups=False, programs=True),
}
"""As ``root`` and as ``user``; the handlers are served by an FDK in a process of its own (``http_channel``)."""
SERVES = {"runtime": "python", "command": ["python3", "-m", "fdk", "/function/func.py", "handler"],
          "environment": {"PYTHONPATH": "/function:/python"}}  # fmt: skip


def memory_in_version_1() -> bool:
    """Whether a hierarchy of version 1 has the memory controller (proc_cgroups(5): 0 is version 2, or none)."""
    lines = Path("/proc/cgroups").read_text().splitlines()
    return any(line.split()[1] != "0" for line in lines if line.split()[0] == "memory")


def probe(call: str, *, user: int | None = None) -> bool:
    """Whether a libc call gives 0 in a child."""
    code = f"import ctypes, os; os.setuid({user or os.getuid()}); raise SystemExit(ctypes.CDLL(None).{call} != 0)"
    return subprocess.run([sys.executable, "-I", "-S", "-c", code], check=False, cwd="/").returncode == 0


@dataclass
class Site(Daemon):
    """The daemon (``process`` is what keeps its place, not itself), what lies around it, and what it is called by."""

    configuration: Configuration = CONFIGURATIONS["root"]
    base: Path = Path()
    """A directory of the site's own: ``data/`` of the daemon, ``outside/`` with what functions must not touch."""
    canary: str = ""
    """The secret: in files, in the daemon's environment, in another function's configuration."""
    pid: int = 0
    """The daemon's."""

    # -- what lies around ------------------------------------------------------------------------------------------

    @property
    def outside(self) -> Path:
        return self.base / "outside"

    @property
    def uid(self) -> int:
        """The daemon's user."""
        return int(self.configuration.options.get("uid", os.getuid())) if os.getuid() == 0 else os.getuid()

    def lay_out(self) -> None:
        """Make the files that functions must not read or write."""
        self.outside.mkdir(mode=0o755)
        for name, mode in (("secret.txt", 0o600), ("readable.txt", 0o644), ("writable.txt", 0o666)):
            path = self.outside / name
            path.write_text(f"{name} {self.canary}\n")
            path.chmod(mode)
            os.chown(path, self.uid, self.uid if self.uid == USER else -1)
        dropbox = self.outside / "dropbox"
        dropbox.mkdir()
        dropbox.chmod(0o777)
        os.chown(dropbox, self.uid, -1)

    def state_of_outside(self) -> dict[str, Any]:
        """Content, mode, owner and links of what lies outside: to be compared."""
        found: dict[str, Any] = {}
        for path in sorted(self.outside.rglob("*")):
            status = path.lstat()
            content = path.read_text() if path.is_file() else None
            found[str(path)] = (status.st_mode, status.st_uid, status.st_nlink, status.st_mtime_ns, content)
        return found

    # -- processes -------------------------------------------------------------------------------------------------

    @property
    def spawner(self) -> psutil.Process:
        """The daemon's child that everything else is forked from."""
        children = psutil.Process(self.pid).children()
        return next(p for p in children if p.name().startswith("stoker-spawner"))

    def inside(self) -> list[psutil.Process]:
        """Every process of the place, the daemon and what keeps the place left out: exact, orphans included."""
        keepers = {self.process.pid, self.pid, psutil.Process(self.pid).ppid() if psutil.pid_exists(self.pid) else 0}
        with contextlib.suppress(psutil.NoSuchProcess):
            found = psutil.Process(self.process.pid).children(recursive=True)
            return [p for p in found if p.pid not in keepers and p.ppid() not in (self.process.pid,)]
        return []

    def seen_pid(self, host_pid: int) -> int:
        """The number of a process as the daemon's namespace has it."""
        numbers = pids_of(host_pid)
        return numbers[-1] if len(numbers) == 1 else numbers[len(pids_of(self.pid)) - 1]

    def host_pid(self, seen_pid: int) -> int:
        """The process on the host that the daemon knows by ``seen_pid``."""
        level = len(pids_of(self.pid)) - 1
        for process in self.inside():
            with contextlib.suppress(psutil.Error, IndexError, OSError):
                if pids_of(process.pid)[level] == seen_pid:
                    return process.pid
        raise LookupError(f"no process {seen_pid}")

    def pids_told(self) -> list[int]:
        """Numbers that a function may try: the daemon, the spawner, other functions' processes."""
        level = len(pids_of(self.pid)) - 1
        found = [pids_of(self.pid)[level]]
        for process in self.inside():
            with contextlib.suppress(psutil.Error, IndexError, OSError):
                found.append(pids_of(process.pid)[level])
        return found

    def mounts(self) -> list[str]:
        """The mount table of the daemon."""
        return Path(f"/proc/{self.pid}/mountinfo").read_text().splitlines()

    def namespaces(self, host_pid: int) -> dict[str, str]:
        return {
            kind: os.readlink(f"/proc/{host_pid}/ns/{kind}") for kind in ("mnt", "pid", "net", "ipc", "uts", "user")
        }

    # -- the end -----------------------------------------------------------------------------------------------------

    def stop(self, sig: int = signal.SIGTERM) -> int:
        """Send the signal to the daemon and wait for its end; returns its exit code. The place stays."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, sig)
        assert self.process.stdout is not None
        return int(_first_line(self.process).partition("ended ")[2])

    # -- hostile functions ---------------------------------------------------------------------------------------------

    def send(self, name: str, *, config: Mapping[str, str] | None = None, **settings: Any) -> str:
        """Deploy a function of `HANDLERS`; its id."""
        extra = {"function/kit.py": (HANDLERS / "kit.py").read_text()}
        if self.configuration.programs:
            extra |= {f"python/fdk/{path.relative_to(ROOT / 'fdk')}": path.read_text() for path in FDK}
            extra["function/.stoker.json"] = json.dumps(SERVES)
        return self.deploy(
            name.replace("_", "-"), (HANDLERS / f"{name}.py").read_text(), app="hostile", extra=extra,
            **{"memory": MEMORY_MIB, "timeout": 10, "config": dict(config or {}), **settings},
        )  # fmt: skip

    def remove(self, function_id: str) -> None:
        """Delete the function; all that belongs to it must go."""
        self.request("DELETE", f"/v2/fns/{function_id}")

    def close_place(self) -> list[str]:
        """Let the place go; what was left in it."""
        left = [f"{p.pid} {p.name()} {p.cmdline()[:3]}" for p in self.inside()]
        if self.process.stdin:
            self.process.stdin.close()
        self.process.wait(PATIENCE_S)
        if self.process.stdout:
            self.process.stdout.close()
        return left


def pids_of(host_pid: int) -> list[int]:
    """The numbers of a process in all namespaces that it is in, ours first."""
    for line in Path(f"/proc/{host_pid}/status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return [int(part) for part in line.split()[1:]]
    return [host_pid]


@contextlib.contextmanager
def run_site(
    configuration: Configuration, *, config: str = "", env: Mapping[str, str] | None = None, keep: Path | None = None
) -> Iterator[Site]:
    """A daemon in the configuration. When it has ended, nothing of it may be left.

    ``keep``: the directory of an earlier site, whose data this one takes over; it stays.
    """
    if why := configuration.why_not():
        pytest.skip(f"configuration {configuration.name}: {why}")
    base = keep or Path(tempfile.mkdtemp(prefix="stoker-hostile-"))
    base.chmod(0o755)
    site: Site | None = None
    process: subprocess.Popen[str] | None = None
    try:
        data = base / "data"
        data.mkdir(mode=0o700, exist_ok=True)
        canary = secrets.token_hex(20)
        stderr_path = base / "stderr"
        text = "\n".join(filter(None, (configuration.config, config)))
        (base / "stoker.yaml").write_text(text)
        interpreter = os.path.realpath(sys.base_prefix)
        options = {"directory": str(ROOT), "expose": [interpreter, str(ROOT)], **configuration.options}
        if os.getuid() != 0:
            options.pop("uid", None)
        else:
            os.chown(data, options.get("uid", 0), options.get("uid", 0))
        command = [sys.executable, "-m", "daemon.main", "--data", str(data), "--listen", "127.0.0.1:0",
                   "--config", str(base / "stoker.yaml"), *configuration.arguments]  # fmt: skip
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "CANARY_SECRET": canary,
                       **configuration.env, **(env or {})}  # fmt: skip
        with stderr_path.open("a") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(ENTER), json.dumps(options), *command], cwd=ROOT, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=environment,
            )  # fmt: skip
        line = _first_line(process)
        assert line.startswith("ready http://"), f"{line!r}; stderr:\n{stderr_path.read_text()[-4000:]}"
        pid = next(
            p.pid
            for p in psutil.Process(process.pid).children(recursive=True)
            if p.cmdline()[1:3] == ["-m", "daemon.main"]
        )
        site = Site(
            process, data, int(line.rsplit(":", 1)[1]), stderr_path, configuration=configuration, base=base,
            canary=canary, pid=pid,
        )  # fmt: skip
        if not site.outside.exists():
            site.lay_out()
        yield site
        if psutil.pid_exists(site.pid):
            code = site.stop()
            assert code == 0, f"the daemon ended with {code}: {site.stderr()[-2000:]}"
        left = eventually_nothing(site)
        assert not left, f"left behind: {left}"
    finally:
        if process is not None:
            if site is not None:
                site.close_place()
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream:
                    with contextlib.suppress(OSError):
                        stream.close()
        if keep is None:
            shutil.rmtree(base, ignore_errors=True)


def eventually_nothing(site: Site) -> list[str]:
    """What is still in the place when all had their time."""
    end_s = time.monotonic() + 10
    while site.inside() and time.monotonic() < end_s:
        time.sleep(0.02)
    return [f"{p.pid} {p.name()}" for p in site.inside()]


class Neighbour(threading.Thread):
    """Calls the function ``clean`` all the time; every answer must be right."""

    def __init__(self, site: Site) -> None:
        super().__init__(daemon=True)
        self.site = site
        self.function_id = site.send("clean")
        self.calls = 0
        self.failures: list[str] = []
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(NEIGHBOUR_PAUSE_S):
            self.call()

    def call(self) -> None:
        """One call, checked."""
        word = secrets.token_hex(4)
        try:
            reply = self.site.invoke(self.function_id, word)
            right = reply.status == 200 and reply.json["echo"] == word
            if not right:
                self.failures.append(f"{reply.status} {reply.body[:200]!r}")
        except (OSError, ValueError, KeyError) as exc:
            self.failures.append(repr(exc))
        self.calls += 1

    def take_failures(self) -> list[str]:
        failures, self.failures = self.failures, []
        return failures


@contextlib.contextmanager
def listeners() -> Iterator[dict[str, Any]]:
    """Sockets of the host that functions must not reach: TCP, UDP, abstract. ``heard()`` says what came to them."""
    tcp, udp, abstract = (
        socket.socket(),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        socket.socket(socket.AF_UNIX),
    )
    name = f"stoker-hostile-{secrets.token_hex(4)}"
    with tcp, udp, abstract:
        tcp.bind(("127.0.0.1", 0))
        udp.bind(("127.0.0.1", 0))
        abstract.bind("\0" + name)
        for sock in (tcp, abstract):
            sock.listen()
        for sock in (tcp, udp, abstract):
            sock.setblocking(False)

        def heard() -> list[str]:
            found = []
            for sock in (tcp, abstract):
                with contextlib.suppress(BlockingIOError):
                    while True:
                        sock.accept()[0].close()
                        found.append(f"connection to {sock.getsockname()}")
            with contextlib.suppress(BlockingIOError):
                while True:
                    found.append(f"datagram {udp.recv(100)!r}")
            return found

        yield {"tcp": tcp.getsockname()[1], "udp": udp.getsockname()[1], "abstract": name, "heard": heard}


def answer_of(reply: Reply) -> dict[str, Any]:
    """The reply as JSON: a function that fell over has not passed."""
    assert reply.status == 200, f"{reply.status} {reply.body[:2000].decode(errors='replace')}"
    return dict(reply.json)


__all__ = ["CONFIGURATIONS", "Configuration", "Neighbour", "Site", "answer_of", "eventually", "listeners", "run_site"]
