"""Numbers about numbers: medians, percentiles and ratios. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """What is reported of a series of measurements."""

    median: float
    least: float
    most: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Sample:
        """Summarise a series.

        Raises:
          ValueError: it is empty.
        """
        if not values:
            raise ValueError("nothing was measured")
        return cls(statistics.median(values), min(values), max(values), len(values))


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` of the series do not exceed (nearest rank).

    Raises:
      ValueError: the series is empty, or ``percent`` is not above 0 and at most 100.
    """
    if not values or not 0 < percent <= 100:
        raise ValueError("percentile needs values and a percentage in (0, 100]")
    ranked = sorted(values)
    return ranked[math.ceil(len(ranked) * percent / 100) - 1]


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios of each round.

    Both were measured in turn, so a slow minute of the machine slows both members of a pair and cancels out, which
    the ratio of two medians does not promise.

    Raises:
      ValueError: no pairs, or not as many of one as of the other.
    """
    if not ours or len(ours) != len(theirs):
        raise ValueError(f"cannot pair {len(ours)} rounds with {len(theirs)}")
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
