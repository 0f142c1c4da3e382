"""The compiled shuffle draws exactly as CPython's does."""

from __future__ import annotations

import random

import numpy as np
import pytest

from bert.permutation import copy_records, count_sources, invert, make_permutation


@pytest.mark.parametrize("seed", [0, 24, 12345, 2**32 + 7, 2**63 - 1])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 255, 256, 257, 40_000])
def test_the_order_is_pythons(count: int, seed: int) -> None:
    expected = list(range(count))
    random.Random(seed).shuffle(expected)
    assert make_permutation(count, seed).tolist() == expected


def test_too_many_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to 4294967295"):
        make_permutation(2**32, 1)


def test_places_are_the_inverse() -> None:
    permutation = make_permutation(1000, 3)
    assert permutation[invert(permutation)].tolist() == list(range(1000))


def test_sources_are_counted() -> None:
    permutation = make_permutation(1000, 3)
    ends = np.asarray([10, 400, 1000])
    counts = count_sources(permutation, np.asarray([0, 1, 500, 1000]), ends)
    for group, (low, high) in enumerate(((0, 1), (1, 500), (500, 1000))):
        part = permutation[low:high]
        wanted = [(part < 10).sum(), ((part >= 10) & (part < 400)).sum(), (part >= 400).sum()]
        assert counts[group].tolist() == wanted


@pytest.mark.parametrize("item", ["<u2", "<u4"])
def test_records_are_copied(item: str) -> None:
    source, target = np.arange(10, dtype=item), np.empty(6, item)
    starts = np.asarray([7, 0, 4]), np.asarray([2, 0, 5])
    copy_records(source, starts[0], np.asarray([3, 2, 1]), target, starts[1])
    assert target.tolist() == [0, 1, 7, 8, 9, 4]
