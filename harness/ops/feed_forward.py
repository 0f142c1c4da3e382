"""The two fully connected layers of a transformer layer, the definition in plain PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from harness.ops.bias_gelu import bias_gelu


def feed_forward(
    x: Tensor, inner_weight: Tensor, inner_bias: Tensor, outer_weight: Tensor
) -> Tensor:
    """gelu(x W1^T + b1) W2^T, GELU in the tanh form; whoever comes next adds the second bias.

    x: (T, hidden); inner_weight: (inner, hidden); inner_bias: (inner,); outer_weight: (hidden,
    inner). Returns (T, hidden) in the type of x. Source: Vaswani et al. 2017, section 3.3;
    mlcommons/training bert modeling.py transformer_model.
    """
    return F.linear(bias_gelu(F.linear(x, inner_weight), inner_bias), outer_weight)
