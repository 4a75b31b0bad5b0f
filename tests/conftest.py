"""Fixtures against a real stokerd: a shared one for tests that do not disturb it, a directory for those that do."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.daemon import Daemon, run_daemon

# A shell that runs the tests in its background has SIGINT ignored, and so would have the commands that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def shared_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that the tests of one file share."""
    with run_daemon(tmp_path_factory.mktemp("shared") / "data") as daemon:
        yield daemon


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"
