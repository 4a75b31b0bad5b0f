"""The pure parts of the bench: numbers, budgets, table and picture."""

from __future__ import annotations

import json
import os
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from bench import budgets, chart, stats, table
from bench.budgets import BUDGETS, BY_KEY, Budget, Figure
from bench.stats import Sample

SHARED = Path(os.environ.get("STOKER_SHARED", Path(__file__).parents[3] / "shared"))
LATEST = Path(__file__).parents[2] / "bench/results/latest.json"
REFERENCE = Path(__file__).parents[2] / "docs/reference"


def figure(key: str, *, ours: list[float] | None = None, ratio: float | None = None, peer: str = "a peer") -> Figure:
    sample = Sample.of(ours) if ours else None
    return Figure(key, f"what {key} is", "ms", sample, peer, Sample.of([10.0]), ratio)


def all_figures(ratio: float = 1.0) -> list[Figure]:
    return [figure(budget.key, ours=[1.0, 2.0, 3.0], ratio=ratio) for budget in BUDGETS]


def test_a_sample_is_the_median_and_the_extremes() -> None:
    assert Sample.of([5.0, 1.0, 3.0]) == Sample(3.0, 1.0, 5.0, 3)
    with pytest.raises(ValueError, match="nothing was measured"):
        Sample.of([])


def test_a_percentile_is_the_nearest_rank() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [stats.percentile(values, p) for p in (1, 50, 99, 100)] == [1.0, 50.0, 99.0, 100.0]
    assert stats.percentile([7.0], 99) == 7.0
    for percent in (0, 101):
        with pytest.raises(ValueError, match="percentage"):
            stats.percentile(values, percent)


def test_a_slow_minute_of_the_machine_does_not_move_a_paired_ratio() -> None:
    ours, theirs = [100.0, 50.0, 100.0], [25.0, 12.5, 25.0]
    assert stats.paired_ratio(ours, theirs) == 4.0
    with pytest.raises(ValueError, match="pair"):
        stats.paired_ratio([1.0], [1.0, 2.0])


def test_every_row_of_the_designs_table_has_a_budget() -> None:
    design = SHARED / "design.md"
    if not design.exists():
        pytest.skip(f"{design} is not there: the design is not part of the project")
    section = design.read_text().partition("## 6. Budgets")[2].partition("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| ")]
    rows.remove("What")
    assert len(rows) > 5
    assert set(rows) == {budget.row for budget in BUDGETS}


@pytest.mark.parametrize(
    ("limit", "within", "beyond"),
    [
        (Budget("k", "row", budgets.RATIO, at_most=0.5), figure("k", ratio=0.5), figure("k", ratio=0.51)),
        (Budget("k", "row", budgets.RATIO, at_least=4), figure("k", ratio=4.0), figure("k", ratio=3.9)),
        (Budget("k", "row", budgets.MEDIAN, at_most=2), figure("k", ours=[1, 2, 9]), figure("k", ours=[1, 2.1, 9])),
        (Budget("k", "row", budgets.MOST, at_most=50), figure("k", ours=[1, 2, 50]), figure("k", ours=[1, 2, 51])),
    ],
)
def test_a_budget_is_kept_up_to_its_limit(limit: Budget, within: Figure, beyond: Figure) -> None:
    assert limit.kept(within) is True
    assert limit.kept(beyond) is False
    used = limit.used(beyond)
    assert used is not None
    assert used > 1


def test_what_was_not_measured_is_neither_kept_nor_missed() -> None:
    unknown = Figure("save", "saving", "ms", None)
    assert BY_KEY["save"].kept(unknown) is None
    assert table.verdict(BY_KEY["save"], unknown) == "not measured"


def test_a_report_that_lacks_a_budget_is_noticed() -> None:
    assert budgets.unmeasured(all_figures()) == []
    assert budgets.unmeasured(all_figures()[1:]) == [BUDGETS[0].key]


def test_the_page_shows_every_budget_and_calls_a_missed_one_missed() -> None:
    figures = [*all_figures(ratio=1000.0), Figure("extra", "not | budgeted", "s", Sample.of([2.0]), note="as it came")]
    page = table.page(figures, {"cpu": "fast", "peers": {"gunicorn": "gunicorn==1"}})
    assert all(f"what {budget.key} is" in page for budget in BUDGETS)
    assert page.count("**no**") == sum(budget.kept(f) is False for budget, f in zip(BUDGETS, figures, strict=False))
    assert "**no**" in page
    assert "not \\| budgeted" in page
    assert "as it came" in page
    assert "gunicorn==1" in page


def test_tables_are_rectangular() -> None:
    rows = table.rows(all_figures(), budgeted=True)
    assert {len(row) for row in rows} == {len(table.BUDGET_HEADER)}
    lines = table.plain_table(table.BUDGET_HEADER, rows).splitlines()
    assert len(lines) == len(BUDGETS) + 1
    assert re.search(r"what cpu-1 is\s+2\.00 ms \(1\.00 to 3\.00\)", "\n".join(lines))


def test_the_picture_is_well_formed_and_has_a_bar_for_every_budget() -> None:
    figures = [*all_figures(), figure("rate-1-gunicorn", ours=[1.0], ratio=1.0, peer="<a> & b")]
    root = ElementTree.fromstring(chart.svg(figures))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert sum(text.startswith("what ") for text in texts) >= len(BUDGETS)
    assert "<a> & b" in texts
    height = float(root.attrib["height"])
    assert all(float(node.attrib["y"]) <= height for node in root.iter("{http://www.w3.org/2000/svg}text"))


def test_the_committed_report_covers_every_budget() -> None:
    document = json.loads(LATEST.read_text())
    shown = {figure["key"]: figure for figure in document["figures"]}
    assert set(BY_KEY) <= set(shown)
    page = (REFERENCE / "performance.md").read_text()
    assert all(figure["what"] in page for figure in document["figures"])
    assert document["conditions"]["cpu"] in page
    ElementTree.fromstring((REFERENCE / "performance.svg").read_text())
