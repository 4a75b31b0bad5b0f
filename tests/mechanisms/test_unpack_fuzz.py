"""Archives that nobody thought of: mutated ones mean what the reference reader says they mean, or are refused."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
import unicodedata
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from daemon.bundles.store import BundleStore
from daemon.bundles.unpack.rules import Limits, Refused
from daemon.bundles.unpack.writer import unpack
from daemon.config.settings import Bundles
from daemon.errors import CallerError
from tests.mechanisms.archives import HANDLER, Entry, archive, handler, link, plain

LIMITS = Limits(unpacked_bytes_max=2**20, files_max=60, ratio_max=200, depth_max=8, path_bytes_max=200)


def examples(count: int) -> settings:
    return settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.too_slow])


SEEDS = [
    plain({"function/func.py": HANDLER, "python/a/b.py": b"x = 1\n" * 40, "resources/d/": b"", "function/e": b""}),
    archive([handler(), Entry("function/s", b"stream" * 9, streamed=True), Entry("python/t", b"t", method=0)]),
    archive([handler(), Entry("function/u", b"u", streamed=True, signed=False), link("function/l", "func.py")]),
    archive([handler(), Entry("resources/é", b"1", mode=0, system=0), Entry("python/x.so", b"\x7fELF" * 30)]),
]


@contextlib.contextmanager
def unpacked(data: bytes) -> Iterator[Path]:
    """The archive unpacked by the program's own functions, in this process.

    Raises:
      Refused: as they do.
    """
    directory = Path(tempfile.mkdtemp())
    archive_fd = os.memfd_create("archive")
    root_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.write(archive_fd, data)
        unpack(archive_fd, root_fd, LIMITS, parent_pid=os.getppid())
        yield directory
    finally:
        os.close(archive_fd)
        os.close(root_fd)
        shutil.rmtree(directory)


def found(directory: Path) -> dict[str, bytes | str | None]:
    """Content of files, targets of links, None for directories."""
    return {
        str(p.relative_to(directory)): os.readlink(p) if p.is_symlink() else None if p.is_dir() else p.read_bytes()
        for p in directory.rglob("*")
    }


def read_by_zipfile(data: bytes) -> dict[str, bytes]:
    """What the standard library's reader finds in the same bytes."""
    with warnings.catch_warnings(), zipfile.ZipFile(io.BytesIO(data)) as reader:
        warnings.simplefilter("error")
        return {info.filename.rstrip("/"): reader.read(info) for info in reader.infolist()}


def check(data: bytes) -> str:
    """Refused, or on the disk is what another reader finds."""
    try:
        with unpacked(data) as directory:
            here = found(directory)
    except Refused:
        return "refused"
    there = read_by_zipfile(data)
    for name, content in there.items():
        mine = here[name]
        assert content == (b"" if mine is None else mine.encode() if isinstance(mine, str) else mine), name
    implied = {name for name in here if name not in there}
    assert all(here[name] is None for name in implied), "only directories may be there that no member names"
    return "accepted"


@pytest.mark.parametrize("seed", range(len(SEEDS)))
def test_the_seeds_are_good(seed: int) -> None:
    assert check(SEEDS[seed]) == "accepted"


def test_every_truncation_is_refused() -> None:
    for seed in SEEDS:
        for length in range(len(seed)):
            with pytest.raises(Refused), unpacked(seed[:length]):
                pytest.fail(f"accepted the first {length} of {len(seed)} bytes")


def test_every_flipped_bit_is_refused_or_harmless() -> None:
    """All single-bit errors of one archive: what is accepted has the same names and the same content."""
    seed = SEEDS[1]
    with unpacked(seed) as directory:
        good = found(directory)
    outcomes = {"refused": 0, "same": 0}
    for position in range(len(seed)):
        for bit in range(8):
            data = bytearray(seed)
            data[position] ^= 1 << bit
            try:
                with unpacked(bytes(data)) as directory:
                    assert found(directory) == good, f"byte {position}, bit {bit}"
                    outcomes["same"] += 1
            except Refused:
                outcomes["refused"] += 1
    assert outcomes["refused"] > outcomes["same"] > 0  # times and comments may flip, little else


def mutate(data: bytes, draw: st.DataObject) -> bytes:
    """A few changes at random: bytes, numbers, pieces moved, removed, doubled."""
    out = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 4))):
        at = draw.draw(st.integers(0, len(out)))
        kind = draw.draw(st.sampled_from(["byte", "number", "cut", "copy", "insert", "splice"]))
        size = draw.draw(st.integers(0, 40))
        if kind == "byte":
            out[at : at + 1] = draw.draw(st.binary(min_size=1, max_size=1))
        elif kind == "number":
            value = draw.draw(st.sampled_from([0, 1, 8, 0xFF, 0xFFFF, 0xFFFFFFFF, len(out), len(out) - 22]))
            out[at : at + 4] = (value & 0xFFFFFFFF).to_bytes(4, "little")
        elif kind == "cut":
            del out[at : at + size]
        elif kind == "copy":
            out[at:at] = out[size : 2 * size]
        elif kind == "insert":
            out[at:at] = draw.draw(st.binary(max_size=20))
        else:
            other = draw.draw(st.sampled_from(SEEDS))
            out[at : at + size] = other[at : at + size]
    return bytes(out)


