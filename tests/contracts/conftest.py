"""Fixtures: the two launchers that must pass the same contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from daemon.config.settings import Limits
from tests.contracts.fake_launcher import FakeLauncher
from tests.contracts.kit import Kit, Log, real_kit


@pytest.fixture(params=["real", "fake"])
async def kit(request: pytest.FixtureRequest, tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Kit]:
    if request.param == "real":
        async with real_kit(tmp_path) as kit:
            yield kit
    else:
        launcher = await nursery.start(FakeLauncher(Limits()).run)
        yield Kit(launcher, tmp_path, Log(), Limits(), nursery)
