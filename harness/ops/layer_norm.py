"""Layer normalisation, the definition in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalise each row by its mean and biased variance, then scale and shift.

    x: (T, hidden); weight, bias: (hidden,); eps is added inside the square root. Statistics are
    taken in fp32 (fp64 of fp64); the result has the shape and type of x. Source: Ba et al. 2016;
    mlcommons/training bert modeling.py layer_norm (eps 1e-12).
    """
    exact = torch.promote_types(x.dtype, torch.float32)
    y = F.layer_norm(x.to(exact), weight.shape, weight.to(exact), bias.to(exact), eps)
    return y.to(x.dtype)
