"""docs/reference/fdk-compatibility.md and the list that the tests use are the same."""

from __future__ import annotations

import re
from pathlib import Path

from tests.fdk.differences import DIFFERENCES, DIFFERENT_HANDLERS
from tests.fdk.functions import coroutines, failures, responses, values
from tests.fdk.oracle import OFFICIAL_VERSION, REPOSITORY

PAGE = REPOSITORY / "docs" / "reference" / "fdk-compatibility.md"


def rows() -> dict[str, list[str]]:
    found = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if match := re.fullmatch(r"`([a-z0-9-]+)`", cells[0]):
            assert match[1] not in found, f"{match[1]} is there twice"
            found[match[1]] = cells[1:]
    return found


def test_the_table_has_the_rows_of_the_list_in_order() -> None:
    assert list(rows()) == sorted(DIFFERENCES)


def test_each_row_says_what_each_does_and_why() -> None:
    for name, cells in rows().items():
        assert len(cells) == 3, name
        assert all(len(cell) > 10 for cell in cells), name


def test_each_difference_of_handlers_names_handlers_that_are_there() -> None:
    known = {name for module in (values, responses, failures, coroutines) for name in module.CASES}
    assert known >= DIFFERENT_HANDLERS


def test_each_other_difference_is_named_by_the_test_that_shows_it() -> None:
    tests = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    assert [name for name, handlers in DIFFERENCES.items() if not handlers and name not in tests] == []


def test_the_page_names_the_version_that_is_compared_with() -> None:
    assert OFFICIAL_VERSION in PAGE.read_text()
