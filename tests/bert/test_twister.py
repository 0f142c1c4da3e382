"""Compiled draws against Python's own."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert.twister import (
    END,
    FIRST,
    MARGIN,
    POSITION,
    WORDS,
    draw_from,
    draw_half,
    draw_unit,
    draw_word,
    read_unit,
    reserve,
    seed_generator,
    shuffle,
    shuffle_front,
)

seeds = st.integers(0, 2**63 - 1)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, kinds=st.lists(st.integers(0, 3), max_size=60), sizes=st.data())
def test_mixed_draws_are_pythons(seed: int, kinds: list[int], sizes: st.DataObject) -> None:
    ours, theirs = seed_generator(seed), random.Random(seed)
    for kind in kinds:
        if kind == 0:
            assert draw_unit(ours) == theirs.random()
        elif kind == 1:
            assert draw_half(ours) == (theirs.random() < 0.5)
        elif kind == 2:
            low = sizes.draw(st.integers(0, 1000))
            high = low + sizes.draw(st.integers(0, 2**32 - 2))
            assert draw_from(ours, low, high) == theirs.randint(low, high)
        else:
            count = sizes.draw(st.integers(0, 400))
            assert_same_shuffle(ours, theirs, count)
    assert draw_word(ours) == theirs.getrandbits(32)


def assert_same_shuffle(ours: np.ndarray, theirs: random.Random, count: int) -> None:
    items, numbers = np.arange(count, dtype=np.uint16), list(range(count))
    shuffle(ours, items)
    theirs.shuffle(numbers)
    assert items.tolist() == numbers


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7, 8, 9, 255, 256, 257, 1000, 65_535])
def test_shuffle_is_pythons(count: int) -> None:
    ours, theirs = seed_generator(count), random.Random(count)
    assert_same_shuffle(ours, theirs, count)
    assert draw_unit(ours) == theirs.random()


@settings(max_examples=50, deadline=None)
@given(seed=seeds, count=st.integers(0, 700), front=st.integers(0, 700))
def test_the_front_of_a_shuffle_is_pythons(seed: int, count: int, front: int) -> None:
    ours, theirs = seed_generator(seed), random.Random(seed)
    items, numbers = np.arange(count, dtype=np.uint16), list(range(count))
    shuffle_front(ours, items, min(front, count))
    theirs.shuffle(numbers)
    assert items[:front].tolist() == numbers[:front]
    assert draw_word(ours) == theirs.getrandbits(32)


@pytest.mark.parametrize("used", [0, 1, WORDS - MARGIN - 2, *range(WORDS - MARGIN - 1, WORDS + 1)])
@pytest.mark.parametrize("count", [1, 2, 5, MARGIN + 1])
def test_reserved_words_lie_side_by_side(used: int, count: int) -> None:
    ours, theirs = seed_generator(7), random.Random(7)
    for _ in range(used):
        assert draw_word(ours) == theirs.getrandbits(32)
    place = int(reserve(ours, np.uint64(ours[POSITION]), np.uint64(count)))
    assert FIRST - MARGIN <= place <= END - count
    assert ours[place : place + count].tolist() == [theirs.getrandbits(32) for _ in range(count)]


def test_units_in_whole_numbers_are_pythons() -> None:
    ours, theirs = seed_generator(3), random.Random(3)
    for _ in range(1000):
        place = reserve(ours, np.uint64(ours[POSITION]), np.uint64(2))
        assert int(read_unit(ours, place)) == theirs.random() * 2**53
        ours[POSITION] = place + np.uint64(2)


def test_states_follow_each_other() -> None:
    ours, theirs = seed_generator(5), random.Random(5)
    for _ in range(3 * WORDS + 1):
        assert draw_word(ours) == theirs.getrandbits(32)


def test_generator_is_the_one_of_the_format() -> None:
    # MT19937 seeded by init_by_array([12345]): fixed whatever Python does one day.
    generator = seed_generator(12345)
    assert [draw_word(generator) for _ in range(3)] == [1789368711, 3146859322, 43676229]
