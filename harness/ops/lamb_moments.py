"""First half of LAMB's update over flat buffers: moments and norms, in plain PyTorch.

Between the halves the norms of a sharded pool are added up over the ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor


def lamb_moments(
    master: Tensor,
    means: Tensor,
    squares: Tensor,
    gradients: Tensor,
    chunk_tensors: Tensor,
    tensor_chunks: Tensor,
    adapted: Tensor,
    factor: Tensor,
    overflow: Tensor,
    corrections: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> Tensor:
    """Move the moments of harness.optimizers.LAMB and sum up the squares of weight and update.

    master, means, squares: (n,) fp32, the moments changed in place; gradients: (n,) of any type;
    factor: (1,) fp32, what a gradient is multiplied by (clipping and the undoing of its scale);
    overflow: (1,) bool, True to change nothing; corrections: (2,) fp32, 1 - beta1^t and
    1 - beta2^t; chunk_tensors: (n / chunk,) int32; tensor_chunks: (tensors, 2) int32, the
    chunks of each, from the first to before the second; adapted: (tensors,) fp32, 1 or 0. Returns
    (tensors, 2) fp32: of each tensor the sum over these elements of the squared weight and of the
    squared update. Source: as harness.optimizers.LAMB.
    """
    del tensor_chunks  # sums by chunk_tensors need no ranges
    scaled = gradients.float() * factor
    means.copy_(torch.where(overflow, means, beta1 * means + (1 - beta1) * scaled))
    moved = beta2 * squares + (1 - beta2) * scaled.square()
    squares.copy_(torch.where(overflow, squares, moved))
    decays = spread_decays(chunk_tensors, adapted, weight_decay)
    updates = compute_updates(master, means, squares, decays, corrections, eps)
    sums = torch.zeros(adapted.numel(), 2, device=master.device)
    both = torch.stack(
        [part.view(decays.numel(), -1).square().sum(1) for part in (master, updates)], 1
    )
    return sums.index_add_(0, chunk_tensors.long(), both)


def spread_decays(chunk_tensors: Tensor, adapted: Tensor, weight_decay: float) -> Tensor:
    """The weight decay of each chunk, (chunks, 1) fp32: 0 where a tensor is not adapted."""
    return (weight_decay * adapted)[chunk_tensors.long(), None]


def compute_updates(
    master: Tensor,
    means: Tensor,
    squares: Tensor,
    decays: Tensor,
    corrections: Tensor,
    eps: float,
) -> Tensor:
    """The update before trust ratio and rate, (m / c1) / (sqrt(v / c2) + eps) + d w: (n,) fp32."""
    first, second = corrections.unbind(0)
    updates = (means / first) / ((squares / second).sqrt() + eps)
    decayed = decays * master.view(decays.numel(), -1)
    return updates + decayed.view(-1)
