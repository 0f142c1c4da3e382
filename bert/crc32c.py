"""CRC-32C (Castagnoli) of large arrays in numpy: many lanes at once, joined by the CRC's linearity.

Source of the polynomial and its bit order: RFC 3720, appendix B.4; of the mask: LevelDB's
util/crc32c.h, which TensorFlow's checkpoints follow.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]

POLYNOMIAL = 0x82F63B78
MASK_DELTA = 0xA282EAD8
MOST_LANES = 1 << 15
FEWEST_STEPS = 64
SMALLEST_BYTES = 1 << 13  # below it, joining lanes costs more than they save
ALL_ONES = 0xFFFFFFFF


def _make_byte_table() -> Words:
    table: Words = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        odd = np.where(table & np.uint32(1), np.uint32(POLYNOMIAL), np.uint32(0))
        table = (table >> np.uint32(1)) ^ odd
    return table


BYTE_TABLE = _make_byte_table()
# The effect of two bytes at once.
_LOW = BYTE_TABLE[np.arange(1 << 16) & 0xFF]
PAIR_TABLE = (_LOW >> 8) ^ BYTE_TABLE[(_LOW ^ (np.arange(1 << 16, dtype=np.uint32) >> 8)) & 0xFF]
_PLAIN_TABLE = BYTE_TABLE.tolist()


def hash_crc32c(data: bytes | bytearray | memoryview | npt.NDArray[np.uint8]) -> int:
    """Return the CRC-32C of bytes."""
    octets = np.frombuffer(data, dtype=np.uint8)
    return _advance(ALL_ONES, octets) ^ ALL_ONES


def mask_crc(crc: int) -> int:
    """Return a CRC as LevelDB and TensorFlow store it."""
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & ALL_ONES


def _advance(register: int, octets: npt.NDArray[np.uint8]) -> int:
    """Move the register on over some bytes."""
    lanes = MOST_LANES
    while lanes > 1 and len(octets) < 2 * FEWEST_STEPS * lanes:
        lanes //= 2
    if lanes == 1 or len(octets) < SMALLEST_BYTES:
        for octet in octets.tolist():
            register = _PLAIN_TABLE[(register ^ octet) & 0xFF] ^ (register >> 8)
        return register
    pairs = len(octets) // (2 * lanes)
    taken = octets[: 2 * lanes * pairs]
    register = _advance_lanes(register, taken.view("<u2").reshape(lanes, pairs))
    return _advance(register, octets[len(taken) :])


def _advance_lanes(register: int, pairs: npt.NDArray[np.uint16]) -> int:
    """Move the register on over lanes (lanes, steps), which follow one another in the data."""
    registers = np.zeros(len(pairs), dtype=np.uint32)
    registers[0] = register
    for step in range(pairs.shape[1]):
        registers = (registers >> 16) ^ PAIR_TABLE[(registers ^ pairs[:, step]) & 0xFFFF]
    shift = _make_zeros(2 * pairs.shape[1])
    while len(registers) > 1:
        # A register moved over the right half's length as if it were zeros, plus the right half's.
        registers = _apply(shift, registers[0::2]) ^ registers[1::2]
        shift = _apply(shift, shift)
    return int(registers[0])


def _apply(columns: Words, values: Words) -> Words:
    """Multiply a 32x32 matrix over GF(2), given as the images of the bits, with many values."""
    result = np.zeros_like(values)
    for bit in range(32):
        result ^= np.where(values >> bit & 1, columns[bit], np.uint32(0))
    return result


@functools.lru_cache(maxsize=64)
def _make_zeros(count: int) -> Words:
    """Return the matrix that moves a register over `count` bytes of zeros."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    result, power = bits, (bits >> 8) ^ BYTE_TABLE[bits & 0xFF]
    while count:
        if count & 1:
            result = _apply(power, result)
        power = _apply(power, power)
        count >>= 1
    return result
