"""Dropout inside our Triton kernels: a counter-based generator, seeded on the device.

Whether an element is kept is a pure function of a 64-bit seed and the element's place, so the
backward pass draws the same bits again and no mask is stored. The seed is drawn by torch's own
generator into device memory: torch.manual_seed repeats it, saving and restoring torch's state
covers it, and each replay of a CUDA graph draws another.
"""

# Triton's language has no types that mypy could check, and no unpacking of tuples.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, assignment"
# ruff: noqa: RUF005

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.commands import InputError

SEED_END = 2**63 - 1  # torch draws below it
DRAWS = 2**32
RUN = tl.constexpr(8)  # neighbouring columns that a thread has of 16-bit numbers


def draw_seed(device: torch.device) -> Tensor:
    """One seed, (1,) int64, in the device's memory: the host neither knows it nor waits for it."""
    return torch.randint(SEED_END, (1,), dtype=torch.int64, device=device)


def find_threshold(dropout: float) -> int:
    """The 32-bit number below which a draw drops its element: dropout to within 2^-33.

    Raises InputError unless 0 <= dropout < 1.
    """
    if not 0.0 <= dropout < 1.0:
        raise InputError(f"dropout must be at least 0 and below 1, not {dropout}")
    return round(dropout * DRAWS)


@triton.jit
def draw_rows(seed, row, quarter: tl.constexpr, block: tl.constexpr):
    """Four draws for each of a quarter's columns in each row, (rows, block), uint32, each.

    Philox 4x32 of ten rounds (Salmon et al. 2011), counted by row * quarter + column. The thread
    that has a run of a row's columns draws for them itself: drawn as one tile they would come to it
    through shared memory, for which a program's warps would wait for each other.
    """
    place = tl.arange(0, RUN)[:, None, None] + RUN * tl.arange(0, block // RUN)[None, None, :]
    drawn = tl.randint4x(tl.load(seed), row[None, :, None] * quarter + place)
    draws = ()
    for j in tl.static_range(4):
        neighbours = tl.permute(drawn[j], (1, 2, 0))
        draws = draws + (tl.reshape(neighbours, (row.shape[0], block)),)
    return draws
