"""The small parts: control messages, /proc, directories of workers."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.sandbox.memory import Gauge
from daemon.workers import parents, tmpdirs
from runtime import control, linux
from runtime.job import Job
from runtime.walls import Walls
from runtime.worker import TEXT_CHARS_MAX
from tests.contracts.kit import alive


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = control.pair()
    with one, other:
        other.setblocking(False)
        yield one, other


def test_messages_and_descriptors_arrive(pair: tuple[socket.socket, socket.socket]) -> None:
    read, write = os.pipe()
    control.send(pair[0], {"type": "started", "id": 1, "pid": 2}, (read,))
    received = control.receive(pair[1], control.FROM_TEMPLATE)
    assert received is not None
    message, fds = received
    assert message == {"type": "started", "id": 1, "pid": 2}
    assert len(fds) == 1
    assert os.fstat(fds[0]).st_ino == os.fstat(read).st_ino
    assert not os.get_inheritable(fds[0])
    for fd in (read, write, *fds):
        os.close(fd)
    pair[0].close()
    assert control.receive(pair[1], control.FROM_TEMPLATE) is None


@given(st.binary(min_size=1, max_size=200))
def test_garbage_is_a_control_error(garbage: bytes) -> None:
    one, other = control.pair()
    with one, other:
        one.send(garbage)
        with pytest.raises(control.ControlError):
            control.receive(other, control.FROM_TEMPLATE)


@pytest.mark.parametrize(
    "message",
    [
        {"type": "fork", "id": 1, "tmp": "", "groups": 0},
        {"type": "exited", "id": 1, "code": 0},
        {"type": "exited", "id": True, "code": 0, "signal": 1},
        {"type": "exited", "id": 1, "code": 0, "signal": 1, "more": 1},
        {"type": "ready", "forkable": 1, "reason": "", "compiled": "", "import_us": 0},
        {"type": "failed", "traceback": b""},
        {"type": ["failed"], "traceback": ""},
        [1],
    ],
    ids=repr,
)
def test_wrong_messages_are_refused_and_their_descriptors_closed(
    pair: tuple[socket.socket, socket.socket], message: object
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for fds in ([], [0], [0, 1, 2]):
        socket.send_fds(pair[0], [msgpack.packb(message)], fds)
        with pytest.raises(control.ControlError):
            control.receive(pair[1], control.FROM_TEMPLATE)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_more_descriptors_than_any_message_has_are_refused_and_closed(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    socket.send_fds(pair[0], [msgpack.packb({"type": "started", "id": 1, "pid": 1})], [0] * 200)
    with pytest.raises(control.ControlError):
        control.receive(pair[1], control.FROM_TEMPLATE)
    assert len(os.listdir("/proc/self/fd")) <= before


@given(st.text(max_size=100), st.integers(0, 3))
def test_the_longest_texts_fit_a_message(text: str, power: int) -> None:
    one, other = control.pair()
    with one, other:
        control.send(one, {"type": "failed", "traceback": control.clip((text + "\U0001f525") * 10**power * 10)})
        assert control.receive(other, control.FROM_TEMPLATE) is not None
    assert control.clip("\ud800").encode()
    assert TEXT_CHARS_MAX * 8 < 2**23


def test_only_a_pidfd_is_a_pidfd() -> None:
    for fd in (os.pidfd_open(os.getpid()), os.open("/dev/null", os.O_RDONLY)):
        try:
            if os.readlink(f"/proc/self/fd/{fd}") == "/dev/null":
                with pytest.raises(control.ControlError):
                    parents.pid_of(fd)
            else:
                assert parents.pid_of(fd) == os.getpid()
        finally:
            os.close(fd)


def test_a_job_survives_its_descriptor() -> None:
    job = Job(
        roots=["/a"],
        interpreter="",
        directory="/d",
        packages="/p",
        adapter="",
        handler_file="func.py",
        handler_name="handler",
        environment={"A": "ä", "LONG": "x" * 3_000_000},
        tmp="/t",
        pycache="/c",
        walls=Walls(limits={"CORE": 0}, instance_limits={}, readable=["/usr"]),
        response_bytes_max=1,
    )
    fd = job.to_memfd()
    try:
        again = Job.from_fd(fd)
    finally:
        os.close(fd)
    assert all(getattr(again, name) == getattr(job, name) for name in Job.__slots__ if name != "walls")
    assert again.walls.document() == job.walls.document()


@contextmanager
def python(code: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python that runs ``code``; killed in the end."""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        with process.stdout:
            yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("turn", range(12))  # who dies first is chance
