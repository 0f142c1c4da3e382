"""Welch's t-test: do two sets of runs differ in their mean, without assuming one scatter."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import fmean, variance
from typing import Any

from scoring.student import compute_distribution, compute_quantile

NAME = "Welch's t-test, two-sided"
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class MeanTest:
    """The test of second - first; t, degrees, p and the 95 % interval are None without scatter."""

    test: str
    runs: tuple[int, int]
    means: tuple[float, float]
    difference: float
    interval: tuple[float, float] | None
    t: float | None
    degrees: float | None
    p: float | None

    def describe(self) -> dict[str, Any]:
        """Give the test as data."""
        return asdict(self)


def compare_means(first: list[float], second: list[float]) -> MeanTest | None:
    """Test whether two samples differ in their mean; None with fewer than two values in one.

    Source: B. L. Welch, The generalization of "Student's" problem when several different
    population variances are involved, Biometrika 34 (1947).
    """
    if len(first) < 2 or len(second) < 2:
        return None
    means = (fmean(first), fmean(second))
    difference = means[1] - means[0]
    shares = (variance(first) / len(first), variance(second) / len(second))
    error = math.sqrt(sum(shares))
    counts = (len(first), len(second))
    # Rounding leaves a trace of scatter on equal values.
    if error <= 1e-12 * max(abs(means[0]), abs(means[1])):
        return MeanTest(NAME, counts, means, difference, None, None, None, None)
    degrees = sum(shares) ** 2 / sum(
        share**2 / (count - 1) for share, count in zip(shares, counts, strict=True)
    )
    t = difference / error
    p = 2 * (1 - compute_distribution(abs(t), degrees))
    reach = compute_quantile((1 + _CONFIDENCE) / 2, degrees) * error
    interval = (difference - reach, difference + reach)
    return MeanTest(NAME, counts, means, difference, interval, t, degrees, min(1.0, max(0.0, p)))
