"""The interpreters of this machine as OCI's managed runtimes: ``python311.ol9`` and its present version.

Names keep OCI's ending, because people type them; ``os`` and ``osVersion`` are the machine's own.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import trio

from daemon import ocid
from daemon.bundles.interpreters import Interpreter, Interpreters
from daemon.errors import BadRequest

KIND = "fnruntime"
VERSION_KIND = "fnruntimeversion"
OS_RELEASE = Path("/etc/os-release")
SUPPORT_ENDS = {11: (2027, 10), 12: (2028, 10), 13: (2029, 10), 14: (2030, 10)}
"""Minor version of Python 3 -> year and month of its end of life (https://devguide.python.org/versions/)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """An interpreter; there is one version of each, the one that is installed."""

    id: str
    name: str
    language: str
    language_version: str
    version_id: str
    version_name: str
    os: str
    os_version: str
    architecture: str
    """``X86`` or ``ARM``."""
    deprecated_at: int
    """When Python itself ends its support, milliseconds; 0: not known."""
    created_at: int
    """When the interpreter was installed: its file's time, milliseconds."""


class Runtimes:
    """All of them; looked for at the first question."""

    def __init__(self, interpreters: Interpreters, *, os_release: Path = OS_RELEASE) -> None:
        self._interpreters = interpreters
        self._os_release = os_release

    async def all(self) -> list[Runtime]:
        """Every runtime, oldest Python first."""
        return await trio.to_thread.run_sync(self._all)

    async def pick(self, name: str, version_id: str) -> Runtime:
        """The runtime of that name, if ``version_id`` is empty or the one that is installed.

        Raises:
          BadRequest: there is none; says which there are.
        """
        found = await self.all()
        runtime = next((r for r in found if r.name == name or r.name.partition(".")[0] == name), None)
        if runtime is None:
            names = ", ".join(r.name for r in found)
            raise BadRequest(f"functionsRuntimeName: {name[:100]!r} is not on this node; there are: {names}")
        if version_id and version_id != runtime.version_id:
            raise BadRequest(
                f"functionsRuntimeVersionId: {version_id[:200]!r} is not on this node; the version of {name} here is"
                f" {runtime.version_id} ({runtime.language_version})"
            )
        return runtime

    def _all(self) -> list[Runtime]:
        system, release = _operating_system(self._os_release)
        return [_runtime(found, system, release) for found in self._interpreters.found()]


def _runtime(found: Interpreter, system: str, release: str) -> Runtime:
    name = f"{found.name.replace('.', '')}.ol9"
    minor = int(found.version.split(".")[1])
    ends = SUPPORT_ENDS.get(minor)
    version_name = f"{name}-{found.version}"
    return Runtime(
        id=ocid.make(KIND, ocid.derived_id(name)),
        name=name,
        language="Python",
        language_version=found.version,
        version_id=ocid.make(VERSION_KIND, ocid.derived_id(version_name)),
        version_name=version_name,
        os=system,
        os_version=release,
        architecture="ARM" if platform.machine() in ("aarch64", "arm64") else "X86",
        deprecated_at=int(datetime(*ends, 1, tzinfo=UTC).timestamp()) * 1000 if ends else 0,
        created_at=_installed_at(found.path),
    )


def _installed_at(path: str) -> int:
    try:
        return int(Path(path).stat().st_mtime) * 1000
    except OSError:
        return 0


def _operating_system(path: Path) -> tuple[str, str]:
    """Name and version by os-release(5)."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeError):
        lines = []
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    return values.get("ID", "linux").strip("\"'"), values.get("VERSION_ID", platform.release()).strip("\"'")
