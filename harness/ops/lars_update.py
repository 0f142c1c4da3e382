"""The update of LARS over a pool of tensors in flat buffers, the definition in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def lars_update(
    master: Tensor,
    momenta: Tensor,
    gradients: Tensor,
    weights: Tensor | None,
    chunk_tensors: Tensor,
    tensor_chunks: Tensor,
    adapted: Tensor,
    any_adapted: bool,
    learning_rate: Tensor,
    momentum: float,
    weight_decay: float,
    trust_coefficient: float,
    eps: float,
    gradient_scale: float,
) -> None:
    """Apply one update of harness.optimizers.LARS to every tensor of a pool, in place.

    master, momenta: (n,) fp32; gradients: (n,) of any type, gradient_scale times the gradient of
    the mean loss; weights: (n,) the model's copy in 16 bit, written anew, or None where master is
    what the model sees; chunk_tensors: (n / chunk,) int32, the tensor that each run of `chunk`
    elements belongs to; tensor_chunks: (tensors, 2) int32, the chunks of each, from the first to
    before the second; adapted: (tensors,) fp32, 1 where decay and trust ratio apply, else 0,
    and any_adapted False where it is 0 throughout, so that no norm is needed;
    learning_rate: (1,) fp32 on the device. Norms are over whole tensors. Nothing waits for the
    device. Source: as harness.optimizers.LARS, form A.
    """
    del tensor_chunks  # sums by chunk_tensors need no ranges
    chunks = chunk_tensors.numel()
    numbers = chunk_tensors.long()
    master_c, momenta_c = master.view(chunks, -1), momenta.view(chunks, -1)
    gradients_c = gradients.view(chunks, -1).float() / gradient_scale
    ratios = torch.ones_like(adapted)
    if any_adapted:
        sums = torch.zeros(adapted.numel(), 2, device=master.device)
        squares = torch.stack([master_c.square().sum(1), gradients_c.square().sum(1)], 1)
        weight_norms, gradient_norms = sums.index_add_(0, numbers, squares).sqrt().unbind(1)
        denominators = gradient_norms + weight_decay * weight_norms + eps
        guarded = (adapted > 0) & (weight_norms > 0) & (gradient_norms > 0)
        ratios = torch.where(guarded, trust_coefficient * weight_norms / denominators, ratios)
    scales = (learning_rate * ratios)[numbers, None]
    decays = (weight_decay * adapted)[numbers, None]
    momenta_c.mul_(momentum).add_(scales * torch.addcmul(gradients_c, decays, master_c))
    master_c.sub_(momenta_c)
    if weights is not None:
        weights.copy_(master)
