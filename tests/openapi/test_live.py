"""A running daemon answers as described: some random requests to every operation, checked by schemathesis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from daemon.http.openapi import build
from tests.openapi.world import STREAMS, World, described, furnish
from tests.system.daemon import run_daemon

EXAMPLES = 15
"""Requests to an operation: valid and broken ones, to things that are there and to others."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with run_daemon(tmp_path_factory.mktemp("openapi") / "data", config="limits: {memory_mib: 40960}") as daemon:
        yield furnish(daemon)


def operations() -> list[Any]:
    """Those that destroy come last."""
    found = [result.ok() for name in build.NAMES for result in described(name).get_all_operations()]
    found = [op for op in found if not op.path.endswith(STREAMS)]  # they do not end: test_conversation has them
    return sorted(found, key=lambda op: (op.method == "delete", op.path.endswith("/purge")))


@pytest.mark.parametrize("operation", operations(), ids=lambda op: f"{op.method.upper()} {op.path}")
def test_every_answer_is_as_described(operation: Any, world: World) -> None:
    filled = world.fill(operation.path)
    strategies = [operation.as_strategy(generation_mode=mode) for mode in GenerationMode]
    if filled and operation.method != "delete":
        strategies += [operation.as_strategy(generation_mode=mode, path_parameters=filled) for mode in GenerationMode]

    @given(st.one_of(strategies))
    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def ask(case: Any) -> None:
        if "follow" in (case.query or {}):
            case.query.pop("follow")  # such an answer does not end
        world.call(case)

    ask()
