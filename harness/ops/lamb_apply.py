"""Second half of LAMB's update over flat buffers: trust ratio and weights, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.ops.lamb_moments import compute_updates, spread_decays


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
    """Apply the update that lamb_moments has made ready, with the trust ratio of each tensor.

    sums: (tensors, 2) fp32, over whole tensors; learning_rate: (1,) fp32; weights: (n,) the
    model's copy in 16 bit, written anew, or None where master is what the model sees. The rest as
    for lamb_moments. Source: as harness.optimizers.LAMB.
    """
    weight_norms, update_norms = sums.sqrt().unbind(1)
    guarded = (adapted > 0) & (weight_norms > 0) & (update_norms > 0)
    ratios = torch.where(guarded, weight_norms / update_norms, torch.ones_like(weight_norms))
    decays = spread_decays(chunk_tensors, adapted, weight_decay)
    updates = compute_updates(master, means, squares, decays, corrections, eps)
    scales = (learning_rate * ratios)[chunk_tensors.long(), None]
    steps = (updates.view(decays.numel(), -1) * scales).view(-1)
    master.copy_(torch.where(overflow, master, master - steps))
    if weights is not None:
        weights.copy_(master)
