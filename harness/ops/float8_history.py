"""The largest magnitudes of the step before, by which FP8 casts may scale those of this one.

Delayed scaling: a cast then reads its tensor once, and notes the largest magnitude that it sees for
the next step. What nothing is known of yet is measured first, as without a history. Source:
Micikevicius et al. 2022, "FP8 formats for deep learning"; NVIDIA/TransformerEngine, DelayedScaling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from harness.ops.float8 import E4M3, E5M2

# What is cast of each product: its input, its weight, and the gradient of its result.
INPUT, WEIGHT, GRADIENT = range(3)
ROLES = 3
# So much a tensor may grow in one step before its largest numbers are cut. Activations and weights
# are steady; gradients are not, and e5m2 has 32 powers of two for them, where e4m3 has 18.
MARGINS = {E4M3: 2.0, E5M2: 16.0}
_NAME = "float8_history"
_following = False


class Scaling(NamedTuple):
    """How to scale one cast.

    largest: (1,), fp32, the magnitude to scale by, None to measure the tensor's own; seen: (1,),
    fp32, raised to the largest magnitude of this cast, None for nobody asks.
    """

    largest: Tensor | None
    seen: Tensor | None

    def find_largest(self, measure: Callable[..., Tensor], *tensors: Tensor) -> tuple[Tensor, bool]:
        """The magnitude to scale by, and whether it is the step before's and not measured."""
        if self.largest is None:
            return measure(*tensors), False
        return self.largest, True


MEASURED = Scaling(None, None)


class Histories:
    """Largest magnitudes of the casts around some weights: those of the last step and of this one.

    numbers: (2, weights, 3), fp32, what training changes. Each weight carries its own part.
    """

    def __init__(self, weights: Sequence[Tensor], device: torch.device) -> None:
        self.numbers = torch.zeros(2, len(weights), ROLES, device=device)
        for weight, part in zip(weights, self.numbers.unbind(1), strict=True):
            setattr(weight, _NAME, part)

    @torch.no_grad()
    def advance(self) -> None:
        """End a step: what was seen in it is what the next one scales by.

        Where nothing was seen that is finite, what was known before stays.
        """
        before, seen = self.numbers
        before.copy_(torch.where(seen > 0, seen, before))
        seen.zero_()


@contextmanager
def follow_histories(follow: bool = True) -> Iterator[None]:
    """Scale by the step before in this block, where `follow`; measure otherwise, as outside."""
    global _following  # noqa: PLW0603  one process has one step
    previous, _following = _following, follow
    try:
        yield
    finally:
        _following = previous


def find_scaling(weight: Tensor, role: int, records: bool) -> Scaling:
    """How to scale what is cast beside a weight; records: whether the next step asks for it.

    Raises RuntimeError where a history is to be followed and no Histories was made for the weight.
    """
    history = getattr(weight, _NAME, None)
    if history is None:
        if _following:
            raise RuntimeError("no Histories was made for a weight whose history is to be followed")
        return MEASURED
    before, seen = history[:, role : role + 1]
    return Scaling(before if _following else None, seen if records else None)
