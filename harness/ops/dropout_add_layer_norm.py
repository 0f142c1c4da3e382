"""Bias, dropout, residual addition and layer normalisation, the definition in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def dropout_add_layer_norm(
    x: Tensor,
    x_bias: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    dropout: float,
    eps: float,
    training: bool,
) -> tuple[Tensor, Tensor]:
    """layer_norm(dropout(x + x_bias) + residual), the end of each half of a post-norm layer.

    One tensor, returned twice: the next half takes the one for its matrices and the other for its
    residual, so that a provider can add up the two gradients where it reads them; here autograd
    does.

    x, residual: (T, hidden); x_bias, weight, bias: (hidden,), x_bias being that of the product that
    made x. In training each element of x + x_bias is zeroed with probability `dropout` and the rest
    scaled by 1 / (1 - dropout). Statistics are taken in fp32 (fp64 of fp64); the result has the
    shape and type of x. Source: Vaswani et al. 2017, sections 3.1 and 5.4; mlcommons/training bert
    modeling.py transformer_model.
    """
    y = F.dropout(x + x_bias, dropout, training) + residual
    exact = torch.promote_types(x.dtype, torch.float32)
    y = F.layer_norm(y.to(exact), weight.shape, weight.to(exact), bias.to(exact), eps).to(x.dtype)
    return y, y
