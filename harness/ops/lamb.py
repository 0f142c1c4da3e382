"""LAMB over a model's flat buffers, both halves of its update by the definitions."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from harness.ops.lamb_apply import lamb_apply
from harness.ops.lamb_moments import lamb_moments
from harness.optimizers.flat_lamb import FlatLAMB, LambOperations
from harness.parameters import FlatParameters


def lamb(
    parameters: FlatParameters,
    learning_rates: Sequence[float],
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    max_gradient_norm: float | None,
    gradient_scale: float,
    device: torch.device,
) -> FlatLAMB:
    """The optimizer, sharded where the pools are; arguments as harness.optimizers.FlatLAMB.

    The equation, in plain words: harness.optimizers.LAMB.
    """
    return FlatLAMB(
        parameters,
        LambOperations(lamb_moments, lamb_apply),
        learning_rates,
        betas,
        eps,
        weight_decay,
        max_gradient_norm,
        gradient_scale,
        device,
    )
