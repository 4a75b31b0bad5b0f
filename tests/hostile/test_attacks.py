"""Every hostile function in every configuration: no violation is reported from inside, none is seen from outside."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from tests.hostile import attacks
from tests.hostile.conftest import Place
from tests.hostile.expected import expected
from tests.hostile.site import CONFIGURATIONS
from tests.hostile.visit import Visit

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(300)]
PATIENCE_S = 280.0


class LetThrough(AssertionError):
    """Only what is on the list of expected violations."""


def run(place: Place, attack: str) -> list[str]:
    return attacks.run(Visit(place.site, place.neighbour, place.host, attack))


@pytest.fixture(scope="package")
def results(request: pytest.FixtureRequest, places: Callable[[str], Place]) -> Callable[[str, str], Future[list[str]]]:
    """The outcomes of all attacks that were selected. Each configuration has a thread of its own: many attacks wait."""
    wanted: dict[str, list[str]] = {}
    for item in request.session.items:
        if item.name.startswith("test_attack[") and hasattr(item, "callspec"):
            parameters: dict[str, Any] = item.callspec.params  # type: ignore[attr-defined]
            if not CONFIGURATIONS[parameters["configuration"]].why_not():
                wanted.setdefault(parameters["configuration"], []).append(parameters["attack"])
    futures = {(c, a): Future[list[str]]() for c, names in wanted.items() for a in names}

    def work(configuration: str, place: Place) -> None:
        for attack in wanted[configuration]:
            future = futures[configuration, attack]
            try:
                future.set_result(run(place, attack))
            except BaseException as exc:
                future.set_exception(exc)

    for configuration in wanted:
        threading.Thread(target=work, args=(configuration, places(configuration)), daemon=True).start()
    return lambda configuration, attack: futures[configuration, attack]


@pytest.mark.parametrize("attack", attacks.ATTACKS)
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_attack(
    configuration: str, attack: str, request: pytest.FixtureRequest, places: Callable[[str], Place],
) -> None:  # fmt: skip
    if why := CONFIGURATIONS[configuration].why_not():
        pytest.skip(f"configuration {configuration}: {why}")
    results = request.getfixturevalue("results")
    violations: list[str] = results(configuration, attack).result(PATIENCE_S)
    names, reason = expected(places(configuration).site, attack)
    if names:
        request.applymarker(
            pytest.mark.xfail(strict=not reason.startswith("sometimes"), raises=LetThrough, reason=reason)
        )
    surprises = [v for v in violations if v.partition(":")[0] not in names]
    assert not surprises, "\n".join(surprises)
    if violations:
        raise LetThrough(f"{reason}: {violations[0]}")


def test_there_are_fifty_two_attacks() -> None:
    assert len(attacks.ATTACKS) == 52
    assert attacks.DRIVES.keys() <= set(attacks.ATTACKS)
