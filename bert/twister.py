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
# A generator is one array: the state, the words that it gives next, how many of them are used up.
POSITION = 2 * WORDS

Generator = npt.NDArray[np.uint32]


def seed_generator(seed: int) -> Generator:
    """Make the generator of `random.Random(seed)`: (1249,) uint32."""
    generator = np.zeros(POSITION + 1, np.uint32)
    generator[:WORDS] = random.Random(seed).getstate()[1][:WORDS]
    generator[POSITION] = WORDS  # Python, too, goes to the next state before its first draw
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
        generator[WORDS + i] = word ^ (word >> EIGHTEEN)


@compiled
def refill(generator: Any) -> None:
    """Go to the next state and begin to read its words."""
    for i in range(WORDS - MIDDLE):
        twisted = twist_word(generator[i], generator[i + 1])
        generator[i] = generator[i + MIDDLE] ^ twisted
    for i in range(WORDS - MIDDLE, WORDS - 1):
        twisted = twist_word(generator[i], generator[i + 1])
        generator[i] = generator[i + MIDDLE - WORDS] ^ twisted
    twisted = twist_word(generator[WORDS - 1], generator[0])
    generator[WORDS - 1] = generator[MIDDLE - 1] ^ twisted
    temper(generator)
    generator[POSITION] = 0


@inlined
def draw_word(generator: Any) -> Any:
    """Draw 32 bits, an int64."""
    if generator[POSITION] == WORDS:
        refill(generator)
    position = generator[POSITION]
    generator[POSITION] = position + 1
    return np.int64(generator[WORDS + position])


@inlined
def draw_unit(generator: Any) -> Any:
    """Draw a float64 from 0 to 1, 1 excluded, as `random()`."""
    high = draw_word(generator) >> 5
    low = draw_word(generator) >> 6
    return (high * 67108864.0 + low) * (1.0 / 9007199254740992.0)


@inlined
def take_unit(generator: Any, position: Any) -> Any:
    """Draw as draw_unit, for loops that keep the generator's position in a register meanwhile.

    Returns what is drawn and the next position, which the loop writes back at its end.
    """
    if position > WORDS - 2:
        generator[POSITION] = position
        unit = draw_unit(generator)
        position = np.int64(generator[POSITION])
    else:
        high = np.int64(generator[WORDS + position]) >> 5
        low = np.int64(generator[WORDS + position + 1]) >> 6
        unit = (high * 67108864.0 + low) * (1.0 / 9007199254740992.0)
        position += 2
    return unit, position


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
    i = items.size - 1
    position = np.int64(generator[POSITION])
    bits = count_bits(i + 1) if i > 0 else 0
    while i > 0:
        shift = 32 - bits
        low = max(1, (1 << (bits - 1)) - 1)  # all i from here up take as many bits
        while i >= low:
            if position == WORDS:
                refill(generator)
                position = 0
            j = np.int64(generator[WORDS + position]) >> shift
            position += 1
            # A draw too large is drawn again. Written without a branch, which the processor
            # would mispredict once in three draws: item i is swapped with itself, and i stays.
            fits = j <= i
            j = j if fits else i
            items[i], items[j] = items[j], items[i]
            i -= fits
        bits -= 1
    generator[POSITION] = position
