"""Batch normalisation, ReLU and max pooling by our own kernels: two passes each way.

Three launches forward in training (statistics, merge, apply), one in evaluation, three backward.
What is between normalisation and pooling is never written. In elements of x, with a quarter of an
element for one of the result and an eighth of one for which value it was: forward reads 2, writes
3/8; backward reads 2 and twice 3/8, writes 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.ops import batch_norm_launches as launches
from harness.ops import batch_norm_pool_kernels as kernels
from harness.ops.batch_norm_one_by_one import compose_pool
from harness.ops.batch_norm_triton import (
    batch_norm_relu,
    check,
    check_gradient,
    count_rows,
    find_statistics,
    invert,
)
from harness.ops.kernels import register_operation

LAST = torch.channels_last
# Half of the other passes': a thread has the addresses of several windows in its registers.
POOL_TILE_BYTES = 2048


def _count_sides(x: Tensor) -> tuple[int, int, int, int]:
    """Height and width of x, and of the result."""
    height, width = x.shape[2:]
    return height, width, (height + 1) // 2, (width + 1) // 2


def _apply(
    x: Tensor,
    mean: Tensor,
    spread: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    is_variance: bool,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    sides = _count_sides(x)
    shape = (*x.shape[:2], *sides[2:])
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=LAST)
    kept = shape if keep else (1, 1, 1, 1)
    taken = torch.empty(kept, dtype=torch.uint8, device=x.device, memory_format=LAST)
    constants = {"is_variance": is_variance, "keep": keep}
    kernel = kernels.apply_pool_kernel
    launch, tiles = launches.plan_apply(kernel, y, constants, POOL_TILE_BYTES)
    vectors = (mean, spread, weight, bias)
    launch(x, y, taken, *vectors, *sides, count_rows(y), x.shape[1], tiles, eps)
    return y, taken


def _reduce(gradient: Tensor, taken: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    kernel = kernels.reduce_pool_kernel
    launch, parts = launches.plan_reduction(kernel, gradient, POOL_TILE_BYTES, {})
    sums, products = (
        torch.empty(parts, x.shape[1], dtype=torch.float32, device=x.device) for _ in range(2)
    )
    sizes = (*_count_sides(x), count_rows(gradient), x.shape[1])
    launch(gradient, taken, x, mean, sums, products, *sizes)
    return sums, products


def _input_gradient(
    gradient: Tensor,
    taken: Tensor,
    x: Tensor,
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor,
    slope: Tensor,
    offset: Tensor,
) -> Tensor:
    made = torch.empty_like(x)
    kernel = kernels.input_gradient_pool_kernel
    launch, tiles = launches.plan_apply(kernel, gradient, {}, POOL_TILE_BYTES)
    vectors = (mean, inverse, weight, slope, offset)
    sizes = (*_count_sides(x), count_rows(gradient), x.shape[1], tiles)
    launch(gradient, taken, x, made, *vectors, *sizes)
    return made


apply = register_operation(
    "batch_norm_apply_pool(Tensor x, Tensor mean, Tensor spread, Tensor weight, Tensor bias, "
    "float eps, bool is_variance, bool keep) -> (Tensor, Tensor)",
    _apply,
)
reduce = register_operation(
    "batch_norm_reduce_pool(Tensor gradient, Tensor taken, Tensor x, Tensor mean) -> "
    "(Tensor, Tensor)",
    _reduce,
)
input_gradient = register_operation(
    "batch_norm_input_gradient_pool(Tensor gradient, Tensor taken, Tensor x, Tensor mean, "
    "Tensor inverse, Tensor weight, Tensor slope, Tensor offset) -> Tensor",
    _input_gradient,
)


class _BatchNormMaxPool(torch.autograd.Function):
    """Normalisation, ReLU and pooling."""

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
        keep: bool,
    ) -> Tensor:
        mean, spread = find_statistics(x, (running_mean, running_var), training, momentum, eps)
        y, taken = apply(x, mean, spread, weight, bias, eps, not training, keep)
        ctx.save_for_backward(x, taken, weight, mean, spread)
        ctx.training, ctx.eps = training, eps
        return y  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, taken, weight, mean, spread = ctx.saved_tensors
        inverse = invert(spread, ctx)
        gradient = check_gradient(gradients[0], x)
        sums, products = reduce(gradient, taken, x, mean)
        weight_gradient, bias_gradient, slope, offset = launches.finalize_backward(
            sums, products, inverse, weight, count_rows(x), ctx.training
        )
        made = input_gradient(gradient, taken, x, mean, inverse, weight, slope, offset)
        return (made, weight_gradient, bias_gradient, *[None] * 6)


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
    """As harness.ops.batch_norm_relu_max_pool, for channels_last strides.

    Raises InputError for others.
    """
    check(x, None, [weight, bias, running_mean, running_var], training)
    keep = torch.is_grad_enabled() and any(one.requires_grad for one in (x, weight, bias))
    y: Tensor = _BatchNormMaxPool.apply(  # type: ignore[no-untyped-call]
        x, weight, bias, running_mean, running_var, training, momentum, eps, keep
    )
    return y


# The same by the kernels of normalisation and ReLU.
batch_norm_relu_then_max_pool = compose_pool(batch_norm_relu)
