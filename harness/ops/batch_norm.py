"""Batch normalisation, the definition in plain PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """Normalise each channel over batch and space, then scale and shift.

    x: (N, C, H, W), fp32, bf16 or fp16; the result has its shape, type and strides. weight, bias,
    running_mean, running_var: (C,), fp32; statistics are computed and kept in fp32. In training
    the batch's own mean and biased variance normalise, and the running ones are moved in place by
    `momentum` towards the mean and the unbiased variance; otherwise the running ones normalise.
    Source: Ioffe and Szegedy 2015, algorithm 1; momentum 0.1 here is 0.9 in TensorFlow's sense.
    """
    return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
