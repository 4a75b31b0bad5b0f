"""Bundles over HTTP: upload, name, list, forget. Rows of the table `daemon.http.ops`."""

from __future__ import annotations

import binascii
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import trio

from daemon.auth import permissions as perm
from daemon.bundles.store import DIGEST, BundleStore, Spool
from daemon.errors import BadRequest, NotFound, RequestTooLarge, StokerError
from daemon.http.views import ApiReply, ApiRequest, Route, rfc3339
from daemon.janitor import collect_bundles
from daemon.model import Bundle, Function
from daemon.registry import Registry
from daemon.store import records
from daemon.store.database import Database

IMAGE = re.compile(
    r"(?!sha256:)[A-Za-z0-9][A-Za-z0-9._-]*(?::\d+/)?(?:[A-Za-z0-9._/-]+)?:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
)
"""``name:version``, as image names are written: perhaps a registry with its port, a path, a tag."""
IMAGE_BYTES_MAX = 255


class Store(Protocol):
    """What these endpoints need of the daemon."""

    @property
    def bundle_bytes_max(self) -> int:
        """Largest upload (``http.bundle_bytes_max``)."""

    @property
    def registry(self) -> Registry: ...
    @property
    def database(self) -> Database: ...
    @property
    def bundles(self) -> BundleStore: ...


async def put_bundle(store: Store, request: ApiRequest) -> ApiReply:
    """PUT /stoker/v1/bundles/{name}:{version}: an upload, or with ``?digest=`` a further name for what is here.

    The reply is sent when bundle and name are on the disk.
    """
    image = _image(request)
    if digest := request.first("digest"):
        # Checked first: a name must never point at files that a sweep is about to take.
        if not await trio.to_thread.run_sync(store.bundles.hold, digest):
            raise NotFound(f"no bundle {digest} on this node")
        bundle, created = await _name(store, image, digest), False
    else:
        bundle, created = await _upload(store, request, image)
    reply: dict[str, Any] = {"image": image, **bundle_form(bundle), "created": created}
    if outcomes := await store.registry.bundle_pushed(image):
        reply["deployed"] = [_outcome_form(function, error) for function, error in outcomes]
    return ApiReply(body=reply)


@asynccontextmanager
async def _received(store: Store, request: ApiRequest) -> AsyncIterator[tuple[Spool, str]]:
    """The request's body on the disk, and its digest, which is the announced one if one was announced."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > store.bundle_bytes_max:
        raise RequestTooLarge(f"bundle too large: {length} bytes, {store.bundle_bytes_max} allowed")
    claimed = _claimed(request.headers.get("x-content-sha256", ""))
    async with store.bundles.spool(store.bundle_bytes_max) as spool:
        await spool.write(request.body)
        if request.chunks is not None:
            try:
                async for chunk in request.chunks:
                    await spool.write(chunk)
            finally:  # a refusal leaves the rest unread
                if isinstance(request.chunks, AsyncGenerator):
                    await request.chunks.aclose()
        if not spool.size:
            raise BadRequest("bundle: the body is empty; send a ZIP, or ?digest= to name a bundle that is here")
        digest = await spool.finish()
        if claimed and digest != f"sha256:{claimed}":
            raise BadRequest(f"X-Content-Sha256: {claimed} was announced, but {digest} arrived")
        yield spool, digest


async def _upload(store: Store, request: ApiRequest, image: str) -> tuple[Bundle, bool]:
    async with _received(store, request) as (spool, digest):
        known = await trio.to_thread.run_sync(store.bundles.hold, digest)
        bundle = await store.bundles.ingest(spool)
    now_ms = time.time_ns() // 1_000_000

    def save(conn: Any) -> None:
        records.set_bundle(conn, bundle)
        records.set_reference(conn, image, digest, now_ms=now_ms)

    await store.database.write(save)
    return bundle, not known


async def put_layer(store: Store, request: ApiRequest) -> ApiReply:
    """PUT /stoker/v1/layers/{digest}: dependencies that bundles have in common; see docs/reference/api.md.

    It stays for ten minutes, and then as long as a bundle names it.
    """
    wanted = _layer_digest(request)
    async with _received(store, request) as (spool, digest):
        if digest != wanted:
            raise BadRequest(f"digest: {wanted} was announced, but {digest} arrived")
        return ApiReply(body=layer_form(await store.bundles.ingest(spool, layer=True)))


async def get_layer(store: Store, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/layers/{digest}: whether it is here. If so it stays for another ten minutes."""
    digest = _layer_digest(request)
    if not await trio.to_thread.run_sync(store.bundles.hold_layer, digest):
        raise NotFound(f"no layer {digest} on this node")
    return ApiReply(body={"digest": digest})


