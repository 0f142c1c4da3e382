"""Python's random numbers, compiled: Mersenne Twister MT19937, draw for draw as `random.Random`.

Source: M. Matsumoto, T. Nishimura, "Mersenne Twister", ACM TOMACS 8 (1998); what Python makes of
its words: Lib/random.py and Modules/_randommodule.c of CPython 3.2 and later.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import numpy.typing as npt

from bert.compilation import compiled, inlined

WORDS, MIDDLE = 624, 397
TWIST, UPPER, LOWER = np.uint32(0x9908B0DF), np.uint32(0x80000000), np.uint32(0x7FFFFFFF)
TEMPER_B, TEMPER_C = np.uint32(0x9D2C5680), np.uint32(0xEFC60000)
ONE, SEVEN, ELEVEN = np.uint32(1), np.uint32(7), np.uint32(11)
FIFTEEN, EIGHTEEN = np.uint32(15), np.uint32(18)
# A generator is one array: the state; a margin; the words that the state gives; where in the array
# the next word is. The margin takes the last words of one state before the first of the next, so
# that who needs a few words at once can look at them all (`reserve`).
MARGIN = 8
FIRST, END = WORDS + MARGIN, WORDS + MARGIN + WORDS
POSITION = END

Generator = npt.NDArray[np.uint32]


def seed_generator(seed: int) -> Generator:
    """Make the generator of `random.Random(seed)`: (1257,) uint32."""
    generator = np.zeros(POSITION + 1, np.uint32)
    generator[:WORDS] = random.Random(seed).getstate()[1][:WORDS]
    generator[POSITION] = END  # Python, too, goes to the next state before its first draw
    return generator


@compiled
def twist_word(kept: Any, mixed: Any) -> Any:
    """Return what a word of the state, its upper bit, and the next one, its lower bits, give."""
    joined = (kept & UPPER) | (mixed & LOWER)
    return (joined >> ONE) ^ (TWIST if joined & ONE else np.uint32(0))


@compiled
def temper(generator: Any) -> None:
    """Write the 624 words that the present state gives."""
    for i in range(WORDS):
        word = generator[i]
        word ^= word >> ELEVEN
        word ^= (word << SEVEN) & TEMPER_B
        word ^= (word << FIFTEEN) & TEMPER_C
        generator[FIRST + i] = word ^ (word >> EIGHTEEN)


@compiled
def refill(generator: Any) -> None:
    """Go to the next state and write its words."""
    for i in range(WORDS - MIDDLE):
        twisted = twist_word(generator[i], generator[i + 1])
        generator[i] = generator[i + MIDDLE] ^ twisted
    for i in range(WORDS - MIDDLE, WORDS - 1):
        twisted = twist_word(generator[i], generator[i + 1])
        generator[i] = generator[i + MIDDLE - WORDS] ^ twisted
    twisted = twist_word(generator[WORDS - 1], generator[0])
    generator[WORDS - 1] = generator[MIDDLE - 1] ^ twisted
    temper(generator)


@compiled
def reserve(generator: Any, position: Any, count: Any) -> Any:
    """Return where `count` words from `position` on lie side by side, at most MARGIN + 1 many."""
    left = np.uint64(END) - position
    if left >= count:
        return position
    for i in range(left):
        generator[np.uint64(FIRST) - left + i] = generator[position + i]
    refill(generator)
    return np.uint64(FIRST) - left


@inlined
def draw_word(generator: Any) -> Any:
    """Draw 32 bits, an int64."""
    position = np.uint64(generator[POSITION])
    if position == np.uint64(END):
        refill(generator)
        position = np.uint64(FIRST)
    generator[POSITION] = position + np.uint64(1)
    return np.int64(generator[position])


@inlined
def draw_unit(generator: Any) -> Any:
    """Draw a float64 from 0 to 1, 1 excluded, as `random()`."""
    high = draw_word(generator) >> 5
    low = draw_word(generator) >> 6
    return (high * 67108864.0 + low) * (1.0 / 9007199254740992.0)


@inlined
def read_unit(generator: Any, position: Any) -> Any:
    """Read what `random()` would make of the two words at a position: times 2**53, a uint64."""
    high = np.uint64(generator[position]) >> np.uint64(5)
    low = np.uint64(generator[position + np.uint64(1)]) >> np.uint64(6)
    return high << np.uint64(26) | low


@inlined
def draw_half(generator: Any) -> Any:
    """Draw whether `random() < 0.5`: the first bit decides it."""
    word = draw_word(generator)
    draw_word(generator)
    return word < 1 << 31


@inlined
def count_bits(number: Any) -> Any:
    """Return int.bit_length() of a number from 1 to 2**32 - 1."""
    bits = 1
    for step in (16, 8, 4, 2, 1):
        if number >> step:
            number >>= step
            bits += step
    return bits


@compiled
def draw_from(generator: Any, low: Any, high: Any) -> Any:
    """Draw a whole number from low to high, both included, as `randint`; at most 2**32 - 1 many."""
    count = high - low + 1
    shift = 32 - count_bits(count)
    drawn = draw_word(generator) >> shift
    while drawn >= count:
        drawn = draw_word(generator) >> shift
    return low + drawn


@compiled
def shuffle(generator: Any, items: Any) -> None:
    """Shuffle an array of at most 2**32 - 1 items in place, as `shuffle`."""
    shuffle_front(generator, items, items.size)


@compiled
def shuffle_front(generator: Any, items: Any, front: Any) -> None:
    """Shuffle an array as `shuffle` does, but put in order only its first `front` items.

    What the others are afterwards means nothing. An item that is swapped behind the front is never
    moved again, so that there only the other half of the swap is made.
    """
    if items.size < 2:
        return
    one, end, front = np.uint64(1), np.uint64(END), np.uint64(front)
    position, bits = np.uint64(generator[POSITION]), np.uint64(count_bits(items.size))
    i = np.uint64(items.size - 1)
    while i >= one:
        shift = np.uint64(32) - bits
        low = max(one, (one << (bits - one)) - one)  # all i from here up take as many bits
        # A draw too large is drawn again. Written without a branch, which the processor would
        # mispredict once in three draws: item i is swapped with itself, and i stays. Unsigned
        # numbers make that one subtraction with borrow.
        while i >= max(low, front):
            if position == end:
                refill(generator)
                position = np.uint64(FIRST)
            j = np.uint64(generator[position]) >> shift
            position += one
            items[min(i, j)] = items[i]
            i = i - one + np.uint64(i < j)
        while i >= low:
            if position == end:
                refill(generator)
                position = np.uint64(FIRST)
            j = np.uint64(generator[position]) >> shift
            position += one
            kept = min(i, j)
            items[i], items[kept] = items[kept], items[i]
            i = i - one + np.uint64(i < j)
        bits -= one
    generator[POSITION] = position
