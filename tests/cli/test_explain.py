"""``stoker explain``: every error of the daemon has a meaning, a fault and a next step."""

from __future__ import annotations

import json

import pytest

from cli import explanations
from daemon import errors
from daemon.cures import CURES
from tests.cli.conftest import Stoker


def test_every_error_has_a_next_step_and_no_step_is_left_over() -> None:
    assert set(CURES) == {error.code for error in errors.leaves()}
    for code, text in CURES.items():
        assert text[0].isupper(), code
        assert text.endswith("."), code
        assert len(text) > 30, code


def test_by_code_by_ocis_by_status_and_by_message(bare_stoker: Stoker) -> None:
    result = bare_stoker("explain", "function-timeout")
    assert result.code == 0
    assert "Whose fault: the function's" in result.out
    assert "Next: The call ran longer than the function's timeout" in result.out
    assert "is killed" in result.out
    assert bare_stoker("explain", "FunctionInvokeContainerInitFail").out.startswith("init-failed (HTTP 502")
    assert {"init-timeout (HTTP 504", "function-timeout (HTTP 504"} <= {
        line.partition(",")[0] for line in bare_stoker("explain", "504").out.splitlines()
    }
    assert "queue-full" in bare_stoker("explain", errors.QueueFull.default_message).out


def test_all_of_them_for_people_and_for_scripts(bare_stoker: Stoker) -> None:
    listed = bare_stoker("explain").out
    assert all(code in listed for code in CURES)
    found = json.loads(bare_stoker("explain", "--output", "json").out)
    assert found == explanations.known()


@pytest.mark.parametrize(("text", "hint"), [("function-timout", "function-timeout"), ("zzz", "lists all codes")])
def test_an_unknown_one(bare_stoker: Stoker, text: str, hint: str) -> None:
    result = bare_stoker("explain", text)
    assert result.code == 1
    assert hint in result.err
