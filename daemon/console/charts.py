"""Charts as SVG, from numbers. Pure: the same numbers give the same text.

Colours, fonts and line widths are the style sheet's, by class; there are no inline styles, which the pages' content
security policy forbids. Every value can be read without a pointer: each chart has a table of the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape

__all__ = ["Chart", "Series", "bars", "curve", "lines", "nice_ticks", "number", "sparkline", "timeline"]

WIDTH, HEIGHT = 720, 220
LEFT, RIGHT, TOP, BOTTOM = 56, 8, 20, 24
TICKS_Y = 4
TINY = 1e-12
"""What is below counts as nothing: no unit of ours is so small."""
TICKS_X = 6
Format = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Series:
    """One line or one layer of bars. ``None`` is a gap: nothing is known of that moment."""

    label: str
    values: Sequence[float | None]
    style: str
    """Class of the style sheet: ``s1`` to ``s6``, ``good``, ``bad``, ``floor``..."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture and the table of its numbers."""

    svg: str
    head: list[str]
    rows: list[list[str]]
    legend: list[tuple[str, str]]
    """Style and label of each series."""
    empty: bool
    """There is nothing to see: no value, or nothing but zeros."""


def number(value: float) -> str:
    """A value for people: three significant digits, thousands apart."""
    if value != value or math.isinf(value):
        return "-"
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def nice_ticks(highest: float, count: int = TICKS_Y) -> list[float]:
    """Round numbers from 0 to at least ``highest``, about ``count`` steps: 1, 2 or 5 times a power of ten apart."""
    if not highest > TINY or math.isinf(highest):
        return [0.0, 1.0]
    raw = highest / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if raw <= power * factor * (1 + 1e-9))
    ticks = [float(f"{step * i:.10g}") for i in range(math.ceil(highest / step - 1e-9) + 1)]
    return ticks if len(ticks) > 1 else [0.0, step]


def lines(times: Sequence[float], series: Sequence[Series], *, title: str, unit: str, show: Format = number) -> Chart:
    """Lines over time. ``times``: Unix time of each value, equally far apart."""
    highest = max((value for one in series for value in one.values if value is not None), default=0.0)
    frame = _Frame(times, nice_ticks(highest), show, unit)
    drawn = [path for one in series for path in _line(frame, one)]
    return _chart(frame, series, drawn, title)


def bars(times: Sequence[float], series: Sequence[Series], *, title: str, unit: str, show: Format = number) -> Chart:
    """Bars over time, the series stacked in their order."""
    sums = [sum(value or 0 for value in column) for column in zip(*(one.values for one in series), strict=True)]
    frame = _Frame(times, nice_ticks(max(sums, default=0.0)), show, unit)
    width = frame.slot * 0.8
    drawn = []
    for i in range(len(times)):
        base = 0.0
        for one in series:
            value = one.values[i] or 0.0
            if value > 0:
                top, bottom = frame.y(base + value), frame.y(base)
                drawn.append(
                    f'<rect class="bar {one.style}" x="{frame.x(i) - width / 2:.1f}" y="{top:.1f}" '
                    f'width="{width:.1f}" height="{max(bottom - top, 0.5):.1f}"/>'
                )
                base += value
    return _chart(frame, series, drawn, title)


def _chart(frame: _Frame, series: Sequence[Series], drawn: list[str], title: str) -> Chart:
    hits = []
    for i, at in enumerate(frame.times):
        told = ", ".join(f"{one.label} {_told(one.values[i], frame.show, frame.unit)}" for one in series)
        hits.append(
            f'<g class="hit"><rect x="{frame.x(i) - frame.slot / 2:.1f}" y="{TOP}" width="{frame.slot:.2f}" '
            f'height="{HEIGHT - TOP - BOTTOM}"/><title>{escape(f"{frame.moment(at)}: {told}")}</title></g>'
        )
    highest = max((value for one in series for value in one.values if value is not None), default=0.0)
    said = f"{title}, {frame.span()}; highest value {_told(highest, frame.show, frame.unit)}"
    svg = (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(said)}">'
        f"{frame.axes()}{''.join(drawn)}{''.join(hits)}</svg>"
    )
    head = ["Time", *(f"{one.label} ({frame.unit})" if frame.unit else one.label for one in series)]
    rows = [
        [frame.moment(at), *("-" if (v := one.values[i]) is None else frame.show(v) for one in series)]
        for i, at in enumerate(frame.times)
    ]
    empty = not any(value for one in series for value in one.values)
    return Chart(svg, head, rows, [(one.style, one.label) for one in series], empty)


def _told(value: float | None, show: Format, unit: str) -> str:
    if value is None:
        return "-"
    return f"{show(value)} {unit}" if unit else show(value)


def _line(frame: _Frame, one: Series) -> list[str]:
    """A path for each run of values without a gap; a lone value becomes a dot."""
    runs: list[list[tuple[float, float]]] = [[]]
    for i, value in enumerate(one.values):
        if value is None:
            runs.append([])
        else:
            runs[-1].append((frame.x(i), frame.y(value)))
    found = []
    for run in runs:
        if len(run) == 1:
            found.append(f'<circle class="dot {one.style}" cx="{run[0][0]:.1f}" cy="{run[0][1]:.1f}" r="3"/>')
        elif run:
            path = " ".join(f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(run))
            found.append(f'<path class="line {one.style}" d="{path}"/>')
    return found


