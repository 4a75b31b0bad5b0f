"""The store of bundles: uploads, checks, unpacks once, names by SHA-256.

``<root>/sha256/<hex>/`` holds ``function/`` and perhaps ``python/`` and ``resources/`` of one bundle, and
``.bundle.json`` with what was found in it. A *layer* is a bundle that holds ``python/`` alone: the dependencies that
many bundles, above all the versions of one function, have in common. A bundle names its layer in the file
``python.layer`` and gets a link ``python`` to the layer's.

A bundle appears by one rename when all of it is on the disk, and never changes after. What is on its way has a name
that ends in ``.partial``, here and in ``<root>/spool/``; such names are removed at the next start. The archive is
hostile: it is read by `daemon.bundles.unpack`, a program in a confined child process.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import trio

from daemon.bundles.funcfile import settings_of
from daemon.bundles.unpack.rules import LAYER_FILE
from daemon.config import settings as config
from daemon.errors import InternalError, InvalidFunction, LayerMissing, RequestTooLarge
from daemon.model import Bundle
from daemon.workers.tmpdirs import forget_bundle

__all__ = ["BundleStore", "Spool"]

UNPACK_PROGRAM = Path(__file__).parent / "unpack" / "__main__.py"
UNPACKS_AT_ONCE = 2
"""Most unpacking processes; further uploads wait."""
REPLY_BYTES_MAX = 64 * 2**10
"""Most bytes the unpacking process may say."""
SPOOL_BUFFER_BYTES = 2**20
"""An upload goes to the disk in pieces of this size: one change of thread for each."""
UNNAMED_S = 600.0
"""How long a bundle may be there before something names it: the time between an upload and the deploy that uses it."""
METADATA = ".bundle.json"
LAYER = "layer"
"""Stands for the runtime of a layer, which cannot run."""
DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class Spool:
    """An upload on its way to the disk; made by `BundleStore.spool`. ``digest`` and ``size`` grow with it."""

    def __init__(self, path: Path, bytes_max: int) -> None:
        self.path = path
        self.size = 0
        self._bytes_max = bytes_max
        self._hash = hashlib.sha256()
        self._buffer = bytearray()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    @property
    def digest(self) -> str:
        """``sha256:<hex>`` of what was written to the disk; final after `finish`."""
        return f"sha256:{self._hash.hexdigest()}"

    async def write(self, chunk: bytes) -> None:
        """Add bytes.

        Raises:
          RequestTooLarge: more than the limit in all.
          InternalError: the disk is full or broken.
        """
        self.size += len(chunk)
        if self.size > self._bytes_max:
            raise RequestTooLarge(f"bundle too large: over {self._bytes_max} bytes (http.bundle_bytes_max)")
        self._buffer += chunk
        if len(self._buffer) >= SPOOL_BUFFER_BYTES:
            await self._flush(sync=False)

    async def finish(self) -> str:
        """After this all of it is on the disk. Returns the digest."""
        await self._flush(sync=True)
        return self.digest

    async def _flush(self, *, sync: bool) -> None:
        data, self._buffer = bytes(self._buffer), bytearray()
        try:
            await trio.to_thread.run_sync(self._write, data, sync)
        except OSError as exc:
            raise InternalError("cannot store bundle", detail=str(exc)) from exc

    def _write(self, data: bytes, sync: bool) -> None:
        self._hash.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        if sync:
            os.fsync(self._fd)

    def close(self) -> None:
        """Remove the file."""
        os.close(self._fd)
        self.path.unlink(missing_ok=True)


class BundleStore:
    """All bundles of a node. Its directories are made at the first use."""

    def __init__(
        self, root: Path, limits: config.Bundles, *, run_dir: Path | None = None, interpreter: str = sys.executable
    ) -> None:
        """``run_dir``: where compiled modules are, which go with their bundle (`daemon.workers.tmpdirs.pycache`)."""
        self._root = root
        self._run_dir = run_dir
        self._limits = limits
        self._interpreter = interpreter
        self._bundles = root / "sha256"
        self._spools = root / "spool"
        self._turns = trio.CapacityLimiter(UNPACKS_AT_ONCE)
        self._active: set[str] = set()  # names of the .partial files and directories that are being worked on
        self._fresh: dict[str, float] = {}  # digest -> when it was last ingested
        self._running: dict[str, trio.Event] = {}  # digests that are being ingested
        self._lock = threading.Lock()  # between `ingest` and `sweep`, which runs in a thread

    def directory(self, digest: str) -> Path:
        """Where the bundle is or would be.

        Raises:
          InvalidFunction: not ``sha256:`` and 64 hexadecimal digits.
        """
        match = DIGEST.fullmatch(digest)
        if match is None:
            raise InvalidFunction(f"digest: must be sha256: and 64 hexadecimal digits in lower case, not {digest!r}")
        return self._bundles / match[1]

    @asynccontextmanager
    async def spool(self, bytes_max: int) -> AsyncIterator[Spool]:
        """A place for an upload of at most ``bytes_max``; it is gone when the block ends."""
        name = f"{secrets.token_hex(8)}.partial"
        self._active.add(name)
        try:
            self._spools.mkdir(parents=True, exist_ok=True, mode=0o700)
            spool = Spool(self._spools / name, bytes_max)
            try:
                yield spool
            finally:
                spool.close()
        finally:
            self._active.discard(name)

    async def ingest(self, source: Spool | Path, *, handler_file: str = "", layer: bool = False) -> Bundle:
        """Check the archive and unpack it, unless it is there already. Idempotent. ``layer``: it must be one.

        ``handler_file`` (relative to ``function/``) must be in it, else the one that its func.yaml names.

        Raises:
          InvalidFunction, RequestTooLarge: it breaks a rule; the text names the member. Nothing is left of it.
          LayerMissing: the layer that it names is not here.
          InternalError: the disk is full or broken.
        """
        if isinstance(source, Spool):
            path, digest, size = source.path, await source.finish(), source.size  # noqa: ASYNC240  # not a Path
        else:
            path = source
            digest, size = await trio.to_thread.run_sync(_digest_of, path)
        with self._lock:
            self._fresh[digest] = time.monotonic()
        while (running := self._running.get(digest)) is not None:  # the same bundle twice at once: the second waits
            await running.wait()
        self._running[digest] = trio.Event()
        try:
            found = await trio.to_thread.run_sync(self._load, digest)
            if found is not None:
                if layer != (found.runtime == LAYER):
                    raise InvalidFunction(f"{digest} is {'not ' if layer else ''}a layer")
                if handler_file:
                    await trio.to_thread.run_sync(_check_handler, self.directory(digest), handler_file)
                return found
            async with self._turns:
                return await self._unpack(path, digest, size, handler_file, layer=layer)
        finally:
            self._running.pop(digest).set()

    def hold(self, digest: str) -> bool:
        """Whether the bundle is on the disk. If so, no `sweep` takes it for `UNNAMED_S`: time to name it."""
        with self._lock:
            self._fresh[digest] = time.monotonic()
        return self._load(digest) is not None

    def hold_layer(self, digest: str) -> bool:
        """The same for a layer."""
        return self.hold(digest) and _read_metadata(self.directory(digest)).get("runtime") == LAYER

    def _load(self, digest: str) -> Bundle | None:
        try:
            fields = _read_metadata(self.directory(digest))
            found = Bundle(**{**fields, **{name: tuple(fields.get(name, ())) for name in ("expects", "command")}})
        except (KeyError, TypeError):
            return None
        return found if not found.layer or self.hold_layer(found.layer) else None

    async def _unpack(self, path: Path, digest: str, size: int, handler_file: str, *, layer: bool) -> Bundle:
        final = self.directory(digest)
        target = final.with_name(f"{final.name}.{secrets.token_hex(4)}.partial")
        self._active.add(target.name)
        try:
            await trio.to_thread.run_sync(_make_directory, target)
            report = await self._run_child(path, target, layer=layer)
            bundle = partial(
                Bundle,
                digest=digest,
                packed_bytes=size,
                unpacked_bytes=report["unpacked_bytes"],
                files=report["files"],
                created_at=time.time_ns() // 1_000_000,
            )
            return await trio.to_thread.run_sync(self._complete, bundle, target, final, handler_file, layer)
        except OSError as exc:
            raise InternalError("cannot store bundle", detail=str(exc)) from exc
        finally:
            with trio.CancelScope(shield=True):  # bounded: removing what was unpacked
                await trio.to_thread.run_sync(partial(shutil.rmtree, target, ignore_errors=True))
            self._active.discard(target.name)

    async def _run_child(self, archive: Path, target: Path, *, layer: bool) -> dict[str, int]:
        """Run the unpacking program on the archive; its report."""
        limits = self._limits
        numbers = {
            "unpacked_bytes_max": limits.unpacked_bytes_max,
            "files_max": limits.files_max,
            "ratio_max": limits.ratio_max,
            "depth_max": limits.depth_max,
            "path_bytes_max": limits.path_bytes_max,
            "layer": layer,
            "cpu_s": math.ceil(limits.unpack_s),
        }
        archive_fd = os.open(archive, os.O_RDONLY | os.O_CLOEXEC)
        target_fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        command = [
            self._interpreter, "-I", "-S", str(UNPACK_PROGRAM),
            str(archive_fd), str(target_fd), str(os.getpid()), json.dumps(numbers),
        ]  # fmt: skip
        try:
            with trio.move_on_after(limits.unpack_s) as limit:
                said, status = await _run_confined(command, (archive_fd, target_fd))
        finally:
            os.close(archive_fd)
            os.close(target_fd)
        if limit.cancelled_caught:
            raise InvalidFunction(f"cannot unpack bundle: not done in {limits.unpack_s:g} s (bundles.unpack_s)")
        try:
            report = json.loads(said)
        except ValueError:
            ended = f"killed by signal {-status}" if status < 0 else f"exit code {status}"
            tail = said[-2000:].decode(errors="replace")
            raise InternalError(
                "cannot unpack bundle", detail=f"the unpacking process ended: {ended}\n{tail}"
            ) from None
        if report["ok"]:
            return {"files": int(report["files"]), "unpacked_bytes": int(report["unpacked_bytes"])}
        if report.get("os_error"):
            raise InternalError("cannot unpack bundle", detail=report["os_error"])
        member = f"'{report['member']}' " if report["member"] else ""
        error = RequestTooLarge if report["too_large"] else InvalidFunction
        raise error(f"cannot unpack bundle: {member}{report['reason']}")

    def _complete(self, bundle: partial[Bundle], target: Path, final: Path, handler_file: str, layer: bool) -> Bundle:
        """Read func.yaml, write down what the bundle is, and let it appear under its name. Blocks."""
        made = bundle(**_settings(target, handler_file, layer=layer), layer=self._link_layer(target))
        fd = os.open(target / METADATA, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with os.fdopen(fd, "w") as file:
            json.dump(asdict(made), file)
            file.flush()
            os.fsync(fd)
        target.chmod(0o755)
        _fsync_directory(target)
        if final.is_dir():  # `_load` refused it: somebody damaged it
            final.rename(target.with_name(f"{final.name}.{secrets.token_hex(4)}.partial"))
        target.rename(final)
        _fsync_directory(final.parent)
        return made

    def _link_layer(self, target: Path) -> str:
        """Link the layer that the bundle names, if any, as its ``python``; the layer's digest or an empty string.

        Raises:
          InvalidFunction, LayerMissing
        """
        try:
            digest = (target / LAYER_FILE).read_bytes().decode("ascii", "replace").strip()
        except FileNotFoundError:
            return ""
        if DIGEST.fullmatch(digest) is None:
            raise InvalidFunction(f"{LAYER_FILE}: must be sha256: and 64 hexadecimal digits, not {digest!r}")
        if not self.hold_layer(digest):
            raise LayerMissing(f"no layer {digest} on this node")
        (target / "python").symlink_to(os.path.join("..", digest.removeprefix("sha256:"), "python"))
        return digest

    def sweep(self, keep: set[str], *, unnamed_s: float = UNNAMED_S) -> list[str]:
        """Remove what was left half done, and every bundle not in ``keep``; returns the digests removed. Blocks.

        A bundle that was ingested less than ``unnamed_s`` ago stays: the deploy that names it may be on its way.
        """
        removed = []
        self.sweep_partial()
        paths = {f"sha256:{path.name}": path for path in _listing(self._bundles)}
        bundles = {digest: path for digest, path in paths.items() if DIGEST.fullmatch(digest)}
        with self._lock:
            fresh = {digest for digest, at in self._fresh.items() if time.monotonic() - at < unnamed_s}
        layers = {_read_metadata(bundles[digest]).get("layer") for digest in (keep | fresh) & bundles.keys()}
        for digest, path in bundles.items():
            if digest in keep or digest in layers:
                continue
            doomed = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
            with self._lock:
                if time.monotonic() - self._fresh.get(digest, -math.inf) < unnamed_s:
                    continue
                self._fresh.pop(digest, None)
                path.rename(doomed)  # gone for everybody at once; the files follow
            shutil.rmtree(doomed)
            if self._run_dir is not None:
                forget_bundle(self._run_dir, str(path))
            removed.append(digest)
        return removed

    def sweep_partial(self) -> int:
        """Remove what an earlier run left half done; returns how many. Blocks."""
        left = [
            path
            for path in [*_listing(self._bundles), *_listing(self._spools)]
            if path.name.endswith(".partial") and path.name not in self._active
        ]
        for path in left:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        return len(left)


async def _run_confined(command: list[str], fds: tuple[int, ...]) -> tuple[bytes, int]:
    """Run to its end, in a process group of its own with an empty environment; what it said and its exit status.

    The group keeps Ctrl-C of a terminal away from it. It stays in our session: what is in another one, the launcher
    takes for an orphan of a spawner that was killed (`Launcher._sweep_orphans`).
    """
    said = bytearray()
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={}, process_group=0, pass_fds=fds,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        while len(said) < REPLY_BYTES_MAX and (data := await process.stdout.receive_some(4096)):
            said += data
        if len(said) >= REPLY_BYTES_MAX:
            process.kill()
        await process.wait()
    finally:
        process.kill()  # nothing happens if it has ended
        with trio.CancelScope(shield=True):  # bounded by the SIGKILL
            await process.wait()
            await process.stdout.aclose()
    assert process.returncode is not None
    return bytes(said), process.returncode


def _make_directory(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700)


def _settings(target: Path, handler_file: str, *, layer: bool) -> dict[str, Any]:
    """What func.yaml says about how to run the bundle.

    Raises:
      InvalidFunction: the handler is not there, or func.yaml cannot be used.
    """
    if layer:
        return {"runtime": LAYER, "handler_file": "", "handler_name": ""}
    settings = settings_of(target / "function")
    if handler_file or not settings.command:
        _check_handler(target, handler_file or settings.handler_file)
    return asdict(settings)


def _check_handler(directory: Path, handler_file: str) -> None:
    handler = directory / "function" / handler_file
    if handler.is_symlink() or not handler.is_file():
        raise InvalidFunction(f"cannot use bundle: function/{handler_file} is not in it: the handler's file goes there")


def _read_metadata(directory: Path) -> dict[str, Any]:
    """What was written down about a bundle; empty when it is not there or damaged."""
    try:
        fields = json.loads((directory / METADATA).read_bytes())
    except (OSError, ValueError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _fsync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _listing(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except FileNotFoundError:
        return []


def _digest_of(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return f"sha256:{digest}", os.fstat(file.fileno()).st_size