@examples(400)
@given(st.sampled_from(SEEDS), st.data())
def test_mutated_archives_are_refused_or_mean_what_zipfile_says(seed: bytes, draw: st.DataObject) -> None:
    event(check(mutate(seed, draw)))


@examples(200)
@given(st.binary(max_size=300))
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(Refused), unpacked(garbage):
        pass


parts = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"], exclude_characters="/\\"),
    min_size=1, max_size=8,
).filter(lambda text: text not in (".", ".."))  # fmt: skip
paths = st.lists(parts, min_size=1, max_size=4).map("/".join)


@st.composite
def trees(draw: st.DrawFn) -> dict[str, bytes]:
    """Files of a legal bundle: no two names alike in any form, none below another."""
    files = {"function/func.py": HANDLER}
    taken = {"function", "function/func.py"}
    for root, path in draw(
        st.lists(st.tuples(st.sampled_from(["function", "python", "resources"]), paths), max_size=8)
    ):
        name = f"{root}/{path}"
        steps = name.split("/")
        above = ["/".join(steps[: i + 1]) for i in range(len(steps))]
        forms = {unicodedata.normalize("NFC", step): step for step in [*files, *taken]}
        clash = any(forms.get(unicodedata.normalize("NFC", step), step) != step for step in above)
        if clash or name in taken or any(step in files for step in above):
            continue
        files[name] = draw(st.binary(max_size=300))
        taken.update(above)
    return files


@examples(150)
@given(trees(), st.booleans())
def test_a_legal_tree_arrives_as_it_was_sent(files: dict[str, bytes], streamed: bool) -> None:
    entries = [Entry(name, data, streamed=streamed) for name, data in files.items()]
    with unpacked(archive(entries)) as directory:
        here = {name: content for name, content in found(directory).items() if content is not None}
    assert here == files


@examples(60)
@given(st.sampled_from(SEEDS), st.data())
def test_the_store_keeps_a_mutated_archive_whole_or_not_at_all(seed: bytes, draw: st.DataObject) -> None:
    data = mutate(seed, draw)

    async def run(root: Path) -> None:
        store = BundleStore(root, Bundles())
        async with store.spool(2**20) as spool:
            await spool.write(data)
            try:
                bundle = await store.ingest(spool)
            except CallerError:
                assert not list((root / "sha256").iterdir())
            else:
                here = {n: c for n, c in found(store.directory(bundle.digest)).items() if n != ".bundle.json"}
                for name, content in read_by_zipfile(data).items():
                    mine = here[name]
                    assert content == (b"" if mine is None else mine.encode() if isinstance(mine, str) else mine)
        assert not list((root / "spool").iterdir())

    with tempfile.TemporaryDirectory() as root:
        trio.run(run, Path(root))


evil_parts = st.sampled_from(
    ["..", ".", "", "function", "python", "a", "link", "victim", "é", "e\u0301", "x" * 256, "\\", "C:", "~", "-rf"]
)
evil_names = st.lists(evil_parts, min_size=1, max_size=5).map("/".join) | st.builds("/{}".format, evil_parts)
evil_entries = st.one_of(
    st.builds(Entry, evil_names, st.binary(max_size=20)),
    st.builds(link, evil_names.map("function/{}".format), evil_names),
    st.builds(lambda name, mode: Entry(name, b"", mode=mode), evil_names, st.sampled_from([0o10644, 0o20666, 0o60666])),
    st.builds(lambda name: Entry(f"function/link/{name}", b"through a link"), evil_parts),
    st.just(link("function/link", "../../victim")),
    st.just(link("function/link", "..")),
)


@examples(300)
@given(st.lists(evil_entries, max_size=6), st.data(), st.booleans())
def test_nothing_is_written_outside_whatever_the_names_and_links(
    entries: list[Entry], draw: st.DataObject, mutated: bool
) -> None:
    data = archive([handler(), *entries])
    if mutated:
        data = mutate(data, draw)
    outer = Path(tempfile.mkdtemp())
    target = outer / "a" / "b" / "target"
    target.mkdir(parents=True)
    for victim in (outer / "victim", outer / "a" / "victim", outer / "a" / "b" / "victim"):
        victim.write_text("untouched")
    archive_fd, root_fd = os.memfd_create("archive"), os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.write(archive_fd, data)
        try:
            unpack(archive_fd, root_fd, LIMITS, parent_pid=os.getppid())
        except Refused:
            event("refused")
        else:
            event("accepted")
            assert not [p for p in target.rglob("*") if not p.resolve().is_relative_to(target.resolve())]
            assert not [p for p in target.rglob("*") if not (p.is_symlink() or p.is_dir() or p.is_file())]
        outside = {p: p.read_text() if p.is_file() else None for p in outer.rglob("*") if target not in p.parents}
        assert set(outside.values()) == {"untouched", None}
        assert len(outside) == 6, sorted(outside)
    finally:
        os.close(archive_fd)
        os.close(root_fd)
        shutil.rmtree(outer)
