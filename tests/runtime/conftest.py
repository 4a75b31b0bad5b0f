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
    """A running launcher; it has no errors to log, and when it has ended, nothing beneath this process is left of it.

    A test that expects an error clears ``kit.log.lines``.
    """
    before = set(linux.children(os.getpid()))
    async with real_kit(tmp_path) as kit:
        yield kit
        assert [line for line in kit.log.lines if line[0] == "error"] == []
    assert set(linux.children(os.getpid())) <= before
