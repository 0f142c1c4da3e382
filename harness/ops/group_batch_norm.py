"""Batch normalisation over the batches of several ranks, in plain PyTorch.

The rules allow it ("distributed batch normalization"); it pays where a rank's own batch is too
small for good statistics, some dozens of images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from harness.collectives import all_gather
from harness.ops.batch_norm_relu_max_pool import PADDING, STRIDE, WINDOW

OVER = (0, 2, 3)


class _GroupBatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
        group: dist.ProcessGroup,
    ) -> Tensor:
        ranks, rows = group.size(), x.numel() // x.size(1)
        wide = x.float()
        mean = wide.mean(OVER)
        squares = (wide - _spread(mean)).square().sum(OVER)
        found = torch.empty(ranks, 2, x.size(1), device=x.device)
        all_gather(found.view(-1), torch.stack([mean, squares]).view(-1), group)
        # Chan et al. 1979: sums of squares about each rank's own mean, brought to the common one.
        means, all_squares = found.unbind(1)
        mean = means.mean(0)
        squares = all_squares.sum(0) + rows * (means - mean).square().sum(0)
        count = rows * ranks
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(squares / (count - 1), momentum)
        inverse = (squares / count + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.group, ctx.count = group, count
        normal = (wide - _spread(mean)) * _spread(inverse)
        return (normal * _spread(weight) + _spread(bias)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        gradient = gradients[0].float()
        normal = (x.float() - _spread(mean)) * _spread(inverse)
        # A rank's own sums are its part of the gradient of gain and shift ...
        sums = torch.stack([gradient.sum(OVER), (gradient * normal).sum(OVER)])
        own = sums.clone()
        # ... while the input's gradient goes through the statistics of all of them.
        dist.all_reduce(sums, group=ctx.group)
        shift, slope = sums / ctx.count
        centred = gradient - _spread(shift) - normal * _spread(slope)
        found = (centred * _spread(weight * inverse)).to(x.dtype)
        return (found, own[1], own[0], *[None] * 5)


def _spread(channels: Tensor) -> Tensor:
    return channels.view(1, -1, 1, 1)


def group_batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    eps: float,
    group: dist.ProcessGroup,
) -> Tensor:
    """Normalise by the joined batch of a group's ranks, in training.

    x: (N, C, H, W) of one shape on all ranks of the group, fp32, bf16 or fp16; the rest as
    harness.ops.batch_norm. The running statistics become the joined batch's on every rank. The
    gradients of weight and bias are this rank's part: sum them over the ranks as all others.
    Source: Ioffe and Szegedy 2015, algorithm 1, over the joined batch.
    """
    normal: Tensor = _GroupBatchNorm.apply(  # type: ignore[no-untyped-call]
        x, weight, bias, running_mean, running_var, momentum, eps, group
    )
    return normal


def over_group(
    operation: Callable[..., Any],
    group: dist.ProcessGroup,
    inputs: int,
    normalised: int,
    pool: bool = False,
) -> Callable[..., Any]:
    """Make an operation that normalises, adds and ends with a ReLU do so over a group in training.

    operation: the definition, which serves in evaluation; inputs: how many tensors it adds, of
    which it normalises the first `normalised`; pool: whether max pooling follows. With more than
    one tensor it returns its result twice.
    """

    def normalise(*arguments: Any) -> Any:
        training, momentum, eps = arguments[-3:]
        if not training:
            return operation(*arguments)
        vectors = arguments[inputs:-3]
        added = list(arguments[:inputs])
        for number in range(normalised):
            weight, bias, mean, var = vectors[4 * number : 4 * number + 4]
            added[number] = group_batch_norm(
                added[number], weight, bias, mean, var, momentum, eps, group
            )
        y = torch.relu(sum(added[1:], added[0]))
        if pool:
            y = F.max_pool2d(y, WINDOW, STRIDE, PADDING)
        return y if inputs == 1 else (y, y)

    return normalise
