"""Batch normalisation, ReLU and max pooling, the definition in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, STRIDE, PADDING = 3, 2, 1


def batch_norm_relu_max_pool(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """The largest of each window of 3 x 3 of relu(batch_norm(x)), every second one each way.

    Windows at the edge have fewer values (padding 1): (N, C, H, W) becomes (N, C, (H + 1) // 2,
    (W + 1) // 2). Arguments and types as harness.ops.batch_norm. Source: the stem of He et al.
    2015, table 1.
    """
    y = F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    # In place: the normalisation's backward needs its input, not this output.
    return F.max_pool2d(torch.relu_(y), WINDOW, STRIDE, PADDING)
