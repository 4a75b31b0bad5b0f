"""The catalogue of pre-built functions: the directories of examples that hold a ``listing.yaml``.

Such a directory is a function like any other (``stoker deploy`` takes it too); ``listing.yaml`` says what OCI's
catalogue tells about one: name, description, triggers, configuration, the least memory.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
import yaml

from daemon import ocid
from daemon.bundles.funcfile import FUNC_FILES

KIND = "fnpbflisting"
VERSION_KIND = "fnpbflistingversion"
LISTING_FILE = "listing.yaml"
LISTING_BYTES_MAX = 64 * 2**10
LISTINGS_MAX = 200
FILES_MAX = 200
FILE_BYTES_MAX = 2**20
NOT_PACKED = ("README.md", "requirements.txt", LISTING_FILE)
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
"""Where the functions are that come with Stoker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigKey:
    """A configuration key that the function reads."""

    key: str
    description: str
    is_optional: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One function of the catalogue, in its only version."""

    id: str
    slug: str
    """The directory's name."""
    name: str
    description: str
    publisher: str
    triggers: tuple[str, ...]
    config: tuple[ConfigKey, ...]
    memory_mib: int
    """Least memory that it needs."""
    version_id: str
    version: str
    changes: str
    archive: bytes
    """Its bundle."""
    created_at: int


class Prebuilt:
    """The catalogue. Read anew at each question: it is small, and files may be added."""

    def __init__(self, directory: Path | None, *, log: Any) -> None:
        self._directory = directory or EXAMPLES
        self._log = log

    async def listings(self) -> list[Listing]:
        """All functions of the catalogue by directory."""
        return await trio.to_thread.run_sync(self._read)

    async def listing(self, listing_id: str) -> Listing | None:
        """One of them by its OCID."""
        return next((found for found in await self.listings() if found.id == listing_id), None)

    def _read(self) -> list[Listing]:
        found = []
        for path in sorted(self._directory.glob(f"*/{LISTING_FILE}"))[:LISTINGS_MAX]:
            try:
                found.append(read_listing(path.parent))
            except (OSError, ValueError, yaml.YAMLError) as exc:
                self._log.warning("cannot use pre-built function", path=str(path), error=str(exc))
        return found


def read_listing(directory: Path) -> Listing:
    """The function in a directory.

    Raises:
      ValueError, OSError, YAMLError: ``listing.yaml`` or the directory cannot be used.
    """
    path = directory / LISTING_FILE
    with path.open("rb") as file:
        values = yaml.safe_load(file.read(LISTING_BYTES_MAX).decode())
    function = next((directory / name for name in FUNC_FILES if (directory / name).is_file()), None)
    if not isinstance(values, dict) or function is None:
        raise ValueError(f"{path}: must be a map, and a func.yaml must be beside it")
    version = str(yaml.safe_load(function.read_text()).get("version", "0.0.1"))
    try:
        return Listing(
            id=ocid.make(KIND, ocid.derived_id(directory.name)),
            slug=directory.name,
            name=str(values["name"]),
            description=" ".join(str(values["description"]).split()),
            publisher=str(values.get("publisher", "Stoker")),
            triggers=tuple(map(str, values.get("triggers", []))),
            config=tuple(
                ConfigKey(
                    key=str(item["key"]),
                    description=str(item.get("description", "")),
                    is_optional=bool(item.get("optional", False)),
                )
                for item in values.get("config", [])
            ),
            memory_mib=int(values.get("memory", 128)),
            version_id=ocid.make(VERSION_KIND, ocid.derived_id(f"{directory.name}:{version}")),
            version=version,
            changes=str(values.get("changes", "First version.")),
            archive=packed(directory),
            created_at=int(path.stat().st_mtime) * 1000,
        )
    except (KeyError, TypeError) as exc:
        raise ValueError(f"{path}: {exc!r}") from None


def packed(directory: Path) -> bytes:
    """The bundle of a function without dependencies; the same bytes for the same files.

    Raises:
      ValueError: too many or too large files.
    """
    files = [p for p in sorted(directory.rglob("*")) if p.is_file() and "__pycache__" not in p.parts]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files[: FILES_MAX + 1]:
            name = path.relative_to(directory).as_posix()
            if name in NOT_PACKED:
                continue
            if path.stat().st_size > FILE_BYTES_MAX or len(files) > FILES_MAX:
                raise ValueError(f"{path}: at most {FILES_MAX} files of {FILE_BYTES_MAX} bytes")
            entry = zipfile.ZipInfo(f"function/{name}", (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o100644 << 16
            archive.writestr(entry, path.read_bytes())
    return buffer.getvalue()