def _layer_digest(request: ApiRequest) -> str:
    digest = request.params["digest"]
    if not DIGEST.fullmatch(digest):
        raise BadRequest(f"digest: must be sha256: and 64 hexadecimal digits, not {digest[:300]!r}")
    return digest


def layer_form(layer: Bundle) -> dict[str, Any]:
    """A layer as clients see it."""
    return {
        "digest": layer.digest,
        "packed_bytes": layer.packed_bytes,
        "unpacked_bytes": layer.unpacked_bytes,
        "files": layer.files,
        "created_at": rfc3339(layer.created_at),
    }


def _claimed(value: str) -> str:
    """A digest as 64 hexadecimal digits: given like that, or in base64 as in OCI's signed requests."""
    if len(value) == 44:
        try:
            return binascii.a2b_base64(value, strict_mode=True).hex()
        except ValueError:
            pass
    claimed = value.removeprefix("sha256:").lower()
    if claimed and not re.fullmatch("[0-9a-f]{64}", claimed):
        raise BadRequest("X-Content-Sha256: must be 64 hexadecimal digits, or the digest in base64")
    return claimed


async def _name(store: Store, image: str, digest: str) -> Bundle:
    now_ms = time.time_ns() // 1_000_000

    def save(conn: Any) -> Bundle | None:
        records.set_reference(conn, image, digest, now_ms=now_ms)
        return records.bundle(conn, digest)

    bundle = await store.database.write(save)
    assert bundle is not None, "set_reference has just seen it"
    return bundle


def _image(request: ApiRequest) -> str:
    image = request.params["image"]
    if len(image) > IMAGE_BYTES_MAX or not IMAGE.fullmatch(image):
        raise BadRequest(f"image: must be NAME:VERSION, for example hello:0.0.1, not {image[:300]!r}")
    return image


def _outcome_form(function: Function, error: StokerError | None) -> dict[str, Any]:
    form: dict[str, Any] = {"function_id": function.id, "function": function.name}
    return form if error is None else {**form, **error.to_json()}


def bundle_form(bundle: Bundle) -> dict[str, Any]:
    """A bundle as clients see it."""
    module = bundle.handler_file.removesuffix(".py").replace("/", ".")
    return {
        "digest": bundle.digest,
        "packed_bytes": bundle.packed_bytes,
        "unpacked_bytes": bundle.unpacked_bytes,
        "files": bundle.files,
        "runtime": bundle.runtime,
        "handler": f"{module}.{bundle.handler_name}",
        "expects": list(bundle.expects),
        "layer": bundle.layer,
        "created_at": rfc3339(bundle.created_at),
    }


async def list_bundles(store: Store, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/bundles[?name=]: names and what they point at; without ``name`` also bundles that lost theirs."""
    name = request.first("name")
    references, bundles = await store.database.read(
        lambda conn: (records.references(conn, name=name), {b.digest: b for b in records.bundles(conn)})
    )
    items = [{"image": image, **bundle_form(bundles[digest])} for image, digest, _ in references]
    if not name:
        named = {digest for _, digest, _ in references}
        items += [{"image": "", **bundle_form(bundle)} for digest, bundle in bundles.items() if digest not in named]
    return ApiReply(body={"items": items})


async def get_bundle(store: Store, request: ApiRequest) -> ApiReply:
    """GET /stoker/v1/bundles/{digest}"""
    digest = request.params["digest"]
    bundle, references = await store.database.read(
        lambda conn: (records.bundle(conn, digest), records.references(conn))
    )
    if bundle is None:
        raise NotFound(f"no bundle {digest} on this node")
    return ApiReply(body={**bundle_form(bundle), "images": [image for image, of, _ in references if of == digest]})


async def delete_bundle(store: Store, request: ApiRequest) -> ApiReply:
    """DELETE /stoker/v1/bundles/{name}:{version}: forget the name; files that nothing uses any more go too."""
    image = _image(request)
    await store.database.write(lambda conn: records.remove_reference(conn, image))
    await collect_bundles(store.database, store.bundles)
    return ApiReply(status=204)


ROUTES = [
    Route("GET", "/stoker/v1/layers/{digest}", get_layer, perm.REPO_READ),
    Route("PUT", "/stoker/v1/layers/{digest}", put_layer, perm.REPO_PUSH, streams=True),
    Route("GET", "/stoker/v1/bundles", list_bundles, perm.REPO_LIST),
    Route("GET", "/stoker/v1/bundles/{digest}", get_bundle, perm.REPO_READ),
    Route("PUT", "/stoker/v1/bundles/{image:path}", put_bundle, perm.REPO_PUSH, streams=True),
    Route("DELETE", "/stoker/v1/bundles/{image:path}", delete_bundle, perm.REPO_DELETE),
]
