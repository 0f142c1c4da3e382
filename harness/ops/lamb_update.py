"""The update of LAMB over a pool of tensors in flat buffers, the definition in plain PyTorch.

Two operations, because between them the norms of a sharded pool are added up over the ranks:
lamb_moments and lamb_apply. Both take the same view of the pool as harness.ops.lars_update.
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
    1 - beta2^t; chunk_tensors: (n / chunk,) int32; adapted: (tensors,) fp32, 1 or 0. Returns
    (tensors, 2) fp32: of each tensor the sum over these elements of the squared weight and of the
    squared update. Source: as harness.optimizers.LAMB.
    """
    scaled = gradients.float() * factor
    means.copy_(torch.where(overflow, means, beta1 * means + (1 - beta1) * scaled))
    moved = beta2 * squares + (1 - beta2) * scaled.square()
    squares.copy_(torch.where(overflow, squares, moved))
    decays = _decays(chunk_tensors, adapted, weight_decay)
    updates = _compute_updates(master, means, squares, decays, corrections, eps)
    sums = torch.zeros(adapted.numel(), 2, device=master.device)
    both = torch.stack(
        [part.view(decays.numel(), -1).square().sum(1) for part in (master, updates)], 1
    )
    return sums.index_add_(0, chunk_tensors.long(), both)


def lamb_apply(
    master: Tensor,
    means: Tensor,
    squares: Tensor,
    weights: Tensor | None,
    chunk_tensors: Tensor,
    adapted: Tensor,
    sums: Tensor,
    overflow: Tensor,
    learning_rate: Tensor,
    corrections: Tensor,
    eps: float,
    weight_decay: float,
) -> None:
    """Apply the update that lamb_moments made ready, with the trust ratio of each tensor.

    sums: (tensors, 2) fp32, over whole tensors; learning_rate: (1,) fp32; weights: (n,) the
    model's copy in 16 bit, written anew, or None where master is what the model sees. The rest as
    for lamb_moments.
    """
    weight_norms, update_norms = sums.sqrt().unbind(1)
    guarded = (adapted > 0) & (weight_norms > 0) & (update_norms > 0)
    ratios = torch.where(guarded, weight_norms / update_norms, torch.ones_like(weight_norms))
    decays = _decays(chunk_tensors, adapted, weight_decay)
    updates = _compute_updates(master, means, squares, decays, corrections, eps)
    scales = (learning_rate * ratios)[chunk_tensors.long(), None]
    steps = (updates.view(decays.numel(), -1) * scales).view(-1)
    master.copy_(torch.where(overflow, master, master - steps))
    if weights is not None:
        weights.copy_(master)


def _decays(chunk_tensors: Tensor, adapted: Tensor, weight_decay: float) -> Tensor:
    return (weight_decay * adapted)[chunk_tensors.long(), None]


def _compute_updates(
    master: Tensor,
    means: Tensor,
    squares: Tensor,
    decays: Tensor,
    corrections: Tensor,
    eps: float,
) -> Tensor:
    """(m / c1) / (sqrt(v / c2) + eps) + d w, (n,) fp32."""
    first, second = corrections.unbind(0)
    updates = (means / first) / ((squares / second).sqrt() + eps)
    decayed = decays * master.view(decays.numel(), -1)
    return updates + decayed.view(-1)
