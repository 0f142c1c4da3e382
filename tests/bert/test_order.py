"""Every pass is a permutation, passes and seeds differ, and windows cut what must be read."""

from __future__ import annotations

import numpy as np
import pytest

from bert import order as order_module
from bert.order import SampleOrder


@pytest.fixture(params=[(4, 3), (7, 2), (2048, 128)])
def _sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks and windows beside the real ones."""
    block, blocks = request.param
    monkeypatch.setattr(order_module, "BLOCK_SAMPLES", block)
    monkeypatch.setattr(order_module, "WINDOW_BLOCKS", blocks)


@pytest.mark.usefixtures("_sizes")
@pytest.mark.parametrize("samples", [1, 2, 3, 64, 1000, 10_007])
def test_every_pass_is_a_permutation(samples: int) -> None:
    indices = SampleOrder(samples, seed=7)(0, 3 * samples).reshape(3, samples)
    for one_pass in indices:
        assert sorted(one_pass) == list(range(samples))


@pytest.mark.usefixtures("_sizes")
def test_passes_and_seeds_differ() -> None:
    first, second = SampleOrder(1000, 1)(0, 2000).reshape(2, 1000)
    other = SampleOrder(1000, 2)(0, 1000)
    for a, b in [(first, second), (first, other)]:
        assert np.mean(a == b) < 0.02


@pytest.mark.usefixtures("_sizes")
def test_stretches_equal_the_whole_in_any_sequence() -> None:
    whole = SampleOrder(777, 3)(0, 2000)
    order = SampleOrder(777, 3)
    parts = {start: order(start, 50) for start in [*range(1950, -1, -50)]}
    assert np.array_equal(whole, np.concatenate([parts[start] for start in sorted(parts)]))


@pytest.mark.usefixtures("_sizes")
def test_windows_follow_each_other_and_hold_their_blocks_alone() -> None:
    order, position = SampleOrder(1003, 5), 0
    while position < 2006:
        window = order.window(position)
        assert window.first == position and len(window.places) > 0
        rows = [row for first, end in window.blocks.tolist() for row in range(first, end)]
        assert sorted(window.samples.tolist()) == sorted(rows)
        assert np.array_equal(window.samples, order(position, len(window.places)))
        inside = order.window(position + len(window.places) - 1)
        assert inside.first == position and np.array_equal(inside.places, window.places)
        position = window.end
    assert position == 2006


def test_a_window_of_wikipedia_comes_from_everywhere_and_is_mixed() -> None:
    """Each block once, from all of the data set; neighbours in the order are from other blocks."""
    window = SampleOrder(156_726_829, 1).window(0)
    assert len(window.places) == order_module.WINDOW_SAMPLES
    tenths = np.histogram(window.samples, bins=10, range=(0, 156_726_829))[0]
    assert tenths.min() > 0
    blocks = window.samples // order_module.BLOCK_SAMPLES
    assert np.mean(blocks[1:] == blocks[:-1]) < 0.02
    step = np.bincount(np.unique(blocks[:3072], return_inverse=True)[1])
    assert len(step) == order_module.WINDOW_BLOCKS  # a step takes from every block of its window


def test_no_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        SampleOrder(0, 1)
