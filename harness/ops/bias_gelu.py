"""Bias and GELU, the definition in plain PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """gelu(x + bias) in the tanh form, 0.5 y (1 + tanh(sqrt(2 / pi) (y + 0.044715 y^3))).

    x: (T, features), the product of a matrix multiplication; bias: (features,). Returns the shape
    and type of x. Source: Hendrycks and Gimpel 2016; mlcommons/training bert modeling.py gelu.
    """
    return F.gelu(x + bias.to(x.dtype), approximate="tanh")
