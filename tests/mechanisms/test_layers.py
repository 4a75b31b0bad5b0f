"""Layers: dependencies that bundles have in common, kept once for as long as a bundle names them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from daemon.bundles.store import LAYER, METADATA, BundleStore
from daemon.config.settings import Bundles
from daemon.errors import InvalidFunction, LayerMissing
from daemon.model import Bundle
from tests.mechanisms.archives import HANDLER, Entry, archive, handler, link, plain

PACKAGE = plain({"python/tiny/__init__.py": b"WHO = 'tiny'\n"})
PACKAGE_DIGEST = f"sha256:{hashlib.sha256(PACKAGE).hexdigest()}"


def naming(digest: str | bytes, source: bytes = HANDLER) -> bytes:
    text = digest if isinstance(digest, bytes) else f"{digest}\n".encode()
    return archive([Entry("function/func.py", source), Entry("python.layer", text)])


async def ingest(store: BundleStore, data: bytes, *, layer: bool = False) -> Bundle:
    async with store.spool(2**24) as spool:
        await spool.write(data)
        return await store.ingest(spool, layer=layer)


@pytest.fixture
def store(tmp_path: Path) -> BundleStore:
    return BundleStore(tmp_path / "bundles", Bundles(), run_dir=tmp_path / "run")


async def test_bundles_that_name_a_layer_share_its_files(store: BundleStore) -> None:
    layer = await ingest(store, PACKAGE, layer=True)
    assert (layer.digest, layer.runtime, layer.handler_file) == (PACKAGE_DIGEST, LAYER, "")
    first, second = [await ingest(store, naming(PACKAGE_DIGEST, HANDLER + tail)) for tail in (b"", b"# changed\n")]
    assert first.layer == second.layer == PACKAGE_DIGEST
    inodes = {(store.directory(b.digest) / "python" / "tiny" / "__init__.py").stat().st_ino for b in (first, second)}
    assert inodes == {(store.directory(layer.digest) / "python" / "tiny" / "__init__.py").stat().st_ino}
    assert await ingest(store, naming(PACKAGE_DIGEST)) == first, "as it was written down"


async def test_a_layer_lives_as_long_as_a_bundle_names_it(store: BundleStore) -> None:
    await ingest(store, PACKAGE, layer=True)
    other = await ingest(store, plain({"python/other.py": b""}), layer=True)
    bundle = await ingest(store, naming(PACKAGE_DIGEST))
    assert store.sweep({bundle.digest}, unnamed_s=60) == [], "all of them came just now"
    assert store.sweep({bundle.digest}, unnamed_s=0) == [other.digest]
    assert sorted(store.sweep(set(), unnamed_s=0)) == sorted([PACKAGE_DIGEST, bundle.digest])


async def test_a_fresh_bundle_keeps_its_layer_too(store: BundleStore, tmp_path: Path) -> None:
    await ingest(store, PACKAGE, layer=True)
    later = BundleStore(tmp_path / "bundles", Bundles())  # a daemon that was restarted and has seen no upload
    assert later.hold_layer(PACKAGE_DIGEST)
    bundle = await ingest(later, naming(PACKAGE_DIGEST))
    assert later.sweep(set(), unnamed_s=60) == []
    assert (later.directory(bundle.digest) / "python" / "tiny").is_dir()


async def test_compiled_modules_go_with_what_they_were_compiled_of(store: BundleStore, tmp_path: Path) -> None:
    layer = await ingest(store, PACKAGE, layer=True)
    cache = tmp_path / "run" / "pycache" / "FUNCTION"
    compiled = cache / str(store.directory(layer.digest)).lstrip("/") / "python"
    other = cache / "elsewhere"
    for path in (compiled, other):
        path.mkdir(parents=True)
        (path / "x.pyc").write_bytes(b"")
    assert store.sweep(set(), unnamed_s=0) == [layer.digest]
    assert not compiled.parent.exists()
    assert (other / "x.pyc").exists()


async def test_a_layer_that_is_not_here(store: BundleStore) -> None:
    with pytest.raises(LayerMissing, match=f"no layer {PACKAGE_DIGEST} on this node"):
        await ingest(store, naming(PACKAGE_DIGEST))
    assert not list((store.directory(PACKAGE_DIGEST).parent).iterdir()), "nothing is left"
    await ingest(store, PACKAGE, layer=True)
    assert (await ingest(store, naming(PACKAGE_DIGEST))).layer == PACKAGE_DIGEST


async def test_a_bundle_whose_layer_was_lost_is_not_taken_for_whole(store: BundleStore) -> None:
    await ingest(store, PACKAGE, layer=True)
    bundle = await ingest(store, naming(PACKAGE_DIGEST))
    (store.directory(PACKAGE_DIGEST) / METADATA).write_text("{}")
    assert not store.hold(bundle.digest)
    with pytest.raises(LayerMissing):
        await ingest(store, naming(PACKAGE_DIGEST))
    await ingest(store, PACKAGE, layer=True)
    assert store.hold(bundle.digest)


async def test_a_bundle_is_no_layer_and_a_layer_no_bundle(store: BundleStore) -> None:
    layer = await ingest(store, PACKAGE, layer=True)
    with pytest.raises(InvalidFunction, match="is a layer"):
        await ingest(store, PACKAGE)
    bundle = await ingest(store, plain({"function/func.py": HANDLER}))
    with pytest.raises(InvalidFunction, match="is not a layer"):
        await ingest(store, plain({"function/func.py": HANDLER}), layer=True)
    assert store.hold_layer(layer.digest)
    assert not store.hold_layer(bundle.digest)
    with pytest.raises(LayerMissing):
        await ingest(store, naming(bundle.digest))


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([handler(), Entry("python/x.py", b"")], "'function' is in a layer, which holds python/ and nothing else"),
        ([Entry("resources/x", b"")], "'resources' is in a layer"),
        ([Entry("python.layer", b"x"), Entry("python/x.py", b"")], "'python.layer' is in a layer"),
        ([], "there is no python/ in the archive"),
        ([Entry("python/../x", b"")], "has '..' as a part of its name"),
        ([link("python/x", "../../../etc/passwd")], "leads out of the bundle"),
    ],
)
async def test_what_is_no_layer(store: BundleStore, entries: list[Entry], why: str) -> None:
    with pytest.raises(InvalidFunction) as refused:
        await ingest(store, archive(entries), layer=True)
    assert why in str(refused.value)
    assert not list((store.directory(PACKAGE_DIGEST).parent).iterdir())


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([Entry("python.layer", b"sha256:1")], "python.layer: must be sha256: and 64 hexadecimal digits"),
        ([Entry("python.layer", b"\xff" * 71)], "python.layer: must be"),
        ([Entry("python.layer", b"../" * 20)], "python.layer: must be"),
        ([Entry("python.layer", b"x" * 81)], "'python.layer' must be a file"),
        ([Entry("python.layer", b"")], "'python.layer' must be a file"),
        ([link("python.layer", "function/func.py")], "'python.layer' must be a file"),
        ([Entry("python.layer/x", b"")], "is outside function/, python/, resources/"),
        ([Entry("python.layer", PACKAGE_DIGEST.encode()), Entry("python/x.py", b"")], "one of them has to go"),
    ],
)
async def test_what_names_no_layer(store: BundleStore, entries: list[Entry], why: str) -> None:
    await ingest(store, PACKAGE, layer=True)
    with pytest.raises(InvalidFunction) as refused:
        await ingest(store, archive([handler(), *entries]))
    assert why in str(refused.value)
    assert [p.name for p in store.directory(PACKAGE_DIGEST).parent.iterdir()] == [PACKAGE_DIGEST[7:]]


async def test_what_is_written_down_tells_the_layer(store: BundleStore) -> None:
    await ingest(store, PACKAGE, layer=True)
    bundle = await ingest(store, naming(PACKAGE_DIGEST))
    written = json.loads((store.directory(bundle.digest) / METADATA).read_text())
    assert (written["layer"], written["digest"]) == (PACKAGE_DIGEST, bundle.digest)
