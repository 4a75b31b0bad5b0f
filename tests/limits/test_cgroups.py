"""Control groups on their own: real groups, real processes, in whatever version this machine has."""

from __future__ import annotations

import mmap
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from daemon.sandbox.cgroup_probe import locate, name_for, probe
from daemon.sandbox.cgroups import Cgroups, Group, GroupLimits, Site, own_paths, safe
from runtime import cgroups as joining
from tests.limits.support import child, groups, until

MIB = 2**20
LIMIT = GroupLimits(memory_bytes=48 * MIB, processes=20)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Cgroups]:
    with groups(tmp_path) as found:
        yield found


def fill_bytes() -> None:
    kept = []
    while len(kept) < 200:
        kept.append(b"x" * MIB)


def fill_shared() -> None:
    area = mmap.mmap(-1, 200 * MIB)
    for offset in range(0, len(area), 4096):
        area[offset] = 1


def fill_memfd() -> None:
    fd = os.memfd_create("bomb")
    for _ in range(200):
        os.write(fd, b"x" * MIB)


def fill_in_children() -> None:
    for _ in range(4):
        if os.fork() == 0:
            kept = bytearray(30 * MIB)
            time.sleep(60 + len(kept) % 2)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


@pytest.mark.parametrize("bomb", [fill_bytes, fill_shared, fill_memfd, fill_in_children])
def test_memory_in_any_form_counts_and_the_kernel_kills(made: Cgroups, bomb: object) -> None:
    group, other = (made.make("f", name, LIMIT, memory_mib=48) for name in ("bomb", "neighbour"))
    with child(other, signal.pause) as neighbour, child(group, bomb):  # type: ignore[arg-type]

        def killed() -> bool:
            group.read()
            return group.oom_kills > 0

        until(killed, "a process is killed for memory")
        assert 40 * MIB < group.peak() <= LIMIT.memory_bytes
        assert other.read() < 20 * MIB
        assert other.oom_kills == 0
        os.kill(neighbour, 0)
    assert made.remove("f", group)
    assert made.remove("f", other)


def test_what_joined_is_proven_and_what_did_not_is_seen(made: Cgroups) -> None:
    group = made.make("f", "i1", LIMIT)
    with child(group, signal.pause) as pid:
        until(lambda: group.processes() == [pid], "it has joined")
        assert group.holds(pid)
        assert not group.holds(os.getpid())
    assert group.holds(pid), "a process that is gone broke no limit"
    assert made.remove("f", group)


def test_processes_and_threads_are_limited_together(made: Cgroups) -> None:
    if "pids" not in made.controllers:
        pytest.skip("no pids controller")
    group = made.make("f", "i1", LIMIT)
    reader, writer = os.pipe()

    def bomb() -> None:
        count = 0
        for _ in range(60):  # bounded, should the limit not hold
            try:
                if os.fork() == 0:
                    signal.pause()
                count += 1
            except BlockingIOError:
                break
        os.write(writer, bytes([count]))
        signal.pause()

    with child(group, bomb):
        assert os.read(reader, 1)[0] == LIMIT.processes - 1
        assert len(group.processes()) == LIMIT.processes
    for fd in (reader, writer):
        os.close(fd)
    assert made.remove("f", group)


def test_a_kill_leaves_nothing_of_a_group_whose_processes_hide_and_fork(made: Cgroups) -> None:
    group = made.make("f", "i1", GroupLimits(processes=40))
    others = {process.pid for process in psutil.Process().children()}  # of other tests: not ours to reap

    def hide() -> None:
        for number in signal.valid_signals():
            if number not in (signal.SIGKILL, signal.SIGSTOP):
                signal.signal(number, signal.SIG_IGN)
        while True:  # bounded by the group's limit of processes
            try:
                if os.fork() == 0:
                    os.setsid()
            except BlockingIOError:
                pass

    with child(group, hide):
        until(lambda: len(group.processes()) >= 20, "it forks")
        group.kill()
        until(lambda: not group.processes(), "nothing is left")
    for process in psutil.Process().children():
        if process.pid not in others:  # an orphan, where this process is what such come to
            os.waitpid(process.pid, 0)
    assert made.remove("f", group)


