"""Student's t distribution, as far as the convergence test needs it (no scipy at start-up)."""

from __future__ import annotations

import math
from functools import lru_cache


@lru_cache(maxsize=256)
def compute_quantile(probability: float, degrees: float) -> float:
    """Give t with P(T <= t) = probability for 0.5 <= probability < 1, to about 1e-12."""
    low, high = 0.0, 1.0
    while compute_distribution(high, degrees) < probability:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if compute_distribution(middle, degrees) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def compute_distribution(t: float, degrees: float) -> float:
    """Give P(T <= t) for t >= 0."""
    x = degrees / (degrees + t * t)
    return 1 - _compute_beta_ratio(x, degrees / 2, 0.5) / 2


def _compute_beta_ratio(x: float, a: float, b: float) -> float:
    """Give the regularized incomplete beta function I_x(a, b) by its continued fraction."""
    if x <= 0 or x >= 1:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1) / (a + b + 2):
        return 1 - _compute_beta_ratio(1 - x, b, a)
    log_front = (
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    # Lentz's method; tiny keeps a denominator from being zero.
    tiny, c = 1e-300, 1.0
    d = 1 / ((1 - (a + b) * x / (a + 1)) or tiny)
    fraction = d
    for m in range(1, 500):
        step = 1.0
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / ((1 + term * d) or tiny)
            c = (1 + term / c) or tiny
            step = c * d
            fraction *= step
        if abs(step - 1) < 1e-16:
            break
    return math.exp(log_front) * fraction / a
