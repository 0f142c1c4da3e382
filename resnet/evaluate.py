"""Evaluation of ResNet: every validation image once, integer counts over all ranks.

Rules: "Quality measure"; the reference averages normalisation statistics over the replicas.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from harness.precision import check_finite
from resnet.data import EvaluationInput
from resnet.model import batch_norm_buffers
from resnet.step import TrainingStep


def average_batch_norm_statistics(model: torch.nn.Module, world_size: int) -> None:
    """Replace every running mean and variance by its mean over ranks, in one all-reduce."""
    if world_size == 1:
        return
    buffers = batch_norm_buffers(model)
    flat = torch.cat([buffer.flatten() for buffer in buffers])
    dist.all_reduce(flat)
    flat /= world_size
    parts = flat.split([buffer.numel() for buffer in buffers])
    torch._foreach_copy_(buffers, [part.view_as(b) for part, b in zip(parts, buffers, strict=True)])


def evaluate(
    step: TrainingStep, validation: EvaluationInput, images: int, world_size: int
) -> float:
    """Top-1 accuracy over the whole validation set, as a fraction.

    images: how many there are; counts are int64 and summed over ranks. The model is left in
    training mode. Raises InputError if the weights are not finite,
    RuntimeError if not exactly that many images came.
    """
    average_batch_norm_statistics(step.model, world_size)
    counts = torch.zeros(2, dtype=torch.int64, device=step.device)
    check_finite(step.model)
    step.model.eval()
    with torch.no_grad(), step.precision.forward_context(step.device):
        for batch, labels, count in validation.epoch():
            predictions = step.model(batch)[:count].argmax(dim=1)
            counts[0] += (predictions == labels[:count]).sum()
            counts[1] += count
    step.model.train()
    if world_size > 1:
        dist.all_reduce(counts)
    correct, seen = counts.tolist()
    if seen != images:
        raise RuntimeError(f"evaluation saw {seen} images of {images}")
    return float(correct / seen)
