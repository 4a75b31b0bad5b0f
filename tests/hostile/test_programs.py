"""The attacks that make sense for a foreign process, by programs of their own: the same walls, another way in.

What a program may do on its connection is in tests/exec/test_contract.py.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.hostile import attacks
from tests.hostile.conftest import Place
from tests.hostile.expected import expected
from tests.hostile.site import PROGRAMS
from tests.hostile.visit import Visit

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(120)]

OF_WORKERS = {
    "forge_later": "the worker's pipes",
    "forge_response": "the worker's pipes",
    "huge_response": "the worker's pipes",
    "inherited_fds": "the worker's pipes; see test_what_a_program_sees",
    "hook_the_runtime": "the worker's runtime in its own process",
    "import_games": "the template's import",
    "mem_at_import": "the template's import",
    "poison_template": "the template",
    "shared_memory_template": "the template",
    "threads_at_import": "the template",
}
"""Attacks on what a program does not have."""
OWN_INIT = {
    "prlimit_others": {"read-limits", "affinity", "priority", "scheduler"},
}
"""What a program may do to process 1, which is the init of its own instance and has its user: slow it down, and so
itself alone. It cannot be signalled, traced or read."""


@pytest.mark.parametrize("attack", sorted(set(attacks.ATTACKS) - OF_WORKERS.keys()))
@pytest.mark.parametrize("configuration", PROGRAMS)
def test_attack_of_a_program(configuration: str, attack: str, places: Callable[[str], Place]) -> None:
    if why := PROGRAMS[configuration].why_not():
        pytest.skip(f"configuration {configuration}: {why}")
    place = places(configuration)
    violations = attacks.run(Visit(place.site, place.neighbour, place.host, attack))
    names = OWN_INIT.get(attack, set()) | expected(place.site, attack)[0]
    assert [v for v in violations if v.partition(":")[0] not in names] == []


def test_the_lists_name_attacks() -> None:
    assert OF_WORKERS.keys() | OWN_INIT.keys() <= set(attacks.ATTACKS)
