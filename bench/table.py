"""The report: one table for the terminal, one page in Markdown. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.budgets import BY_KEY, RATIO, Budget, Figure
from bench.stats import Sample

YES, NO, NONE = "yes", "**no**", "not measured"
DOES_NOT_SAY = """\
* How Stoker does on other machines: the ratios move less than the figures, but they move. Load generator, servers and
  workers share the cores; with more of them, the servers with several processes gain most.
* What isolation costs the peers: gunicorn, functions-framework, uvicorn, Quart and the FDK run all their code in one
  trust domain. Stoker runs each call in a process that it can kill, and counts, limits and logs it.
* Anything about functions that compute: the hello measures the way in and out.
* Other peers' best set-ups: each was started as its documentation says first, with the options named.
* The figures of the official FDK alone leave out the Fn server and Docker that it needs in practice.
"""


def number(value: float) -> str:
    """Three significant figures, without an exponent."""
    magnitude = abs(value)
    if magnitude >= 100:
        return f"{value:,.0f}"
    if magnitude >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if magnitude >= 0.1 or value == 0 else f"{value:.3f}"


def sample(value: Sample | None, unit: str) -> str:
    """Median and range."""
    if value is None:
        return "-"
    if value.least == value.most:
        return f"{number(value.median)} {unit}"
    return f"{number(value.median)} {unit} ({number(value.least)} to {number(value.most)})"


def verdict(budget: Budget, figure: Figure) -> str:
    """Whether the budget is kept, for the table."""
    kept = budget.kept(figure)
    return NONE if kept is None else YES if kept else NO


def limit(budget: Budget, figure: Figure) -> str:
    """The budget with its unit."""
    return budget.text if budget.of == RATIO else f"{budget.text} {figure.unit}"


def summary(figures: Sequence[Figure]) -> str:
    """One sentence: how many budgets are kept."""
    judged = [BY_KEY[figure.key].kept(figure) for figure in figures if figure.key in BY_KEY]
    return (
        f"{judged.count(True)} of {len(judged)} budgets kept, {judged.count(False)} missed, "
        f"{judged.count(None)} not measured."
    )


def rows(figures: Sequence[Figure], *, budgeted: bool) -> list[list[str]]:
    """Table rows: those with a budget, or those without."""
    table = []
    for figure in figures:
        budget = BY_KEY.get(figure.key)
        if (budget is not None) is not budgeted:
            continue
        row = [
            figure.what,
            sample(figure.ours, figure.unit),
            figure.peer or "-",
            sample(figure.theirs, figure.unit),
            "-" if figure.ratio is None else f"{number(figure.ratio)} x",
        ]
        if budget is not None:
            row += [limit(budget, figure), verdict(budget, figure)]
        table.append(row)
    return table


HEADER = ["What", "Stoker: median (least to most)", "Beside", "Theirs", "Ratio"]
BUDGET_HEADER = [*HEADER, "Budget", "Kept"]


def markdown_table(header: Sequence[str], table: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *table]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def plain_table(header: Sequence[str], table: Sequence[Sequence[str]]) -> str:
    """The same for a terminal."""
    lines = [list(header), *[[cell.replace("**", "").replace("`", "") for cell in row] for row in table]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines)


def page(figures: Sequence[Figure], conditions: dict[str, Any], *, notes: str = "") -> str:
    """The whole page ``docs/reference/performance.md``."""
    peers = "".join(f"  * {name}: {versions}\n" for name, versions in conditions["peers"].items())
    facts = "".join(
        f"* {name.replace('_', ' ')}: {value}\n" for name, value in conditions.items() if not isinstance(value, dict)
    )
    remarks = "".join(f"* {figure.what}: {figure.note}.\n" for figure in figures if figure.note)
    return (
        "# Performance\n\n"
        "<!-- Written by `scripts/bench`; do not edit: run it again. -->\n\n"
        "Every budget of the project's design, measured beside peers in one run: the servers were driven in turn, "
        "round after round, on one machine. What counts is the ratio: machines swing, and a slow minute slows both. "
        "A ratio of rates or latencies is the median of the ratios of the rounds; others are ratios of medians.\n\n"
        f"**{summary(figures)}**\n\n"
        "![Every budget and how much of it is used](performance.svg)\n\n"
        f"## Budgets\n\n{markdown_table(BUDGET_HEADER, rows(figures, budgeted=True))}\n"
        f"## Beside them\n\n{markdown_table(HEADER, rows(figures, budgeted=False))}\n"
        f"{notes}"
        f"## Conditions\n\n{facts}* peers, each in an environment of its own:\n{peers}\n"
        f"How each was measured, where it is not obvious:\n\n{remarks}\n"
        f"## What this does not say\n\n{DOES_NOT_SAY}"
    )
