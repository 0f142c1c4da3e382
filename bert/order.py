"""The order of training samples: random overall, each datum once a pass.

Rules: "Training Data Order" and "Random numbers" (a stock generator): numpy's PCG64 shuffles the
numbers of the samples. Wikipedia's 157 million take 0.6 GB and a few seconds on each rank, before
the clock starts, since only their count is needed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


class SampleOrder:
    """A different random order of `samples` samples for every pass over them.

    Positions count on without end: position p is in pass p // samples. The first pass is shuffled
    here, later ones when they are reached.
    """

    def __init__(self, samples: int, seed: int) -> None:
        if not 1 <= samples < 1 << 32:
            raise ValueError(
                f"there must be at least one sample and fewer than 2^32, not {samples}"
            )
        self.samples = samples
        self._generator = np.random.Generator(np.random.PCG64(seed))
        self._numbers = np.arange(samples, dtype=np.uint32)
        self._pass = 0
        self._generator.shuffle(self._numbers)

    def __call__(self, first: int, count: int) -> Indices:
        """Sample indices (count,) int64 at positions first ... first + count - 1.

        Positions may not lead back into an earlier pass. Raises ValueError if they do.
        """
        indices = np.empty(count, dtype=np.int64)
        done = 0
        while done < count:
            number, offset = divmod(first + done, self.samples)
            self._advance(number)
            taken = min(count - done, self.samples - offset)
            indices[done : done + taken] = self._numbers[offset : offset + taken]
            done += taken
        return indices

    def _advance(self, number: int) -> None:
        if number < self._pass:
            raise ValueError(f"pass {number} is over, the order is in pass {self._pass}")
        while self._pass < number:
            # Shuffling a shuffled order is as random as shuffling a sorted one.
            self._generator.shuffle(self._numbers)
            self._pass += 1
