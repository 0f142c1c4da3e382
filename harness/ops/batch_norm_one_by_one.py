"""The larger operations of batch normalisation made of a provider's smaller ones, one by one.

For providers that have no kernel of both, and to compare those that have one with what it saves.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from harness.ops.batch_norm_relu_max_pool import PADDING, STRIDE, WINDOW

Pair = tuple[Tensor, Tensor]


def compose_pair(
    batch_norm: Callable[..., Tensor], batch_norm_add_relu: Callable[..., Pair]
) -> Callable[..., Pair]:
    """Compose batch_norm_batch_norm_add_relu: the shortcut's result is written and read again."""

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
    ) -> Pair:
        """As harness.ops.batch_norm_batch_norm_add_relu, in the provider's layouts and types."""
        constants = (training, momentum, eps)
        others = (shortcut_weight, shortcut_bias, shortcut_mean, shortcut_var)
        residual = batch_norm(shortcut, *others, *constants)
        own = (weight, bias, running_mean, running_var)
        return batch_norm_add_relu(x, residual, *own, *constants)

    return batch_norm_batch_norm_add_relu


def compose_pool(batch_norm_relu: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compose batch_norm_relu_max_pool, with torch's own pooling."""

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
        """As harness.ops.batch_norm_relu_max_pool, in the provider's layouts and types."""
        vectors = (weight, bias, running_mean, running_var)
        y = batch_norm_relu(x, *vectors, training, momentum, eps)
        return F.max_pool2d(y, WINDOW, STRIDE, PADDING)

    return batch_norm_relu_max_pool
