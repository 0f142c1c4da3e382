"""Every pass is a permutation, passes and seeds differ, and stretches make up the whole."""

import numpy as np
import pytest

from bert.order import SampleOrder


@pytest.mark.parametrize("samples", [1, 2, 3, 64, 1000, 10_007])
def test_every_pass_is_a_permutation(samples: int) -> None:
    indices = SampleOrder(samples, seed=7)(0, 3 * samples).reshape(3, samples)
    for one_pass in indices:
        assert sorted(one_pass) == list(range(samples))


def test_passes_and_seeds_differ() -> None:
    first, second = SampleOrder(1000, 1)(0, 2000).reshape(2, 1000)
    other = SampleOrder(1000, 2)(0, 1000)
    for a, b in [(first, second), (first, other)]:
        assert np.mean(a == b) < 0.02


def test_stretches_equal_the_whole() -> None:
    whole = SampleOrder(777, 3)(0, 2000)
    order = SampleOrder(777, 3)
    parts = [order(start, 50) for start in range(0, 2000, 50)]
    assert np.array_equal(whole, np.concatenate(parts))


def test_ranks_that_skip_what_others_take_agree_on_the_order() -> None:
    whole = SampleOrder(100, 9)(0, 480)
    ranks = [SampleOrder(100, 9) for _ in range(4)]
    taken = [
        rank(micro * 16 + number * 4, 4) for micro in range(30) for number, rank in enumerate(ranks)
    ]
    assert np.array_equal(whole, np.concatenate(taken))


def test_an_earlier_pass_is_refused() -> None:
    order = SampleOrder(10, 1)
    order(25, 2)
    with pytest.raises(ValueError, match="pass 1 is over"):
        order(19, 1)


def test_no_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        SampleOrder(0, 1)
