"""Where a function's bundle comes from, as OCI's clients say it (reference oci-api 1.5, 2.9)."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, replace
from typing import Any

from daemon.bundles.interpreters import normalise_runtime
from daemon.bundles.store import BundleStore
from daemon.errors import BadRequest, InternalError, StokerError
from daemon.model import Function, Version, split_handler
from daemon.oci.prebuilt import Prebuilt
from daemon.oci.runtimes import Runtimes
from daemon.registry import FunctionChange
from daemon.store import records
from daemon.store.database import Database

IMAGE = "CONTAINER_IMAGE"
ARCHIVE = "ARCHIVE"
PREBUILT = "PRE_BUILT_FUNCTIONS"
FUNCTION_UPDATE = "FUNCTION_UPDATE"
MANUAL = "MANUAL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """``sourceDetails`` of a request, or ``image`` and ``imageDigest`` of a classic one. Empty: not mentioned."""

    kind: str
    """`IMAGE`, `ARCHIVE` or `PREBUILT`."""
    image: str = ""
    image_digest: str = ""
    archive: bytes = b""
    handler: str = ""
    runtime_config: str = ""
    """`FUNCTION_UPDATE` or `MANUAL`."""
    runtime_name: str = ""
    runtime_version_id: str = ""
    listing_id: str = ""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A change with the bundle in it, and why that bundle cannot be used, which is known only later in OCI."""

    change: FunctionChange
    failure: StokerError | None = None


def kind_of(version: Version) -> str:
    """What kind of source a version has."""
    return version.source.get("type", IMAGE)


class Sources:
    """Turns sources into bundles on this node."""

    def __init__(
        self,
        database: Database,
        bundles: BundleStore,
        runtimes: Runtimes,
        prebuilt: Prebuilt,
        *,
        archive_bytes_max: int,
    ) -> None:
        self._database = database
        self._bundles = bundles
        self._runtimes = runtimes
        self._prebuilt = prebuilt
        self._archive_bytes_max = archive_bytes_max

    async def resolve(self, change: FunctionChange, source: Source | None, old: Function | None) -> Resolved:
        """The change with the bundle that its source names, merged with the ``old`` function's source.

        Raises:
          BadRequest: the source is unknown or not allowed.
        """
        if source is None:
            return Resolved(change)
        if old is not None and source.kind != (now := kind_of(old.live)):
            raise BadRequest(f"sourceDetails.sourceType of a function cannot change: it is {now}, not {source.kind}")
        if source.kind == IMAGE:
            return Resolved(await self._image(change, source, old))
        if source.kind == PREBUILT:
            return await self._listing(change, source, old)
        return await self._archive(change, source, old)

    async def _image(self, change: FunctionChange, source: Source, old: Function | None) -> FunctionChange:
        image = source.image or (old.live.image if old else "")
        if not image:
            raise BadRequest("image is required.")
        if not source.image and not source.image_digest:
            return change
        wanted = source.image_digest

        def find(conn: Any) -> tuple[str | None, bool]:
            return records.resolve(conn, image), bool(wanted) and records.bundle(conn, wanted) is not None

        digest, known = await self._database.read(find)
        if wanted and not known:
            raise BadRequest(
                f"imageDigest: there is no bundle {wanted[:100]!r} on this node; `stoker bundles` lists them"
            )
        if not wanted and digest is None:
            raise BadRequest(
                f"image: no bundle named {image!r} was pushed to this node; push it first, for example with:"
                f" stoker push DIRECTORY {image}"
            )
        return replace(change, image=image, digest=wanted or digest or "")

    async def _listing(self, change: FunctionChange, source: Source, old: Function | None) -> Resolved:
        if old is not None and source.listing_id in ("", old.live.source.get("pbfListingId")):
            return Resolved(change)
        if old is not None:
            raise BadRequest("sourceDetails.pbfListingId of a pre-built function cannot change")
        listing = await self._prebuilt.listing(source.listing_id)
        if listing is None:
            raise BadRequest(f"sourceDetails.pbfListingId: there is no pre-built function {source.listing_id!r}")
        digest = _digest(listing.archive)
        made = replace(
            change,
            image=f"{listing.slug}:{listing.version}",
            digest=digest,
            source={"type": PREBUILT, "pbfListingId": listing.id},
        )
        return Resolved(made, await self._ingest(listing.archive, ""))

    async def _archive(self, change: FunctionChange, source: Source, old: Function | None) -> Resolved:
        before = dict(old.live.source) if old else {}
        handler = source.handler or before.get("handler", "")
        try:
            handler_file, _ = split_handler(handler)
        except ValueError as exc:
            raise BadRequest(f"sourceDetails.handler {exc}") from None
        config = source.runtime_config or before.get("runtimeConfigType", "")
        if not config:
            raise BadRequest("sourceDetails.runtimeConfig is required.")
        name = source.runtime_name or before.get("functionsRuntimeName", "")
        pinned = source.runtime_version_id or (before.get("functionsRuntimeVersionId", "") if config == MANUAL else "")
        runtime = await self._runtimes.pick(name, pinned if config == MANUAL else "")
        now = {
            "type": ARCHIVE,
            "handler": handler,
            "runtimeConfigType": config,
            "functionsRuntimeName": name,
            "functionsRuntimeVersionId": runtime.version_id,
            "sha256": before.get("sha256", ""),
        }
        change = replace(change, handler=handler, runtime=normalise_runtime(name))
        if not source.archive:
            if old is None:
                raise BadRequest("sourceDetails.archiveSourceDetails.archiveFile is required.")
            return Resolved(replace(change, source=now))
        now["sha256"] = base64.b64encode(hashlib.sha256(source.archive).digest()).decode()
        digest = _digest(source.archive)
        named = replace(change, image=f"archive@{digest}", digest=digest, source=now)
        return Resolved(named, await self._ingest(source.archive, handler_file))

    async def _ingest(self, archive: bytes, handler_file: str) -> StokerError | None:
        """Unpack it here; why that cannot be done, None: it is done."""
        try:
            async with self._bundles.spool(max(self._archive_bytes_max, len(archive))) as spool:
                await spool.write(archive)
                bundle = await self._bundles.ingest(spool, handler_file=handler_file)
        except InternalError:
            raise
        except StokerError as exc:
            return exc
        await self._database.write(lambda conn: records.set_bundle(conn, bundle))
        return None


def _digest(archive: bytes) -> str:
    return f"sha256:{hashlib.sha256(archive).hexdigest()}"
