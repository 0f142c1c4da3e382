"""CRC-32C against its published check values and a bit-by-bit computation."""

from __future__ import annotations

import random

import numpy as np
import pytest

from bert.crc32c import hash_crc32c, mask_crc


def compute_slowly(data: bytes) -> int:
    register = 0xFFFFFFFF
    for octet in data:
        register ^= octet
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # RFC 3720, appendix B.4, as the next two
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_published_values(data: bytes, crc: int) -> None:
    assert hash_crc32c(data) == crc


@pytest.mark.parametrize("size", [1, 255, 256, 257, 8191, 8192, 8193, 16_385, 33_333, 65_536])
def test_every_number_of_lanes(size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert hash_crc32c(data) == compute_slowly(data)
    assert hash_crc32c(memoryview(data)[1:]) == compute_slowly(data[1:])


def test_parts_of_a_large_array_matter() -> None:
    data = np.random.default_rng(1).integers(0, 256, 5_000_001, dtype=np.uint8)
    crc = hash_crc32c(data)
    for place in (0, 1, 2_500_000, 4_999_999, 5_000_000):
        data[place] ^= 1
        assert hash_crc32c(data) != crc
        data[place] ^= 1
    assert hash_crc32c(data) == crc


def test_mask() -> None:
    assert mask_crc(0) == 0xA282EAD8
    assert mask_crc(0xE3069283) == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) % 2**32
