"""Batch normalisation, residual addition and ReLU, the definition in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def batch_norm_add_relu(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """relu(batch_norm(x) + residual), the end of a residual block: one tensor, returned twice.

    The next block takes the one for its convolutions and the other for its shortcut, so that a
    provider can add up the two gradients where it reads them; here autograd does.

    residual: shape and type of x, left as it is. Other arguments, shapes and types as
    harness.ops.batch_norm. Source: the bottleneck of He et al. 2015, figure 5.
    """
    y = F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    # In place: the normalisation's backward needs its input, not this output.
    y = torch.relu_(y.add_(residual))
    return y, y
