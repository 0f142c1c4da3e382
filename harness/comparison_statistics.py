"""Is a change real: Welch's test on runs, and what a single probe's steps can and cannot say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance

# Of a normal distribution: from the 10th to the 90th percentile, and the deviation of a median of
# many values over that of their mean.
P10_TO_P90_DEVIATIONS = 2.563
MEDIAN_DEVIATION = 1.2533
# Chance with which a change of the `detectable` size would be shown.
POWER = 0.8


@dataclass(frozen=True)
class Difference:
    """A quantity on two sides, and what the change is worth.

    change, low, high, detectable: relative to the first mean, or in the unit where absolute; low,
    high: ends of the confidence interval; p: two-sided, of a change as large by chance; detectable:
    the smallest change that would have been shown in four of five tries. All but change are None
    without scatter to judge by.
    """

    name: str
    unit: str
    counts: tuple[int, int]
    means: tuple[float, float]
    change: float
    low: float | None
    high: float | None
    p: float | None
    detectable: float | None
    absolute: bool = False

    def write_change(self, value: float, digits: int = 2) -> str:
        """A change for people: in percent, or in the unit where absolute."""
        return f"{value:+.3g} {self.unit}" if self.absolute else f"{value:+.{digits}%}"

    def is_real(self, level: float) -> bool:
        """True where chance alone would show such a change in fewer than `level` of cases."""
        return self.p is not None and self.p < level


def compare_values(
    name: str, unit: str, first: Sequence[float], second: Sequence[float], level: float,
    absolute: bool = False,
) -> Difference | None:  # fmt: skip
    """Welch's test of two sets of runs; None where a side has no value, or where the first mean is
    0 and the change relative to it.

    level: of significance, for the interval; absolute: changes in the unit, for quantities about 0.
    Source: B. L. Welch, Biometrika 34 (1947).
    """
    if not first or not second or (fmean(first) == 0 and not absolute):
        return None
    counts = (len(first), len(second))
    means = (fmean(first), fmean(second))
    if min(counts) < 2:
        return _judge(name, unit, counts, means, None, 0.0, level, absolute)
    shares = (variance(first) / counts[0], variance(second) / counts[1])
    error = math.sqrt(sum(shares))
    degrees = math.inf
    if error > 0:
        degrees = sum(shares) ** 2 / sum(
            share**2 / (count - 1) for share, count in zip(shares, counts, strict=True)
        )
    return _judge(name, unit, counts, means, error, degrees, level, absolute)


def compare_medians(
    name: str,
    unit: str,
    medians: tuple[float, float],
    ranges: tuple[float, float],
    steps: tuple[int, int],
    level: float,
) -> Difference:
    """Test two medians of many steps each; ranges: from the 10th to the 90th percentile.

    Steps of one probe share one state of the machine, so this sees their noise alone.
    """
    errors = [
        MEDIAN_DEVIATION * width / P10_TO_P90_DEVIATIONS / math.sqrt(count)
        for width, count in zip(ranges, steps, strict=True)
    ]
    return _judge(name, unit, steps, medians, math.hypot(*errors), math.inf, level)


def _judge(
    name: str,
    unit: str,
    counts: tuple[int, int],
    means: tuple[float, float],
    error: float | None,
    degrees: float,
    level: float,
    absolute: bool = False,
) -> Difference:
    base = 1.0 if absolute else abs(means[0])
    difference = means[1] - means[0]
    change = difference / base
    # Rounding leaves a trace of scatter on equal values.
    if error is None or error <= 1e-12 * max(abs(mean) for mean in means):
        return Difference(name, unit, counts, means, change, None, None, None, None, absolute)
    reach = quantile(1 - level / 2, degrees) * error
    p = 2 * survive(abs(difference) / error, degrees)
    detectable = (quantile(1 - level / 2, degrees) + quantile(POWER, degrees)) * error / base
    low, high = (difference - reach) / base, (difference + reach) / base
    return Difference(name, unit, counts, means, change, low, high, p, detectable, absolute)


def quantile(share: float, degrees: float) -> float:
    """Quantile of Student's distribution; of the normal one with infinite degrees."""
    from scipy.special import ndtri, stdtrit

    return float(ndtri(share) if math.isinf(degrees) else stdtrit(degrees, share))


def survive(t: float, degrees: float) -> float:
    """Chance of a value above t."""
    from scipy.special import ndtr, stdtr

    return float(ndtr(-t) if math.isinf(degrees) else stdtr(degrees, -t))
