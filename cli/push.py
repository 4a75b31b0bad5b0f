"""Sending a bundle: what may name it, which Python it is for, and its bytes when the daemon has not got them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import click

from cli import interpreters, kinds
from cli.api import Api, Json, api_error, decode
from cli.deps import Dependencies
from cli.errors import ApiError, CliError
from cli.output import short_digest, size
from cli.steps import Step, Steps
from cli.transport import REPLY_S

CHUNK_BYTES = 256 * 1024
BAR_BYTES = 2**20
"""Uploads from this size on show a bar."""
_IMAGE = re.compile(
    r"(?!sha256:)[A-Za-z0-9][A-Za-z0-9._-]*(?::\d+/)?(?:[A-Za-z0-9._/-]+)?:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
)
"""As the daemon has it: perhaps a registry with its port, a path, a version."""


def daemons_python(api: Api, runtime: str) -> interpreters.Interpreter | None:
    """The daemon's interpreter for ``python3.N`` when it is on this machine, too; None for ``python``.

    Raises:
      CliError: the daemon has none; told before anything is resolved for it.
    """
    if runtime == "python" or kinds.family(runtime):
        return None
    items = (api.call("GET", "/stoker/v1/runtimes") or {}).get("items") or []
    for item in items:
        if item.get("name") == runtime and str(item.get("name")).startswith("python"):
            here = os.access(str(item.get("path")), os.X_OK)
            return interpreters.Interpreter(item["path"], runtime.removeprefix("python")) if here else None
    raise interpreters.missing(runtime, [str(item.get("name")) for item in items])


def check_image(image: str) -> None:
    """Refuse what cannot name a bundle.

    Raises:
      click.UsageError: it is not NAME:VERSION.
    """
    if not _IMAGE.fullmatch(image):
        raise click.UsageError(f"{image!r} is not NAME:VERSION, for example hello:0.0.1")


def upload(api: Api, path: Path, image: str, digest: str, steps: Steps, *, layer: Dependencies | None = None) -> Json:
    """Make ``image`` name the bundle at ``path``; its bytes are only sent when the daemon has not got them.

    ``layer``: the dependencies that the bundle names; they are sent first, when the daemon has not got these.

    Raises:
      CliError: it is refused, or cannot be read.
    """
    target = f"/stoker/v1/bundles/{image}"
    with steps.step("push") as step:
        digest = digest or _file_digest(path)
        try:
            known = api.call("PUT", target, query=[("digest", digest)])
        except ApiError as exc:
            if exc.status != 404:
                raise
        else:
            step.done(f"{image} is {short_digest(digest)}, which the daemon has")
            return known if isinstance(known, dict) else {}
        sent = 0
        if layer is not None and not _has_layer(api, layer):
            _, sent = _send(api, layer.layer, f"/stoker/v1/layers/{layer.digest}", layer.digest, "dependencies", step)
        answer, length = _send(api, path, target, digest, "bundle", step)
        step.done(f"{image} is {short_digest(digest)}, {size(sent + length)} sent")
    return answer


def _has_layer(api: Api, layer: Dependencies) -> bool:
    try:
        api.call("GET", f"/stoker/v1/layers/{layer.digest}")
    except ApiError as exc:
        if exc.status != 404:
            raise
        return False
    return True


def _send(api: Api, path: Path, target: str, digest: str, what: str, step: Step) -> tuple[Json, int]:
    """PUT a file; the reply and how long the file was."""
    length = path.stat().st_size
    step.status(f"sending {what}, {size(length)}", total=length if length >= BAR_BYTES else None)

    def chunks() -> Iterator[bytes]:
        with open(path, "rb") as file:
            while data := file.read(CHUNK_BYTES):
                yield data
                step.advance(len(data))
        step.status("unpacking")

    headers = [
        ("Content-Type", "application/zip"),
        ("Accept", "application/json"),
        ("X-Content-Sha256", digest.removeprefix("sha256:")),
    ]
    reply = api.transport.request("PUT", target, headers=headers, body=chunks(), length=length, timeout_s=REPLY_S)
    if reply.status >= 400:
        raise api_error(reply, prefix=f"the daemon refused the {what}: ")
    answer = decode(reply, f"PUT {target}")
    return (answer if isinstance(answer, dict) else {}), length


def _file_digest(path: Path) -> str:
    import hashlib

    try:
        with open(path, "rb") as file:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise CliError(f"cannot read {path}: {exc.strerror}") from exc
