"""A fully connected layer, the definition in plain PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b.

    x: (rows, in); weight: (out, in); bias: (out,), or None for none. Returns (rows, out) in the
    type of x.
    """
    return F.linear(x, weight, bias)
