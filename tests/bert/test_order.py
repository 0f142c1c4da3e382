"""Every pass is a permutation, passes and seeds differ, and neighbours are scattered."""

import numpy as np
import pytest

from bert.order import SampleOrder


@pytest.mark.parametrize("samples", [1, 2, 3, 5, 64, 65, 1000, 4096, 10_007])
def test_every_pass_is_a_permutation(samples: int) -> None:
    order = SampleOrder(samples, seed=7)
    positions = np.arange(3 * samples)
    indices = order(positions).reshape(3, samples)
    for one_pass in indices:
        assert sorted(one_pass) == list(range(samples))


def test_passes_and_seeds_differ() -> None:
    samples = 1000
    first, second = SampleOrder(samples, 1)(np.arange(2 * samples)).reshape(2, samples)
    other = SampleOrder(samples, 2)(np.arange(samples))
    for a, b in [(first, second), (first, other)]:
        assert np.mean(a == b) < 0.02


def test_stretches_equal_the_whole() -> None:
    order = SampleOrder(777, 3)
    whole = order(np.arange(2000))
    parts = [order(np.arange(start, start + 50)) for start in range(0, 2000, 50)]
    assert np.array_equal(whole, np.concatenate(parts))


def test_neighbours_are_scattered() -> None:
    samples = 100_000
    indices = SampleOrder(samples, 5)(np.arange(samples))
    correlation = np.corrcoef(np.arange(samples), indices)[0, 1]
    assert abs(correlation) < 0.02
    steps = np.diff(indices)
    # A random order moves on average a third of the range.
    assert np.mean(np.abs(steps)) == pytest.approx(samples / 3, rel=0.02)
    assert len(np.unique(steps)) > samples // 3


def test_no_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        SampleOrder(0, 1)
