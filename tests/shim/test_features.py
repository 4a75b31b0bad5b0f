"""docs/reference/fn-compatibility.md is whole, says only what tests show, and is what the list prints."""

from __future__ import annotations

import ast
import re

import pytest

from tests.golden.test_replay import SHARED
from tests.shim.features import DIFFERS, FEATURES, NONE, WORKS, Feature, page
from tests.system.daemon import ROOT

ALL = [feature for features in FEATURES.values() for feature in features]
LIST = SHARED / "reference" / "fn-contract.md"


def test_the_page_is_what_the_list_prints() -> None:
    shown = (ROOT / "docs" / "reference" / "fn-compatibility.md").read_text()
    assert shown == page(), "run: python -m tests.shim.features > docs/reference/fn-compatibility.md"


def test_every_feature_is_there_once_and_in_order() -> None:
    assert [feature.number for feature in ALL] == list(range(1, 137))


@pytest.mark.skipif(not LIST.exists(), reason=f"no list of Fn's features at {LIST}")
def test_the_list_has_no_more() -> None:
    text = LIST.read_text().partition("### 7.1 ")[2].partition("Absent in Fn")[0]
    numbers = {int(number) for number in re.findall(r"(?<![\w.])(\d{1,3}) (?=S |C |F |\(O\))", text)}
    assert numbers == {feature.number for feature in ALL}


@pytest.mark.parametrize("feature", ALL, ids=lambda feature: str(feature.number))
def test_a_row_says_what_it_must(feature: Feature) -> None:
    assert feature.verdict in (WORKS, DIFFERS, NONE)
    assert feature.verdict == WORKS or len(feature.how) > 8, "how or why"
    assert "|" not in feature.name + feature.how
    file, _, name = feature.test.partition("::")
    assert name in names_in(file), feature.test


def names_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text())
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_")
    }
