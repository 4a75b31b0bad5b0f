"""Provisioned concurrency: the rule and the status."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.pcu import pcu_status, pcu_step
from daemon.core.policy import check_pcu
from daemon.errors import BadRequest


def refused(count: int, memory_mib: int, *, steps: str = "oci", limit_mib: int = 40960, others_mib: int = 0) -> str:
    with pytest.raises(BadRequest) as caught:
        check_pcu(count=count, memory_mib=memory_mib, steps=steps, limit_mib=limit_mib, others_mib=others_mib)
    return str(caught.value)


@pytest.mark.parametrize(("memory_mib", "step"), [(128, 40), (256, 20), (512, 10), (1024, 10), (2048, 10), (3072, 10)])
def test_the_steps_are_those_of_oci(memory_mib: int, step: int) -> None:
    assert pcu_step(memory_mib) == step
    check_pcu(count=step, memory_mib=memory_mib, steps="oci", limit_mib=40960, others_mib=0)
    refused(step - 1, memory_mib)
    refused(step + 1, memory_mib)
    refused(0, memory_mib)
    refused(-step, memory_mib)


def test_the_error_states_the_rule_and_the_nearest_allowed_counts() -> None:
    assert refused(50, 128) == (
        "provisioned concurrency of a 128 MB function must be a positive multiple of 40, not 50; "
        "nearest allowed: 40 or 80"
    )
    assert refused(3, 512).endswith("not 3; nearest allowed: 10")
    assert refused(0, 128).endswith("not 0; nearest allowed: 40")


def test_the_nearest_counts_are_within_the_limit() -> None:
    assert refused(75, 512).endswith("nearest allowed: 70 or 80")
    assert refused(85, 512).endswith("nearest allowed: 80")
    assert refused(5, 128, limit_mib=1000).endswith("other functions have reserved the memory")
    assert refused(500, 128, limit_mib=6000) == (
        "provisioned concurrency of a 128 MB function must be a positive multiple of 40, not 500; largest allowed: 40"
    )


def test_the_limit_of_the_node_comes_with_its_arithmetic() -> None:
    assert refused(320, 128, others_mib=5120) == (
        "provisioned concurrency exceeds the node's limit: 320 x 128 MB = 40960 MB, with 5120 MB of other functions "
        "46080 MB, is more than pcu.memory_mib = 40960 MB; largest allowed: 280"
    )
    check_pcu(count=280, memory_mib=128, steps="oci", limit_mib=40960, others_mib=5120)
    assert refused(10, 3072, others_mib=40960).endswith("other functions have reserved the memory")


def test_any_relaxes_the_steps_but_not_the_limit() -> None:
    check_pcu(count=3, memory_mib=128, steps="any", limit_mib=384, others_mib=0)
    assert refused(0, 128, steps="any") == "provisioned concurrency must be at least 1, not 0; nearest allowed: 1"
    assert refused(4, 128, steps="any", limit_mib=384).endswith("largest allowed: 3")


@given(st.integers(1, 400), st.sampled_from([128, 256, 512, 1024, 2048, 3072]), st.integers(0, 40960))
def test_what_is_accepted_fits_and_what_is_named_as_largest_is_accepted(count: int, memory: int, others: int) -> None:
    try:
        check_pcu(count=count, memory_mib=memory, steps="oci", limit_mib=40960, others_mib=others)
    except BadRequest as error:
        text = str(error)
        if "allowed: " in text and "no count" not in text:
            for named in text.rpartition("allowed: ")[2].split(" or "):
                check_pcu(count=int(named), memory_mib=memory, steps="oci", limit_mib=40960, others_mib=others)
        else:
            assert others + pcu_step(memory) * memory > 40960
    else:
        assert count % pcu_step(memory) == 0
        assert others + count * memory <= 40960


@pytest.mark.parametrize(
    ("given_counts", "expected"),
    [
        ({"requested": 0, "granted": 0, "idle": 3, "busy": 1}, ("none", 0, 0, 0)),
        ({"requested": 4, "granted": 4, "idle": 3, "busy": 1}, ("ready", 4, 3, 1)),
        ({"requested": 4, "granted": 4, "idle": 1, "busy": 6}, ("ready", 4, 0, 4)),
        ({"requested": 4, "granted": 4, "idle": 1, "busy": 1}, ("filling", 2, 1, 1)),
        ({"requested": 4, "granted": 2, "idle": 2, "busy": 0}, ("partial", 2, 2, 0)),
        ({"requested": 4, "granted": 4, "idle": 0, "busy": 0, "start_error": "boom"}, ("failing", 0, 0, 0)),
        ({"requested": 4, "granted": 4, "idle": 4, "busy": 0, "start_error": "boom"}, ("ready", 4, 4, 0)),
    ],
)
def test_the_status_says_what_is_there(given_counts: dict, expected: tuple[str, int, int, int]) -> None:
    status = pcu_status(**{"spillover": 7, "start_error": "", **given_counts})
    assert (status.state, status.allocated, status.available, status.in_use) == expected
    assert status.spillover == 7
    assert bool(status.reason) == (status.state not in ("none", "ready"))
