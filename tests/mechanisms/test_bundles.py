"""The store of bundles: uploads, idempotence, kills in the middle, sweeping, the confinement of its child process."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import trio

from daemon.bundles.store import UNPACK_PROGRAM, BundleStore
from daemon.config.settings import Bundles
from daemon.errors import InternalError, InvalidFunction, RequestTooLarge
from daemon.model import Bundle
from tests.mechanisms.archives import HANDLER, Entry, archive, handler, plain, with_handler

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
NO_DIGESTS = [
    "", "sha256:", "sha256:" + "0" * 63, "sha256:" + "G" * 64, "sha256:../../etc", "md5:" + "0" * 64,
    "sha256:" + "A" * 64, "sha256:" + "0" * 64 + "\n",
]  # fmt: skip
GOOD = plain({"function/func.py": HANDLER})


def big() -> bytes:
    """Takes the child some time: 64 files of 1 MiB that do not compress, each synced."""
    noise = random.Random(7)
    return archive([handler(), *(Entry(f"python/{i:02}", noise.randbytes(2**20), method=0) for i in range(64))])


async def ingest(store: BundleStore, data: bytes) -> Bundle:
    async with store.spool(2**28) as spool:
        await spool.write(data)
        return await store.ingest(spool)


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # no event tells it
            await trio.sleep(0.001)


def files_below(path: Path) -> list[str]:
    found = []
    with contextlib.suppress(FileNotFoundError):  # it changes while we look
        found = sorted(str(p.relative_to(path)) for p in path.rglob("*") if not p.is_dir())
    return found


def unpackers(parent: psutil.Process) -> list[psutil.Process]:
    children = []
    for child in parent.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if str(UNPACK_PROGRAM) in child.cmdline():
                children.append(child)
    return children


@pytest.fixture
def store(tmp_path: Path) -> BundleStore:
    return BundleStore(tmp_path / "bundles", Bundles())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "bundles"


class TestSpool:
    async def test_it_names_what_was_written_and_is_gone_after(self, store: BundleStore, root: Path) -> None:
        chunks = [os.urandom(size) for size in (1, 70_000, 2**20, 0, 3)]
        async with store.spool(2**28) as spool:
            for chunk in chunks:
                await spool.write(chunk)
            digest = await spool.finish()
            assert spool.path.read_bytes() == b"".join(chunks)
            assert spool.path.stat().st_mode & 0o777 == 0o600
        assert digest == f"sha256:{hashlib.sha256(b''.join(chunks)).hexdigest()}"
        assert files_below(root) == []

    async def test_an_upload_over_the_limit_is_refused_and_gone(self, store: BundleStore, root: Path) -> None:
        async with store.spool(100) as spool:
            await spool.write(b"x" * 60)
            with pytest.raises(RequestTooLarge, match="over 100 bytes"):
                await spool.write(b"x" * 41)
        assert files_below(root) == []

    async def test_a_client_that_leaves_leaves_nothing(self, store: BundleStore, root: Path) -> None:
        with trio.CancelScope() as scope:
            async with store.spool(2**28) as spool:
                await spool.write(b"x" * 2**21)
                assert len(files_below(root)) == 1
                scope.cancel()
                await trio.sleep_forever()
        assert files_below(root) == []


class TestIngest:
    async def test_it_tells_what_is_in_the_bundle(self, store: BundleStore) -> None:
        func_yaml = (
            b"schema_version: 20180708\nname: x\nruntime: python3.12\nmemory: 256\n"
            b"entrypoint: /python/bin/fdk /function/app/main.py run\n"
            b"expects:\n  config:\n  - {name: A, required: true}\n  - {name: B, required: false}\n"
        )
        data = plain({"function/func.yaml": func_yaml, "function/app/main.py": HANDLER})
        bundle = await ingest(store, data)
        assert (bundle.runtime, bundle.handler_file, bundle.handler_name) == ("python3.12", "app/main.py", "run")
        assert bundle.expects == ("A",)
        assert bundle.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
        assert (bundle.packed_bytes, bundle.unpacked_bytes) == (len(data), len(func_yaml) + len(HANDLER))

    async def test_the_same_bundle_again_changes_nothing(self, store: BundleStore) -> None:
        first = await ingest(store, GOOD)
        directory = store.directory(first.digest)
        before = (directory.stat().st_ino, directory.stat().st_mtime_ns)
        assert await ingest(store, GOOD) == first
        assert (directory.stat().st_ino, directory.stat().st_mtime_ns) == before

    async def test_a_path_gives_the_same_as_an_upload(self, store: BundleStore, tmp_path: Path) -> None:
        path = tmp_path / "made.zip"
        path.write_bytes(GOOD)
        assert await store.ingest(path) == await ingest(store, GOOD)
        assert path.read_bytes() == GOOD

    async def test_many_at_once_make_one(self, store: BundleStore, root: Path) -> None:
        found: list[Bundle] = []

        async def one() -> None:
            found.append(await ingest(store, GOOD))

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(one)
        assert len(set(found)) == 1
        assert len(list((root / "sha256").iterdir())) == 1

    async def test_a_damaged_bundle_is_made_anew(self, store: BundleStore) -> None:
        bundle = await ingest(store, GOOD)
        directory = store.directory(bundle.digest)
        (directory / ".bundle.json").write_text("{")
        again = await ingest(store, GOOD)
        assert again.digest == bundle.digest
        assert json.loads((directory / ".bundle.json").read_text())["files"] == 2

    @pytest.mark.parametrize("digest", NO_DIGESTS)
    def test_a_digest_is_no_path(self, store: BundleStore, digest: str) -> None:
        with pytest.raises(InvalidFunction, match="64 hexadecimal digits"):
            store.directory(digest)

    async def test_a_bundle_that_takes_too_long_is_refused(self, tmp_path: Path) -> None:
        store = BundleStore(tmp_path, Bundles(unpack_s=0.001))
        with pytest.raises(InvalidFunction, match=r"not done in 0\.001 s"):
            await ingest(store, GOOD)
        assert files_below(tmp_path) == []
        assert unpackers(psutil.Process()) == []

    async def test_a_child_that_hangs_is_killed(self, tmp_path: Path) -> None:
        program = tmp_path / "hang"
        program.write_text("#!/bin/sh\ntrap '' TERM INT\nexec sleep 100000\n")
        program.chmod(0o755)
        store = BundleStore(tmp_path / "bundles", Bundles(unpack_s=0.2), interpreter=str(program))
        with trio.fail_after(PATIENCE_S), pytest.raises(InvalidFunction, match="not done in"):
            await ingest(store, GOOD)
        assert [c for c in psutil.Process().children() if "100000" in c.cmdline()] == []

    async def test_an_interpreter_that_is_missing_is_our_fault(self, tmp_path: Path) -> None:
        store = BundleStore(tmp_path, Bundles(), interpreter="/nonexistent/python")
        with pytest.raises(InternalError, match="No such file"):
            await ingest(store, GOOD)
        assert files_below(tmp_path) == []

    async def test_a_child_that_babbles_is_stopped(self, tmp_path: Path) -> None:
        program = tmp_path / "babble"
        program.write_text("#!/bin/sh\nexec yes\n")
        program.chmod(0o755)
        store = BundleStore(tmp_path / "bundles", Bundles(), interpreter=str(program))
        with pytest.raises(InternalError, match="killed by signal 9"):
            await ingest(store, GOOD)
        assert files_below(tmp_path / "bundles") == []


class TestKills:
    async def test_a_child_that_is_killed_leaves_nothing(self, store: BundleStore, root: Path) -> None:
        async def kill() -> None:
            await until(lambda: any("partial" in name for name in files_below(root / "sha256")))
            for child in unpackers(psutil.Process()):
                child.kill()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill)
            with pytest.raises(InternalError, match="killed by signal 9"):
                await ingest(store, big())
        assert files_below(root) == []
        assert await ingest(store, GOOD)

    async def test_a_caller_that_leaves_ends_the_child(self, store: BundleStore, root: Path) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ingest, store, big())
            await until(lambda: any("partial" in name for name in files_below(root / "sha256")))
            assert len(unpackers(psutil.Process())) == 1
            nursery.cancel_scope.cancel()
        assert unpackers(psutil.Process()) == []
        assert files_below(root) == []

    def test_a_daemon_that_is_killed_leaves_only_what_the_next_one_sweeps(self, tmp_path: Path, root: Path) -> None:
        source = tmp_path / "big.zip"
        source.write_bytes(big())
        script = (
            "import sys, trio; from pathlib import Path; from daemon.bundles.store import BundleStore; "
            "from daemon.config.settings import Bundles; store = BundleStore(Path(sys.argv[1]), Bundles()); "
            "trio.run(store.ingest, Path(sys.argv[2]))"
        )
        with subprocess.Popen([sys.executable, "-c", script, str(root), str(source)], cwd=ROOT) as daemon:
            try:
                trio.run(until, lambda: any("partial" in name for name in files_below(root)))
                children = unpackers(psutil.Process(daemon.pid))
            finally:
                daemon.kill()
        assert len(children) == 1
        gone, alive = psutil.wait_procs(children, timeout=PATIENCE_S)
        assert (len(gone), alive) == (1, [])  # nobody waits for it any more, so it ends by itself
        left = [path.name for path in (root / "sha256").iterdir()]
        assert len(left) == 1
        assert left[0].endswith(".partial")

        async def next_run() -> None:
            store = BundleStore(root, Bundles())
            assert store.sweep_partial() == 1
            assert files_below(root) == []
            assert (await store.ingest(source)).files == 67

        trio.run(next_run)


class TestSweep:
    async def test_it_keeps_what_is_named_and_what_is_new(self, store: BundleStore, root: Path) -> None:
        named, loose = await ingest(store, GOOD), await ingest(store, with_handler(Entry("function/x", b"x")))
        assert store.sweep({named.digest}) == []
        assert store.sweep({named.digest}, unnamed_s=0) == [loose.digest]
        assert [path.name for path in (root / "sha256").iterdir()] == [named.digest.removeprefix("sha256:")]
        assert store.sweep({named.digest}, unnamed_s=0) == []
        assert store.hold(named.digest)
        assert not store.hold(loose.digest)

    async def test_a_restart_sweeps_what_nobody_named(self, store: BundleStore, root: Path) -> None:
        bundle = await ingest(store, GOOD)
        assert BundleStore(root, Bundles()).sweep(set()) == [bundle.digest]

    async def test_what_is_held_stays(self, store: BundleStore, root: Path) -> None:
        bundle = await ingest(store, GOOD)
        fresh = BundleStore(root, Bundles())
        assert fresh.hold(bundle.digest)
        assert fresh.sweep(set()) == []

    async def test_it_does_not_touch_what_is_under_way(self, store: BundleStore, root: Path) -> None:
        async with trio.open_nursery() as nursery, store.spool(2**28) as spool:
            nursery.start_soon(ingest, store, big())
            await until(lambda: any("partial" in name for name in files_below(root / "sha256")))
            assert store.sweep_partial() == 0
            assert spool.path.exists()
        assert len(list((root / "sha256").iterdir())) == 1

    async def test_links_in_a_bundle_do_not_lead_the_sweeper_astray(self, store: BundleStore, tmp_path: Path) -> None:
        victim = tmp_path / "victim"
        victim.mkdir()
        (victim / "file").write_text("unharmed")
        bundle = await ingest(store, GOOD)
        (store.directory(bundle.digest) / "function" / "escape").symlink_to(victim)  # as a function might
        assert store.sweep(set(), unnamed_s=0) == [bundle.digest]
        assert (victim / "file").read_text() == "unharmed"


def in_the_child(code: str, target: Path) -> subprocess.CompletedProcess[str]:
    """Run code as the unpacking program would run, confined to ``target``."""
    program = (
        f"import sys; sys.path.append({str(ROOT)!r})\n"
        "import os, resource, socket\n"
        "from daemon.bundles.unpack.__main__ import confine, limit_resources\n"
        "from daemon.bundles.unpack.rules import Limits\n"
        "limits = Limits(unpacked_bytes_max=1000, files_max=1, ratio_max=1, depth_max=1, path_bytes_max=1)\n"
        "limit_resources(limits, cpu_s=2)\n"
        f"fd = os.open({str(target)!r}, os.O_RDONLY)\n"
        "abi = confine(fd)\n" + code
    )
    return subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, env={})


@pytest.fixture
def landlock(tmp_path: Path) -> None:
    if in_the_child("print(abi)", tmp_path).stdout.strip() in ("", "0"):
        pytest.skip("this kernel has no Landlock")


ATTACKS = {
    "write outside": "open('{victim}', 'w')",
    "read outside": "open('{victim}').read()",
    "make outside": "os.mkdir('{victim}.d')",
    "remove outside": "os.unlink('{victim}')",
    "climb out": "os.open('../victim', os.O_RDWR, dir_fd=fd)",
    "remove inside": "os.unlink('there', dir_fd=fd)",
    "make a pipe": "os.mkfifo('p', dir_fd=fd)",
    "move in": "os.rename('{victim}', 'moved', dst_dir_fd=fd)",
    "hard link": "os.link('{victim}', 'linked', dst_dir_fd=fd)",
    "list outside": "os.listdir('{victim}/..')",
    "run a program": "os.execv('/bin/true', ['true'])",
}


class TestConfinement:
    """In case of a mistake in the unpacker: what the process could still do."""

    @pytest.mark.usefixtures("landlock")
    @pytest.mark.parametrize("name", ATTACKS)
    def test_it_reaches_only_its_directory(self, name: str, tmp_path: Path) -> None:
        target, victim = tmp_path / "target", tmp_path / "victim"
        target.mkdir()
        (target / "there").write_text("x")
        victim.write_text("unharmed")
        attack = ATTACKS[name].format(victim=victim)
        done = in_the_child(f"try: {attack}\nexcept OSError as exc: print('refused', exc.errno)", target)
        assert done.stdout.startswith("refused"), done
        assert victim.read_text() == "unharmed"
        assert sorted(os.listdir(target)) == ["there"]

    @pytest.mark.usefixtures("landlock")
    def test_it_can_do_its_work(self, tmp_path: Path) -> None:
        done = in_the_child(
            "os.mkdir('d', dir_fd=fd); os.open('f', 65, dir_fd=fd); os.symlink('f', 'l', dir_fd=fd)", tmp_path
        )
        assert (done.returncode, sorted(os.listdir(tmp_path))) == (0, ["d", "f", "l"]), done.stderr

    def test_the_kernel_limits_it(self, tmp_path: Path) -> None:
        kinds = ("DATA", "CPU", "FSIZE", "NOFILE", "CORE")
        done = in_the_child(
            "".join(f"print(*resource.getrlimit(resource.RLIMIT_{kind}))\n" for kind in kinds), tmp_path
        )
        assert done.stdout.split("\n")[:5] == [f"{n} {n}" for n in (512 * 2**20, 2, 1000, 128, 0)], done.stderr
        busy = in_the_child("while True: pass", tmp_path)
        assert -busy.returncode in (signal.SIGXCPU, signal.SIGKILL)
        full = in_the_child(
            "os.write(os.open('f', 65, dir_fd=fd), b'x' * 2000); print(os.stat('f', dir_fd=fd).st_size)", tmp_path
        )
        assert full.stdout.strip() == "1000", full.stderr

    async def test_it_runs_in_a_process_group_of_its_own_with_an_empty_environment(
        self, store: BundleStore, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("STOKER_SECRET", "do not tell")
        seen: list[tuple[int, dict[str, str], int]] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ingest, store, big())
            await until(lambda: any("partial" in name for name in files_below(root / "sha256")))
            for child in unpackers(psutil.Process()):
                descriptors = len(os.listdir(f"/proc/{child.pid}/fd"))
                seen.append((os.getpgid(child.pid) - child.pid, child.environ(), descriptors))
            nursery.cancel_scope.cancel()
        ((group, environment, descriptors),) = seen
        assert (group, environment) == (0, {})
        assert descriptors <= 8  # standard ones, archive, target, and what it is writing


def test_descriptors_do_not_leak(tmp_path: Path) -> None:
    async def run() -> None:
        store = BundleStore(tmp_path, Bundles())
        await ingest(store, GOOD)
        before = len(os.listdir("/proc/self/fd"))
        for i in range(5):
            await ingest(store, with_handler(Entry(f"function/{i}", b"x")))
            with pytest.raises(InvalidFunction):
                await ingest(store, with_handler(Entry("../x", b"x%d" % i)))
        assert len(os.listdir("/proc/self/fd")) == before

    trio.run(run)


async def test_a_disk_that_takes_no_more_is_our_fault(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands in for a full disk: write(2) fails in the middle of a file."""
    limited = tmp_path / "limited"
    limited.write_text(f'#!/bin/sh\nulimit -f 1024\nexec {sys.executable} "$@"\n')
    limited.chmod(0o755)
    root = tmp_path / "bundles"
    store = BundleStore(root, Bundles(), interpreter=str(limited))
    with pytest.raises(InternalError, match="File too large"):
        await ingest(store, with_handler(Entry("function/x", random.Random(1).randbytes(3 * 2**20), method=0)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with pytest.raises(InternalError, match=r"cannot store bundle: .*File too large"):
            await ingest(store, bytes(3 * 2**20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files_below(root) == []
