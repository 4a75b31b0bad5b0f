"""Charts: whatever the numbers, the picture is well-formed, inside its frame, and says what the table says."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from daemon.console import charts
from daemon.console.charts import Series

VALUES = st.none() | st.floats(min_value=0, max_value=1e12)
TIMES = st.integers(min_value=0, max_value=2_000_000_000)


def points(svg: str) -> list[tuple[float, float]]:
    found = []
    for element in ET.fromstring(svg).iter():
        name = element.tag.rpartition("}")[2]
        if name == "path":
            numbers = [float(n) for n in re.findall(r"-?[\d.]+(?:e-?\d+)?", element.attrib["d"])]
            found += list(zip(numbers[::2], numbers[1::2], strict=True))
        elif name == "circle":
            found.append((float(element.attrib["cx"]), float(element.attrib["cy"])))
        elif name == "rect":
            x, y = float(element.attrib["x"]), float(element.attrib["y"])
            found += [(x, y), (x + float(element.attrib["width"]), y + float(element.attrib["height"]))]
    return found


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=40), TIMES, st.text(max_size=20))
def test_any_numbers_make_a_picture_inside_its_frame(
    rows: list[tuple[float | None, float | None]], at: int, label: str
) -> None:
    times = [at + 60.0 * i for i in range(len(rows))]
    label = "".join(c for c in label if c.isprintable())
    series = [Series(label, [a for a, _ in rows], "s1"), Series("other", [b for _, b in rows], "s2")]
    for make in (charts.lines, charts.bars):
        chart = make(times, series, title="Calls & <more>", unit="ms")
        for x, y in points(chart.svg):
            assert -1 <= x <= charts.WIDTH + 1
            assert -1 <= y <= charts.HEIGHT + 1
        assert len(chart.rows) == len(rows)
        assert all(len(row) == len(chart.head) == 3 for row in chart.rows)
        assert chart.empty == (not any(a or b for a, b in rows))
        told = [title.text or "" for title in ET.fromstring(chart.svg).iter() if title.tag == "title"]
        assert len(told) == len(rows)


@given(st.floats(min_value=1e-9, max_value=1e15))
def test_ticks_are_round_and_reach_the_highest_value(highest: float) -> None:
    ticks = charts.nice_ticks(highest)
    assert ticks[0] == 0
    assert ticks[-1] >= highest * (1 - 1e-9)
    assert 2 <= len(ticks) <= 7
    step = ticks[1]
    leading = step / 10.0 ** math.floor(math.log10(step) + 1e-9)
    assert any(math.isclose(leading, good, rel_tol=1e-6) for good in (1, 2, 5, 10))


def test_a_gap_breaks_the_line_and_a_lone_value_is_a_dot() -> None:
    chart = charts.lines([0, 60, 120, 180], [Series("a", [1, 2, None, 3], "s1")], title="t", unit="")
    assert chart.svg.count('class="line s1"') == 1
    assert chart.svg.count('class="dot s1"') == 1
    assert [row[1] for row in chart.rows] == ["1", "2", "-", "3"]


def test_times_of_several_days_name_the_day() -> None:
    week = [1_700_000_000.0 + 86_400 * i for i in range(8)]
    chart = charts.lines(week, [Series("a", [1.0] * 8, "s1")], title="t", unit="")
    assert len({row[0] for row in chart.rows}) == 8
    assert all(f"<title>{row[0]}:" in chart.svg for row in chart.rows)
    hour = charts.lines([week[0], week[0] + 1], [Series("a", [1.0, 2.0], "s1")], title="t", unit="")
    assert len(hour.rows[0][0]) == len("12:00:00")


def test_bars_stand_on_each_other() -> None:
    chart = charts.bars([0], [Series("a", [1], "s1"), Series("b", [3], "s2")], title="t", unit="")
    bars = [e.attrib for e in ET.fromstring(chart.svg).iter() if e.attrib.get("class", "").startswith("bar")]
    first, second = bars
    assert math.isclose(float(second["y"]) + float(second["height"]), float(first["y"]), abs_tol=0.2)
    assert math.isclose(float(second["height"]), 3 * float(first["height"]), rel_tol=0.02)


def test_what_cannot_be_drawn_is_said() -> None:
    chart = charts.lines([], [Series("a", [], "s1")], title="Nothing", unit="s")
    assert chart.empty
    assert charts.curve([], title="t", x_label="x", y_label="y", chosen=0).empty


@given(st.lists(st.tuples(st.sampled_from(["queue", "fork", "handler"]), st.floats(0, 1e6)), max_size=6))
def test_a_timeline_fills_its_width(parts: list[tuple[str, float]]) -> None:
    svg = ET.fromstring(charts.timeline(parts, show=str))
    widths = [float(e.attrib["width"]) for e in svg.iter() if e.tag == "rect"]
    if any(length > 0 for _, length in parts):
        assert 720 - 1 <= sum(widths) <= 720 + 1.1 * len(widths)
    else:
        assert widths == []


@given(st.lists(st.floats(0, 1e9), max_size=80))
def test_a_sparkline_of_anything(values: list[float]) -> None:
    svg = ET.fromstring(charts.sparkline(values, label="<calls>"))
    (line,) = [e for e in svg.iter() if e.tag == "polyline"]
    assert len(line.attrib["points"].split()) == len(values)


def test_numbers_for_people() -> None:
    assert [charts.number(n) for n in (0, 3, 0.1234, 12.345, 123.4, 1_234_567)] == [
        "0",
        "3",
        "0.123",
        "12.3",
        "123",
        "1,234,567",
    ]
    assert charts.number(float("nan")) == "-"
