"""The order of training samples: random overall, each datum once a pass, no list in memory.

A keyed permutation of 0 ... n-1 (a Feistel network with cycle walking, Black and Rogaway 2002,
"Ciphers with Arbitrary Finite Domains") gives any stretch of the order at once: for 157 million
samples a shuffled list would take 1.2 GB and seconds on every rank after run_start.
Rules: "Training Data Order".
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

ROUNDS = 6
Indices = npt.NDArray[np.int64]


class SampleOrder:
    """A different random order of `samples` samples for every pass over them.

    Positions count on without end: position p is in pass p // samples.
    """

    def __init__(self, samples: int, seed: int) -> None:
        if samples < 1:
            raise ValueError("there must be at least one sample")
        self.samples, self.seed = samples, seed
        self._half_bits = max(1, -(-(samples - 1).bit_length() // 2))
        self._mask = np.uint64((1 << self._half_bits) - 1)

    def __call__(self, positions: Indices) -> Indices:
        """Sample indices (N,) int64 at these positions (N,) int64 of the endless order."""
        passes, offsets = np.divmod(positions, self.samples)
        indices = np.empty_like(offsets)
        for number in np.unique(passes):
            chosen = passes == number
            indices[chosen] = self._permute(offsets[chosen], int(number))
        return indices

    def _permute(self, offsets: Indices, number: int) -> Indices:
        digest = hashlib.sha256(f"{self.seed}/{number}".encode()).digest()
        digest += hashlib.sha256(digest).digest()
        keys = np.frombuffer(digest, dtype=np.uint64)[:ROUNDS]
        values = self._encrypt(offsets.astype(np.uint64), keys)
        # The network permutes a power of four of at most four times the samples: walk on inside
        # it until every value is a sample (about four steps on the worst size).
        outside = values >= self.samples
        while outside.any():
            values[outside] = self._encrypt(values[outside], keys)
            outside = values >= self.samples
        return values.astype(np.int64)

    def _encrypt(
        self, values: npt.NDArray[np.uint64], keys: npt.NDArray[np.uint64]
    ) -> npt.NDArray[np.uint64]:
        shift = np.uint64(self._half_bits)
        left, right = values >> shift, values & self._mask
        for key in keys:
            left, right = right, left ^ (_mix(right, key) & self._mask)
        return (left << shift) | right


def _mix(values: npt.NDArray[np.uint64], key: np.uint64) -> npt.NDArray[np.uint64]:
    """A 64-bit mixer (the finaliser of SplitMix64, Steele et al. 2014) of values and a key."""
    with np.errstate(over="ignore"):
        mixed = values * np.uint64(0x9E3779B97F4A7C15) + key
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
