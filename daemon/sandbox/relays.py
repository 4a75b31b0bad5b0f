"""Networks without root: a program that carries packets between a function's namespace and ordinary sockets.

pasta (package passt) and slirp4netns. One process per function version, which ends with the daemon.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import trio

from daemon.sandbox.blocks import NetworkError
from runtime import linux, namespaces

ADDRESS, GATEWAY = "10.0.2.100", "10.0.2.2"
NAME_SERVER = {"pasta": "10.0.2.3", "slirp4netns": "10.0.2.3"}
"""Where the program answers name queries, with what the machine's own resolver says, a loopback one included."""
READY_POLL_S = 0.002
WORDS_BYTES_MAX = 64 * 2**10
"""Most of a program's complaints that is kept: what its pipe holds. The rest is lost, and it never waits for us."""
PROGRAMS = ("passt", "pasta", "slirp4netns")
"""How their processes may be called."""
_RUNNING: set[int] = set()
"""Processes that relays of this daemon own."""
PROBE_S = 20.0
"""How long the program may take to connect the namespace that it is tried with."""

_ENTER = """
import ctypes, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
def must(result):
    if result != 0:
        code = ctypes.get_errno()
        sys.exit(os.strerror(code))
for kind, flag in (("user", 0x10000000), ("net", 0x40000000)):
    fd = os.open(f"/proc/{sys.argv[1]}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    if kind == "user" and os.fstat(fd).st_ino == os.stat("/proc/self/ns/user").st_ino:
        continue
    must(libc.setns(fd, flag))
# Who is not number 0 inside loses its capabilities when it executes a program, but for the ambient ones.
header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
must(libc.capget(header, sets))
sets[2] = sets[1]
sets[5] = sets[4]
must(libc.capset(header, sets))
must(libc.prctl(47, 2, 12, 0, 0))  # PR_CAP_AMBIENT_RAISE, CAP_NET_ADMIN
os.execve(sys.argv[2], sys.argv[2:], {})
"""
_PLACE = """
import ctypes, os, sys
if ctypes.CDLL(None).unshare(0x10000000 | 0x40000000) == 0:
    os.write(1, b"x")
    os.read(0, 1)
"""
"""In new user and network namespaces, until its standard input ends."""
_DIE = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and pasta takes that for an error
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execve(sys.argv[2], sys.argv[2:], {})
"""


class Relay:
    """One running program."""

    def __init__(self, process: subprocess.Popen[bytes], pidfd: int, words_fd: int, exit_fd: int = -1) -> None:
        """``words_fd``: what it writes to its standard error comes here. All is taken over."""
        self._process = process
        self._pidfd = pidfd
        self._words_fd = words_fd
        self._exit_fd = exit_fd

    async def ended(self) -> None:
        """Wait until it has ended, however that came. For one task, which calls `close` after."""
        await trio.lowlevel.wait_readable(self._pidfd)

    def how(self) -> str:
        """How it ended, with its last words; empty while it runs. Before `close`."""
        if (code := self._process.poll()) is None:
            return ""
        how = f"killed by {_signal_name(-code)}" if code < 0 else f"ended with code {code}"
        try:
            words = os.read(self._words_fd, WORDS_BYTES_MAX).decode(errors="replace").strip()
        except BlockingIOError:
            words = ""
        return f"{how}: {words[-500:]}" if words else how

    def close(self) -> None:
        """End it and wait for that, which takes a millisecond. May be called again."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        _RUNNING.discard(self._process.pid)
        _end_orphans()
        for fd in (self._words_fd, self._exit_fd, self._pidfd):
            if fd >= 0:
                os.close(fd)
        self._words_fd = self._exit_fd = self._pidfd = -1


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end_orphans() -> None:
    """End what a relay that was killed in the middle had started: it comes to us, the subreaper."""
    for pid in linux.children(os.getpid()):
        try:
            name = Path(f"/proc/{pid}/comm").read_text()
            if name.startswith(PROGRAMS) and pid not in _RUNNING:
                os.kill(pid, signal.SIGKILL)  # the number is its own until we have waited for it
                os.waitpid(pid, 0)
        except OSError:
            pass


