"""Puts the OCI API's parts together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from daemon.bundles.interpreters import Interpreters
from daemon.bundles.store import BundleStore
from daemon.config.settings import Oci as Settings
from daemon.model import Ids
from daemon.oci.prebuilt import Prebuilt
from daemon.oci.runtimes import Runtimes
from daemon.oci.service import Oci
from daemon.oci.sources import Sources
from daemon.registry import Registry
from daemon.store.database import Database


def make_oci(
    settings: Settings, registry: Registry, database: Database, bundles: BundleStore, interpreters: Interpreters,
    ids: Ids, *, log: Any,
) -> Oci:  # fmt: skip
    """The service behind the routes of `daemon.http.oci_api`; its ``run`` must be started."""
    runtimes = Runtimes(interpreters)
    prebuilt = Prebuilt(Path(settings.prebuilt) if settings.prebuilt else None, log=log)
    sources = Sources(database, bundles, runtimes, prebuilt, archive_bytes_max=settings.archive_bytes_max)
    return Oci(
        registry, database, sources, runtimes, prebuilt, ids=ids,
        operations_max=settings.operations_max, work_requests_max=settings.work_requests_max,
        config_bytes_max=settings.config_bytes_max, archive_bytes_max=settings.archive_bytes_max, log=log,
    )  # fmt: skip