class _Frame:
    """The axes of a chart over time."""

    def __init__(self, times: Sequence[float], ticks: list[float], show: Format, unit: str) -> None:
        self.times = times
        self.show = show
        self.unit = unit
        self._ticks = ticks
        days = {datetime.fromtimestamp(end).date() for end in (*times[:1], *times[-1:])}
        self._form = "%d %b %H:%M:%S" if len(days) > 1 else "%H:%M:%S"
        self.slot = (WIDTH - LEFT - RIGHT) / max(len(times), 1)

    def x(self, i: int) -> float:
        """Middle of a value's place."""
        return LEFT + (i + 0.5) * self.slot

    def y(self, value: float) -> float:
        """Height of a value."""
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - min(value / self._ticks[-1], 1.0))

    def span(self) -> str:
        """From when to when, for people."""
        return f"{self.moment(self.times[0])} to {self.moment(self.times[-1])}" if self.times else "no time"

    def moment(self, at: float) -> str:
        """One of its times, for people; with the day where there is more than one."""
        return datetime.fromtimestamp(at).strftime(self._form)

    def axes(self) -> str:
        """Lines and labels of both axes."""
        parts = []
        for tick in self._ticks:
            y = self.y(tick)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(
                f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{self.show(tick)}</text>'
            )
        step = max(1, math.ceil(len(self.times) / TICKS_X))
        for i in range(step // 2, len(self.times), step):
            parts.append(
                f'<text class="tick" x="{self.x(i):.1f}" y="{HEIGHT - 6}" text-anchor="middle">'
                f"{clock(self.times[i], span_s=self.times[-1] - self.times[0])}</text>"
            )
        if self.unit:
            parts.append(
                f'<text class="unit" x="{LEFT - 6}" y="{TOP - 14}" text-anchor="end">{escape(self.unit)}</text>'
            )
        return "".join(parts)


def clock(at: float, *, span_s: float = 0.0) -> str:
    """Local time of the machine: the hour for a chart of a day, the day for a longer one."""
    moment = datetime.fromtimestamp(at).astimezone()
    return moment.strftime("%d %b" if span_s > 2 * 86_400 else "%H:%M" if span_s >= 900 else "%H:%M:%S")


def sparkline(values: Sequence[float], *, label: str, style: str = "s1") -> str:
    """A word-sized line without axes. ``label`` says in words what it shows."""
    width, height = 96, 20
    highest = max(values, default=0.0) or 1.0
    slot = width / max(len(values) - 1, 1)
    points = " ".join(
        f"{i * slot:.1f},{height - 1 - (height - 2) * value / highest:.1f}" for i, value in enumerate(values)
    )
    return (
        f'<svg class="spark" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        f'<title>{escape(label)}</title><polyline class="line {style}" points="{points}"/></svg>'
    )


def curve(points: Sequence[tuple[float, float]], *, title: str, x_label: str, y_label: str, chosen: float) -> Chart:
    """One quantity by another, as steps; ``chosen`` on the x axis is marked."""
    right = max((x for x, _ in points), default=1.0) or 1.0
    ticks = nice_ticks(max((y for _, y in points), default=0.0))
    inner = WIDTH - LEFT - RIGHT - 16

    def at(x: float, y: float) -> tuple[float, float]:
        return LEFT + 8 + inner * x / right, TOP + (HEIGHT - TOP - BOTTOM) * (1 - y / ticks[-1])

    parts = []
    for tick in ticks:
        y = at(0, tick)[1]
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    for tick in nice_ticks(right, TICKS_X):
        if tick <= right:
            x = at(tick, 0)[0]
            parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{number(tick)}</text>')
    path = " ".join(f"{'L' if i else 'M'}{at(*p)[0]:.1f} {at(*p)[1]:.1f}" for i, p in enumerate(points))
    parts.append(f'<path class="line s1" d="{path}"/>')
    for x, y in points:
        px, py = at(x, y)
        style = "dot mark" if x == chosen else "dot s1"
        told = f"{x_label} {number(x)}: {y_label} {number(y)}"
        parts.append(
            f'<circle class="{style}" cx="{px:.1f}" cy="{py:.1f}" r="4"><title>{escape(told)}</title></circle>'
        )
    svg = (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )
    rows = [[number(x), number(y)] for x, y in points]
    return Chart(svg, [x_label, y_label], rows, [("s1", y_label)], not points)


def timeline(parts: Sequence[tuple[str, float]], *, show: Format) -> str:
    """Phases of one call as a bar: name and seconds of each, in the order of time. Those of no length are left out."""
    total = sum(length for _, length in parts) or 1.0
    width, height = 720, 28
    x, drawn = 0.0, []
    for name, length in parts:
        if length <= 0:
            continue
        wide = max(width * length / total, 1.0)
        told = f"{name}: {show(length)}"
        drawn.append(
            f'<g><rect class="phase phase-{escape(name)}" x="{x:.1f}" y="2" width="{wide:.1f}" height="{height - 4}"/>'
            f"<title>{escape(told)}</title></g>"
        )
        x += width * length / total
    said = ", ".join(f"{name} {show(length)}" for name, length in parts if length > 0)
    return (
        f'<svg class="timeline" viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(said)}">{"".join(drawn)}</svg>'
    )