def check(method: str, program: str, device: str, filter_command: list[str], rules: str) -> None:
    """Does the program work here? Tried with a namespace that is thrown away. Blocks, for a tenth of a second.

    ``filter_command``: what sets the ``rules`` that it reads.

    Raises:
      NetworkError: no; with the words of what failed.
    """
    tun = "/dev/net/tun"
    if not os.access(tun, os.R_OK | os.W_OK):
        raise NetworkError(f"{tun} cannot be opened by this user (chmod 0666, as udev does)")
    if not os.access(program, os.X_OK):
        raise NetworkError(f"{program} cannot be run")
    if method == "pasta" and os.geteuid() == 0:
        raise NetworkError("pasta gives up root's rights before it can enter a function's namespaces; use veth")
    with subprocess.Popen(
        [_interpreter(), "-I", "-S", "-c", _PLACE], env={}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as place:  # fmt: skip
        try:
            _try_in(place, method, program, device, filter_command, rules)
        except OSError as exc:
            raise NetworkError(f"a user namespace cannot be prepared: {exc}") from exc
        finally:
            place.kill()


def _try_in(
    place: subprocess.Popen[bytes], method: str, program: str, device: str, filter_command: list[str], rules: str
) -> None:
    assert place.stdout is not None
    if not place.stdout.read(1):
        raise NetworkError("user and network namespaces cannot be made by this user")
    namespaces.map_ids(place.pid, -1)
    done = subprocess.run(_inside(place.pid, filter_command), input=rules.encode(), capture_output=True, env={})
    if done.returncode:
        raise NetworkError(_words(filter_command[0], done.stderr))
    relay = _relay(method, program, place.pid, device)
    try:
        until_s = time.monotonic() + PROBE_S
        while not _is_ready(method, relay, place.pid):
            if time.monotonic() > until_s:
                raise NetworkError(f"{method} did not connect a namespace within {PROBE_S:g} s")
            time.sleep(READY_POLL_S)
    finally:
        relay.close()


async def run_inside(pid: int, command: list[str], text: str) -> None:
    """Run a program in the user and network namespaces of a process, with ``text`` on its standard input.

    Raises:
      NetworkError: it fails; with its words.
    """
    done = await trio.run_process(
        _inside(pid, command), stdin=text.encode(), capture_stdout=True, capture_stderr=True, check=False, env={}
    )
    if done.returncode:
        raise NetworkError(_words(command[0], done.stderr))


def _inside(pid: int, command: list[str]) -> list[str]:
    return [_interpreter(), "-I", "-S", "-c", _ENTER, str(pid), *command]


def _words(program: str, stderr: bytes) -> str:
    return f"{os.path.basename(program)}: {stderr.decode(errors='replace').strip()[:500]}"


async def start(method: str, program: str, pid: int, device: str) -> Relay:
    """Connect the namespace of a process; returns when its device is there, and the program has confined itself.

    Raises:
      NetworkError: the program ended; with its words.
    """
    relay = _relay(method, program, pid, device)
    try:
        while True:
            if _is_ready(method, relay, pid):
                return relay
            await trio.sleep(READY_POLL_S)
    except BaseException:
        relay.close()
        raise


def _relay(method: str, program: str, pid: int, device: str) -> Relay:
    return _pasta(program, pid, device) if method == "pasta" else _slirp4netns(program, pid, device)


def _is_ready(method: str, relay: Relay, pid: int) -> bool:
    if how := relay.how():
        raise NetworkError(f"{method} {how}")
    return _has_route(pid) and (method != "pasta" or _is_confined(relay._process.pid))


def _has_route(pid: int) -> bool:
    """Whether the process's network has a default route, by its /proc/PID/net/route."""
    try:
        lines = Path(f"/proc/{pid}/net/route").read_text().splitlines()[1:]
    except OSError:
        return False
    return any(line.split()[1:3] != [] and line.split()[1] == "00000000" for line in lines if len(line.split()) > 2)


def _is_confined(pid: int) -> bool:
    """Whether the process has a system-call filter more than we have: pasta's last step, after the route.

    Before it come namespaces of its own, which the kernel may refuse: then it ends, and its device with it.
    """
    mine, its = (_status(path, "Seccomp_filters") for path in ("/proc/self/status", f"/proc/{pid}/status"))
    return not mine or (its.isdigit() and int(its) > int(mine))  # an older kernel does not tell


def _status(path: str, name: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:")), "")


def _pasta(program: str, pid: int, device: str) -> Relay:
    """No port of the machine inside, no port inside on the machine, and the gateway is not the machine's loopback."""
    command = [
        program, "--foreground", "--quiet", "--ipv4-only", "--config-net", "--ns-ifname", device,
        "--address", ADDRESS, "--netmask", "24", "--gateway", GATEWAY, "--no-map-gw",
        "--dns-forward", NAME_SERVER["pasta"],
        "--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none",
        "--userns", f"/proc/{pid}/ns/user", "--netns", f"/proc/{pid}/ns/net",
    ]  # fmt: skip
    return _popen(command)


def _slirp4netns(program: str, pid: int, device: str) -> Relay:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        command = [program, "--configure", "--disable-host-loopback", "--mtu", "65520", "--exit-fd", str(reader)]
        if _other_user_namespace(pid):
            command += ["--userns-path", f"/proc/{pid}/ns/user"]
        command += ["--netns-type", "path", f"/proc/{pid}/ns/net", device]
        return _popen(command, (reader,), exit_fd=writer)
    except BaseException:
        os.close(writer)
        raise
    finally:
        os.close(reader)


def _other_user_namespace(pid: int) -> bool:
    return os.stat(f"/proc/{pid}/ns/user").st_ino != os.stat("/proc/self/ns/user").st_ino


def _popen(command: list[str], fds: tuple[int, ...] = (), *, exit_fd: int = -1) -> Relay:
    """Start it so that it is killed when we end. In the main thread: that signal follows the thread."""
    words_fd, their_words_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)  # who complains much loses words, not packets
    try:
        process = subprocess.Popen(
            [_interpreter(), "-I", "-S", "-c", _DIE, str(os.getpid()), *command],
            pass_fds=fds, env={}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=their_words_fd,
        )  # fmt: skip
        try:
            pidfd = os.pidfd_open(process.pid)
        except OSError:
            process.kill()
            process.wait()
            raise
    except BaseException:
        os.close(words_fd)
        raise
    finally:
        os.close(their_words_fd)
    _RUNNING.add(process.pid)
    return Relay(process, pidfd, words_fd, exit_fd)


def _interpreter() -> str:
    return getattr(sys, "_base_executable", None) or sys.executable
