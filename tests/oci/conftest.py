"""A daemon and the real clients that the tests of this directory share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.oci.clients import Cli, Profile, Sdk, sdk
from tests.system.daemon import HELLO, Daemon, bundle, run_daemon

NAMES = itertools.count(1)


@pytest.fixture(scope="session")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    return Profile(tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with the bundle ``hello:1``."""
    with run_daemon(tmp_path_factory.mktemp("oci") / "data", config="limits: {memory_mib: 40960}") as daemon:
        daemon.push(bundle(HELLO), "hello:1")
        yield daemon


@pytest.fixture(scope="session")
def new(profile: Profile, node: Daemon) -> Iterator[Sdk]:
    """Today's SDK."""
    with sdk("new", profile, node.url) as client:
        yield client


@pytest.fixture(scope="session")
def classic(profile: Profile, node: Daemon) -> Iterator[Sdk]:
    """The last SDK of API version 20181201."""
    with sdk("classic", profile, node.url) as client:
        yield client


@pytest.fixture(params=["new", "classic"])
def client(request: pytest.FixtureRequest) -> Sdk:
    """Each of the two."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Sdk)
    return found


@pytest.fixture(params=["new", "classic"])
def cli(request: pytest.FixtureRequest, profile: Profile, node: Daemon) -> Cli:
    return Cli(request.param, profile, node.url)


@pytest.fixture
def app(client: Sdk) -> str:
    """The OCID of a new application of this client's."""
    return str(client.app(f"app{next(NAMES)}")["id"])
