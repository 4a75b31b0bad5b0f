"""The budgets of the design (its section 6), as data, and whether a figure keeps its own. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.stats import Sample

RATIO, MEDIAN, MOST = "ratio", "median", "most"
"""What a limit applies to: ours divided by the peer's, the median of ours, or the worst of ours."""


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured: ours, a peer's of the same run, and one divided by the other."""

    key: str
    what: str
    unit: str
    ours: Sample | None
    peer: str = ""
    theirs: Sample | None = None
    ratio: float | None = None
    note: str = ""
    """How it was measured, or why it was not."""


@dataclass(frozen=True, slots=True)
class Budget:
    """One limit. ``row`` is the first column of the design's table; one row may have several limits."""

    key: str
    row: str
    of: str
    at_most: float | None = None
    at_least: float | None = None

    @property
    def text(self) -> str:
        """The limit, for people."""
        sign, limit = ("<=", self.at_most) if self.at_most is not None else (">=", self.at_least)
        assert limit is not None
        number = f"1/{1 / limit:.0f}" if self.of == RATIO and limit < 0.5 else f"{limit:g}"
        return f"{sign} {number}{' x' if self.of == RATIO else ''}"

    def kept(self, figure: Figure) -> bool | None:
        """Whether the figure is within the limit; None when it was not measured."""
        value = self.value(figure)
        if value is None:
            return None
        if self.at_most is not None:
            return value <= self.at_most
        assert self.at_least is not None
        return value >= self.at_least

    def used(self, figure: Figure) -> float | None:
        """How much of the limit is used: 1 is the limit itself, above is missed; None when not measured."""
        value = self.value(figure)
        if value is None or value <= 0:
            return None if value is None else 0.0
        if self.at_most is not None:
            return value / self.at_most
        assert self.at_least is not None
        return self.at_least / value

    def value(self, figure: Figure) -> float | None:
        """The number that the limit applies to."""
        if self.of == RATIO:
            return figure.ratio
        if figure.ours is None:
            return None
        return figure.ours.median if self.of == MEDIAN else figure.ours.most


CPU = "daemon CPU per warm call"
RATE = "warm calls/s, 8 to 32 connections"
LATENCY = "warm call p50, 1 connection"
COLD = "cold start, hello, first byte"
COLD_IMPORTS = "cold start, function importing numpy, or fastapi + httpx + pydantic"
BURST = "100 simultaneous calls to a cold function"
PCUS = "40 PCUs ready"
MEMORY = "memory per warm idle instance"
OVERRUN = "deadline overrun"
SAVE = "save a file -> next call runs it (`stoker dev`)"

BUDGETS: tuple[Budget, ...] = (
    Budget("cpu-1", CPU, RATIO, at_most=1 / 10),
    Budget("cpu-8", CPU, RATIO, at_most=1 / 10),
    Budget("rate-8-gunicorn", RATE, RATIO, at_least=4),
    Budget("rate-32-gunicorn", RATE, RATIO, at_least=4),
    Budget("rate-8-functions-framework", RATE, RATIO, at_least=8),
    Budget("rate-32-functions-framework", RATE, RATIO, at_least=8),
    Budget("rate-8-uvicorn", RATE, RATIO, at_least=0.7),
    Budget("rate-32-uvicorn", RATE, RATIO, at_least=0.7),
    Budget("rate-8-uvicorn-standard", RATE, RATIO, at_least=0.7),
    Budget("rate-32-uvicorn-standard", RATE, RATIO, at_least=0.7),
    Budget("p50-1", LATENCY, RATIO, at_most=0.5),
    Budget("cold-fork", COLD, RATIO, at_most=1 / 3),
    Budget("cold-fork-p99", COLD, RATIO, at_most=3),
    Budget("cold-numpy", COLD_IMPORTS, RATIO, at_most=2),
    Budget("cold-web", COLD_IMPORTS, RATIO, at_most=2),
    Budget("burst-100", BURST, RATIO, at_most=50),
    Budget("pcus-40", PCUS, RATIO, at_most=60),
    Budget("pcus-first", PCUS, RATIO, at_most=5),
    Budget("pss-hello", MEMORY, MEDIAN, at_most=2.0),
    Budget("pss-numpy", MEMORY, MEDIAN, at_most=2.5),
    Budget("overrun-loop", OVERRUN, MOST, at_most=50),
    Budget("overrun-grandchildren", OVERRUN, MOST, at_most=50),
    Budget("save", SAVE, MEDIAN, at_most=200),
)
BY_KEY: dict[str, Budget] = {budget.key: budget for budget in BUDGETS}


def unmeasured(figures: list[Figure]) -> list[str]:
    """Keys of budgets for which there is no figure at all; must be empty in a report."""
    return sorted(set(BY_KEY) - {figure.key for figure in figures})


def as_json(figure: Figure) -> dict[str, Any]:
    """One row of ``latest.json``."""
    budget = BY_KEY.get(figure.key)
    return {
        "key": figure.key,
        "what": figure.what,
        "unit": figure.unit,
        "ours": _sample(figure.ours),
        "peer": figure.peer,
        "theirs": _sample(figure.theirs),
        "ratio": None if figure.ratio is None else round(figure.ratio, 4),
        "budget": None if budget is None else {"row": budget.row, "limit": budget.text, "of": budget.of},
        "kept": None if budget is None else budget.kept(figure),
        "note": figure.note,
    }


def _sample(sample: Sample | None) -> dict[str, float] | None:
    if sample is None:
        return None
    return {
        "median": round(sample.median, 4),
        "least": round(sample.least, 4),
        "most": round(sample.most, 4),
        "count": sample.count,
    }
