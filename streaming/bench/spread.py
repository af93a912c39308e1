"""How far measured times lie apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Milliseconds; NaN where nothing was measured. num: how many there were."""

    p50: float
    p99: float
    num: int

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Spread:
        times = sorted(1000 * each for each in seconds)
        return cls(percentile(times, 0.5), percentile(times, 0.99), len(times))


def percentile(ordered: list[float], share: float) -> float:
    """The value below which this share of them lies; NaN where there are none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")
