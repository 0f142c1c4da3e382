"""Batch normalisation, with ReLU, with residual and ReLU: two passes each way, by our own kernels.

Three launches forward in training (statistics, merge, apply), one in evaluation, three backward.
What moves, in elements of x (2 bytes each in 16 bit):

| operation | forward | backward |
|---|---|---|
| batch_norm, batch_norm_relu | reads 2, writes 1 | reads 4, writes 1: x tells where y was 0 |
| batch_norm_add_relu | reads 3, writes 1 1/16 | reads 4 1/16, writes 2; 1 more to add gradients |
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.commands import InputError
from harness.ops import batch_norm_launches as launches

ACTIVATIONS = (torch.float32, torch.bfloat16, torch.float16)


class _BatchNorm(torch.autograd.Function):
    """Normalisation, and the ReLU where asked for."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        training: bool,
        momentum: float,
        eps: float,
        relu: bool,
    ) -> Tensor:
        running = (running_mean, running_var)
        mean, spread = find_statistics(x, running, training, momentum, eps)
        y, _ = launches.apply(
            x, None, mean, spread, weight, bias, eps, not training, relu, keep_mask=False
        )
        ctx.save_for_backward(x, weight, bias, mean, spread)
        ctx.training, ctx.eps, ctx.relu = training, eps, relu
        return y  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, spread = ctx.saved_tensors
        inverse = invert(spread, ctx)
        gradient = check_gradient(gradients[0], x)
        sums, products, _ = launches.reduce(
            gradient, None, x, None, mean, inverse, weight, bias, ctx.relu
        )
        weight_gradient, bias_gradient, slope, offset = launches.finalize_backward(
            sums, products, inverse, weight, count_rows(x), ctx.training
        )
        input_gradient = launches.input_gradient(
            gradient, x, mean, inverse, weight, bias, slope, offset, ctx.relu
        )
        return (input_gradient, weight_gradient, bias_gradient, *[None] * 6)


class _BatchNormAddReLU(torch.autograd.Function):
    """Normalisation, residual and ReLU; the result twice, so that its gradients come apart."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        training: bool,
        momentum: float,
        eps: float,
        keep_mask: bool,
    ) -> tuple[Tensor, Tensor]:
        running = (running_mean, running_var)
        mean, spread = find_statistics(x, running, training, momentum, eps)
        y, mask = launches.apply(
            x, residual, mean, spread, weight, bias, eps, not training, True, keep_mask
        )
        ctx.save_for_backward(x, mask, weight, bias, mean, spread)
        ctx.training, ctx.eps = training, eps
        ctx.set_materialize_grads(False)
        return y, y.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        x, mask, weight, bias, mean, spread = ctx.saved_tensors
        inverse = invert(spread, ctx)
        given = [check_gradient(g, x) for g in gradients if g is not None]
        if not given:
            return (None,) * 10
        second = given[1] if len(given) == 2 else None
        sums, products, residual_gradient = launches.reduce(
            given[0], second, x, mask, mean, inverse, weight, bias, relu=False
        )
        weight_gradient, bias_gradient, slope, offset = launches.finalize_backward(
            sums, products, inverse, weight, count_rows(x), ctx.training
        )
        input_gradient = launches.input_gradient(
            residual_gradient, x, mean, inverse, weight, bias, slope, offset, relu=False
        )
        return (input_gradient, residual_gradient, weight_gradient, bias_gradient, *[None] * 6)


def find_statistics(
    x: Tensor, running: tuple[Tensor, Tensor], training: bool, momentum: float, eps: float
) -> tuple[Tensor, Tensor]:
    """Mean and inverse deviation of the batch, or the running mean and variance."""
    if not training:
        return running
    means, squares = launches.statistics(x)
    rows, tile_rows = count_rows(x), launches.count_tile_rows(x)
    mean, inverse = launches.finalize(means, squares, *running, rows, tile_rows, momentum, eps)
    return mean, inverse


def invert(spread: Tensor, ctx: Any) -> Tensor:
    """The inverse deviation, from itself in training or from the running variance."""
    return spread if ctx.training else torch.rsqrt(spread + ctx.eps)


def count_rows(x: Tensor) -> int:
    """Values of a channel."""
    return x.numel() // x.shape[1]


def check(x: Tensor, residual: Tensor | None, vectors: list[Tensor], training: bool) -> None:
    """Refuse what the kernels would read wrongly: never a silent copy."""
    if x.dim() != 4 or not x.is_contiguous(memory_format=torch.channels_last):
        raise InputError(
            "batch normalisation by triton takes (N, C, H, W) with channels_last strides, not "
            f"shape {tuple(x.shape)} with strides {x.stride()}"
        )
    if x.dtype not in ACTIVATIONS:
        raise InputError(f"batch normalisation by triton takes fp32, bf16 or fp16, not {x.dtype}")
    if any(v.dtype != torch.float32 or v.shape != x.shape[1:2] for v in vectors) or not all(
        v.is_contiguous() for v in vectors
    ):
        raise InputError(
            "batch normalisation by triton takes fp32 parameters and running statistics of "
            f"{x.shape[1]} channels"
        )
    if training and count_rows(x) < 2:
        raise InputError("batch normalisation in training needs more than one value a channel")
    if residual is None:
        return
    if residual.shape != x.shape or residual.dtype != x.dtype or x.shape[1] % 8:
        raise InputError(
            "adding a residual by triton takes x and a residual alike, of 8 channels or a "
            f"multiple: not {tuple(x.shape)} {x.dtype} and {tuple(residual.shape)} "
            f"{residual.dtype}"
        )
    if not residual.is_contiguous(memory_format=torch.channels_last):
        raise InputError(
            "adding a residual by triton takes a residual with channels_last strides, not "
            f"{residual.stride()}"
        )


def check_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    """Refuse a gradient that the kernels would read wrongly."""
    if gradient.dtype != x.dtype or not gradient.is_contiguous(memory_format=torch.channels_last):
        raise InputError(
            "batch normalisation by triton got a gradient of another layout than its output: "
            f"{gradient.dtype}, strides {gradient.stride()}, for {x.dtype} with channels_last "
            "strides; the operation behind it has to keep them"
        )
    return gradient


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
    """As harness.ops.batch_norm, for channels_last strides; raises InputError for others."""
    check(x, None, [weight, bias, running_mean, running_var], training)
    y: Tensor = _BatchNorm.apply(  # type: ignore[no-untyped-call]
        x, weight, bias, running_mean, running_var, training, momentum, eps, False
    )
    return y


def batch_norm_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """As harness.ops.batch_norm_relu, for channels_last strides; raises InputError for others."""
    check(x, None, [weight, bias, running_mean, running_var], training)
    y: Tensor = _BatchNorm.apply(  # type: ignore[no-untyped-call]
        x, weight, bias, running_mean, running_var, training, momentum, eps, True
    )
    return y


def batch_norm_add_relu(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """As harness.ops.batch_norm_add_relu, for channels_last strides and C a multiple of 8.

    The two results are one tensor; a gradient of each is added in the first pass of backward.
    Raises InputError for other layouts.
    """
    check(x, residual, [weight, bias, running_mean, running_var], training)
    keep_mask = torch.is_grad_enabled() and any(
        tensor.requires_grad for tensor in (x, residual, weight, bias)
    )
    y: tuple[Tensor, Tensor] = _BatchNormAddReLU.apply(  # type: ignore[no-untyped-call]
        x, residual, weight, bias, running_mean, running_var, training, momentum, eps, keep_mask
    )
    return y
