"""Fixtures: a real launcher."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime import linux
from tests.contracts.kit import Kit, real_kit


@pytest.fixture
async def kit(tmp_path: Path) -> AsyncIterator[Kit]:
    """A running launcher; when it has ended, nothing beneath this process is left of it."""
    before = set(linux.children(os.getpid()))
    async with real_kit(tmp_path) as kit:
        yield kit
    assert set(linux.children(os.getpid())) <= before