def test_cpu_is_capped(made: Cgroups) -> None:
    if "cpu" not in made.controllers:
        pytest.skip("no cpu controller")
    capped, free = made.make("f", "i1", GroupLimits(cpu=0.1)), made.make("f", "i2", GroupLimits())

    def spin() -> None:
        while True:
            pass

    def used_s(pid: int) -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    with child(capped, spin) as slow, child(free, spin) as fast:
        until(lambda: used_s(fast) > 0.6, "the free one runs")
        assert used_s(slow) < used_s(fast) / 2
    assert made.remove("f", capped)
    assert made.remove("f", free)


def test_file_pages_do_not_count_as_used(made: Cgroups, tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(b"x" * (40 * MIB))
    group = made.make("f", "i1", LIMIT)
    reader, writer = os.pipe()

    def read() -> None:
        fd = os.open(path, os.O_RDWR)
        os.fsync(fd)  # else the pages stay, counted for who wrote them first
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        for number in range(30):  # not at once: malloc may keep what held it
            os.pwrite(fd, b"y" * MIB, number * MIB)
        os.fsync(fd)
        os.write(writer, b".")
        signal.pause()

    with child(group, read):
        os.read(reader, 1)
        until(lambda: group.read() < 20 * MIB, "file pages do not count")  # the kernel counts them in batches
        assert group.oom_kills == 0
    for fd in (reader, writer):
        os.close(fd)
    assert made.remove("f", group)


def test_a_function_s_group_goes_with_its_last_instance(made: Cgroups) -> None:
    first, second = made.make("f.1", "i1", LIMIT, memory_mib=128), made.make("f.1", "i2", LIMIT, memory_mib=128)
    assert made.count == 2
    directories = [Path(path) / safe("f.1") for path in made.directories]
    assert all(path.is_dir() for path in directories)
    assert made.remove("f.1", first)
    assert all(path.is_dir() for path in directories)
    assert made.remove("f.1", second)
    assert not any(path.exists() for path in directories)
    assert made.count == 0


def test_what_a_killed_daemon_left_is_swept_by_the_next_and_only_that(tmp_path: Path) -> None:
    with groups(tmp_path / "other") as other, groups(tmp_path / "mine") as mine:
        kept, left = other.make("f", "i1", LIMIT), mine.make("f", "i1", LIMIT)
        with child(kept, signal.pause) as neighbour:
            fds = left.join_fds()
            pid = os.fork()
            if pid == 0:
                joining.join(fds)
                signal.pause()
            for fd in fds:
                os.close(fd)
            until(lambda: left.processes() == [pid], "it has joined")
            again, reason = probe(mine.name)
            assert again.active, reason
            assert os.waitpid(pid, 0)[1] == signal.SIGKILL
            assert not any((Path(path) / "f").exists() for path in again.directories)
            assert kept.processes() == [neighbour]
        assert other.remove("f", kept)


def test_what_a_daemon_on_another_directory_left_is_swept_but_not_a_living_one_s(tmp_path: Path) -> None:
    with groups(tmp_path / "living") as living:
        gone, _ = probe(name_for(tmp_path / "gone"))
        gone.make("f", "i1", LIMIT)
        for fd in gone._locks:  # as its end does, however it comes
            os.close(fd)
        with groups(tmp_path / "next"):
            assert not any(Path(path).exists() for path in gone.directories)
            assert all(Path(path).exists() for path in living.directories)


def test_a_setting_that_forbids_them_is_obeyed_and_named() -> None:
    found, reason = probe(name_for(Path("/nowhere")), setting="off")
    assert not found.active
    assert "limits.cgroups" in reason
    assert found.directories == []


def test_what_cannot_be_had_is_named(tmp_path: Path) -> None:
    sites = [Site(1, {"memory": str(tmp_path / "absent")}, {"memory": "/"})]
    found, reason = probe("stoker-x", sites=sites)
    assert not found.active
    assert "not writable" in reason
    (tmp_path / "cgroup.controllers").write_text("hugetlb\n")
    found, reason = probe("stoker-x", sites=[Site(2, {"memory": str(tmp_path)}, {"memory": "/"})])
    assert not found.active
    assert "no memory controller" in reason


HYBRID = """\
30 23 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:29 /docker/ab /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
"""


def test_places_are_read_from_proc() -> None:
    own = "5:memory:/a b\n4:cpu,cpuacct:/docker/ab/c\n0::/init.scope\n"
    assert own_paths(own) == {"memory": "/a b", "cpu": "/docker/ab/c", "cpuacct": "/docker/ab/c", "": "/init.scope"}
    session, top, v1 = locate(HYBRID, own)
    assert (session.version, session.parents["memory"]) == (2, "/sys/fs/cgroup/unified/init.scope")
    assert (top.version, top.parents["memory"], top.paths["pids"]) == (2, "/sys/fs/cgroup/unified", "/")
    assert v1.parents == {"memory": "/sys/fs/cgroup/memory/a b", "cpu": "/sys/fs/cgroup/cpu,cpuacct/c"}
    assert v1.paths["cpu"] == "/docker/ab/c"
    assert "pids" in v1.reason


def test_nothing_mounted_is_nowhere() -> None:
    assert locate("", "0::/\n") == []
    assert locate("garbage\n - \n1 2 - cgroup2\n", "") == []


def test_controllers_in_one_directory_are_removed_once(tmp_path: Path) -> None:
    """As on v2, where all controllers are in one tree: directories stand in for it."""
    group = Group(2, dict.fromkeys(("memory", "pids", "cpu"), str(tmp_path / "i1")), {})
    (tmp_path / "i1").mkdir()
    assert group.try_remove()
    assert not (tmp_path / "i1").exists()
    assert group.try_remove(), "what is gone stays gone"


V2_FILES = {
    "cgroup.procs": "", "cgroup.kill": "", "cgroup.controllers": "cpu memory pids\n", "cgroup.subtree_control": "",
    "memory.max": "max\n", "memory.swap.max": "max\n", "memory.oom.group": "0\n", "memory.current": "8192\n",
    "memory.peak": "50331648\n", "pids.max": "max\n", "cpu.max": "max 100000\n", "cpu.weight": "100\n",
    "memory.events": "low 0\nhigh 0\nmax 31\noom 2\noom_kill 3\noom_group_kill 1\n",
    "memory.stat": "anon 4096\nfile 2048\ninactive_file 1500\nactive_file 500\n",
}  # fmt: skip
"""As Linux 6.12 has them (admin-guide/cgroup-v2.rst). Nothing is made that is not there: a wrong name is an error."""


def test_the_names_and_formats_of_v2(tmp_path: Path) -> None:
    """Against a copy of its files, wherever v2 has no controllers; `scripts/vm` runs these tests on the real one."""
    for name, content in V2_FILES.items():
        (tmp_path / name).write_text(content)
    directory = str(tmp_path)
    group = Group(
        2, dict.fromkeys(("memory", "pids", "cpu"), directory), dict.fromkeys(("memory", "pids", "cpu"), "/g")
    )
    group.set(GroupLimits(memory_bytes=48 * MIB, processes=20, cpu=0.5))
    group.kill()
    written = {name: (tmp_path / name).read_text() for name in V2_FILES}
    assert written["memory.max"].startswith("50331648")
    assert written["memory.swap.max"].startswith("0")
    assert written["memory.oom.group"].startswith("1")
    assert written["pids.max"].startswith("20")
    assert written["cpu.max"].startswith("50000 100000")
    assert written["cgroup.kill"] == "1"
    assert (group.read(), group.peak(), group.oom_kills) == (8192, 50331648, 3)
    (tmp_path / "memory.current").write_text(f"{40 * MIB}\n")
    assert group.read() == 40 * MIB - 2000, "page cache that can be dropped does not count"
    assert group.oom_eventfd() == -1
    fds = group.join_fds()
    assert [os.readlink(f"/proc/self/fd/{fd}") for fd in fds] == [f"{directory}/cgroup.procs"], "one join for all three"
    joining.join(fds)
    assert (tmp_path / "cgroup.procs").read_text() == "0"
    assert set(os.listdir(tmp_path)) == set(V2_FILES)
    group._close_files()


def test_the_unified_tree_kills_a_group_at_once(tmp_path: Path) -> None:
    """`cgroup.kill` and joining need no controller: they can be tried wherever v2 is mounted and writable."""
    mounted = [
        line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup2 " in line
    ]
    own = own_paths(Path("/proc/self/cgroup").read_text()).get("", "/")
    parent = f"{mounted[0]}{own}".rstrip("/") if mounted else ""
    if not parent or not os.access(parent, os.W_OK):
        pytest.skip("no writable cgroup2 mount")
    name = name_for(tmp_path)
    os.mkdir(f"{parent}/{name}")
    try:
        group = Group(2, {"pids": f"{parent}/{name}"}, {"pids": f"{own.rstrip('/')}/{name}"})
        with child(group, signal.pause) as pid:
            until(lambda: group.processes() == [pid], "it has joined")
            assert group.holds(pid)
            group.kill()
            assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        assert group.try_remove()
    finally:
        joining.remove_tree(f"{parent}/{name}")
