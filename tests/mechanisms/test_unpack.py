"""What an uploaded archive may be: hostile ones are refused whole, good ones arrive as they were sent."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from daemon.bundles.store import UNPACK_PROGRAM, BundleStore
from daemon.bundles.unpack.archive import Member, Source, check_layout, read_members
from daemon.bundles.unpack.rules import Limits
from daemon.bundles.unpack.writer import Writer
from daemon.config.settings import Bundles
from daemon.errors import CallerError, InvalidFunction, RequestTooLarge
from daemon.model import Bundle
from tests.mechanisms.archives import (
    DIRECTORY,
    FILE,
    HANDLER,
    HOSTILE,
    Entry,
    archive,
    handler,
    link,
    plain,
    with_handler,
)

UPLOAD_BYTES_MAX = 64 * 2**20


async def ingest(store: BundleStore, data: bytes) -> Bundle:
    async with store.spool(UPLOAD_BYTES_MAX) as spool:
        await spool.write(data)
        return await store.ingest(spool)


def everything_below(path: Path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*"))


def modes_below(path: Path) -> dict[str, int]:
    return {p.name: stat.S_IMODE(p.lstat().st_mode) for p in path.rglob("*") if not p.is_symlink()}


def content(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file() and not p.is_symlink()}


@pytest.fixture
def store(tmp_path: Path) -> BundleStore:
    return BundleStore(tmp_path / "deep" / "bundles", Bundles())


class TestHostile:
    @pytest.mark.parametrize("name", HOSTILE)
    async def test_it_is_refused_with_its_reason_and_nothing_is_left(self, name: str, tmp_path: Path) -> None:
        hostile = HOSTILE[name]
        root = tmp_path / "deep" / "bundles"
        victims = [tmp_path / "victim", tmp_path / "deep" / "victim", Path("/etc/victim")]
        for victim in victims[:2]:
            victim.parent.mkdir(exist_ok=True)
            victim.write_text("unharmed")
        store = BundleStore(root, Bundles())
        with pytest.raises(CallerError) as refusal:
            await ingest(store, hostile.data)
        assert hostile.says in refusal.value.message
        assert hostile.member in refusal.value.message
        assert everything_below(root) == ["sha256", "spool"]
        assert everything_below(tmp_path) == [
            "deep", "deep/bundles", "deep/bundles/sha256", "deep/bundles/spool", "deep/victim", "victim",
        ]  # fmt: skip
        assert [victim.read_text() for victim in victims[:2]] == ["unharmed"] * 2
        assert not victims[2].exists()

    def test_the_table_is_long_enough_and_each_says_something(self) -> None:
        assert len(HOSTILE) >= 45
        assert all(hostile.says for hostile in HOSTILE.values())

    async def test_what_is_over_a_limit_is_too_large(self, store: BundleStore) -> None:
        for name in ("bomb by size", "bomb by count", "bomb by implied directories"):
            with pytest.raises(RequestTooLarge):
                await ingest(store, HOSTILE[name].data)

    async def test_the_honest_neighbour_of_each_lie_is_accepted(self, store: BundleStore) -> None:
        """The builder's lies are what is refused, not the builder's form."""
        honest = [
            with_handler(Entry("function/x", b"x")),
            with_handler(Entry("function/x", b"x", method=0)),
            with_handler(Entry("function/x", b"x", streamed=True)),
            with_handler(Entry("function/x", b"x", streamed=True, signed=False)),
            with_handler(Entry("function/x", b"x", streamed=True, method=0)),
            with_handler(Entry("function/x", b"x", central={"comment": b"a comment"})),
            with_handler(Entry("function/x", b"x", extra=b"UT\5\0\3abcd")),
            with_handler(Entry("function/x", b"", packed=b"\3\0")),
            with_handler(Entry("function/x", b"", method=0)),
            with_handler(comment=b"9a3f made by git archive"),
            with_handler(Entry("function/x", b"\0" * 2**20)),
            with_handler(Entry("function/x", b"x", mode=0, system=0)),
            with_handler(Entry("function/d/", mode=DIRECTORY | 0o755, dos=0x10)),
            with_handler(Entry("function/d/", mode=0, dos=0x10, system=0), Entry("function/d/x", b"1")),
            with_handler(Entry("function/d/x", b"1"), Entry("function/d/", mode=DIRECTORY | 0o755)),
            with_handler(Entry("function/" + "d/" * 30 + "y", b"x")),
            with_handler(Entry("function/" + "x" * 255, b"x")),
            with_handler(Entry("function/Func.py", b"x")),
            with_handler(link("function/l", "func.py")),
        ]
        for data in honest:
            bundle = await ingest(store, data)
            assert (store.directory(bundle.digest) / "function" / "func.py").read_bytes() == HANDLER
        assert len(everything_below(store.directory("sha256:" + "0" * 64).parent)) > len(honest)


class TestGood:
    async def test_content_modes_and_links_arrive(self, store: BundleStore) -> None:
        data = archive([
            Entry("function/", mode=DIRECTORY | 0o700),
            handler(),
            Entry("function/run.sh", b"#!/bin/sh\n", mode=FILE | 0o777),
            Entry("function/secret", b"s", mode=FILE | 0o600),
            Entry("function/for-others", b"o", mode=FILE | 0o655),
            Entry("python/pkg/lib.so.1", b"\x7fELF"),
            link("python/pkg/lib.so", "lib.so.1"),
            link("python/lib", "pkg"),
            link("python/lib.so", "lib/../pkg/lib.so"),
            Entry("resources/empty/", mode=DIRECTORY | 0o777),
            Entry("resources/naïve 日本.txt", "für".encode()),
        ])  # fmt: skip
        with pytest.raises(InvalidFunction, match=r"lib\.so.*not in the bundle"):
            await ingest(store, data)  # a link's way must not lead over another link: `..` would mean two things
        data = data.replace(b"lib/../pkg/lib.so", b"pkg/../pkg/lib.so")
        data = data.replace(*(int(c).to_bytes(4, "little") for c in _crcs(b"lib/../pkg/lib.so", b"pkg/../pkg/lib.so")))
        bundle = await ingest(store, data)
        root = store.directory(bundle.digest)
        assert content(root) == {
            ".bundle.json": (root / ".bundle.json").read_bytes(),
            "function/func.py": HANDLER,
            "function/run.sh": b"#!/bin/sh\n",
            "function/secret": b"s",
            "function/for-others": b"o",
            "python/pkg/lib.so.1": b"\x7fELF",
            "resources/naïve 日本.txt": "für".encode(),
        }
        modes = modes_below(root)
        assert {name for name, mode in modes.items() if mode == 0o755} == {
            "function", "python", "pkg", "resources", "empty", "run.sh",
        }  # fmt: skip
        assert set(modes.values()) == {0o755, 0o644}
        assert stat.S_IMODE(root.stat().st_mode) == 0o755
        assert os.readlink(root / "python/pkg/lib.so") == "lib.so.1"
        assert (root / "python/lib.so").read_bytes() == b"\x7fELF"
        assert bundle.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
        assert (bundle.packed_bytes, bundle.files) == (len(data), 14)
        assert bundle.unpacked_bytes == sum(len(c) for n, c in content(root).items() if n != ".bundle.json") + 28

    async def test_an_archive_of_info_zip_arrives(self, store: BundleStore, tmp_path: Path) -> None:
        zip_program = shutil.which("zip")
        if zip_program is None:
            pytest.skip("Info-ZIP's zip is not installed")
        source = tmp_path / "source"
        (source / "function/sub").mkdir(parents=True)
        (source / "function/func.py").write_bytes(HANDLER)
        (source / "function/sub/data").write_bytes(os.urandom(70_000))
        (source / "function/l").symlink_to("sub/data")
        for arguments in (["-ry"], ["-ry0"], ["-r"], ["-rD"]):
            made = tmp_path / f"made{arguments[0]}.zip"
            await trio.run_process([zip_program, "-q", *arguments, str(made), "function"], cwd=source)
            bundle = await store.ingest(made)
            root = store.directory(bundle.digest)
            assert (root / "function/l").read_bytes() == (source / "function/sub/data").read_bytes()
            assert (root / "function/l").is_symlink() == ("y" in arguments[0])

    async def test_many_files_arrive(self, store: BundleStore) -> None:
        files = {f"python/p{i % 30}/m{i}.py": b"x = %d\n" % i for i in range(1500)}
        bundle = await ingest(store, plain({"function/func.py": HANDLER, **files}))
        root = store.directory(bundle.digest)
        assert {name: (root / name).read_bytes() for name in files} == files


def _crcs(*texts: bytes) -> list[int]:
    import zlib

    return [zlib.crc32(text) for text in texts]


class TestWriting:
    """Should the checks ever miss something, the writer still does not follow, overwrite, or outlive the daemon."""

    @staticmethod
    def program(data: bytes, target: Path, parent_pid: int) -> dict[str, object]:
        """What the unpacking program says about an archive and an existing directory."""
        limits = {"unpacked_bytes_max": 2**20, "files_max": 9, "ratio_max": 9, "depth_max": 9, "path_bytes_max": 99}
        archive_fd = os.memfd_create("archive")
        target_fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.write(archive_fd, data)
            arguments = [str(archive_fd), str(target_fd), str(parent_pid), json.dumps({**limits, "cpu_s": 9})]
            command = [sys.executable, "-I", "-S", str(UNPACK_PROGRAM), *arguments]
            done = subprocess.run(command, pass_fds=(archive_fd, target_fd), capture_output=True, env={})
        finally:
            os.close(archive_fd)
            os.close(target_fd)
        reply: dict[str, object] = json.loads(done.stdout)
        return reply

    def test_it_says_what_it_did(self, tmp_path: Path) -> None:
        reply = self.program(with_handler(), tmp_path, os.getpid())
        assert (reply.pop("landlock", None) is not None, reply) == (
            True, {"ok": True, "files": 2, "unpacked_bytes": len(HANDLER)},
        )  # fmt: skip

    def test_what_is_there_is_not_overwritten(self, tmp_path: Path) -> None:
        victim = tmp_path / "victim"
        victim.write_text("unharmed")
        target = tmp_path / "target"
        (target / "function").mkdir(parents=True)
        reply = self.program(with_handler(), target, os.getpid())
        assert "File exists" in str(reply["os_error"])
        for make in ("link", "file"):
            root_fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
            place = tmp_path / make
            place.symlink_to(victim) if make == "link" else place.write_text("unharmed")
            writer = Writer(root_fd, sync_each=True, parent_pid=os.getppid())
            with first_of(with_handler()) as (source, member), pytest.raises(FileExistsError):
                writer.file(make, source, member)
            os.close(root_fd)
            assert place.read_text() == victim.read_text() == "unharmed"

    def test_a_link_in_place_of_a_directory_is_not_entered(self, tmp_path: Path) -> None:
        (tmp_path / "outside").mkdir()
        (tmp_path / "target").mkdir()
        (tmp_path / "target/function").symlink_to(tmp_path / "outside")
        root_fd = os.open(tmp_path / "target", os.O_RDONLY | os.O_DIRECTORY)
        with pytest.raises(NotADirectoryError):
            Writer(root_fd, sync_each=True, parent_pid=os.getppid()).directory("function/d")
        os.close(root_fd)
        assert not list((tmp_path / "outside").iterdir())

    def test_it_ends_when_the_daemon_is_gone(self, tmp_path: Path) -> None:
        reply = self.program(with_handler(), tmp_path, os.getppid())
        assert (reply["ok"], reply["reason"]) == (False, "the daemon that asked for this is gone")


@contextlib.contextmanager
def first_of(data: bytes) -> Iterator[tuple[Source, Member]]:
    """The source and its first member, ready to be written."""
    fd = os.memfd_create("archive")
    os.write(fd, data)
    source = Source(fd)
    limits = Limits(unpacked_bytes_max=2**20, files_max=9, ratio_max=9, depth_max=9, path_bytes_max=99)
    members, directory_at = read_members(source, limits)
    check_layout(source, members, directory_at)
    yield source, members[0]
    os.close(fd)
