"""The order of a global shuffle, that of Python's random.Random(seed).shuffle, and what follows it.

Compiled, because Wikipedia has 157 million examples; 4 bytes each.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from bert.compilation import allocating
from bert.twister import seed_generator, shuffle

Numbers = npt.NDArray[np.uint32]
MOST_NUMBERS = (1 << 32) - 1

# For what threads do at the same time.
threaded = numba.njit(cache=True, nogil=True, error_model="numpy")


def make_permutation(count: int, seed: int) -> Numbers:
    """Return list(range(count)) as random.Random(seed).shuffle leaves it, (count,) uint32.

    Raises ValueError for more than 2^32 - 1 numbers, which would need more than 32 bits a draw.
    """
    if not 0 <= count <= MOST_NUMBERS:
        raise ValueError(f"a permutation has from 0 to {MOST_NUMBERS} numbers, not {count}")
    numbers = np.arange(count, dtype=np.uint32)
    shuffle(seed_generator(seed), numbers)
    return numbers


@allocating
def invert(permutation: Numbers) -> Numbers:
    """Return where each number stands in a permutation, (count,) uint32."""
    places = np.empty_like(permutation)
    for place in range(len(permutation)):
        places[permutation[place]] = place
    return places


@allocating
def count_sources(
    permutation: Numbers, cuts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Count from which stretch of numbers each stretch of places gets how many.

    cuts: (G + 1,) where the stretches of places begin, and the last one's end; ends: (R,) where
    each stretch of numbers ends. Returns (G, R).
    """
    counts = np.zeros((len(cuts) - 1, len(ends)), np.int64)
    for group in range(len(cuts) - 1):
        for place in range(cuts[group], cuts[group + 1]):
            counts[group, np.searchsorted(ends, permutation[place], side="right")] += 1
    return counts


@threaded
def copy_records(
    source: npt.NDArray[Any],
    source_starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    target: npt.NDArray[Any],
    target_starts: npt.NDArray[np.int64],
) -> None:
    """Copy stretches of `source` to their places in `target`.

    source_starts, lengths, target_starts: (B,), within the arrays: nothing is checked here.
    """
    for number in range(len(lengths)):
        start, place, length = source_starts[number], target_starts[number], lengths[number]
        target[place : place + length] = source[start : start + length]
