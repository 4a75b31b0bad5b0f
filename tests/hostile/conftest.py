"""One daemon for each configuration, for all tests of this directory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.hostile.site import CONFIGURATIONS, PROGRAMS, Neighbour, Site, listeners, run_site


@dataclass
class Place:
    """A running site with its neighbour and the host's listeners."""

    site: Site
    neighbour: Neighbour
    host: dict[str, Any]


@pytest.fixture(scope="package")
def places() -> Iterator[Callable[[str], Place]]:
    """The place of a configuration; started when it is first asked for, kept until these tests end: their threads and
    descriptors must not be there when other tests count theirs."""
    with contextlib.ExitStack() as stack:
        open_places: dict[str, Place] = {}

        def place(name: str) -> Place:
            if name not in open_places:
                site = stack.enter_context(run_site((CONFIGURATIONS | PROGRAMS)[name]))
                neighbour = Neighbour(site)
                neighbour.start()
                stack.callback(neighbour.join)
                stack.callback(neighbour.done.set)
                open_places[name] = Place(site, neighbour, stack.enter_context(listeners()))
            return open_places[name]

        yield place
