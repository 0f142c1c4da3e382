"""The order of training samples: random overall, each datum once a pass, read nearly straight.

Every pass shuffles blocks of neighbouring samples, and then the samples of every window of
WINDOW_BLOCKS such blocks. What a window needs lies in WINDOW_BLOCKS places of the disk instead of
one place a sample, and no more than a window of the order is ever in memory. Rules: "Training Data
Order" (overall random, each datum once; arbitrary sharding) and "Random numbers" (a stock
generator: numpy's PCG64).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]

# Wikipedia's 156.7 million samples are 76,527 blocks of 1.4 MB; a window holds 177 MB of records.
BLOCK_SAMPLES = 2048
WINDOW_BLOCKS = 128
WINDOW_SAMPLES = BLOCK_SAMPLES * WINDOW_BLOCKS


class Window(NamedTuple):
    """Positions first ... first + N - 1 of the order, which hold the samples of K blocks.

    blocks: (K, 2), the first sample of each block and the one behind its last; places: (N,), which
    row of the blocks, laid end to end, stands at each position.
    """

    first: int
    blocks: Indices
    places: Indices

    @property
    def end(self) -> int:
        """The position behind the window's last."""
        return self.first + len(self.places)

    @property
    def samples(self) -> Indices:
        """The samples in the order's sequence, (N,) int64."""
        rows = np.concatenate([np.arange(first, end) for first, end in self.blocks])
        return rows[self.places]


class SampleOrder:
    """A different random order of `samples` samples for every pass over them.

    Positions count on without end: position p is in pass p // samples. Any window can be made
    without those before it.
    """

    def __init__(self, samples: int, seed: int) -> None:
        if not 1 <= samples < 1 << 32:
            raise ValueError(
                f"there must be at least one sample and fewer than 2^32, not {samples}"
            )
        self.samples, self.seed = samples, seed
        self._pass = -1
        self._blocks = self._starts = np.empty(0, np.int64)

    def __call__(self, first: int, count: int) -> Indices:
        """Sample indices (count,) int64 at positions first ... first + count - 1."""
        parts = [window.samples[low:high] for window, low, high in self.cut(first, count)]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def cut(self, first: int, count: int) -> Iterator[tuple[Window, int, int]]:
        """Yield each window that positions first ... first + count - 1 touch, and its part of them.

        The part is window.places[low:high].
        """
        position, end = first, first + count
        while position < end:
            window = self.window(position)
            low, high = position - window.first, min(end, window.end) - window.first
            yield window, low, high
            position = window.first + high

    def window(self, position: int) -> Window:
        """Make the window that a position is in."""
        number, offset = divmod(position, self.samples)
        self._shuffle_blocks(number)
        place = int(np.searchsorted(self._starts, offset, side="right")) - 1
        chosen = self._blocks[place * WINDOW_BLOCKS : (place + 1) * WINDOW_BLOCKS]
        firsts = chosen.astype(np.int64) * BLOCK_SAMPLES
        ends = np.minimum(firsts + BLOCK_SAMPLES, self.samples)
        rows = int((ends - firsts).sum())
        places = self._generator(number, place + 1).permutation(rows)
        first = number * self.samples + int(self._starts[place])
        return Window(first, np.stack([firsts, ends], axis=1), places)

    def _shuffle_blocks(self, number: int) -> None:
        """Shuffle the blocks for a pass, and find where in it each window begins."""
        if number == self._pass:
            return
        blocks = -(-self.samples // BLOCK_SAMPLES)
        self._blocks = self._generator(number, 0).permutation(blocks).astype(np.uint32)
        starts = np.arange(0, blocks, WINDOW_BLOCKS) * BLOCK_SAMPLES
        # The data set's last block may be short, and every later window then begins earlier.
        missing = blocks * BLOCK_SAMPLES - self.samples
        last = int(np.flatnonzero(self._blocks == blocks - 1)[0]) // WINDOW_BLOCKS
        starts[last + 1 :] -= missing
        self._starts, self._pass = starts, number

    def _generator(self, number: int, purpose: int) -> np.random.Generator:
        """The generator of a pass's blocks (purpose 0) or of one of its windows (from 1 on)."""
        seeds = np.random.SeedSequence([self.seed, number, purpose])
        return np.random.Generator(np.random.PCG64(seeds))
