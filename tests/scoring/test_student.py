"""Our t distribution agrees with scipy's."""

import pytest

from scoring.student import compute_distribution, compute_quantile


@pytest.mark.parametrize("degrees", [1, 2, 3, 9, 11, 24, 29, 100, 1000])
@pytest.mark.parametrize("probability", [0.5, 0.6, 0.95, 0.999])
def test_quantile(degrees, probability):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.t.ppf(probability, degrees)
    assert compute_quantile(probability, degrees) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("t", [0.0, 0.1, 1.7, 12.0, 1e4])
def test_distribution(t):
    stats = pytest.importorskip("scipy.stats")
    assert compute_distribution(t, 11) == pytest.approx(stats.t.cdf(t, 11), abs=1e-12)
