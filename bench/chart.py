"""The picture: how much of each budget is used, and the calls per second of everybody, as one SVG. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from bench.budgets import BY_KEY, Figure
from bench.table import limit, number

WIDTH, LABEL, ROW, PAD = 960, 430, 22, 16
USED_MAX = 2.0
"""Bars end here: twice the budget; the number says the rest."""
OURS, THEIRS, MISSED, INK, FAINT = "#2f6f4f", "#9aa5b1", "#b3392f", "#1f2933", "#e4e7eb"


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of a panel; ``length`` is a fraction of the panel's width."""

    label: str
    length: float
    text: str
    colour: str


def svg(figures: Sequence[Figure]) -> str:
    """The whole picture."""
    panels = [("How much of each budget is used (the line is the budget; shorter is better)", _budgets(figures), 0.5)]
    for connections in (1, 8, 32):
        if bars := _rates(figures, connections):
            title = f"Warm calls per second, {connections} connection{'s' if connections > 1 else ''}"
            panels.append((title, bars, 0.0))
    parts: list[str] = []
    y = PAD
    for title, bars, mark in panels:
        parts.append(_text(PAD, y + 16, title, weight="bold", size=15))
        y += 30
        parts += _panel(bars, y, mark)
        y += ROW * len(bars) + 24
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" role="img" '
        f'font-family="system-ui, sans-serif"><title>Stoker: budgets and peers</title>\n'
        f'<rect width="{WIDTH}" height="{y}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _budgets(figures: Sequence[Figure]) -> list[Bar]:
    bars = []
    for figure in figures:
        budget = BY_KEY.get(figure.key)
        if budget is None:
            continue
        used = budget.used(figure)
        label = figure.what + (f" / {figure.peer.partition(' (')[0]}" if figure.key.startswith("rate-") else "")
        if used is None:
            bars.append(Bar(label, 0.0, "not measured", FAINT))
            continue
        colour = OURS if budget.kept(figure) else MISSED
        text = f"{used:.0%} of {limit(budget, figure)}" + ("" if budget.kept(figure) else ", missed")
        bars.append(Bar(label, min(used, USED_MAX) / USED_MAX, text, colour))
    return bars


def _rates(figures: Sequence[Figure], connections: int) -> list[Bar]:
    rates: list[tuple[str, float, str]] = []
    for figure in figures:
        if figure.key.startswith(f"rate-{connections}-") and figure.ours and figure.theirs:
            if not rates:
                rates.append(("Stoker", figure.ours.median, OURS))
            rates.append((figure.peer, figure.theirs.median, THEIRS))
    most = max((rate for _, rate, _ in rates), default=1.0)
    return [Bar(name, rate / most, number(rate), colour) for name, rate, colour in rates]


def _panel(bars: Sequence[Bar], y: int, mark: float) -> list[str]:
    room = WIDTH - LABEL - 2 * PAD - 150
    parts = []
    for place, bar in enumerate(bars):
        top = y + place * ROW
        length = max(1.0, bar.length * room)
        parts.append(_text(LABEL - 8, top + 15, _short(bar.label), anchor="end"))
        parts.append(
            f'<rect x="{LABEL}" y="{top + 3}" width="{length:.1f}" height="{ROW - 6}" rx="2" fill="{bar.colour}"/>'
        )
        parts.append(_text(int(LABEL + length + 6), top + 15, bar.text))
    if mark:
        x = LABEL + mark * room
        parts.append(
            f'<line x1="{x:.1f}" y1="{y - 2}" x2="{x:.1f}" y2="{y + ROW * len(bars) + 2}" stroke="{INK}" '
            f'stroke-dasharray="4 3"/>'
        )
    return parts


def _short(label: str, most: int = 66) -> str:
    label = label.replace("`", "")
    return label if len(label) <= most else label[: most - 1] + "…"


def _text(x: int, y: int, text: str, *, anchor: str = "start", weight: str = "normal", size: int = 12) -> str:
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" fill="{INK}">'
        f"{escape(text)}</text>"
    )
