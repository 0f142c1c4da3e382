"""Evaluation of ResNet: every validation image once, integer counts over all ranks.

Rules: "Quality measure"; the reference averages normalisation statistics over the replicas.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from harness.precision import check_finite
from harness.process_group import wait_for_device
from resnet.model import batch_norm_buffers
from resnet.step import UNCOUNTED_LABEL, TrainingStep


class Validation(Protocol):
    """What gives the validation images of this rank."""

    def epoch_into(self, images: Tensor, labels: Tensor) -> Iterator[int]:
        """Write each batch into the tensors; yields how many of its images count."""
        ...


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


def evaluate(step: TrainingStep, validation: Validation, images: int, world_size: int) -> float:
    """Top-1 accuracy over the whole validation set, as a fraction.

    images: how many there are; counts are int64 and summed over ranks. The model is left in
    training mode. Raises InputError if the weights are not finite,
    RuntimeError if not exactly that many images came, or if the device does not come to the end
    of the training steps.
    """
    # Also so that no collective is called while a replay with others is under way, which NCCL
    # forbids where NCCL_GRAPH_MIXING_SUPPORT is 0 (its documentation of the variable).
    wait_for_device(step.device)
    average_batch_norm_statistics(step.model, world_size)
    check_finite(step.parameters)
    step.counts.zero_()
    step.model.eval()
    for count in validation.epoch_into(step.images, step.labels):
        step.labels[count:] = UNCOUNTED_LABEL
        step.evaluate()
    step.model.train()
    if world_size > 1:
        dist.all_reduce(step.counts)
    correct, seen = step.counts.tolist()
    if seen != images:
        raise RuntimeError(f"evaluation saw {seen} images of {images}")
    return float(correct / seen)
