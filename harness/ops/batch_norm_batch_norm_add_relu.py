"""Two batch normalisations, their sum and ReLU, the definition in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def batch_norm_batch_norm_add_relu(
    x: Tensor,
    shortcut: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    shortcut_weight: Tensor,
    shortcut_bias: Tensor,
    shortcut_mean: Tensor,
    shortcut_var: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """relu(batch_norm(x) + batch_norm(shortcut)), the end of a block that projects its shortcut.

    One tensor, returned twice, as harness.ops.batch_norm_add_relu does.

    shortcut: shape and type of x. Each is normalised by statistics, parameters and running
    statistics of its own: shortcut_mean and shortcut_var are its running ones. Shapes, types and
    the other arguments as harness.ops.batch_norm. Source: the bottleneck of He et al. 2015,
    figure 5, with option B of section 3.3.
    """
    own, other = (weight, bias), (shortcut_weight, shortcut_bias)
    y = F.batch_norm(x, running_mean, running_var, *own, training, momentum, eps)
    added = F.batch_norm(shortcut, shortcut_mean, shortcut_var, *other, training, momentum, eps)
    # In place: the normalisations' backward needs their inputs, not these outputs.
    y = torch.relu_(y.add_(added))
    return y, y
