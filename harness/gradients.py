"""Averaging gradients over ranks: few large buckets, overlapped with the backward pass."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel


def distribute(
    model: torch.nn.Module, device: torch.device, world_size: int, bucket_megabytes: int
) -> torch.nn.Module:
    """Wrap a model so that its backward pass leaves the mean gradient over ranks on every rank.

    Parameters and buffers are broadcast from rank 0 once, here (each rank then keeps its own
    normalisation statistics, as the reference does). A single rank gets the model back as it is.
    """
    if world_size == 1:
        return model
    return DistributedDataParallel(
        model,
        device_ids=[device.index] if device.type == "cuda" else None,
        forward_sync_buffers=False,
        gradient_as_bucket_view=True,
        bucket_cap_mb=bucket_megabytes,
    )


def hold_back(model: torch.nn.Module) -> AbstractContextManager[Any]:
    """The context of a micro-batch whose gradients are only added up, not yet averaged."""
    if isinstance(model, DistributedDataParallel):
        return model.no_sync()
    return nullcontext()


def list_gradients(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """The gradients of all parameters an optimizer updates, in its order."""
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every parameter group the learning rate of the coming update."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