def test_a_tree_is_seen_spared_and_killed(turn: int) -> None:
    code = "import os, time\nfor _ in range(3): os.fork()\nos.write(1, b'%d\\n' % os.getpid())\ntime.sleep(1000)"
    with python(code) as process:
        assert process.stdout is not None
        pids = {int(process.stdout.readline()) for _ in range(8)}
        spared = linux.children(process.pid)[0]
        beneath = {spared, *linux.children(spared), *(g for c in linux.children(spared) for g in linux.children(c))}
        assert linux.kill_descendants(process.pid, spare=frozenset({spared})) == 8 - 1 - len(beneath)
        assert alive(spared)
        assert linux.state_and_parent(spared)[1] == process.pid
        assert linux.kill_descendants(process.pid) >= len(beneath)  # those killed before may not be dead yet
        assert alive(process.pid)
        process.kill()
        process.wait()
        until_s = time.monotonic() + 30
        while left := [pid for pid in pids if alive(pid)]:
            assert time.monotonic() < until_s, left
            time.sleep(0.001)
    assert linux.children(process.pid) == []
    assert linux.state_and_parent(process.pid) == ("", 0)
    assert linux.session_of(process.pid) == 0


RESPAWN = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from runtime import linux
linux.set_subreaper()
until = time.monotonic() + 20
for _ in range(8):
    if os.fork() == 0:
        while time.monotonic() < until:  # each lives a moment, and has made its successor first
            if os.fork():
                os._exit(0)
            os.setsid()
        os._exit(0)
print("up", flush=True)
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.001)
"""


def test_what_respawns_faster_than_it_is_killed_is_killed() -> None:
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen([sys.executable, "-c", RESPAWN, root], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        assert linux.kill_descendants(process.pid) >= 8
        until_s = time.monotonic() + 30
        while any(map(alive, linux.children(process.pid))):  # the killed ones need a moment to die
            assert time.monotonic() < until_s
            time.sleep(0.001)
        after = linux.children(process.pid)
        time.sleep(0.05)
        assert linux.children(process.pid) == after, "something goes on respawning"
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def test_names_cannot_fake_a_state() -> None:
    code = "import time; open('/proc/self/comm', 'w').write(') Z 1 1 ('); print(flush=True); time.sleep(1000)"
    with python(code) as process:
        assert process.stdout is not None
        process.stdout.readline()
        state, parent = linux.state_and_parent(process.pid)
        assert state in ("R", "S")
        assert parent == os.getpid()


def test_a_gauge_of_what_is_gone_reads_nothing() -> None:
    with python("import time; print(flush=True); time.sleep(1000)") as process:
        assert process.stdout is not None
        process.stdout.readline()
        gauge = Gauge(process.pid, forked=False, limit_bytes=2**30)
        assert gauge.read() > 0
        assert gauge.processes == 1
        process.kill()
        process.wait()
        assert (gauge.read(), gauge.processes) == (0, 0)
    gauge.close()
    gauge.close()
    assert gauge.read() == 0
    late = Gauge(process.pid, forked=True, limit_bytes=2**30)
    assert late.read() == 0
    late.close()


def test_directories_of_an_earlier_daemon_are_removed(tmp_path: Path) -> None:
    tmpdirs.prepare(tmp_path)
    left = Path(tmpdirs.make(tmp_path, "function", "i1"))
    (left / "a" / "b").mkdir(parents=True)
    (left / "a" / "link").symlink_to("/etc")
    (left / "a" / "b" / "file").write_text("x")
    (left / "a").chmod(0o000)
    kept = Path(tmpdirs.pycache(tmp_path, "/bundles/sha256-1"))
    tmpdirs.prepare(tmp_path)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert kept.is_dir()
    assert stat.S_IMODE((tmp_path / "tmp").stat().st_mode) == 0o700


def test_what_is_removed_follows_no_link_and_any_depth(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    victim = tmp_path / "victim"
    (victim / "d").mkdir(parents=True)
    (victim / "to-outside").symlink_to(outside)
    (victim / "d" / ".stoker-1").mkdir()
    (victim / "d" / ".stoker-1" / ".stoker-1").mkdir()
    os.mkfifo(victim / "fifo")
    here = os.open(victim, os.O_RDONLY)
    try:
        for _ in range(3000):  # deeper than a path can be, and than Python can recurse
            os.mkdir("x", dir_fd=here)
            inner = os.open("x", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = inner
    finally:
        os.close(here)
    tmpdirs.remove_tree(str(victim))
    assert not victim.exists()
    assert (outside / "precious").read_text() == "x"
    tmpdirs.remove_tree(str(tmp_path / "to-nothing"))
    (tmp_path / "link").symlink_to(outside)
    tmpdirs.remove_tree(str(tmp_path / "link"))
    assert (outside / "precious").exists()
    assert not (tmp_path / "link").is_symlink()
